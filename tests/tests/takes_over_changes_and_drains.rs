//! A replica takes over a changed configuration without a restart, and ends without an error for any client.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use kms_host::config::LOOK_EVERY;
use kms_host::rpc::{ConnectOptions, Connection, DataRepresentation, Reply};
use kms_host::serve::Drained;
use rustix::process::{Signal, getpid, kill_process};
use system_tests::http;
use system_tests::replica::{Replica, eventually, with_ports};
use system_tests::stand_in::{Does, StandIn};
use tokio::net::TcpStream;
use tracing_subscriber::util::SubscriberInitExt as _;

async fn ask(replica: &Replica) -> Result<Vec<u8>> {
    let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    match connection
        .call(0, DataRepresentation::LITTLE_ENDIAN, b"request")
        .await?
    {
        Reply::Stub(stub, _) => Ok(stub.to_vec()),
        Reply::Fault(status) => anyhow::bail!("a fault: {status}"),
    }
}

#[tokio::test]
async fn changed_hosts_and_networks_are_taken_over_and_bad_content_is_not() -> Result<()> {
    let (one, two) = (
        StandIn::start(Does::Answers(b"one!".to_vec()))?,
        StandIn::start(Does::Answers(b"two!".to_vec()))?,
    );
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.yaml");
    let write = |hosts: &str, more: &str| {
        fs::write(
            &file,
            with_ports(&format!(
                "routing: {{policy: preference}}\nrelay: {{licensedHosts: [{hosts}]}}\n{more}"
            )),
        )
    };
    write(&one.item("one"), "")?;
    let replica = Replica::start_from(&file)?;
    assert_eq!(ask(&replica).await?, b"one!");

    write(&format!("{}, {}", two.item("two"), one.item("one")), "")?;
    eventually("the new host is used", async || {
        ask(&replica).await.is_ok_and(|stub| stub == b"two!")
    })
    .await?;
    assert_eq!(replica.metric("okms_config_generation").await?, 2.0);

    write("{name: two, adress: 127.0.0.1}", "")?;
    replica
        .status_becomes("the mistake is shown", |status| {
            status["config"]["lastReload"]["applied"] == false
        })
        .await?;
    let status = replica.status().await?;
    let error = status["config"]["lastReload"]["error"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(error.contains("config.yaml:4:") && error.contains("adress"), "{error}");
    assert_eq!(status["config"]["generation"], 2);
    assert_eq!(replica.metric("okms_config_good").await?, 0.0);
    assert_eq!(ask(&replica).await?, b"two!", "the configuration before stays in use");

    write(
        &one.item("one"),
        "clients: {deny: [127.0.0.1/32]}\ndrainGracePeriod: 1s\nname: other\n",
    )?;
    eventually("the client is denied now", async || ask(&replica).await.is_err()).await?;
    replica
        .metric_reaches("okms_refusals_total{reason=\"denied\"}", 1.0)
        .await?;
    let status = replica.status().await?;
    assert_eq!(
        status["config"]["needsRestart"],
        serde_json::json!(["name"]),
        "{status}"
    );
    assert_eq!(status["licensedHosts"].as_array().map(Vec::len), Some(1));
    let (_, metrics) = http::get(replica.admin, "/metrics").await?;
    assert!(
        !metrics.contains("host=\"two\""),
        "metrics of a host that is gone are gone"
    );
    Ok(())
}

/// What is logged on a test's thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn has(&self, text: &str) -> bool {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).contains(text)
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn who_sends_a_hangup_is_told_that_the_file_is_unchanged() -> Result<()> {
    let log = Log::default();
    let writer = log.clone();
    // All of it runs on this thread.
    let _logging = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish()
        .set_default();
    let host = StandIn::start(Does::Answers(b"fine".to_vec()))?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.yaml");
    fs::write(
        &file,
        with_ports(&format!("relay: {{licensedHosts: [{}]}}\n", host.item("a"))),
    )?;
    let replica = Replica::start_from(&file)?;
    let told = format!("configuration file is unchanged file={}", file.display());
    // Once it answers, it waits for signals, too. Other replicas in this process look at their files as well.
    replica.status().await?;
    tokio::time::sleep(2 * LOOK_EVERY).await;
    assert!(!log.has("is unchanged"), "nobody asked");
    kill_process(getpid(), Signal::HUP)?;
    eventually("it is told", async || log.has(&told)).await
}

#[tokio::test]
async fn what_waits_for_a_restart_is_shown_until_then_whatever_else_changes() -> Result<()> {
    let host = StandIn::start(Does::Answers(b"fine".to_vec()))?;
    let directory = tempfile::tempdir()?;
    let (file, key_file) = (
        directory.path().join("config.yaml"),
        directory.path().join("ledger.key"),
    );
    let write = |ledger: &str, grace: u32| {
        let hosts = host.item("a");
        fs::write(
            &file,
            with_ports(&format!(
                "relay: {{licensedHosts: [{hosts}]}}\nledger: {ledger}\ndrainGracePeriod: {grace}s\n"
            )),
        )
    };
    let other = format!("{{memory: {{}}, keyFile: '{}'}}", key_file.display());
    write("{memory: {}}", 1)?;
    let replica = Replica::start_from(&file)?;
    let shows = async |generation: u32, fields: &[&str]| {
        replica
            .status_becomes("the change is in use", |status| {
                status["config"]["generation"] == generation
            })
            .await?;
        let status = replica.status().await?;
        let shown = status["config"]["needsRestart"].as_array().cloned().unwrap_or_default();
        assert_eq!(shown, fields, "{status}");
        anyhow::Ok(())
    };
    write(&other, 1)?;
    shows(2, &["ledger"]).await?;
    write(&other, 2)?;
    shows(3, &["ledger"]).await?;
    write("{memory: {}}", 2)?;
    shows(4, &[]).await
}

#[tokio::test]
async fn an_ejected_host_stays_ejected_when_it_is_only_called_in_another_way() -> Result<()> {
    let (closes, answers) = (
        StandIn::start(Does::Closes)?,
        StandIn::start(Does::Answers(b"fine".to_vec()))?,
    );
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("config.yaml");
    let write = |host: &StandIn, eject_after: u32, more: &str| {
        let health = format!("{{ejectAfter: {eject_after}, ejectFor: 600s, ejectForAtMost: 600s, probeInterval: 0s}}");
        let hosts = host.item("a");
        fs::write(
            &file,
            with_ports(&format!(
                "relay: {{licensedHosts: [{hosts}], health: {health}{more}}}\n"
            )),
        )
    };
    write(&closes, 1, "")?;
    let replica = Replica::start_from(&file)?;
    assert!(ask(&replica).await.is_err(), "the host closes");
    let up = "okms_licensed_host_up{host=\"a\"}";
    let in_use = async |generation: u32| {
        replica
            .status_becomes("the change is in use", |status| {
                status["config"]["generation"] == generation
            })
            .await
    };
    for (generation, eject_after, more) in [
        (2, 1, ", timeouts: {call: 4s}"),
        (3, 1, ", timeouts: {call: 4s}, pool: {maxConnections: 4}"),
        (4, 2, ""),
    ] {
        write(&closes, eject_after, more)?;
        in_use(generation).await?;
        let status = replica.status().await?;
        let host = &status["licensedHosts"][0];
        let shown = serde_json::json!([host["health"], host["failures"], host["failed"]]);
        assert_eq!(shown, serde_json::json!(["ejected", 1, 1]), "{status}");
        assert!(host["lastFailure"]["error"].is_string(), "{status}");
        assert_eq!(replica.metric(up).await?, 0.0, "{more}");
        assert!(ask(&replica).await.is_err(), "no host is eligible");
    }
    assert_eq!(closes.calls().len(), 1, "an ejected host is not asked");

    // Another address is another host, whatever its name.
    write(&answers, 2, "")?;
    in_use(5).await?;
    assert_eq!(replica.metric(up).await?, 1.0);
    assert_eq!(ask(&replica).await?, b"fine");
    Ok(())
}

#[tokio::test]
async fn a_drain_finishes_requests_in_flight_closes_idle_connections_and_turns_readiness_off() -> Result<()> {
    let host = StandIn::start(Does::Answers(b"fast".to_vec()))?;
    let yaml = format!("relay: {{licensedHosts: [{}]}}\n", host.item("a"));
    let replica = Replica::start(&yaml)?;
    assert!(http::get(replica.admin, "/readyz").await?.0.starts_with("HTTP/1.1 200"));
    let mut idle = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    idle.call(0, DataRepresentation::LITTLE_ENDIAN, b"request").await?;

    host.now(Does::AnswersAfter(Duration::from_millis(1500), b"slow".to_vec()));
    let mut in_flight = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    let mut connected = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    let slow = tokio::spawn(async move { in_flight.call(0, DataRepresentation::LITTLE_ENDIAN, b"request").await });
    eventually("the request is at the host", async || host.calls().len() == 2).await?;
    replica.tell_to_stop();

    eventually("readiness is off", async || {
        http::get(replica.admin, "/readyz")
            .await
            .is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 503"))
    })
    .await?;
    assert!(
        http::get(replica.admin, "/healthz")
            .await?
            .0
            .starts_with("HTTP/1.1 200"),
        "still alive"
    );
    eventually("nothing is accepted", async || {
        TcpStream::connect(replica.address).await.is_err()
    })
    .await?;
    eventually("idle connections are closed", async || !idle.is_usable()).await?;
    host.now(Does::Answers(b"last".to_vec()));
    let last = connected.call(0, DataRepresentation::LITTLE_ENDIAN, b"request").await?;
    assert!(
        matches!(last, Reply::Stub(stub, _) if stub == b"last"[..]),
        "a client that had connected is served"
    );
    assert!(matches!(slow.await??, Reply::Stub(stub, _) if stub == b"slow"[..]));
    assert_eq!(replica.ended().await?, Drained::Finished);
    Ok(())
}

#[tokio::test]
async fn a_drain_does_not_wait_longer_than_its_grace_period() -> Result<()> {
    let host = StandIn::start(Does::Hangs)?;
    let yaml = format!(
        "relay: {{licensedHosts: [{}], timeouts: {{call: 60s}}}}\ndrainGracePeriod: 300ms\n",
        host.item("a")
    );
    let replica = Replica::start(&(yaml + "clients: {limits: {requestTimeout: 60s}}\n"))?;
    let mut in_flight = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    let call = tokio::spawn(async move { in_flight.call(0, DataRepresentation::LITTLE_ENDIAN, b"request").await });
    eventually("the request is at the host", async || host.calls().len() == 1).await?;
    replica.tell_to_stop();
    assert_eq!(replica.ended().await?, Drained::Cut(1));
    assert!(call.await?.is_err(), "cut");
    Ok(())
}
