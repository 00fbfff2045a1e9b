//! Children as they should be: applied when they are not, left alone when they are, removed when they are not wanted.
//!
//! Server-side apply under one field manager, with force: a field that we want is ours. A child is *converged* when it
//! carries the hash of our present wish and we still own each field of it ([`fields::cover`]): then nothing is sent. What
//! belongs to somebody else is never taken over: before a child is made, its name is looked up.

mod error;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tracing::Instrument as _;

pub use error::{ApplyError, Verb};

use crate::control::children::{Child, ChildId, Children};
use crate::control::facts::Facts;
use crate::fields;
use crate::kinds::{ChildKind, Watched};
use crate::metrics::Metrics;

/// Field manager of all that the operator applies.
pub const FIELD_MANAGER: &str = "kms-operator";

/// Field manager that holds a Deployment's replicas until an autoscaler sets them.
pub const HANDOVER_MANAGER: &str = "kms-operator-handover";

/// A resource version that no object has: etcd's first revision is its own. The API server compares the one in an apply with
/// the object's, so that an apply with this one makes an object, or conflicts with the one that is there.
pub(crate) const VERSION_OF_NONE: &str = "1";

/// Annotation of children: hash of what was applied last.
pub const APPLIED_ANNOTATION: &str = "officekms.io/applied";

/// A child as it should be.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Its kind.
    pub kind: &'static ChildKind,
    /// Its name.
    pub name: String,
    /// Hash of the object.
    pub hash: String,
    /// The object, which carries the hash.
    pub object: Value,
}

impl Wish {
    /// For an object that was built.
    ///
    /// # Errors
    /// When it is of a kind that is not in [`crate::kinds::KINDS`].
    pub fn new(object: &DynamicObject) -> Result<Self, ApplyError> {
        let unknown = || {
            ApplyError::UnknownKind(
                object
                    .types
                    .as_ref()
                    .map(|types| types.kind.clone())
                    .unwrap_or_default(),
            )
        };
        let kind = ChildKind::of(object).ok_or_else(unknown)?;
        let mut value = serde_json::to_value(object).map_err(ApplyError::NoJson)?;
        let digest = Sha256::digest(value.to_string().as_bytes());
        let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(APPLIED_ANNOTATION.to_owned(), Value::String(hash.clone()));
            }
        }
        Ok(Self {
            kind,
            name: object.name_any(),
            hash,
            object: value,
        })
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ChildId<'_> {
        ChildId {
            kind: self.kind.kind,
            name: &self.name,
        }
    }
}

/// What is to be done with a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is as it should be.
    Keep,
    /// Make it.
    Create,
    /// Apply a new wish.
    Update,
    /// Put back what somebody changed.
    Repair {
        /// The field manager that changed it, as far as is known.
        by: Option<String>,
    },
    /// It is on its way out: wait.
    Wait,
    /// It is not ours.
    Taken {
        /// Whose it is.
        by: String,
    },
}

/// What is to be done so that `child` is as `wish` says and belongs to the resource with the UID `owner`.
#[must_use]
pub fn decide(child: Option<&Child>, wish: &Wish, owner: &str) -> Decision {
    let Some(child) = child else { return Decision::Create };
    match &child.owner {
        Some(of) if of.uid == owner => {}
        // Only the applied annotation shows that it was ours and lost its owner.
        None if child.applied.is_some() => {}
        Some(of) if of.name.is_some() && child.deleting => return Decision::Wait,
        Some(of) => return Decision::Taken { by: of.shown.clone() },
        None => {
            return Decision::Taken {
                by: "nobody".to_owned(),
            };
        }
    }
    if child.deleting {
        return Decision::Wait;
    }
    if child.applied.as_ref() == Some(&wish.hash) && fields::cover(&child.owned(), &wish.object) {
        return Decision::Keep;
    }
    match child.applied.as_ref() == Some(&wish.hash) {
        true => Decision::Repair {
            by: child.other.clone(),
        },
        false => Decision::Update,
    }
}

/// What was done with a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Done {
    /// Nothing.
    Kept,
    /// It was made.
    Created,
    /// A new wish was applied.
    Updated,
    /// What somebody had changed was put back.
    Repaired {
        /// The field manager that had changed it.
        by: Option<String>,
    },
    /// It goes, and is made anew afterwards.
    Waits,
    /// It was removed.
    Removed,
}

/// Applies children.
#[derive(Clone)]
pub struct Applier {
    /// The API server.
    pub client: Client,
    /// What is known of children.
    pub children: Arc<Children>,
    /// Where writes are counted.
    pub metrics: Arc<Metrics>,
    /// Whether each namespace is watched on its own.
    pub by_namespace: bool,
}

impl Applier {
    fn api(&self, kind: &ChildKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &kind.resource())
    }

    /// The scope of a namespace's watches.
    fn scope<'a>(&self, namespace: &'a str) -> &'a str {
        if self.by_namespace { namespace } else { "" }
    }

    /// Makes a child as `wish` says. Sends nothing when it is. `all_seen`: whether the watches have shown every child.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, namespace: &str, wish: &Wish, owner: &str, all_seen: bool) -> Result<Done, ApplyError> {
        let known = match wish.kind.watched {
            Watched::ByName => None,
            _ => self.children.get(namespace, wish.id()),
        };
        let decision = decide(known.as_ref(), wish, owner);
        if decision == Decision::Keep {
            return Ok(Done::Kept);
        }
        // For traces: the log has a line of its own.
        let span = tracing::debug_span!(
            "apply",
            child.kind = wish.kind.kind,
            child.name = %wish.name,
            result = tracing::field::Empty
        );
        let carried_out = self.carry_out(namespace, wish, owner, decision, all_seen);
        let done = carried_out.instrument(span.clone()).await;
        match &done {
            Ok(done) => span.record("result", tracing::field::debug(done)),
            Err(error) => span.record("result", error.reason()),
        };
        done
    }

    async fn carry_out(
        &self,
        namespace: &str,
        wish: &Wish,
        owner: &str,
        mut decision: Decision,
        all_seen: bool,
    ) -> Result<Done, ApplyError> {
        if decision == Decision::Create {
            // Nothing that was seen has this name; what is not ours is not watched.
            if all_seen && self.make(namespace, wish).await? {
                return Ok(Done::Created);
            }
            let there = self.look_up(namespace, wish.kind, &wish.name).await?;
            decision = decide(there.as_ref(), wish, owner);
        }
        let done = match decision {
            Decision::Keep => return Ok(Done::Kept),
            Decision::Wait => return Ok(Done::Waits),
            Decision::Taken { by } => {
                return Err(ApplyError::Taken {
                    kind: wish.kind.kind,
                    name: wish.name.clone(),
                    by,
                });
            }
            Decision::Create => Done::Created,
            Decision::Update => Done::Updated,
            Decision::Repair { by } => Done::Repaired { by },
        };
        if wish.kind.kind == "Deployment" && done != Done::Created {
            self.hand_over_replicas(namespace, wish).await?;
        }
        let object = self.patch(namespace, wish, &wish.object).await;
        let object = object.map_err(|error| ApplyError::of(error, Verb::Patch, wish.kind, namespace, &wish.name))?;
        self.applied(namespace, wish, &object, &done);
        Ok(done)
    }

    /// Makes a child in one request. False: an object of its name is there.
    async fn make(&self, namespace: &str, wish: &Wish) -> Result<bool, ApplyError> {
        let mut object = wish.object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), json!(VERSION_OF_NONE));
        }
        match self.patch(namespace, wish, &object).await {
            Ok(object) => {
                self.applied(namespace, wish, &object, &Done::Created);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(ApplyError::of(error, Verb::Patch, wish.kind, namespace, &wish.name)),
        }
    }

    async fn patch(&self, namespace: &str, wish: &Wish, object: &Value) -> Result<DynamicObject, kube::Error> {
        let params = PatchParams::apply(FIELD_MANAGER).force();
        self.api(wish.kind, namespace)
            .patch(&wish.name, &params, &Patch::Apply(object))
            .await
    }

    fn applied(&self, namespace: &str, wish: &Wish, object: &DynamicObject, done: &Done) {
        self.metrics.wrote(wish.kind.kind, "apply");
        self.note(wish.kind, object, namespace);
        tracing::info!(child.kind = wish.kind.kind, child.name = %wish.name, what = ?done, "a child was applied");
    }

    /// Asks the API server for a child, whatever is known of it.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn look_up(
        &self,
        namespace: &str,
        kind: &'static ChildKind,
        name: &str,
    ) -> Result<Option<Child>, ApplyError> {
        let found = self.api(kind, namespace).get_metadata_opt(name).await;
        let found = found.map_err(|error| ApplyError::of(error, Verb::Get, kind, namespace, name))?;
        Ok(found.map(|found| Child::of(&found.metadata, Facts::None)))
    }

    fn note(&self, kind: &'static ChildKind, object: &DynamicObject, namespace: &str) {
        if kind.watched == Watched::ByName {
            return;
        }
        let facts = Facts::of(kind, &object.data);
        let _owner = self.children.put(kind, &object.metadata, facts, self.scope(namespace));
    }

    /// A field that its only manager stops applying falls back to its default, which for replicas is 1. So before they
    /// are left to an autoscaler, another manager of ours takes them as they are.
    async fn hand_over_replicas(&self, namespace: &str, wish: &Wish) -> Result<(), ApplyError> {
        let wanted = wish
            .object
            .pointer("/spec/replicas")
            .is_some_and(|replicas| !replicas.is_null());
        if wanted {
            return Ok(());
        }
        // What is known of it may be the past, or nothing.
        let live = self.api(wish.kind, namespace).get_opt(&wish.name).await;
        let live = live.map_err(|error| ApplyError::of(error, Verb::Get, wish.kind, namespace, &wish.name))?;
        let Some(live) = live else { return Ok(()) };
        let child = Child::of(&live.metadata, Facts::of(wish.kind, &live.data));
        let Facts::Workload(workload) = &child.facts else {
            return Ok(());
        };
        if child.owned().pointer("/f:spec/f:replicas").is_none() {
            return Ok(());
        }
        let replicas = json!({
            "apiVersion": wish.kind.api_version(), "kind": wish.kind.kind,
            // With the version that was read: an autoscaler that is faster is not set back.
            "metadata": {"name": wish.name, "namespace": namespace, "resourceVersion": live.metadata.resource_version},
            "spec": {"replicas": workload.wanted},
        });
        let params = PatchParams::apply(HANDOVER_MANAGER).force();
        let applied = self
            .api(wish.kind, namespace)
            .patch(&wish.name, &params, &Patch::Apply(&replicas))
            .await;
        applied.map_err(|error| ApplyError::of(error, Verb::Patch, wish.kind, namespace, &wish.name))?;
        self.metrics.wrote(wish.kind.kind, "apply");
        Ok(())
    }

    /// Removes a child that is not wanted any more.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn remove(
        &self,
        namespace: &str,
        kind: &'static ChildKind,
        name: &str,
        uid: &str,
    ) -> Result<Done, ApplyError> {
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        match self.api(kind, namespace).delete(name, &params).await {
            Ok(_) => {
                self.metrics.wrote(kind.kind, "delete");
                tracing::info!(child.kind = kind.kind, child.name = %name, "a child that is not wanted any more was removed");
                let gone = ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    uid: Some(uid.to_owned()),
                    ..ObjectMeta::default()
                };
                let _owner = self.children.remove(kind, &gone);
                Ok(Done::Removed)
            }
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(Done::Waits),
            Err(error) => Err(ApplyError::of(error, Verb::Delete, kind, namespace, name)),
        }
    }
}

#[cfg(test)]
mod tests;
