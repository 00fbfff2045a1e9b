//! kmsctl: drives and shows host replicas, with or without Kubernetes.

pub mod activate;
pub mod admin;
pub mod cli;
pub mod cluster;
pub mod crd;
pub mod discover;
pub mod dlv;
pub mod doctor;
pub mod events;
pub mod exit;
pub mod explain_route;
pub mod fact;
pub mod fleet;
pub mod load;
pub mod local;
pub mod manifest;
pub mod output;
pub mod phone;
pub mod probe;
pub mod rehearse;
pub mod render;
pub mod simulate;
pub mod status;
pub mod target;
pub mod up;
pub mod winrm;
