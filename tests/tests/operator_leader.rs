//! One operator leads, and one that may not lead any more writes nothing: three stand for election, one is frozen, one is
//! cut off, one is told to stop.

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kms_operator::control::run::Election;
use kms_operator::leader::Timing;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use system_tests::http;
use system_tests::kubernetes::{ControlPlane, MASTERS, Write};
use system_tests::operator::{Operator, OperatorProcess, becomes, cluster};
use system_tests::proxy::Proxy;
use system_tests::story::{NAMESPACE, namespace, resource};

/// A lease that is over soon after its holder is silent.
const SHORT: [&str; 6] = [
    "--lease-seconds",
    "10",
    "--renew-deadline-seconds",
    "5",
    "--lease-retry-seconds",
    "1",
];
/// A lease that outlasts any test: who gets it was given it.
const LONG: [&str; 6] = [
    "--lease-seconds",
    "3600",
    "--renew-deadline-seconds",
    "3000",
    "--lease-retry-seconds",
    "1",
];

/// An operator under a name of its own in the audit log.
fn start(plane: &ControlPlane, name: &str, lease: &[&str]) -> Result<OperatorProcess> {
    let kubeconfig: PathBuf = plane.kubeconfig_of(name, &[MASTERS], plane.address()?)?;
    OperatorProcess::start(&kubeconfig, name, lease)
}

async fn holder(plane: &ControlPlane) -> Result<(String, Timestamp)> {
    let lease = Api::<Lease>::default_namespaced(plane.client()?)
        .get("kms-operator")
        .await?;
    let spec = lease.spec.context("a spec")?;
    Ok((
        spec.holder_identity.unwrap_or_default(),
        spec.acquire_time.context("a time")?.0,
    ))
}

/// Waits until this operator holds the lease, and says since when.
async fn leads(plane: &ControlPlane, name: &str) -> Result<Timestamp> {
    becomes(&format!("{name} leads"), async || {
        Ok(holder(plane).await?.0.starts_with(&format!("{name}_")))
    })
    .await?;
    Ok(holder(plane).await?.1)
}

/// What this user changed, the lease included.
fn changed(plane: &ControlPlane, user: &str) -> Vec<Write> {
    let mut all = plane.audit();
    all.retain(|write| write.user == user && write.took_effect());
    all
}

/// Makes a resource, and waits until `operator` has made its Service.
async fn served(plane: &ControlPlane) -> Result<Api<k8s_openapi::api::core::v1::Service>> {
    let client = plane.client()?;
    namespace(&client, NAMESPACE).await?;
    Api::namespaced(client.clone(), NAMESPACE)
        .create(&PostParams::default(), &resource("kms", json!({}))?)
        .await?;
    let services = Api::namespaced(client, NAMESPACE);
    let there = services.clone();
    becomes("the Service is there", async || {
        Ok(there.get_opt("kms").await?.is_some())
    })
    .await?;
    Ok(services)
}

/// Deletes the Service, and waits until somebody has made it anew.
async fn disturbed(services: &Api<k8s_openapi::api::core::v1::Service>) -> Result<()> {
    services.delete("kms", &DeleteParams::default()).await?;
    becomes("the Service is back", async || {
        Ok(services.get_opt("kms").await?.is_some())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_frozen_wakes_writes_nothing_and_ends() -> Result<()> {
    let Some(plane) = cluster("a_leader_that_was_frozen_wakes_writes_nothing_and_ends").await? else {
        return Ok(());
    };
    let mut first = start(&plane, "first", &SHORT)?;
    leads(&plane, "first").await.with_context(|| first.log())?;
    let second = start(&plane, "second", &SHORT)?;
    becomes("the second stands by", async || second.is_ready().await).await?;
    let services = served(&plane).await?;
    assert!(!changed(&plane, "first").is_empty());

    first.process.signal(Signal::STOP)?;
    let since = leads(&plane, "second").await?;
    // What the first finds in its sockets when it wakes: something to repair.
    disturbed(&services).await?;
    let change = resource("kms", json!({"replicas": 1, "service": {"port": 1689}}))?;
    Api::<kms_operator::api::OfficeKmsHost>::namespaced(plane.client()?, NAMESPACE)
        .patch(
            "kms",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(json!({"spec": change.spec})),
        )
        .await?;

    first.process.signal(Signal::CONT)?;
    let mut ended = None;
    becomes("the first has ended", async || {
        ended = first.process.ended()?;
        Ok(ended.is_some())
    })
    .await?;
    assert_eq!(ended.and_then(|ended| ended.code()), Some(1), "{}", first.log());
    assert!(first.log().contains("could not be kept"), "{}", first.log());
    disturbed(&services).await?;
    let late: Vec<Write> = changed(&plane, "first")
        .into_iter()
        .filter(|write| write.at >= since)
        .collect();
    assert_eq!(late, [], "the second has led since {since}");
    let of_second = changed(&plane, "second");
    assert!(of_second.iter().any(|write| write.uri.contains("/services/kms")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_ends_before_another_leads() -> Result<()> {
    let Some(plane) = cluster("a_leader_that_is_cut_off_ends_before_another_leads").await? else {
        return Ok(());
    };
    let proxy = Proxy::start(plane.address()?).await?;
    let election = || {
        Some(Election {
            namespace: "default".to_owned(),
            name: "kms-operator".to_owned(),
            timing: Timing {
                lease: Duration::from_secs(10),
                renew_deadline: Duration::from_secs(5),
                retry: Duration::from_secs(1),
            },
        })
    };
    let mut config = plane.config_of("first", &[MASTERS]);
    config.cluster_url = format!("https://{}", proxy.address).parse()?;
    let mut first = Operator::start_as(config, "first", election())?;
    leads(&plane, "first").await?;
    let _second = Operator::start_as(plane.config_of("second", &[MASTERS]), "second", election())?;
    let services = served(&plane).await?;

    proxy.cut();
    services.delete("kms", &DeleteParams::default()).await?;
    let ended = (&mut first.ended).await?;
    let ended_at = Timestamp::now();
    assert!(ended.is_err_and(|error| error.to_string().contains("could not be kept")));
    let since = leads(&plane, "second").await?;
    assert!(
        ended_at < since,
        "the first ended at {ended_at}, the second leads since {since}"
    );

    // What the first had sent into the cut connections arrives nowhere.
    proxy.mend();
    becomes("the Service is back", async || {
        Ok(services.get_opt("kms").await?.is_some())
    })
    .await?;
    let late: Vec<Write> = changed(&plane, "first")
        .into_iter()
        .filter(|write| write.at >= since)
        .collect();
    assert_eq!(late, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_leads_tells_what_it_does_and_hands_over_when_it_is_told_to_stop() -> Result<()> {
    let test = "one_of_three_leads_tells_what_it_does_and_hands_over_when_it_is_told_to_stop";
    let Some(plane) = cluster(test).await? else {
        return Ok(());
    };
    let mut all = Vec::new();
    for name in ["first", "second", "third"] {
        all.push((name, start(&plane, name, &LONG)?));
    }
    let leader = settled(&all).await?;
    let (name, mut old) = all.remove(leader);
    served(&plane).await?;

    // Its metrics are what the audit log says, and each line of its log is JSON that names the object.
    becomes("the metrics tell what was written", async || {
        let mut written = changed(&plane, name);
        written.retain(|write| !write.uri.contains("/leases"));
        let (_, text) = http::get(old.endpoint, "/metrics").await?;
        let counted = text.lines().filter_map(|line| {
            let sample = line.strip_prefix("okms_operator_writes_total{")?;
            sample.split_whitespace().next_back()?.parse::<usize>().ok()
        });
        Ok(!written.is_empty() && counted.sum::<usize>() == written.len())
    })
    .await?;
    for path in ["/healthz", "/readyz"] {
        let (head, _) = http::get(old.endpoint, path).await?;
        assert!(head.starts_with("HTTP/1.1 200"), "{path}: {head}");
    }
    let lines: Vec<Value> = old
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let applied: Vec<&Value> = lines
        .iter()
        .filter(|line| line.to_string().contains("a child was applied"))
        .collect();
    assert!(!applied.is_empty());
    for line in applied {
        let (object, text) = (format!("{NAMESPACE}/kms"), line.to_string());
        assert!(text.contains("object.ref") && text.contains(&object), "{text}");
    }

    old.process.signal(Signal::TERM)?;
    let mut ended = None;
    becomes("the leader has ended", async || {
        ended = old.process.ended()?;
        Ok(ended.is_some())
    })
    .await?;
    assert_eq!(ended.and_then(|ended| ended.code()), Some(0), "{}", old.log());
    let next = settled(&all).await?;
    let given = holder(&plane).await?.0;
    let (next, _) = all.get(next).context("a leader")?;
    assert!(given.starts_with(next), "the lease is of {given}, and {next} leads");
    Ok(())
}

/// Waits until one leads and all are ready, and says which leads.
async fn settled(all: &[(&str, OperatorProcess)]) -> Result<usize> {
    let (mut leader, mut most) = (None, 0);
    becomes("one leads and all are ready", async || {
        let mut leaders = Vec::new();
        for (at, (_, operator)) in all.iter().enumerate() {
            if !operator.is_ready().await? {
                return Ok(false);
            }
            if operator.leads().await? {
                leaders.push(at);
            }
        }
        leader = leaders.first().copied();
        most = most.max(leaders.len());
        Ok(leader.is_some())
    })
    .await?;
    assert_eq!(most, 1, "never more than one");
    leader.context("one leads")
}
