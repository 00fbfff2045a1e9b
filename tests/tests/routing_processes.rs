//! Three rehearsal hosts behind two relays that share a Redis, each a process of its own, and one process for each request of
//! a client: what becomes of them is what the simulation predicts.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use kms_host::routing::simulate::{self, DAY, HOUR, Outcome, PolicyName, Scenario};
use serde_json::{Value, json};
use system_tests::program::{self, HostProcess};
use system_tests::redis::{self, RedisServer};
use system_tests::replica::eventually;

/// Clients of the fleet.
const CLIENTS: u32 = 8;

struct Site {
    folder: tempfile::TempDir,
    hosts: BTreeMap<&'static str, HostProcess>,
    relays: Vec<HostProcess>,
    _redis: RedisServer,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = |name: &str| folder.path().join(name);
        fs::write(file("site.key"), [7; 32])?;
        fs::write(file("ledger.key"), [9; 32])?;
        let redis = RedisServer::start(&[])?;
        let mut hosts = BTreeMap::new();
        for name in ["kms-1", "kms-2", "kms-3"] {
            let yaml = format!(
                "name: {name}\nrehearsal: {{siteKeyFile: {}}}\n",
                file("site.key").display()
            );
            hosts.insert(name, HostProcess::start(&yaml).await?);
        }
        let items: Vec<_> = hosts.iter().map(|(name, host)| host.item(name)).collect();
        let relay = format!(
            "relay: {{licensedHosts: [{}]}}\nledger: {{redis: {{addresses: ['{}']}}, keyFile: {}}}\n\
             routing: {{refreshInterval: 100ms}}\n",
            items.join(", "),
            redis.address(),
            file("ledger.key").display()
        );
        fs::write(file("relay.yaml"), &relay)?;
        let mut relays = Vec::new();
        for name in ["relay-1", "relay-2"] {
            relays.push(HostProcess::start(&format!("name: {name}\n{relay}")).await?);
        }
        Ok(Self {
            folder,
            hosts,
            relays,
            _redis: redis,
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn relay(&self, at: u32) -> Result<&HostProcess> {
        self.relays
            .get(usize::try_from(at)? % self.relays.len())
            .context("a relay")
    }

    /// Whether the client is licensed by a request to a relay, made by a process of its own from its own address.
    fn is_licensed(&self, client: u32, relay: u32) -> Result<bool> {
        let (host, from) = (self.relay(relay)?.address.to_string(), address(client)?.to_string());
        let key = self.file("site.key");
        let asked = kmsctl(
            Command::new(program::path("kmsctl")?)
                .args(["activate", "--output", "json", "--host", &host, "--from", &from])
                .args(["--first", &client.to_string()])
                .arg("--site-key-file")
                .arg(key),
        )?;
        let report: Value = serde_json::from_slice(&asked.stdout)?;
        let of = |outcome: &str| report[outcome].as_u64().unwrap_or(0);
        let (licensed, too_low) = (of("licensed"), of("notEnoughClients"));
        ensure!(licensed + too_low == 1, "client {client}: {report}");
        Ok(licensed == 1)
    }

    /// Why the client went where it went, and the relay that says so.
    fn explain(&self, client: u32) -> Result<Value> {
        let mut command = Command::new(program::path("kmsctl")?);
        command.args(["explain-route", "--output", "json", &address(client)?.to_string()]);
        for relay in &self.relays {
            command.args(["--admin", &format!("http://{}", relay.admin)]);
        }
        Ok(serde_json::from_slice(&kmsctl(&mut command)?.stdout)?)
    }

    /// Waits until the hosts show these counts themselves.
    async fn hosts_count(&self, counts: &BTreeMap<String, u32>) -> Result<()> {
        ensure!(
            self.hosts.keys().eq(counts.keys()),
            "{counts:?} of {:?}",
            self.hosts.keys()
        );
        for (name, count) in counts {
            let host = self.hosts.get(name.as_str()).context("a host")?;
            eventually(&format!("{name} counts {count}"), async || {
                let shown = host.status().await.unwrap_or_default();
                shown["ledger"]["counts"][0]["currentCount"].as_u64().unwrap_or(0) == u64::from(*count)
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until both relays see the fleet so.
    async fn relays_see(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<()> {
        for relay in &self.relays {
            eventually(what, async || {
                relay.status().await.is_ok_and(|status| is(&status["routing"]))
            })
            .await?;
        }
        Ok(())
    }
}

fn address(client: u32) -> Result<IpAddr> {
    Ok(Ipv4Addr::new(127, 1, 0, u8::try_from(client)?).into())
}

/// Runs it; exit code 3 tells that too few clients are counted yet.
fn kmsctl(command: &mut Command) -> Result<Output> {
    let output = command.output()?;
    ensure!(
        matches!(output.status.code(), Some(0 | 3)),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// What clients do: each asks, and again later as long as it is told too low a count.
#[derive(Default)]
struct Story {
    answers: BTreeMap<u32, u64>,
    too_low: u64,
    /// Clients in the order in which they were licensed: that of their renewals.
    licensed: Vec<u32>,
}

impl Story {
    /// Lets clients ask in this order until all are licensed, twice at most.
    fn all_ask(&mut self, site: &Site, clients: Vec<u32>) -> Result<()> {
        let mut waiting = clients;
        for round in 0..2 {
            for client in std::mem::take(&mut waiting) {
                *self.answers.entry(client).or_default() += 1;
                // Which relay a client finds is chance.
                if site.is_licensed(client, client + round)? {
                    self.licensed.push(client);
                } else {
                    self.too_low += 1;
                    waiting.push(client);
                }
            }
        }
        ensure!(waiting.is_empty(), "{waiting:?} are not licensed at the second request");
        Ok(())
    }

    async fn is_as(&self, simulated: &Outcome, site: &Site) -> Result<()> {
        let mut clients_by_answers = BTreeMap::new();
        for answers in self.answers.values() {
            *clients_by_answers.entry(*answers).or_default() += 1;
        }
        assert_eq!(
            clients_by_answers, simulated.clients_by_answers,
            "requests of each client"
        );
        assert_eq!(self.too_low, simulated.too_low);
        let [after_4_hours, ..] = simulated.licensed_after;
        assert_eq!(self.licensed.len() as f64 / f64::from(CLIENTS), after_4_hours);
        site.hosts_count(&simulated.counts).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_fare_as_the_simulation_predicts_when_a_host_is_killed_too() -> Result<()> {
    if let Some(why) = redis::missing() {
        println!("SKIPPED processes_fare_as_the_simulation_predicts_when_a_host_is_killed_too: {why}");
        return Ok(());
    }
    let mut site = Site::start().await?;
    let rollout = Scenario {
        dies_at: None,
        joins_at: None,
        lasts: HOUR * 4,
        ..Scenario::new(PolicyName::CountAware, CLIENTS, 3, 5)
    };
    let mut story = Story::default();
    story.all_ask(&site, (1..=CLIENTS).collect())?;
    story.is_as(&simulate::run(&rollout), &site).await?;

    // The preferred host is killed. The clients renew.
    site.relays_see("all clients are known", |routing| routing["clientsKnown"] == CLIENTS)
        .await?;
    let mut host = site.hosts.remove("kms-1").context("the preferred host")?;
    host.process.kill()?;
    let renewing = std::mem::take(&mut story.licensed);
    let first = *renewing.first().context("a client")?;
    story.all_ask(&site, renewing)?;
    let after_death = simulate::run(&Scenario {
        dies_at: Some(DAY * 3),
        lasts: DAY * 8,
        ..rollout
    });
    story.is_as(&after_death, &site).await?;

    // Either relay may be asked why; the one that served the client last tells what happened.
    let explained = site.explain(first)?;
    let served = format!("http://{}/", site.relay(first + 1)?.admin);
    assert_eq!(explained["replica"], served, "{explained}");
    assert_eq!(
        explained["lastDecision"]["tried"],
        json!([{"host": "kms-2", "ended": "answered"}]),
        "{explained}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fact_that_is_typed_in_reaches_every_relay() -> Result<()> {
    if let Some(why) = redis::missing() {
        println!("SKIPPED a_fact_that_is_typed_in_reaches_every_relay: {why}");
        return Ok(());
    }
    let site = Site::start().await?;
    let fact = |host: &str, words: &[&str]| {
        let mut command = Command::new(program::path("kmsctl")?);
        command
            .args(["fact", host, "--config"])
            .arg(site.file("relay.yaml"))
            .args(words);
        kmsctl(&mut command)
    };
    fact("kms-3", &["--count", "9"])?;
    let counts = |routing: &Value| {
        let host = &routing["hosts"][2];
        host["count"] == 9 && host["countFrom"] == "reported"
    };
    site.relays_see("the count of kms-3", counts).await?;
    fact("kms-3", &["--licensed", "false"])?;
    site.relays_see("kms-3 has no licence", |routing| {
        routing["hosts"][2]["state"] == "unlicensed" && counts(routing)
    })
    .await?;
    let error = fact("kms-9", &["--count", "9"])
        .err()
        .context("no such host")?
        .to_string();
    assert!(error.contains("kms-1, kms-2, kms-3"), "{error}");
    Ok(())
}
