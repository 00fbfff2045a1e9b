//! Secrets of a resource: those that its spec names are read, those that nobody gave are made, and those are kept or go with it
//! as its deletion policy says.

use std::time::Instant;

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::Work;
use crate::apply::{ApplyError, FIELD_MANAGER, Verb};
use crate::build::{self, Inputs, names, references};
use crate::conditions::reason;
use crate::control::secrets::FromCluster;
use crate::kinds::SECRET;
use crate::secrets::Objects;
use crate::status;

/// What a key looks like.
const FORM: &str = "each 64 hex digits as `openssl rand -hex 32` prints them";

/// What to do about generated keys that somebody deleted.
fn lost(secret: &str, keys: &[&str]) -> String {
    let refused = match keys.contains(&names::SITE_KEY) {
        true => ", and rehearsal clients would be refused",
        false => "",
    };
    format!(
        "the Secret {secret} with the keys that were generated for this resource is gone, and keys are never made a second \
         time: what the ledger holds could not be read{refused}; restore it, or create it with new keys ({}), {FORM}",
        keys.join(", ")
    )
}

impl Work<'_> {
    /// What the spec refers to, with keys made that nobody gave. None when something is missing.
    pub(super) async fn inputs(&mut self) -> Option<Inputs> {
        let generation = self.generation();
        if let Some(inputs) = self.memory(|memory| memory.inputs(generation, Instant::now())) {
            self.keys = build::secrets::keys(self.host);
            return Some(inputs);
        }
        let secrets = FromCluster::new(&self.context.client, &self.key.namespace).of(&self.uid());
        let names = references::names(self.host);
        let mut objects = Objects::read(&secrets, &names).await;
        let missing = build::secrets::missing(self.host, &objects);
        let mut anew = false;
        for wanted in &missing {
            if build::secrets::was_there(self.host, wanted) {
                self.settled = false;
                self.trouble(reason::MISSING_REFERENCE, lost(&wanted.name, &wanted.keys), true);
                return None;
            }
            match self.generate(wanted).await {
                Ok(Some(secret)) => {
                    self.made.push(wanted.name.clone());
                    objects.add_secret(secret);
                }
                Ok(None) => anew = true,
                Err(error) => self.failed(&error),
            }
        }
        if anew {
            objects = Objects::read(&secrets, &names).await;
        }
        let mut readable = true;
        for unreadable in objects.unreadable() {
            let reason = match unreadable.forbidden {
                true => reason::FORBIDDEN,
                false => reason::API_UNAVAILABLE,
            };
            self.trouble(reason, unreadable.to_string(), unreadable.forbidden);
            readable = false;
        }
        if !readable {
            self.settled = false;
            return None;
        }
        match Inputs::resolve(self.host, &objects) {
            Ok(inputs) => {
                self.keys = build::secrets::keys(self.host);
                self.memory(|memory| memory.keep(generation, Instant::now(), inputs.clone()));
                Some(inputs)
            }
            Err(problems) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let mut told = told.join("; ");
                if build::secrets::keys(self.host).is_some_and(|keys| objects.has_secret(&keys)) {
                    told = format!("{told} (keys: {FORM})");
                }
                // What people were called for once is not on its way again because the operator has restarted.
                let comes = objects.lacks_any()
                    && !status::is_stalled(self.host, reason::MISSING_REFERENCE)
                    && self.memory(|memory| memory.may_come(Instant::now()));
                self.settled = false;
                self.trouble(reason::MISSING_REFERENCE, told, !comes);
                None
            }
        }
    }

    /// Has generated Secrets go with the resource or stay, as its deletion policy says now.
    pub(super) async fn settle_owners(&mut self) {
        let policy = self.host.spec.deletion_policy;
        let generated = build::secrets::generated(self.host);
        let names: Vec<String> = generated.iter().map(|wanted| wanted.name.clone()).collect();
        if self.memory(|memory| memory.has_owned(policy, &names)) {
            return;
        }
        for wanted in &generated {
            if self.made.contains(&wanted.name) {
                continue;
            }
            match self.settle_owner(wanted).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return self.failed(&error),
            }
        }
        self.memory(|memory| memory.own(policy, names));
    }

    /// The same for one Secret. Whether it is there.
    async fn settle_owner(&self, wanted: &build::secrets::Wanted) -> Result<bool, ApplyError> {
        let (namespace, name) = (&self.key.namespace, wanted.name.as_str());
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), namespace);
        let found = api.get_metadata_opt(name).await;
        let found = found.map_err(|error| ApplyError::of(error, Verb::Get, &SECRET, namespace, name))?;
        let Some(found) = found else { return Ok(false) };
        let Some(owners) = build::secrets::owners(self.host, wanted, &found.metadata) else {
            return Ok(true);
        };
        // With the version that this was decided on: another of this name, or somebody else's owner, is never touched.
        let patch = json!({"metadata": {
            "uid": found.metadata.uid, "resourceVersion": found.metadata.resource_version, "ownerReferences": owners,
        }});
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = api.patch_metadata(name, &params, &Patch::Merge(&patch)).await;
        patched.map_err(|error| ApplyError::of(error, Verb::Patch, &SECRET, namespace, name))?;
        self.context.metrics.wrote("Secret", "patch");
        let stays = owners.is_empty();
        tracing::info!(object.r#ref = %self.key, secret = name, stays, "generated keys follow the deletion policy");
        Ok(true)
    }

    /// Creates a Secret that nobody gave. None when it came into being meanwhile: then it is left as
    /// it is.
    async fn generate(&self, wanted: &build::secrets::Wanted) -> Result<Option<Secret>, ApplyError> {
        let mut fill = |buffer: &mut [u8]| getrandom::fill(buffer);
        let secret = build::secrets::generate(self.host, wanted, &mut fill).map_err(|error| ApplyError::Refused {
            kind: "Secret",
            name: wanted.name.clone(),
            said: error.to_string(),
        })?;
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        match api
            .create(
                &PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                },
                &secret,
            )
            .await
        {
            Ok(made) => {
                self.context.metrics.wrote("Secret", "create");
                tracing::info!(object.r#ref = %self.key, secret = %wanted.name, "keys that nobody gave were generated, once");
                Ok(Some(made))
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(None),
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Create,
                &SECRET,
                &self.key.namespace,
                &wanted.name,
            )),
        }
    }
}
