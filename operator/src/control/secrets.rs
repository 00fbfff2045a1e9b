//! Secrets and ConfigMaps of one namespace, read from the API server by name. Nothing is listed, watched or kept.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_host::telemetry::chain;
use kube::{Api, Client};

use crate::api::GROUP;
use crate::apply::{ApplyError, Verb};
use crate::kinds::{CONFIG_MAP, ChildKind, HOST, SECRET};
use crate::secrets::{Data, ReadSecrets, Unreadable, config_map_data, secret_data};

/// Reads from the API server.
#[derive(Clone)]
pub struct FromCluster {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    namespace: String,
    /// UID of the resource for which they are read.
    of: Option<String>,
}

impl FromCluster {
    /// Of a namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
            of: None,
        }
    }

    /// The same for a resource: a Secret of another resource goes with that one, and is as good as gone.
    #[must_use]
    pub fn of(self, uid: &str) -> Self {
        Self {
            of: Some(uid.to_owned()),
            ..self
        }
    }

    fn unreadable(&self, kind: &'static ChildKind, name: &str, error: kube::Error) -> Unreadable {
        let error = ApplyError::of(error, Verb::Get, kind, &self.namespace, name);
        Unreadable {
            kind: kind.kind,
            name: name.to_owned(),
            why: chain(&error),
            forbidden: matches!(error, ApplyError::Forbidden { .. }),
        }
    }
}

/// Whether an object belongs to another resource than the one with this UID: one of the same name that was deleted, mostly,
/// whose children the garbage collector has not come to yet.
fn is_of_another(object: &ObjectMeta, uid: &str) -> bool {
    let mut owners = object.owner_references.iter().flatten();
    owners.any(|owner| {
        let ours = owner.api_version.starts_with(GROUP) && owner.kind == HOST.kind && owner.controller == Some(true);
        ours && owner.uid != uid
    })
}

impl ReadSecrets for FromCluster {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self
                .secrets
                .get_opt(name)
                .await
                .map_err(|error| self.unreadable(&SECRET, name, error))?;
            let theirs = |secret: &Secret| self.of.as_ref().is_some_and(|uid| is_of_another(&secret.metadata, uid));
            Ok(found.filter(|secret| !theirs(secret)).map(secret_data))
        })
    }

    fn config_map<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self
                .config_maps
                .get_opt(name)
                .await
                .map_err(|error| self.unreadable(&CONFIG_MAP, name, error))?;
            Ok(found.map(config_map_data))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_another_resource_owns_is_not_this_one_s() {
        let owned = |kind: &str, uid: &str| -> ObjectMeta {
            let owner = json!({"apiVersion": "officekms.io/v1alpha1", "kind": kind, "name": "kms", "uid": uid, "controller": true});
            serde_json::from_value(json!({"ownerReferences": [owner]})).expect("metadata")
        };
        assert!(is_of_another(&owned("OfficeKmsHost", "before"), "now"));
        assert!(!is_of_another(&owned("OfficeKmsHost", "now"), "now"));
        assert!(!is_of_another(&owned("SealedSecret", "any"), "now"), "a user's own");
        assert!(!is_of_another(&ObjectMeta::default(), "now"));
    }
}
