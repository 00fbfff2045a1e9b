//! What the operator keeps beside a resource, on a real API server: the journal, which is never written by two, and
//! external-dns' objects, which cost no write while they are as wanted.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kms_operator::api::OfficeKmsHost;
use kms_operator::dns::cluster::Zones;
use kms_operator::dns::round::Limits;
use kms_operator::licensing::cluster::SecretStore;
use kms_operator::licensing::journal::Kind;
use kms_operator::licensing::round::Memory;
use kms_operator::licensing::store::Store as _;
use kms_operator::secrets::Objects;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use system_tests::kubernetes::ControlPlane;
use system_tests::peer;
use system_tests::replica::eventually;
use tokio::sync::mpsc;

fn host(dns: &serde_json::Value) -> Result<OfficeKmsHost> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": "kms", "namespace": "default", "uid": "1d3c5b7a-0000-4000-8000-000000000001"},
        "spec": {"rehearsal": {}, "dns": dns},
    }))?)
}

async fn namespace(client: &Client) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    eventually("the default namespace is there", async || {
        namespaces.get("default").await.is_ok()
    })
    .await
}

#[tokio::test]
async fn a_journal_survives_a_restart_and_is_never_written_by_two() -> Result<()> {
    if let Some(why) = ControlPlane::missing() {
        peer::skipped("a_journal_survives_a_restart_and_is_never_written_by_two", &why);
        return Ok(());
    }
    let cluster = ControlPlane::start().await?;
    let client = cluster.client()?;
    namespace(&client).await?;
    let host = host(&json!(null))?;
    let first = SecretStore::new(client.clone(), &host);
    assert_eq!(first.load().await?, Memory::default());
    let mut memory = Memory::default();
    let begin = |memory: &mut Memory, at| {
        let journal = &mut memory.journal;
        journal.begin("kms01", "Office2016", Kind::Activate, "mark", at);
    };
    begin(&mut memory, 1);
    first.save(&memory).await?;

    // Another operator takes over; the first, which does not know it yet, can begin nothing any more.
    let second = SecretStore::new(client.clone(), &host);
    assert_eq!(second.load().await?, memory);
    begin(&mut memory, 2);
    second.save(&memory).await?;
    begin(&mut memory, 3);
    let refused = first.save(&memory).await.err().context("the first is refused")?;
    assert!(
        format!("{refused:#}").contains("kms-journal cannot be written"),
        "{refused:#}"
    );
    let attempt = first
        .load()
        .await?
        .journal
        .attempts("kms01", "Office2016")
        .last()
        .cloned();
    assert_eq!(attempt.map(|attempt| attempt.begun_at), Some(2));

    // Two that both saw nothing: one of them makes it.
    let secrets: Api<Secret> = Api::default_namespaced(client.clone());
    let stored = secrets.get("kms-journal").await?;
    assert_eq!(stored.owner_references().len(), 1, "it goes with its resource");
    secrets.delete("kms-journal", &DeleteParams::default()).await?;
    let (third, fourth) = (
        SecretStore::new(client.clone(), &host),
        SecretStore::new(client.clone(), &host),
    );
    third.load().await?;
    fourth.load().await?;
    third.save(&memory).await?;
    assert!(fourth.save(&memory).await.is_err());

    // One that is not ours is not taken for ours.
    secrets.delete("kms-journal", &DeleteParams::default()).await?;
    let foreign: Secret = serde_json::from_value(json!({"metadata": {"name": "kms-journal"}}))?;
    secrets.create(&PostParams::default(), &foreign).await?;
    assert!(third.load().await.is_err());
    Ok(())
}

#[tokio::test]
async fn external_dns_s_objects_follow_the_service_and_cost_no_write_while_they_are_right() -> Result<()> {
    let test = "external_dns_s_objects_follow_the_service_and_cost_no_write_while_they_are_right";
    if let Some(why) = ControlPlane::missing() {
        peer::skipped(test, &why);
        return Ok(());
    }
    let cluster = ControlPlane::start().await?;
    let client = cluster.client()?;
    namespace(&client).await?;
    let (wake, mut woken) = mpsc::channel(8);
    let wake = Arc::new(move |key: &kms_operator::looks::Key| drop(wake.try_send(key.clone())));
    let zones = Zones::new(client.clone(), Limits::default(), wake);
    let dns = |addresses: &[&str]| {
        json!({"probe": false, "zones": [{"name": "corp.example.com", "addresses": addresses, "dnsEndpoint": {},
                                          "verifyServers": ["127.0.0.1:1"]}]})
    };
    let mut look = async |host: &OfficeKmsHost| -> Result<_> {
        zones.look(host, None, Arc::new(Objects::default()));
        tokio::time::timeout(Duration::from_secs(60), woken.recv()).await?;
        zones
            .look(host, None, Arc::new(Objects::default()))
            .context("an outcome")
    };
    // Without the kind, it is said.
    let mut host = host(&dns(&["192.0.2.1"]))?;
    let seen = look(&host).await?;
    let verdict = seen.outcome.published.clone().context("a condition")?;
    assert!(
        verdict.message.contains("install external-dns with its CRD"),
        "{verdict:?}"
    );

    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = serde_json::from_value(json!({
        "metadata": {"name": "dnsendpoints.externaldns.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {"group": "externaldns.k8s.io", "scope": "Namespaced",
                 "names": {"kind": "DNSEndpoint", "plural": "dnsendpoints", "singular": "dnsendpoint"},
                 "versions": [{"name": "v1alpha1", "served": true, "storage": true,
                               "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    }))?;
    definitions.create(&PostParams::default(), &definition).await?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("externaldns.k8s.io", "v1alpha1", "DNSEndpoint"));
    let endpoints: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    eventually("DNSEndpoints are served", async || {
        endpoints.list(&ListParams::default()).await.is_ok()
    })
    .await?;

    // The spec changes with each look here, so that it is looked at once.
    host.spec.dns = serde_json::from_value(dns(&["192.0.2.2"]))?;
    look(&host).await?;
    let made = endpoints.list(&ListParams::default()).await?.items;
    assert_eq!(made.len(), 1);
    let targets = |object: &DynamicObject| object.data.pointer("/spec/endpoints/1/targets").cloned();
    assert_eq!(targets(&made[0]), Some(json!(["192.0.2.2"])));
    assert_eq!(made[0].owner_references().len(), 1);

    // Only the interval changes: the object stays untouched.
    host.spec.dns.as_mut().context("dns")?.check_interval_seconds = 301;
    let rows = look(&host).await?.outcome.rows.clone();
    let same = endpoints.get(&made[0].name_any()).await?;
    assert_eq!(same.resource_version(), made[0].resource_version());

    // Another publisher: it goes.
    host.status.get_or_insert_default().dns = rows;
    let by_hand = json!({"probe": false, "zones": [{"name": "corp.example.com", "manual": {}, "verifyServers": ["127.0.0.1:1"]}]});
    host.spec.dns = serde_json::from_value(by_hand)?;
    look(&host).await?;
    assert_eq!(endpoints.list(&ListParams::default()).await?.items.len(), 0);
    Ok(())
}
