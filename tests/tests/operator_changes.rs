//! What a change of the spec does on a real API server, and what it leaves alone.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kms_operator::kinds::{ChildKind, KINDS};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use system_tests::operator::becomes;
use system_tests::peer::skipped;
use system_tests::story::{NAMESPACE, Story, everything, know_service_monitors};

fn api<K>(story: &Story) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    Api::namespaced(story.client.clone(), NAMESPACE)
}

async fn exists<K>(story: &Story, name: &str, there: bool) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let what = format!("{} {name} is there: {there}", K::kind(&()));
    becomes(&what, async || {
        Ok(api::<K>(story).get_opt(name).await?.is_some() == there)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_spec_does_not_ask_for_any_more_is_removed() -> Result<()> {
    let Some(story) = Story::begin("what_the_spec_does_not_ask_for_any_more_is_removed").await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    let monitors = ChildKind::named("ServiceMonitor").context("a kind")?;
    let monitors: Api<DynamicObject> = Api::namespaced_with(story.client.clone(), NAMESPACE, &monitors.resource());
    story
        .create(
            "kms",
            json!({"replicas": 2, "ledger": {"managed": {}}, "monitoring": {"serviceMonitor": {}}}),
        )
        .await?;
    story.ready("kms").await?;
    exists::<PodDisruptionBudget>(&story, "kms", true).await?;
    exists::<NetworkPolicy>(&story, "kms", true).await?;
    exists::<StatefulSet>(&story, "kms-redis", true).await?;
    assert!(monitors.get_opt("kms").await?.is_some());

    story.change("kms", json!({"spec": {"replicas": 1}})).await?;
    exists::<PodDisruptionBudget>(&story, "kms", false).await?;
    story.change("kms", json!({"spec": {"monitoring": null}})).await?;
    becomes("the ServiceMonitor is gone", async || {
        Ok(monitors.get_opt("kms").await?.is_none())
    })
    .await?;
    story
        .change("kms", json!({"spec": {"pod": {"networkPolicy": false}}}))
        .await?;
    exists::<NetworkPolicy>(&story, "kms", false).await?;
    exists::<NetworkPolicy>(&story, "kms-redis", true).await?;
    story
        .change(
            "kms",
            json!({"spec": {"ledger": {"managed": null, "redis": {"addresses": ["redis:6379"]}}}}),
        )
        .await?;
    exists::<StatefulSet>(&story, "kms-redis", false).await?;
    exists::<NetworkPolicy>(&story, "kms-redis", false).await?;
    exists::<ConfigMap>(&story, "kms-redis", false).await?;
    // Keys are never removed as long as the resource is there: what they sealed would be lost.
    exists::<Secret>(&story, "kms-redis", true).await?;
    story.ready("kms").await?;
    story.is_quiet().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_autoscaler_and_kubectl_scale_decide_and_cost_no_write() -> Result<()> {
    let Some(story) = Story::begin("an_autoscaler_and_kubectl_scale_decide_and_cost_no_write").await? else {
        return Ok(());
    };
    let redis = json!({"redis": {"addresses": ["redis:6379"]}});
    story.create("kms", json!({"replicas": 3, "ledger": redis})).await?;
    story.ready("kms").await?;
    let replicas = async |story: &Story| -> Result<Option<i32>> {
        Ok(story.deployments.get("kms").await?.spec.and_then(|spec| spec.replicas))
    };

    // kubectl scale okms kms --replicas 2
    let scaled = story
        .hosts
        .patch_scale(
            "kms",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 2}})),
        )
        .await?;
    assert_eq!(scaled.spec.and_then(|spec| spec.replicas), Some(2));
    becomes(
        "the Deployment follows",
        async || Ok(replicas(&story).await? == Some(2)),
    )
    .await?;
    story.ready("kms").await?;
    let scale: Scale = story.hosts.get_scale("kms").await?;
    let status = scale.status.context("a status")?;
    assert_eq!(status.replicas, 2);
    assert!(
        status
            .selector
            .is_some_and(|selector| selector.contains("app.kubernetes.io/instance=kms"))
    );

    // The autoscaler takes over where the number was.
    let autoscaling = json!({"spec": {"replicas": null, "autoscaling": {"minReplicas": 1, "maxReplicas": 5}}});
    story.change("kms", autoscaling).await?;
    exists::<HorizontalPodAutoscaler>(&story, "kms", true).await?;
    assert_eq!(replicas(&story).await?, Some(2), "it does not fall back to 1");
    story.ready("kms").await?;
    story.is_quiet().await?;
    let before = story.writes();
    story
        .deployments
        .patch_scale(
            "kms",
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"replicas": 4}})),
        )
        .await?;
    becomes("the status tells of four replicas", async || {
        story.runs("kms").await?;
        let status = story.hosts.get("kms").await?.status.unwrap_or_default();
        Ok(status.ready_replicas == Some(4))
    })
    .await?;
    story.is_quiet().await?;
    assert_eq!(replicas(&story).await?, Some(4), "it is left as the autoscaler set it");
    let beside: Vec<_> = story.writes().split_off(before.len());
    assert!(
        beside
            .iter()
            .all(|line| line.contains("/officekmshosts/kms/status") || line.contains("/events")),
        "{beside:#?}"
    );

    // And back to a number.
    story
        .change("kms", json!({"spec": {"replicas": 3, "autoscaling": null}}))
        .await?;
    becomes(
        "the Deployment follows",
        async || Ok(replicas(&story).await? == Some(3)),
    )
    .await?;
    exists::<HorizontalPodAutoscaler>(&story, "kms", false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_rolls_pods_only_when_they_must_start_anew_and_keys_stay() -> Result<()> {
    let test = "a_change_rolls_pods_only_when_they_must_start_anew_and_keys_stay";
    let Some(story) = Story::begin(test).await? else {
        return Ok(());
    };
    story.create("kms", json!({"ledger": {"managed": {}}})).await?;
    story.ready("kms").await?;
    let keys = async |story: &Story| -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for name in ["kms-keys", "kms-redis"] {
            let secret = api::<Secret>(story).get(name).await?;
            for (key, value) in secret.data.unwrap_or_default() {
                all.insert(format!("{name}/{key}"), serde_json::to_string(&value)?);
            }
        }
        Ok(all)
    };
    let (keys_before, template) = (keys(&story).await?, template(&story).await?);
    assert_eq!(keys_before.len(), 3, "{:?}", keys_before.keys());

    let before = story.writes().len();
    let hosts = json!([{"name": "kms01", "address": "192.0.2.7"}, {"name": "kms02", "address": "192.0.2.8"}]);
    story.change("kms", json!({"spec": {"licensedHosts": hosts}})).await?;
    becomes("the configuration names both", async || {
        let config = api::<ConfigMap>(&story)
            .get("kms-config")
            .await?
            .data
            .unwrap_or_default();
        Ok(config.values().any(|text| text.contains("192.0.2.8")))
    })
    .await?;
    story.ready("kms").await?;
    story.is_quiet().await?;
    let after = story.writes().split_off(before);
    let children = after
        .iter()
        .filter(|line| !line.contains("/officekmshosts/") && !line.contains("/events"));
    let children: Vec<_> = children.collect();
    assert!(
        children.len() == 1 && children.iter().all(|line| line.contains("/configmaps/kms-config")),
        "only the configuration is written: {children:#?}"
    );
    assert_eq!(self::template(&story).await?, template, "no pod starts anew");

    story
        .change(
            "kms",
            json!({"spec": {"ledger": {"managed": null, "redis": {"addresses": ["redis:6379"]}}}}),
        )
        .await?;
    becomes("pods start anew with another ledger", async || {
        Ok(self::template(&story).await? != template)
    })
    .await?;
    story
        .change("kms", json!({"spec": {"ledger": {"redis": null, "managed": {}}}}))
        .await?;
    exists::<StatefulSet>(&story, "kms-redis", true).await?;
    let story = story.restart().await?;
    story.ready("kms").await?;
    story.is_quiet().await?;
    assert_eq!(keys(&story).await?, keys_before);
    Ok(())
}

async fn template(story: &Story) -> Result<Value> {
    let deployment = story.deployments.get("kms").await?;
    Ok(json!(deployment.spec.context("a spec")?.template))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_with_every_child_costs_no_write_once_it_stands() -> Result<()> {
    let Some(story) = Story::begin("a_resource_with_every_child_costs_no_write_once_it_stands").await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    story.create("kms", everything()).await?;
    story.runs("kms").await?;
    let sets = api::<StatefulSet>(&story);
    let generation = sets.get("kms-redis").await?.metadata.generation;
    let running =
        json!({"status": {"observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}});
    sets.patch_status("kms-redis", &PatchParams::default(), &Patch::Merge(&running))
        .await?;
    story.ready("kms").await?;
    for kind in &KINDS {
        let api: Api<DynamicObject> = Api::namespaced_with(story.client.clone(), NAMESPACE, &kind.resource());
        let of_kms = ListParams::default().labels("app.kubernetes.io/instance=kms");
        assert!(!api.list_metadata(&of_kms).await?.items.is_empty(), "no {}", kind.kind);
    }
    story.is_quiet().await?;
    let before = story.writes().len();
    let story = story.restart().await?;
    story.is_quiet().await?;
    let after = story.writes().split_off(before);
    assert_eq!(after, Vec::<String>::new(), "a restart writes nothing");
    Ok(())
}

/// Names of what has the resource as its owner, as `Kind/name`.
async fn owned(story: &Story, uid: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for kind in &KINDS {
        let api: Api<DynamicObject> = Api::namespaced_with(story.client.clone(), NAMESPACE, &kind.resource());
        for child in api.list_metadata(&ListParams::default()).await?.items {
            if child.owner_references().iter().any(|owner| owner.uid == uid) {
                all.push(format!("{}/{}", kind.kind, child.name_any()));
            }
        }
    }
    Ok(all)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_deletion_leaves_follows_the_policy_as_it_is_then() -> Result<()> {
    let test = "what_deletion_leaves_follows_the_policy_as_it_is_then";
    let Some(mut story) = Story::begin(test).await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    let secrets = ["Secret/kms-keys", "Secret/kms-redis"];
    let own_secrets = async |story: &Story, uid: &str, own: bool| {
        becomes(&format!("the generated Secrets have an owner: {own}"), async || {
            let owned = owned(story, uid).await?;
            Ok(secrets
                .iter()
                .all(|secret| owned.iter().any(|name| name == secret) == own))
        })
        .await
    };
    story.create("kms", everything()).await?;
    story.runs("kms").await?;
    let uid = story.hosts.get("kms").await?.uid().context("a UID")?;
    own_secrets(&story, &uid, true).await?;
    story
        .change("kms", json!({"spec": {"deletionPolicy": "Retain"}}))
        .await?;
    own_secrets(&story, &uid, false).await?;
    story
        .change("kms", json!({"spec": {"deletionPolicy": "Delete"}}))
        .await?;
    own_secrets(&story, &uid, true).await?;
    story
        .change("kms", json!({"spec": {"deletionPolicy": "Retain"}}))
        .await?;
    own_secrets(&story, &uid, false).await?;
    let keys = api::<Secret>(&story).get("kms-keys").await?.data;

    let controllers = [
        "garbage-collector-controller",
        "statefulset-controller",
        "persistentvolumeclaim-protection-controller",
    ];
    if let Some(why) = story.plane.control(&controllers)? {
        skipped(&format!("{test} (what is collected)"), &why);
        return Ok(());
    }
    let claim = "data-kms-redis-0";
    exists::<PersistentVolumeClaim>(&story, claim, true).await?;
    story.hosts.delete("kms", &DeleteParams::default()).await?;
    becomes("every other child is gone", async || {
        Ok(owned(&story, &uid).await?.is_empty())
    })
    .await?;
    exists::<StatefulSet>(&story, "kms-redis", false).await?;
    assert!(api::<PersistentVolumeClaim>(&story).get_opt(claim).await?.is_some());
    assert_eq!(api::<Secret>(&story).get("kms-keys").await?.data, keys);

    // One of the same name finds them again, and takes them with it if it says so.
    story.create("kms", everything()).await?;
    let uid = story.hosts.get("kms").await?.uid().context("a UID")?;
    own_secrets(&story, &uid, true).await?;
    assert_eq!(api::<Secret>(&story).get("kms-keys").await?.data, keys);
    becomes("every kind of child is there", async || {
        let owned = owned(&story, &uid).await?;
        Ok(KINDS
            .iter()
            .all(|kind| owned.iter().any(|name| name.starts_with(&format!("{}/", kind.kind)))))
    })
    .await?;
    becomes("the volume goes with the StatefulSet", async || {
        let claim = api::<PersistentVolumeClaim>(&story).get(claim).await?;
        Ok(claim.owner_references().iter().any(|owner| owner.kind == "StatefulSet"))
    })
    .await?;
    story.hosts.delete("kms", &DeleteParams::default()).await?;
    becomes("everything is gone", async || Ok(owned(&story, &uid).await?.is_empty())).await?;
    exists::<Secret>(&story, "kms-keys", false).await?;
    exists::<Secret>(&story, "kms-redis", false).await?;
    exists::<PersistentVolumeClaim>(&story, claim, false).await
}
