//! The ledger in Redis (6.2 or later) or Valkey, shared by replicas.
//!
//! Each operation is one Lua script called by its hash, or one command, so each is atomic and takes one round trip.
//! All keys of one resource carry one hash tag and so lie in one slot of a cluster.
//!
//! | key | type | content |
//! |---|---|---|
//! | `applications` | set | IDs of applications that were asked for |
//! | `clients:APPLICATION` | sorted set | pseudonym by time last seen, ms: the client table |
//! | `guard:APPLICATION` | sorted set | pseudonym by time of its last request, us: against replays |
//! | `totals:APPLICATION` | hash | `n` the largest N, `total`, `failed`, `s0`..`s6` |
//! | `events` | stream | `e`: a sealed event |
//! | `seen` | sorted set | pseudonym by time of its last answer from a licensed host, ms |
//! | `answers` | hash | pseudonym to hourly counters and the host that answered last, warm or not |
//! | `hosts` | hash | licensed host to the number of clients that it answered last |
//! | `machines` | sorted set | pseudonym of a machine by time of its last request in a licensed host's events, ms |
//! | `facts` | hash | licensed host to what was read from it, JSON |
//!
//! The rights that the user needs are those of `docs/examples/ledger-user.acl`.

mod connect;
pub(super) mod files;
mod link;
mod scripts;
mod version;

use std::collections::{BTreeMap, HashMap};

use futures::future::BoxFuture;
use link::{Ask, Link};
use redis::{ScriptInvocation, Value};
pub use scripts::count_script;
use scripts::{ROUTES_KEPT, Scripts};
use uuid::Uuid;

use super::{
    Answered, ApplicationCount, Event, HostFact, HostName, Ledger, LedgerError, LedgerKey, Millis, Pseudonym, Route,
    RoutesRead, Sighting, StoredEvent, Totals, Verdict,
    asks::Asks,
    config::RedisConfig,
    counting::{ENTRY_LIFE_MS, LARGEST_REQUIRED},
};
use crate::sealing;

/// Clients read in one call of [`Ledger::routes`], at first.
const PAGE: usize = 2000;

/// Signs in front of a host's name in a client's record: whether the host was believed to be warm.
const WARM: &str = "+";
const COLD: &str = "-";

/// What `routes.lua` returns.
type RoutesRow = (
    u64,
    u64,
    u64,
    BTreeMap<HostName, u64>,
    BTreeMap<HostName, String>,
    String,
);

/// A ledger in Redis. Connects in the background, for as long as it lives.
#[derive(Debug)]
pub(super) struct RedisLedger {
    link: Link,
    scripts: Scripts,
    prefix: String,
    key: LedgerKey,
    id: Uuid,
}

impl RedisLedger {
    /// Begins to connect; within a tokio runtime.
    pub(super) fn start(config: &RedisConfig, key: LedgerKey) -> Self {
        Self {
            link: Link::start(config),
            scripts: Scripts::new(),
            prefix: config.key_prefix.clone(),
            id: id(config, &key),
            key,
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn of(&self, name: &str, application: &Uuid) -> String {
        format!("{}{name}:{application}", self.prefix)
    }

    async fn count_batch(&self, batch: &[Sighting]) -> Result<Vec<Verdict>, LedgerError> {
        let mut applications: Vec<Uuid> = Vec::new();
        let mut script = self.scripts.count.key(self.name("applications"));
        script.key(self.name("events"));
        let mut positions = Vec::with_capacity(batch.len());
        for Sighting { application, .. } in batch {
            let known = applications.iter().position(|other| other == application);
            positions.push(known.unwrap_or(applications.len()) + 1);
            if known.is_none() {
                applications.push(*application);
                for name in ["clients", "guard", "totals"] {
                    script.key(self.of(name, application));
                }
            }
        }
        script.arg(applications.len());
        for application in &applications {
            script.arg(application.to_string());
        }
        for (position, sighting) in positions.into_iter().zip(batch) {
            script
                .arg(position)
                .arg(&sighting.client.0)
                .arg(sighting.required.clamp(1, LARGEST_REQUIRED))
                .arg(sighting.at.0)
                .arg(sighting.request_time_micros)
                .arg(sighting.event.license_status.min(7))
                .arg(self.seal(&sighting.event)?);
        }
        let counts: Vec<i64> = self.link.ask(Ask::Script(&script)).await?;
        if counts.len() != batch.len() {
            return Err(self
                .link
                .unexpected("the counting script did not answer for each request"));
        }
        Ok(counts.into_iter().map(verdict).collect())
    }

    async fn write_refused(
        &self,
        failed: BTreeMap<Uuid, u64>,
        machines: Vec<(Pseudonym, Millis)>,
        events: Vec<&Event>,
    ) -> Result<(), LedgerError> {
        let mut script = self.scripts.refused.key(self.name("applications"));
        script
            .key(self.name("events"))
            .key(self.name("machines"))
            .arg(failed.len());
        for (application, requests) in &failed {
            script
                .key(self.of("totals", application))
                .arg(application.to_string())
                .arg(*requests);
        }
        script.arg(machines.len());
        for (machine, at) in machines {
            script.arg(&machine.0).arg(at.0);
        }
        for event in events {
            script.arg(self.seal(event)?);
        }
        self.done(&script).await
    }

    async fn write_answered(&self, batch: &[Answered]) -> Result<(), LedgerError> {
        let mut script = self.scripts.answered.key(self.name("seen"));
        script.key(self.name("answers")).key(self.name("hosts"));
        for Answered { client, host, at, warm } in batch {
            let sign = if *warm { WARM } else { COLD };
            script.arg(&client.0).arg(host).arg(at.0).arg(sign);
        }
        self.done(&script).await
    }

    async fn read_routes(&self, since: Millis, now: Millis, most: usize) -> Result<RoutesRead, LedgerError> {
        let mut script = self.scripts.routes.key(self.name("seen"));
        script
            .key(self.name("answers"))
            .key(self.name("hosts"))
            .key(self.name("facts"))
            .key(self.name("machines"));
        script
            .arg(now.0.saturating_sub(ENTRY_LIFE_MS))
            .arg(most.clamp(1, ROUTES_KEPT));
        let mut read = RoutesRead::default();
        let from = loop {
            let (forgotten, clients, machines, hosts, facts, oldest): RoutesRow =
                self.link.ask(Ask::Script(&script)).await?;
            if forgotten != 0 {
                continue;
            }
            read.distinct_clients = clients;
            read.distinct_machines = machines;
            read.clients_by_host = hosts.into_iter().collect();
            // A fact that a newer version wrote in a form unknown here is one that this version cannot use.
            let facts = facts
                .into_iter()
                .map(|(host, fact)| (host, serde_json::from_str::<HostFact>(&fact)));
            read.facts = facts
                .filter_map(|(host, fact)| fact.ok().map(|fact| (host, fact)))
                .collect();
            break oldest.parse().map_or(since, |oldest| since.max(Millis(oldest)));
        };
        read.changed = self.read_changed(from, now).await?;
        // Several may have been seen in the same millisecond, and others have been answered meanwhile.
        let excess = read.changed.len().saturating_sub(most);
        read.changed.drain(..excess);
        Ok(read)
    }

    /// Reads page by page. Each page begins at the time with which the last one ended, since more clients may have
    /// that time; a client that was answered meanwhile comes again, later.
    async fn read_changed(&self, since: Millis, now: Millis) -> Result<Vec<Route>, LedgerError> {
        let mut routes: HashMap<Pseudonym, Route> = HashMap::new();
        let (mut from, mut most) = (since.0, PAGE);
        loop {
            let mut script = self.scripts.changed.key(self.name("seen"));
            script.key(self.name("answers")).arg(from).arg(most);
            let rows: Vec<Vec<u8>> = self.link.ask(Ask::Script(&script)).await?;
            let page = rows.chunks_exact(3).len();
            let mut latest = from;
            for row in rows.chunks_exact(3) {
                latest = latest.max(seen_at(row).unwrap_or(from));
                // Without its record, which the store may have evicted, a client is as one that was never seen.
                if let Some(route) = route(row, now) {
                    routes.insert(route.client, route);
                }
            }
            if page < most {
                break;
            }
            most = if latest == from { most.saturating_mul(2) } else { PAGE };
            from = latest;
        }
        let mut routes: Vec<_> = routes.into_values().collect();
        routes.sort_unstable_by_key(|route| (route.at, route.client));
        Ok(routes)
    }

    async fn read_counts(&self, now: Millis) -> Result<Vec<ApplicationCount>, LedgerError> {
        let mut members = redis::cmd("SMEMBERS");
        let applications: Vec<String> = self
            .link
            .ask(Ask::Command(members.arg(self.name("applications"))))
            .await?;
        let mut applications: Vec<Uuid> = applications.iter().filter_map(|id| id.parse().ok()).collect();
        applications.sort_unstable();
        let mut script = self.scripts.counts.arg(now.0.saturating_sub(ENTRY_LIFE_MS));
        for application in &applications {
            script
                .key(self.of("clients", application))
                .key(self.of("totals", application));
        }
        if applications.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<u64> = self.link.ask(Ask::Script(&script)).await?;
        let counts = applications
            .iter()
            .zip(numbers.chunks_exact(11))
            .filter_map(|(application, numbers)| {
                let [count, largest, total, failed, by_status @ ..] = numbers else {
                    return None;
                };
                Some(ApplicationCount {
                    application: *application,
                    current_count: u32::try_from(*count).unwrap_or(u32::MAX),
                    largest_required: u32::try_from(*largest).unwrap_or(u32::MAX),
                    totals: Totals {
                        total: *total,
                        failed: *failed,
                        by_status: by_status.try_into().ok()?,
                    },
                })
            });
        Ok(counts.collect())
    }

    async fn read_events(
        &self,
        command: &str,
        range: [&str; 2],
        limit: usize,
    ) -> Result<Vec<StoredEvent>, LedgerError> {
        let mut ask = redis::cmd(command);
        ask.arg(self.name("events")).arg(&range).arg("COUNT").arg(limit);
        let entries: Vec<(String, Vec<Vec<u8>>)> = self.link.ask(Ask::Command(&ask)).await?;
        let open = |(cursor, fields): (String, Vec<Vec<u8>>)| match fields.as_slice() {
            [_, sealed] => Ok(StoredEvent {
                cursor,
                event: self.key.open(sealed)?,
            }),
            _ => Err(LedgerError::Sealed),
        };
        entries.into_iter().map(open).collect()
    }

    async fn done(&self, script: &ScriptInvocation<'_>) -> Result<(), LedgerError> {
        self.link.ask::<Value>(Ask::Script(script)).await.map(drop)
    }

    fn seal(&self, event: &Event) -> Result<Vec<u8>, LedgerError> {
        let entropy =
            sealing::draw().map_err(|_| self.link.unexpected("the operating system gives no random bytes"))?;
        Ok(self.key.seal(event, &entropy))
    }
}

/// Nothing is stored for it, so it is known while Redis is away too. Replicas that reach one Redis by different addresses take
/// it for different ledgers; those of one resource have the same configuration.
fn id(config: &RedisConfig, key: &LedgerKey) -> Uuid {
    let mut addresses = config.addresses.clone();
    addresses.sort_unstable();
    let master = config.sentinel.as_ref().map(|sentinel| &sentinel.master_name);
    let store = (addresses, master, config.database, &config.key_prefix);
    key.ledger(&format!("{store:?}"))
}

impl Ledger for RedisLedger {
    fn id(&self) -> Uuid {
        self.id
    }

    fn count<'a>(&'a self, batch: &'a [Sighting]) -> BoxFuture<'a, Result<Vec<Verdict>, LedgerError>> {
        Box::pin(self.count_batch(batch))
    }

    fn refused<'a>(&'a self, batch: &'a [(Uuid, Event)]) -> BoxFuture<'a, Result<(), LedgerError>> {
        let mut failed = BTreeMap::new();
        batch
            .iter()
            .for_each(|(application, _)| *failed.entry(*application).or_default() += 1);
        Box::pin(self.write_refused(failed, Vec::new(), batch.iter().map(|(_, event)| event).collect()))
    }

    fn answered<'a>(&'a self, batch: &'a [Answered]) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(self.write_answered(batch))
    }

    fn put_fact<'a>(&'a self, host: &'a str, fact: &'a HostFact) -> BoxFuture<'a, Result<(), LedgerError>> {
        Box::pin(async move {
            // A fact has no map with keys that are not text, the only thing that JSON refuses here.
            let fact = serde_json::to_string(fact).unwrap_or_default();
            let mut put = redis::cmd("HSET");
            put.arg(self.name("facts")).arg(host).arg(fact);
            self.link.ask::<Value>(Ask::Command(&put)).await.map(drop)
        })
    }

    fn append_events<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), LedgerError>> {
        // A host that refuses a request does not count its machine.
        let answered = events.iter().filter(|event| event.hresult == 0);
        let machines = answered
            .map(|event| (self.key.machine(&event.cmid), event.at))
            .collect();
        Box::pin(self.write_refused(BTreeMap::new(), machines, events.iter().collect()))
    }

    fn newest_routes(&self, since: Millis, now: Millis, most: usize) -> BoxFuture<'_, Result<RoutesRead, LedgerError>> {
        Box::pin(self.read_routes(since, now, most))
    }

    fn counts(&self, now: Millis) -> BoxFuture<'_, Result<Vec<ApplicationCount>, LedgerError>> {
        Box::pin(self.read_counts(now))
    }

    fn events<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LedgerError>> {
        Box::pin(async move {
            let begin = after
                .filter(|cursor| is_stream_id(cursor))
                .map_or("-".to_owned(), |id| format!("({id}"));
            self.read_events("XRANGE", [&begin, "+"], limit).await
        })
    }

    fn recent_events(&self, limit: usize) -> BoxFuture<'_, Result<Vec<StoredEvent>, LedgerError>> {
        Box::pin(self.read_events("XREVRANGE", ["+", "-"], limit))
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        Box::pin(async {
            self.link
                .ask::<Value>(Ask::Command(&redis::cmd("PING")))
                .await
                .map(drop)
        })
    }
}

/// What `count.lua` says of a request.
fn verdict(count: i64) -> Verdict {
    let number = |count| u32::try_from(count).unwrap_or(u32::MAX);
    match count {
        0.. => Verdict::Counted { count: number(count) },
        -1 => Verdict::Replayed,
        _ => Verdict::SentAgain {
            count: number((-2_i64).saturating_sub(count)),
        },
    }
}

/// When the client of a row of `changed.lua` was answered last.
fn seen_at(row: &[Vec<u8>]) -> Option<i64> {
    std::str::from_utf8(row.get(1)?).ok()?.parse().ok()
}

/// A client's record as `changed.lua` returns it: pseudonym, time, then hourly counters, sign and host. Without a sign it
/// was written before there was one.
fn route(row: &[Vec<u8>], now: Millis) -> Option<Route> {
    let [client, _, record] = row else { return None };
    let (asks, answer) = record.split_first_chunk()?;
    let (warm, host) = match answer.split_first()? {
        (sign, host) if [*sign] == *WARM.as_bytes() => (true, host),
        (sign, host) if [*sign] == *COLD.as_bytes() => (false, host),
        _ => (false, answer),
    };
    Some(Route {
        client: Pseudonym(client.as_slice().try_into().ok()?),
        host: String::from_utf8(host.to_vec()).ok()?,
        at: Millis(seen_at(row)?),
        warm,
        asks_today: Asks::from_stored(asks).today(now),
    })
}

/// `MILLISECONDS-SEQUENCE`.
fn is_stream_id(cursor: &str) -> bool {
    let numeric = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    cursor.len() <= 41
        && cursor
            .split_once('-')
            .is_some_and(|(ms, sequence)| numeric(ms) && numeric(sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_of_the_key_and_of_the_place_and_tells_neither() {
        let key = LedgerKey::new(&[7; 32]);
        let mut config = RedisConfig::standalone("redis:6379".to_owned());
        config.addresses.push("other:6379".to_owned());
        let first = id(&config, &key);
        let mut same = config.clone();
        same.addresses.reverse();
        same.username = Some("okms".to_owned());
        assert_eq!(
            id(&same, &key),
            first,
            "the order of nodes and the user make no other ledger"
        );
        assert_ne!(id(&config, &LedgerKey::new(&[8; 32])), first);
        let changes: [fn(&mut RedisConfig); 3] = [
            |config| config.addresses.truncate(1),
            |config| config.database = 1,
            |config| config.key_prefix.push('x'),
        ];
        for change in changes {
            let mut other = config.clone();
            change(&mut other);
            assert_ne!(id(&other, &key), first, "{other:?}");
        }
    }
}
