//! From an `OfficeKmsHost` to what stands for it: a replica's configuration and the objects around it. Pure.

pub mod drain;
#[cfg(test)]
pub(crate) mod fixtures;
mod host_config;
pub mod names;

pub use host_config::{Files, MANAGEMENT_PORT, Place, REDIS_PORT, host_config};

/// Where pods find their secrets.
pub const SECRETS_DIRECTORY: &str = "/etc/officekms/secrets";
