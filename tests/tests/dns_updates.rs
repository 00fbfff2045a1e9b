//! Records published by dynamic update in BIND, Knot and PowerDNS: taken, shared, repaired and taken away, and every refusal
//! told apart.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use futures::future::{BoxFuture, join_all};
use kms_dns::discover::{self, ResolverSource};
use kms_dns::names::ZoneName;
use kms_dns::plan::{Observed, Options, Plan, Reason};
use kms_dns::publisher::{PublishError, Published, Publisher, publish, withdraw};
use kms_dns::records::{Desired, Endpoint};
use kms_dns::rfc2136::Rfc2136;
use kms_dns::tsig::{Algorithm, Key};
use kms_dns::verify::{Authority, verify};
use secrecy::SecretString;
use system_tests::name_server::{CLOSED, KEY, NameServer, Proxy, SECRET, Software, ZONE, dig, free_address};
use system_tests::peer;
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(10);
const SERVICE: &str = "_vlmcs._tcp.corp.example.com";

fn key(name: &str, algorithm: Algorithm, secret: &str) -> Result<Key> {
    Ok(Key::new(name, algorithm, &SecretString::from(secret))?)
}

fn publisher(servers: &[SocketAddr]) -> Result<Rfc2136> {
    let servers = servers.iter().map(|server| (*server).into()).collect();
    Ok(Rfc2136::new(
        servers,
        key(KEY, Algorithm::HmacSha256, SECRET)?,
        PATIENCE,
    ))
}

fn desired(owner: &str, zone: &str, host: &str, addresses: &[&str]) -> Result<Desired> {
    let apex: ZoneName = zone.parse()?;
    let endpoint = Endpoint {
        target: format!("{host}.{zone}").parse()?,
        addresses: addresses
            .iter()
            .map(|address| address.parse())
            .collect::<Result<_, _>>()?,
        port: 1688,
        priority: 0,
        weight: 100,
    };
    Ok(Desired::new(apex.clone(), apex, owner.parse()?, 300, &[endpoint])?)
}

fn kms(owner: &str) -> Result<Desired> {
    desired(owner, ZONE, "kms", &["192.0.2.1", "2001:db8::1"])
}

async fn run(publisher: &dyn Publisher, desired: &Desired) -> Result<Published, PublishError> {
    publish(publisher, desired, &Options::default()).await
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

#[tokio::test]
async fn each_server_takes_what_each_algorithm_signed_and_gives_it_up_again() -> Result<()> {
    for software in installed("each_server_takes_what_each_algorithm_signed_and_gives_it_up_again") {
        for algorithm in [Algorithm::HmacSha256, Algorithm::HmacSha384, Algorithm::HmacSha512] {
            let server = NameServer::start(software, algorithm.as_str()).await?;
            let key = key(KEY, algorithm, SECRET)?;
            let publisher = Rfc2136::new(vec![server.address.into()], key, PATIENCE);
            let wanted = kms("c1/office/kms")?;
            let what = format!("{software:?} with {algorithm:?}");

            run(&publisher, &wanted).await.context(what.clone())?;
            assert_eq!(
                server.records(SERVICE, "SRV").await?,
                [format!("{SERVICE}. 300 IN SRV 0 100 1688 kms.{ZONE}.")],
                "{what}"
            );
            assert_eq!(
                server.records(&format!("kms.{ZONE}"), "A").await?,
                [format!("kms.{ZONE}. 300 IN A 192.0.2.1")]
            );
            assert_eq!(
                server.records(&format!("kms.{ZONE}"), "AAAA").await?,
                [format!("kms.{ZONE}. 300 IN AAAA 2001:db8::1")]
            );
            let marks = server.records(SERVICE, "TXT").await?.join("");
            assert!(
                marks.contains("heritage=officekms,owner=c1/office/kms,record=SRV 0 100 1688"),
                "{marks}"
            );

            let again = run(&publisher, &wanted).await?;
            assert_eq!(again.plan.changes, [], "{what}: converged");
            let refresh = Options {
                refresh: true,
                ..Options::default()
            };
            publish(&publisher, &wanted, &refresh).await.context(what.clone())?;
            assert_eq!(server.records(SERVICE, "SRV").await?.len(), 1);

            withdraw(&publisher, &wanted).await.context(what.clone())?;
            for (name, kind) in [(SERVICE, "SRV"), (SERVICE, "TXT"), (&*format!("kms.{ZONE}"), "A")] {
                assert_eq!(server.records(name, kind).await?, [""; 0], "{what}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_target_replaces_the_old_one_and_drift_is_repaired() -> Result<()> {
    for software in installed("a_changed_target_replaces_the_old_one_and_drift_is_repaired") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let publisher = publisher(&[server.address])?;
        run(&publisher, &kms("c1")?).await?;
        let moved = desired("c1", ZONE, "moved", &["192.0.2.9"])?;
        run(&publisher, &moved).await?;
        let expected = [format!("{SERVICE}. 300 IN SRV 0 100 1688 moved.{ZONE}.")];
        assert_eq!(server.records(SERVICE, "SRV").await?, expected);
        assert_eq!(server.records(&format!("kms.{ZONE}"), "A").await?, [""; 0]);

        server
            .nsupdate(&format!("update delete {SERVICE} SRV\nupdate delete moved.{ZONE} A"))
            .await?;
        assert_eq!(server.records(SERVICE, "SRV").await?, [""; 0]);
        run(&publisher, &moved).await?;
        assert_eq!(server.records(SERVICE, "SRV").await?, expected);
        assert_eq!(server.records(&format!("moved.{ZONE}"), "A").await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn wrong_keys_clocks_and_zones_are_told_apart() -> Result<()> {
    for software in installed("wrong_keys_clocks_and_zones_are_told_apart") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let with = |key: Key| Rfc2136::new(vec![server.address.into()], key, PATIENCE);
        let wanted = kms("c1")?;
        let late = Arc::new(|| SystemTime::now() + Duration::from_secs(3600));
        let early = Arc::new(|| SystemTime::now() - Duration::from_secs(3600));
        let cases = [
            ("badkey", with(key("nobody-knows", Algorithm::HmacSha256, SECRET)?)),
            ("badsig", with(key(KEY, Algorithm::HmacSha256, "b3RoZXI=")?)),
            ("badkey", with(key(KEY, Algorithm::HmacSha512, SECRET)?)),
            (
                "badtime",
                with(key(KEY, Algorithm::HmacSha256, SECRET)?).with_clock(late),
            ),
            (
                "badtime",
                with(key(KEY, Algorithm::HmacSha256, SECRET)?).with_clock(early),
            ),
        ];
        let mut skews = Vec::new();
        for (category, publisher) in cases {
            let error = run(&publisher, &wanted).await.err().context("it was refused")?;
            // PowerDNS says NOTAUTH, and not why.
            let expected = if software == Software::PowerDns {
                "notauth"
            } else {
                category
            };
            assert_eq!(error.category(), expected, "{software:?}: {error:?}");
            if let PublishError::BadTime { skew, .. } = error {
                skews.push(skew);
            }
        }
        match skews.as_slice() {
            // PowerDNS does not say.
            [] => assert_eq!(software, Software::PowerDns),
            [late, early] => assert!(
                (-3700..=-3500).contains(late) && (3500..=3700).contains(early),
                "{software:?}: {late} {early}"
            ),
            other => anyhow::bail!("{software:?}: {other:?}"),
        }

        let right = publisher(&[server.address])?;
        // Knot says of a key that may only ask that it does not know it, when it is to update.
        let (closed, elsewhere) = match software {
            Software::Bind => ("refused", "refused"),
            Software::Knot => ("badkey", "refused"),
            Software::PowerDns => ("refused", "refused"),
        };
        for (zone, category) in [(CLOSED, closed), ("example.net", elsewhere)] {
            let refused = run(&right, &desired("c1", zone, "kms", &[])?).await;
            let error = refused.err().context("it was refused")?;
            assert_eq!(error.category(), category, "{software:?}: {zone}: {error:?}");
        }
        assert_eq!(
            server.records(SERVICE, "SRV").await?,
            [""; 0],
            "{software:?}: nothing was published"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_was_down_is_published_to_when_it_is_back() -> Result<()> {
    for software in installed("a_server_that_was_down_is_published_to_when_it_is_back") {
        let mut server = NameServer::start(software, "hmac-sha256").await?;
        let publisher = publisher(&[server.address])?;
        run(&publisher, &kms("c1")?).await?;
        server.kill().await?;
        let down = run(&publisher, &kms("c2")?).await;
        assert!(
            matches!(&down, Err(error @ PublishError::Unreachable(_)) if error.is_transient()),
            "{down:?}"
        );
        server.run().await?;
        run(&publisher, &kms("c2")?).await?;
        assert_eq!(server.records(SERVICE, "TXT").await?.len(), 2, "{software:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_silent_or_dead_server_gives_way_to_the_second_primary() -> Result<()> {
    for software in installed("a_silent_or_dead_server_gives_way_to_the_second_primary") {
        let silent = TcpListener::bind("127.0.0.1:0").await?;
        let slow = Rfc2136::new(
            vec![silent.local_addr()?.into()],
            key(KEY, Algorithm::HmacSha256, SECRET)?,
            Duration::from_millis(200),
        );
        let error = run(&slow, &kms("c1")?).await.err().context("nobody answered")?;
        assert_eq!(error.category(), "unreachable");

        let server = NameServer::start(software, "hmac-sha256").await?;
        let key = key(KEY, Algorithm::HmacSha256, SECRET)?;
        let servers = [silent.local_addr()?, free_address()?, server.address].map(Into::into);
        let publisher = Rfc2136::new(servers.to_vec(), key, Duration::from_millis(1500));
        run(&publisher, &kms("c1")?).await?;
        assert_eq!(server.records(SERVICE, "SRV").await?.len(), 1);
    }
    Ok(())
}

#[tokio::test]
async fn a_slow_server_is_waited_for_as_long_as_patience_lasts() -> Result<()> {
    for software in installed("a_slow_server_is_waited_for_as_long_as_patience_lasts") {
        let (slow, next) = (
            NameServer::start(software, "hmac-sha256").await?,
            NameServer::start(software, "hmac-sha256").await?,
        );
        let half_a_second = Proxy::start(slow.address, Duration::from_millis(500)).await?;
        run(&publisher(&[half_a_second.address])?, &kms("c1")?)
            .await
            .with_context(|| format!("{software:?}"))?;
        assert_eq!(slow.records(SERVICE, "SRV").await?.len(), 1);

        // One that is slower than that gives way to the next, and nothing is asked of it.
        let too_slow = Proxy::start(slow.address, Duration::from_secs(3600)).await?;
        let servers = [too_slow.address, next.address].map(Into::into);
        let publisher = Rfc2136::new(
            servers.to_vec(),
            key(KEY, Algorithm::HmacSha256, SECRET)?,
            Duration::from_secs(1),
        );
        run(&publisher, &kms("c2")?)
            .await
            .with_context(|| format!("{software:?}"))?;
        assert_eq!(next.records(SERVICE, "SRV").await?.len(), 1, "{software:?}");
        assert_eq!(too_slow.updates(), 0);
    }
    Ok(())
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_found_when_the_zone_is_read_again() -> Result<()> {
    for software in installed("an_update_whose_answer_was_lost_is_found_when_the_zone_is_read_again") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let proxy = Proxy::start(server.address, Duration::ZERO).await?;
        proxy.lose_answers(true);
        let key = key(KEY, Algorithm::HmacSha256, SECRET)?;
        let alone = Rfc2136::new(vec![proxy.address.into()], key.clone(), Duration::from_secs(1));
        let lost = run(&alone, &kms("c1")?).await.err().context("its answer was lost")?;
        assert_eq!(lost.category(), "unreachable", "{software:?}: {lost:?}");
        let again = run(&alone, &kms("c1")?).await?;
        assert_eq!(again.plan.changes, [], "{software:?}: it took effect");

        // With another way to the same server, the update is sent there as well: that it took effect looks like a lost race.
        let servers = [proxy.address, server.address].map(Into::into);
        let both = Rfc2136::new(servers.to_vec(), key, Duration::from_secs(1));
        let moved = desired("c1", ZONE, "moved", &["192.0.2.9"])?;
        let published = run(&both, &moved).await.with_context(|| format!("{software:?}"))?;
        assert_eq!(
            (published.lost_races, published.plan.changes.len()),
            (1, 0),
            "{software:?}"
        );
        assert_eq!(proxy.updates(), 2, "{software:?}");
        assert_eq!(
            server.records(SERVICE, "SRV").await?,
            [format!("{SERVICE}. 300 IN SRV 0 100 1688 moved.{ZONE}.")]
        );
    }
    Ok(())
}

/// Kills the server that was read before anything is written.
struct Struck {
    inner: Rfc2136,
    read: tokio::sync::Mutex<NameServer>,
}

impl Publisher for Struck {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
        self.inner.observe(desired)
    }

    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async {
            let killed = self.read.lock().await.kill().await;
            killed.map_err(|error| PublishError::Other(error.to_string()))?;
            self.inner.apply(plan).await
        })
    }
}

#[tokio::test]
async fn a_primary_that_dies_between_reading_and_writing_gives_way_to_the_second() -> Result<()> {
    for software in installed("a_primary_that_dies_between_reading_and_writing_gives_way_to_the_second") {
        let (first, second) = (
            NameServer::start(software, "hmac-sha256").await?,
            NameServer::start(software, "hmac-sha256").await?,
        );
        let both = [first.address, second.address];
        run(&publisher(&both)?, &kms("c1")?).await?;
        assert_eq!(
            second.records(SERVICE, "SRV").await?,
            [""; 0],
            "{software:?}: the first is enough"
        );

        // The second lags behind: what was planned for the first does not fit, and is planned anew.
        let publisher = Struck {
            inner: publisher(&both)?,
            read: first.into(),
        };
        let moved = desired("c1", ZONE, "moved", &["192.0.2.9"])?;
        let published = run(&publisher, &moved).await.with_context(|| format!("{software:?}"))?;
        assert_eq!(published.lost_races, 1, "{software:?}");
        assert_eq!(
            second.records(SERVICE, "SRV").await?,
            [format!("{SERVICE}. 300 IN SRV 0 100 1688 moved.{ZONE}.")],
            "{software:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn owners_publish_side_by_side_even_at_the_same_time() -> Result<()> {
    for software in installed("owners_publish_side_by_side_even_at_the_same_time") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let publisher = publisher(&[server.address])?;
        let wishes: Vec<Desired> = (0..4)
            .map(|owner| desired(&format!("c{owner}"), ZONE, &format!("kms{owner}"), &["192.0.2.1"]))
            .collect::<Result<_>>()?;
        for outcome in join_all(wishes.iter().map(|wanted| run(&publisher, wanted))).await {
            outcome.with_context(|| format!("{software:?}"))?;
        }
        assert_eq!(server.records(SERVICE, "SRV").await?.len(), 4, "{software:?}");
        let found = discover::lookup(&ZONE.parse()?, &ResolverSource::Servers(vec![server.address])).await?;
        assert_eq!(
            found.candidates.iter().map(|c| c.owners.join("")).collect::<Vec<_>>(),
            ["c0", "c1", "c2", "c3"]
        );

        let [first, rest @ ..] = wishes.as_slice() else {
            anyhow::bail!("four wishes")
        };
        withdraw(&publisher, first).await?;
        assert_eq!(server.records(SERVICE, "SRV").await?.len(), 3);
        for wanted in rest {
            withdraw(&publisher, wanted).await?;
        }
        assert_eq!(server.records(SERVICE, "TXT").await?, [""; 0]);
    }
    Ok(())
}

/// Lets somebody else change the zone between reading and writing, once.
struct Overtaken<'a> {
    inner: Rfc2136,
    server: &'a NameServer,
    done: std::sync::atomic::AtomicBool,
}

impl Publisher for Overtaken<'_> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
        self.inner.observe(desired)
    }

    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async {
            if !self.done.swap(true, std::sync::atomic::Ordering::SeqCst) {
                let change = format!("update add {SERVICE} 300 SRV 0 0 1688 other.{ZONE}.");
                let changed = self.server.nsupdate(&change).await;
                changed.map_err(|error| PublishError::Other(error.to_string()))?;
            }
            self.inner.apply(plan).await
        })
    }
}

#[tokio::test]
async fn a_lost_race_is_run_again_on_what_the_winner_left() -> Result<()> {
    for software in installed("a_lost_race_is_run_again_on_what_the_winner_left") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let publisher = Overtaken {
            inner: publisher(&[server.address])?,
            server: &server,
            done: false.into(),
        };
        let published = run(&publisher, &kms("c1")?)
            .await
            .with_context(|| format!("{software:?}"))?;
        assert_eq!(published.lost_races, 1, "{software:?}");
        assert_eq!(published.plan.bypasses().count(), 1);
        assert_eq!(
            server.records(SERVICE, "SRV").await?.len(),
            2,
            "both stand side by side"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_windows_host_s_own_record_is_kept_and_reported_until_it_is_listed() -> Result<()> {
    for software in installed("a_windows_host_s_own_record_is_kept_and_reported_until_it_is_listed") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let publisher = publisher(&[server.address])?;
        server
            .nsupdate(&format!("update add {SERVICE} 3600 SRV 0 0 1688 DC1.{ZONE}."))
            .await?;
        let published = run(&publisher, &kms("c1")?).await?;
        let bypasses: Vec<String> = published.plan.bypasses().map(ToString::to_string).collect();
        assert_eq!(
            bypasses,
            [format!("{SERVICE}. IN SRV 0 0 1688 dc1.{ZONE}.")],
            "{software:?}"
        );
        assert_eq!(server.records(SERVICE, "SRV").await?.len(), 2);

        withdraw(&publisher, &kms("c1")?).await?;
        let left = server.records(SERVICE, "SRV").await?.join("").to_lowercase();
        assert!(left.contains("dc1") && !left.contains("kms."), "{software:?}: {left}");

        let options = Options {
            remove_foreign: [format!("dc1.{ZONE}").parse()?].into(),
            ..Options::default()
        };
        let published = publish(&publisher, &kms("c1")?, &options).await?;
        assert_eq!(published.plan.because(Reason::Listed).count(), 1);
        let left = server.records(SERVICE, "SRV").await?.join("").to_lowercase();
        assert!(left.contains("kms.") && !left.contains("dc1"), "{software:?}: {left}");
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_are_too_large_for_a_datagram_are_read_whole() -> Result<()> {
    for software in installed("answers_that_are_too_large_for_a_datagram_are_read_whole") {
        let server = NameServer::start(software, "hmac-sha256").await?;
        let script: Vec<String> = (0..30)
            .map(|index| {
                format!("update add {SERVICE} 60 SRV 0 0 1688 a-windows-host-with-a-long-name-{index}.{ZONE}.")
            })
            .collect();
        server.nsupdate(&script.join("\n")).await?;
        let flags = dig(server.address, &["+ignore", "+bufsize=1232", SERVICE, "SRV"]).await?;
        ensure!(flags.contains(" tc"), "{software:?}: by UDP it is truncated: {flags}");

        let publisher = publisher(&[server.address])?;
        let published = run(&publisher, &kms("c1")?)
            .await
            .with_context(|| format!("{software:?}"))?;
        assert_eq!(published.plan.bypasses().count(), 30, "{software:?}");
        let verification = verify(&kms("c1")?, &[server.address.into()], PATIENCE).await;
        assert!(verification.holds(), "{software:?}: {verification}");
        let found = discover::lookup(&ZONE.parse()?, &ResolverSource::Servers(vec![server.address])).await?;
        assert_eq!(found.candidates.len(), 31);
    }
    Ok(())
}

#[tokio::test]
async fn verification_says_which_server_lacks_what() -> Result<()> {
    let software = installed("verification_says_which_server_lacks_what");
    if !software.contains(&Software::Bind) {
        return Ok(());
    }
    // The secondary is BIND, whatever the primary is.
    for software in software {
        verifies_with(software).await.with_context(|| format!("{software:?}"))?;
    }
    Ok(())
}

async fn verifies_with(software: Software) -> Result<()> {
    let primary = NameServer::start(software, "hmac-sha256").await?;
    let mut secondary = NameServer::start_secondary(primary.address).await?;
    run(&publisher(&[primary.address])?, &kms("c1")?).await?;
    let dead = free_address()?;
    let servers: Vec<Authority> = vec![primary.address.into(), secondary.address.into(), dead.into()];
    let behind = verify(&kms("c1")?, &servers, Duration::from_secs(2)).await;
    let text = behind.to_string();
    assert!(!behind.holds());
    assert!(
        text.contains(&format!("{} lacks {SERVICE}. IN SRV", secondary.address)),
        "{text}"
    );
    assert!(
        text.contains(&dead.to_string()) && !text.contains(&primary.address.to_string()),
        "{text}"
    );

    secondary.kill().await?;
    secondary.run().await?;
    system_tests::replica::eventually("the secondary has transferred the zone", async || {
        verify(&kms("c1").expect("records"), &servers[..2], PATIENCE)
            .await
            .holds()
    })
    .await?;
    let gone = verify(&kms("c1")?.withdrawn(), &servers[..2], PATIENCE).await;
    assert!(gone.to_string().contains("still has"), "{gone}");
    Ok(())
}
