//! One round over the licensed hosts of a resource: visit each that is due, pass on what was learnt.
//!
//! Facts and events go to the ledger, and so to the routing and to `kmsctl events`; rows go to status and conditions;
//! changes become Events. A host that fails does not keep the others waiting for its sake: hosts are visited side by
//! side, each over its own kept connection.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use kms_host::ledger::{Event, Ledger, LedgerError, Millis};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex as AsyncMutex;
use wsman::client::{Client, Credentials, Endpoint, EndpointError, Limits};

use super::events::{self, Cursor, Duplicates};
use super::journal::Journal;
use super::observe::ReadError;
use super::patience::Patience;
use super::plan::Wanted;
use super::settings::WantedSettings;
use super::visit::{Change, JournalStore, Mode, Report, Visit, VisitError, visit};

/// Events of the ledger that are compared with the first ones read after a start.
const COMPARED: usize = 5000;

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
}

/// What is known of a host after a round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name in the spec.
    pub host: String,
    /// What it said, or why it said nothing.
    pub outcome: Outcome,
    /// When to visit it again.
    pub again_in: Duration,
    /// Events that were read and passed on.
    pub events: usize,
}

/// What a visit came to.
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Default)]
pub struct Keeper {
    hosts: Mutex<BTreeMap<String, Arc<Kept>>>,
    duplicates: Mutex<Duplicates>,
    /// Rounds of one resource do not overlap.
    turn: AsyncMutex<()>,
}

#[derive(Debug)]
struct Kept {
    mark: String,
    client: Client,
    /// Whether the ledger's events were compared since the start.
    compared: Mutex<bool>,
}

/// What one host added to a round.
struct Visited {
    row: Row,
    change: Option<Change>,
    journal: Journal,
    cursor: Option<Cursor>,
    patience: Patience,
    events: Vec<Event>,
    ledger: Option<String>,
}

impl Keeper {
    /// Forgets hosts that are no longer in the spec. Their attempts stay in the journal: a host that comes back must not be
    /// activated anew.
    pub fn keep_only(&self, names: &BTreeSet<&str>, memory: &mut Memory) {
        self.hosts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|name, _| names.contains(name.as_str()));
        memory.cursors.retain(|name, _| names.contains(name.as_str()));
        memory.patience.retain(|name, _| names.contains(name.as_str()));
    }

    /// Restarts a host's licensing service, or, after a restart that was cut off, sees that it runs.
    ///
    /// # Errors
    /// What the host answers, in words.
    pub async fn restart(&self, host: &HostSpec, resume: bool) -> Result<(), String> {
        let kept = self.client(host, &mark(host)).map_err(|error| error.to_string())?;
        let done = if resume {
            super::restart::start(&kept.client).await
        } else {
            super::restart::restart(&kept.client).await
        };
        done.map_err(|error| error.to_string())
    }

    /// Visits these hosts, unless one is to be left alone after a failure.
    pub async fn round(
        &self,
        hosts: &[HostSpec],
        memory: &mut Memory,
        store: &dyn JournalStore,
        ledger: &dyn Ledger,
        now: i64,
    ) -> Round {
        let _turn = self.turn.lock().await;
        // The journals of the hosts are parts of one; each visit saves the whole of it.
        let shared = Shared {
            journal: AsyncMutex::new(memory.journal.clone()),
            store,
        };
        let visits = hosts.iter().map(|host| self.host(host, memory, &shared, ledger, now));
        let mut round = Round::default();
        for visited in join_all(visits).await {
            let host = visited.row.host.clone();
            merge(&mut memory.journal, visited.journal, &host);
            if let Some(cursor) = visited.cursor {
                memory.cursors.insert(host.clone(), cursor);
            }
            memory.patience.insert(host, visited.patience);
            round.changes.extend(visited.change);
            round.ledger = round.ledger.or(visited.ledger);
            let mut duplicates = self.duplicates.lock().unwrap_or_else(PoisonError::into_inner);
            duplicates.note(&visited.events, Millis(now));
            round.rows.push(visited.row);
        }
        round.duplicates = self.duplicates.lock().unwrap_or_else(PoisonError::into_inner).message();
        round
    }

    async fn host(
        &self,
        host: &HostSpec,
        memory: &Memory,
        shared: &Shared<'_>,
        ledger: &dyn Ledger,
        now: i64,
    ) -> Visited {
        let mut visited = Visited {
            row: Row {
                host: host.name.clone(),
                outcome: Outcome::Waiting,
                again_in: host.interval,
                events: 0,
            },
            change: None,
            journal: memory.journal.clone(),
            cursor: memory.cursors.get(&host.name).copied(),
            patience: memory.patience.get(&host.name).cloned().unwrap_or_default(),
            events: Vec::new(),
            ledger: None,
        };
        let mark = mark(host);
        if let Some(wait) = visited.patience.wait(&mark, now) {
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
            now,
        };
        match visit(&subject, &mut visited.journal, shared).await {
            Ok(mut report) => {
                visited.patience.succeeded();
                visited.change = report.change.take();
                // A step begun is a step to be followed soon; only a refused one waits its time.
                if visited.change.as_ref().is_some_and(|change| !change.failed) {
                    visited.row.again_in = Duration::from_secs(1);
                }
                let fact = report.fact(now);
                visited.ledger = ledger
                    .put_fact(&host.name, &fact)
                    .await
                    .err()
                    .map(|error| error.to_string());
                visited.row.outcome = Outcome::Read(Box::new(report));
            }
            Err(error) => {
                visited.failed(&error, &mark, now);
                return visited;
            }
        }
        self.events(host, &kept, ledger, now, &mut visited).await;
        visited
    }

    /// Reads events on and hands them to the ledger; the cursor moves only once the ledger has them.
    async fn events(&self, host: &HostSpec, kept: &Kept, ledger: &dyn Ledger, now: i64, visited: &mut Visited) {
        let (read, cursor) = match events::read_on(&kept.client, &host.name, visited.cursor, now).await {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(host = host.name, error = %error, "events could not be read");
                return;
            }
        };
        let mut fresh: Vec<Event> = read.into_iter().map(|logged| logged.event).collect();
        let compared = *kept.compared.lock().unwrap_or_else(PoisonError::into_inner);
        let handed = async {
            if !compared {
                let known = ledger.recent_events(COMPARED).await?;
                let known: Vec<Event> = known.into_iter().map(|stored| stored.event).collect();
                fresh = events::unknown_to(&known, std::mem::take(&mut fresh));
            }
            if !fresh.is_empty() {
                ledger.append_events(&fresh).await?;
            }
            Ok::<_, LedgerError>(())
        }
        .await;
        match handed {
            Ok(()) => {
                *kept.compared.lock().unwrap_or_else(PoisonError::into_inner) = true;
                visited.cursor = cursor;
                visited.row.events = fresh.len();
                visited.events = fresh;
            }
            Err(error) => visited.ledger = Some(error.to_string()),
        }
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

impl Visited {
    fn failed(&mut self, error: &VisitError, mark: &str, now: i64) {
        let reason = match error {
            VisitError::Read(ReadError::Host(error)) => {
                self.row.again_in = self.patience.failed(error, mark, now);
                error.kind().as_str()
            }
            VisitError::Read(ReadError::Facts { .. } | ReadError::Missing { .. }) => "UnreadableAnswer",
            VisitError::Journal { .. } => "JournalUnavailable",
        };
        let mut message = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !message.contains(&cause_text) {
                message = format!("{message}: {cause_text}");
            }
            source = cause.source();
        }
        message = message.chars().take(1024).collect();
        self.row.outcome = Outcome::Failed { reason, message };
    }
}

/// Recognises a change of endpoint or account.
fn mark(host: &HostSpec) -> String {
    use secrecy::ExposeSecret as _;
    let endpoint = format!("{:?}", host.endpoint);
    super::journal::mark(&[
        &endpoint,
        &host.credentials.user,
        host.credentials.password.expose_secret(),
    ])
}

/// Takes one host's attempts over.
fn merge(into: &mut Journal, from: Journal, host: &str) {
    let prefix = format!("{host}/");
    into.attempts.retain(|entry, _| !entry.starts_with(&prefix));
    into.attempts.extend(
        from.attempts
            .into_iter()
            .filter(|(entry, _)| entry.starts_with(&prefix)),
    );
}

/// Saves each host's journal as a part of the whole.
struct Shared<'a> {
    journal: AsyncMutex<Journal>,
    store: &'a dyn JournalStore,
}

impl JournalStore for Shared<'_> {
    fn save<'a>(&'a self, journal: &'a Journal) -> futures::future::BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let mut whole = self.journal.lock().await;
            for (entry, attempt) in &journal.attempts {
                let newer = whole
                    .attempts
                    .get(entry)
                    .is_none_or(|known| known.begun_at <= attempt.begun_at);
                if newer {
                    whole.attempts.insert(entry.clone(), attempt.clone());
                }
            }
            self.store.save(&whole).await
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
