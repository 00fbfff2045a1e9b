//! `kmsctl status`: host replicas as they see themselves, or the resources of a cluster.
//!
//! ```text
//! replicas (their admin endpoints) --> Report --> tables
//! resources (API server; one that is named: its replicas too) --^
//! ```

mod replicas;
mod resources;

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use futures::future::join_all;
use kms_host::admin::Status;
use kms_operator::api::OfficeKmsHost;
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;

use crate::admin::{Admin, Admins};
use crate::cluster;
use crate::exit::Exit;
use crate::output::View;
pub use replicas::Replica;
pub use resources::Resource;

/// Shows what `kmsctl up` runs here, or the replicas at the given admin endpoints; else the OfficeKmsHost resources of the
/// kubeconfig's cluster. Of a resource that is named, its replicas are asked too, through the API server as by port-forward:
/// they say what each licensed host is to them.
///
/// Exit code 0: all are ready; 3: a resource is not as it should be now (Ready), or a replica is not ready, sees no licensed
/// host that may be asked, or does not reach its ledger; 1: a replica or the cluster cannot be asked. That the replicas of a
/// named resource cannot be asked is told and changes no code.
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

/// Asks.
///
/// # Errors
/// When neither replicas nor a cluster can be asked.
pub async fn run(args: &Args) -> Result<Report> {
    let wants_cluster =
        args.name.is_some() || args.namespace.is_some() || args.all_namespaces || args.context.is_some();
    let admins = if wants_cluster { Vec::new() } else { args.admins.all()? };
    if !admins.is_empty() {
        return Ok(Report::Replicas(ask(&admins).await));
    }
    resources(args).await.map(Report::Resources)
}

async fn ask(admins: &[Admin]) -> Vec<Replica> {
    let asked = admins
        .iter()
        .map(async |admin| Replica::new(admin.to_string(), admin.get::<Status>("/status").await));
    join_all(asked).await
}

async fn resources(args: &Args) -> Result<Vec<Resource>> {
    let (client, default) = cluster::connect(args.context.as_deref())
        .await
        .context("nothing runs here by `kmsctl up`, and no cluster can be asked")?;
    let namespace = args.namespace.clone().unwrap_or(default);
    if let Some(name) = &args.name {
        return Ok(vec![named(client, &namespace, name).await?]);
    }
    let api: Api<OfficeKmsHost> = if args.all_namespaces {
        Api::all(client)
    } else {
        Api::namespaced(client, &namespace)
    };
    let list = api.list(&ListParams::default()).await;
    let list = list.context("the cluster's OfficeKmsHost resources cannot be listed: `kmsctl doctor` tells more")?;
    Ok(list.items.into_iter().map(Resource::from).collect())
}

async fn named(client: Client, namespace: &str, name: &str) -> Result<Resource> {
    let api: Api<OfficeKmsHost> = Api::namespaced(client.clone(), namespace);
    let host = api.get(name).await;
    let host = host.with_context(|| format!("the OfficeKmsHost {name} of the namespace {namespace} cannot be read"))?;
    let mut resource = Resource::from(host);
    // Whoever may read a resource need not be allowed to reach its pods.
    match Admin::of(&client, namespace, name).await {
        Ok(admins) => resource.replicas = ask(&admins).await,
        Err(error) => resource.replicas_error = Some(format!("{error:#}")),
    }
    Ok(resource)
}

impl Report {
    /// The exit code that tells the worst of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let exits: Vec<Exit> = match self {
            Self::Replicas(replicas) => replicas.iter().map(Replica::exit).collect(),
            Self::Resources(resources) => resources.iter().map(Resource::exit).collect(),
        };
        exits.into_iter().fold(Exit::Ok, Exit::worst)
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Replicas(replicas) => replicas::view(replicas, out),
            Self::Resources(resources) => resources::view(resources, out),
        }
    }
}

#[cfg(test)]
mod tests;
