//! The permissions of `rbac` are enough, each is needed, and one that is missing is named: by the resource that it holds up,
//! by a metric, and never by another resource.

use anyhow::{Context as _, Result};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kms_operator::kinds::{ChildKind, KINDS, Watched};
use kms_operator::rbac;
use kms_operator::settings::Settings;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use system_tests::operator::{Operator, becomes, cluster};
use system_tests::story::{
    LOOKS, NAMESPACE, OPERATOR, Story, everything, grant, know_service_monitors, namespace, resource,
};

/// What the operator may do, without these verbs on a resource.
fn without(kind: &ChildKind, verbs: &[&str]) -> Vec<PolicyRule> {
    let mut rules = Vec::new();
    for rule in rbac::in_watched_namespaces() {
        let group = rule.api_groups.iter().flatten().any(|group| group == kind.group);
        for resource in rule.resources.iter().flatten() {
            let mut one = PolicyRule {
                resources: Some(vec![resource.clone()]),
                ..rule.clone()
            };
            if group && resource == kind.plural {
                one.verbs.retain(|verb| !verbs.contains(&verb.as_str()));
            }
            rules.push(one);
        }
    }
    rules
}

/// Has the operator lack these verbs on a kind, or nothing, and waits until the API server holds to it.
async fn narrow(story: &Story, kind: &ChildKind, verbs: &[&str]) -> Result<()> {
    let rules = without(kind, verbs);
    grant(&story.client, None, &rules).await?;
    let operator = Client::try_from(story.plane.config_of(OPERATOR, &[]))?;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(operator);
    becomes("the permissions are so", async || {
        for verb in ["get", "create", "patch", "delete"] {
            let review = serde_json::from_value(json!({"spec": {"resourceAttributes": {
                "verb": verb, "group": kind.group, "resource": kind.plural, "namespace": NAMESPACE}}}))?;
            let answer = reviews.create(&PostParams::default(), &review).await?;
            let wanted = rules.iter().any(|rule| {
                let has = |list: &Option<Vec<String>>, what: &str| list.iter().flatten().any(|one| one == what);
                has(&rule.api_groups, kind.group)
                    && has(&rule.resources, kind.plural)
                    && rule.verbs.iter().any(|granted| granted == verb)
            });
            if answer.status.is_some_and(|status| status.allowed) != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .await
}

fn children(story: &Story, kind: &ChildKind) -> Api<DynamicObject> {
    Api::namespaced_with(story.client.clone(), NAMESPACE, &kind.resource())
}

/// Has the operator look at once, as somebody who tries again does.
async fn nudge(story: &Story, turn: &str) -> Result<()> {
    let note = json!({"metadata": {"annotations": {"officekms.io/nudge": turn}}});
    story.change("kms", note).await
}

/// Waits until the resource calls people for this verb on this resource.
async fn is_told(story: &Story, verb: &str, kind: &ChildKind) -> Result<()> {
    let what = format!("the operator may not {verb} {} ", kind.resource_name());
    becomes(&format!("it is told: {what}"), async || {
        let (status, reason, message) = story.condition("kms", "Stalled").await;
        Ok(status == "True" && reason == "Forbidden" && message.contains(&what))
    })
    .await
    .with_context(|| what.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_permission_that_is_missing_is_named_and_needed() -> Result<()> {
    let Some(story) = Story::begin("every_permission_that_is_missing_is_named_and_needed").await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    story.create("kms", everything()).await?;
    for kind in &KINDS {
        becomes(&format!("there is a {}", kind.kind), async || {
            let of_kms = ListParams::default().labels("app.kubernetes.io/instance=kms");
            Ok(!children(&story, kind).list_metadata(&of_kms).await?.items.is_empty())
        })
        .await?;
    }
    for kind in KINDS.iter().filter(|kind| kind.watched != Watched::ByName) {
        let of_kms = ListParams::default().labels("app.kubernetes.io/instance=kms");
        let all = children(&story, kind).list_metadata(&of_kms).await?.items;
        let child = all.first().context("a child")?.name_any();
        // To be made anew a child is applied, and created by that.
        for (turn, verb) in ["patch", "create"].into_iter().enumerate() {
            narrow(&story, kind, &[verb]).await?;
            if turn == 0 {
                children(&story, kind).delete(&child, &DeleteParams::default()).await?;
            } else {
                nudge(&story, &format!("{}-{verb}", kind.kind)).await?;
            }
            is_told(&story, verb, kind).await?;
        }
        narrow(&story, kind, &[]).await?;
        nudge(&story, kind.kind).await?;
        becomes(&format!("the {} is back", kind.kind), async || {
            Ok(children(&story, kind).get_opt(&child).await?.is_some())
        })
        .await?;
        becomes("nobody is called any more", async || {
            Ok(story.condition("kms", "Stalled").await.0 == "False")
        })
        .await?;
    }

    // What is not wanted any more is deleted.
    let policies = ChildKind::named("NetworkPolicy").context("a kind")?;
    narrow(&story, policies, &["delete"]).await?;
    story
        .change("kms", json!({"spec": {"pod": {"networkPolicy": false}}}))
        .await?;
    is_told(&story, "delete", policies).await?;
    narrow(&story, policies, &[]).await?;
    nudge(&story, "delete").await?;
    becomes("the NetworkPolicy is gone", async || {
        Ok(children(&story, policies).get_opt("kms").await?.is_none())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_cannot_be_listed_holds_up_who_asks_for_it_and_nobody_else() -> Result<()> {
    let test = "a_kind_that_cannot_be_listed_holds_up_who_asks_for_it_and_nobody_else";
    let Some(plane) = cluster(test).await? else {
        return Ok(());
    };
    let monitors = ChildKind::named("ServiceMonitor").context("a kind")?;
    know_service_monitors(&plane.client()?).await?;
    grant(&plane.client()?, None, &without(monitors, &["list", "watch"])).await?;
    let operator = Operator::start_as(plane.config_of(OPERATOR, &[]), test, None)?;
    let story = Story::with(plane, operator).await?;
    story.create("plain", json!({})).await?;
    story.ready("plain").await?;
    let monitored = json!({"monitoring": {"serviceMonitor": {}}});
    story.create("kms", monitored).await?;
    is_told(&story, "list", monitors).await?;
    let missing = "okms_operator_missing_permissions{verb=\"list\",resource=\"servicemonitors.monitoring.coreos.com\",\
                   namespace=\"every namespace\"}";
    becomes("the metric names it", async || {
        Ok(story.operator.metric(missing).await? > 0.5)
    })
    .await?;
    grant(&story.client, None, &rbac::in_watched_namespaces()).await?;
    story.ready("kms").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_may_not_be_read_is_a_missing_permission_and_no_missing_secret() -> Result<()> {
    let test = "a_secret_that_may_not_be_read_is_a_missing_permission_and_no_missing_secret";
    let Some(story) = Story::begin(test).await? else {
        return Ok(());
    };
    let secrets = ChildKind::named("Secret").context("a kind")?;
    narrow(&story, secrets, &["get"]).await?;
    story
        .create(
            "kms",
            json!({"ledger": {"memory": {}, "keySecret": {"name": "own", "key": "k"}}}),
        )
        .await?;
    is_told(&story, "get", secrets).await?;
    // Generated ones are not made anew as long as they may be there.
    story.change("kms", json!({"spec": {"ledger": null}})).await?;
    is_told(&story, "get", secrets).await?;
    narrow(&story, secrets, &["create"]).await?;
    nudge(&story, "create").await?;
    is_told(&story, "create", secrets).await?;
    narrow(&story, secrets, &[]).await?;
    nudge(&story, "all").await?;
    story.ready("kms").await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_watches_namespaces_needs_no_more_than_a_role_in_each_and_leaves_others_alone() -> Result<()> {
    let test = "one_that_watches_namespaces_needs_no_more_than_a_role_in_each_and_leaves_others_alone";
    let Some(plane) = cluster(test).await? else {
        return Ok(());
    };
    let client = plane.client()?;
    know_service_monitors(&client).await?;
    for name in [NAMESPACE, "unlisted"] {
        namespace(&client, name).await?;
    }
    grant(&client, Some(NAMESPACE), &rbac::in_watched_namespaces()).await?;
    let settings = Settings {
        watch_namespaces: vec![NAMESPACE.to_owned()],
        ..Settings::default()
    };
    let operator = Operator::start_with(plane.config_of(OPERATOR, &[]), test, None, settings)?;
    let story = Story::with(plane, operator).await?;
    let elsewhere: Api<kms_operator::api::OfficeKmsHost> = Api::namespaced(story.client.clone(), "unlisted");
    elsewhere
        .create(&PostParams::default(), &resource("kms", json!({}))?)
        .await?;
    story.create("kms", everything()).await?;
    story.runs("kms").await?;
    becomes("only the managed ledger is waited for", async || {
        Ok(story.condition("kms", "Ready").await.1 == "LedgerNotReady")
    })
    .await?;
    story.create("plain", json!({})).await?;
    story.ready("plain").await?;
    tokio::time::sleep(LOOKS).await;
    let status = elsewhere.get("kms").await?.status.unwrap_or_default();
    assert_eq!((status.observed_generation, status.conditions.len()), (Some(-1), 0));
    let strayed: Vec<_> = story
        .writes()
        .into_iter()
        .filter(|line| !line.contains(&format!("/namespaces/{NAMESPACE}/")))
        .collect();
    assert_eq!(strayed, Vec::<String>::new());
    assert_eq!(refusals(&story), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rbac_grants_is_enough_for_every_child() -> Result<()> {
    let Some(story) = Story::begin("what_rbac_grants_is_enough_for_every_child").await? else {
        return Ok(());
    };
    know_service_monitors(&story.client).await?;
    story.create("kms", everything()).await?;
    story.runs("kms").await?;
    story.waits_for("kms", "Ready", "False", "LedgerNotReady").await?;
    let less: Value = json!({"spec": {
        "autoscaling": null, "replicas": 1, "monitoring": null, "pod": {"networkPolicy": false}, "ledger": {"managed": null, "memory": {}},
    }});
    story.change("kms", less).await?;
    story.ready("kms").await?;
    assert_eq!(refusals(&story), Vec::<String>::new());
    let roles: Api<ClusterRole> = Api::all(story.client.clone());
    assert_eq!(
        roles.get("kms-operator").await?.rules,
        Some(rbac::in_watched_namespaces()),
        "no more was granted"
    );
    Ok(())
}

/// What the operator was refused.
fn refusals(story: &Story) -> Vec<String> {
    let mut all = story.writes();
    all.retain(|line| line.ends_with(" 403"));
    all
}
