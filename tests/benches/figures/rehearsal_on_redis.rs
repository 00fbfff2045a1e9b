//! How many requests a rehearsal host counts in Redis, against `redis-benchmark` calling the same script.
//!
//! Both sides have 50 connections, one request under way on each, every request from another client, and the same
//! Redis. `redis-benchmark` does nothing but call the script; the host also terminates RPC, opens and seals envelopes and
//! seals events, and the clients' side of all that runs in this process too.

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use kms_host::{
    ledger::Millis,
    ledger::{
        BatchLimits,
        config::{RedisConfig, RedisMode},
        count_script,
    },
    rehearsal::{
        Handled, RehearsalConfig, RehearsalHost, SiteKey,
        client::{self, Machine, Outcome},
        message::WorkstationName,
        products::{OFFICE, Product},
    },
    rpc::{ByteOrder, ConnectOptions, Connection, DataRepresentation, Reply, stub},
    sealing,
};
use system_tests::{
    ledger::{cmid, event, machine_name, open_redis, redis_config},
    redis::{RedisServer, missing},
    replica::Replica,
};
use tokio::task::JoinSet;

use crate::table::Row;

const CONNECTIONS: u32 = 50;
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// Measures them one after the other.
pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = missing().or_else(no_benchmark) {
        return Ok(vec![Row::skipped("rehearsal host on Redis", why)]);
    }
    let redis = RedisServer::start(&[])?;
    let bare = by_redis_benchmark(&redis)?;
    redis.cli(&["FLUSHALL"])?;
    let config = redis_config(vec![redis.address()], RedisMode::Standalone);
    let in_process = by_handling(&config).await?;
    redis.cli(&["FLUSHALL"])?;
    let over_rpc = over_rpc(&redis).await?;
    let ratio = over_rpc / bare;
    Ok(vec![
        Row::goal(
            "rehearsal host on Redis / redis-benchmark of the same EVALSHA",
            ">= 0.5",
            format!("{ratio:.2}"),
            ratio >= 0.5,
        ),
        Row::beside(
            "redis-benchmark; rehearsal host without RPC; over RPC",
            format!("{bare:.0}/s; {in_process:.0}/s; {over_rpc:.0}/s"),
        ),
    ])
}

fn no_benchmark() -> Option<String> {
    let found = Command::new("redis-benchmark").arg("--version").output().is_ok();
    (!found).then(|| "redis-benchmark is not installed".to_owned())
}

fn by_redis_benchmark(redis: &RedisServer) -> Result<f64> {
    let hash = redis.cli(&["SCRIPT", "LOAD", &count_script()])?;
    // A sealed event is its JSON and the seal; what the bytes are does not matter to Redis.
    let sealed = serde_json::to_string(&event(1, now()))?.len() + sealing::OVERHEAD_BYTES;
    let application = OFFICE.to_string();
    let key = |name: &str| format!("okms:{{bare}}:{name}");
    let of_application = |name: &str| key(&format!("{name}:{application}"));
    let now = now().0;
    let output = Command::new("redis-benchmark")
        .args(["-p", &redis.port().to_string(), "-c", &CONNECTIONS.to_string()])
        .args(["-n", "300000", "-r", "1000000000", "--csv", "EVALSHA", &hash, "5"])
        .args([key("applications"), key("events")])
        .args(["clients", "guard", "totals"].map(of_application))
        .args([
            "1",
            &application,
            "1",
            "__rand_int__",
            "5",
            &now.to_string(),
            &(now * 1000).to_string(),
            "2",
        ])
        .arg("e".repeat(sealed))
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        redis.cli(&["ZCARD", &of_application("clients")])? == "10",
        "the script did its work: {printed}"
    );
    let rate = printed.lines().last().and_then(|line| line.split(',').nth(1));
    let rate = rate.with_context(|| format!("no rate in {printed}"))?;
    Ok(rate.trim_matches('"').parse()?)
}

async fn by_handling(config: &RedisConfig) -> Result<f64> {
    let host = RehearsalConfig::new("unused".into()).validate();
    let Ok(host) = host else {
        bail!("the default configuration is wrong")
    };
    let opened = open_redis(config.clone())?;
    opened.ledger.ping().await?;
    let host = Arc::new(RehearsalHost::start(host, site_key(), opened, BatchLimits::default()));
    rate(move |number| {
        let host = host.clone();
        async move {
            let asked = ask(number)?;
            match host.handle(&asked.body, [127, 0, 0, 1].into(), now()).await {
                Handled::Answered { body, .. } => Ok(asked.conclude(&site_key(), 0, Some(&body)).map(drop)?),
                other => bail!("{other:?}"),
            }
        }
    })
    .await
}

async fn over_rpc(redis: &RedisServer) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let (site, ledger) = (dir.path().join("site.key"), dir.path().join("ledger.key"));
    std::fs::write(&site, [5; 32])?;
    std::fs::write(&ledger, [7; 32])?;
    let host = Replica::start(&format!(
        "name: bench\nrehearsal: {{siteKeyFile: {}}}\n\
         ledger: {{keyFile: {}, redis: {{addresses: ['{}']}}}}\n\
         clients: {{limits: {{requestsPerMinutePerSource: 1000000, connectionsPerSource: 1000}}}}\n",
        site.display(),
        ledger.display(),
        redis.address(),
    ))?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connection::connect(host.address, &ConnectOptions::default()).await?);
    }
    let connections = Arc::new(tokio::sync::Mutex::new(connections));
    let address: SocketAddr = host.address;
    rate(move |number| {
        let connections = connections.clone();
        async move {
            let kept = connections.lock().await.pop();
            let mut connection = match kept {
                Some(connection) => connection,
                None => Connection::connect(address, &ConnectOptions::default()).await?,
            };
            activate(&mut connection, number).await?;
            connections.lock().await.push(connection);
            Ok(())
        }
    })
    .await
}

async fn activate(connection: &mut Connection, number: u32) -> Result<Outcome> {
    let asked = ask(number)?;
    let syntax = connection.syntax().context("a syntax")?;
    let request = stub::encode_request(syntax, ByteOrder::Little, &asked.body);
    match connection.call(0, DataRepresentation::LITTLE_ENDIAN, &request).await? {
        Reply::Stub(response, drep) => {
            let response = stub::decode_response(syntax, drep.order(), &response, 4096)?;
            ensure!(response.hresult == 0, "refused: {:#x}", response.hresult);
            Ok(asked.conclude(&site_key(), 0, response.body.as_deref())?)
        }
        Reply::Fault(status) => bail!("a fault: {status}"),
    }
}

/// Requests per second of as many tasks as there are connections, each making one request after the other.
async fn rate<F: Future<Output = Result<()>> + Send + 'static>(
    request: impl Fn(u32) -> F + Send + Sync + 'static,
) -> Result<f64> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let request = Arc::new(request);
    let begin = Instant::now();
    let first = NUMBER.load(Ordering::Relaxed);
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let request = request.clone();
        tasks.spawn(async move {
            while begin.elapsed() < LONG_ENOUGH {
                request(NUMBER.fetch_add(1, Ordering::Relaxed)).await?;
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let requests = NUMBER.load(Ordering::Relaxed) - first;
    Ok(f64::from(requests) / begin.elapsed().as_secs_f64())
}

fn ask(number: u32) -> Result<client::Asked> {
    let name = WorkstationName::new(&machine_name(number)).context("a name")?;
    let office = Product::named("OfficeLTSC2024").context("a product")?;
    let machine = Machine::new(name, cmid(number));
    Ok(client::ask(
        &site_key(),
        &machine,
        &office,
        now().0 * 1000,
        &sealing::draw()?,
    ))
}

fn site_key() -> SiteKey {
    SiteKey::new(&[5; 32])
}

fn now() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}
