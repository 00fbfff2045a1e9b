//! What goes wrong around a resource, on a real API server: each ends ready, or with a condition that names what to fix, and
//! no resource is held up by another.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_operator::api::OfficeKmsHost;
use kms_operator::kinds::{KINDS, Watched};
use kms_operator::rbac;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use system_tests::operator::{Operator, becomes, cluster};
use system_tests::proxy::Proxy;
use system_tests::story::{NAMESPACE, Story, everything, grant, know_service_monitors};

/// UIDs of a resource's children of a kind, by name.
async fn children(client: &Client, kind: &'static kms_operator::kinds::ChildKind) -> Result<Vec<(String, String)>> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind.resource());
    let of_kms = ListParams::default().labels("app.kubernetes.io/instance=kms");
    let all = api.list_metadata(&of_kms).await?.items;
    Ok(all
        .into_iter()
        .map(|child| (child.name_any(), child.uid().unwrap_or_default()))
        .collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_child_that_is_deleted_by_hand_comes_back() -> Result<()> {
    let Some(story) = Story::begin("every_child_that_is_deleted_by_hand_comes_back").await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    story.create("kms", everything()).await?;
    story.runs("kms").await?;
    for kind in &KINDS {
        let mut before = Vec::new();
        becomes(&format!("there is a {}", kind.kind), async || {
            before = children(&story.client, kind).await?;
            // Keys are never made a second time.
            before.retain(|(name, _)| name != "kms-keys");
            Ok(!before.is_empty())
        })
        .await?;
        let api: Api<DynamicObject> = Api::namespaced_with(story.client.clone(), NAMESPACE, &kind.resource());
        for (name, _) in &before {
            api.delete(name, &DeleteParams::default()).await?;
        }
        // Secrets are not watched: they are seen to be gone at the next look that reads them.
        becomes(&format!("every {} is made anew", kind.kind), async || {
            let mut after = children(&story.client, kind).await?;
            after.retain(|(name, _)| name != "kms-keys");
            let names =
                |all: &[(String, String)]| -> BTreeSet<String> { all.iter().map(|(name, _)| name.clone()).collect() };
            Ok(names(&after) == names(&before) && !after.iter().any(|child| before.contains(child)))
        })
        .await?;
    }
    assert!(KINDS.iter().any(|kind| kind.watched == Watched::ByName));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_keys_that_somebody_deletes_are_not_made_a_second_time() -> Result<()> {
    let Some(story) = Story::begin("generated_keys_that_somebody_deletes_are_not_made_a_second_time").await? else {
        return Ok(());
    };
    story
        .create("kms", json!({"licensedHosts": null, "rehearsal": {}}))
        .await?;
    story.ready("kms").await?;
    let secrets: Api<Secret> = Api::namespaced(story.client.clone(), NAMESPACE);
    let kept = secrets.get("kms-keys").await?;
    secrets.delete("kms-keys", &DeleteParams::default()).await?;
    // Secrets are not watched, but read at each look at a changed spec.
    story
        .change("kms", json!({"spec": {"pod": {"labels": {"look": "again"}}}}))
        .await?;
    let told = story.waits_for("kms", "Stalled", "True", "MissingReference").await?;
    assert!(told.contains("Secret kms-keys"), "{told}");
    // Nor by an operator that starts anew.
    let story = story.restart().await?;
    becomes("the operator has looked again", async || {
        let failed = "okms_operator_errors_total{reason=\"MissingReference\"}";
        Ok(story.operator.metric(failed).await.is_ok_and(|looks| looks > 0.5))
    })
    .await?;
    assert!(secrets.get_opt("kms-keys").await?.is_none());
    let restored = Secret {
        metadata: ObjectMeta {
            name: Some("kms-keys".into()),
            ..ObjectMeta::default()
        },
        ..kept
    };
    secrets.create(&PostParams::default(), &restored).await?;
    story.ready("kms").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_replaces_another_does_not_count_on_keys_that_go_with_it() -> Result<()> {
    let test = "a_resource_that_replaces_another_does_not_count_on_keys_that_go_with_it";
    let Some(story) = Story::begin(test).await? else {
        return Ok(());
    };
    let rehearsal = || json!({"licensedHosts": null, "rehearsal": {}, "ledger": {"memory": {}}});
    story.create("kms", rehearsal()).await?;
    story.ready("kms").await?;
    let secrets: Api<Secret> = Api::namespaced(story.client.clone(), NAMESPACE);
    let before = secrets.get("kms-keys").await?.data;
    story.hosts.delete("kms", &DeleteParams::default()).await?;
    let known = async || -> Result<Option<String>> {
        let status = story.hosts.get("kms").await?.status;
        Ok(status.and_then(|status| status.generated_keys))
    };
    // Nobody collects yet what the first one owned.
    story.create("kms", rehearsal()).await?;
    becomes("it was looked at", async || {
        let status = story.hosts.get("kms").await?.status;
        Ok(status.is_some_and(|status| status.observed_generation == Some(1)))
    })
    .await?;
    assert_eq!(known().await?, None, "they are not this one's");
    for kind in &KINDS {
        let api: Api<DynamicObject> = Api::namespaced_with(story.client.clone(), NAMESPACE, &kind.resource());
        let of_kms = ListParams::default().labels("app.kubernetes.io/instance=kms");
        if kind.absent.is_none() {
            api.delete_collection(&DeleteParams::default(), &of_kms).await?;
        }
    }
    story.ready("kms").await?;
    assert_eq!(known().await?.as_deref(), Some("kms-keys"));
    assert_ne!(secrets.get("kms-keys").await?.data, before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nothing_was_seen_is_found_even_if_the_past_is_forgotten() -> Result<()> {
    let test = "what_happened_while_nothing_was_seen_is_found_even_if_the_past_is_forgotten";
    let Some(plane) = cluster(test).await? else {
        return Ok(());
    };
    grant(&plane.client()?, None, &rbac::in_watched_namespaces()).await?;
    let proxy = Proxy::start(plane.address()?).await?;
    let operator = Operator::start_as(Story::config_at(&plane, proxy.address)?, test, None)?;
    let mut story = Story::with(plane, operator).await?;
    for name in ["kms", "goes"] {
        story.create(name, json!({})).await?;
        story.ready(name).await?;
    }
    let known = story.operator.metric("okms_operator_resources").await?;
    assert!((known - 2.0).abs() < 0.5, "{known} resources");

    proxy.cut();
    story.services.delete("kms", &DeleteParams::default()).await?;
    let change = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": "something-else"}}});
    story
        .deployments
        .patch("kms", &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    story.hosts.delete("goes", &DeleteParams::default()).await?;
    // An API server that begins anew knows nothing of the past: who asks for it is told 410 Gone.
    story.plane.interrupt().await?;
    story.plane.resume().await?;
    proxy.mend();

    becomes("the Service is back", async || {
        Ok(story.services.get_opt("kms").await?.is_some())
    })
    .await?;
    becomes("the label is back", async || {
        let labels = story.deployments.get("kms").await?.metadata.labels.unwrap_or_default();
        Ok(labels.get("app.kubernetes.io/part-of").map(String::as_str) == Some("officekms"))
    })
    .await?;
    becomes("the deleted resource is forgotten", async || {
        Ok((story.operator.metric("okms_operator_resources").await? - 1.0).abs() < 0.5)
    })
    .await?;
    let broke = "okms_operator_watch_errors_total{kind=\"OfficeKmsHost\",verb=\"watch\"}";
    assert!(
        story.operator.metric(broke).await? > 0.5,
        "the watch went on as if nothing had been"
    );
    story.ready("kms").await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fights_for_children_is_named_costs_few_writes_and_holds_up_nobody() -> Result<()> {
    let Some(story) = Story::begin("who_fights_for_children_is_named_costs_few_writes_and_holds_up_nobody").await?
    else {
        return Ok(());
    };
    story.create("kms", json!({})).await?;
    story.ready("kms").await?;
    let before = story.writes().len();
    let storm = tokio::spawn(storm(story.client.clone()));
    let message = story.waits_for("kms", "Ready", "False", "Contested").await?;
    assert!(message.contains("again and again"), "{message}");

    // Meanwhile another is made, and is well.
    story.create("calm", json!({})).await?;
    story.ready("calm").await?;
    assert!(!storm.is_finished(), "the storm went on: {:?}", storm.await);
    storm.abort();
    let all = story.writes().split_off(before);
    let here = all.iter().filter(|line| !line.contains("/events"));
    let (calm, fought) = here.partition::<Vec<_>, _>(|line| line.contains("/calm"));
    assert!(!calm.is_empty());
    // Hundreds of changes; until they are known for a fight each look repairs once, then ever fewer do.
    assert!(fought.len() < 80, "{} writes: {fought:#?}", fought.len());

    story.ready("kms").await?;
    let labels = story.services.get("kms").await?.metadata.labels.unwrap_or_default();
    assert_eq!(
        labels.get("app.kubernetes.io/part-of").map(String::as_str),
        Some("officekms")
    );
    Ok(())
}

/// Changes a Service, the status and the annotations of its resource, again and again.
async fn storm(client: Client) -> Result<()> {
    let services: Api<Service> = Api::namespaced(client.clone(), NAMESPACE);
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client, NAMESPACE);
    let params = PatchParams {
        field_manager: Some("storm".to_owned()),
        ..PatchParams::default()
    };
    for turn in 0_u32.. {
        let label = json!({"metadata": {"labels": {"app.kubernetes.io/part-of": format!("storm-{turn}")}}});
        services.patch_metadata("kms", &params, &Patch::Merge(&label)).await?;
        let lie = json!({"status": {"readyReplicas": turn % 100}});
        hosts.patch_status("kms", &params, &Patch::Merge(&lie)).await?;
        let note = json!({"metadata": {"annotations": {"storm": turn.to_string()}}});
        hosts.patch_metadata("kms", &params, &Patch::Merge(&note)).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_ends_is_told_is_left_alone_and_goes() -> Result<()> {
    let Some(mut story) = Story::begin("a_namespace_that_ends_is_told_is_left_alone_and_goes").await? else {
        return Ok(());
    };
    story.create("kms", json!({})).await?;
    story.ready("kms").await?;
    let namespaces: Api<Namespace> = Api::all(story.client.clone());
    namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
    // Nobody empties it yet: what is deleted by hand cannot come back.
    story.services.delete("kms", &DeleteParams::default()).await?;
    let message = story.waits_for("kms", "Ready", "False", "NamespaceTerminating").await?;
    assert!(message.contains(NAMESPACE), "{message}");
    let stalled = story.condition("kms", "Stalled").await;
    assert_eq!(stalled.0, "False", "nobody has to do anything: {stalled:?}");
    let refused = |story: &Story| story.writes().iter().filter(|line| line.ends_with(" 403")).count();
    let before = refused(&story);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tried = refused(&story) - before;
    assert!(tried <= 10, "it backs off, and tried {tried} times in ten seconds");

    if let Some(why) = story
        .plane
        .control(&["namespace-controller", "garbage-collector-controller"])?
    {
        system_tests::peer::skipped("a_namespace_that_ends_is_told_is_left_alone_and_goes (its end)", &why);
        return Ok(());
    }
    becomes("the namespace is gone", async || {
        Ok(namespaces.get_opt(NAMESPACE).await?.is_none())
    })
    .await?;
    becomes("the resource is forgotten", async || {
        Ok(story.operator.metric("okms_operator_resources").await? < 0.5
            && story.operator.metric("okms_operator_children").await? < 0.5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_bad_resources_hold_up_no_good_one() -> Result<()> {
    let Some(story) = Story::begin("fifty_bad_resources_hold_up_no_good_one").await? else {
        return Ok(());
    };
    let accounts: Api<ServiceAccount> = Api::namespaced(story.client.clone(), NAMESPACE);
    let bad: Vec<String> = (0..50).map(|number| format!("bad-{number}")).collect();
    let made = futures::stream::iter(bad.iter().enumerate()).for_each_concurrent(8, async |(number, name)| {
        if number % 2 == 0 {
            let taken = serde_json::from_value(json!({"metadata": {"name": name}})).expect("an account");
            accounts
                .create(&PostParams::default(), &taken)
                .await
                .expect("an account");
            story.create(name, json!({})).await.expect("a resource");
        } else {
            let ledger = json!({"ledger": {"memory": {}, "keySecret": {"name": "nowhere", "key": "k"}}});
            story.create(name, ledger).await.expect("a resource");
        }
    });
    made.await;
    story.create("good", json!({})).await?;
    story.ready("good").await?;
    becomes("each bad one says why", async || {
        let hosts = story.hosts.list(&ListParams::default()).await?.items;
        let stalled = |host: &OfficeKmsHost| {
            let conditions = host.status.iter().flat_map(|status| &status.conditions);
            let mut of_people =
                conditions.filter(|condition| condition.type_ == "Stalled" && condition.status == "True");
            of_people.any(|condition| matches!(condition.reason.as_str(), "NameTaken" | "MissingReference"))
        };
        Ok(hosts.iter().filter(|host| stalled(host)).count() == bad.len())
    })
    .await?;
    story
        .change("good", json!({"spec": {"service": {"port": 1689}}}))
        .await?;
    becomes("a change of the good one is carried out", async || {
        let spec = story.services.get("good").await?.spec.unwrap_or_default();
        Ok(spec.ports.iter().flatten().any(|port| port.port == 1689))
    })
    .await
}
