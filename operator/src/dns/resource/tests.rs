//! What a resource's DNS comes to where no server needs to take updates; tests/tests/dns_life.rs has those.

use kms_dns::discover::ResolverSource;
use kms_dns::records::Desired;
use kms_dns::server::{Server, Sockets, Zone as ServedZone};

use super::*;
use crate::api::SKIP_CLEANUP_ANNOTATION;
use crate::api::ZoneSpec;
use crate::dns::withdraw::clean_up;
use crate::secrets::tests::secrets;

fn host(zones: &str) -> OfficeKmsHost {
    let text = format!(
        "{{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {{name: kms, namespace: office, uid: u1}}, \
         spec: {{rehearsal: {{}}, dns: {{probe: false, zones: [{zones}]}}}}}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

fn limits() -> Limits {
    Limits {
        exchange: Duration::from_secs(2),
        zone: Duration::from_secs(10),
        resolver: ResolverSource::Servers(Vec::new()),
        ..Limits::default()
    }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn service() -> ServiceFacts {
    ServiceFacts {
        addresses: ["192.0.2.1".parse().unwrap()].into(),
        host_names: Vec::new(),
        port: 1688,
    }
}

async fn look(host: &OfficeKmsHost, secrets: &Objects) -> Outcome {
    visit(host, Some(&service()), secrets, &Session::default(), &limits(), now()).await
}

const RFC2136: &str = "{name: corp.example.com, rfc2136: {servers: ['127.0.0.1:1'], tsig: {keyName: k, secret: {name: \
                       tsig, key: secret}}}}";

fn tsig() -> Objects {
    secrets(&[("tsig", "secret", "c2VjcmV0")])
}

#[tokio::test]
async fn where_records_will_stand_is_noted_before_anything_is_published() {
    let mut host = host(RFC2136);
    let first = look(&host, &tsig()).await;
    assert!(first.finalizer, "{first:?}");
    assert_eq!(first.again_in, AT_ONCE);
    assert_eq!(first.rows[0].published_by.len(), 1);
    assert!(first.rows[0].message.as_ref().unwrap().starts_with("it is noted"));
    // Noted, but without a finalizer still: a deletion could come in between.
    host.status.get_or_insert_default().dns = first.rows;
    let second = look(&host, &tsig()).await;
    assert!(second.rows[0].message.as_ref().unwrap().starts_with("it is noted"));
    host.metadata.finalizers = Some(vec![FINALIZER.into()]);
    let third = look(&host, &tsig()).await;
    let verdict = third.published.unwrap();
    assert_eq!(
        (verdict.status, verdict.reason),
        (false, "PublishingFailed"),
        "{verdict:?}"
    );
    assert_eq!(
        third.rows[0].published_by.len(),
        1,
        "an update that failed may have taken effect"
    );
}

#[tokio::test]
async fn a_zone_whose_secret_is_missing_is_told_by_field_and_the_other_is_published() {
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let apex = "other.example".parse().unwrap();
    let zone: kms_dns::names::ZoneName = "other.example".parse().unwrap();
    let endpoint = kms_dns::records::Endpoint {
        target: "kms.other.example".parse().unwrap(),
        addresses: service().addresses,
        port: 1688,
        priority: 0,
        weight: 100,
    };
    let records = Desired::new(zone.clone(), zone, "x".parse().unwrap(), 3600, &[endpoint]).unwrap();
    let server = Server::start(sockets, ServedZone::new(&apex, 60, 1, records.entries, [])).unwrap();
    let manual = format!(
        "{{name: other.example, manual: {{}}, verifyServers: ['{}']}}",
        server.address()
    );
    let mut host = host(&format!("{RFC2136}, {manual}"));
    let outcome = look(&host, &Objects::default()).await;
    let verdict = outcome.published.unwrap();
    assert_eq!(verdict.reason, "InvalidSpec");
    assert!(
        verdict
            .message
            .starts_with("spec.dns.zones[0].rfc2136.tsig.secret.name: there is no Secret `tsig`"),
        "{}",
        verdict.message
    );
    let other = outcome.rows.iter().find(|row| row.zone == "other.example").unwrap();
    assert!(other.verified, "{other:?}");
    assert_eq!(outcome.notices.len(), 1, "{:?}", outcome.notices);
    assert_eq!(outcome.notices[0].reason, "DnsPublished");
    assert!(!outcome.finalizer);
    // Nothing changed, so nothing is told and no row differs.
    host.status.get_or_insert_default().dns.clone_from(&outcome.rows);
    let again = look(&host, &Objects::default()).await;
    assert_eq!((again.notices.len(), again.rows), (0, outcome.rows));
}

#[tokio::test]
async fn external_dns_gets_an_object_for_each_of_its_zones_while_there_is_a_target() {
    let host = host("{name: corp.example.com, dnsEndpoint: {labels: {team: kms}}}");
    let outcome = look(&host, &Objects::default()).await;
    let [endpoint] = outcome.endpoints.as_slice() else {
        panic!("{outcome:?}")
    };
    assert_eq!(endpoint["metadata"]["name"], endpoint_name(&host, "corp.example.com"));
    assert_eq!(endpoint["metadata"]["labels"]["team"], "kms");
    assert_eq!(
        endpoint["spec"]["endpoints"][0]["targets"][0],
        "0 100 1688 kms.corp.example.com."
    );
    assert!(!outcome.finalizer, "the object goes with its owner");
    let nowhere = visit(&host, None, &Objects::default(), &Session::default(), &limits(), now()).await;
    assert!(nowhere.endpoints.is_empty());
    assert_eq!(nowhere.published.unwrap().reason, "WaitingForTarget");
}

#[tokio::test]
async fn external_dns_s_object_stays_as_it_is_while_the_grace_of_a_lost_address_lasts() {
    let mut host = host("{name: corp.example.com, dnsEndpoint: {}}");
    let object = endpoint_name(&host, "corp.example.com");
    let after = async |host: &OfficeKmsHost, minutes: i64| {
        let at = now().saturating_add(SignedDuration::from_mins(minutes)).unwrap();
        visit(host, None, &Objects::default(), &Session::default(), &limits(), at).await
    };
    host.status.get_or_insert_default().dns = look(&host, &Objects::default()).await.rows;
    let lost = after(&host, 1).await;
    assert_eq!(
        (lost.endpoints.len(), lost.kept_endpoints),
        (0, [object.clone()].into())
    );
    assert_eq!(lost.published.unwrap().reason, "TargetSilent");
    assert_eq!(lost.rows[0].records.len(), 2, "{:?}", lost.rows);
    host.status.get_or_insert_default().dns = lost.rows;
    let kept = after(&host, 10).await;
    assert_eq!(kept.kept_endpoints, [object].into());
    let over = after(&host, 11).await;
    assert_eq!((over.endpoints.len(), over.kept_endpoints.len()), (0, 0));
    host.status.get_or_insert_default().dns = over.rows;
    assert_eq!(after(&host, 12).await.published.unwrap().reason, "WaitingForTarget");
}

#[tokio::test]
async fn external_dns_s_object_stays_as_it_is_while_the_spec_is_wrong() {
    let mut host = host("{name: corp.example.com, dnsEndpoint: {}}");
    host.status.get_or_insert_default().dns = look(&host, &Objects::default()).await.rows;
    let dns = host.spec.dns.as_mut().unwrap();
    dns.zones[0].addresses = vec!["0.0.0.0".into()];
    let outcome = look(&host, &Objects::default()).await;
    assert_eq!(
        outcome.kept_endpoints,
        [endpoint_name(&host, "corp.example.com")].into()
    );
    let verdict = outcome.published.unwrap();
    assert_eq!(verdict.reason, "InvalidSpec");
    assert!(
        verdict.message.starts_with("spec.dns.zones[0].addresses[0]: "),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn what_a_service_says_that_cannot_be_published_is_waited_out() {
    let host = host("{name: corp.example.com, dnsEndpoint: {}}");
    let nowhere = ServiceFacts {
        addresses: ["0.0.0.0".parse().unwrap()].into(),
        ..service()
    };
    let outcome = visit(
        &host,
        Some(&nowhere),
        &Objects::default(),
        &Session::default(),
        &limits(),
        now(),
    )
    .await;
    let verdict = outcome.published.unwrap();
    assert_eq!(verdict.reason, "WaitingForTarget");
    assert!(
        verdict.message.contains("0.0.0.0 is no address that clients can reach"),
        "{verdict:?}"
    );
}

#[tokio::test]
async fn neither_of_two_zones_of_one_name_is_published() {
    let host = host(&format!("{RFC2136}, {}", RFC2136.replace("corp", "CORP")));
    let outcome = look(&host, &tsig()).await;
    let verdict = outcome.published.unwrap();
    assert_eq!(verdict.reason, "InvalidSpec");
    for path in ["spec.dns.zones[0].name", "spec.dns.zones[1].name"] {
        assert!(verdict.message.contains(path), "{verdict:?}");
    }
    assert!(!outcome.finalizer, "it is not even noted where records would stand");
}

#[tokio::test]
async fn an_owner_that_no_mark_can_hold_is_told_by_field() {
    let mut host = host(RFC2136);
    host.spec.dns.as_mut().unwrap().owner = Some("Cluster 1".into());
    let verdict = look(&host, &tsig()).await.published.unwrap();
    assert_eq!(verdict.reason, "InvalidSpec");
    assert!(verdict.message.starts_with("spec.dns.owner: "), "{verdict:?}");
}

#[tokio::test]
async fn what_stands_at_a_former_place_stays_as_long_as_the_new_one_cannot_be_used() {
    let mut host = host(RFC2136);
    host.status.get_or_insert_default().dns = look(&host, &tsig()).await.rows;
    let before = host.status.clone().unwrap().dns;
    host.spec.dns.as_mut().unwrap().zones[0]
        .rfc2136
        .as_mut()
        .unwrap()
        .servers = vec!["127.0.0.1:2".into()];
    let outcome = look(&host, &Objects::default()).await;
    assert_eq!(outcome.published.unwrap().reason, "InvalidSpec");
    assert_eq!(outcome.rows[0].published_by, before[0].published_by);
}

#[tokio::test]
async fn a_zone_that_left_the_spec_stays_in_status_until_its_records_are_gone() {
    let mut host = host(RFC2136);
    host.status.get_or_insert_default().dns = look(&host, &tsig()).await.rows;
    host.spec.dns = None;
    let outcome = look(&host, &tsig()).await;
    assert!(outcome.finalizer);
    let message = outcome.rows[0].message.as_ref().unwrap();
    assert!(message.contains("could not be taken away"), "{message}");
    assert_eq!(outcome.published.unwrap().reason, "RecordsLeftElsewhere");
    // Nothing was ever published there, so it is not looked for any longer than that.
    host.status.get_or_insert_default().dns = outcome.rows;
    let later = now().saturating_add(LEFT_EMPTY_LIMIT).unwrap();
    let none = Session::default();
    let given_up = visit(&host, Some(&service()), &tsig(), &none, &limits(), later).await;
    assert_eq!(given_up.notices[0].reason, "RecordsLeftBehind");
    assert!(given_up.rows.is_empty() && !given_up.finalizer, "{given_up:?}");
}

#[tokio::test]
async fn a_deletion_waits_for_a_while_and_no_longer_than_it_is_told() {
    let mut host = host(RFC2136);
    host.status.get_or_insert_default().dns = look(&host, &tsig()).await.rows;
    let clean = async |host: &OfficeKmsHost, after: i64| {
        let at = now().saturating_add(SignedDuration::from_mins(after)).unwrap();
        clean_up(host, &tsig(), &Session::default(), &limits(), at).await
    };
    host.metadata.deletion_timestamp = Some(Time(now()));
    let waiting = clean(&host, 9).await;
    assert!(!waiting.done && waiting.left.len() == 1, "{waiting:?}");
    let given_up = clean(&host, 10).await;
    assert!(given_up.done);
    assert_eq!(given_up.notices[0].reason, "RecordsLeftBehind");
    let annotations = host.metadata.annotations.get_or_insert_default();
    annotations.insert(SKIP_CLEANUP_ANNOTATION.into(), "true".into());
    let skipped = clean(&host, 0).await;
    assert!(
        skipped.done && skipped.notices[0].reason == "CleanUpSkipped",
        "{skipped:?}"
    );
}

#[test]
fn an_account_that_was_refused_is_held_back_for_an_hour() {
    let spec: ZoneSpec =
        serde_saphyr::from_str("{name: a.example, windowsDns: {server: dc1, credentialsSecret: {name: account}}}")
            .unwrap();
    let publisher = spec.windows_dns.unwrap();
    let account = |password| secrets(&[("account", "username", "admin"), ("account", "password", password)]);
    let session = Session::default();
    session.refuse(&publisher, &account("wrong"), now());
    let mark = |password| input::account_mark(&publisher, &account(password)).unwrap();
    let later = |minutes| now().saturating_add(SignedDuration::from_mins(minutes)).unwrap();
    assert!(session.held_back(&mark("wrong"), later(59)).is_some());
    assert!(session.held_back(&mark("wrong"), later(60)).is_none());
    assert!(session.held_back(&mark("other"), later(0)).is_none());
}
