//! `kmsctl status`: host replicas as they see themselves, or the resources of a cluster.

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use kms_host::admin::Status;
use kms_operator::api::OfficeKmsHost;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde::Serialize;

use crate::admin::Admins;
use crate::cluster;
use crate::exit::Exit;
use crate::output::{View, table};

/// Shows what `kmsctl up` runs here, or the replicas at the given admin endpoints; else the OfficeKmsHost resources of the
/// kubeconfig's cluster.
///
/// Exit code 0: all are ready; 3: one is not; 1: one cannot be asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Resource in the cluster of the kubeconfig
    name: Option<String>,
    /// Namespace of the resources [default: that of the kubeconfig's context]
    #[arg(short, long)]
    namespace: Option<String>,
    /// Resources of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["name", "namespace"])]
    all_namespaces: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long)]
    context: Option<String>,
    #[command(flatten)]
    admins: Admins,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// Replicas, by their admin endpoints.
    Replicas(Vec<Replica>),
    /// Resources of a cluster.
    Resources(Vec<Resource>),
}

/// A host replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its admin endpoint.
    pub admin: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub status: Option<Status>,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An OfficeKmsHost.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether its status is about its spec as it is now.
    pub observed: bool,
    /// Its status.
    pub status: kms_operator::api::OfficeKmsHostStatus,
}

/// Asks.
///
/// # Errors
/// When neither replicas nor a cluster can be asked.
pub async fn run(args: &Args) -> Result<Report> {
    let wants_cluster =
        args.name.is_some() || args.namespace.is_some() || args.all_namespaces || args.context.is_some();
    let admins = if wants_cluster { Vec::new() } else { args.admins.all()? };
    if !admins.is_empty() {
        let replicas = admins.iter().map(async |admin| {
            let answer = admin.get::<Status>("/status").await;
            let admin = admin.to_string();
            match answer {
                Ok(status) => Replica {
                    admin,
                    status: Some(status),
                    error: None,
                },
                Err(error) => Replica {
                    admin,
                    status: None,
                    error: Some(format!("{error:#}")),
                },
            }
        });
        return Ok(Report::Replicas(futures::future::join_all(replicas).await));
    }
    resources(args).await.map(Report::Resources)
}

async fn resources(args: &Args) -> Result<Vec<Resource>> {
    let (client, default) = cluster::connect(args.context.as_deref())
        .await
        .context("nothing runs here by `kmsctl up`, and no cluster can be asked")?;
    let namespace = args.namespace.clone().unwrap_or(default);
    let api: Api<OfficeKmsHost> = if args.all_namespaces {
        Api::all(client)
    } else {
        Api::namespaced(client, &namespace)
    };
    let hosts = match &args.name {
        Some(name) => vec![
            api.get(name)
                .await
                .with_context(|| format!("the OfficeKmsHost {name} of the namespace {namespace} cannot be read"))?,
        ],
        None => {
            let list = api.list(&ListParams::default()).await;
            list.context("the cluster's OfficeKmsHost resources cannot be listed: `kmsctl doctor` tells more")?
                .items
        }
    };
    Ok(hosts.into_iter().map(Resource::from).collect())
}

impl From<OfficeKmsHost> for Resource {
    fn from(host: OfficeKmsHost) -> Self {
        let status = host.status.clone().unwrap_or_default();
        Self {
            namespace: host.namespace().unwrap_or_default(),
            name: host.name_any(),
            observed: host.metadata.generation.is_some() && status.observed_generation == host.metadata.generation,
            status,
        }
    }
}

impl Resource {
    fn condition(&self, kind: &str) -> Option<&str> {
        let mut conditions = self.status.conditions.iter();
        conditions
            .find(|condition| condition.type_ == kind)
            .map(|condition| condition.status.as_str())
    }

    fn is_ready(&self) -> bool {
        self.observed && self.condition("Ready") == Some("True")
    }
}

impl Report {
    /// The exit code that tells the worst of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Replicas(replicas) => replicas.iter().fold(Exit::Ok, |exit, replica| {
                exit.worst(match &replica.status {
                    Some(status) if status.ready => Exit::Ok,
                    Some(_) => Exit::NotYet,
                    None => Exit::Failed,
                })
            }),
            Self::Resources(resources) if resources.iter().all(Resource::is_ready) => Exit::Ok,
            Self::Resources(_) => Exit::NotYet,
        }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Replicas(replicas) => view_replicas(replicas, out),
            Self::Resources(resources) => view_resources(resources, out),
        }
    }
}

fn view_replicas(replicas: &[Replica], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(["replica", "mode", "ready", "clients", "requests", "ledger", "admin"]);
    for replica in replicas {
        let Some(status) = &replica.status else {
            let gone = ["?", "", "no", "", "", "", replica.admin.as_str()];
            rows.add_row(gone);
            continue;
        };
        let counts = status.ledger.counts.iter();
        let count = counts.map(|count| format!("{} of {}", count.current_count, count.largest_required));
        let clients = match &status.routing {
            Some(routing) => format!("{} known", routing.distinct_clients),
            None => count.collect::<Vec<_>>().join(", "),
        };
        rows.add_row([
            status.name.clone(),
            status.mode.clone(),
            if status.ready { "yes" } else { "no" }.to_owned(),
            clients,
            status.requests.values().sum::<u64>().to_string(),
            status.ledger.error.clone().unwrap_or_else(|| "answers".to_owned()),
            replica.admin.clone(),
        ]);
    }
    writeln!(out, "{rows}")?;
    for error in replicas.iter().filter_map(|replica| replica.error.as_ref()) {
        writeln!(out, "\nerror: {error}")?;
    }
    for status in replicas.iter().filter_map(|replica| replica.status.as_ref()) {
        let Some(routing) = &status.routing else { continue };
        writeln!(out, "\nLicensed hosts as {} sees them:", status.name)?;
        let mut hosts = table(["host", "address", "health", "count", "answered", "failed", "routing"]);
        for host in &status.licensed_hosts {
            let routed = routing.hosts.iter().find(|routed| routed.name == host.name);
            let count = routed.map(|routed| format!("{} of {}", routed.count, routing.required_count));
            hosts.add_row([
                host.name.clone(),
                host.address.clone(),
                host.health.clone(),
                count.unwrap_or_default(),
                host.answered.to_string(),
                host.failed.to_string(),
                routed.map(|routed| routed.because.clone()).unwrap_or_default(),
            ]);
        }
        writeln!(out, "{hosts}")?;
    }
    Ok(())
}

fn view_resources(resources: &[Resource], out: &mut dyn Write) -> io::Result<()> {
    if resources.is_empty() {
        return writeln!(
            out,
            "No OfficeKmsHost here. `kmsctl status -A` looks in all namespaces."
        );
    }
    let mut rows = table(["namespace", "name", "ready", "replicas", "count", "licensed", "dns"]);
    for resource in resources {
        let summary = resource.status.summary.clone().unwrap_or_default();
        let ready = if resource.observed {
            resource.condition("Ready").unwrap_or("?")
        } else {
            "?"
        };
        rows.add_row([
            resource.namespace.clone(),
            resource.name.clone(),
            ready.to_owned(),
            summary.replicas.unwrap_or_default(),
            summary.count.unwrap_or_default(),
            summary.licensed.unwrap_or_default(),
            summary.dns.unwrap_or_default(),
        ]);
    }
    writeln!(out, "{rows}")?;
    for resource in resources.iter().filter(|resource| !resource.is_ready()) {
        if !resource.observed {
            writeln!(
                out,
                "\n{}/{}: no operator has looked at it as it is now: does one run, and does it watch this namespace?",
                resource.namespace, resource.name
            )?;
        }
        for condition in &resource.status.conditions {
            writeln!(
                out,
                "\n{}/{}: {} is {} ({}): {}",
                resource.namespace,
                resource.name,
                condition.type_,
                condition.status,
                condition.reason,
                condition.message
            )?;
        }
    }
    for resource in resources.iter().filter(|_| resources.len() == 1) {
        for endpoint in &resource.status.endpoints {
            writeln!(out, "\nendpoint {}:{}", endpoint.address, endpoint.port)?;
        }
        for host in &resource.status.licensed_hosts {
            let licensed = host.licensed.map_or(
                "not known",
                |licensed| if licensed { "licensed" } else { "not licensed" },
            );
            writeln!(out, "\nlicensed host {}: {licensed}", host.name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(generation: i64, ready: &str) -> Resource {
        let host: OfficeKmsHost = serde_json::from_value(serde_json::json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
            "metadata": {"name": "kms", "namespace": "licensing", "generation": generation},
            "spec": {"rehearsal": {}},
            "status": {"observedGeneration": 1, "conditions": [{
                "type": "Ready", "status": ready, "reason": "SecretMissing", "message": "create the Secret tsig",
                "lastTransitionTime": "2026-01-01T00:00:00Z"
            }]}
        }))
        .unwrap();
        host.into()
    }

    fn shown(report: &Report) -> String {
        let mut text = Vec::new();
        report.view(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_resource_is_ready_only_as_it_is_now() {
        assert_eq!(Report::Resources(vec![resource(1, "True")]).exit(), Exit::Ok);
        assert_eq!(Report::Resources(vec![resource(2, "True")]).exit(), Exit::NotYet);
        assert_eq!(Report::Resources(vec![resource(1, "False")]).exit(), Exit::NotYet);
    }

    #[test]
    fn what_is_not_ready_says_what_to_do() {
        let text = shown(&Report::Resources(vec![resource(1, "False")]));
        assert!(text.contains("create the Secret tsig"), "{text}");
        let text = shown(&Report::Resources(vec![resource(2, "True")]));
        assert!(text.contains("does one run"), "{text}");
        let text = shown(&Report::Resources(Vec::new()));
        assert!(text.contains("-A"), "{text}");
    }

    #[test]
    fn a_replica_that_does_not_answer_is_shown() {
        let replica = Replica {
            admin: "http://127.0.0.1:9688/".to_owned(),
            status: None,
            error: Some("cannot reach".to_owned()),
        };
        let report = Report::Replicas(vec![replica]);
        assert_eq!(report.exit(), Exit::Failed);
        assert!(shown(&report).contains("error: cannot reach"));
    }
}
