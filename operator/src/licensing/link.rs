//! The operator's own link to the ledgers of resources: what it reads from licensed hosts goes there, and so to the routing
//! of the replicas.
//!
//! A replica finds passwords and keys as files, which it reads again for each connection. So does this: they are written
//! into a directory of the operator's own, best on a volume in memory, readable by its user only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use kms_host::ledger::{Ledger, LedgerConfig, open};

use super::journal::mark;
use super::resource::Shared;
use crate::api::{ConfigOrSecretKey, OfficeKmsHost, SecretKey};
use crate::build::{Files, Place, host_config, names};
use crate::looks::Key;
use crate::secrets::{Names, Objects, ReadSecrets};

/// Ledgers by resource.
pub struct Ledgers {
    directory: PathBuf,
    open: Mutex<BTreeMap<Key, Open>>,
}

struct Open {
    mark: String,
    ledger: Arc<dyn Ledger>,
}

impl std::fmt::Debug for Ledgers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledgers").finish_non_exhaustive()
    }
}

impl Ledgers {
    /// No ledgers yet; secrets are written below `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            open: Mutex::default(),
        }
    }

    /// The ledger that a resource's replicas share, as far as it can be reached from what the spec says now.
    pub async fn of(&self, key: &Key, host: &OfficeKmsHost, secrets: &dyn ReadSecrets) -> Shared {
        let ledger = host.spec.ledger.as_ref();
        if ledger.is_some_and(|ledger| ledger.memory.is_some()) {
            return Shared::OutOfReach;
        }
        let mut wanted = Names::default();
        for (_, reference) in references(host, &Files::within(&self.directory)) {
            wanted.either(&reference);
        }
        let objects = Objects::read(secrets, &wanted).await;
        match self.opened(key, host, &objects) {
            Ok(ledger) => Shared::Ledger(ledger),
            Err(error) => {
                tracing::debug!(object.ref = %key.name, error = format!("{error:#}"), "the ledger cannot be opened from here yet");
                Shared::NotYet
            }
        }
    }

    /// Closes the ledger of a resource that is gone, and removes its files.
    pub fn forget(&self, key: &Key) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Err(error) = std::fs::remove_dir_all(self.folder(key))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(error = %error, "the files of a ledger that is gone could not be removed");
        }
    }

    fn folder(&self, key: &Key) -> PathBuf {
        // By mark: a UID is the API server's word, and becomes a path here.
        self.directory.join(mark(&[&key.namespace, &key.name, &key.uid]))
    }

    fn opened(&self, key: &Key, host: &OfficeKmsHost, objects: &Objects) -> anyhow::Result<Arc<dyn Ledger>> {
        let folder = self.folder(key);
        let place = Place {
            files: Files::within(&folder),
            ..Place::pod(host)
        };
        let config: LedgerConfig = host_config(host, &place).ledger;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        // A change of the key needs another ledger; one of a password is found with the next connection.
        let mut parts = vec![format!("{config:?}")];
        for (path, reference) in references(host, &place.files) {
            let value = objects.bytes(&reference)?;
            if path == place.files.ledger_key {
                parts.push(mark(&[&format!("{value:?}")]));
            }
            write(&path, &value)?;
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let mark = mark(&parts);
        let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(key).filter(|known| known.mark == mark) {
            return Ok(Arc::clone(&known.ledger));
        }
        let ledger = open(&config)?.ledger;
        let opened = Open {
            mark,
            ledger: Arc::clone(&ledger),
        };
        all.insert(key.clone(), opened);
        Ok(ledger)
    }
}

/// What a ledger's configuration refers to, by the file in which it is looked for.
fn references(host: &OfficeKmsHost, files: &Files) -> Vec<(PathBuf, ConfigOrSecretKey)> {
    let secret = |key: SecretKey| ConfigOrSecretKey {
        config_map: None,
        secret: Some(key.name),
        key: key.key,
    };
    let generated = |name: String, key: &str| SecretKey {
        name,
        key: key.to_owned(),
    };
    let ledger = host.spec.ledger.clone().unwrap_or_default();
    let key = ledger
        .key_secret
        .unwrap_or_else(|| generated(names::keys(host), names::LEDGER_KEY));
    let mut all = vec![(files.ledger_key.clone(), secret(key))];
    let Some(redis) = ledger.redis else {
        let password = generated(names::redis(host), "password");
        all.push((files.redis_password.clone(), secret(password)));
        return all;
    };
    all.extend(
        redis
            .password_secret
            .map(|key| (files.redis_password.clone(), secret(key))),
    );
    let sentinel = redis.sentinel.and_then(|sentinel| sentinel.password_secret);
    all.extend(sentinel.map(|key| (files.sentinel_password.clone(), secret(key))));
    let bundle = redis.tls.and_then(|tls| tls.ca_bundle);
    all.extend(bundle.map(|bundle| (files.redis_ca.clone(), bundle)));
    all
}

/// Writes a file that only its owner reads, if it is not so already.
fn write(path: &Path, value: &[u8]) -> anyhow::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == value) {
        return Ok(());
    }
    let fresh = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)?;
        file.write_all(value)?;
        std::fs::rename(&fresh, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::secrets::tests::secrets;

    fn host(ledger: &str) -> OfficeKmsHost {
        let text = format!(
            "{{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {{name: kms, namespace: n, uid: u}}, spec: \
             {{rehearsal: {{}}, ledger: {ledger}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    const OWN: &str =
        "{redis: {addresses: ['127.0.0.1:1'], username: u, passwordSecret: {name: redis, key: password}}}";

    #[tokio::test]
    async fn a_ledger_is_opened_once_kept_through_a_new_password_and_closed_with_its_resource() {
        let folder = tempfile::tempdir().unwrap();
        let ledgers = Ledgers::new(folder.path());
        let host = host(OWN);
        let key = Key::of(&host);
        let site = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let with = |password| secrets(&[("kms-keys", "ledger-key", site), ("redis", "password", password)]);
        let late = ledgers.of(&key, &host, &secrets(&[])).await;
        assert!(matches!(late, Shared::NotYet), "its secrets come late");
        let first = ledgers.of(&key, &host, &with("one")).await;
        let second = ledgers.of(&key, &host, &with("two")).await;
        let (Shared::Ledger(first), Shared::Ledger(second)) = (first, second) else {
            panic!("a ledger")
        };
        assert!(Arc::ptr_eq(&first, &second));
        let file = ledgers.folder(&key).join("redis-password");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        ledgers.forget(&key);
        assert!(!ledgers.folder(&key).exists());
    }

    #[tokio::test]
    async fn a_replica_s_memory_is_out_of_reach() {
        let host = host("{memory: {}}");
        let ledgers = Ledgers::new(Path::new("/nowhere"));
        let found = ledgers.of(&Key::of(&host), &host, &secrets(&[])).await;
        assert!(matches!(found, Shared::OutOfReach));
    }
}
