//! kms-operator: turns each `OfficeKmsHost` into running, shared, exposed host replicas.

pub mod api;
pub mod build;
pub mod crd;
pub mod dns;
pub mod dns_windows;
pub mod licensing;
pub mod looks;
pub mod manifests;
pub mod notice;
pub mod rbac;
pub mod reach;
pub mod secrets;
pub mod settings;
pub mod validate;
