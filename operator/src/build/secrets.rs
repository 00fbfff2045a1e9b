//! Keys and passwords that nobody gave: generated once, never again, never overwritten.
//!
//! They are created and never applied: a Secret that exists is left as it is, whatever is in it. If it lacks a key that
//! is needed, that is told, because a new ledger key would make all that was recorded unreadable. Only whether it goes with
//! its resource follows the deletion policy at any time.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use secrecy::zeroize::Zeroizing;

use super::common::{Component, labels, metadata, owner};
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

/// The Secret of generated keys, if the spec leaves any to the operator.
#[must_use]
pub fn keys(host: &OfficeKmsHost) -> Option<String> {
    let keys = generated(host)
        .into_iter()
        .find(|wanted| wanted.component == Component::Host)?;
    Some(keys.name)
}

/// Whether `wanted` was there before, as the status says: keys are never made a second time. The password of the managed
/// ledger is: it opens nothing that was written, and the ledger takes over the new one.
#[must_use]
pub fn was_there(host: &OfficeKmsHost, wanted: &Wanted) -> bool {
    let known = host.status.as_ref().and_then(|status| status.generated_keys.as_ref());
    known == Some(&wanted.name)
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
    metadata.owner_references = Some(owned(host)).filter(|owners| !owners.is_empty());
    // Without an owner it would look to Argo CD like something left over, where it tracks by label and the application has
    // the resource's name.
    let annotations = [
        ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
        ("argocd.argoproj.io/sync-options", "Prune=false"),
    ];
    metadata.annotations = Some(
        annotations
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
    );
    Ok(Secret {
        metadata,
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

/// The resource as the owner of its generated Secrets. Without an owner they stay, and a resource of the same name finds
/// them again.
fn owned(host: &OfficeKmsHost) -> Vec<OwnerReference> {
    match host.spec.deletion_policy {
        DeletionPolicy::Delete => owner(host).into_iter().collect(),
        DeletionPolicy::Retain => Vec::new(),
    }
}

/// The owners that a generated Secret should have and does not: the deletion policy changed, or it was kept for a resource
/// of this name. None when all is well, and when the Secret is not one that was generated for this name or has another
/// controller.
#[must_use]
pub fn owners(host: &OfficeKmsHost, wanted: &Wanted, found: &ObjectMeta) -> Option<Vec<OwnerReference>> {
    let generated = labels(host, wanted.component);
    let has = |(name, value): (&String, &String)| found.labels.as_ref().and_then(|all| all.get(name)) == Some(value);
    let current = found.owner_references.clone().unwrap_or_default();
    let ours = |reference: &OwnerReference| Some(&reference.uid) == host.metadata.uid.as_ref();
    let another = |reference: &OwnerReference| reference.controller == Some(true) && !ours(reference);
    if !generated.iter().all(has) || current.iter().any(another) {
        return None;
    }
    let others = current.iter().filter(|reference| !ours(reference)).cloned();
    let should: Vec<_> = others.chain(owned(host)).collect();
    (should != current).then_some(should)
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::build::fixtures;

    fn host(policy: &str) -> OfficeKmsHost {
        fixtures::host(json!({"rehearsal": {}, "deletionPolicy": policy}))
    }

    fn keys(of: &OfficeKmsHost) -> (Wanted, ObjectMeta) {
        let wanted = generated(of).remove(0);
        let secret = generate(of, &wanted, &mut |buffer| {
            buffer.fill(7);
            Ok(())
        });
        (wanted, secret.expect("bytes").metadata)
    }

    #[test]
    fn generated_secrets_go_with_the_resource_or_stay_as_its_policy_says_now() {
        let (delete, retain) = (host("Delete"), host("Retain"));
        let (wanted, owned) = keys(&delete);
        let (_, kept) = keys(&retain);
        assert_eq!(owners(&delete, &wanted, &owned), None);
        assert_eq!(owners(&retain, &wanted, &kept), None);
        assert_eq!(owners(&retain, &wanted, &owned), Some(Vec::new()));
        assert_eq!(owners(&delete, &wanted, &kept), owned.owner_references);
    }

    #[test]
    fn only_keys_that_the_status_knows_were_there_before() {
        let mut host = fixtures::host(json!({"rehearsal": {}, "ledger": {"managed": {}}}));
        let name = keys_name(&host);
        assert!(generated(&host).iter().all(|wanted| !was_there(&host, wanted)));
        host.status.get_or_insert_default().generated_keys = Some(name.clone());
        let there = generated(&host).into_iter().filter(|wanted| was_there(&host, wanted));
        assert_eq!(there.map(|wanted| wanted.name).collect::<Vec<_>>(), [name]);
    }

    fn keys_name(host: &OfficeKmsHost) -> String {
        super::keys(host).expect("keys are left to the operator")
    }

    #[test]
    fn a_secret_that_was_not_generated_or_is_another_s_is_never_owned() {
        let delete = host("Delete");
        let (wanted, mut found) = keys(&host("Retain"));
        let reference = |controller: bool| -> OwnerReference {
            let value: Value =
                json!({"apiVersion": "v1", "kind": "Some", "name": "a", "uid": "another", "controller": controller});
            serde_json::from_value(value).expect("a reference")
        };
        found.owner_references = Some(vec![reference(true)]);
        assert_eq!(owners(&delete, &wanted, &found), None);
        found.owner_references = Some(vec![reference(false)]);
        assert_eq!(
            owners(&delete, &wanted, &found).map(|owners| owners.len()),
            Some(2),
            "who is beside us stays"
        );
        found.labels = None;
        assert_eq!(owners(&delete, &wanted, &found), None, "somebody made it by hand");
    }
}
