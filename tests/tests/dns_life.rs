//! The DNS of a resource through its whole life, in BIND, Knot and PowerDNS: published, moved, repaired, switched to another
//! publisher, withdrawn. What a cluster would keep (status and finalizer) is kept here; tests/tests/dns_operator.rs has
//! the same on an API server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kms_operator::api::OfficeKmsHost;
use kms_operator::api::SKIP_CLEANUP_ANNOTATION;
use kms_operator::dns::resource::{Cleaned, FINALIZER, Outcome, Session, clean_up, visit};
use kms_operator::dns::round::Limits;
use kms_operator::dns::target::ServiceFacts;
use kms_operator::secrets::Objects;
use system_tests::name_server::{CLOSED, KEY, NameServer, SECRET, Software, ZONE, free_address};
use system_tests::peer;
use system_tests::replica::Replica;

const SERVICE: &str = "_vlmcs._tcp.corp.example.com";
const REHEARSAL: &str = "rehearsal: {siteKeyFile: /nowhere}";

/// A resource as an API server would keep it.
struct Life {
    host: OfficeKmsHost,
    service: ServiceFacts,
    secrets: Objects,
    session: Session,
    now: Timestamp,
    told: Vec<&'static str>,
}

impl Life {
    fn new(uid: &str, dns: &str) -> Result<Self> {
        let secret = format!("{{metadata: {{name: tsig}}, stringData: {{secret: {SECRET}}}}}");
        let mut secrets = Objects::default();
        secrets.add_secret(serde_saphyr::from_str::<Secret>(&secret)?);
        let mut life = Self {
            host: serde_saphyr::from_str(&format!(
                "{{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {{name: kms, uid: {uid}}}, spec: \
                 {{rehearsal: {{}}}}}}"
            ))?,
            service: ServiceFacts {
                addresses: ["192.0.2.1".parse()?, "2001:db8::1".parse()?].into(),
                host_names: Vec::new(),
                port: 1688,
            },
            secrets,
            session: Session::default(),
            now: Timestamp::now(),
            told: Vec::new(),
        };
        life.change(dns)?;
        Ok(life)
    }

    /// Replaces `spec.dns`.
    fn change(&mut self, dns: &str) -> Result<()> {
        self.host.spec.dns = Some(serde_saphyr::from_str(dns)?);
        Ok(())
    }

    /// Looks until nothing is to be stored before going on.
    async fn look(&mut self) -> Outcome {
        loop {
            let outcome = visit(
                &self.host,
                Some(&self.service),
                &self.secrets,
                &self.session,
                &Limits::default(),
                self.now,
            )
            .await;
            self.told.extend(outcome.notices.iter().map(|notice| notice.reason));
            self.host.status.get_or_insert_default().dns.clone_from(&outcome.rows);
            self.host.metadata.finalizers = outcome.finalizer.then(|| vec![FINALIZER.to_owned()]);
            if outcome.again_in >= Duration::from_secs(1) {
                return outcome;
            }
        }
    }

    async fn clean_up(&mut self) -> Cleaned {
        clean_up(&self.host, &self.secrets, &self.session, &Limits::default(), self.now).await
    }
}

fn through(server: SocketAddr) -> String {
    format!("rfc2136: {{servers: ['{server}'], tsig: {{keyName: {KEY}, secret: {{name: tsig, key: secret}}}}}}")
}

fn zone(server: SocketAddr) -> String {
    format!(
        "{{name: {ZONE}, ttl: 300, verifyServers: ['{server}'], {}}}",
        through(server)
    )
}

fn zones(zones: &[String]) -> String {
    format!("{{probe: false, zones: [{}]}}", zones.join(", "))
}

fn condition(outcome: &Outcome) -> Result<(bool, &'static str, String)> {
    let verdict = outcome.published.clone().context("a condition")?;
    Ok((verdict.status, verdict.reason, verdict.message))
}

/// The software that can be had here; a test is skipped by its name for the rest.
fn installed(test: &str) -> Vec<Software> {
    let here = |software: &Software| match software.missing() {
        Some(why) => {
            peer::skipped(test, why);
            false
        }
        None => true,
    };
    Software::ALL.into_iter().filter(here).collect()
}

async fn srv(server: &NameServer) -> Result<Vec<String>> {
    server.records(SERVICE, "SRV").await
}

#[tokio::test]
async fn records_come_move_are_repaired_and_go_with_their_resource() -> Result<()> {
    for software in installed("records_come_move_are_repaired_and_go_with_their_resource") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let mut life = Life::new("u1", &zones(&[zone(server.address)]))?;
        let (published, reason, message) = condition(&life.look().await)?;
        ensure!(published, "{software:?}: {reason}: {message}");
        let expected = [format!("{SERVICE}. 300 IN SRV 0 100 1688 kms.{ZONE}.")];
        assert_eq!(srv(&server).await?, expected, "{software:?}");
        assert_eq!(server.records(&format!("kms.{ZONE}"), "AAAA").await?.len(), 1);
        assert_eq!(life.told, ["DnsPublished"]);

        // Nothing changes and nothing is told while all is well.
        let before = life.host.clone();
        life.look().await;
        assert_eq!(life.host, before, "{software:?}: a converged zone changes no status");
        assert_eq!(life.told.len(), 1);

        life.service.addresses = ["192.0.2.9".parse()?].into();
        assert!(condition(&life.look().await)?.0);
        let moved = [format!("kms.{ZONE}. 300 IN A 192.0.2.9")];
        assert_eq!(server.records(&format!("kms.{ZONE}"), "A").await?, moved);
        assert_eq!(server.records(&format!("kms.{ZONE}"), "AAAA").await?, [""; 0]);

        server.nsupdate(&format!("update delete {SERVICE} SRV")).await?;
        assert!(condition(&life.look().await)?.0);
        assert_eq!(srv(&server).await?, expected, "{software:?}: drift is repaired");

        // A day later all is published afresh, which is noted, and scavenging spares it.
        life.now = life.now.checked_add(SignedDuration::from_hours(24))?;
        life.look().await;
        let row = &life.host.status.as_ref().context("a status")?.dns[0];
        assert_eq!(row.refreshed_at.as_ref().map(|at| at.0), Some(life.now));

        let cleaned = life.clean_up().await;
        assert!(cleaned.done && cleaned.left.is_empty(), "{software:?}: {cleaned:?}");
        for (name, kind) in [(SERVICE, "SRV"), (SERVICE, "TXT"), (&*format!("kms.{ZONE}"), "A")] {
            assert_eq!(
                server.records(name, kind).await?,
                [""; 0],
                "{software:?}: {name} {kind}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_zone_that_fails_holds_up_no_other() -> Result<()> {
    if installed("a_zone_that_fails_holds_up_no_other").first() != Some(&Software::Bind) {
        return Ok(());
    }
    let server = NameServer::start(Software::Bind, "hmac-sha256").await?;
    let nobody = free_address()?;
    let refused = format!(
        "{{name: {CLOSED}, verifyServers: ['{}'], {}}}",
        server.address,
        through(server.address)
    );
    let away = format!("{{name: away.example.com, {}}}", through(nobody));
    let mut life = Life::new("u1", &zones(&[refused, away, zone(server.address)]))?;
    let outcome = life.look().await;
    let (published, reason, message) = condition(&outcome)?;
    assert_eq!((published, reason), (false, "PublishingFailed"));
    assert!(
        message.contains("REFUSED") && message.contains("away.example.com"),
        "{message}"
    );
    let verified: Vec<bool> = outcome.rows.iter().map(|row| row.verified).collect();
    assert_eq!(verified, [false, false, true]);
    assert_eq!(srv(&server).await?.len(), 1);
    // The deletion waits for the zone that is away, and says so; the other is clean at once.
    let cleaned = life.clean_up().await;
    assert!(!cleaned.done && cleaned.left.len() == 1, "{cleaned:?}");
    assert_eq!(srv(&server).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_change_of_publisher_takes_the_records_along() -> Result<()> {
    let software = installed("a_change_of_publisher_takes_the_records_along");
    let (Some(first), Some(second)) = (software.first(), software.last()) else {
        return Ok(());
    };
    let (mut old, new) = (
        NameServer::start(*first, "hmac-sha256").await?,
        NameServer::start(*second, "hmac-sha256").await?,
    );
    let mut life = Life::new("u1", &zones(&[zone(old.address)]))?;
    assert!(condition(&life.look().await)?.0);
    life.change(&zones(&[zone(new.address)]))?;
    assert!(condition(&life.look().await)?.0);
    assert_eq!(srv(&old).await?, [""; 0], "nothing is left at the old server");
    assert_eq!(srv(&new).await?.len(), 1);

    // Back, while the server that is left is away: the new one is served, and what is left is remembered.
    life.change(&zones(&[zone(old.address)]))?;
    assert!(condition(&life.look().await)?.0);
    old.kill().await?;
    life.change(&zones(&[zone(new.address)]))?;
    let (published, reason, _) = condition(&life.look().await)?;
    assert_eq!((published, reason), (false, "RecordsLeftElsewhere"));
    assert_eq!(srv(&new).await?.len(), 1);
    old.run().await?;
    assert!(condition(&life.look().await)?.0);
    assert_eq!(srv(&old).await?, [""; 0], "it is made up for");

    // A zone that leaves the spec, and then a zone by hand, leave nothing of ours.
    life.change(&zones(&[format!(
        "{{name: {ZONE}, verifyServers: ['{}'], manual: {{}}}}",
        new.address
    )]))?;
    let outcome = life.look().await;
    assert_eq!(srv(&new).await?, [""; 0]);
    assert!(!outcome.finalizer, "nothing of ours stands outside any more");
    Ok(())
}

#[tokio::test]
async fn what_does_not_answer_is_not_published_and_what_stops_answering_goes_after_its_grace() -> Result<()> {
    if installed("what_does_not_answer_is_not_published").first() != Some(&Software::Bind) {
        return Ok(());
    }
    let server = NameServer::start(Software::Bind, "hmac-sha256").await?;
    let site = tempfile::NamedTempFile::new()?;
    std::fs::write(site.path(), [7; 32])?;
    let config = REHEARSAL.replace("/nowhere", &site.path().display().to_string());
    let replica = Replica::start(&config)?;
    let dns = format!("{{gracePeriodSeconds: 600, zones: [{}]}}", zone(server.address));
    let mut life = Life::new("u1", &dns)?;
    life.service = ServiceFacts {
        addresses: [replica.address.ip()].into(),
        host_names: Vec::new(),
        port: free_address()?.port(),
    };
    let (_, reason, message) = condition(&life.look().await)?;
    assert_eq!(reason, "WaitingForTarget");
    assert!(message.contains("no KMS host answers"), "{message}");
    assert_eq!(srv(&server).await?, [""; 0]);

    life.service.port = replica.address.port();
    let (published, reason, message) = condition(&life.look().await)?;
    ensure!(published, "{reason}: {message}");
    replica.tell_to_stop();
    replica.ended().await?;
    let (published, reason, _) = condition(&life.look().await)?;
    assert_eq!((published, reason), (true, "TargetSilent"));
    assert_eq!(srv(&server).await?.len(), 1, "a short outage costs no records");
    life.now = life.now.checked_add(SignedDuration::from_secs(600))?;
    let (published, reason, _) = condition(&life.look().await)?;
    assert_eq!((published, reason), (false, "TargetSilent"));
    assert_eq!(srv(&server).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn two_clusters_share_a_zone_and_what_is_foreign_is_told() -> Result<()> {
    for software in installed("two_clusters_share_a_zone_and_what_is_foreign_is_told") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let foreign = format!("update add {SERVICE} 300 SRV 0 0 1688 dc1.{ZONE}");
        server.nsupdate(&foreign).await?;
        let mut first = Life::new("u1", &zones(&[zone(server.address)]))?;
        let mut second = Life::new("u2", &zones(&[zone(server.address)]))?;
        second.host.metadata.name = Some("other".into());
        second.service.addresses = ["192.0.2.2".parse()?].into();
        let outcome = first.look().await;
        let bypassed = outcome.bypassed.context("a condition")?;
        assert!(
            bypassed.status && bypassed.message.contains("dc1."),
            "{software:?}: {bypassed:?}"
        );
        assert!(first.told.contains(&"ClientsBypassRelay"), "{:?}", first.told);
        second.look().await;
        assert_eq!(srv(&server).await?.len(), 3, "{software:?}");
        // Who deletes takes only what is his.
        assert!(first.clean_up().await.done);
        assert_eq!(srv(&server).await?.len(), 2, "{software:?}");
        // What is listed goes; an annotation leaves the rest behind.
        let listed = zone(server.address).replace("ttl: 300", &format!("ttl: 300, removeForeign: [dc1.{ZONE}]"));
        second.change(&zones(&[listed]))?;
        second.look().await;
        assert_eq!(
            srv(&server).await?,
            [format!("{SERVICE}. 300 IN SRV 0 100 1688 other.{ZONE}.")]
        );
        let annotations = second.host.metadata.annotations.get_or_insert_default();
        annotations.insert(SKIP_CLEANUP_ANNOTATION.to_owned(), "true".to_owned());
        let skipped = second.clean_up().await;
        assert!(
            skipped.done && skipped.notices[0].reason == "CleanUpSkipped",
            "{skipped:?}"
        );
        assert_eq!(srv(&server).await?.len(), 1);
    }
    Ok(())
}
