//! A resource's life on a real API server: no kubelet runs, so the test says of Deployments how far they are.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount};
use kms_operator::api::OfficeKmsHost;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::{Operator, cluster};
use system_tests::replica::eventually;

const NAMESPACE: &str = "office";

/// Long enough for several looks at each resource, in which nothing may be written.
const LOOKS: Duration = Duration::from_secs(6);

/// Writes in the namespace so far.
fn writes(plane: &ControlPlane) -> usize {
    let here = format!("/namespaces/{NAMESPACE}/");
    plane.writes().iter().filter(|line| line.contains(&here)).count()
}

struct Story {
    plane: ControlPlane,
    client: Client,
    hosts: Api<OfficeKmsHost>,
    deployments: Api<Deployment>,
    services: Api<Service>,
    operator: Operator,
}

impl Story {
    async fn begin(test: &str) -> Result<Option<Self>> {
        let Some(plane) = cluster(test).await? else {
            return Ok(None);
        };
        let client = plane.client()?;
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::<Namespace>::all(client.clone())
            .create(&PostParams::default(), &namespace)
            .await?;
        let operator = Operator::start_as(plane.config.clone(), test, None)?;
        Ok(Some(Self {
            hosts: Api::namespaced(client.clone(), NAMESPACE),
            deployments: Api::namespaced(client.clone(), NAMESPACE),
            services: Api::namespaced(client.clone(), NAMESPACE),
            plane,
            client,
            operator,
        }))
    }

    async fn create(&self, name: &str, more: Value) -> Result<()> {
        let mut spec = json!({
            "replicas": 1, "ledger": {"memory": {}},
            "licensedHosts": [{"name": "kms01", "address": "192.0.2.7"}]
        });
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let host = serde_json::from_value(json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": name}, "spec": spec
        }))?;
        self.hosts.create(&PostParams::default(), &host).await?;
        Ok(())
    }

    /// `(status, reason, message)` of a condition.
    async fn condition(&self, name: &str, type_: &str) -> (String, String, String) {
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

    async fn waits_for(&self, name: &str, type_: &str, status: &str, reason: &str) -> Result<String> {
        let what = format!("{name} is {type_}={status} {reason}");
        let held = eventually(&what, async || {
            let (is, why, _) = self.condition(name, type_).await;
            is == status && why == reason
        })
        .await;
        let seen = self.condition(name, type_).await;
        held.with_context(|| format!("it is {seen:?}"))?;
        Ok(seen.2)
    }

    /// Has the Deployment look as if its pods ran.
    async fn runs(&self, name: &str) -> Result<()> {
        eventually("the Deployment is there", async || {
            self.deployments.get(name).await.is_ok()
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

    async fn ready(&self, name: &str) -> Result<()> {
        self.runs(name).await?;
        self.waits_for(name, "Ready", "True", "AsSpecified").await.map(drop)
    }

    /// Waits until nothing is written any more, then over many looks.
    async fn is_quiet(&self) -> Result<()> {
        let mut before = writes(&self.plane);
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = writes(&self.plane);
            if now == before {
                break;
            }
            before = now;
        }
        tokio::time::sleep(LOOKS).await;
        let log = self.plane.writes();
        let last = log.iter().rev().take(5).collect::<Vec<_>>();
        anyhow::ensure!(
            writes(&self.plane) == before,
            "a converged resource was written: {last:#?}"
        );
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_becomes_children_is_kept_so_and_costs_no_writes() -> Result<()> {
    let Some(story) = Story::begin("a_resource_becomes_children_is_kept_so_and_costs_no_writes").await? else {
        return Ok(());
    };
    story.create("kms", json!({})).await?;
    story.waits_for("kms", "Reconciling", "True", "Progressing").await?;
    story.ready("kms").await?;
    let host = story.hosts.get("kms").await?;
    let status = host.status.clone().unwrap_or_default();
    assert_eq!(status.observed_generation, host.metadata.generation);
    assert!(!status.endpoints.is_empty());
    Api::<ConfigMap>::namespaced(story.client.clone(), NAMESPACE)
        .get("kms-config")
        .await?;
    Api::<ServiceAccount>::namespaced(story.client.clone(), NAMESPACE)
        .get("kms")
        .await?;
    let owner = story
        .services
        .get("kms")
        .await?
        .metadata
        .owner_references
        .unwrap_or_default();
    assert_eq!(owner.first().map(|owner| owner.uid.clone()), host.metadata.uid);
    story.is_quiet().await?;

    // By hand: a child is deleted, another is changed.
    story.services.delete("kms", &DeleteParams::default()).await?;
    eventually("the Service is back", async || story.services.get("kms").await.is_ok()).await?;
    let change = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "somebody"}}});
    story
        .services
        .patch("kms", &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    eventually("the label is back", async || {
        let service = story.services.get("kms").await.ok();
        let labels = service.and_then(|service| service.metadata.labels).unwrap_or_default();
        labels
            .get("app.kubernetes.io/managed-by")
            .is_some_and(|value| value == "kms-operator")
    })
    .await?;
    story.is_quiet().await?;

    // Somebody lies in the status.
    let lie = json!({"status": {"readyReplicas": 99}});
    story
        .hosts
        .patch_status("kms", &PatchParams::default(), &Patch::Merge(&lie))
        .await?;
    eventually("the status is right again", async || {
        let status = story
            .hosts
            .get("kms")
            .await
            .ok()
            .and_then(|host| host.status)
            .unwrap_or_default();
        status.ready_replicas == Some(1)
    })
    .await?;

    // A new operator finds all as it should be.
    let Story { plane, operator, .. } = story;
    operator.stop().await?;
    let before = writes(&plane);
    let _next = Operator::start_as(plane.config.clone(), "next", None)?;
    tokio::time::sleep(LOOKS).await;
    let last: Vec<_> = plane.writes().into_iter().rev().take(4).collect();
    assert_eq!(writes(&plane), before, "a restart writes nothing: {last:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_is_named_and_ends_when_it_is_put_right() -> Result<()> {
    let Some(story) = Story::begin("what_is_in_the_way_is_named_and_ends_when_it_is_put_right").await? else {
        return Ok(());
    };

    // A Secret that comes late.
    story
        .create(
            "late",
            json!({"ledger": {"memory": {}, "keySecret": {"name": "coming", "key": "k"}}}),
        )
        .await?;
    let message = story.waits_for("late", "Stalled", "True", "MissingReference").await?;
    assert!(message.contains("coming"), "{message}");
    assert!(
        story.deployments.get_opt("late").await?.is_none(),
        "its pods could not start"
    );
    let secret: Secret =
        serde_json::from_value(json!({"metadata": {"name": "coming"}, "stringData": {"k": "00".repeat(32)}}))?;
    Api::<Secret>::namespaced(story.client.clone(), NAMESPACE)
        .create(&PostParams::default(), &secret)
        .await?;
    story.ready("late").await?;

    // A name that is another's is not taken over; the others are not held up by it.
    let mine: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "taken"}}))?;
    let accounts: Api<ServiceAccount> = Api::namespaced(story.client.clone(), NAMESPACE);
    accounts.create(&PostParams::default(), &mine).await?;
    story.create("taken", json!({})).await?;
    let message = story.waits_for("taken", "Stalled", "True", "NameTaken").await?;
    assert!(message.contains("ServiceAccount taken"), "{message}");
    assert!(accounts.get("taken").await?.metadata.owner_references.is_none());
    story.create("good", json!({})).await?;
    story.ready("good").await?;
    accounts.delete("taken", &DeleteParams::default()).await?;
    story.runs("taken").await?;

    // Paused: nothing is put back, and it is shown.
    let pause = |value: Value| json!({"metadata": {"annotations": {"officekms.io/paused": value}}});
    story
        .hosts
        .patch("good", &PatchParams::default(), &Patch::Merge(pause(json!("true"))))
        .await?;
    story.waits_for("good", "Paused", "True", "PausedByAnnotation").await?;
    story.services.delete("good", &DeleteParams::default()).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(story.services.get_opt("good").await?.is_none());
    story
        .hosts
        .patch("good", &PatchParams::default(), &Patch::Merge(pause(Value::Null)))
        .await?;
    eventually("the Service is back", async || story.services.get("good").await.is_ok()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_is_found_again_and_what_happened_meanwhile_is_seen() -> Result<()> {
    let Some(mut story) = Story::begin("an_api_server_that_was_away_is_found_again").await? else {
        return Ok(());
    };
    story.create("kms", json!({})).await?;
    story.ready("kms").await?;
    story.plane.interrupt().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    story.plane.resume().await?;
    story.services.delete("kms", &DeleteParams::default()).await?;
    eventually("the Service is back", async || story.services.get("kms").await.is_ok()).await?;
    story.create("second", json!({})).await?;
    story.ready("second").await
}
