//! `kmsctl doctor` on a real API server: from an empty cluster to a resource whose children stand, each state says what is
//! missing next, and a user without rights is told which.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kms_operator::api::OfficeKmsHost;
use kms_operator::{build, rbac};
use kmsctl::doctor::{Finding, State, examine};
use kmsctl::exit::Exit;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, CustomResourceExt as _};
use serde_json::json;
use system_tests::kubernetes::ControlPlane;
use system_tests::peer;
use system_tests::replica::eventually;

/// Findings that are not good, as `STATE about: what`.
async fn ill(client: &Client) -> Result<Vec<String>> {
    let report = examine(client, Some("default"), Some("kms")).await?;
    assert_eq!(
        report.exit() == Exit::Ok,
        report.findings.iter().all(|finding| finding.state > State::NotYet)
    );
    let ill = report
        .findings
        .into_iter()
        .filter(|finding| finding.state != State::Good);
    Ok(ill
        .map(|Finding { state, about, what, .. }| format!("{state:?} {about}: {what}"))
        .collect())
}

fn has(findings: &[String], start: &str) -> bool {
    findings.iter().any(|finding| finding.starts_with(start))
}

/// An operator as the chart labels it, with the permissions `rules`.
async fn operator(client: &Client) -> Result<()> {
    let label = json!({"app.kubernetes.io/name": "kms-operator"});
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "kms-operator", "labels": label},
        "spec": {"selector": {"matchLabels": label}, "template": {
            "metadata": {"labels": label},
            "spec": {"serviceAccountName": "kms-operator", "containers": [{"name": "c", "image": "i"}]}}},
    }))?;
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment).await?;
    let status = json!({"status": {"replicas": 1, "readyReplicas": 1}});
    deployments
        .patch_status("kms-operator", &PatchParams::default(), &Patch::Merge(&status))
        .await?;
    Ok(())
}

async fn grant(client: &Client, user: serde_json::Value, name: &str, role: &ClusterRole) -> Result<()> {
    Api::<ClusterRole>::all(client.clone())
        .create(&PostParams::default(), role)
        .await?;
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [user],
    }))?;
    Api::<ClusterRoleBinding>::all(client.clone())
        .create(&PostParams::default(), &binding)
        .await?;
    Ok(())
}

#[tokio::test]
async fn doctor_names_what_is_missing_until_nothing_is() -> Result<()> {
    if let Some(why) = ControlPlane::missing() {
        peer::skipped("doctor_names_what_is_missing_until_nothing_is", &why);
        return Ok(());
    }
    let plane = ControlPlane::start().await?;
    let client = plane.client()?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    eventually("the default namespace is there", async || {
        namespaces.get("default").await.is_ok()
    })
    .await?;

    let found = ill(&client).await?;
    assert!(
        has(&found, "Wrong CRD: officekmshosts.officekms.io is not installed"),
        "{found:#?}"
    );
    assert!(has(&found, "Wrong operator: there is none"), "{found:#?}");

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .create(&PostParams::default(), &OfficeKmsHost::crd())
        .await?;
    operator(&client).await?;
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), "default");
    eventually("the API server serves OfficeKmsHost", async || {
        hosts.list(&Default::default()).await.is_ok()
    })
    .await?;
    let found = ill(&client).await?;
    assert!(
        has(&found, "Wrong OfficeKmsHost: there is no `kms` in namespace default"),
        "{found:#?}"
    );
    let denied = "Wrong permission: the operator (default/kms-operator) may not ";
    assert!(
        has(&found, &format!("{denied}patch deployments.apps in namespace default")),
        "{found:#?}"
    );

    let account = json!({"kind": "ServiceAccount", "name": "kms-operator", "namespace": "default"});
    let role = |name: &str, rules| -> Result<ClusterRole> {
        Ok(ClusterRole {
            metadata: serde_json::from_value(json!({"name": name}))?,
            rules: Some(rules),
            ..ClusterRole::default()
        })
    };
    grant(
        &client,
        account,
        "kms-operator",
        &role("kms-operator", rbac::in_watched_namespaces())?,
    )
    .await?;
    let host: OfficeKmsHost = serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": "kms"},
        "spec": {"licensedHosts": [{"name": "a", "address": "kms-a.example"}], "ledger": {"redis": {
            "addresses": ["redis:6379"], "passwordSecret": {"name": "redis", "key": "password"}}}},
    }))?;
    let host = hosts.create(&PostParams::default(), &host).await?;
    eventually("the operator's permissions are known", async || {
        ill(&client).await.is_ok_and(|found| !has(&found, denied))
    })
    .await?;
    let found = ill(&client).await?;
    for expected in [
        "Wrong default/kms spec.ledger.redis.passwordSecret: there is no Secret `redis`",
        "Wrong default/kms status: no operator has looked at it",
        "NotYet default/kms spec.ledger.keySecret: there is no Secret `kms-keys`",
        "NotYet default/kms Deployment: does not exist",
        "NotYet default/kms Service: does not exist",
    ] {
        assert!(has(&found, expected), "{expected}: {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");

    // What the user and the operator have to do, done.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let password: Secret =
        serde_json::from_value(json!({"metadata": {"name": "redis"}, "stringData": {"password": "p"}}))?;
    secrets.create(&PostParams::default(), &password).await?;
    for wanted in build::secrets::generated(&host) {
        let secret = build::secrets::generate(&host, &wanted, &mut getrandom_like)?;
        secrets.create(&PostParams::default(), &secret).await?;
    }
    let config = build::host_config(&host, &build::Place::pod(&host));
    let inputs = build::Inputs::unread();
    let deployment = build::deployment::build(
        &host,
        &build::config_map::Written::new(&config)?,
        &Default::default(),
        &inputs,
    );
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    deployments.create(&PostParams::default(), &deployment).await?;
    let ready = json!({"status": {"replicas": 2, "readyReplicas": 2}});
    deployments
        .patch_status("kms", &PatchParams::default(), &Patch::Merge(&ready))
        .await?;
    Api::namespaced(client.clone(), "default")
        .create(&PostParams::default(), &build::service::build(&host))
        .await?;
    let seen = json!({"status": {"observedGeneration": host.metadata.generation, "conditions": [
        {"type": "Ready", "status": "True", "reason": "AsSpecified", "message": "", "lastTransitionTime": "2026-11-01T00:00:00Z"},
    ]}});
    hosts
        .patch_status("kms", &PatchParams::default(), &Patch::Merge(&seen))
        .await?;
    assert_eq!(ill(&client).await?, Vec::<String>::new());

    // As the chart writes it with watchNamespaces.
    let watching = async |namespaces: &str| {
        let container = json!({"name": "c", "env": [{"name": "OKMS_WATCH_NAMESPACES", "value": namespaces}]});
        let patch = json!({"spec": {"template": {"spec": {"containers": [container]}}}});
        deployments
            .patch("kms-operator", &PatchParams::default(), &Patch::Strategic(&patch))
            .await
            .map(drop)
    };
    watching("other,elsewhere").await?;
    let found = ill(&client).await?;
    let unserved = "Wrong operator: none of those that run here watches namespace default";
    assert_eq!(found, [unserved], "{found:#?}");
    watching("other,default").await?;
    assert_eq!(ill(&client).await?, Vec::<String>::new());

    // A user who may read resources and nothing else.
    let reading = serde_json::from_value(
        json!([{"apiGroups": ["officekms.io"], "resources": ["officekmshosts"], "verbs": ["get"]}]),
    )?;
    grant(
        &client,
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "reader"}),
        "reader",
        &role("reader", reading)?,
    )
    .await?;
    let mut config = plane.config.clone();
    config.auth_info.impersonate = Some("reader".to_owned());
    let reader = Client::try_from(config).context("a client")?;
    let mut found = Vec::new();
    eventually("the reader may read", async || {
        found = ill(&reader).await.unwrap_or_default();
        !has(&found, "Unknown OfficeKmsHost")
    })
    .await?;
    assert!(
        has(
            &found,
            "Unknown default/kms Deployment: could not be read: you may not do it"
        ),
        "{found:#?}"
    );
    assert!(
        found.iter().all(|finding| finding.starts_with("Unknown")),
        "what cannot be read is not wrong: {found:#?}"
    );
    Ok(())
}

/// Bytes that need not be secret here.
fn getrandom_like(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    bytes.fill(7);
    Ok(())
}
