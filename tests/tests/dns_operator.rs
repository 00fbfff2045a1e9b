//! The DNS of a resource through its whole life with the operator on a real API server and real name servers: created,
//! moved, repaired, switched to another publisher, deleted with and without its clean-up.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kms_operator::api::{OfficeKmsHost, SKIP_CLEANUP_ANNOTATION};
use kms_operator::dns::resource::FINALIZER;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use system_tests::kubernetes::ControlPlane;
use system_tests::name_server::{CLOSED, KEY, NameServer, SECRET, Software, ZONE};
use system_tests::operator::Operator;
use system_tests::peer;

const SERVICE: &str = "_vlmcs._tcp.corp.example.com";

fn zone(server: &NameServer) -> Value {
    json!({
        "name": ZONE, "ttl": 300, "verifyServers": [server.address.to_string()],
        "rfc2136": {"servers": [server.address.to_string()],
                    "tsig": {"keyName": KEY, "secret": {"name": "tsig", "key": "secret"}}},
    })
}

fn resource(name: &str, zones: &[Value]) -> Value {
    json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": name, "namespace": "default"},
        "spec": {"replicas": 1, "rehearsal": {}, "ledger": {"memory": {}}, "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
                 "dns": {"probe": false, "checkIntervalSeconds": 10, "zones": zones}},
    })
}

/// The Secret to which zones refer.
fn secret(data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tsig", "namespace": "default"}, "stringData": data})
}

/// Gives the Service an address outside of the cluster, as a load balancer does, or takes it away.
async fn balance(services: &Api<Service>, address: Option<&str>) -> Result<()> {
    let ingress: Vec<Value> = address.iter().map(|address| json!({"ip": address})).collect();
    let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    services
        .patch_status("kms", &PatchParams::default(), &Patch::Merge(status))
        .await?;
    Ok(())
}

fn condition(host: &OfficeKmsHost, kind: &str) -> Option<(String, String, String)> {
    let conditions = &host.status.as_ref()?.conditions;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

fn missing(test: &str) -> bool {
    let why = ControlPlane::missing().or_else(|| Software::Bind.missing().map(str::to_owned));
    if let Some(why) = &why {
        peer::skipped(test, why);
    }
    why.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_live_and_die_with_their_resource() -> Result<()> {
    if missing("records_live_and_die_with_their_resource") {
        return Ok(());
    }
    let cluster = ControlPlane::start().await?;
    let operator = Operator::start(&cluster).await?;
    let (old, new) = (
        NameServer::start(Software::Bind, "hmac-sha256").await?,
        NameServer::start(Software::Bind, "hmac-sha256").await?,
    );
    let client = cluster.client()?;
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(client.clone());
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let mut other = zone(&old);
    other
        .as_object_mut()
        .context("an object")?
        .insert("name".to_owned(), json!(CLOSED));

    // An algorithm that is not offered is no resource at all.
    let mut weak = zone(&old);
    *weak.pointer_mut("/rfc2136/tsig").context("a key")? =
        json!({"keyName": KEY, "algorithm": "HmacMd5", "secret": {"name": "tsig", "key": "secret"}});
    let refused = operator.apply(&resource("kms", &[weak])).await;
    let refused = format!("{:#}", refused.err().context("it was refused")?);
    assert!(
        refused.contains("spec.dns.zones[0].rfc2136.tsig.algorithm"),
        "{refused}"
    );

    // The Secret comes late, and wrong at first: told by field, and the rest waits for it.
    let told = async |what: &str, field: &str| {
        operator
            .becomes(what, async || {
                let host = hosts.get("kms").await?;
                Ok(condition(&host, "DnsPublished").is_some_and(|(_, reason, message)| {
                    reason == "InvalidSpec" && message.contains(&format!("spec.dns.zones[0].rfc2136.tsig.{field}: "))
                }))
            })
            .await
    };
    operator.apply(&resource("kms", &[zone(&old), other.clone()])).await?;
    told("the missing Secret is named", "secret.name").await?;
    operator.apply(&secret(&json!({"other": SECRET}))).await?;
    told("the Secret's missing key is named", "secret.key").await?;
    operator.apply(&secret(&json!({"secret": "no base64!"}))).await?;
    told("what is no base64 is told", "secret").await?;
    assert_eq!(old.records(SERVICE, "SRV").await?, [""; 0]);
    operator.apply(&secret(&json!({"secret": SECRET}))).await?;
    // The Service has no address before its load balancer gives one.
    operator
        .becomes("the Service is there", async || {
            Ok(services.get_opt("kms").await?.is_some())
        })
        .await?;
    balance(&services, Some("192.0.2.1")).await?;
    let stands = async |server: &NameServer, address: &str| -> Result<bool> {
        let wanted = [format!("kms.{ZONE}. 300 IN A {address}")];
        Ok(server.records(SERVICE, "SRV").await?.len() == 1
            && server.records(&format!("kms.{ZONE}"), "A").await? == wanted)
    };
    operator
        .becomes("records stand", async || stands(&old, "192.0.2.1").await)
        .await?;

    // The other zone is refused, and holds nothing up; the condition names it.
    operator
        .becomes("the status says both", async || {
            let host = hosts.get("kms").await?;
            let rows = host
                .status
                .as_ref()
                .map(|status| status.dns.clone())
                .unwrap_or_default();
            let verified = rows.iter().any(|row| row.zone == ZONE && row.verified);
            let told = condition(&host, "DnsPublished").is_some_and(|(status, _, message)| {
                status == "False" && message.contains(CLOSED) && message.contains("REFUSED")
            });
            Ok(verified && told && host.finalizers().iter().any(|one| one == FINALIZER))
        })
        .await?;
    operator.apply(&resource("kms", &[zone(&old)])).await?;

    balance(&services, Some("192.0.2.9")).await?;
    operator
        .becomes("the records move", async || stands(&old, "192.0.2.9").await)
        .await?;
    old.nsupdate(&format!("update delete {SERVICE} SRV")).await?;
    operator
        .becomes("drift is repaired", async || stands(&old, "192.0.2.9").await)
        .await?;

    operator.apply(&resource("kms", &[zone(&new)])).await?;
    operator
        .becomes("the new server is served", async || stands(&new, "192.0.2.9").await)
        .await?;
    assert_eq!(
        old.records(SERVICE, "SRV").await?,
        [""; 0],
        "the old one was emptied first"
    );

    // A restarted operator knows where records stand.
    operator
        .becomes("it is published", async || {
            let host = hosts.get("kms").await?;
            Ok(condition(&host, "DnsPublished").is_some_and(|(status, ..)| status == "True"))
        })
        .await?;
    operator.stop().await?;
    hosts.delete("kms", &DeleteParams::default()).await?;
    assert!(hosts.get_opt("kms").await?.is_some(), "the finalizer holds it");
    let operator = Operator::start(&cluster).await?;
    operator
        .becomes("it is gone", async || Ok(hosts.get_opt("kms").await?.is_none()))
        .await?;
    for (name, kind) in [(SERVICE, "SRV"), (SERVICE, "TXT"), (&*format!("kms.{ZONE}"), "A")] {
        assert_eq!(new.records(name, kind).await?, [""; 0], "{name} {kind}");
    }
    let events: Api<Event> = Api::default_namespaced(client);
    operator
        .becomes("Events tell it", async || {
            let told: BTreeSet<_> = events
                .list(&ListParams::default())
                .await?
                .into_iter()
                .filter_map(|event| event.reason)
                .collect();
            Ok(told.contains("DnsPublished") && told.contains("RecordsTakenAway"))
        })
        .await?;
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_cannot_be_done_waits_until_it_is_skipped() -> Result<()> {
    if missing("a_clean_up_that_cannot_be_done_waits_until_it_is_skipped") {
        return Ok(());
    }
    let cluster = ControlPlane::start().await?;
    let operator = Operator::start(&cluster).await?;
    let mut server = NameServer::start(Software::Bind, "hmac-sha256").await?;
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(cluster.client()?);
    operator.apply(&secret(&json!({"secret": SECRET}))).await?;
    let mut zone = zone(&server);
    zone.as_object_mut()
        .context("an object")?
        .insert("addresses".to_owned(), json!(["192.0.2.1"]));
    operator.apply(&resource("kms", &[zone])).await?;
    operator
        .becomes("records stand", async || {
            Ok(server.records(SERVICE, "SRV").await?.len() == 1)
        })
        .await?;
    server.kill().await?;
    hosts.delete("kms", &DeleteParams::default()).await?;
    let events: Api<Event> = Api::default_namespaced(cluster.client()?);
    operator
        .becomes("the failing clean-up is told", async || {
            let told = events.list(&ListParams::default()).await?;
            Ok(told
                .into_iter()
                .any(|event| event.reason.as_deref() == Some("CleanUpFailing")))
        })
        .await?;
    assert!(hosts.get_opt("kms").await?.is_some());
    let skip = json!({"metadata": {"annotations": {SKIP_CLEANUP_ANNOTATION: "true"}}});
    hosts.patch("kms", &PatchParams::default(), &Patch::Merge(skip)).await?;
    operator
        .becomes("it is gone", async || Ok(hosts.get_opt("kms").await?.is_none()))
        .await?;
    server.run().await?;
    assert_eq!(
        server.records(SERVICE, "SRV").await?.len(),
        1,
        "its records stayed behind, as was asked"
    );
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn external_dns_s_object_is_made_repaired_and_not_taken_for_what_is_no_longer_wanted() -> Result<()> {
    if missing("external_dns_s_object_is_made_repaired_and_not_taken_for_what_is_no_longer_wanted") {
        return Ok(());
    }
    let cluster = ControlPlane::start().await?;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "dnsendpoints.externaldns.k8s.io",
                     "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {"group": "externaldns.k8s.io", "scope": "Namespaced",
                 "names": {"kind": "DNSEndpoint", "plural": "dnsendpoints", "singular": "dnsendpoint"},
                 "versions": [{"name": "v1alpha1", "served": true, "storage": true, "schema": {
                     "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let client = cluster.client()?;
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("externaldns.k8s.io", "v1alpha1", "DNSEndpoint"));
    let endpoints: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &kind);
    system_tests::operator::apply(&client, &definition).await?;
    system_tests::operator::becomes("DNSEndpoints are served", async || {
        Ok(endpoints.list(&ListParams::default()).await.is_ok())
    })
    .await?;
    let operator = Operator::start(&cluster).await?;
    let zone = json!({"name": ZONE, "dnsEndpoint": {}, "verifyServers": ["127.0.0.1:1"]});
    let mut resource = resource("kms", &[zone]);
    operator.apply(&resource).await?;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    operator
        .becomes("the Service is there", async || {
            Ok(services.get_opt("kms").await?.is_some())
        })
        .await?;
    balance(&services, Some("192.0.2.1")).await?;
    let one =
        async || -> Result<Option<DynamicObject>> { Ok(endpoints.list(&ListParams::default()).await?.items.pop()) };
    operator
        .becomes("there is a DNSEndpoint", async || Ok(one().await?.is_some()))
        .await?;
    let made = one().await?.context("an object")?;

    // The children are looked at anew, and the object stays.
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(client);
    let spec = resource
        .pointer_mut("/spec")
        .and_then(Value::as_object_mut)
        .context("a spec")?;
    spec.insert("replicas".to_owned(), json!(0));
    operator.apply(&resource).await?;
    operator
        .becomes("the new spec is carried out", async || {
            let host = hosts.get("kms").await?;
            let seen = host.status.as_ref().and_then(|status| status.observed_generation);
            Ok(seen.is_some() && seen == host.metadata.generation)
        })
        .await?;
    let still = one().await?.context("it is still there")?;
    assert_eq!(
        (still.uid(), still.resource_version()),
        (made.uid(), made.resource_version())
    );

    endpoints.delete(&made.name_any(), &DeleteParams::default()).await?;
    operator
        .becomes("it is made again", async || Ok(one().await?.is_some()))
        .await?;
    let made = one().await?.context("an object")?;

    // The Service loses its address: the object stays as it is for the grace period, and then goes.
    balance(&services, None).await?;
    operator
        .becomes("the lost address is told", async || {
            let host = hosts.get("kms").await?;
            Ok(condition(&host, "DnsPublished").is_some_and(|(_, reason, message)| {
                reason == "TargetSilent" && message.contains("the records stay until")
            }))
        })
        .await?;
    let kept = one().await?.context("it is still there")?;
    assert_eq!(
        (kept.uid(), kept.resource_version()),
        (made.uid(), made.resource_version())
    );
    let dns = resource
        .pointer_mut("/spec/dns")
        .and_then(Value::as_object_mut)
        .context("a section")?;
    dns.insert("gracePeriodSeconds".to_owned(), json!(0));
    operator.apply(&resource).await?;
    operator
        .becomes("it goes when the grace is over", async || Ok(one().await?.is_none()))
        .await?;

    // Somebody else's of its name is neither taken over nor taken away.
    let name = made.name_any();
    let spec = json!({"endpoints": [{"dnsName": "www.example", "recordType": "A", "targets": ["192.0.2.9"]}]});
    let theirs = DynamicObject::new(&name, &kind).data(json!({"spec": spec}));
    let theirs = endpoints.create(&PostParams::default(), &theirs).await?;
    balance(&services, Some("192.0.2.1")).await?;
    operator
        .becomes("the taken name is told", async || {
            let host = hosts.get("kms").await?;
            Ok(condition(&host, "DnsPublished")
                .is_some_and(|(_, _, message)| message.contains("belongs to somebody else")))
        })
        .await?;
    let left = endpoints.get(&name).await?;
    assert_eq!(
        (left.uid(), left.resource_version()),
        (theirs.uid(), theirs.resource_version())
    );
    operator.stop().await
}
