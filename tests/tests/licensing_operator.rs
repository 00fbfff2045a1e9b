//! docs/examples/licensing.yaml with the operator on a real API server: two rehearsal hosts from nothing to "Licensed", the
//! facts in the Redis that the replicas share, a restart of the operator between steps, a wrong password, `kmsctl dlv NAME`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::events::v1::Event;
use kms_host::ledger::{LedgerKey, Millis};
use kms_operator::api::OfficeKmsHost;
use kms_operator::api::status::LicensedHostStatus;
use kms_operator::licensing::cluster::SecretStore;
use kms_operator::licensing::journal::{self, Kind};
use kms_operator::licensing::store::Store as _;
use kms_operator::secrets::secret_data;
use kube::Api;
use kube::api::ListParams;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::Operator;
use system_tests::redis::RedisServer;
use system_tests::rehearsal::{Manifest, Rehearsal};
use system_tests::replica::Replica;
use system_tests::{http, peer, redis};

fn missing(test: &str) -> bool {
    let why = ControlPlane::missing().or_else(redis::missing);
    if let Some(why) = &why {
        peer::skipped(test, why);
    }
    why.is_some()
}

/// The resource in front with management where the rehearsal hosts are, and its ledger in a Redis.
fn front(manifest: &Manifest, hosts: &[(&str, &Rehearsal)], redis: &RedisServer) -> Result<Value> {
    let mut host = manifest.hosts.get("kms").context("a resource")?.clone();
    for licensed in host.spec.licensed_hosts.iter_mut().flatten() {
        let (_, at) = hosts
            .iter()
            .find(|(name, _)| *name == licensed.name)
            .context("a host")?;
        let management = licensed.management.as_mut().context("management")?;
        management.address = Some(at.management.ip().to_string());
        management.port = Some(at.management.port().into());
        management.interval_seconds = 30;
    }
    host.spec.dns = None;
    let mut value = serde_json::to_value(&host)?;
    let put = |value: &mut Value, path: &str, key: &str, new: Value| -> Result<()> {
        let object = value
            .pointer_mut(path)
            .and_then(Value::as_object_mut)
            .context("an object")?;
        object.insert(key.to_owned(), new);
        Ok(())
    };
    put(
        &mut value,
        "/spec",
        "ledger",
        json!({"redis": {"addresses": [redis.address()]}}),
    )?;
    put(&mut value, "/metadata", "namespace", json!("default"))?;
    Ok(value)
}

fn secret(name: &str, data: &BTreeMap<String, String>) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "default"}, "stringData": data})
}

fn reason(host: &OfficeKmsHost, kind: &str) -> Option<(String, String)> {
    let conditions = &host.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone()))
}

fn rows(host: &OfficeKmsHost) -> Vec<LicensedHostStatus> {
    host.status
        .as_ref()
        .map(|status| status.licensed_hosts.clone())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_brings_two_hosts_to_licensed_through_a_restart_of_the_operator() -> Result<()> {
    if missing("a_manifest_brings_two_hosts_to_licensed_through_a_restart_of_the_operator") {
        return Ok(());
    }
    let manifest = Manifest::read()?;
    let (first, second) = (
        Rehearsal::start(&manifest, "kms01")?,
        Rehearsal::start(&manifest, "kms02")?,
    );
    let redis = RedisServer::start(&[])?;
    let cluster = ControlPlane::start().await?;
    let operator = Operator::start(&cluster).await?;
    let client = cluster.client()?;
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(client.clone());
    let data = |name: &str| {
        manifest
            .secrets
            .get(name)
            .and_then(|secret| secret.string_data.clone())
            .unwrap_or_default()
    };

    // First without its Secrets, which come late and are then found.
    let resource = front(&manifest, &[("kms01", &first), ("kms02", &second)], &redis)?;
    operator.apply(&resource).await?;
    operator
        .becomes("the missing account is named", async || {
            let host = hosts.get("kms").await?;
            let rows = rows(&host);
            let told = |row: &LicensedHostStatus| {
                row.message
                    .as_ref()
                    .is_some_and(|message| message.contains("management.credentialsSecret"))
            };
            Ok(rows.len() == 2 && rows.iter().all(told))
        })
        .await?;
    for name in ["kms-account", "kms-host-keys"] {
        operator.apply(&secret(name, &data(name))).await?;
    }
    let shows_ids = async || {
        let rows = rows(&hosts.get("kms").await?);
        let shown = |row: &LicensedHostStatus| row.products.iter().any(|product| product.installation_id.is_some());
        Ok(rows.len() == 2 && rows.iter().all(shown))
    };
    operator
        .becomes("both hosts have their keys and show installation IDs", shows_ids)
        .await?;

    // The operator ends while it deposits a confirmation ID at the first host, and nobody saw whether it arrived.
    operator.stop().await?;
    let host = hosts.get("kms").await?;
    let shown = rows(&host)
        .into_iter()
        .find(|row| row.name == "kms01")
        .and_then(|row| row.products.into_iter().find_map(|product| product.installation_id))
        .context("an installation ID")?;
    let value = |secret: &str, key: &str| data(secret).remove(key).context("a value");
    let mark = journal::mark(&[
        &value("kms-host-keys", "OfficeLTSC2024")?,
        &shown.replace('-', ""),
        &value("kms-confirmations", "kms01")?,
    ]);
    let begun = async |at: i64| -> Result<()> {
        let store = SecretStore::new(client.clone(), &host);
        let mut memory = store.load().await?;
        let entry = memory
            .journal
            .attempts
            .entry("kms01/OfficeLTSC2024".to_owned())
            .or_default();
        entry.retain(|attempt| attempt.kind != Kind::Confirm);
        memory
            .journal
            .begin("kms01", "OfficeLTSC2024", Kind::Confirm, &mark, at);
        store.save(&memory).await
    };
    let now = || jiff::Timestamp::now().as_millisecond();
    begun(now()).await?;
    let operator = Operator::start(&cluster).await?;
    operator
        .apply(&secret("kms-confirmations", &data("kms-confirmations")))
        .await?;
    operator
        .becomes("the second host is licensed, the first is given time", async || {
            let rows = rows(&hosts.get("kms").await?);
            let settling = |row: &LicensedHostStatus| {
                row.message
                    .as_ref()
                    .is_some_and(|message| message.contains("is given ten minutes to show it"))
            };
            let second = rows.iter().any(|row| row.name == "kms02" && row.licensed == Some(true));
            Ok(second && rows.iter().any(|row| row.name == "kms01" && settling(row)))
        })
        .await?;

    // Ten minutes later the host does not show it: it is done once more.
    operator.stop().await?;
    begun(now() - 601_000).await?;
    let operator = Operator::start(&cluster).await?;
    operator
        .becomes("both hosts are licensed", async || {
            let host = hosts.get("kms").await?;
            Ok(
                reason(&host, "HostsLicensed") == Some(("True".to_owned(), "Licensed".to_owned()))
                    && rows(&host).iter().all(|row| row.licensed == Some(true)),
            )
        })
        .await?;

    for number in 1..=5 {
        first.client(number).await?;
    }
    operator
        .becomes("the count reaches the threshold", async || {
            let host = hosts.get("kms").await?;
            let counts = host.status.as_ref().and_then(|status| status.counts.clone());
            Ok(
                reason(&host, "ThresholdMet").is_some_and(|(status, _)| status == "True")
                    && counts.is_some_and(|counts| counts.current == 5),
            )
        })
        .await?;

    // What the replicas' routing reads.
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let keys = secret_data(secrets.get("kms-keys").await?);
    let folder = tempfile::tempdir()?;
    let key_file = folder.path().join("ledger.key");
    std::fs::write(
        &key_file,
        keys.get("ledger-key").context("a ledger key")?.expose_secret(),
    )?;
    LedgerKey::read(&key_file)?;
    let text = format!(
        "{{keyFile: {}, redis: {{addresses: ['{}'], keyPrefix: 'okms:{{default/kms}}:'}}}}",
        key_file.display(),
        redis.address()
    );
    let ledger = kms_host::ledger::open(&serde_saphyr::from_str(&text)?)?.ledger;
    operator
        .becomes("the ledger has the facts and the events", async || {
            let routes = ledger
                .routes(Millis(0), Millis(jiff::Timestamp::now().as_millisecond()))
                .await?;
            let known: BTreeMap<_, _> = routes.facts.into_iter().collect();
            let told = ledger.recent_events(100).await?.len();
            Ok(known
                .get("kms01")
                .is_some_and(|fact| fact.current_count == Some(5) && fact.licensed == Some(true))
                && told >= 5)
        })
        .await?;

    // And so a relay on the same ledger knows that the first host is warm.
    let relay = Replica::start(&format!(
        "name: relay\nrelay: {{licensedHosts: [{{name: kms01, address: {}, port: {}}}, {{name: kms02, address: {}, port: {}}}]}}\n\
         ledger: {text}\nrouting: {{refreshInterval: 100ms}}\n",
        first.clients.ip(),
        first.clients.port(),
        second.clients.ip(),
        second.clients.port(),
    ))?;
    relay
        .status_becomes("the first host counts five, as it said itself", |status| {
            let host = &status["routing"]["hosts"][0];
            host["name"] == "kms01"
                && host["count"] == 5
                && host["countFrom"] == "reported"
                && host["state"] == "active"
        })
        .await?;

    // Each step was done once, whatever restarted, and no secret was told.
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let told = events.list(&ListParams::default()).await?.items;
    for (step, times) in [("KeyInstalled", 4), ("Activated", 2), ("Confirmed", 2)] {
        let all = told.iter().filter(|event| event.reason.as_deref() == Some(step));
        let count: i32 = all
            .map(|event| event.series.as_ref().map_or(1, |series| series.count))
            .sum();
        assert_eq!(count, times, "{step}");
    }
    let (_, metrics) = http::get(operator.endpoint, "/metrics").await?;
    let count = "okms_operator_licensed_host_count{namespace=\"default\",name=\"kms\",host=\"kms01\",product=\"OfficeLTSC2024\"} 5";
    assert!(metrics.contains(count), "{metrics}");
    let said = format!(
        "{}{}{metrics}",
        serde_json::to_string(&told)?,
        serde_json::to_string(&hosts.get("kms").await?.status)?
    );
    for name in ["kms-host-keys", "kms-confirmations", "kms-account"] {
        for (key, value) in data(name).iter().filter(|(key, _)| *key != "username") {
            assert!(!said.contains(value), "{name}/{key} is told");
        }
    }

    // kmsctl dlv kms
    let fleet = kmsctl::fleet::members_in(&client, "default", "kms", None, Duration::from_secs(30)).await?;
    assert_eq!(fleet.by_phone, ["OfficeLTSC2024"]);
    let members = fleet.members;
    assert_eq!(members.len(), 2);
    let licences = kmsctl::dlv::read(&members[0].client, &[]).await?;
    let lines: Vec<String> = licences
        .iter()
        .flat_map(|licence| licence.lines(&jiff::tz::TimeZone::UTC))
        .collect();
    assert!(lines.iter().any(|line| line.trim() == "Current count: 5"), "{lines:#?}");

    // A password that somebody changes: one refusal, then nothing until the Secret is right.
    let mut wrong = data("kms-account");
    wrong.insert("password".to_owned(), "wrong".to_owned());
    operator.apply(&secret("kms-account", &wrong)).await?;
    operator
        .becomes("the refusal is told", async || {
            Ok(reason(&hosts.get("kms").await?, "HostsLicensed").is_some_and(|(_, reason)| reason == "AccessDenied"))
        })
        .await?;
    let host = hosts.get("kms").await?;
    let memory = SecretStore::new(client.clone(), &host).load().await?;
    assert!(
        memory.patience.values().all(|patience| patience.failures <= 1),
        "{memory:?}"
    );
    operator.apply(&secret("kms-account", &data("kms-account"))).await?;
    operator
        .becomes("the right one is tried at once", async || {
            Ok(reason(&hosts.get("kms").await?, "HostsLicensed").is_some_and(|(status, _)| status == "True"))
        })
        .await?;
    operator.stop().await
}
