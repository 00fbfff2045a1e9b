//! What a ledger in Redis does when Redis is away, comes back, moves, forgets the scripts or changes its password.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use kms_host::{
    config::Period,
    ledger::{
        Answered, Ledger, LedgerError, Millis, ObservationQueue, QueueLimits, QueueStats, Verdict,
        config::{RedisConfig, RedisMode, SentinelConfig, TlsConfig},
    },
};
use system_tests::{
    ledger::{NOW, cmid, key, machine_name, open_redis, redis_config, sighting},
    redis::{Cluster, Guard, RedisServer, Sentinels, Tls, free_port, missing, wait_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const OFFICE: Uuid = Uuid::from_u128(1);

/// Ends a test that waits for what does not come.
const PATIENCE: Duration = Duration::from_secs(60);

macro_rules! needs_redis {
    ($test:literal) => {
        if let Some(why) = missing() {
            println!("SKIPPED {}: {why}", $test);
            return Ok(());
        }
    };
}

async fn count(ledger: &dyn Ledger, n: u32) -> Result<u32, LedgerError> {
    let verdicts = ledger
        .count(&[sighting(OFFICE, n, 5, Millis(NOW.0 + i64::from(n)))])
        .await?;
    match verdicts[..] {
        [Verdict::Counted { count }] => Ok(count),
        ref other => panic!("not counted: {other:?}"),
    }
}

/// The first success; failures until then.
async fn at_last<T, E, F: Future<Output = Result<T, E>>>(mut attempt: impl FnMut() -> F) -> Result<T> {
    let trying = async {
        loop {
            if let Ok(done) = attempt().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trying)
        .await
        .context("it never came back")
}

fn standalone(redis: &RedisServer) -> RedisConfig {
    redis_config(vec![redis.address()], RedisMode::Standalone)
}

#[tokio::test]
async fn opening_does_not_wait_for_redis_and_it_is_used_when_it_comes() -> Result<()> {
    needs_redis!("opening_does_not_wait_for_redis_and_it_is_used_when_it_comes");
    let port = free_port()?;
    let ledger = open_redis(redis_config(vec![format!("127.0.0.1:{port}")], RedisMode::Standalone))?.ledger;
    let error = count(&*ledger, 1).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable { .. }), "{error:?}");
    let _redis = RedisServer::start_on(port, &[], &Guard::default())?;
    assert_eq!(at_last(|| count(&*ledger, 1)).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_forgets_the_scripts_is_given_them_again() -> Result<()> {
    needs_redis!("a_redis_that_forgets_the_scripts_is_given_them_again");
    let redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);
    redis.cli(&["SCRIPT", "FLUSH"])?;
    assert_eq!(count(&*ledger, 2).await?, 2);
    let loaded = |stats: &str| stats.lines().any(|line| line.starts_with("cmdstat_evalsha:"));
    let stats = redis.cli(&["INFO", "commandstats"])?;
    assert!(
        loaded(&stats) && !stats.contains("cmdstat_eval:"),
        "scripts are loaded, never sent whole: {stats}"
    );
    Ok(())
}

#[tokio::test]
async fn a_restart_of_redis_is_survived() -> Result<()> {
    needs_redis!("a_restart_of_redis_is_survived");
    let mut redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);
    redis.kill()?;
    assert!(matches!(count(&*ledger, 2).await, Err(LedgerError::Unavailable { .. })));
    redis.restart()?;
    // It kept nothing, the scripts not either.
    assert_eq!(at_last(|| count(&*ledger, 3)).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_not_waited_for_beyond_the_time_out() -> Result<()> {
    needs_redis!("a_redis_that_does_not_answer_is_not_waited_for_beyond_the_time_out");
    let redis = RedisServer::start(&[])?;
    let config = RedisConfig {
        response_timeout: Period(Duration::from_millis(200)),
        ..standalone(&redis)
    };
    let ledger = open_redis(config)?.ledger;
    assert_eq!(at_last(|| count(&*ledger, 1)).await?, 1);
    // Scripts wait; `CLIENT UNPAUSE` must not.
    redis.cli(&["CLIENT", "PAUSE", "600000", "WRITE"])?;
    let error = tokio::time::timeout(PATIENCE, count(&*ledger, 2)).await?.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable { .. }), "{error:?}");
    redis.cli(&["CLIENT", "UNPAUSE"])?;
    at_last(|| count(&*ledger, 3)).await.map(drop)
}

#[tokio::test]
async fn a_fail_over_by_sentinels_is_followed_and_the_count_goes_on() -> Result<()> {
    needs_redis!("a_fail_over_by_sentinels_is_followed_and_the_count_goes_on");
    let mut redis = Sentinels::start()?;
    let sentinel = SentinelConfig {
        master_name: Sentinels::MASTER_NAME.to_owned(),
        username: None,
        password_file: None,
    };
    let config = RedisConfig {
        sentinel: Some(sentinel),
        connect_timeout: Period::seconds(2),
        response_timeout: Period::seconds(2),
        ..redis_config(redis.addresses(), RedisMode::Sentinel)
    };
    let ledger = open_redis(config)?.ledger;
    for n in 1..=4 {
        assert_eq!(at_last(|| count(&*ledger, n)).await?, n);
    }
    let master = redis.data.first_mut().context("the master")?;
    assert_eq!(master.cli(&["WAIT", "1", "30000"])?, "1", "the replica has it all");
    master.kill()?;
    assert_eq!(at_last(|| count(&*ledger, 5)).await?, 5);
    Ok(())
}

#[tokio::test]
async fn a_master_that_became_a_replica_is_left() -> Result<()> {
    needs_redis!("a_master_that_became_a_replica_is_left");
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
    let ledger = open_redis(config)?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);
    let master = redis.data.first().context("the master")?;
    assert_eq!(master.cli(&["WAIT", "1", "30000"])?, "1");
    redis.fail_over()?;
    // The old master still lives, and would answer READONLY for ever.
    wait_until("the old master follows", || {
        master
            .cli(&["INFO", "replication"])
            .is_ok_and(|info| info.contains("role:slave"))
    })?;
    assert_eq!(at_last(|| count(&*ledger, 2)).await?, 2);
    Ok(())
}

#[tokio::test]
async fn a_cluster_node_that_restarts_is_found_again() -> Result<()> {
    needs_redis!("a_cluster_node_that_restarts_is_found_again");
    let mut redis = Cluster::start()?;
    let ledger = open_redis(redis_config(redis.addresses(), RedisMode::Cluster))?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);
    let holds = |node: &RedisServer| node.cli(&["DBSIZE"]).is_ok_and(|size| size != "0");
    let node = redis
        .nodes
        .iter_mut()
        .find(|node| holds(node))
        .context("a node holds the keys")?;
    node.kill()?;
    node.restart()?;
    assert_eq!(at_last(|| count(&*ledger, 2)).await?, 1);
    Ok(())
}

#[tokio::test]
async fn a_cluster_node_that_holds_nothing_of_ours_is_not_missed() -> Result<()> {
    needs_redis!("a_cluster_node_that_holds_nothing_of_ours_is_not_missed");
    let mut redis = Cluster::start()?;
    for node in &redis.nodes {
        node.cli(&["CONFIG", "SET", "cluster-require-full-coverage", "no"])?;
    }
    let config = redis_config(redis.addresses(), RedisMode::Cluster);
    let ledger = open_redis(config.clone())?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);
    let holds = |node: &RedisServer| node.cli(&["DBSIZE"]).is_ok_and(|size| size != "0");
    let (ours, others): (Vec<_>, Vec<_>) = redis.nodes.iter_mut().partition(|node| holds(node));
    let (Some(ours), Some(other)) = (ours.into_iter().next(), others.into_iter().next()) else {
        anyhow::bail!("one node holds the keys and others do not");
    };
    other.kill()?;
    ours.cli(&["SCRIPT", "FLUSH"])?;
    assert_eq!(at_last(|| count(&*ledger, 2)).await?, 2);
    at_last(|| ledger.ping()).await?;
    // A replica that starts now does not miss it either.
    let fresh = open_redis(config)?.ledger;
    assert_eq!(at_last(|| count(&*fresh, 3)).await?, 3);
    Ok(())
}

fn set_password(redis: &RedisServer, changes: &[&str]) -> Result<()> {
    redis.cli(&[&["ACL", "SETUSER", "okms"], changes].concat())?;
    // Redis lets who is connected go on under the old password.
    redis.cli(&["CLIENT", "KILL", "USER", "okms"])?;
    Ok(())
}

fn as_user(redis: &RedisServer, password: &Path) -> RedisConfig {
    RedisConfig {
        username: Some("okms".to_owned()),
        password_file: Some(password.to_owned()),
        ..standalone(redis)
    }
}

#[tokio::test]
async fn a_rotated_password_is_picked_up_in_either_order() -> Result<()> {
    needs_redis!("a_rotated_password_is_picked_up_in_either_order");
    let redis = RedisServer::start(&["user okms on >first ~okms:* -@all +ping +evalsha +script|load +@write +@read"])?;
    let password = redis.dir().join("password");
    std::fs::write(&password, "first\n")?;
    let ledger = open_redis(as_user(&redis, &password))?.ledger;
    assert_eq!(count(&*ledger, 1).await?, 1);

    // The server first: it takes both, then only the new one.
    set_password(&redis, &[">second"])?;
    assert_eq!(at_last(|| count(&*ledger, 2)).await?, 2);
    std::fs::write(&password, "second\n")?;
    set_password(&redis, &["<first"])?;
    assert_eq!(at_last(|| count(&*ledger, 3)).await?, 3);

    // The file first: the server still takes only the old one.
    std::fs::write(&password, "third\n")?;
    set_password(&redis, &[])?;
    assert_eq!(at_last(|| count(&*ledger, 4)).await?, 4);
    set_password(&redis, &[">third", "<second"])?;
    assert_eq!(at_last(|| count(&*ledger, 5)).await?, 5);

    // Neither: refused, by its own name, until the file is right.
    set_password(&redis, &[">fourth", "<third"])?;
    let refused = async || match ledger.ping().await {
        Err(LedgerError::Refused { .. }) => Ok(()),
        other => Err(other),
    };
    at_last(refused).await?;
    std::fs::write(&password, "fourth\n")?;
    at_last(|| ledger.ping()).await
}

#[tokio::test]
async fn a_missing_right_is_a_refusal() -> Result<()> {
    needs_redis!("a_missing_right_is_a_refusal");
    let redis = RedisServer::start(&["user okms on >first ~other:* -@all +ping +evalsha +script|load +@write"])?;
    let password = redis.dir().join("password");
    std::fs::write(&password, "first")?;
    let ledger = open_redis(as_user(&redis, &password))?.ledger;
    ledger.ping().await?;
    let error = count(&*ledger, 1).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("first"), "no password in errors");
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_a_stranger_or_for_another_name_is_refused() -> Result<()> {
    needs_redis!("a_certificate_of_a_stranger_or_for_another_name_is_refused");
    let redis = RedisServer::start_with_tls(&[])?;
    let others = Tls::new()?;
    let with = |ca_file, server_name: Option<&str>| {
        let tls = TlsConfig {
            ca_file: Some(ca_file),
            server_name: server_name.map(str::to_owned),
            certificate_file: None,
            key_file: None,
        };
        open_redis(RedisConfig {
            tls: Some(tls),
            ..standalone(&redis)
        })
    };
    let ca = || redis.ca_file().context("speaks TLS");
    with(ca()?, None)?.ledger.ping().await?;
    with(ca()?, Some("redis.test"))?.ledger.ping().await?;
    assert!(with(ca()?, Some("evil.test"))?.ledger.ping().await.is_err());
    assert!(with(others.file("ca.pem"), None)?.ledger.ping().await.is_err());
    Ok(())
}

#[tokio::test]
async fn who_reads_redis_learns_no_machine() -> Result<()> {
    needs_redis!("who_reads_redis_learns_no_machine");
    let redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    for n in 1..=20 {
        count(&*ledger, n).await?;
    }
    let address = "198.51.100.77".parse()?;
    let answered = Answered {
        client: key().address(address),
        host: "kms1".to_owned(),
        at: NOW,
        warm: true,
    };
    ledger.answered(&[answered]).await?;
    redis.cli(&["SAVE"])?;
    let stored = std::fs::read(redis.dir().join("dump.rdb"))?;
    let holds = |what: &[u8]| stored.windows(what.len()).any(|part| part == what);
    assert!(
        holds(b"kms1") && holds(&key().machine(&cmid(1)).0),
        "the dump is one of this ledger"
    );
    for n in 1..=20 {
        assert!(!holds(machine_name(n).as_bytes()));
        assert!(!holds(cmid(n).as_bytes()));
        assert!(!holds(cmid(n).to_string().as_bytes()));
    }
    assert!(!holds(b"contoso") && !holds(b"198.51.100.77") && !holds(&[198, 51, 100, 77]));
    assert_eq!(ledger.recent_events(1).await?[0].event.client_name, machine_name(20));
    Ok(())
}

/// Replicas of before wrote no sign: nobody knows what their hosts were.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_does_not_tell_is_one_of_a_cold_host() -> Result<()> {
    needs_redis!("a_record_that_does_not_tell_is_one_of_a_cold_host");
    let redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    ledger.answered(&[answered(1), answered(2)]).await?;
    let warm = async || -> Result<Vec<bool>> {
        let routes = ledger.routes(Millis(0), NOW).await?;
        assert_eq!(routes.clients_by_host, [("kms1".to_owned(), 2)]);
        assert!(routes.changed.iter().all(|route| route.host == "kms1"));
        Ok(routes.changed.iter().map(|route| route.warm).collect())
    };
    assert_eq!(warm().await?, [true, true]);
    let unsign = "for _, key in ipairs(redis.call('KEYS', '*answers')) do
        for _, client in ipairs(redis.call('HKEYS', key)) do
            local record = redis.call('HGET', key, client)
            redis.call('HSET', key, client, string.sub(record, 1, 28) .. string.sub(record, 30))
        end
    end";
    redis.cli(&["EVAL", unsign, "0"])?;
    assert_eq!(warm().await?, [false, false]);
    // Its host is known all the same.
    let later = Answered {
        host: "kms2".to_owned(),
        at: Millis(NOW.0 + 1),
        ..answered(1)
    };
    ledger.answered(&[later]).await?;
    let routes = ledger.routes(Millis(0), NOW).await?;
    assert_eq!(routes.clients_by_host, [("kms1".to_owned(), 1), ("kms2".to_owned(), 1)]);
    Ok(())
}

fn answered(n: u32) -> Answered {
    Answered {
        client: key().machine(&cmid(n)),
        host: "kms1".to_owned(),
        at: NOW,
        warm: true,
    }
}

async fn stats_become(queue: &ObservationQueue, expected: QueueStats) -> Result<()> {
    let reached = async || if queue.stats() == expected { Ok(()) } else { Err(()) };
    at_last(reached)
        .await
        .with_context(|| format!("{:?} never became {expected:?}", queue.stats()))
}

#[tokio::test]
async fn what_an_outage_held_back_is_written_afterwards() -> Result<()> {
    needs_redis!("what_an_outage_held_back_is_written_afterwards");
    let mut redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    ledger.ping().await?;
    redis.kill()?;
    let limits = QueueLimits {
        waiting: 1000,
        batch: 100,
        ..QueueLimits::default()
    };
    let stop = CancellationToken::new();
    let (queue, task) = ObservationQueue::start(ledger.clone(), limits, stop.clone());
    for n in 0..500 {
        queue.offer(answered(n));
    }
    assert_eq!(
        queue.stats(),
        QueueStats {
            depth: 500,
            written: 0,
            dropped: 0
        }
    );
    redis.restart()?;
    stats_become(
        &queue,
        QueueStats {
            depth: 0,
            written: 500,
            dropped: 0,
        },
    )
    .await?;
    assert_eq!(ledger.routes(Millis(0), NOW).await?.distinct_clients, 500);
    stop.cancel();
    Ok(task.await?)
}

#[tokio::test]
async fn what_the_store_refuses_waits_and_what_it_rejects_is_dropped_and_counted() -> Result<()> {
    needs_redis!("what_the_store_refuses_waits_and_what_it_rejects_is_dropped_and_counted");
    let redis = RedisServer::start(&["user okms on >first ~okms:* -@all +ping +evalsha +script|load"])?;
    let password = redis.dir().join("password");
    std::fs::write(&password, "first")?;
    let ledger = open_redis(as_user(&redis, &password))?.ledger;
    let (queue, _task) = ObservationQueue::start(ledger.clone(), QueueLimits::default(), CancellationToken::new());
    let figures = |written, dropped| QueueStats {
        depth: 0,
        written,
        dropped,
    };
    (0..10).for_each(|n| queue.offer(answered(n)));
    let refused = async || match ledger.answered(&[answered(0)]).await {
        Err(LedgerError::Refused { .. }) => Ok(()),
        other => Err(other),
    };
    at_last(refused).await?;
    assert_eq!(queue.stats().depth, 10, "a right can be given");
    redis.cli(&["ACL", "SETUSER", "okms", "+@write", "+@read", "+exists"])?;
    stats_become(&queue, figures(10, 0)).await?;

    // Something else has our keys.
    let keys = ["seen", "answers", "hosts"].map(|name| format!("okms:{{test}}:{name}"));
    redis.cli(&["DEL", &keys[0], &keys[1], &keys[2]])?;
    for key in &keys {
        redis.cli(&["SET", key, "a stranger's"])?;
    }
    let error = ledger.answered(&[answered(0)]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Rejected { .. }), "{error:?}");
    (0..10).for_each(|n| queue.offer(answered(n)));
    stats_become(&queue, figures(10, 10)).await?;
    redis.cli(&["DEL", &keys[0], &keys[1], &keys[2]])?;
    (0..10).for_each(|n| queue.offer(answered(n)));
    stats_become(&queue, figures(20, 10)).await?;
    assert_eq!(ledger.routes(Millis(0), NOW).await?.distinct_clients, 10);
    Ok(())
}

#[tokio::test]
async fn a_full_redis_is_waited_for() -> Result<()> {
    needs_redis!("a_full_redis_is_waited_for");
    let redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    ledger.answered(&[answered(0)]).await?;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"])?;
    let error = ledger.answered(&[answered(1)]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unavailable { .. }), "{error:?}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"])?;
    ledger.answered(&[answered(1)]).await?;
    Ok(())
}

#[tokio::test]
async fn a_redis_that_evicts_what_it_should_keep_costs_clients_their_routes_and_nothing_more() -> Result<()> {
    needs_redis!("a_redis_that_evicts_what_it_should_keep_costs_clients_their_routes_and_nothing_more");
    let redis = RedisServer::start(&[])?;
    let ledger = open_redis(standalone(&redis))?.ledger;
    let earlier = |n| Answered {
        at: Millis(NOW.0 - 1),
        ..answered(n)
    };
    let read = async || {
        let read = ledger.routes(Millis(0), NOW).await?;
        anyhow::Ok((read.changed.len(), read.distinct_clients, read.clients_by_host))
    };
    let hosts = |clients| vec![("kms1".to_owned(), clients)];
    for lost in ["seen", "answers", "hosts"] {
        ledger.answered(&[answered(1), answered(2)]).await?;
        assert_eq!(read().await?, (2, 2, hosts(2)));
        redis.cli(&["DEL", &format!("okms:{{test}}:{lost}")])?;
        read().await?;
        ledger.answered(&[earlier(1)]).await?;
        assert_eq!(read().await?, (1, 1, hosts(1)), "without {lost} all is forgotten");
    }
    // Records that cannot be read are as good as none.
    let spoil = "for _, client in ipairs(redis.call('HKEYS', KEYS[1])) do redis.call('HSET', KEYS[1], client, 'x') end";
    redis.cli(&["EVAL", spoil, "1", "okms:{test}:answers"])?;
    assert_eq!(read().await?.0, 0);
    ledger.answered(&[earlier(1), answered(2)]).await?;
    assert_eq!(read().await?.0, 2);
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_is_dropped_and_counted() -> Result<()> {
    let nowhere = redis_config(vec![format!("127.0.0.1:{}", free_port()?)], RedisMode::Standalone);
    let ledger = open_redis(nowhere)?.ledger;
    let limits = QueueLimits {
        waiting: 100,
        batch: 10,
        grace: Duration::from_millis(100),
    };
    let stop = CancellationToken::new();
    let (queue, task) = ObservationQueue::start(ledger, limits, stop.clone());
    // The writer takes one batch out of the queue and keeps it; whether it has yet is its own affair.
    for n in 0..200 {
        queue.offer(answered(n));
    }
    let QueueStats {
        depth,
        written,
        dropped,
    } = queue.stats();
    assert!((100..=110).contains(&depth), "{depth}");
    assert_eq!((written, depth + dropped), (0, 200));
    stop.cancel();
    task.await?;
    assert_eq!(
        queue.stats(),
        QueueStats {
            depth: 0,
            written: 0,
            dropped: 200
        }
    );
    queue.offer(answered(0));
    assert_eq!(queue.stats().dropped, 201);
    Ok(())
}

#[tokio::test]
async fn what_is_left_at_the_end_is_written_within_the_grace() -> Result<()> {
    let ledger = Arc::new(kms_host::ledger::MemoryLedger::new());
    let stop = CancellationToken::new();
    let (queue, task) = ObservationQueue::start(ledger.clone(), QueueLimits::default(), stop.clone());
    stop.cancel();
    for n in 0..2000 {
        queue.offer(answered(n));
    }
    task.await?;
    assert_eq!(
        queue.stats(),
        QueueStats {
            depth: 0,
            written: 2000,
            dropped: 0
        }
    );
    assert_eq!(ledger.routes(Millis(0), NOW).await?.distinct_clients, 2000);
    Ok(())
}
