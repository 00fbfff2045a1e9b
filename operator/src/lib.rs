//! kms-operator: turns each `OfficeKmsHost` into running, shared, exposed host replicas.

pub mod api;
pub mod apply;
pub mod build;
pub mod cli;
pub mod client;
pub mod conditions;
pub mod control;
pub mod crd;
pub mod dns;
pub mod dns_windows;
pub mod endpoint;
pub mod fields;
pub mod kinds;
pub mod leader;
pub mod licensing;
pub mod looks;
pub mod manifests;
pub mod metrics;
pub mod notice;
pub mod rbac;
pub mod reach;
pub mod ready;
pub mod secrets;
pub mod settings;
pub mod status;
pub mod validate;
