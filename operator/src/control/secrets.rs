//! Secrets and ConfigMaps of one namespace, read from the API server by name. Nothing is listed, watched or kept.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use super::chain;
use crate::apply::{ApplyError, Verb};
use crate::kinds::{CONFIG_MAP, ChildKind, SECRET};
use crate::secrets::{Data, ReadSecrets, Unreadable, config_map_data, secret_data};

/// Reads from the API server.
#[derive(Clone)]
pub struct FromCluster {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    namespace: String,
}

impl FromCluster {
    /// Of a namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
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

impl ReadSecrets for FromCluster {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self
                .secrets
                .get_opt(name)
                .await
                .map_err(|error| self.unreadable(&SECRET, name, error))?;
            Ok(found.map(secret_data))
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
