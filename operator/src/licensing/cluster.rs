//! The licensed hosts of a cluster's resources: [`super::resource`] in tasks of their own, with the journal in a Secret
//! beside each resource.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, bail};
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::claims::Claims;
use super::link::Ledgers;
use super::metrics::LicensedHosts;
use super::resource::{Outcome, Session, visit};
use super::round::Memory;
use super::store::Store;
use crate::api::OfficeKmsHost;
use crate::apply::FIELD_MANAGER;
use crate::build::common::{INSTANCE, MANAGED_BY};
use crate::client::Gate;
use crate::looks::{Key, Looks, Seen, Wake, about};
use crate::secrets::ReadSecrets;

/// Key of the journal in its Secret.
const JOURNAL: &str = "journal.json";

/// The licensed hosts of all resources.
#[derive(Clone)]
pub struct Hosts {
    client: Client,
    looks: Looks<Outcome>,
    kept: Arc<Mutex<BTreeMap<Key, Arc<Kept>>>>,
    ledgers: Arc<Ledgers>,
    claims: Arc<Claims>,
    metrics: LicensedHosts,
    gate: Gate,
}

impl std::fmt::Debug for Hosts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

struct Kept {
    session: Session,
    store: SecretStore,
}

impl Hosts {
    /// No hosts yet. What is changed on them passes `gate`; `wake` is told when there is something new about a resource.
    #[must_use]
    pub fn new(client: Client, ledgers: Ledgers, metrics: LicensedHosts, gate: Gate, wake: Wake) -> Self {
        Self {
            client,
            looks: Looks::new("licensed hosts", wake),
            kept: Arc::default(),
            ledgers: Arc::new(ledgers),
            claims: Arc::default(),
            metrics,
            gate,
        }
    }

    /// The newest outcome for a resource; begins a look where one is due. Does not wait.
    pub fn look(&self, host: &OfficeKmsHost, secrets: Arc<dyn ReadSecrets>) -> Option<Seen<Outcome>> {
        let key = Key::of(host);
        let spec = &host.spec;
        let subject = about(&[
            json!(spec.licensed_hosts),
            json!(spec.products),
            json!(spec.rehearsal),
            json!(spec.ledger),
            json!(host.annotations().get(super::restart::ANNOTATION)),
        ]);
        let (hosts, host, kept) = (self.clone(), host.clone(), self.kept(&key, host));
        let key_of_look = key.clone();
        let seen = self.looks.ask(&key, subject, move || {
            Box::pin(async move {
                let ledger = hosts.ledgers.of(&key_of_look, &host, &*secrets).await;
                let mut outcome = visit(&host, &*secrets, &kept.session, &kept.store, &ledger, Timestamp::now()).await;
                if let Some(told) = hosts.claims.claim(&key_of_look, &host.spec) {
                    outcome.warn_of(&told);
                }
                let again_in = outcome.again_in;
                (outcome, again_in)
            })
        });
        if let Some(seen) = seen.as_ref().filter(|seen| seen.fresh) {
            self.metrics.read(&key, &seen.outcome);
        }
        seen
    }

    /// Forgets a resource that is gone. Its journal goes with it: a resource made anew begins anew, and an activation that
    /// the host itself shows as refused is still not repeated.
    pub fn forget(&self, key: &Key) {
        self.looks.forget(key);
        self.claims.forget(key);
        self.metrics.forget(key);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.ledgers.forget(key);
    }

    fn kept(&self, key: &Key, host: &OfficeKmsHost) -> Arc<Kept> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            Arc::new(Kept {
                session: Session::behind(self.gate.clone()),
                store: SecretStore::new(self.client.clone(), host),
            })
        };
        Arc::clone(kept.entry(key.clone()).or_insert_with(made))
    }
}

/// Keeps the journal in the Secret `NAME-journal`: it holds marks of keys and passwords, which are not for everybody who may
/// read ConfigMaps.
///
/// Each write says which version it replaces, so that of two writers one is refused, and does nothing.
#[derive(Clone)]
pub struct SecretStore {
    api: Api<Secret>,
    empty: Secret,
    version: Arc<Mutex<Option<String>>>,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretStore").finish_non_exhaustive()
    }
}

impl SecretStore {
    /// The store of a resource.
    #[must_use]
    pub fn new(client: Client, host: &OfficeKmsHost) -> Self {
        let name = host.name_any();
        let labels = [
            ("app.kubernetes.io/name", "kms-host"),
            (INSTANCE, name.as_str()),
            ("app.kubernetes.io/component", "journal"),
            ("app.kubernetes.io/managed-by", MANAGED_BY),
            ("app.kubernetes.io/part-of", "officekms"),
        ];
        let empty = Secret {
            metadata: ObjectMeta {
                name: Some(format!("{name}-journal")),
                labels: Some(labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into()),
                owner_references: host.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            ..Secret::default()
        };
        Self {
            api: Api::namespaced(client, &host.namespace().unwrap_or_default()),
            empty,
            version: Arc::default(),
        }
    }

    fn name(&self) -> String {
        self.empty.name_any()
    }

    fn remember(&self, secret: &Secret) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = secret.resource_version();
    }

    async fn read(&self) -> anyhow::Result<Memory> {
        let found = self.api.get_opt(&self.name()).await;
        let Some(secret) = found.with_context(|| format!("the Secret {} cannot be read", self.name()))? else {
            *self.version.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return Ok(Memory::default());
        };
        let owned = secret.owner_references().iter().any(|owner| {
            let ours = self.empty.owner_references();
            ours.iter().any(|our| our.uid == owner.uid)
        });
        if !owned {
            bail!(
                "the Secret {} is not of this resource: remove it, or rename the resource",
                self.name()
            );
        }
        self.remember(&secret);
        match secret.data.as_ref().and_then(|data| data.get(JOURNAL)) {
            Some(text) => serde_json::from_slice(&text.0)
                .with_context(|| format!("the Secret {} holds no journal: see what changed it", self.name())),
            None => Ok(Memory::default()),
        }
    }

    async fn write(&self, memory: &Memory) -> anyhow::Result<()> {
        let text = ByteString(serde_json::to_vec(memory)?);
        let known = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let written = match known {
            None => {
                let mut secret = self.empty.clone();
                secret.data = Some([(JOURNAL.to_owned(), text)].into());
                self.api.create(&PostParams::default(), &secret).await
            }
            Some(version) => {
                let change = json!({"metadata": {"resourceVersion": version}, "data": {JOURNAL: text}});
                let by = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                self.api.patch(&self.name(), &by, &Patch::Merge(change)).await
            }
        };
        let secret = written.with_context(|| format!("the Secret {} cannot be written", self.name()))?;
        self.remember(&secret);
        Ok(())
    }
}

impl Store for SecretStore {
    fn load(&self) -> BoxFuture<'_, anyhow::Result<Memory>> {
        Box::pin(self.read())
    }

    fn save<'a>(&'a self, memory: &'a Memory) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(self.write(memory))
    }
}
