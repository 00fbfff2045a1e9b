//! The ledger in memory: for a replica alone, and the measure for the other one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::{FutureExt, future::BoxFuture};
use uuid::Uuid;

use super::{
    Answered, ApplicationCount, Event, HostFact, HostName, Ledger, LedgerError, Millis, Pseudonym, Route, RoutesRead,
    Sighting, StoredEvent, Totals, Verdict,
    asks::Asks,
    counting::{ClientTable, ENTRY_LIFE_MS, Freshness, Recency, ReplayGuard},
};

/// Events kept, at most; the oldest go first.
pub const EVENTS_KEPT: usize = 10_000;

/// Clients whose routes are kept, at most; who was seen longest ago goes first. One takes about 300 bytes here, so a
/// replica alone keeps fewer than Redis does; far fewer would do for any decision of routing.
const ROUTES_KEPT: usize = 100_000;

/// A ledger that lives and dies with this process.
#[derive(Debug)]
pub struct MemoryLedger {
    id: Uuid,
    state: Mutex<State>,
}

impl Default for MemoryLedger {
    fn default() -> Self {
        Self {
            id: Uuid::new_v4(),
            state: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    applications: BTreeMap<Uuid, Application>,
    routes: Routes,
    machines: Recency,
    facts: BTreeMap<HostName, HostFact>,
    events: Events,
}

#[derive(Debug, Default)]
struct Application {
    clients: ClientTable,
    guard: ReplayGuard,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Routes {
    seen: Recency,
    by_client: HashMap<Pseudonym, LastAnswer>,
    by_host: BTreeMap<HostName, u64>,
}

#[derive(Debug)]
struct LastAnswer {
    host: HostName,
    warm: bool,
    asks: Asks,
}

#[derive(Debug, Default)]
struct Events {
    kept: VecDeque<(u64, Event)>,
    appended: u64,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change, so a poisoned state is still a whole one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every operation is done when it is called; the futures are ready.
impl Ledger for MemoryLedger {
    fn id(&self) -> Uuid {
        self.id
    }

    fn count<'a>(&'a self, batch: &'a [Sighting]) -> BoxFuture<'a, Result<Vec<Verdict>, LedgerError>> {
        let mut state = self.state();
        let verdicts = batch.iter().map(|sighting| state.count(sighting)).collect();
        ready(verdicts)
    }

    fn refused<'a>(&'a self, batch: &'a [(Uuid, Event)]) -> BoxFuture<'a, Result<(), LedgerError>> {
        let mut state = self.state();
        for (application, event) in batch {
            state.applications.entry(*application).or_default().totals.failed += 1;
            state.events.append(event);
        }
        ready(())
    }

    fn answered<'a>(&'a self, batch: &'a [Answered]) -> BoxFuture<'a, Result<(), LedgerError>> {
        let mut state = self.state();
        batch.iter().for_each(|answered| state.routes.answered(answered));
        ready(())
    }

    fn put_fact<'a>(&'a self, host: &'a str, fact: &'a HostFact) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.state().facts.insert(host.to_owned(), fact.clone());
        ready(())
    }

    fn append_events<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), LedgerError>> {
        let mut state = self.state();
        for event in events {
            state.events.append(event);
            state.note_machine(event);
        }
        ready(())
    }

    fn newest_routes(&self, since: Millis, now: Millis, most: usize) -> BoxFuture<'_, Result<RoutesRead, LedgerError>> {
        let mut state = self.state();
        let mut read = state.routes.read(since, now, most);
        while state.machines.pop_until(now.0.saturating_sub(ENTRY_LIFE_MS)).is_some() {}
        read.distinct_machines = u64::try_from(state.machines.len()).unwrap_or(u64::MAX);
        read.facts = state
            .facts
            .iter()
            .map(|(host, fact)| (host.clone(), fact.clone()))
            .collect();
        ready(read)
    }

    fn counts(&self, now: Millis) -> BoxFuture<'_, Result<Vec<ApplicationCount>, LedgerError>> {
        let state = self.state();
        let counts = state.applications.iter().map(|(id, application)| ApplicationCount {
            application: *id,
            current_count: application.clients.current_count(now),
            largest_required: application.clients.largest_required(),
            totals: application.totals.clone(),
        });
        ready(counts.collect())
    }

    fn events<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LedgerError>> {
        let after = after.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let state = self.state();
        ready(
            state
                .events
                .kept
                .iter()
                .skip_while(|(at, _)| *at <= after)
                .take(limit)
                .map(stored)
                .collect(),
        )
    }

    fn recent_events(&self, limit: usize) -> BoxFuture<'_, Result<Vec<StoredEvent>, LedgerError>> {
        ready(self.state().events.kept.iter().rev().take(limit).map(stored).collect())
    }

    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        ready(())
    }
}

impl State {
    fn count(&mut self, sighting: &Sighting) -> Verdict {
        let application = self.applications.entry(sighting.application).or_default();
        match application
            .guard
            .see(sighting.client, sighting.request_time_micros, sighting.at)
        {
            Freshness::New => {}
            Freshness::SentAgain => {
                return Verdict::SentAgain {
                    count: application.clients.current_count(sighting.at),
                };
            }
            Freshness::Replayed => {
                application.totals.failed += 1;
                return Verdict::Replayed;
            }
        }
        application.totals.total += 1;
        let status = usize::try_from(sighting.event.license_status).unwrap_or(usize::MAX);
        if let Some(of_status) = application.totals.by_status.get_mut(status) {
            *of_status += 1;
        }
        self.events.append(&sighting.event);
        Verdict::Counted {
            count: application
                .clients
                .count(sighting.client, sighting.required, sighting.at),
        }
    }

    /// A host that refuses a request does not count its machine.
    fn note_machine(&mut self, event: &Event) {
        if event.hresult == 0 {
            // What never leaves this process needs no pseudonym.
            self.machines.see(Pseudonym(*event.cmid.as_bytes()), event.at.0);
            while self.machines.pop_beyond(ROUTES_KEPT).is_some() {}
        }
    }
}

impl Routes {
    fn answered(&mut self, answered: &Answered) {
        let later = self.seen.see(answered.client, answered.at.0);
        let last = self.by_client.entry(answered.client).or_insert_with(|| {
            *self.by_host.entry(answered.host.clone()).or_default() += 1;
            LastAnswer {
                host: answered.host.clone(),
                warm: answered.warm,
                asks: Asks::none(answered.at),
            }
        });
        last.asks.add(answered.at);
        if later {
            last.warm = answered.warm;
        }
        if later && last.host != answered.host {
            let before = std::mem::replace(&mut last.host, answered.host.clone());
            *self.by_host.entry(answered.host.clone()).or_default() += 1;
            forget_one(&mut self.by_host, &before);
        }
        while let Some(client) = self.seen.pop_beyond(ROUTES_KEPT) {
            self.forget(&client);
        }
    }

    fn read(&mut self, since: Millis, now: Millis, most: usize) -> RoutesRead {
        while let Some(client) = self.seen.pop_until(now.0.saturating_sub(ENTRY_LIFE_MS)) {
            self.forget(&client);
        }
        let newest_first = self.seen.since(since.0).rev().take(most);
        let changed = newest_first.filter_map(|(at, client)| {
            let last = self.by_client.get(&client)?;
            Some(Route {
                client,
                host: last.host.clone(),
                at: Millis(at),
                warm: last.warm,
                asks_today: last.asks.today(now),
            })
        });
        let mut changed: Vec<_> = changed.collect();
        changed.reverse();
        RoutesRead {
            changed,
            distinct_clients: u64::try_from(self.seen.len()).unwrap_or(u64::MAX),
            distinct_machines: 0,
            clients_by_host: self
                .by_host
                .iter()
                .map(|(host, clients)| (host.clone(), *clients))
                .collect(),
            facts: Vec::new(),
        }
    }

    fn forget(&mut self, client: &Pseudonym) {
        if let Some(last) = self.by_client.remove(client) {
            forget_one(&mut self.by_host, &last.host);
        }
    }
}

fn forget_one(by_host: &mut BTreeMap<HostName, u64>, host: &str) {
    if let Some(clients) = by_host.get_mut(host) {
        *clients -= 1;
        if *clients == 0 {
            by_host.remove(host);
        }
    }
}

impl Events {
    fn append(&mut self, event: &Event) {
        if self.kept.len() >= EVENTS_KEPT {
            self.kept.pop_front();
        }
        self.appended += 1;
        self.kept.push_back((self.appended, event.clone()));
    }
}

fn stored((position, event): &(u64, Event)) -> StoredEvent {
    StoredEvent {
        cursor: position.to_string(),
        event: event.clone(),
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, LedgerError>> {
    std::future::ready(Ok(value)).boxed()
}
