//! From an `OfficeKmsHost` to what stands for it: a replica's configuration and the objects around it. Pure.
//!
//! ```text
//! OfficeKmsHost --> host_config ------------+--> children, in the order in which they are applied
//! Settings (images) ------------------------+
//! Inputs (digests of Secrets that were read)+
//!
//! OfficeKmsHost, what exists --> secrets::missing --> secrets::generate (created once, never applied)
//! ```
//!
//! One file per child. Each function gives the whole object; the same resource gives the same objects, byte for byte.

mod brief;
pub mod common;
pub mod config_map;
pub mod deployment;
pub mod drain;
#[cfg(test)]
pub(crate) mod fixtures;
mod host_config;
pub mod names;
pub mod network_policy;
pub mod redis;
pub mod references;
pub mod scaling;
pub mod secrets;
pub mod service;
pub mod service_account;
pub mod service_monitor;

use kube::core::DynamicObject;
use serde::Serialize;

use config_map::Written;
pub use host_config::{Files, MANAGEMENT_PORT, Place, REDIS_PORT, host_config};
pub use references::Inputs;

use crate::api::OfficeKmsHost;
use crate::settings::Settings;

/// Annotation of workloads, and not of their pods: the operator's default image that they were made with. None on those
/// whose resource names an image.
pub const IMAGE_ANNOTATION: &str = "officekms.io/default-image";

/// Where pods find their secrets.
pub const SECRETS_DIRECTORY: &str = "/etc/officekms/secrets";

/// Why no children could be built. No spec that [`crate::validate`] passes leads here.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The replicas' configuration is no YAML.
    #[error("the configuration of the replicas can't be written")]
    Config(#[source] serde_saphyr::SerializeError),
    /// What differs from the defaults is no configuration by itself.
    #[error("the configuration of the replicas can't be told from its defaults")]
    Brief(#[source] serde_json::Error),
    /// An object is no JSON.
    #[error("a child can't be written as JSON")]
    Json(#[source] serde_json::Error),
}

/// The children of `host` in the order in which they are applied. Generated Secrets are not among them: see [`secrets`].
///
/// # Errors
/// See [`BuildError`].
pub fn children(host: &OfficeKmsHost, settings: &Settings, inputs: &Inputs) -> Result<Vec<DynamicObject>, BuildError> {
    let config = Written::new(&host_config(host, &Place::pod(host)))?;
    let mut children = Children::default();
    children.add(&service_account::build(host))?;
    children.add(&config_map::build(host, &config))?;
    if references::is_managed(host) {
        children.add(&redis::config_map(host))?;
        children.add(&redis::network_policy(host))?;
        children.add(&redis::service(host))?;
        children.add(&redis::stateful_set(host, settings, inputs))?;
    }
    if let Some(policy) = network_policy::build(host) {
        children.add(&policy)?;
    }
    children.add(&service::build(host))?;
    children.add(&service::build_admin(host))?;
    children.add(&deployment::build(host, &config, settings, inputs))?;
    if let Some(budget) = scaling::disruption_budget(host) {
        children.add(&budget)?;
    }
    if let Some(autoscaler) = scaling::autoscaler(host) {
        children.add(&autoscaler)?;
    }
    if let Some(monitor) = service_monitor::build(host) {
        children.add(&monitor)?;
    }
    Ok(children.0)
}

#[derive(Default)]
struct Children(Vec<DynamicObject>);

impl Children {
    fn add<T: Serialize>(&mut self, child: &T) -> Result<(), BuildError> {
        let value = serde_json::to_value(child).map_err(BuildError::Json)?;
        self.0.push(serde_json::from_value(value).map_err(BuildError::Json)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
