//! kmsctl: drives and shows host replicas, with or without Kubernetes.

pub mod explain_route;
pub mod fact;
pub mod simulate;
