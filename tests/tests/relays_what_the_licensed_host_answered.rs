//! The relay answers with what a licensed host answered, asks another only if none has answered, and never two at once.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::BytesMut;
use kms_host::rpc::{
    Answer, Association, ByteOrder, Call, ConnectOptions, Connection, DataRepresentation, FaultStatus, Interface,
    Limits, Offer, Proposal, Reply, TransferSyntax, stub,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use system_tests::forwarder::Forwarder;
use system_tests::replica::{Replica, eventually};
use system_tests::stand_in::{Does, StandIn, item};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use uuid::Uuid;

fn relay_to(hosts: &[(&str, &StandIn)], more: &str) -> String {
    let hosts: Vec<String> = hosts.iter().map(|(name, host)| host.item(name)).collect();
    // In the configured order, so that each test knows who is asked first.
    format!(
        "routing: {{policy: preference}}\nrelay:\n  licensedHosts: [{}]\n{more}",
        hosts.join(", ")
    )
}

async fn connect(replica: &Replica, syntax: TransferSyntax) -> Result<Connection> {
    let options = ConnectOptions {
        proposal: Proposal::one(Interface::KMS, syntax),
        ..ConnectOptions::default()
    };
    Ok(Connection::connect(replica.address, &options).await?)
}

/// One new connection, one call.
async fn ask(replica: &Replica, stub: &[u8]) -> Result<Reply> {
    let mut connection = connect(replica, TransferSyntax::Ndr).await?;
    Ok(connection.call(0, DataRepresentation::LITTLE_ENDIAN, stub).await?)
}

fn answered(reply: Reply) -> Result<Vec<u8>> {
    match reply {
        Reply::Stub(stub, _) => Ok(stub.to_vec()),
        Reply::Fault(status) => anyhow::bail!("a fault: {status}"),
    }
}

#[tokio::test]
async fn the_stubs_are_carried_byte_for_byte_in_both_syntaxes_and_byte_orders() -> Result<()> {
    let host = StandIn::start(Does::Answers(Vec::new()))?;
    let replica = Replica::start(&relay_to(&[("a", &host)], ""))?;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut count = 0;
    for syntax in [TransferSyntax::Ndr, TransferSyntax::Ndr64] {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let mut connection = connect(&replica, syntax).await?;
            for _ in 0..40 {
                let stubs = (
                    prop::collection::vec(any::<u8>(), 1..4000),
                    prop::collection::vec(any::<u8>(), 1..20000),
                );
                let (request, response) = stubs.new_tree(&mut runner).map_err(anyhow::Error::msg)?.current();
                host.now(Does::Answers(response.clone()));
                let reply = connection.call(0, DataRepresentation::of(order), &request).await?;
                assert_eq!(answered(reply)?, response);
                let calls = host.calls();
                count += 1;
                assert_eq!(calls.len(), count, "each request was sent once");
                let call = calls.last().context("a call")?;
                assert_eq!(
                    (&call.stub[..], call.syntax, call.drep),
                    (&request[..], syntax, DataRepresentation::of(order))
                );
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_request_for_an_object_is_carried_with_it() -> Result<()> {
    let host = StandIn::start(Does::Answers(b"one!".to_vec()))?;
    let replica = Replica::start(&relay_to(&[("a", &host)], ""))?;
    let mut connection = connect(&replica, TransferSyntax::Ndr).await?;
    let objects = [Some(Uuid::from_u128(0x1234)), None];
    for object in objects {
        let call = Call {
            call_id: 0,
            context_id: 0,
            opnum: 0,
            syntax: TransferSyntax::Ndr,
            drep: DataRepresentation::LITTLE_ENDIAN,
            object,
            stub: b"request".as_slice().into(),
        };
        answered(connection.forward(&call, Duration::from_secs(10)).await?)?;
    }
    let carried: Vec<_> = host.calls().into_iter().map(|call| call.object).collect();
    assert_eq!(carried, objects);
    Ok(())
}

#[tokio::test]
async fn a_host_that_dies_before_its_answer_is_replaced_by_the_next_without_an_error_for_the_client() -> Result<()> {
    let (first, second) = (
        StandIn::start(Does::Closes)?,
        StandIn::start(Does::Answers(b"two!".to_vec()))?,
    );
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], ""))?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!");
    assert_eq!((first.calls().len(), second.calls().len()), (1, 1));
    assert_eq!(replica.metric("okms_relay_retries_total").await?, 1.0);
    assert_eq!(
        replica
            .metric("okms_licensed_host_calls_total{host=\"first\",result=\"broken\"}")
            .await?,
        1.0
    );
    Ok(())
}

#[tokio::test]
async fn a_host_that_is_too_busy_or_silent_or_away_is_replaced_by_the_next() -> Result<()> {
    let (first, second) = (
        StandIn::start(Does::Hangs)?,
        StandIn::start(Does::Answers(b"two!".to_vec()))?,
    );
    let more = "  timeouts: {connect: 500ms, call: 300ms}\n  health: {ejectAfter: 100, probeInterval: 0s}\n";
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], more))?;
    assert_eq!(
        answered(ask(&replica, b"request").await?)?,
        b"two!",
        "the first is silent"
    );
    for busy in [
        FaultStatus::SERVER_TOO_BUSY,
        FaultStatus::WIN32_SERVER_TOO_BUSY,
        FaultStatus::WIN32_SERVER_UNAVAILABLE,
        FaultStatus::REMOTE_NO_MEMORY,
        FaultStatus::WIN32_SHUTDOWN_IN_PROGRESS,
        FaultStatus::WIN32_OUT_OF_RESOURCES,
        FaultStatus::WIN32_CALL_FAILED,
        FaultStatus::WIN32_CALL_FAILED_DNE,
        FaultStatus::UNKNOWN_IF,
        FaultStatus::PROTO_ERROR,
        FaultStatus::WIN32_UNKNOWN_IF,
    ] {
        first.now(Does::Faults(busy));
        assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!", "{busy}");
    }
    drop(first);
    assert_eq!(
        answered(ask(&replica, b"request").await?)?,
        b"two!",
        "the first is away"
    );
    Ok(())
}

#[tokio::test]
async fn a_return_code_and_a_fault_about_the_request_are_answers_and_no_second_host_is_asked() -> Result<()> {
    let refusal = stub::encode_response(TransferSyntax::Ndr, ByteOrder::Little, None, 0xC004_F042).to_vec();
    let (first, second) = (
        StandIn::start(Does::Answers(refusal.clone()))?,
        StandIn::start(Does::Closes)?,
    );
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], ""))?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, refusal);
    first.now(Does::Faults(FaultStatus::BAD_STUB_DATA));
    assert!(matches!(
        ask(&replica, b"request").await?,
        Reply::Fault(FaultStatus::BAD_STUB_DATA)
    ));
    assert_eq!((first.calls().len(), second.calls().len()), (2, 0));
    assert_eq!(replica.metric("okms_answers_total{code=\"0xC004F042\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_the_host_closed_meanwhile_is_no_failure() -> Result<()> {
    let host = StandIn::start(Does::Answers(b"one!".to_vec()))?;
    let more = "  health: {ejectAfter: 1, probeInterval: 0s}\n";
    let replica = Replica::start(&relay_to(&[("host", &host)], more))?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"one!");
    // The host restarts: its connections are closed, its port is the same.
    let address = host.address;
    drop(host);
    let restarted = restart(address).await?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"one!");
    assert_eq!(restarted.calls().len(), 1);
    assert_eq!(replica.metric("okms_licensed_host_up{host=\"host\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn connections_that_a_firewall_forgot_cost_one_request_and_not_one_each() -> Result<()> {
    let host = StandIn::start(Does::AnswersAfter(Duration::from_millis(300), b"one!".to_vec()))?;
    let between = Forwarder::start(host.address).await?;
    let more = "  timeouts: {call: 2s}\n  health: {ejectAfter: 100, probeInterval: 0s}\n";
    let hosts = item("host", between.address);
    let replica = Replica::start(&format!("relay:\n  licensedHosts: [{hosts}]\n{more}"))?;
    let at_once = (0..8).map(|_| async { ask(&replica, b"request").await.and_then(answered) });
    futures::future::try_join_all(at_once).await?;
    let status = replica.status().await?;
    assert!(
        status["licensedHosts"][0]["idleConnections"].as_u64() > Some(1),
        "{status}"
    );
    between.forget();
    host.now(Does::Answers(b"one!".to_vec()));
    assert!(ask(&replica, b"request").await.is_err(), "nobody can know yet");
    for _ in 0..8 {
        assert_eq!(answered(ask(&replica, b"request").await?)?, b"one!");
    }
    Ok(())
}

#[tokio::test]
async fn a_kept_connection_that_the_host_wants_closed_is_no_failure() -> Result<()> {
    /// A shutdown PDU (C706 12.6.4.11).
    const SHUTDOWN: [u8; 16] = [5, 0, 17, 3, 0x10, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0];
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let hosts = item("host", listener.local_addr()?);
    // Answers one call on each connection; a second one comes too late.
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await?;
            tokio::spawn(async move {
                let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
                let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
                let mut calls = 0;
                loop {
                    match server.receive(&mut input, &mut output) {
                        Ok(Some(call)) if calls == 0 => {
                            calls += 1;
                            server.answer(&call, Answer::Stub(b"one!".as_slice().into()), &mut output);
                        }
                        Ok(Some(_)) => output.extend_from_slice(&SHUTDOWN),
                        Ok(None) => {}
                        Err(violation) => return Err(violation.into()),
                    }
                    stream.write_all_buf(&mut output).await?;
                    if stream.read_buf(&mut input).await? == 0 {
                        return anyhow::Ok(());
                    }
                }
            });
        }
    };
    let asking = async {
        let more = "  health: {ejectAfter: 1, probeInterval: 0s}\n";
        let replica = Replica::start(&format!("relay:\n  licensedHosts: [{hosts}]\n{more}"))?;
        for _ in 0..3 {
            assert_eq!(answered(ask(&replica, b"request").await?)?, b"one!");
        }
        assert_eq!(replica.metric("okms_licensed_host_up{host=\"host\"}").await?, 1.0);
        anyhow::Ok(())
    };
    tokio::select! {
        result = asking => result,
        served = serving => served,
    }
}

#[tokio::test]
async fn a_host_is_not_blamed_for_the_wait_for_a_connection() -> Result<()> {
    let host = StandIn::start(Does::AnswersAfter(Duration::from_secs(2), b"slow".to_vec()))?;
    let more = "  timeouts: {call: 3s}\n  pool: {maxConnections: 1}\n  health: {ejectAfter: 1, probeInterval: 0s}\n";
    let replica = Replica::start(&relay_to(&[("host", &host)], more))?;
    // The second waits for the first and then has all of its time; the third waits too long.
    let at_once = (0..3).map(|_| async { ask(&replica, b"request").await.and_then(answered) });
    let outcomes = futures::future::join_all(at_once).await;
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        2,
        "{outcomes:?}"
    );
    for (result, calls) in [("answered", 2.0), ("full", 1.0)] {
        let sample = format!("okms_licensed_host_calls_total{{host=\"host\",result=\"{result}\"}}");
        assert_eq!(replica.metric(&sample).await?, calls, "{result}");
    }
    assert_eq!(replica.metric("okms_licensed_host_up{host=\"host\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn a_host_is_not_blamed_for_what_others_left_of_the_clients_time() -> Result<()> {
    let (first, second) = (StandIn::start(Does::Hangs)?, StandIn::start(Does::Hangs)?);
    let third = StandIn::start(Does::AnswersAfter(Duration::from_millis(1300), b"slow".to_vec()))?;
    let more = "  timeouts: {call: 2s}\n  health: {ejectAfter: 1, ejectFor: 60s, probeInterval: 0s}\n\
                clients: {limits: {requestTimeout: 5s}}\n";
    let hosts = [("first", &first), ("second", &second), ("third", &third)];
    let replica = Replica::start(&relay_to(&hosts, more))?;
    assert!(ask(&replica, b"request").await.is_err(), "its time was over");
    assert_eq!(third.calls().len(), 1);
    let status = replica.status().await?;
    let healths: Vec<_> = (0..3).map(|n| &status["licensedHosts"][n]["health"]).collect();
    assert_eq!(healths, ["ejected", "ejected", "well"], "{status}");
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"slow");
    Ok(())
}

#[tokio::test]
async fn a_host_that_binds_but_does_not_answer_stays_out_for_its_time_however_often_it_is_probed() -> Result<()> {
    let (first, second) = (
        StandIn::start(Does::Closes)?,
        StandIn::start(Does::Answers(b"two!".to_vec()))?,
    );
    let more = "  health: {ejectAfter: 1, ejectFor: 60s, probeInterval: 100ms}\n";
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], more))?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!");
    // Each probe of the second comes with one of the first, within a quarter of the interval.
    let probes = second.connections();
    eventually("some probes", async || second.connections() >= probes + 10).await?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!");
    assert_eq!(first.calls().len(), 1, "no trial");
    Ok(())
}

#[tokio::test]
async fn a_host_that_does_not_speak_ndr64_is_reported_with_what_to_do() -> Result<()> {
    let offer = Offer {
        syntaxes: vec![TransferSyntax::Ndr],
        ..Offer::kms()
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let host = StandIn::start_offering(offer, any, Does::Answers(b"one!".to_vec()))?;
    let replica = Replica::start(&relay_to(&[("host", &host)], ""))?;
    let advice = "set relay.interface.syntaxes to [ndr]";
    replica
        .status_becomes(advice, |status| {
            let error = status["licensedHosts"][0]["lastFailure"]["error"].as_str();
            error.is_some_and(|error| error.contains(advice))
        })
        .await?;
    let replica = Replica::start(&relay_to(&[("host", &host)], "  interface: {syntaxes: [ndr]}\n"))?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"one!");
    Ok(())
}

async fn restart(address: std::net::SocketAddr) -> Result<StandIn> {
    let mut started = None;
    eventually("the port is free again", async || {
        started = StandIn::start_at(address, Does::Answers(b"one!".to_vec())).ok();
        started.is_some()
    })
    .await?;
    started.context("started")
}

#[tokio::test]
async fn an_ejected_host_gets_no_request_until_one_trial_proves_it_well() -> Result<()> {
    let (first, second) = (
        StandIn::start(Does::Closes)?,
        StandIn::start(Does::Answers(b"two!".to_vec()))?,
    );
    let more = "  health: {ejectAfter: 3, ejectFor: 1s, probeInterval: 0s}\n";
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], more))?;
    for _ in 0..10 {
        assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!");
    }
    assert_eq!(first.calls().len(), 3, "three failures in a row ejected it");
    assert_eq!(replica.metric("okms_licensed_host_up{host=\"first\"}").await?, 0.0);
    let status = replica.status().await?;
    assert_eq!(status["licensedHosts"][0]["health"], "ejected", "{status}");
    first.now(Does::Answers(b"one!".to_vec()));
    eventually("the trial readmits the first host", async || {
        ask(&replica, b"request")
            .await
            .and_then(answered)
            .is_ok_and(|stub| stub == b"one!")
    })
    .await?;
    assert_eq!(first.calls().len(), 4, "one trial was enough");
    assert_eq!(replica.metric("okms_licensed_host_up{host=\"first\"}").await?, 1.0);
    Ok(())
}

#[tokio::test]
async fn probes_eject_a_host_that_is_away_without_costing_a_client_anything() -> Result<()> {
    let gone = StandIn::start(Does::Closes)?;
    let second = StandIn::start(Does::Answers(b"two!".to_vec()))?;
    let config = relay_to(
        &[("gone", &gone), ("second", &second)],
        "  health: {probeInterval: 100ms, ejectFor: 60s}\n",
    );
    drop(gone);
    let replica = Replica::start(&config)?;
    replica
        .status_becomes("the probes ejected it", |status| {
            status["licensedHosts"][0]["health"] == "ejected"
        })
        .await?;
    assert_eq!(answered(ask(&replica, b"request").await?)?, b"two!");
    assert_eq!(replica.metric("okms_relay_retries_total").await?, 0.0);
    assert_eq!(second.calls().len(), 1, "a probe binds, but calls nothing");
    Ok(())
}

#[tokio::test]
async fn a_probe_readmits_a_host_that_is_back_without_a_client_in_need() -> Result<()> {
    let gone = StandIn::start(Does::Closes)?;
    let (address, item) = (gone.address, gone.item("a"));
    drop(gone);
    let health = "{probeInterval: 100ms, ejectFor: 60s}";
    let replica = Replica::start(&format!("relay: {{licensedHosts: [{item}], health: {health}}}\n"))?;
    replica
        .status_becomes("it is ejected", |status| {
            status["licensedHosts"][0]["health"] == "ejected"
        })
        .await?;
    let back = restart(address).await?;
    replica
        .status_becomes("it is back", |status| status["licensedHosts"][0]["health"] == "well")
        .await?;
    assert_eq!(replica.metric("okms_licensed_host_up{host=\"a\"}").await?, 1.0);
    assert_eq!(back.calls().len(), 0);
    Ok(())
}

#[tokio::test]
async fn without_an_eligible_host_the_connection_is_closed_or_a_fault_is_sent_as_configured() -> Result<()> {
    let gone = StandIn::start(Does::Closes)?;
    let item = gone.item("gone");
    drop(gone);
    for (when, fault) in [
        ("", false),
        ("  whenNoHost: close\n", false),
        ("  whenNoHost: fault\n", true),
    ] {
        let more = "  health: {ejectAfter: 1, ejectFor: 60s, probeInterval: 0s}\n";
        let replica = Replica::start(&format!("relay:\n  licensedHosts: [{item}]\n{more}{when}"))?;
        // The first finds the host away, the second finds it ejected: both get the same.
        for _ in 0..2 {
            let reply = ask(&replica, b"request").await;
            if fault {
                assert!(matches!(reply?, Reply::Fault(FaultStatus::WIN32_SERVER_UNAVAILABLE)));
            } else {
                assert!(reply.is_err(), "closed");
            }
        }
        assert_eq!(replica.metric("okms_relay_no_host_total").await?, 2.0);
    }
    Ok(())
}

#[tokio::test]
async fn many_clients_share_few_connections_and_no_request_is_at_two_hosts() -> Result<()> {
    let answer = || Does::AnswersAfter(Duration::from_millis(20), b"done".to_vec());
    let (first, second) = (StandIn::start(answer())?, StandIn::start(answer())?);
    let more = "  pool: {maxConnections: 4}\n";
    let replica = Replica::start(&relay_to(&[("first", &first), ("second", &second)], more))?;
    let asked = (0..40u8).map(|n| {
        let replica = &replica;
        async move { ask(replica, &[n; 8]).await.and_then(answered) }
    });
    for stub in futures::future::join_all(asked).await {
        assert_eq!(stub?, b"done");
    }
    assert!(first.most_at_once() <= 4, "{} at once", first.most_at_once());
    let mut stubs: Vec<_> = first
        .calls()
        .into_iter()
        .chain(second.calls())
        .map(|call| call.stub)
        .collect();
    stubs.sort();
    stubs.dedup();
    assert_eq!((stubs.len(), first.calls().len() + second.calls().len()), (40, 40));
    Ok(())
}
