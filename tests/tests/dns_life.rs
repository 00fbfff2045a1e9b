//! The DNS of a resource through its whole life, in BIND, Knot and PowerDNS: published, moved, repaired, switched to another
//! publisher, withdrawn. What a cluster would keep (status and finalizer) is kept here; tests/tests/dns_operator.rs has
//! the same on an API server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kms_dns::discover::ResolverSource;
use kms_operator::api::status::ZoneStatus;
use kms_operator::api::{OfficeKmsHost, SKIP_CLEANUP_ANNOTATION};
use kms_operator::dns::resource::{FINALIZER, Outcome, visit};
use kms_operator::dns::round::Limits;
use kms_operator::dns::session::Session;
use kms_operator::dns::target::ServiceFacts;
use kms_operator::dns::withdraw::{Cleaned, clean_up};
use kms_operator::secrets::Objects;
use system_tests::name_server::{CLOSED, KEY, NameServer, Proxy, SECRET, Software, ZONE, free_address};
use system_tests::peer;
use system_tests::replica::Replica;

const SERVICE: &str = "_vlmcs._tcp.corp.example.com";

/// A resource as an API server would keep it.
struct Life {
    host: OfficeKmsHost,
    service: ServiceFacts,
    secrets: Objects,
    session: Session,
    limits: Limits,
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
            limits: Limits::default(),
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
                &self.limits,
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

    /// Lets time go by.
    fn wait(&mut self, time: SignedDuration) -> Result<()> {
        self.now = self.now.checked_add(time)?;
        Ok(())
    }

    /// The row of its only zone.
    fn row(&self) -> Result<&ZoneStatus> {
        self.host
            .status
            .as_ref()
            .and_then(|status| status.dns.first())
            .context("a row")
    }

    async fn clean_up(&mut self) -> Cleaned {
        clean_up(&self.host, &self.secrets, &self.session, &self.limits, self.now).await
    }
}

fn through(server: SocketAddr) -> String {
    format!("rfc2136: {{servers: ['{server}'], tsig: {{keyName: {KEY}, secret: {{name: tsig, key: secret}}}}}}")
}

fn zone(server: SocketAddr) -> String {
    zone_through(server, server)
}

/// The zone, published through `proxy` and verified at the server behind it.
fn zone_through(proxy: SocketAddr, server: SocketAddr) -> String {
    format!(
        "{{name: {ZONE}, ttl: 300, verifyServers: ['{server}'], {}}}",
        through(proxy)
    )
}

fn zones(zones: &[String]) -> String {
    format!("{{probe: false, zones: [{}]}}", zones.join(", "))
}

/// One zone whose targets are probed, with ten minutes of grace.
fn probed(zone: &str) -> String {
    format!("{{gracePeriodSeconds: 600, zones: [{zone}]}}")
}

const GRACE: SignedDuration = SignedDuration::from_mins(10);

/// Impatient with what never answers.
fn hasty() -> Limits {
    Limits {
        exchange: Duration::from_secs(1),
        ..Limits::default()
    }
}

/// A rehearsal host at `listen`.
fn replica(listen: &str) -> Result<(Replica, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let site = folder.path().join("site");
    std::fs::write(&site, [7; 32])?;
    let file = folder.path().join("kms-host.yaml");
    let text = format!(
        "listen: ['{listen}']\nadmin: {{listen: '127.0.0.1:0'}}\nrehearsal: {{siteKeyFile: {}}}\n",
        site.display()
    );
    std::fs::write(&file, text)?;
    Ok((Replica::start_from(&file)?, folder))
}

async fn stop(replica: Replica) -> Result<()> {
    replica.tell_to_stop();
    replica.ended().await?;
    Ok(())
}

/// The addresses of the target that stand at a server.
async fn addresses(server: &NameServer) -> Result<Vec<String>> {
    let lines = server.records(&format!("kms.{ZONE}"), "A").await?;
    Ok(lines
        .iter()
        .filter_map(|line| line.split(' ').next_back().map(str::to_owned))
        .collect())
}

/// Counts the changes to a zone.
async fn serial(server: &NameServer) -> Result<Vec<String>> {
    server.records(ZONE, "SOA").await
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
        let proxy = Proxy::start(server.address, Duration::ZERO).await?;
        let mut life = Life::new("u1", &zones(&[zone_through(proxy.address, server.address)]))?;
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
        life.wait(SignedDuration::from_hours(23))?;
        life.look().await;
        let updates = proxy.updates();
        life.look().await;
        assert_eq!(
            proxy.updates(),
            updates,
            "{software:?}: it is looked at, and nothing more"
        );
        life.wait(SignedDuration::from_hours(1))?;
        life.look().await;
        assert_eq!(
            proxy.updates(),
            updates + 1,
            "{software:?}: an update reached the server"
        );
        assert_eq!(life.row()?.refreshed_at.as_ref().map(|at| at.0), Some(life.now));

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
    for software in installed("a_zone_that_fails_holds_up_no_other") {
        let server = NameServer::start(software, "hmac-sha256").await?;
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
        assert_eq!((published, reason), (false, "PublishingFailed"), "{software:?}");
        assert!(
            message.contains(CLOSED) && message.contains("away.example.com"),
            "{software:?}: {message}"
        );
        let verified: Vec<bool> = outcome.rows.iter().map(|row| row.verified).collect();
        assert_eq!(verified, [false, false, true], "{software:?}");
        assert_eq!(srv(&server).await?.len(), 1);
        // The deletion waits for the zone that is away, and says so; the other is clean at once.
        let cleaned = life.clean_up().await;
        assert!(!cleaned.done, "{software:?}: {cleaned:?}");
        let away = cleaned.left.iter().any(|left| left.starts_with("away.example.com: "));
        assert!(away, "{software:?}: {cleaned:?}");
        assert_eq!(srv(&server).await?, [""; 0]);
    }
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
    for software in installed("what_does_not_answer_is_not_published_and_what_stops_answering_goes_after_its_grace") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let (replica, _folder) = replica("127.0.0.1:0")?;
        let mut life = Life::new("u1", &probed(&zone(server.address)))?;
        life.service = ServiceFacts {
            addresses: [replica.address.ip()].into(),
            host_names: Vec::new(),
            port: free_address()?.port(),
        };
        let (_, reason, message) = condition(&life.look().await)?;
        assert_eq!(reason, "WaitingForTarget", "{software:?}");
        assert!(message.contains("no KMS host answers"), "{message}");
        assert_eq!(srv(&server).await?, [""; 0]);

        life.service.port = replica.address.port();
        let (published, reason, message) = condition(&life.look().await)?;
        ensure!(published, "{software:?}: {reason}: {message}");
        stop(replica).await?;
        let (published, reason, message) = condition(&life.look().await)?;
        assert_eq!((published, reason), (true, "TargetSilent"), "{software:?}: {message}");
        assert_eq!(srv(&server).await?.len(), 1, "a short outage costs no records");
        life.wait(GRACE)?;
        let (published, reason, _) = condition(&life.look().await)?;
        assert_eq!((published, reason), (false, "TargetSilent"), "{software:?}");
        assert_eq!(srv(&server).await?, [""; 0]);
    }
    Ok(())
}

#[tokio::test]
async fn of_several_addresses_only_those_that_answer_are_published() -> Result<()> {
    for software in installed("of_several_addresses_only_those_that_answer_are_published") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let (first, _folder) = replica("127.0.0.1:0")?;
        let port = first.address.port();
        let mut life = Life::new("u1", &probed(&zone(server.address)))?;
        life.service = ServiceFacts {
            addresses: ["127.0.0.1".parse()?, "127.0.0.2".parse()?].into(),
            host_names: Vec::new(),
            port,
        };
        let (published, reason, message) = condition(&life.look().await)?;
        assert_eq!((published, reason), (true, "TargetSilent"), "{software:?}: {message}");
        assert!(
            message.contains("127.0.0.2 is not published: no KMS host answers"),
            "{message}"
        );
        assert_eq!(addresses(&server).await?, ["127.0.0.1"], "{software:?}");

        let (second, _folder) = replica(&format!("127.0.0.2:{port}"))?;
        assert_eq!(condition(&life.look().await)?.1, "Published");
        assert_eq!(addresses(&server).await?, ["127.0.0.1", "127.0.0.2"]);
        life.told.clear();
        stop(second).await?;
        let (published, reason, message) = condition(&life.look().await)?;
        assert_eq!((published, reason), (true, "TargetSilent"), "{message}");
        assert_eq!(
            addresses(&server).await?.len(),
            2,
            "{software:?}: a short outage costs no records"
        );
        life.look().await;
        assert_eq!(life.told, ["TargetSilent"], "it is told once");
        assert_eq!(life.row()?.silent.len(), 1);

        life.wait(GRACE)?;
        let (published, _, message) = condition(&life.look().await)?;
        assert!(published && message.contains("127.0.0.2 is not published"), "{message}");
        assert_eq!(addresses(&server).await?, ["127.0.0.1"], "{software:?}");
        life.look().await;
        assert_eq!(addresses(&server).await?, ["127.0.0.1"], "its grace is over for good");
    }
    Ok(())
}

#[tokio::test]
async fn a_service_that_loses_its_address_keeps_its_records_for_their_grace() -> Result<()> {
    for software in installed("a_service_that_loses_its_address_keeps_its_records_for_their_grace") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let foreign = format!("update add {SERVICE} 300 SRV 0 0 1688 dc1.{ZONE}");
        server.nsupdate(&foreign).await?;
        let mut life = Life::new("u1", &zones(&[zone(server.address)]))?;
        life.look().await;
        let before = life.row()?.clone();
        let standing = srv(&server).await?;
        life.told.clear();

        life.service.addresses.clear();
        let outcome = life.look().await;
        let (published, reason, message) = condition(&outcome)?;
        assert_eq!((published, reason), (true, "TargetSilent"), "{software:?}: {message}");
        assert!(!message.contains("still has"), "{software:?}: {message}");
        assert_eq!(srv(&server).await?, standing);
        assert_eq!(
            (&life.row()?.records, &life.row()?.foreign),
            (&before.records, &before.foreign)
        );
        assert!(
            outcome.bypassed.context("a condition")?.status,
            "{software:?}: dc1 is still there"
        );
        assert_eq!(life.told, ["TargetSilent"], "{software:?}");

        // Nor does an address that does not answer yet change anything.
        life.change(&probed(&zone(server.address)))?;
        life.service.addresses = ["127.0.0.1".parse()?].into();
        life.service.port = free_address()?.port();
        assert_eq!(condition(&life.look().await)?.1, "TargetSilent");
        assert_eq!(srv(&server).await?, standing, "{software:?}");

        life.wait(GRACE)?;
        let outcome = life.look().await;
        assert!(!condition(&outcome)?.0, "{software:?}");
        assert_eq!(srv(&server).await?.len(), 1, "{software:?}: only the other's is left");
        assert!(!outcome.finalizer && outcome.bypassed.context("a condition")?.status);
        // Nobody looks any more, and what was seen is not told anew.
        assert_eq!(condition(&life.look().await)?.1, "WaitingForTarget");
        assert_eq!(life.row()?.foreign, before.foreign);
        assert!(!life.told.contains(&"ClientsBypassRelay"), "{:?}", life.told);
    }
    Ok(())
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_taken_back_when_its_target_dies() -> Result<()> {
    for software in installed("an_update_whose_answer_was_lost_is_taken_back_when_its_target_dies") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let proxy = Proxy::start(server.address, Duration::ZERO).await?;
        let (replica, _folder) = replica("127.0.0.1:0")?;
        let mut life = Life::new("u1", &probed(&zone_through(proxy.address, server.address)))?;
        life.limits = hasty();
        life.service = ServiceFacts {
            addresses: [replica.address.ip()].into(),
            host_names: Vec::new(),
            port: replica.address.port(),
        };
        proxy.lose_answers(true);
        let (published, reason, _) = condition(&life.look().await)?;
        assert_eq!((published, reason), (false, "PublishingFailed"), "{software:?}");
        assert_eq!(
            srv(&server).await?.len(),
            1,
            "{software:?}: it took effect all the same"
        );
        assert!(
            life.row()?.published_by[0].published,
            "{software:?}: it may have, for all that is known"
        );

        stop(replica).await?;
        let (published, reason, message) = condition(&life.look().await)?;
        assert_eq!((published, reason), (true, "TargetSilent"), "{software:?}: {message}");
        proxy.lose_answers(false);
        life.wait(GRACE)?;
        let outcome = life.look().await;
        assert_eq!(srv(&server).await?, [""; 0], "{software:?}");
        assert!(!outcome.finalizer, "{software:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_resolver_that_never_answers_does_not_hide_what_was_published() -> Result<()> {
    for software in installed("a_resolver_that_never_answers_does_not_hide_what_was_published") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
        let dns = format!("{{name: {ZONE}, ttl: 300, {}}}", through(server.address));
        let mut life = Life::new("u1", &zones(&[dns]))?;
        life.limits.resolver = ResolverSource::Servers(vec![silent.local_addr()?]);
        life.limits.zone = Duration::from_secs(3);
        let (published, reason, message) = condition(&life.look().await)?;
        assert_eq!((published, reason), (false, "NotVerified"), "{software:?}: {message}");
        assert_eq!(srv(&server).await?.len(), 1, "{software:?}");
        assert!(life.row()?.refreshed_at.is_some());

        life.service.addresses.clear();
        life.look().await;
        assert_eq!(srv(&server).await?.len(), 1);
        life.wait(GRACE)?;
        life.look().await;
        assert_eq!(srv(&server).await?, [""; 0], "{software:?}");
    }
    Ok(())
}

#[tokio::test]
async fn six_silent_servers_do_not_hide_the_seventh_for_ever() -> Result<()> {
    for software in installed("six_silent_servers_do_not_hide_the_seventh_for_ever") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let silent = vec![format!("'{}'", silent.local_addr()?); 6].join(", ");
        let dns = zone(server.address).replace("servers: [", &format!("servers: [{silent}, "));
        let mut life = Life::new("u1", &zones(&[dns]))?;
        // Too short for six of them.
        life.limits.exchange = Duration::from_secs(1);
        life.limits.zone = Duration::from_secs(4);
        let mut published = condition(&life.look().await)?;
        assert_eq!(
            (published.0, published.1),
            (false, "PublishingFailed"),
            "{software:?}: the time is over first"
        );
        for _ in 0..5 {
            if !published.0 {
                published = condition(&life.look().await)?;
            }
        }
        assert!(published.0, "{software:?}: {published:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_external_dns_publishes_does_not_hide_what_others_do() -> Result<()> {
    for software in installed("what_external_dns_publishes_does_not_hide_what_others_do") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let foreign = format!("update add {SERVICE} 300 SRV 0 0 1688 dc1.{ZONE}");
        server.nsupdate(&foreign).await?;
        let dns = format!(
            "{{name: {ZONE}, ttl: 300, verifyServers: ['{}'], dnsEndpoint: {{}}}}",
            server.address
        );
        let mut life = Life::new("u1", &zones(&[dns]))?;
        life.service.addresses = ["192.0.2.1".parse()?].into();
        let outcome = life.look().await;
        assert!(
            !condition(&outcome)?.0,
            "{software:?}: external-dns has not come by yet"
        );
        let told = [format!("{SERVICE}. IN SRV 0 0 1688 dc1.{ZONE}.")];
        assert_eq!(life.row()?.foreign, told, "{software:?}");
        assert!(outcome.bypassed.context("a condition")?.status);

        server
            .nsupdate(&format!(
                "update add {SERVICE} 300 SRV 0 100 1688 kms.{ZONE}\nupdate add kms.{ZONE} 300 A 192.0.2.1"
            ))
            .await?;
        let outcome = life.look().await;
        let (published, _, message) = condition(&outcome)?;
        ensure!(published, "{software:?}: {message}");
        assert_eq!(life.row()?.foreign, told, "{software:?}: ours are not among them");
        life.service.addresses.clear();
        let outcome = life.look().await;
        assert_eq!(
            (condition(&outcome)?.0, condition(&outcome)?.1),
            (true, "TargetSilent"),
            "{software:?}"
        );
        assert_eq!(life.row()?.foreign, told, "{software:?}");
        let bypasses = life.told.iter().filter(|reason| **reason == "ClientsBypassRelay");
        assert_eq!(bypasses.count(), 1, "{software:?}: it is told once");
    }
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_published_as_a_whole_reaches_no_server() -> Result<()> {
    for software in installed("what_cannot_be_published_as_a_whole_reaches_no_server") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let proxy = Proxy::start(server.address, Duration::ZERO).await?;
        let good = zone_through(proxy.address, server.address);
        let with = |more: &str| good.replace("ttl: 300", &format!("ttl: 300, {more}"));
        let twice = format!("{good}, {}", good.replace(ZONE, &ZONE.to_uppercase()));
        let owner = |zones: &str| format!("{{probe: false, owner: 'A B', zones: [{zones}]}}");
        let cases = [
            (
                zones(&[with("addresses: [192.0.2.1, 0.0.0.0]")]),
                "spec.dns.zones[0].addresses[1]",
            ),
            (
                zones(&[with("addresses: [224.0.0.1]")]),
                "spec.dns.zones[0].addresses[0]",
            ),
            (
                zones(&[with("target: kms.example.net, addresses: [192.0.2.1]")]),
                "spec.dns.zones[0].addresses",
            ),
            (zones(&[twice]), "spec.dns.zones[1].name"),
            (owner(&good), "spec.dns.owner"),
        ];
        let before = serial(&server).await?;
        for (dns, path) in cases {
            let mut life = Life::new("u1", &dns)?;
            let outcome = life.look().await;
            let (published, reason, message) = condition(&outcome)?;
            assert_eq!((published, reason), (false, "InvalidSpec"), "{software:?}: {message}");
            assert!(message.contains(&format!("{path}: ")), "{software:?}: {message}");
            assert!(!outcome.finalizer);
        }
        assert_eq!(proxy.updates(), 0, "{software:?}");
        assert_eq!(serial(&server).await?, before, "{software:?}");
    }
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
        // Who deletes takes only what is his. In a namespace that ends, the Secret may go before, and be missed before the resource is to go.
        first.secrets = Objects::default();
        first.look().await;
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
