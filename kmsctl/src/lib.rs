//! kmsctl: drives and shows host replicas, with or without Kubernetes.

pub mod discover;
pub mod dlv;
pub mod explain_route;
pub mod fact;
pub mod phone;
pub mod simulate;
pub mod winrm;
