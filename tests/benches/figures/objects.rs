//! 1,000 resources from nothing to Ready on a real API server, against a bare client that applies the same objects; what
//! the operator writes when all is converged; and what memory it has.
//!
//! Each side has a control plane of its own, empty, and as many requests under way as the operator has workers. No kubelet
//! runs: on both sides the bench says of Deployments that their pods run.

use std::fs;
use std::pin::pin;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::secrets::{generate, generated};
use kms_operator::build::{Inputs, children};
use kms_operator::kinds::ChildKind;
use kms_operator::settings::Settings;
use kms_operator::status::{Sight, status};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::define;
use system_tests::program::{Process, free_port, path};
use tokio_util::sync::CancellationToken;

use crate::table::Row;

const OBJECTS: usize = 1000;
/// As many as the operator has workers.
const AT_ONCE: usize = 8;
const NAMESPACE: &str = "default";
/// Each resource is looked at several times while it must not be written.
const RESYNC: Duration = Duration::from_secs(30);
const CONVERGED: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = ControlPlane::missing() {
        return Ok(vec![Row::skipped(format!("{OBJECTS} OfficeKmsHosts"), why)]);
    }
    let (bare, requests) = bare_client(Leaves::Children).await?;
    let (with_status, _) = bare_client(Leaves::ChildrenAndStatus).await?;
    let operator = operator().await?;
    let ratio = operator.ready.as_secs_f64() / bare.as_secs_f64();
    let like_for_like = operator.ready.as_secs_f64() / with_status.as_secs_f64();
    Ok(vec![
        Row::goal(
            format!("{OBJECTS} OfficeKmsHosts from nothing to Ready / a bare client applying the same objects"),
            "<= 1.5",
            format!(
                "{ratio:.2} ({:.1} s / {:.1} s)",
                operator.ready.as_secs_f64(),
                bare.as_secs_f64()
            ),
            ratio <= 1.5,
        ),
        Row::beside(
            "the same, where the bare client writes each resource's status, too, once",
            format!("{like_for_like:.2} ({:.1} s)", with_status.as_secs_f64()),
        ),
        Row::beside(
            "the same: requests that changed something, of the operator's side and of the bare client's",
            format!("{} and {requests}", operator.writes),
        ),
        Row::goal(
            format!(
                "writes for {OBJECTS} converged OfficeKmsHosts in {} s",
                CONVERGED.as_secs()
            ),
            "0",
            format!(
                "{} (each was looked at every {} s; the lease was renewed {} times)",
                operator.converged,
                RESYNC.as_secs(),
                operator.renewals
            ),
            operator.converged == 0,
        ),
        Row::beside(
            format!("memory of the operator with {OBJECTS} OfficeKmsHosts"),
            format!("{:.1} MiB", operator.resident as f64 / 1_048_576.0),
        ),
    ])
}

fn resource(number: usize) -> Result<OfficeKmsHost> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": format!("kms{number:04}"), "namespace": NAMESPACE},
        "spec": {"replicas": 1, "ledger": {"memory": {}}, "licensedHosts": [{"name": "kms01", "address": "192.0.2.7"}]}
    }))?)
}

/// Does `each` for every resource, so many at once.
async fn for_all<F: Future<Output = Result<()>>>(each: impl Fn(usize) -> F) -> Result<()> {
    stream::iter(0..OBJECTS)
        .map(each)
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await
}

/// What a bare client makes of each resource.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    Children,
    ChildrenAndStatus,
}

/// How long a bare client takes, and how many requests changed something.
async fn bare_client(leaves: Leaves) -> Result<(Duration, usize)> {
    let plane = ControlPlane::start().await?;
    let client = plane.client()?;
    define(&client).await?;
    let before = plane.writes().len();
    let begin = Instant::now();
    let running = Pods::run(&client);
    for_all(|number| {
        let client = client.clone();
        async move { apply_all(&client, &resource(number)?, leaves).await }
    })
    .await?;
    running.all_run(&client).await?;
    let took = begin.elapsed();
    Ok((took, plane.writes().len() - before))
}

/// Creates a resource, and what the operator would make of it.
async fn apply_all(client: &Client, resource: &OfficeKmsHost, leaves: Leaves) -> Result<()> {
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), NAMESPACE);
    let host = hosts.create(&PostParams::default(), resource).await?;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), NAMESPACE);
    for wanted in generated(&host) {
        let secret = generate(&host, &wanted, &mut |buffer| getrandom::fill(buffer))?;
        secrets.create(&PostParams::default(), &secret).await?;
    }
    let apply = PatchParams::apply("bare").force();
    for child in children(&host, &Settings::default(), &Inputs::unread())? {
        let kind = ChildKind::of(&child).context("a kind of child")?;
        let api: Api<kube::core::DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind.resource());
        api.patch(&child.name_any(), &apply, &Patch::Apply(&child)).await?;
    }
    if leaves == Leaves::ChildrenAndStatus {
        let sight = Sight {
            applied: true,
            ..Sight::default()
        };
        let status = json!({
            "apiVersion": OfficeKmsHost::api_version(&()), "kind": OfficeKmsHost::kind(&()),
            "status": status(&host, &sight, Timestamp::now()),
        });
        hosts
            .patch_status(&host.name_any(), &apply, &Patch::Apply(&status))
            .await?;
    }
    Ok(())
}

/// What the operator showed.
struct Shown {
    ready: Duration,
    writes: usize,
    converged: usize,
    renewals: usize,
    resident: u64,
}

async fn operator() -> Result<Shown> {
    let plane = ControlPlane::start().await?;
    let client = plane.client()?;
    define(&client).await?;
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("log");
    let process = Process::start(
        Command::new(path("kms-operator")?)
            .env("KUBECONFIG", plane.kubeconfig()?)
            .args(["--lease-namespace", NAMESPACE, "--instance", "bench"])
            .args(["--listen", &format!("127.0.0.1:{}", free_port()?)])
            .args(["--resync-seconds", &RESYNC.as_secs().to_string()])
            .arg("--scratch-directory")
            .arg(folder.path().join("scratch")),
        &log,
    )?;
    leads(&plane)
        .await
        .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    let before = plane.writes().len();
    let begin = Instant::now();
    let running = Pods::run(&client);
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), NAMESPACE);
    for_all(|number| {
        let hosts = hosts.clone();
        async move {
            hosts.create(&PostParams::default(), &resource(number)?).await?;
            Ok(())
        }
    })
    .await?;
    all_ready(&hosts).await?;
    let ready = begin.elapsed();
    let writes = plane.writes().len() - before;
    drop(running);
    quiet(&plane).await?;
    let (converged, renewals) = changes(&plane);
    tokio::time::sleep(CONVERGED).await;
    let (now, renewed) = changes(&plane);
    Ok(Shown {
        ready,
        writes,
        converged: now - converged,
        renewals: renewed - renewals,
        resident: process.resident_bytes()?,
    })
}

/// Waits until the operator has its lease.
async fn leads(plane: &ControlPlane) -> Result<()> {
    system_tests::operator::becomes("the operator leads", async || Ok(changes(plane).1 > 0)).await
}

/// Requests that changed something, and how many of them renewed a lease.
fn changes(plane: &ControlPlane) -> (usize, usize) {
    let writes = plane.writes();
    let leases = writes.iter().filter(|line| line.contains("/leases")).count();
    (writes.len() - leases, leases)
}

/// Waits until nothing was written for ten seconds.
async fn quiet(plane: &ControlPlane) -> Result<()> {
    let (mut before, until) = (changes(plane).0, Instant::now() + PATIENCE);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let now = changes(plane).0;
        if now == before {
            return Ok(());
        }
        before = now;
    }
    bail!("the operator goes on writing: {:?}", plane.writes().last())
}

/// Waits until every resource is Ready.
async fn all_ready(hosts: &Api<OfficeKmsHost>) -> Result<()> {
    let mut ready = std::collections::BTreeSet::new();
    let mut seen = pin!(
        watcher(hosts.clone(), watcher::Config::default())
            .default_backoff()
            .applied_objects()
    );
    let all = async {
        while let Some(host) = seen.try_next().await? {
            let name = host.name_any();
            let conditions = host.status.unwrap_or_default().conditions;
            if conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
            {
                ready.insert(name);
            }
            if ready.len() == OBJECTS {
                return Ok(());
            }
        }
        bail!("the watch ended")
    };
    let done = tokio::time::timeout(PATIENCE, all).await;
    done.with_context(|| format!("not all of {OBJECTS} resources are Ready after {PATIENCE:?}"))?
}

/// Says of each new Deployment that its pods run, until it is dropped.
struct Pods(CancellationToken);

impl Pods {
    fn run(client: &Client) -> Self {
        let token = CancellationToken::new();
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let watched = watcher(deployments.clone(), watcher::Config::default())
            .default_backoff()
            .applied_objects();
        let stop = token.clone();
        tokio::spawn(async move {
            let each = watched.for_each_concurrent(AT_ONCE, |deployment| {
                let deployments = deployments.clone();
                async move {
                    let told = match deployment {
                        Ok(deployment) if !runs(&deployment) => say_it_runs(&deployments, &deployment).await,
                        Ok(_) => Ok(()),
                        Err(error) => Err(error.into()),
                    };
                    if let Err(error) = told {
                        eprintln!("a Deployment could not be said to run: {error:#}");
                    }
                }
            });
            stop.run_until_cancelled(each).await;
        });
        Self(token)
    }

    /// Waits until it was said of all.
    async fn all_run(&self, client: &Client) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
        let mut running = std::collections::BTreeSet::new();
        let mut seen = pin!(
            watcher(deployments, watcher::Config::default())
                .default_backoff()
                .applied_objects()
        );
        while running.len() < OBJECTS {
            let deployment = seen.try_next().await?.context("the watch ended")?;
            if runs(&deployment) {
                running.insert(deployment.name_any());
            }
        }
        Ok(())
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn runs(deployment: &Deployment) -> bool {
    let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
    seen.is_some() && seen == deployment.metadata.generation
}

async fn say_it_runs(deployments: &Api<Deployment>, deployment: &Deployment) -> Result<()> {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = json!({"status": {
        "observedGeneration": deployment.metadata.generation, "replicas": replicas, "updatedReplicas": replicas,
        "readyReplicas": replicas, "availableReplicas": replicas
    }});
    deployments
        .patch_status(&deployment.name_any(), &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}
