//! A resource's life on a real API server.

use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};
use kms_operator::api::OfficeKmsHost;
use kms_operator::rbac;
use kube::CustomResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use system_tests::operator::{Operator, apply, becomes, cluster};
use system_tests::replica::eventually;
use system_tests::story::{LOOKS, NAMESPACE, OPERATOR, Story, grant, namespace, resource};

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
    becomes("the Service is back", async || {
        Ok(story.services.get_opt("kms").await?.is_some())
    })
    .await?;
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
    let before = story.writes().len();
    let story = story.restart().await?;
    tokio::time::sleep(LOOKS).await;
    let last: Vec<_> = story.writes().into_iter().rev().take(4).collect();
    assert_eq!(story.writes().len(), before, "a restart writes nothing: {last:#?}");
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
    let message = story
        .waits_for("late", "Reconciling", "True", "MissingReference")
        .await?;
    assert!(message.contains("coming"), "it may be on its way: {message}");
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
    let before = story.hosts.get("good").await?.metadata.generation;
    story
        .change("good", json!({"spec": {"service": {"port": 1689}}}))
        .await?;
    story.waits_for("good", "Ready", "False", "PausedByAnnotation").await?;
    let status = story.hosts.get("good").await?.status.unwrap_or_default();
    assert_eq!(status.observed_generation, before, "the new spec was not carried out");
    story
        .hosts
        .patch("good", &PatchParams::default(), &Patch::Merge(pause(Value::Null)))
        .await?;
    becomes("the Service is back", async || {
        Ok(story.services.get_opt("good").await?.is_some())
    })
    .await?;
    story.ready("good").await?;
    let host = story.hosts.get("good").await?;
    assert_eq!(
        host.status.unwrap_or_default().observed_generation,
        host.metadata.generation
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_looked_at_is_not_ready_and_one_that_cannot_be_read_is_told() -> Result<()> {
    let test = "one_that_nobody_looked_at_is_not_ready_and_one_that_cannot_be_read_is_told";
    let Some(plane) = cluster(test).await? else {
        return Ok(());
    };
    let client = plane.client()?;
    namespace(&client, NAMESPACE).await?;
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), NAMESPACE);
    let new = hosts
        .create(&PostParams::default(), &resource("kms", json!({}))?)
        .await?;
    let status = new.status.unwrap_or_default();
    assert_eq!(status.observed_generation, Some(-1), "kstatus waits for an operator");

    // The CRD of a version that knows one policy more.
    let policy = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/deletionPolicy/enum";
    let mut newer = serde_json::to_value(OfficeKmsHost::crd())?;
    let policies = newer.pointer_mut(policy).and_then(Value::as_array_mut);
    policies.context("policies")?.push(json!("Sometimes"));
    apply(&client, &newer).await?;
    let kind = kms_operator::kinds::HOST.resource();
    let unread: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    becomes("the API server knows the policy", async || {
        let mut newer = serde_json::to_value(resource("newer", json!({}))?)?;
        if let Some(spec) = newer.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("deletionPolicy".to_owned(), json!("Sometimes"));
        }
        let newer: DynamicObject = serde_json::from_value(newer)?;
        Ok(unread.create(&PostParams::default(), &newer).await.is_ok())
    })
    .await?;
    grant(&client, None, &rbac::in_watched_namespaces()).await?;
    let operator = Operator::start_as(plane.config_of(OPERATOR, &[]), test, None)?;
    let story = Story::with(plane, operator).await?;
    story.ready("kms").await?;
    becomes("it is told what cannot be read", async || {
        let newer = unread.get("newer").await?;
        let conditions = newer.data.pointer("/status/conditions").and_then(Value::as_array);
        let stalled = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "Stalled");
        Ok(stalled.is_some_and(|stalled| {
            stalled["status"] == "True"
                && stalled["reason"] == "InvalidSpec"
                && stalled["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("Sometimes"))
        }))
    })
    .await?;
    assert!(story.services.get_opt("newer").await?.is_none());
    story.is_quiet().await?;
    let known = json!({"spec": {"deletionPolicy": "Retain"}});
    unread
        .patch("newer", &PatchParams::default(), &Patch::Merge(&known))
        .await?;
    story.ready("newer").await
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
    becomes("the Service is back", async || {
        Ok(story.services.get_opt("kms").await?.is_some())
    })
    .await?;
    story.create("second", json!({})).await?;
    story.ready("second").await
}
