//! The replica's view of the fleet: read from the ledger in the background, looked at without waiting.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::config::RoutingConfig;
use super::decide::{Client, Decision, decide};
use super::fleet::{DistinctClients, Fleet, Health, HostSetup};
use super::known::{Answered, Known};
use super::reason::{HostState, Knowledge};
use crate::config::LicensedHostConfig;
use crate::ledger::{HostFact, HostName, Ledger, Millis, Pseudonym, RoutesRead};
use crate::telemetry::chain;

/// How long a read of the ledger may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// What the data path looks at. Immutable; a new one replaces it.
#[derive(Debug)]
pub struct Snapshot {
    /// The licensed hosts and the totals.
    pub fleet: Fleet,
    /// When the ledger was last read.
    pub read_at: Option<Millis>,
    answered: Answered,
}

impl Snapshot {
    /// The client with that pseudonym, as far as it is known.
    pub fn client(&self, pseudonym: Pseudonym) -> Client {
        Client {
            pseudonym,
            last: self.answered.last(pseudonym),
        }
    }

    /// Where the client goes.
    pub fn decide(&self, health: impl Fn(usize) -> Health, pseudonym: Pseudonym, now: Millis) -> Decision {
        decide(&self.fleet, health, &self.client(pseudonym), now)
    }

    /// Clients whose last answer is known, at most twice `maxClients`.
    pub fn clients_known(&self) -> usize {
        self.answered.len()
    }
}

/// The view: the latest [`Snapshot`] and what makes the next.
#[derive(Debug)]
pub struct View {
    snapshot: ArcSwap<Snapshot>,
    /// Only who publishes locks this; the data path does not.
    sources: Mutex<Sources>,
}

#[derive(Debug)]
struct Sources {
    config: RoutingConfig,
    hosts: Vec<LicensedHostConfig>,
    known: Known,
}

impl View {
    /// A view of the configured hosts, the most preferred first. Until the ledger is read it says `preferenceOrder`.
    pub fn new(config: &RoutingConfig, hosts: &[LicensedHostConfig], now: Millis) -> Self {
        let sources = Sources {
            config: config.clone(),
            hosts: hosts.to_vec(),
            known: Known::default(),
        };
        Self {
            snapshot: ArcSwap::from_pointee(sources.snapshot(now)),
            sources: Mutex::new(sources),
        }
    }

    /// The latest snapshot, without waiting.
    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Takes over a changed configuration; what is known stays.
    pub fn replace(&self, config: &RoutingConfig, hosts: &[LicensedHostConfig], now: Millis) {
        let mut sources = self.sources();
        sources.config = config.clone();
        sources.hosts = hosts.to_vec();
        self.publish(&sources, now);
    }

    /// From when on the next read of the ledger should ask for changes.
    pub fn since(&self, now: Millis) -> Millis {
        self.sources().known.since(now)
    }

    /// Takes in what a read that was begun at `now` brought, and publishes it.
    pub fn absorb(&self, read: RoutesRead, since: Millis, now: Millis) {
        let mut sources = self.sources();
        let most = sources.most();
        sources.known.absorb(read, since, now, most);
        self.publish(&sources, now);
    }

    /// Notes that the ledger could not be read: what is known grows old.
    pub fn missed(&self, now: Millis) {
        self.publish(&self.sources(), now);
    }

    fn publish(&self, sources: &Sources, now: Millis) {
        self.snapshot.store(Arc::new(sources.snapshot(now)));
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many clients the next read of the ledger should bring at most.
    pub fn most(&self) -> usize {
        self.sources().most()
    }

    fn refresh_interval(&self) -> Duration {
        self.sources().config.refresh_interval.get()
    }
}

impl Sources {
    fn most(&self) -> usize {
        usize::try_from(self.config.max_clients).unwrap_or(usize::MAX)
    }

    fn snapshot(&self, now: Millis) -> Snapshot {
        let hosts: Vec<HostSetup> = (0u32..)
            .zip(&self.hosts)
            .map(|(at, host)| self.setup(at, host))
            .collect();
        Snapshot {
            fleet: Fleet::new(
                &self.config,
                &hosts,
                DistinctClients {
                    addresses: self.known.distinct_clients,
                    machines: self.known.distinct_machines,
                },
                self.knowledge(now),
                now,
            ),
            read_at: self.known.read_at,
            answered: self.known.answered(self.hosts.iter().map(|host| host.name.as_str())),
        }
    }

    fn setup(&self, preference: u32, host: &LicensedHostConfig) -> HostSetup {
        let seen = self.known.clients_by_host.iter().find(|(name, _)| *name == host.name);
        let read = self
            .known
            .facts
            .iter()
            .find(|(name, _)| *name == host.name)
            .map(|(_, fact)| fact);
        HostSetup {
            name: host.name.clone(),
            preference,
            weight: host.weight,
            products: host.products.clone(),
            fact: later(read, host.facts.as_ref()).cloned(),
            seen: seen.map_or(0, |(_, clients)| *clients),
        }
    }

    fn knowledge(&self, now: Millis) -> Knowledge {
        let Some(read) = self.known.read_at else {
            return Knowledge::PreferenceOrder;
        };
        let age = Duration::from_millis(u64::try_from(now.0.saturating_sub(read.0)).unwrap_or(0));
        if age <= self.config.stale_after.get() {
            Knowledge::Fresh
        } else if age <= self.config.last_known_for.get() {
            Knowledge::LastKnown
        } else {
            Knowledge::PreferenceOrder
        }
    }
}

/// The fact that was read later.
fn later<'a>(a: Option<&'a HostFact>, b: Option<&'a HostFact>) -> Option<&'a HostFact> {
    a.into_iter().chain(b).max_by_key(|fact| fact.read_at)
}

/// Reads the ledger into the view until `token` is cancelled. `clock` tells the time; `seen` is told how each read ended,
/// for metrics.
pub async fn refresh(
    view: Arc<View>,
    ledger: Arc<dyn Ledger>,
    clock: impl Fn() -> Millis,
    mut seen: impl FnMut(&Snapshot),
    token: CancellationToken,
) {
    let mut period = view.refresh_interval();
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = false;
    let mut states = Vec::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = token.cancelled() => return,
        }
        let read = tokio::select! {
            read = read(&view, ledger.as_ref(), clock()) => read,
            () = token.cancelled() => return,
        };
        match &read {
            Ok(()) if away => tracing::info!("the ledger is read again"),
            Ok(()) => {}
            Err(error) if away => tracing::debug!(error, "the ledger cannot be read"),
            Err(error) => tracing::warn!(
                error,
                "the ledger cannot be read: routing goes on with what was read last"
            ),
        }
        away = read.is_err();
        if away {
            view.missed(clock());
        }
        let snapshot = view.load();
        log_changes(&snapshot, &mut states);
        seen(&snapshot);
        drop(snapshot);
        if view.refresh_interval() != period {
            period = view.refresh_interval();
            tick = interval(period);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick.reset();
        }
    }
}

/// Logs what became of each host since the last look. Ejections are the relay's to log.
fn log_changes(snapshot: &Snapshot, states: &mut Vec<(HostName, HostState)>) {
    let standings = snapshot.fleet.standings(|_| Health::Well);
    let now = snapshot.fleet.hosts.iter().zip(&standings);
    let now: Vec<_> = now
        .map(|(host, standing)| (host.name.clone(), standing.state))
        .collect();
    for (name, state) in now.iter().filter(|host| !states.contains(host)) {
        let (clients, knowledge) = (snapshot.fleet.distinct_clients, snapshot.fleet.knowledge.as_str());
        let (word, because) = (state.as_str(), state.sentence());
        tracing::info!(
            server.name = name,
            state = word,
            clients,
            knowledge,
            "licensed host is {word}: {because}"
        );
    }
    *states = now;
}

async fn read(view: &View, ledger: &dyn Ledger, now: Millis) -> Result<(), String> {
    let since = view.since(now);
    let read = timeout(READ_TIMEOUT, ledger.newest_routes(since, now, view.most())).await;
    let read = read.map_err(|_| format!("no answer within {} s", READ_TIMEOUT.as_secs()))?;
    view.absorb(read.map_err(|error| chain(&error))?, since, now);
    Ok(())
}

#[cfg(test)]
mod tests;
