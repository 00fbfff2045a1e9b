//! Secrets and ConfigMaps of one namespace, read from the API server by name. Nothing is listed, watched or kept.

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client};

use crate::secrets::{Data, ReadSecrets, Unreadable, config_map_data, secret_data};

/// Reads from the API server.
#[derive(Clone)]
pub struct FromCluster {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
}

impl FromCluster {
    /// Of a namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }
}

fn unreadable(kind: &'static str, name: &str, error: kube::Error) -> Unreadable {
    let why = match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!("the operator lacks the permission to get it: {}", status.message)
        }
        kube::Error::Api(status) => status.message,
        error => error.to_string(),
    };
    Unreadable {
        kind,
        name: name.to_owned(),
        why,
    }
}

impl ReadSecrets for FromCluster {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self
                .secrets
                .get_opt(name)
                .await
                .map_err(|error| unreadable("Secret", name, error))?;
            Ok(found.map(secret_data))
        })
    }

    fn config_map<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self
                .config_maps
                .get_opt(name)
                .await
                .map_err(|error| unreadable("ConfigMap", name, error))?;
            Ok(found.map(config_map_data))
        })
    }
}
