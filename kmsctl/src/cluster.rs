//! The cluster that a kubeconfig names, or the one that this process is a pod of.

use anyhow::{Context as _, Result};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kms_operator::secrets::{Data, ReadSecrets, Unreadable, config_map_data, secret_data};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};

/// A client for the context of this name, or else for the current one, and the namespace that it is for.
///
/// # Errors
/// When there is no kubeconfig, or it cannot be used.
pub async fn connect(context: Option<&str>) -> Result<(Client, String)> {
    let config = match context {
        Some(context) => {
            let options = KubeConfigOptions {
                context: Some(context.to_owned()),
                ..KubeConfigOptions::default()
            };
            let config = Config::from_kubeconfig(&options).await;
            config.context("the kubeconfig cannot be used")?
        }
        None => Config::infer()
            .await
            .context("there is no kubeconfig, nor is this a pod")?,
    };
    let namespace = config.default_namespace.clone();
    let client = Client::try_from(config).context("the kubeconfig cannot be used")?;
    Ok((client, namespace))
}

/// What to say of an error: that something may not be read is common for whoever is no administrator.
#[must_use]
pub fn why(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => format!("you may not do it ({})", status.message),
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

/// Secrets and ConfigMaps of a namespace, read by the rights of whoever asks.
pub struct InNamespace {
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
}

impl InNamespace {
    /// Of this namespace.
    #[must_use]
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            config_maps: Api::namespaced(client.clone(), namespace),
        }
    }
}

fn unreadable(kind: &'static str, name: &str, error: &kube::Error) -> Unreadable {
    Unreadable {
        kind,
        name: name.to_owned(),
        why: why(error),
        forbidden: matches!(error, kube::Error::Api(status) if status.code == 403),
    }
}

impl ReadSecrets for InNamespace {
    fn secret<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self.secrets.get_opt(name).await;
            found
                .map(|secret| secret.map(secret_data))
                .map_err(|error| unreadable("Secret", name, &error))
        })
    }

    fn config_map<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Data>, Unreadable>> {
        Box::pin(async move {
            let found = self.config_maps.get_opt(name).await;
            found
                .map(|config_map| config_map.map(config_map_data))
                .map_err(|error| unreadable("ConfigMap", name, &error))
        })
    }
}
