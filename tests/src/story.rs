//! A resource's life: a control plane, an operator that may do there what [`rbac`] says and nothing else, and what tests do
//! with both. No kubelet runs, so the test says of Deployments how far they are.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::rbac::v1::PolicyRule;
use kms_operator::api::OfficeKmsHost;
use kms_operator::rbac;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use std::time::Duration;

use crate::kubernetes::ControlPlane;
use crate::operator::{Operator, apply, becomes, cluster};

/// Where the resources are.
pub const NAMESPACE: &str = "office";
/// Whom the operator acts as.
pub const OPERATOR: &str = "system:serviceaccount:kms:kms-operator";
/// Long enough for several looks at each resource, in which nothing may be written.
pub const LOOKS: Duration = Duration::from_secs(6);

/// A control plane and an operator.
pub struct Story {
    /// The control plane.
    pub plane: ControlPlane,
    /// A user who may do everything.
    pub client: Client,
    /// Resources.
    pub hosts: Api<OfficeKmsHost>,
    /// Their Deployments.
    pub deployments: Api<Deployment>,
    /// Their Services.
    pub services: Api<Service>,
    /// The operator.
    pub operator: Operator,
}

/// Permissions for the operator, in every namespace or in one.
pub async fn grant(client: &Client, namespace: Option<&str>, rules: &[PolicyRule]) -> Result<()> {
    let (role, binding) = match namespace {
        None => ("ClusterRole", "ClusterRoleBinding"),
        Some(_) => ("Role", "RoleBinding"),
    };
    let group = "rbac.authorization.k8s.io";
    let metadata = json!({"name": "kms-operator", "namespace": namespace});
    let version = format!("{group}/v1");
    apply(
        client,
        &json!({"apiVersion": version, "kind": role, "metadata": metadata, "rules": rules}),
    )
    .await?;
    let binding = json!({
        "apiVersion": version, "kind": binding, "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": role, "name": "kms-operator"},
        "subjects": [{"apiGroup": group, "kind": "User", "name": OPERATOR}],
    });
    apply(client, &binding).await
}

/// Makes a namespace.
pub async fn namespace(client: &Client, name: &str) -> Result<()> {
    apply(
        client,
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
    )
    .await
}

/// A resource: a relay of one replica, whose counts need no server, with what a test wants else.
pub fn resource(name: &str, more: Value) -> Result<OfficeKmsHost> {
    let mut spec = json!({
        "replicas": 1, "ledger": {"memory": {}},
        "licensedHosts": [{"name": "kms01", "address": "192.0.2.7"}]
    });
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
        spec.retain(|_, section| !section.is_null());
    }
    Ok(serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": name}, "spec": spec
    }))?)
}

/// What makes the resource of [`resource`] one with every child there is.
#[must_use]
pub fn everything() -> Value {
    json!({
        "licensedHosts": null, "rehearsal": {}, "ledger": {"managed": {}},
        "replicas": null, "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
        "monitoring": {"serviceMonitor": {}},
    })
}

/// Has the cluster know ServiceMonitors, as the Prometheus operator's CRD does.
pub async fn know_service_monitors(client: &Client) -> Result<()> {
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "servicemonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced",
            "names": {"kind": "ServiceMonitor", "plural": "servicemonitors", "singular": "servicemonitor"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}],
        },
    });
    apply(client, &definition).await?;
    let name = "/apis/monitoring.coreos.com/v1/servicemonitors";
    becomes("ServiceMonitors are served", async || {
        let request = http::Request::get(name).body(Vec::new())?;
        Ok(client.request_text(request).await.is_ok())
    })
    .await
}

impl Story {
    /// Begins one, unless no control plane can be had: then the test is told to be skipped.
    pub async fn begin(test: &str) -> Result<Option<Self>> {
        let Some(plane) = cluster(test).await? else {
            return Ok(None);
        };
        grant(&plane.client()?, None, &rbac::in_watched_namespaces()).await?;
        let config = plane.config_of(OPERATOR, &[]);
        let operator = Operator::start_as(config, test, None)?;
        Self::with(plane, operator).await.map(Some)
    }

    /// Begins one with an operator that was started otherwise.
    pub async fn with(plane: ControlPlane, operator: Operator) -> Result<Self> {
        let client = plane.client()?;
        namespace(&client, NAMESPACE).await?;
        Ok(Self {
            hosts: Api::namespaced(client.clone(), NAMESPACE),
            deployments: Api::namespaced(client.clone(), NAMESPACE),
            services: Api::namespaced(client.clone(), NAMESPACE),
            plane,
            client,
            operator,
        })
    }

    /// Stops the operator, and starts another that reaches the API server as the first did.
    pub async fn restart(self) -> Result<Self> {
        let Self { plane, operator, .. } = self;
        operator.stop().await?;
        let operator = Operator::start_as(plane.config_of(OPERATOR, &[]), "next", None)?;
        Self::with(plane, operator).await
    }

    /// The operator's way to the API server, at another address.
    pub fn config_at(plane: &ControlPlane, server: std::net::SocketAddr) -> Result<Config> {
        let mut config = plane.config_of(OPERATOR, &[]);
        config.cluster_url = format!("https://{server}").parse()?;
        Ok(config)
    }

    /// Makes a [`resource`].
    pub async fn create(&self, name: &str, more: Value) -> Result<()> {
        self.hosts
            .create(&PostParams::default(), &resource(name, more)?)
            .await?;
        Ok(())
    }

    /// Changes a resource by a merge patch.
    pub async fn change(&self, name: &str, change: Value) -> Result<()> {
        self.hosts
            .patch(name, &PatchParams::default(), &Patch::Merge(change))
            .await?;
        Ok(())
    }

    /// `(status, reason, message)` of a condition.
    pub async fn condition(&self, name: &str, type_: &str) -> (String, String, String) {
        let status = self
            .hosts
            .get(name)
            .await
            .ok()
            .and_then(|host| host.status)
            .unwrap_or_default();
        let found = status.conditions.into_iter().find(|condition| condition.type_ == type_);
        found
            .map(|found| (found.status, found.reason, found.message))
            .unwrap_or_default()
    }

    /// Waits until a condition is so, and gives its message.
    pub async fn waits_for(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{name} is {type_}={status} {reason}");
        let held = becomes(&what, async || {
            let (is, why, _) = self.condition(name, type_).await;
            Ok(is == status && why == reason)
        })
        .await;
        let seen = self.condition(name, type_).await;
        held.with_context(|| format!("it is {seen:?}"))?;
        Ok(seen.2)
    }

    /// Has the Deployment look as if its pods ran.
    pub async fn runs(&self, name: &str) -> Result<()> {
        becomes("the Deployment is there", async || {
            Ok(self.deployments.get_opt(name).await?.is_some())
        })
        .await?;
        let deployment = self.deployments.get(name).await?;
        let replicas = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation, "replicas": replicas, "updatedReplicas": replicas,
            "readyReplicas": replicas, "availableReplicas": replicas
        }});
        self.deployments
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
        Ok(())
    }

    /// Has the Deployment run, and waits until the resource is ready, as its present generation says.
    pub async fn ready(&self, name: &str) -> Result<()> {
        becomes("the resource is ready", async || {
            self.runs(name).await?;
            let (is, why, _) = self.condition(name, "Ready").await;
            let host = self.hosts.get(name).await?;
            let of = host.status.and_then(|status| status.observed_generation);
            Ok(is == "True" && why == "AsSpecified" && of == host.metadata.generation)
        })
        .await
        .with_context(|| name.to_owned())
    }

    /// Writes that were not the test's own, oldest first.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        let all = self.plane.audit().into_iter();
        all.filter(|write| write.user == OPERATOR)
            .map(|write| format!("{} {} {}", write.verb, write.uri, write.code))
            .collect()
    }

    /// Waits until the operator writes nothing any more, then over many looks.
    pub async fn is_quiet(&self) -> Result<()> {
        let mut before = self.writes().len();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.writes().len();
            if now == before {
                break;
            }
            before = now;
        }
        tokio::time::sleep(LOOKS).await;
        let log = self.writes();
        let last = log.iter().rev().take(5).collect::<Vec<_>>();
        ensure!(log.len() == before, "a converged resource was written: {last:#?}");
        Ok(())
    }
}
