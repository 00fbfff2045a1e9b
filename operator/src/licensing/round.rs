//! One round over the licensed hosts of a resource: visit each that is due, pass on what was learnt.
//!
//! Facts and events go to the ledger, and so to the routing and to `kmsctl events`; rows go to status and conditions;
//! changes become Events. A host that fails does not keep the others waiting for its sake: hosts are visited side by
//! side, each over its own kept connection. Only an account that no host let in yet is tried at one host after the other,
//! and after a refusal at no other: a domain counts a wrong password wherever it is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kms_host::ledger::{Event, Ledger, LedgerError, Millis};
use kms_host::telemetry::chain;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use wsman::client::{Client, Credentials, Endpoint, EndpointError, Limits};

use super::events::{self, Cursor, Duplicates};
use super::journal::{Journal, Phase};
use super::observe::ReadError;
use super::patience::Patience;
use super::plan::Wanted;
use super::restart::{self, Ended};
use super::settings::WantedSettings;
use super::visit::{Change, JournalStore, Mode, Report, Visit, VisitError, visit};
use crate::client::Gate;

/// Events of the ledger that are compared with those that can have been read before.
const COMPARED: usize = 20_000;

/// A licensed host as a round needs it: the spec with its secrets read.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Its name in the spec.
    pub name: String,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// The account.
    pub credentials: Credentials,
    /// What the operator may do.
    pub mode: Mode,
    /// Products that it is to carry.
    pub wanted: Vec<Wanted>,
    /// Settings that it is to have.
    pub settings: WantedSettings,
    /// How often it is read.
    pub interval: Duration,
}

/// What outlives the operator: kept by the caller beside the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// Attempts.
    pub journal: Journal,
    /// How far each host's log was read.
    pub cursors: BTreeMap<String, Cursor>,
    /// Failures of each host.
    pub patience: BTreeMap<String, Patience>,
    /// Marks of accounts that a host refused, and until when they are tried nowhere.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, i64>,
}

/// What is known of a host after a round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// Its name in the spec.
    pub host: String,
    /// What it said, or why it said nothing.
    pub outcome: Outcome,
    /// When to visit it again.
    pub again_in: Duration,
    /// Events that were read and passed on.
    pub events: usize,
    /// When it was read last, in milliseconds since the epoch.
    pub read_at: Option<i64>,
    /// What is wrong with the host's event log, or with what is in it.
    pub log: Option<String>,
}

/// What a visit came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// It was read.
    Read(Box<Report>),
    /// It was not.
    Failed {
        /// A word for conditions and metrics.
        reason: &'static str,
        /// What happened and what to do.
        message: String,
    },
    /// It is not its time yet.
    #[default]
    Waiting,
}

/// What a round came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// A row for each host, in the spec's order.
    pub rows: Vec<Row>,
    /// What was done.
    pub changes: Vec<Change>,
    /// Duplicate CMIDs, in words.
    pub duplicates: Option<String>,
    /// The ledger could not take something: it is read again in the next round.
    pub ledger: Option<String>,
}

/// Clients and what was seen through them, for one resource.
#[derive(Debug)]
pub struct Keeper {
    hosts: Mutex<BTreeMap<String, Arc<Kept>>>,
    duplicates: Mutex<Duplicates>,
    /// Accounts that a host let in, by their marks, and that host.
    proven: Mutex<BTreeSet<(String, String)>>,
    /// Rounds of one resource do not overlap.
    turn: AsyncMutex<()>,
    /// Open as long as this process may change anything.
    gate: Gate,
}

impl Default for Keeper {
    fn default() -> Self {
        Self::behind(Gate::open())
    }
}

#[derive(Debug)]
struct Kept {
    mark: String,
    client: Client,
    /// Whether the ledger's events were compared since the start.
    compared: Mutex<bool>,
}

/// What a round works with.
struct Shared<'a> {
    /// The journals of the hosts are parts of one; each visit saves the whole of it.
    journal: AsyncMutex<Journal>,
    store: &'a dyn JournalStore,
    memory: &'a Memory,
    /// None while it cannot be reached, and then no event is read.
    ledger: Option<&'a dyn Ledger>,
    now: i64,
}

/// What one host added to a round.
#[derive(Default)]
struct Visited {
    row: Row,
    change: Option<Change>,
    journal: Journal,
    cursor: Option<Cursor>,
    patience: Patience,
    /// Events that show which machines use a CMID.
    seen: Vec<Event>,
    ledger: Option<String>,
    /// Whether the account was let in or refused, where it was tried.
    let_in: Option<bool>,
}

impl Keeper {
    /// Of a process that changes something only while `gate` is open.
    #[must_use]
    pub fn behind(gate: Gate) -> Self {
        Self {
            hosts: Mutex::default(),
            duplicates: Mutex::default(),
            proven: Mutex::default(),
            turn: AsyncMutex::default(),
            gate,
        }
    }

    /// Forgets hosts that are no longer in the spec. Their attempts stay in the journal: a host that comes back must not be
    /// activated anew.
    pub fn keep_only(&self, names: &BTreeSet<&str>, memory: &mut Memory) {
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| names.contains(name.as_str()));
        self.proven
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(_, name)| names.contains(name.as_str()));
        memory.cursors.retain(|name, _| names.contains(name.as_str()));
        memory.patience.retain(|name, _| names.contains(name.as_str()));
    }

    /// CMIDs that several machines use.
    pub fn duplicate_cmids(&self) -> usize {
        let duplicates = self.duplicates.lock().unwrap_or_else(PoisonError::into_inner);
        duplicates.found().len()
    }

    /// Restarts a host's licensing service, or, after a restart that was cut off in a phase, goes on with it.
    ///
    /// # Errors
    /// When the host cannot be asked as its spec has it.
    pub async fn restart(&self, host: &HostSpec, cut_off: Option<Phase>) -> Result<Ended, EndpointError> {
        let kept = self.client(host, &mark(host))?;
        Ok(match cut_off {
            Some(phase) => restart::resume(&kept.client, phase).await,
            None => restart::restart(&kept.client).await,
        })
    }

    /// Visits these hosts, unless one is to be left alone after a failure. Without a ledger no event is read: none is lost
    /// while it cannot be reached.
    pub async fn round(
        &self,
        hosts: &[HostSpec],
        memory: &mut Memory,
        store: &dyn JournalStore,
        ledger: Option<&dyn Ledger>,
        now: i64,
    ) -> Round {
        let _turn = self.turn.lock().await;
        memory.refused.retain(|_, until| *until > now);
        let shared = Shared {
            journal: AsyncMutex::new(memory.journal.clone()),
            store,
            memory: &*memory,
            ledger,
            now,
        };
        let mut accounts = BTreeMap::<String, Vec<&HostSpec>>::new();
        for host in hosts {
            accounts.entry(account(host)).or_default().push(host);
        }
        let visits = accounts
            .iter()
            .map(|(account, hosts)| self.by_account(account, hosts.clone(), &shared));
        let mut visited: Vec<Visited> = join_all(visits).await.into_iter().flatten().collect();
        let place = |name: &str| hosts.iter().position(|host| host.name == name);
        visited.sort_by_key(|visited| place(&visited.row.host));
        let mut round = Round::default();
        for (visited, host) in visited.into_iter().zip(hosts) {
            memory.journal.take_over(&visited.journal, &host.name);
            if let Some(cursor) = visited.cursor {
                memory.cursors.insert(host.name.clone(), cursor);
            }
            match visited.let_in {
                Some(true) => drop(memory.refused.remove(&account(host))),
                Some(false) => drop(memory.refused.insert(account(host), visited.patience.not_before)),
                None => {}
            }
            memory.patience.insert(host.name.clone(), visited.patience);
            round.changes.extend(visited.change);
            round.ledger = round.ledger.or(visited.ledger);
            let mut duplicates = self.duplicates.lock().unwrap_or_else(PoisonError::into_inner);
            duplicates.note(&visited.seen, Millis(now));
            round.rows.push(visited.row);
        }
        round.duplicates = self.duplicates.lock().unwrap_or_else(PoisonError::into_inner).message();
        round
    }

    /// Visits hosts that share an account: as long as none of them let it in, one after the other, and after a refusal none
    /// of the others. Who refused it already comes last, so that one host with another password does not keep the others
    /// from being asked for ever.
    async fn by_account(&self, account: &str, mut hosts: Vec<&HostSpec>, shared: &Shared<'_>) -> Vec<Visited> {
        let failures = |host: &&HostSpec| {
            shared
                .memory
                .patience
                .get(&host.name)
                .map_or(0, |patience| patience.failures)
        };
        hosts.sort_by_key(failures);
        let mut refused = shared.memory.refused.get(account).copied();
        let mut visited = Vec::new();
        let mut hosts = hosts.into_iter();
        while !self.is_proven(account) {
            let Some(host) = hosts.next() else { break };
            let one = match refused {
                Some(until) => spared(host, shared, until),
                None => self.host(host, account, shared).await,
            };
            if one.let_in == Some(false) {
                refused = Some(one.patience.not_before);
            }
            visited.push(one);
        }
        visited.extend(join_all(hosts.map(|host| self.host(host, account, shared))).await);
        visited
    }

    fn is_proven(&self, account: &str) -> bool {
        let proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        proven.iter().any(|(known, _)| known == account)
    }

    fn prove(&self, account: &str, host: &str, let_in: bool) {
        let mut proven = self.proven.lock().unwrap_or_else(PoisonError::into_inner);
        if let_in {
            proven.insert((account.to_owned(), host.to_owned()));
        } else {
            proven.remove(&(account.to_owned(), host.to_owned()));
        }
    }

    async fn host(&self, host: &HostSpec, account: &str, shared: &Shared<'_>) -> Visited {
        let mut visited = Visited::new(host, shared);
        let mark = mark(host);
        if let Some(wait) = visited.patience.wait(&mark, shared.now) {
            visited.row.again_in = wait;
            return visited;
        }
        let kept = match self.client(host, &mark) {
            Ok(kept) => kept,
            Err(error) => {
                visited.row.outcome = Outcome::Failed {
                    reason: "EndpointInvalid",
                    message: error.to_string(),
                };
                return visited;
            }
        };
        let subject = Visit {
            host: &host.name,
            client: &kept.client,
            wanted: &host.wanted,
            settings: &host.settings,
            mode: host.mode,
            gate: &self.gate,
            now: shared.now,
        };
        let store = Part {
            shared,
            host: &host.name,
        };
        match visit(&subject, &mut visited.journal, &store).await {
            Ok(mut report) => {
                visited.patience.succeeded();
                visited.let_in = Some(true);
                self.prove(account, &host.name, true);
                visited.change = report.change.take();
                // A step begun is a step to be followed soon; only a refused one waits its time.
                if visited.change.as_ref().is_some_and(|change| !change.failed) {
                    visited.row.again_in = Duration::from_secs(1);
                }
                if let Some(ledger) = shared.ledger {
                    let put = ledger.put_fact(&host.name, &report.fact(shared.now)).await;
                    visited.ledger = put.err().map(|error| error.to_string());
                }
                visited.row.read_at = Some(shared.now);
                visited.row.outcome = Outcome::Read(Box::new(report));
            }
            Err(error) => {
                visited.failed(&error, &mark, shared.now);
                if visited.let_in == Some(false) {
                    self.prove(account, &host.name, false);
                }
                return visited;
            }
        }
        if let Some(ledger) = shared.ledger {
            self::events(host, &kept, ledger, shared.now, &mut visited).await;
        }
        visited
    }

    /// The kept client of a host, or a new one when its spec or its secrets changed.
    fn client(&self, host: &HostSpec, mark: &str) -> Result<Arc<Kept>, EndpointError> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = hosts.get(&host.name).filter(|kept| kept.mark == mark) {
            return Ok(kept.clone());
        }
        let client = Client::new(host.endpoint.clone(), host.credentials.clone(), Limits::default())?;
        let kept = Arc::new(Kept {
            mark: mark.to_owned(),
            client,
            compared: Mutex::new(false),
        });
        hosts.insert(host.name.clone(), kept.clone());
        Ok(kept)
    }
}

/// Reads events on and hands them to the ledger; the cursor moves only once the ledger has them.
async fn events(host: &HostSpec, kept: &Kept, ledger: &dyn Ledger, now: i64, visited: &mut Visited) {
    let read = match events::read_on(&kept.client, &host.name, visited.cursor, now).await {
        Ok(read) => read,
        Err(error) => {
            visited.row.log = Some(format!("its event log could not be read: {}", chain(&error)));
            return;
        }
    };
    if read.unreadable > 0 {
        visited.row.log = Some(format!(
            "{} events 12290 of its log could not be read and are left out",
            read.unreadable
        ));
    }
    let mut fresh: Vec<Event> = read.events.into_iter().map(|logged| logged.event).collect();
    let compared = *kept.compared.lock().unwrap_or_else(PoisonError::into_inner);
    let handed = async {
        if !compared || read.overlaps {
            let known = ledger.recent_events(COMPARED).await?;
            let known: Vec<Event> = known.into_iter().map(|stored| stored.event).collect();
            fresh = events::unknown_to(&known, std::mem::take(&mut fresh));
            let of_host = known.into_iter().filter(|event| event.host == host.name);
            visited.seen.extend(of_host);
        }
        if !fresh.is_empty() {
            ledger.append_events(&fresh).await?;
        }
        Ok::<_, LedgerError>(())
    }
    .await;
    // After an error nobody knows what the ledger took.
    *kept.compared.lock().unwrap_or_else(PoisonError::into_inner) = handed.is_ok();
    match handed {
        Ok(()) => {
            visited.cursor = read.cursor;
            visited.row.events = fresh.len();
            visited.seen.extend(fresh);
            if read.more {
                visited.row.again_in = Duration::from_secs(1);
            }
        }
        Err(error) => visited.ledger = Some(error.to_string()),
    }
}

/// A host that is not asked, since another refused the same account.
fn spared(host: &HostSpec, shared: &Shared<'_>, until: i64) -> Visited {
    let mut visited = Visited::new(host, shared);
    if let Some(wait) = visited.patience.wait(&mark(host), shared.now) {
        visited.row.again_in = wait;
        return visited;
    }
    visited.patience.refused_elsewhere(&mark(host), until);
    let left = u64::try_from(until.saturating_sub(shared.now)).unwrap_or(0);
    visited.row.again_in = Duration::from_millis(left);
    visited.row.outcome = visited.patience.held_back();
    visited
}

impl Visited {
    fn new(host: &HostSpec, shared: &Shared<'_>) -> Self {
        let memory = shared.memory;
        Self {
            row: Row {
                host: host.name.clone(),
                again_in: host.interval,
                ..Row::default()
            },
            journal: memory.journal.clone(),
            cursor: memory.cursors.get(&host.name).copied(),
            patience: memory.patience.get(&host.name).cloned().unwrap_or_default(),
            ..Self::default()
        }
    }

    fn failed(&mut self, error: &VisitError, mark: &str, now: i64) {
        let reason = match error {
            VisitError::Read(ReadError::Host(error)) => {
                self.row.again_in = self.patience.failed(error, mark, now);
                self.let_in = error.locks_account().then_some(false);
                error.kind().as_str()
            }
            VisitError::Read(ReadError::Facts { .. } | ReadError::Missing { .. }) => "UnreadableAnswer",
            VisitError::Journal { .. } => "JournalUnavailable",
            VisitError::NotLeading(_) => "NotLeading",
        };
        let message = chain(error).chars().take(1024).collect();
        self.row.outcome = Outcome::Failed { reason, message };
    }
}

/// Recognises a change of endpoint or account.
fn mark(host: &HostSpec) -> String {
    let endpoint = format!("{:?}", host.endpoint);
    super::journal::mark(&[
        &endpoint,
        &host.credentials.user,
        host.credentials.password.expose_secret(),
    ])
}

/// Recognises an account, whichever host it is for.
fn account(host: &HostSpec) -> String {
    let Credentials { user, password } = &host.credentials;
    super::journal::mark(&[user, password.expose_secret()])
}

/// Saves a host's journal as a part of the whole.
struct Part<'a> {
    shared: &'a Shared<'a>,
    host: &'a str,
}

impl JournalStore for Part<'_> {
    fn save<'a>(&'a self, journal: &'a Journal) -> futures::future::BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut whole = self.shared.journal.lock().await;
            whole.take_over(journal, self.host);
            self.shared.store.save(&whole).await
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
