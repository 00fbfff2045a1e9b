//! kmsctl: drives and shows host replicas, with or without Kubernetes.

pub mod cluster;
pub mod crd;
pub mod discover;
pub mod dlv;
pub mod doctor;
pub mod exit;
pub mod explain_route;
pub mod fact;
pub mod fleet;
pub mod output;
pub mod phone;
pub mod render;
pub mod simulate;
pub mod winrm;
