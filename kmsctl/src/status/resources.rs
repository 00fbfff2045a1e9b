//! The resources of a cluster: what the operator saw, and of one that is named what its replicas see.

use std::collections::BTreeSet;
use std::io::{self, Write};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kms_operator::api::status::LicensedHostStatus;
use kms_operator::api::{OfficeKmsHost, OfficeKmsHostStatus};
use kms_operator::conditions::kind;
use kube::ResourceExt as _;
use serde::Serialize;

use super::replicas::{self, Replica, failed_last};
use crate::exit::Exit;
use crate::output::table;

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
    pub status: OfficeKmsHostStatus,
    /// Its replicas, where it was asked for by its name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<Replica>,
    /// Why they were not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas_error: Option<String>,
}

impl From<OfficeKmsHost> for Resource {
    fn from(host: OfficeKmsHost) -> Self {
        let status = host.status.clone().unwrap_or_default();
        Self {
            namespace: host.namespace().unwrap_or_default(),
            name: host.name_any(),
            observed: host.metadata.generation.is_some() && status.observed_generation == host.metadata.generation,
            status,
            replicas: Vec::new(),
            replicas_error: None,
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
        self.observed && self.condition(kind::READY) == Some("True")
    }

    pub(super) fn exit(&self) -> Exit {
        let own = if self.is_ready() { Exit::Ok } else { Exit::NotYet };
        let answered = self.replicas.iter().filter(|replica| replica.status.is_some());
        answered.fold(own, |exit, replica| exit.worst(replica.exit()))
    }

    /// What one of the replicas that answered says of a licensed host, or each of what they say where they differ.
    fn seen(&self, of: impl Fn(&Replica) -> Option<String>) -> String {
        let words: BTreeSet<String> = self.replicas.iter().filter_map(of).collect();
        Vec::from_iter(words).join(" or ")
    }

    /// What the licensed host of this name is to routing, as [`kms_host::routing::HostState`] has it.
    fn routing(&self, name: &str) -> String {
        self.seen(|replica| {
            let routing = replica.status.as_ref()?.routing.as_ref()?;
            let host = routing.hosts.iter().find(|host| host.name == name)?;
            Some(host.state.to_string())
        })
    }

    /// The count that routing believes in.
    fn routing_count(&self, name: &str) -> String {
        self.seen(|replica| {
            let routing = replica.status.as_ref()?.routing.as_ref()?;
            let host = routing.hosts.iter().find(|host| host.name == name)?;
            Some(format!("{} of {}", host.count, routing.required_count))
        })
    }

    fn health(&self, name: &str) -> String {
        self.seen(|replica| {
            let hosts = &replica.status.as_ref()?.licensed_hosts;
            hosts
                .iter()
                .find(|host| host.name == name)
                .map(|host| host.health.clone())
        })
    }

    /// Names of the licensed hosts that the operator or a replica knows, in the order of the spec.
    fn host_names(&self) -> Vec<&str> {
        let known = self.status.licensed_hosts.iter().map(|row| row.name.as_str());
        let mut names: Vec<&str> = known.collect();
        let statuses = self.replicas.iter().filter_map(|replica| replica.status.as_ref());
        for host in statuses.flat_map(|status| &status.licensed_hosts) {
            if !names.contains(&host.name.as_str()) {
                names.push(&host.name);
            }
        }
        names
    }
}

/// Whether something is to be said of a condition. Of a type that a newer operator has, nobody here knows what is good.
fn is_ill(condition: &Condition) -> bool {
    kind::good(&condition.type_) != Some(condition.status.as_str())
}

pub(super) fn view(resources: &[Resource], out: &mut dyn Write) -> io::Result<()> {
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
            resource.condition(kind::READY).unwrap_or("?")
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
    for resource in resources {
        conditions(resource, out)?;
    }
    if let [resource] = resources {
        for endpoint in &resource.status.endpoints {
            writeln!(out, "\nendpoint {}:{}", endpoint.address, endpoint.port)?;
        }
        licensed_hosts(resource, out)?;
        if !resource.replicas.is_empty() {
            writeln!(out, "\nReplicas:")?;
            replicas::overview(&resource.replicas, out)?;
        }
        if let Some(error) = &resource.replicas_error {
            writeln!(out, "\nIts replicas were not asked: {error}")?;
        }
    }
    Ok(())
}

fn conditions(resource: &Resource, out: &mut dyn Write) -> io::Result<()> {
    let Resource { namespace, name, .. } = resource;
    if !resource.observed {
        writeln!(
            out,
            "\n{namespace}/{name}: no operator has looked at it as it is now: does one run, and does it watch this namespace?"
        )?;
    }
    for condition in resource.status.conditions.iter().filter(|condition| is_ill(condition)) {
        let Condition {
            type_,
            status,
            reason,
            message,
            ..
        } = condition;
        writeln!(out, "\n{namespace}/{name}: {type_} is {status} ({reason}): {message}")?;
    }
    Ok(())
}

fn licensed_hosts(resource: &Resource, out: &mut dyn Write) -> io::Result<()> {
    let names = resource.host_names();
    if names.is_empty() {
        return Ok(());
    }
    let row_of = |name: &str| resource.status.licensed_hosts.iter().find(|row| row.name == name);
    let mut rows = table([
        "licensed host",
        "routing",
        "health",
        "routing's count",
        "own count",
        "licensed",
        "next step",
    ]);
    for name in &names {
        let row = row_of(name).cloned().unwrap_or_default();
        let licensed = match (row.licensed, row.reachable) {
            (Some(true), _) => "yes",
            (Some(false), _) => "no",
            (None, Some(false)) => "not reached",
            (None, _) => "not read",
        };
        rows.add_row([
            (*name).to_owned(),
            resource.routing(name),
            resource.health(name),
            resource.routing_count(name),
            own_count(&row),
            licensed.to_owned(),
            steps(&row),
        ]);
    }
    writeln!(out, "\n{rows}")?;
    for name in names {
        if let Some(row) = row_of(name) {
            if let Some(message) = &row.message {
                writeln!(out, "\n{name}: {message}")?;
            }
            for product in &row.products {
                if let Some(message) = &product.message {
                    writeln!(out, "\n{name}, {}: {message}", product.name)?;
                }
            }
        }
        for replica in &resource.replicas {
            let Some(status) = &replica.status else { continue };
            let mut hosts = status.licensed_hosts.iter();
            if let Some(failed) = hosts.find(|host| host.name == name).and_then(failed_last) {
                writeln!(out, "\n{name}: to {} it {failed}", status.name)?;
            }
        }
    }
    Ok(())
}

/// The count that the host itself shows.
fn own_count(row: &LicensedHostStatus) -> String {
    match (row.current_count, row.required_count) {
        (Some(current), Some(required)) => format!("{current} of {required}"),
        (Some(current), None) => current.to_string(),
        (None, _) => String::new(),
    }
}

/// The steps that are left, by product.
fn steps(row: &LicensedHostStatus) -> String {
    let left = row.products.iter().filter_map(|product| {
        let step = product.step.as_deref().filter(|step| *step != "None")?;
        Some(format!("{}: {step}", product.name))
    });
    Vec::from_iter(left).join(", ")
}
