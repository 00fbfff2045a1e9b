//! Three rehearsal hosts on one ledger share one count: five clients spread over them reach 5.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, bail};
use kms_host::{
    ledger::{
        BatchLimits, Millis, Opened,
        config::{RedisConfig, RedisMode, SentinelConfig},
        counting::SENT_AGAIN_WITHIN_MS,
    },
    rehearsal::{
        Handled, Reason, RehearsalConfig, RehearsalHost, S_OK, SiteKey,
        client::{self, Machine, Outcome},
        message::WorkstationName,
        products::Product,
    },
    sealing,
};
use system_tests::{
    ledger::{NOW, cmid, machine_name, open_redis, redis_config},
    redis::{Cluster, Guard, RedisServer, Sentinels, free_port, missing},
    replica::eventually,
};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn site_key() -> SiteKey {
    SiteKey::new(&[5; 32])
}

fn replica(opened: Opened) -> RehearsalHost {
    let config = RehearsalConfig::new("unused".into()).validate().unwrap();
    RehearsalHost::start(config, site_key(), opened, BatchLimits::default())
}

fn request(n: u32, later_us: i64) -> Result<client::Asked> {
    let machine = Machine::new(WorkstationName::new(&machine_name(n)).unwrap(), cmid(n));
    let office = Product::named("OfficeLTSC2024").unwrap();
    Ok(client::ask(
        &site_key(),
        &machine,
        &office,
        NOW.0 * 1000 + later_us,
        &sealing::draw()?,
    ))
}

async fn activate(host: &RehearsalHost, n: u32, later_us: i64) -> Result<Outcome> {
    let asked = request(n, later_us)?;
    match host.handle(&asked.body, CLIENT, NOW).await {
        Handled::Answered { body, .. } => Ok(asked.conclude(&site_key(), S_OK, Some(&body))?),
        other => bail!("{other:?}"),
    }
}

async fn five_clients_reach_five(config: RedisConfig) -> Result<()> {
    // Each replica has its own connections, as processes of their own would.
    let replicas = (0..3)
        .map(|_| Ok(replica(open_redis(config.clone())?)))
        .collect::<Result<Vec<_>>>()?;
    for (n, host) in (1..=5).zip(replicas.iter().cycle()) {
        let outcome = activate(host, n, 0).await?;
        assert_eq!(outcome.current_count(), Some(n));
        assert_eq!(
            matches!(outcome, Outcome::Licensed(_)),
            n == 5,
            "client {n}: {outcome:?}"
        );
    }
    // The first four ask again, wherever, and are licensed too.
    for (n, host) in (1..=4).zip(replicas.iter().rev().cycle()) {
        assert!(matches!(activate(host, n, 1).await?, Outcome::Licensed(response) if response.current_count == 5));
    }
    // What one replica counted is counted for the others: they answer it again for a moment, as a relay asks for when an
    // answer was lost, and then it is a replay.
    let asked = request(6, 0)?;
    for host in &replicas {
        let handled = host.handle(&asked.body, CLIENT, NOW).await;
        assert!(
            matches!(handled, Handled::Answered { current_count: 6, .. }),
            "{handled:?}"
        );
    }
    let later = Millis(NOW.0 + SENT_AGAIN_WITHIN_MS + 1);
    for host in &replicas {
        let handled = host.handle(&asked.body, CLIENT, later).await;
        assert_eq!(handled, Handled::Refused(Reason::Replayed));
    }
    // Many at once are each counted once.
    let at_once = (7..=10)
        .zip(replicas.iter().cycle())
        .map(|(n, host)| activate(host, n, 0));
    let outcomes = futures::future::try_join_all(at_once).await?;
    let mut counts: Vec<_> = outcomes.iter().filter_map(Outcome::current_count).collect();
    counts.sort_unstable();
    assert_eq!(counts, [7, 8, 9, 10]);
    Ok(())
}

#[tokio::test]
async fn on_one_redis() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED on_one_redis: {why}");
        return Ok(());
    }
    let redis = RedisServer::start(&[])?;
    five_clients_reach_five(redis_config(vec![redis.address()], RedisMode::Standalone)).await
}

#[tokio::test]
async fn behind_sentinels() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED behind_sentinels: {why}");
        return Ok(());
    }
    let redis = Sentinels::start()?;
    let sentinel = SentinelConfig {
        master_name: Sentinels::MASTER_NAME.to_owned(),
        username: None,
        password_file: None,
    };
    let config = RedisConfig {
        sentinel: Some(sentinel),
        ..redis_config(redis.addresses(), RedisMode::Sentinel)
    };
    five_clients_reach_five(config).await
}

#[tokio::test]
async fn on_a_cluster() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED on_a_cluster: {why}");
        return Ok(());
    }
    let redis = Cluster::start()?;
    five_clients_reach_five(redis_config(redis.addresses(), RedisMode::Cluster)).await
}

#[tokio::test]
async fn without_redis_the_answer_is_busy_and_never_a_count() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED without_redis_the_answer_is_busy_and_never_a_count: {why}");
        return Ok(());
    }
    let port = free_port()?;
    let host = replica(open_redis(redis_config(
        vec![format!("127.0.0.1:{port}")],
        RedisMode::Standalone,
    ))?);
    assert_eq!(host.handle(&request(1, 0)?.body, CLIENT, NOW).await, Handled::Busy);
    let mut redis = RedisServer::start_on(port, &[], &Guard::default())?;
    let mut later_us = 1;
    eventually("the ledger answers", async || {
        later_us += 1;
        match request(1, later_us) {
            Ok(request) => host.handle(&request.body, CLIENT, NOW).await != Handled::Busy,
            Err(_) => false,
        }
    })
    .await?;
    assert_eq!(activate(&host, 2, 0).await?.current_count(), Some(2));
    redis.kill()?;
    assert_eq!(host.handle(&request(3, 0)?.body, CLIENT, NOW).await, Handled::Busy);
    Ok(())
}
