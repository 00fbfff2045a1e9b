//! The ConfigMap with the replicas' configuration, which they read again when it changes.

use k8s_openapi::api::core::v1::ConfigMap;
use kms_host::config::HostConfig;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::brief::brief;
use super::common::{Component, metadata};
use super::{BuildError, names};
use crate::api::OfficeKmsHost;

/// Key, and name of the file, of the configuration.
pub const FILE: &str = "host.yaml";

/// A configuration as it is written for replicas.
#[derive(Debug, Clone)]
pub struct Written {
    /// The text of the file.
    text: String,
    /// A digest of what a running replica can't take over from a changed file ([`HostConfig::fixed`]): pods with the same digest
    /// need no restart. The name is not in it, as each pod has its own.
    pub restart_digest: String,
}

impl Written {
    /// Writes `config`.
    ///
    /// # Errors
    /// When it can't be written as YAML.
    pub fn new(config: &HostConfig) -> Result<Self, BuildError> {
        let brief = brief(config).map_err(BuildError::Brief)?;
        let mut digest = Sha256::new();
        for (field, value) in config.fixed().iter().filter(|(field, _)| *field != "name") {
            // Of a section, what is written: a field that a later version adds is no reason to restart.
            let written = if value.is_object() {
                brief.get(field)
            } else {
                Some(value)
            };
            digest.update(format!("{field}: {}\n", written.unwrap_or(&Value::Null)));
        }
        Ok(Self {
            text: serde_saphyr::to_string(&brief).map_err(BuildError::Config)?,
            restart_digest: short_digest(&digest.finalize()),
        })
    }
}

/// The ConfigMap that holds the configuration.
#[must_use]
pub fn build(host: &OfficeKmsHost, config: &Written) -> ConfigMap {
    ConfigMap {
        metadata: metadata(host, names::config(host), Component::Host),
        data: Some([(FILE.to_owned(), config.text.clone())].into()),
        ..ConfigMap::default()
    }
}

/// 64 bits of a digest: enough to see a change.
pub(super) fn short_digest(digest: &[u8]) -> String {
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
