//! Keys and passwords that nobody gave: generated once, never again, never overwritten.
//!
//! They are created and never applied: a Secret that exists is left as it is, whatever is in it. If it lacks a key that
//! is needed, that is told, because a new ledger key would make all that was recorded unreadable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use secrecy::zeroize::Zeroizing;

use super::common::{Component, metadata};
use super::{names, references};
use crate::api::{DeletionPolicy, OfficeKmsHost};
use crate::secrets::Objects;

/// A Secret that is to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it belongs to.
    pub component: Component,
    /// Its keys, each with 32 random bytes.
    pub keys: Vec<&'static str>,
}

/// The Secrets that the spec of `host` leaves to the operator.
#[must_use]
pub fn generated(host: &OfficeKmsHost) -> Vec<Wanted> {
    let (keys, redis) = (names::keys(host), names::redis(host));
    let mounted = references::mounted(host);
    let generated_keys = [names::LEDGER_KEY, names::SITE_KEY];
    let wanted: Vec<_> = generated_keys
        .into_iter()
        .filter(|key| {
            mounted
                .iter()
                .any(|reference| reference.name == keys && reference.key == *key)
        })
        .collect();
    let mut all = Vec::new();
    if !wanted.is_empty() && !is_given(host, &keys) {
        all.push(Wanted {
            name: keys,
            component: Component::Host,
            keys: wanted,
        });
    }
    if references::is_managed(host) {
        all.push(Wanted {
            name: redis,
            component: Component::Ledger,
            keys: vec![names::PASSWORD],
        });
    }
    all
}

/// Whether the user names the Secret: then it is the user's, whatever its name.
fn is_given(host: &OfficeKmsHost, name: &str) -> bool {
    let ledger = host.spec.ledger.as_ref().and_then(|ledger| ledger.key_secret.as_ref());
    let site = host
        .spec
        .rehearsal
        .as_ref()
        .and_then(|rehearsal| rehearsal.site_key_secret.as_ref());
    ledger.into_iter().chain(site).any(|given| given.name == name)
}

/// Those of [`generated`] that `objects` shows not to exist. A Secret that could not be read may exist: it is not in it.
#[must_use]
pub fn missing(host: &OfficeKmsHost, objects: &Objects) -> Vec<Wanted> {
    generated(host)
        .into_iter()
        .filter(|wanted| objects.is_absent(&wanted.name))
        .collect()
}

/// Why no Secret could be generated.
#[derive(Debug, thiserror::Error)]
#[error("the system gave no random bytes: {0}")]
pub struct NoRandomness(pub getrandom::Error);

/// Fills a buffer with random bytes, as [`getrandom::fill`] does.
pub type Fill<'a> = &'a mut dyn FnMut(&mut [u8]) -> Result<(), getrandom::Error>;

/// The Secret `wanted`, for a `create` that fails if it exists after all.
///
/// # Errors
/// When there are no random bytes.
pub fn generate(host: &OfficeKmsHost, wanted: &Wanted, fill: Fill<'_>) -> Result<Secret, NoRandomness> {
    let mut data = BTreeMap::new();
    for key in &wanted.keys {
        let text = random_hex(fill)?;
        if *key == names::PASSWORD {
            let line = format!("requirepass {}\n", text.as_str());
            data.insert(names::AUTH_CONF.to_owned(), ByteString(line.into_bytes()));
        }
        data.insert((*key).to_owned(), ByteString(text.as_bytes().to_vec()));
    }
    let mut metadata = metadata(host, wanted.name.clone(), wanted.component);
    if host.spec.deletion_policy == DeletionPolicy::Retain {
        // Without an owner it stays, and a resource of the same name finds it again.
        metadata.owner_references = None;
    }
    Ok(Secret {
        metadata,
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

/// 32 random bytes in hex: a key that kms-host reads, and a password that needs no quoting anywhere.
fn random_hex(fill: Fill<'_>) -> Result<Zeroizing<String>, NoRandomness> {
    let mut bytes = Zeroizing::new([0_u8; kms_host::keyfile::KEY_BYTES]);
    fill(bytes.as_mut_slice()).map_err(NoRandomness)?;
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes.len()));
    for byte in bytes.iter() {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
