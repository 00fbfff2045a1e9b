//! What is to be known before anything can be said.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kms_operator::api::OfficeKmsHost;
use kms_operator::secrets::Objects;
use kube::ResourceExt as _;

/// What was read, or why it could not be.
pub(super) type Read<T> = Result<T, String>;

/// Of the cluster.
#[derive(Debug)]
pub(super) struct Facts {
    /// Versions that the CRD serves; none if there is no CRD.
    pub(super) served: Read<Option<Vec<String>>>,
    /// Operators, in whatever namespace.
    pub(super) operators: Read<Vec<Operator>>,
    /// What the operators may do.
    pub(super) permissions: Vec<Permission>,
    /// The resources that were asked about.
    pub(super) resources: Read<Vec<Resource>>,
    /// The name and namespace that were asked for.
    pub(super) asked: (Option<String>, Option<String>),
}

/// An operator's Deployment.
#[derive(Debug, Clone)]
pub(super) struct Operator {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    /// Namespaces that it serves; empty: all.
    pub(super) watches: Vec<String>,
    pub(super) wanted: i32,
    pub(super) ready: i32,
}

impl Operator {
    /// Whether it serves the resources of this namespace.
    pub(super) fn serves(&self, namespace: &str) -> bool {
        self.watches.is_empty() || self.watches.iter().any(|watched| watched == namespace)
    }
}

/// Whether an operator may do something.
#[derive(Debug, Clone)]
pub(super) struct Permission {
    /// The operator's ServiceAccount as `NAMESPACE/NAME`.
    pub(super) account: String,
    /// Namespace in which it would do it.
    pub(super) namespace: String,
    pub(super) verb: String,
    pub(super) group: String,
    pub(super) resource: String,
    pub(super) allowed: Read<bool>,
}

/// Of a resource.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) host: OfficeKmsHost,
    /// What it refers to.
    pub(super) objects: Objects,
    pub(super) deployment: Read<Option<Deployment>>,
    /// The managed ledger's.
    pub(super) stateful_set: Read<Option<StatefulSet>>,
    pub(super) service: Read<Option<Service>>,
    /// Of replicas and of the managed ledger.
    pub(super) pods: Read<Vec<Pod>>,
    /// Of the managed ledger.
    pub(super) claims: Read<Vec<PersistentVolumeClaim>>,
}

impl Facts {
    /// Namespaces that are looked at: the one that was asked for, and those of the resources.
    pub(super) fn namespaces(&self) -> BTreeSet<String> {
        namespaces(self.asked.1.as_deref(), &self.resources)
    }
}

/// The namespace that was asked for, and those of the resources.
pub(super) fn namespaces(asked: Option<&str>, resources: &Read<Vec<Resource>>) -> BTreeSet<String> {
    let of_resources = resources
        .iter()
        .flatten()
        .filter_map(|resource| resource.host.namespace());
    asked.map(str::to_owned).into_iter().chain(of_resources).collect()
}
