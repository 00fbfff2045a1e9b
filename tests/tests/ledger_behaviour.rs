//! One ledger, kept in seven places: every case here runs over memory and over Redis alone, behind sentinels and as a
//! cluster, each open and guarded: by TLS, ACL users with no right too many, and client certificates.

mod cases;
mod sequences;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::Result;
use kms_host::ledger::{
    Ledger, MemoryLedger,
    config::{RedisConfig, RedisMode, SentinelConfig, TlsConfig},
};
use system_tests::{
    ledger::{open_redis, redis_config},
    redis::{Cluster, Guard, RedisServer, Sentinels, Tls, free_port, missing},
};

/// The ACL user that the documentation advises.
const USER: &str = include_str!("../../docs/examples/ledger-user.acl");

/// Its password in the tests.
const PASSWORD: &str = "Tr0ub4dor&3";

fn user() -> String {
    USER.trim_end().replace("PASSWORD", PASSWORD)
}

/// Where the ledgers of the cases are kept.
struct Place {
    redis: Option<RedisConfig>,
    cases: AtomicU32,
}

impl Place {
    fn memory() -> Self {
        Self {
            redis: None,
            cases: AtomicU32::new(0),
        }
    }

    fn redis(config: RedisConfig) -> Self {
        Self {
            redis: Some(config),
            cases: AtomicU32::new(0),
        }
    }

    /// An empty ledger, as two replicas see it.
    fn replicas(&self) -> [Arc<dyn Ledger>; 2] {
        match &self.redis {
            None => {
                let ledger = Arc::new(MemoryLedger::new());
                [ledger.clone(), ledger]
            }
            Some(config) => {
                let case = self.cases.fetch_add(1, Ordering::Relaxed);
                let config = RedisConfig {
                    key_prefix: format!("okms:{{case-{case}}}:"),
                    ..config.clone()
                };
                [config.clone(), config].map(|config| open_redis(config).unwrap().ledger)
            }
        }
    }

    /// An empty ledger.
    fn ledger(&self) -> Arc<dyn Ledger> {
        let [ledger, _] = self.replicas();
        ledger
    }

    async fn behaves(self) {
        cases::all(&self).await;
        sequences::all(&self);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_memory() {
    Place::memory().behaves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_standing_alone() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED in_redis_standing_alone: {why}");
        return Ok(());
    }
    let redis = RedisServer::start(&[])?;
    Place::redis(redis_config(vec![redis.address()], RedisMode::Standalone))
        .behaves()
        .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_redis_behind_sentinels() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED in_redis_behind_sentinels: {why}");
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
    Place::redis(config).behaves().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_redis_cluster() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED in_a_redis_cluster: {why}");
        return Ok(());
    }
    let redis = Cluster::start()?;
    Place::redis(redis_config(redis.addresses(), RedisMode::Cluster))
        .behaves()
        .await;
    let filled = redis
        .nodes
        .iter()
        .filter(|node| node.cli(&["DBSIZE"]).is_ok_and(|size| size != "0"))
        .count();
    assert!(filled > 1, "the resources of the cases lie on several nodes");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_as_a_user_with_no_right_too_many() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED over_tls_as_a_user_with_no_right_too_many: {why}");
        return Ok(());
    }
    let redis = RedisServer::start_with_tls(&[&user(), "user default off"])?;
    let password_file = redis.dir().join("password");
    fs::write(&password_file, format!("{PASSWORD}\n"))?;
    // By the name in the certificate, although the address is another.
    let tls = TlsConfig {
        ca_file: redis.ca_file(),
        server_name: Some("redis.test".to_owned()),
        certificate_file: None,
        key_file: None,
    };
    let config = RedisConfig {
        username: Some("okms".to_owned()),
        password_file: Some(password_file),
        tls: Some(tls),
        ..redis_config(vec![redis.address()], RedisMode::Standalone)
    };
    Place::redis(config).behaves().await;
    Ok(())
}

/// A configuration that servers which let in nobody but this user with a certificate let in.
fn let_in(config: RedisConfig, tls: &Tls, folder: &Path) -> Result<RedisConfig> {
    let password_file = folder.join("password");
    fs::write(&password_file, PASSWORD)?;
    Ok(RedisConfig {
        username: Some("okms".to_owned()),
        password_file: Some(password_file),
        tls: Some(TlsConfig {
            ca_file: Some(tls.file("ca.pem")),
            server_name: None,
            certificate_file: Some(tls.file("client.pem")),
            key_file: Some(tls.file("client.key")),
        }),
        ..config
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_sentinels_that_as_their_servers_demand_a_certificate_and_a_login() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED behind_sentinels_that_as_their_servers_demand_a_certificate_and_a_login: {why}");
        return Ok(());
    }
    let (tls, folder) = (Tls::new()?, tempfile::tempdir()?);
    let watcher = "user watcher on >w4tch resetchannels -@all +sentinel|get-master-addr-by-name";
    let redis = Sentinels::start_guarded(&Guard::strict(&tls, &[&user()]), &Guard::strict(&tls, &[watcher]))?;
    let password_file = folder.path().join("sentinel-password");
    fs::write(&password_file, "w4tch")?;
    let sentinel = SentinelConfig {
        master_name: Sentinels::MASTER_NAME.to_owned(),
        username: Some("watcher".to_owned()),
        password_file: Some(password_file),
    };
    let config = RedisConfig {
        sentinel: Some(sentinel),
        ..let_in(
            redis_config(redis.addresses(), RedisMode::Sentinel),
            &tls,
            folder.path(),
        )?
    };
    Place::redis(config).behaves().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_that_demands_a_certificate_and_a_login() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED in_a_cluster_that_demands_a_certificate_and_a_login: {why}");
        return Ok(());
    }
    let (tls, folder) = (Tls::new()?, tempfile::tempdir()?);
    let redis = Cluster::start_guarded(&Guard::strict(&tls, &[&user()]))?;
    let config = redis_config(redis.addresses(), RedisMode::Cluster);
    Place::redis(let_in(config, &tls, folder.path())?).behaves().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_demands_a_certificate_lets_nobody_in_without_one() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED a_server_that_demands_a_certificate_lets_nobody_in_without_one: {why}");
        return Ok(());
    }
    let (tls, folder) = (Tls::new()?, tempfile::tempdir()?);
    let redis = RedisServer::start_on(free_port()?, &[], &Guard::strict(&tls, &[&user()]))?;
    let config = redis_config(vec![redis.address()], RedisMode::Standalone);
    let with = let_in(config, &tls, folder.path())?;
    let without = RedisConfig {
        tls: with.tls.clone().map(|tls| TlsConfig {
            certificate_file: None,
            key_file: None,
            ..tls
        }),
        ..with.clone()
    };
    open_redis(with)?.ledger.ping().await?;
    assert!(open_redis(without)?.ledger.ping().await.is_err());
    Ok(())
}
