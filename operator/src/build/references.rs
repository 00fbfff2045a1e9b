//! What a resource refers to and its pods mount: Secrets and ConfigMaps of its namespace, by name.

use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use super::config_map::short_digest;
use super::names;
use crate::api::{ConfigOrSecretKey, OfficeKmsHost, SecretKey};
use crate::reach::{PASSWORD, USERNAME};
use crate::secrets::{Names, Objects};
use crate::validate::Problem;

/// File names of secrets and certificates.
pub(super) mod files {
    pub(in crate::build) const LEDGER_KEY: &str = "ledger.key";
    pub(in crate::build) const SITE_KEY: &str = "site.key";
    pub(in crate::build) const REDIS_PASSWORD: &str = "redis-password";
    pub(in crate::build) const SENTINEL_PASSWORD: &str = "sentinel-password";
    pub(in crate::build) const REDIS_CA: &str = "redis-ca.crt";
    pub(in crate::build) const MANAGEMENT_USERNAME: &str = "management-username";
    pub(in crate::build) const MANAGEMENT_PASSWORD: &str = "management-password";
}

/// Kind of what is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
}

/// One key of a Secret or ConfigMap that replicas find as a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The field of the resource that asks for it.
    pub field: &'static str,
    /// Kind of the object.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// The key within it.
    pub key: String,
    /// Name of the file.
    pub file: &'static str,
    /// How replicas use it.
    pub purpose: Purpose,
}

/// How replicas use a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A key of 32 bytes, read when they start.
    Key,
    /// Read when they start.
    Start,
    /// Read for each connection: a change needs no restart.
    Connection,
}

impl Reference {
    fn secret(field: &'static str, secret: SecretKey, file: &'static str, purpose: Purpose) -> Self {
        Self {
            field,
            kind: Kind::Secret,
            name: secret.name,
            key: secret.key,
            file,
            purpose,
        }
    }

    fn bundle(field: &'static str, bundle: &ConfigOrSecretKey, file: &'static str) -> Self {
        let (kind, name) = match (&bundle.config_map, &bundle.secret) {
            (Some(name), _) => (Kind::ConfigMap, name.clone()),
            (None, name) => (Kind::Secret, name.clone().unwrap_or_default()),
        };
        Self {
            field,
            kind,
            name,
            key: bundle.key.clone(),
            file,
            purpose: Purpose::Connection,
        }
    }

    /// The same as the API writes it.
    fn to_api(&self) -> ConfigOrSecretKey {
        let name = Some(self.name.clone());
        let (config_map, secret) = match self.kind {
            Kind::ConfigMap => (name, None),
            Kind::Secret => (None, name),
        };
        ConfigOrSecretKey {
            config_map,
            secret,
            key: self.key.clone(),
        }
    }
}

/// What the pods of `host` mount, given by the user or generated.
#[must_use]
pub fn mounted(host: &OfficeKmsHost) -> Vec<Reference> {
    let secret = |name: &str, key: &str| SecretKey {
        name: name.to_owned(),
        key: key.to_owned(),
    };
    let generated = |key: &str| secret(&names::keys(host), key);
    let ledger = host.spec.ledger.clone().unwrap_or_default();
    let mut all = Vec::new();
    match (&ledger.key_secret, &ledger.memory) {
        // A ledger in memory makes a key of its own.
        (None, Some(_)) => {}
        (given, _) => {
            let key = given.clone().unwrap_or_else(|| generated(names::LEDGER_KEY));
            all.push(Reference::secret(
                "spec.ledger.keySecret",
                key,
                files::LEDGER_KEY,
                Purpose::Key,
            ));
        }
    }
    let password = (files::REDIS_PASSWORD, Purpose::Connection);
    if is_managed(host) {
        let generated = secret(&names::redis(host), names::PASSWORD);
        all.push(Reference::secret(
            "spec.ledger.managed",
            generated,
            password.0,
            password.1,
        ));
    }
    if let Some(redis) = &ledger.redis {
        if let Some(given) = redis.password_secret.clone() {
            all.push(Reference::secret(
                "spec.ledger.redis.passwordSecret",
                given,
                password.0,
                password.1,
            ));
        }
        if let Some(given) = redis
            .sentinel
            .as_ref()
            .and_then(|sentinel| sentinel.password_secret.clone())
        {
            let field = "spec.ledger.redis.sentinel.passwordSecret";
            all.push(Reference::secret(
                field,
                given,
                files::SENTINEL_PASSWORD,
                Purpose::Connection,
            ));
        }
        if let Some(bundle) = redis.tls.as_ref().and_then(|tls| tls.ca_bundle.as_ref()) {
            all.push(Reference::bundle(
                "spec.ledger.redis.tls.caBundle",
                bundle,
                files::REDIS_CA,
            ));
        }
    }
    if let Some(rehearsal) = &host.spec.rehearsal {
        let key = rehearsal
            .site_key_secret
            .clone()
            .unwrap_or_else(|| generated(names::SITE_KEY));
        all.push(Reference::secret(
            "spec.rehearsal.siteKeySecret",
            key,
            files::SITE_KEY,
            Purpose::Key,
        ));
        if let Some(management) = &rehearsal.management_secret {
            for (key, file) in [
                (USERNAME, files::MANAGEMENT_USERNAME),
                (PASSWORD, files::MANAGEMENT_PASSWORD),
            ] {
                let given = secret(&management.name, key);
                all.push(Reference::secret(
                    "spec.rehearsal.managementSecret",
                    given,
                    file,
                    Purpose::Start,
                ));
            }
        }
    }
    all
}

/// Whether the operator runs the ledger: so it is unless the spec says something else.
#[must_use]
pub fn is_managed(host: &OfficeKmsHost) -> bool {
    host.spec
        .ledger
        .as_ref()
        .is_none_or(|ledger| ledger.redis.is_none() && ledger.memory.is_none())
}

/// Names of what [`Inputs::resolve`] and [`super::secrets::missing`] want to have read.
#[must_use]
pub fn names(host: &OfficeKmsHost) -> Names {
    let mut names = Names::default();
    for reference in mounted(host) {
        names.either(&reference.to_api());
    }
    names
}

/// What children take from the content of Secrets: digests, never the content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    keys: Option<String>,
    redis: Option<String>,
}

impl Inputs {
    /// For a look at the children without a cluster: pods carry no digest of their keys.
    #[must_use]
    pub fn unread() -> Self {
        Self::default()
    }

    /// From what was read of [`names()`].
    ///
    /// # Errors
    /// Every reference that leads nowhere, and every key that is none. The Deployment is better left alone then: its pods
    /// could not start.
    pub fn resolve(host: &OfficeKmsHost, objects: &Objects) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let (mut keys, mut redis) = (Vec::new(), Vec::new());
        for reference in mounted(host) {
            let value = match objects.bytes(&reference.to_api()) {
                Ok(value) => Zeroizing::new(value),
                Err(error) => {
                    problems.push(Problem::new(reference.field, error.to_string()));
                    continue;
                }
            };
            if reference.purpose == Purpose::Key && kms_host::keyfile::parse(&value).is_none() {
                let Reference { name, key, .. } = &reference;
                problems.push(Problem::new(
                    reference.field,
                    format!("the key `{key}` of the Secret `{name}` is no key: it must hold 32 bytes, raw, in hex or in base64; make one with `openssl rand -base64 32`"),
                ));
            }
            match reference.purpose {
                Purpose::Key | Purpose::Start => keys.push((reference.file, value)),
                Purpose::Connection if reference.field == "spec.ledger.managed" => redis.push((reference.file, value)),
                Purpose::Connection => {}
            }
        }
        problems.dedup();
        if problems.is_empty() {
            Ok(Self {
                keys: digest(&keys),
                redis: digest(&redis),
            })
        } else {
            Err(problems)
        }
    }

    pub(super) fn keys_digest(&self) -> Option<&str> {
        self.keys.as_deref()
    }

    pub(super) fn redis_digest(&self) -> Option<&str> {
        self.redis.as_deref()
    }
}

/// One digest over all values: a password that could be guessed never stands in one without a key that could not.
fn digest(values: &[(&str, Zeroizing<Vec<u8>>)]) -> Option<String> {
    if values.is_empty() {
        return None;
    }
    let mut digest = Sha256::new();
    for (name, value) in values {
        for part in [name.as_bytes(), value.as_slice()] {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
    }
    Some(short_digest(&digest.finalize()))
}
