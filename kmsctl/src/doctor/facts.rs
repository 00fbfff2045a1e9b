//! What is to be known before anything can be said.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use kms_operator::api::OfficeKmsHost;
use kms_operator::secrets::Objects;

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
    pub(super) wanted: i32,
    pub(super) ready: i32,
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
