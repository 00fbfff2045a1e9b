//! What the spec refers to: Secrets and ConfigMaps of the resource's namespace, read by name and only by name.
//!
//! Decisions work on [`Objects`], which were read beforehand; who reads them sits behind [`ReadSecrets`]. Where there is no
//! cluster (`kmsctl up`), [`Objects`] made from the documents of the manifest is that reader itself.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use crate::api::{ConfigOrSecretKey, SecretKey};

/// Largest value that is taken: what the spec refers to are passwords, keys and certificates.
const LARGEST: usize = 512 * 1024;

/// The content of a Secret or ConfigMap. Not shown by `Debug`.
pub type Data = BTreeMap<String, SecretSlice<u8>>;

/// Reads Secrets and ConfigMaps of one namespace.
pub trait ReadSecrets: Send + Sync {
    /// The Secret of this name, if there is one.
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>>;

    /// The ConfigMap of this name, if there is one.
    fn config_map<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>>;
}

/// Why an object could not be read now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} `{name}` cannot be read: {why}")]
pub struct Unreadable {
    /// `Secret` or `ConfigMap`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// What the API server said, and what to do.
    pub why: String,
    /// Whether only people can end it, since a permission is missing.
    pub forbidden: bool,
}

/// Names of what a spec refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
}

impl Names {
    /// Adds a Secret.
    pub fn secret(&mut self, name: &str) {
        self.secrets.insert(name.to_owned());
    }

    /// Adds what a reference to either kind names.
    pub fn either(&mut self, reference: &ConfigOrSecretKey) {
        self.secrets.extend(reference.secret.clone());
        self.config_maps.extend(reference.config_map.clone());
    }
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    secrets: BTreeMap<String, Result<Option<Data>, Unreadable>>,
    config_maps: BTreeMap<String, Result<Option<Data>, Unreadable>>,
}

/// Why a value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// There is no such object.
    #[error("there is no {kind} `{name}` in this namespace: create it")]
    NoObject {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The object has no such key.
    #[error("the {kind} `{name}` has no key `{key}`: add it")]
    NoKey {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The missing key.
        key: String,
    },
    /// The value is no text.
    #[error("the key `{key}` of the {kind} `{name}` is no text of UTF-8")]
    NotText {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// The value is larger than anything that is meant here.
    #[error("the key `{key}` of the {kind} `{name}` is larger than 512 KiB")]
    TooLarge {
        /// `Secret` or `ConfigMap`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// The key.
        key: String,
    },
    /// The object could not be read now.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

impl Objects {
    /// Reads what `names` names, all at the same time.
    pub async fn read(reader: &dyn ReadSecrets, names: &Names) -> Self {
        let secrets = names
            .secrets
            .iter()
            .map(|name| async move { (name.clone(), reader.secret(name).await) });
        let config_maps = names
            .config_maps
            .iter()
            .map(|name| async move { (name.clone(), reader.config_map(name).await) });
        let (secrets, config_maps) = futures::join!(join_all(secrets), join_all(config_maps));
        Self {
            secrets: secrets.into_iter().collect(),
            config_maps: config_maps.into_iter().collect(),
        }
    }

    /// With what `before` has of that which is not there any more, or cannot be read now.
    #[must_use]
    pub fn or_else(mut self, before: &Self) -> Self {
        for (all, before) in [
            (&mut self.secrets, &before.secrets),
            (&mut self.config_maps, &before.config_maps),
        ] {
            for (name, read) in all {
                if let (Ok(None) | Err(_), Some(Ok(Some(data)))) = (&*read, before.get(name)) {
                    *read = Ok(Some(data.clone()));
                }
            }
        }
        self
    }

    /// Adds a Secret, such as a document of a manifest.
    pub fn add_secret(&mut self, secret: Secret) {
        let name = secret.metadata.name.clone().unwrap_or_default();
        self.secrets.insert(name, Ok(Some(secret_data(secret))));
    }

    /// Adds a ConfigMap, such as a document of a manifest.
    pub fn add_config_map(&mut self, config_map: ConfigMap) {
        let name = config_map.metadata.name.clone().unwrap_or_default();
        self.config_maps.insert(name, Ok(Some(config_map_data(config_map))));
    }

    /// Whether the Secret was read.
    #[must_use]
    pub fn has_secret(&self, name: &str) -> bool {
        matches!(self.secrets.get(name), Some(Ok(Some(_))))
    }

    /// Whether the ConfigMap was read.
    #[must_use]
    pub fn has_config_map(&self, name: &str) -> bool {
        matches!(self.config_maps.get(name), Some(Ok(Some(_))))
    }

    /// What could not be read.
    pub fn unreadable(&self) -> impl Iterator<Item = &Unreadable> {
        let all = self.secrets.values().chain(self.config_maps.values());
        all.filter_map(|read| read.as_ref().err())
    }

    /// Whether something was looked for and is not there: it may come soon, as where all is applied in one go.
    #[must_use]
    pub fn lacks_any(&self) -> bool {
        let mut all = self.secrets.values().chain(self.config_maps.values());
        all.any(|read| matches!(read, Ok(None)))
    }

    /// Whether the Secret was looked for and there is none.
    #[must_use]
    pub fn is_absent(&self, name: &str) -> bool {
        matches!(self.secrets.get(name), Some(Ok(None)))
    }

    /// The value of a Secret's key as text.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn text(&self, reference: &SecretKey) -> Result<SecretString, ValueError> {
        self.secret_text(&reference.name, &reference.key)
    }

    /// The value of a Secret's key as text.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn secret_text(&self, name: &str, key: &str) -> Result<SecretString, ValueError> {
        let value = value(&self.secrets, "Secret", name, key)?;
        let text = std::str::from_utf8(value.expose_secret()).map_err(|_| ValueError::NotText {
            kind: "Secret",
            name: name.to_owned(),
            key: key.to_owned(),
        })?;
        Ok(SecretString::from(text))
    }

    /// The bytes that a reference to either kind names.
    ///
    /// # Errors
    /// See [`ValueError`].
    pub fn bytes(&self, reference: &ConfigOrSecretKey) -> Result<Vec<u8>, ValueError> {
        let found = match (&reference.config_map, &reference.secret) {
            (Some(name), _) => value(&self.config_maps, "ConfigMap", name, &reference.key)?,
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                value(&self.secrets, "Secret", name, &reference.key)?
            }
        };
        Ok(found.expose_secret().to_vec())
    }
}

fn value<'a>(
    objects: &'a BTreeMap<String, Result<Option<Data>, Unreadable>>,
    kind: &'static str,
    name: &str,
    key: &str,
) -> Result<&'a SecretSlice<u8>, ValueError> {
    let data = match objects.get(name) {
        Some(Err(error)) => return Err(error.clone().into()),
        Some(Ok(Some(data))) => data,
        Some(Ok(None)) | None => {
            return Err(ValueError::NoObject {
                kind,
                name: name.to_owned(),
            });
        }
    };
    let of = |key: &str| (name.to_owned(), key.to_owned());
    let found = data.get(key).ok_or_else(|| {
        let (name, key) = of(key);
        ValueError::NoKey { kind, name, key }
    })?;
    if found.expose_secret().len() > LARGEST {
        let (name, key) = of(key);
        return Err(ValueError::TooLarge { kind, name, key });
    }
    Ok(found)
}

impl ReadSecrets for Objects {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        let found = self.secrets.get(name).cloned().unwrap_or(Ok(None));
        Box::pin(async move { found })
    }

    fn config_map<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        let found = self.config_maps.get(name).cloned().unwrap_or(Ok(None));
        Box::pin(async move { found })
    }
}

/// What a Secret holds; `stringData` goes before `data`, as the API server merges them.
#[must_use]
pub fn secret_data(secret: Secret) -> Data {
    let data = secret.data.unwrap_or_default().into_iter();
    let mut all: Data = data.map(|(key, value)| (key, SecretSlice::from(value.0))).collect();
    for (key, value) in secret.string_data.unwrap_or_default() {
        all.insert(key, SecretSlice::from(value.into_bytes()));
    }
    all
}

/// What a ConfigMap holds.
#[must_use]
pub fn config_map_data(config_map: ConfigMap) -> Data {
    let text = config_map.data.unwrap_or_default().into_iter();
    let binary = config_map.binary_data.unwrap_or_default().into_iter();
    text.map(|(key, value)| (key, SecretSlice::from(value.into_bytes())))
        .chain(binary.map(|(key, value)| (key, SecretSlice::from(value.0))))
        .collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Secrets of `(name, key, value)`.
    pub(crate) fn secrets(values: &[(&str, &str, &str)]) -> Objects {
        let mut all: BTreeMap<&str, Secret> = BTreeMap::new();
        for (name, key, value) in values {
            let secret = all.entry(name).or_default();
            secret.metadata.name = Some((*name).to_owned());
            let data = secret.string_data.get_or_insert_default();
            data.insert((*key).to_owned(), (*value).to_owned());
        }
        let mut objects = Objects::default();
        all.into_values().for_each(|secret| objects.add_secret(secret));
        objects
    }

    #[tokio::test]
    async fn values_are_found_and_what_is_missing_is_named() {
        let from = secrets(&[("a", "key", "value")]);
        let mut names = Names::default();
        names.secret("a");
        names.secret("b");
        let read = Objects::read(&from, &names).await;
        assert_eq!(read.secret_text("a", "key").unwrap().expose_secret(), "value");
        let missing = read.secret_text("a", "other").unwrap_err().to_string();
        assert_eq!(missing, "the Secret `a` has no key `other`: add it");
        let absent = read.secret_text("b", "key").unwrap_err().to_string();
        assert_eq!(absent, "there is no Secret `b` in this namespace: create it");
        assert!(!format!("{read:?}").contains("value"), "Debug shows no secret");
    }

    #[test]
    fn bytes_that_are_no_text_are_told() {
        let mut secret = Secret::default();
        secret.metadata.name = Some("a".into());
        secret.data = Some([("key".to_owned(), k8s_openapi::ByteString(vec![0xff]))].into());
        let mut objects = Objects::default();
        objects.add_secret(secret);
        assert!(matches!(
            objects.secret_text("a", "key"),
            Err(ValueError::NotText { .. })
        ));
    }
}
