//! Two relays that share a Redis route clients to rehearsal hosts that each count alone, as licensed hosts do.
//!
//! The clients are real connections, each from a source address of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kms_host::config::load;
use kms_host::ledger::{self, Answered, HostFact, LedgerKey, Millis};
use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::client::{Machine, Outcome, ask};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::products::Product;
use kms_host::routing::simulate::{self, DAY, HOUR, PolicyName, Scenario};
use kms_host::rpc::{ByteOrder, ConnectOptions, Connection, DataRepresentation, Reply, stub};
use kms_host::sealing;
use serde_json::Value;
use system_tests::http;
use system_tests::redis::{self, RedisServer};
use system_tests::replica::{Replica, eventually, with_ports};
use tokio::net::TcpSocket;
use uuid::Uuid;

const DAY_MS: i64 = 24 * 3600 * 1000;

fn now() -> Millis {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    Millis(i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// Three rehearsal hosts, two relays, a Redis.
struct Site {
    directory: tempfile::TempDir,
    redis: RedisServer,
    hosts: BTreeMap<String, Replica>,
    relays: Vec<Replica>,
}

impl Site {
    fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("site.key"), [7; 32])?;
        fs::write(directory.path().join("ledger.key"), [9; 32])?;
        let redis = RedisServer::start(&[])?;
        let mut site = Self {
            directory,
            redis,
            hosts: BTreeMap::new(),
            relays: Vec::new(),
        };
        for name in ["kms-1", "kms-2", "kms-3"] {
            site.add_host(name)?;
        }
        for name in ["relay-1", "relay-2"] {
            let file = site.file(name);
            fs::write(&file, site.relay_config(name, ""))?;
            site.relays.push(Replica::start_from(&file)?);
        }
        Ok(site)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name).with_extension("yaml")
    }

    fn add_host(&mut self, name: &str) -> Result<()> {
        let key = self.directory.path().join("site.key");
        let host = Replica::start(&format!(
            "name: {name}\nrehearsal: {{siteKeyFile: {}}}\n",
            key.display()
        ))?;
        self.hosts.insert(name.to_owned(), host);
        Ok(())
    }

    fn relay_config(&self, name: &str, more: &str) -> String {
        let host = |(name, host): (&String, &Replica)| {
            format!(
                "  - {{name: {name}, address: {}, port: {}}}\n",
                host.address.ip(),
                host.address.port()
            )
        };
        let hosts: String = self.hosts.iter().map(host).collect();
        let (redis, key) = (self.redis.address(), self.directory.path().join("ledger.key"));
        with_ports(&format!(
            "name: {name}\nrelay:\n  health: {{probeInterval: 200ms}}\n  licensedHosts:\n{hosts}\
             ledger: {{redis: {{addresses: ['{redis}']}}, keyFile: {}}}\n\
             routing: {{refreshInterval: 100ms, staleAfter: 1s{more}}}\n",
            key.display()
        ))
    }

    /// Changes the relays' files and waits until they have taken it over.
    async fn reconfigure(&self, more: &str) -> Result<()> {
        for (name, relay) in ["relay-1", "relay-2"].into_iter().zip(&self.relays) {
            let before = relay.status().await?["config"]["generation"].as_u64();
            // The addresses stay those of the running relay: a change of them would wait for a restart.
            fs::write(self.file(name), self.relay_config(name, more))?;
            relay
                .status_becomes("the change is in use", |status| {
                    status["config"]["generation"].as_u64() > before
                })
                .await?;
        }
        Ok(())
    }

    /// What a client is told that asks a relay.
    async fn ask(&self, relay: usize, client: &Client) -> Result<Outcome> {
        let relay = self.relays.get(relay % self.relays.len()).context("a relay")?;
        client
            .ask(relay.address, &SiteKey::read(&self.directory.path().join("site.key"))?)
            .await
    }

    /// The counts that the hosts show themselves.
    async fn counts(&self) -> Result<BTreeMap<String, u64>> {
        // What a host shows of its ledger may be a second old.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut counts = BTreeMap::new();
        for (name, host) in &self.hosts {
            let status = host.status().await?;
            counts.insert(
                name.clone(),
                status["ledger"]["counts"][0]["currentCount"].as_u64().unwrap_or(0),
            );
        }
        Ok(counts)
    }

    /// Waits until every relay has read that so many distinct clients are known.
    async fn all_know(&self, clients: u64) -> Result<()> {
        for relay in &self.relays {
            relay
                .status_becomes("the ledger is read", |status| {
                    status["routing"]["distinctClients"] == clients
                })
                .await?;
        }
        Ok(())
    }

    async fn explain(&self, relay: usize, client: &Client) -> Result<Value> {
        let relay = self.relays.get(relay).context("a relay")?;
        let (_, body) = http::get(relay.admin, &format!("/explain/{}", client.address)).await?;
        Ok(serde_json::from_str(&body)?)
    }

    fn ledger(&self) -> Result<ledger::Opened> {
        let config = load(&self.relay_config("test", ""), Path::new("test.yaml"))?;
        Ok(ledger::open(&config.ledger)?)
    }
}

/// A rehearsal client with an address of its own.
struct Client {
    address: Ipv4Addr,
    machine: Machine,
}

impl Client {
    fn new(number: u8) -> Result<Self> {
        let name = WorkstationName::new(&format!("pc{number:03}.example.com")).context("a name")?;
        Ok(Self {
            address: Ipv4Addr::new(127, 1, 0, number),
            machine: Machine::new(name, Uuid::from_u128(u128::from(number) + 1)),
        })
    }

    async fn ask(&self, server: SocketAddr, key: &SiteKey) -> Result<Outcome> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(self.address), 0))?;
        let stream = socket.connect(server).await?;
        let mut connection = Connection::over(stream, server, &ConnectOptions::default()).await?;
        let product = Product::named("OfficeLTSC2024").context("a product")?;
        let asked = ask(key, &self.machine, &product, now().0 * 1000, &sealing::draw()?);
        let syntax = connection.syntax().context("a syntax")?;
        let request = stub::encode_request(syntax, ByteOrder::Little, &asked.body);
        match connection.call(0, DataRepresentation::LITTLE_ENDIAN, &request).await? {
            Reply::Stub(response, drep) => {
                let response = stub::decode_response(syntax, drep.order(), &response, 4096)?;
                Ok(asked.conclude(key, response.hresult, response.body.as_deref())?)
            }
            Reply::Fault(status) => bail!("a fault: {status}"),
        }
    }
}

fn licensed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Licensed(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_clients_over_three_hosts_activate_as_simulated_when_a_host_dies_too() -> Result<()> {
    if let Some(why) = redis::missing() {
        println!("SKIPPED eight_clients_over_three_hosts_activate_as_simulated_when_a_host_dies_too: {why}");
        return Ok(());
    }
    let mut site = Site::start()?;
    let clients = (1..=8).map(Client::new).collect::<Result<Vec<_>>>()?;
    let (mut answers, mut too_low) = (0, 0);

    // The roll-out: each client asks until it is licensed. Which relay it finds is chance.
    for (at, client) in clients.iter().enumerate() {
        let outcome = site.ask(at, client).await?;
        (answers, too_low) = (answers + 1, too_low + u64::from(!licensed(&outcome)));
    }
    for (at, client) in clients.iter().enumerate().take(4) {
        let outcome = site.ask(at + 1, client).await?;
        (answers, too_low) = (answers + 1, too_low + u64::from(!licensed(&outcome)));
        assert!(licensed(&outcome), "at the second request: {outcome:?}");
    }
    let rollout = Scenario {
        dies_at: None,
        joins_at: None,
        lasts: HOUR * 4,
        ..Scenario::new(PolicyName::CountAware, 8, 3, 5)
    };
    let simulated = simulate::run(&rollout);
    assert_eq!(
        (answers, too_low),
        (simulated.answers, simulated.too_low),
        "as simulated"
    );
    let counts: Vec<_> = site.counts().await?.into_values().collect();
    assert_eq!(
        counts,
        [8, 0, 0],
        "all went to the preferred host, whatever relay they asked"
    );

    // That host dies. The renewals warm up the next one: each client is licensed at the second request at the latest.
    site.all_know(8).await?;
    let host = site.hosts.remove("kms-1").context("the preferred host")?;
    host.tell_to_stop();
    host.ended().await?;
    for (at, client) in clients.iter().enumerate() {
        let outcome = site.ask(at, client).await?;
        (answers, too_low) = (answers + 1, too_low + u64::from(!licensed(&outcome)));
    }
    for (at, client) in clients.iter().enumerate().take(4) {
        let outcome = site.ask(at, client).await?;
        (answers, too_low) = (answers + 1, too_low + u64::from(!licensed(&outcome)));
        assert!(licensed(&outcome), "at the second request: {outcome:?}");
    }
    let after_death = simulate::run(&Scenario {
        dies_at: Some(DAY * 3),
        lasts: DAY * 8,
        ..rollout
    });
    assert_eq!(
        (answers, too_low),
        (after_death.answers, after_death.too_low),
        "as simulated"
    );
    let counts: Vec<_> = site.counts().await?.into_values().collect();
    assert_eq!(counts, [8, 0], "all went to the same next host");

    // A new host joins, cold. A new client does not go there.
    site.add_host("kms-4")?;
    site.reconfigure("").await?;
    let newcomer = Client::new(9)?;
    let outcome = site.ask(0, &newcomer).await?;
    assert!(licensed(&outcome), "at the first request: {outcome:?}");
    assert_eq!(site.counts().await?.get("kms-4"), Some(&0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_warm_up_a_host_while_new_clients_go_to_the_warm_one() -> Result<()> {
    if let Some(why) = redis::missing() {
        println!("SKIPPED renewals_warm_up_a_host_while_new_clients_go_to_the_warm_one: {why}");
        return Ok(());
    }
    let site = Site::start()?;
    // Twenty-four clients renewed a week ago at the first host, which shows a count of 10.
    let clients = (1..=24).map(Client::new).collect::<Result<Vec<_>>>()?;
    let key = LedgerKey::read(&site.directory.path().join("ledger.key"))?;
    let week_ago = Millis(now().0 - 7 * DAY_MS);
    let answered = |client: &Client| Answered {
        client: key.address(IpAddr::V4(client.address)),
        host: "kms-1".to_owned(),
        at: week_ago,
        warm: true,
    };
    let ledger = site.ledger()?.ledger;
    let fact = HostFact {
        read_at: now(),
        current_count: Some(10),
        required_count: Some(5),
        licensed: Some(true),
    };
    ledger.put_fact("kms-1", &fact).await?;
    ledger
        .answered(&clients.iter().map(answered).collect::<Vec<_>>())
        .await?;
    site.all_know(24).await?;
    for relay in &site.relays {
        relay
            .status_becomes("last answers are read", |status| {
                status["routing"]["clientsKnown"] == 24
            })
            .await?;
    }
    let relay = site.relays.first().context("a relay")?;
    relay
        .status_becomes("the second host warms up", |status| {
            status["routing"]["hosts"][1]["state"] == "warming"
        })
        .await?;
    let routing = relay.status().await?["routing"].clone();
    assert_eq!(routing["hosts"][0]["state"], "active", "{routing}");
    assert_eq!(routing["hosts"][2]["state"], "cold", "{routing}");
    assert_eq!(routing["activeSet"], serde_json::json!(["kms-1", "kms-2"]), "{routing}");

    // Both relays say the same of every client, and do as they say.
    let mut warming = 0;
    for client in &clients {
        let (one, other) = (site.explain(0, client).await?, site.explain(1, client).await?);
        assert_eq!((&one["reason"], &one["order"]), (&other["reason"], &other["order"]));
        let first = one["order"][0]["host"].as_str().context("a host")?;
        let expected = if first == "kms-2" { "warmsUp" } else { "sticky" };
        assert_eq!(one["reason"], expected, "{one}");
        warming += u64::from(first == "kms-2");
    }
    assert!(
        (6..=18).contains(&warming),
        "about half of them belong to the second host: {warming}"
    );
    for number in 101..=120 {
        let newcomer = Client::new(number)?;
        let explained = site.explain(0, &newcomer).await?;
        assert_eq!(explained["order"][0]["host"], "kms-1", "{explained}");
        site.ask(1, &newcomer).await?;
    }
    assert_eq!(
        site.counts().await?.get("kms-2"),
        Some(&0),
        "no new client warmed it up"
    );
    for client in &clients {
        site.ask(0, client).await?;
    }
    let counts = site.counts().await?;
    assert!(
        counts.get("kms-2").is_some_and(|count| *count >= 5),
        "renewals warmed it up: {counts:?}"
    );
    relay
        .status_becomes("both hosts are warm", |status| {
            status["routing"]["hosts"][1]["state"] == "active"
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_the_last_known_set_stands_and_then_the_preference_order() -> Result<()> {
    if let Some(why) = redis::missing() {
        println!("SKIPPED without_redis_the_last_known_set_stands_and_then_the_preference_order: {why}");
        return Ok(());
    }
    let mut site = Site::start()?;
    // By the counts clients belong to the second host; by the configured order to the first.
    let fact = HostFact {
        read_at: now(),
        current_count: Some(10),
        required_count: Some(5),
        licensed: Some(true),
    };
    site.ledger()?.ledger.put_fact("kms-2", &fact).await?;
    let relay = site.relays.first().context("a relay")?;
    relay
        .status_becomes("the fact is read", |status| {
            status["routing"]["hosts"][1]["count"] == 10
        })
        .await?;
    assert_eq!(relay.status().await?["routing"]["knowledge"], "fresh");
    let client = Client::new(1)?;
    site.ask(0, &client).await?;
    site.redis.kill()?;
    let knows = |what: &'static str| move |status: &Value| status["routing"]["knowledge"] == what;
    let relay = site.relays.first().context("a relay")?;
    relay
        .status_becomes("what was known stands", knows("lastKnown"))
        .await?;
    site.ask(0, &client).await?;
    assert_eq!(
        site.counts().await?.get("kms-2"),
        Some(&1),
        "asked twice, by the same client"
    );
    site.reconfigure(", lastKnownFor: 1s").await?;
    let relay = site.relays.first().context("a relay")?;
    relay
        .status_becomes("the configured order stands", knows("preferenceOrder"))
        .await?;
    assert_eq!(
        relay
            .metric("okms_routing_knowledge{okms_routing_knowledge=\"preferenceOrder\"}")
            .await?,
        1.0
    );
    site.ask(0, &client).await?;
    assert_eq!(site.counts().await?.get("kms-1"), Some(&1));
    site.redis.restart()?;
    let relay = site.relays.first().context("a relay")?;
    eventually("the ledger is read again", async || {
        relay
            .status()
            .await
            .is_ok_and(|status| status["routing"]["knowledge"] == "fresh")
    })
    .await
}
