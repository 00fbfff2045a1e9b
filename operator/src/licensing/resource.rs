//! One resource: from its spec to its status. Needs no Kubernetes: what it refers to comes from [`ReadSecrets`], what is to
//! outlive the process goes to [`Store`].
//!
//! ```text
//! loop { outcome = visit(&host, &secrets, &session, &store, &ledger, Timestamp::now()).await; sleep(outcome.again_in) }
//! ```
//!
//! `kmsctl up` runs exactly that with [`crate::secrets::Objects`] made from the Secrets of the manifest, a
//! [`super::store::FileStore`] or [`super::store::InMemory`], and the ledger that its relays share. The operator runs it in
//! a task for each resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kms_host::ledger::{Ledger, MemoryLedger, Millis};
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::conditions::{Verdict, hosts_licensed, hosts_unequal, threshold_met};
use super::input::{self, Misfit};
use super::journal::{self, Journal, Phase};
use super::plan::{Activation, Step};
use super::restart::{self, Decision, Ended};
use super::round::{HostSpec, Keeper, Memory, Outcome as HostOutcome, Row};
use super::status;
use super::store::Store;
use super::visit::{JournalStore, Mode};
use crate::api::status::{Counts, LicensedHostStatus};
use crate::api::{OfficeKmsHost, OfficeKmsHostSpec};
use crate::client::Gate;
use crate::notice::Notice;
use crate::secrets::{Objects, ReadSecrets};

/// For the ledger's answer: it is told only by the way.
const LEDGER_PATIENCE: Duration = Duration::from_secs(5);
/// How often a cursor that moved is saved by itself. What is read again after a restart is found in the ledger.
const CURSORS_EVERY_MS: i64 = 15 * 60 * 1000;
/// When nothing is to be visited, the resource is still looked at.
const IDLE: Duration = Duration::from_secs(300);
/// How often Secrets are looked at while somebody is to put something into one.
const SECRETS_EVERY: Duration = Duration::from_secs(30);
/// Never more often than this.
const SOONEST: Duration = Duration::from_secs(1);
/// What Events say that was being done.
const ACTION: &str = "Licensing";

/// What is known of a resource as long as the process lives.
#[derive(Debug, Default)]
pub struct Session {
    keeper: Keeper,
    /// Stands in where the replicas' ledger cannot be reached from here.
    own: MemoryLedger,
    kept: AsyncMutex<Kept>,
    duplicates: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Kept {
    memory: Option<Memory>,
    saved_at: i64,
    hosts: BTreeMap<String, Seen>,
    /// What was last told of a restart that is not done.
    restart_told: Option<String>,
    /// What was last told of each host's event log.
    log_told: BTreeMap<String, String>,
}

/// The ledger of a resource, as far as it can be reached from here.
#[derive(Clone)]
pub enum Shared {
    /// The one that its replicas share.
    Ledger(Arc<dyn Ledger>),
    /// It is in a replica's memory: facts and events reach only the status.
    OutOfReach,
    /// It cannot be opened or asked yet: events wait in the logs of the hosts.
    NotYet,
}

impl Session {
    /// Of a process that changes something only while `gate` is open.
    #[must_use]
    pub fn behind(gate: Gate) -> Self {
        Self {
            keeper: Keeper::behind(gate),
            ..Self::default()
        }
    }
}

/// What a host said last, and when it is asked again.
#[derive(Debug)]
struct Seen {
    row: Row,
    due: i64,
    mark: String,
}

/// What came of a look at a resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// `status.licensedHosts`.
    pub rows: Vec<LicensedHostStatus>,
    /// `status.counts`, where something is known.
    pub counts: Option<Counts>,
    /// Conditions by their types.
    pub conditions: Vec<(&'static str, Verdict)>,
    /// Events of Kubernetes.
    pub notices: Vec<Notice>,
    /// What each managed host said, for metrics.
    pub hosts: Vec<Row>,
    /// CMIDs that several machines use, for metrics.
    pub duplicate_cmids: usize,
    /// When to look again.
    pub again_in: Duration,
}

impl Outcome {
    /// Adds a warning to what is said of the hosts.
    pub(super) fn warn_of(&mut self, what: &str) {
        let verdicts = self.conditions.iter_mut().filter(|(kind, _)| *kind == "HostsLicensed");
        verdicts.for_each(|(_, verdict)| verdict.append(what));
    }
}

/// Looks at a resource's licensed hosts: visits those that are due, at most one step each in `mode: Manage`, and says what
/// its status is.
///
/// Calls for one session follow each other.
pub async fn visit(
    host: &OfficeKmsHost,
    secrets: &dyn ReadSecrets,
    session: &Session,
    store: &dyn Store,
    ledger: &Shared,
    now: Timestamp,
) -> Outcome {
    let spec = &host.spec;
    let millis = now.as_millisecond();
    let before = host.status.as_ref();
    let objects = Objects::read(secrets, &input::names(spec)).await;
    let (fit, misfits) = sorted(input::hosts(spec, &objects));
    let mut outcome = Outcome {
        again_in: IDLE,
        ..Outcome::default()
    };
    let (shared, used) = match ledger {
        Shared::Ledger(ledger) => (Some(&**ledger), Some(&**ledger)),
        Shared::OutOfReach => (None, Some(&session.own as &dyn Ledger)),
        Shared::NotYet => (None, None),
    };
    let round = if fit.is_empty() && misfits.is_empty() {
        Ok(Looked::default())
    } else {
        let asked = host
            .metadata
            .annotations
            .as_ref()
            .and_then(|all| all.get(restart::ANNOTATION));
        let asked = Asked {
            restart: asked.map(String::as_str),
            required: required(spec),
        };
        look(session, &fit, misfits, store, used, asked, millis).await
    };
    let looked = match round {
        Ok(looked) => looked,
        Err(error) => {
            let verdict = Verdict::unknown(
                "JournalUnavailable",
                &format!("nothing is done before the journal can be read: {error:#}"),
            );
            outcome.rows = before.map(|status| status.licensed_hosts.clone()).unwrap_or_default();
            outcome.conditions.push(("HostsLicensed", verdict));
            outcome.again_in = Duration::from_secs(30);
            return outcome;
        }
    };
    outcome.notices = looked.notices;
    if let Some(soonest) = looked.rows.iter().map(|row| row.again_in).min() {
        let wanting = looked.rows.iter().any(wants_somebody);
        outcome.again_in = if wanting { soonest.min(SECRETS_EVERY) } else { soonest }.max(SOONEST);
    }
    let rows_before = before
        .map(|status| status.licensed_hosts.as_slice())
        .unwrap_or_default();
    outcome.rows = status::rows(spec, &looked.rows, rows_before, now);
    outcome
        .notices
        .extend(transitions(&looked.rows, &outcome.rows, rows_before));
    conditions(&mut outcome, spec, &looked.rows, session);
    let clients = match shared {
        Some(ledger) => counts_of(ledger, spec, millis, &mut outcome).await,
        None => None,
    };
    if spec.licensed_hosts.is_some() && !looked.rows.is_empty() {
        outcome.counts = Some(status::counts(&looked.rows, required(spec), clients));
    }
    outcome.hosts = looked.rows;
    outcome.duplicate_cmids = session.keeper.duplicate_cmids();
    outcome
}

/// The largest required count of the products.
#[must_use]
pub fn required(spec: &OfficeKmsHostSpec) -> u32 {
    let products = spec.products.iter().flatten();
    products.map(|product| product.name.required_count()).max().unwrap_or(5)
}

/// Whether a host waits for what somebody puts into a Secret: that is looked for without asking the host.
fn wants_somebody(row: &Row) -> bool {
    match &row.outcome {
        HostOutcome::Read(report) => report.plans.iter().any(|plan| plan.step == Step::Blocked),
        HostOutcome::Failed { reason, .. } => *reason == "AccessDenied",
        HostOutcome::Waiting => false,
    }
}

fn sorted(hosts: Vec<Result<HostSpec, Misfit>>) -> (Vec<HostSpec>, Vec<Misfit>) {
    let (mut fit, mut misfits) = (Vec::new(), Vec::new());
    for host in hosts {
        match host {
            Ok(host) => fit.push(host),
            Err(misfit) => misfits.push(misfit),
        }
    }
    (fit, misfits)
}

/// What a resource asks for beside its spec.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    restart: Option<&'a str>,
    required: u32,
}

/// What a look at the hosts came to.
#[derive(Default)]
struct Looked {
    rows: Vec<Row>,
    notices: Vec<Notice>,
}

async fn look(
    session: &Session,
    hosts: &[HostSpec],
    misfits: Vec<Misfit>,
    store: &dyn Store,
    ledger: Option<&dyn Ledger>,
    asked: Asked<'_>,
    now: i64,
) -> anyhow::Result<Looked> {
    let mut kept = session.kept.lock().await;
    let Kept {
        memory,
        saved_at,
        hosts: seen,
        restart_told,
        log_told,
    } = &mut *kept;
    let mut current = match memory.take() {
        Some(memory) => memory,
        None => store.load().await?,
    };
    let saved = current.clone();
    let names: BTreeSet<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    session.keeper.keep_only(&names, &mut current);
    seen.retain(|name, _| names.contains(name.as_str()));
    log_told.retain(|name, _| names.contains(name.as_str()));
    let due: Vec<HostSpec> = hosts
        .iter()
        .filter(|host| {
            let mark = mark(host);
            seen.get(&host.name)
                .is_none_or(|seen| seen.due <= now || seen.mark != mark)
        })
        .cloned()
        .collect();
    let saving = Saving {
        store,
        rest: current.clone(),
    };
    let round = session.keeper.round(&due, &mut current, &saving, ledger, now).await;

    let mut looked = Looked::default();
    for change in &round.changes {
        looked.notices.push(match change.failed {
            true => Notice::warning(ACTION, change.reason, &change.message),
            false => Notice::normal(ACTION, change.reason, &change.message),
        });
    }
    if let Some(why) = &round.ledger {
        tracing::warn!(error = %why, "the ledger did not take what licensed hosts said; it is read again");
    }
    for (mut row, host) in round.rows.into_iter().zip(&due) {
        let mark = mark(host);
        match &row.log {
            Some(why) if log_told.get(&host.name) != Some(why) => {
                let message = format!("{}: {why}", host.name);
                looked
                    .notices
                    .push(Notice::warning(ACTION, "EventsUnreadable", &message));
                log_told.insert(host.name.clone(), why.clone());
            }
            Some(_) => {}
            None => drop(log_told.remove(&host.name)),
        }
        row.read_at = row.read_at.or_else(|| seen.get(&host.name)?.row.read_at);
        if row.outcome == HostOutcome::Waiting {
            let last = seen.remove(&host.name).filter(|seen| seen.mark == mark);
            row.outcome = last.map_or_else(
                || {
                    current
                        .patience
                        .get(&host.name)
                        .cloned()
                        .unwrap_or_default()
                        .held_back()
                },
                |seen| seen.row.outcome,
            );
        }
        let wait = i64::try_from(row.again_in.as_millis()).unwrap_or(i64::MAX);
        let due = now.saturating_add(wait);
        seen.insert(host.name.clone(), Seen { row, due, mark });
    }
    looked.rows = hosts
        .iter()
        .filter_map(|host| {
            let seen = seen.get(&host.name)?;
            let left = u64::try_from(seen.due.saturating_sub(now)).unwrap_or(0);
            Some(Row {
                again_in: Duration::from_millis(left),
                ..seen.row.clone()
            })
        })
        .collect();
    let restarted = restart_if_asked(session, hosts, &looked.rows, &mut current, &saving, asked).await;
    match restarted {
        Some(notice) if !notice.warning => {
            // What took effect is seen at once.
            seen.values_mut().for_each(|seen| seen.due = now);
            looked.rows.iter_mut().for_each(|row| row.again_in = SOONEST);
            looked.notices.push(notice);
        }
        Some(notice) if restart_told.as_ref() != Some(&notice.message) => {
            *restart_told = Some(notice.message.clone());
            looked.notices.push(notice);
        }
        _ => {}
    }
    looked.rows.extend(misfits.into_iter().map(|misfit| Row {
        host: misfit.host,
        outcome: HostOutcome::Failed {
            reason: "InvalidManagement",
            message: misfit.message,
        },
        again_in: Duration::from_secs(30),
        ..Row::default()
    }));
    let duplicates = {
        let mut told = session.duplicates.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = round.duplicates.filter(|message| told.as_ref() != Some(message));
        fresh.inspect(|message| *told = Some(message.clone()))
    };
    looked
        .notices
        .extend(duplicates.map(|message| Notice::warning(ACTION, "DuplicateClients", &message)));

    let weighty =
        current.journal != saved.journal || current.patience != saved.patience || current.refused != saved.refused;
    let stale = current.cursors != saved.cursors && now.saturating_sub(*saved_at) >= CURSORS_EVERY_MS;
    if weighty || stale {
        match store.save(&current).await {
            Ok(()) => *saved_at = now,
            Err(error) => {
                // What is in the store may be somebody else's by now: it is read anew.
                tracing::warn!(error = %error, "the journal could not be saved");
                return Ok(looked);
            }
        }
    }
    *memory = Some(current);
    Ok(looked)
}

/// Restarts a host's licensing service when the resource asks for it; noted before, so that it is never done twice.
async fn restart_if_asked(
    session: &Session,
    hosts: &[HostSpec],
    rows: &[Row],
    memory: &mut Memory,
    saving: &Saving<'_>,
    asked: Asked<'_>,
) -> Option<Notice> {
    let managed = hosts.iter().filter(|host| host.mode == Mode::Manage);
    let managed: Vec<&str> = managed.map(|host| host.name.as_str()).collect();
    let decision = restart::decide(asked.restart, &managed, rows, &memory.journal, asked.required);
    let (name, cut_off) = match decision {
        Decision::Nothing => return None,
        Decision::Refuse(why) => return Some(Notice::warning(ACTION, "RestartRefused", &why)),
        Decision::Restart(name) => (name, None),
        Decision::Resume(name) => {
            let phase = memory.journal.restarts.get(&name)?.phase;
            (name, Some(phase))
        }
    };
    let host = hosts.iter().find(|host| host.name == name)?;
    // A password that was refused is not tried here either.
    let is_denied = |row: &&Row| {
        matches!(
            row.outcome,
            HostOutcome::Failed {
                reason: "AccessDenied",
                ..
            }
        )
    };
    if rows.iter().filter(is_denied).any(|row| row.host == name) {
        let why = format!("{name}: it does not let the account in, so the service is left as it is");
        return Some(Notice::warning(ACTION, "RestartRefused", &why));
    }
    if cut_off.is_none() {
        let was_warm = rows
            .iter()
            .any(|row| row.host == name && restart::is_warm(row, asked.required));
        let begun = journal::Restart {
            asked: asked.restart.unwrap_or_default().trim().to_owned(),
            phase: Phase::Begun,
            was_warm,
        };
        memory.journal.restarts.insert(name.clone(), begun);
        if let Err(error) = saving.save(&memory.journal).await {
            memory.journal.restarts.remove(&name);
            let why = format!("{name}: the journal cannot be saved, so the service is not restarted: {error:#}");
            return Some(Notice::warning(ACTION, "RestartRefused", &why));
        }
    }
    let ended = match session.keeper.restart(host, cut_off).await {
        Ok(ended) => ended,
        Err(error) => Ended {
            phase: cut_off.unwrap_or(Phase::Failed),
            problem: Some(error.to_string()),
        },
    };
    memory.journal.restarts.get_mut(&name)?.phase = ended.phase;
    if ended.phase == Phase::Done {
        // What the host took is to be seen now, or is told once more.
        memory.journal.taken.remove(&name);
    }
    if let Err(error) = saving.save(&memory.journal).await {
        tracing::warn!(host = name, error = %error, "the end of a restart could not be saved");
    }
    Some(match (ended.phase, ended.problem) {
        (Phase::Done, _) => {
            let message = format!("{name}: Software Protection was restarted, as the annotation asked");
            Notice::normal(ACTION, "ServiceRestarted", &message)
        }
        (phase, problem) => {
            let what = match phase {
                Phase::Failed => "Software Protection was not restarted",
                _ => "the restart of Software Protection is not ended, and is gone on with",
            };
            let message = format!("{name}: {what}: {}", problem.unwrap_or_default());
            Notice::warning(ACTION, "RestartFailed", &message)
        }
    })
}

/// Events for hosts that stopped or began to answer, compared with what the status said before.
fn transitions(rows: &[Row], after: &[LicensedHostStatus], before: &[LicensedHostStatus]) -> Vec<Notice> {
    let mut notices = Vec::new();
    for row in rows {
        let was = before.iter().find(|before| before.name == row.host);
        let is = after.iter().find(|after| after.name == row.host);
        match &row.outcome {
            HostOutcome::Failed { reason, message } => {
                let told = was
                    .is_some_and(|was| was.message == is.and_then(|is| is.message.clone()) && was.licensed.is_none());
                if !told {
                    notices.push(Notice::warning(ACTION, reason, &format!("{}: {message}", row.host)));
                }
            }
            HostOutcome::Read(_) => {
                if was.is_some_and(|was| was.reachable.is_some() && was.licensed.is_none()) {
                    let message = format!("{} can be read again", row.host);
                    notices.push(Notice::normal(ACTION, "HostReadable", &message));
                }
                if was.is_some_and(|was| was.licensed != Some(true)) && is.is_some_and(|is| is.licensed == Some(true)) {
                    let message = format!("{} carries its products, activated", row.host);
                    notices.push(Notice::normal(ACTION, "HostLicensed", &message));
                }
            }
            HostOutcome::Waiting => {}
        }
    }
    notices
}

fn conditions(outcome: &mut Outcome, spec: &OfficeKmsHostSpec, rows: &[Row], session: &Session) {
    if spec.licensed_hosts.is_none() {
        return;
    }
    if rows.is_empty() {
        let message = "no licensed host has a management section, so that only the relays see it";
        for kind in ["HostsLicensed", "HostsUnequal", "ThresholdMet"] {
            outcome.conditions.push((kind, Verdict::unknown("NotManaged", message)));
        }
        return;
    }
    let mut threshold = threshold_met(rows, required(spec));
    if let Some(clones) = &*session.duplicates.lock().unwrap_or_else(PoisonError::into_inner) {
        threshold.append(clones);
    }
    outcome.conditions.extend([
        ("HostsLicensed", hosts_licensed(rows)),
        ("HostsUnequal", hosts_unequal(rows)),
        ("ThresholdMet", threshold),
    ]);
}

/// What only the ledger knows: distinct clients, and the count of a rehearsal host.
async fn counts_of(ledger: &dyn Ledger, spec: &OfficeKmsHostSpec, now: i64, outcome: &mut Outcome) -> Option<u64> {
    let asked = timeout(LEDGER_PATIENCE, async {
        futures::join!(ledger.routes(Millis(now), Millis(now)), ledger.counts(Millis(now)))
    });
    let (routes, counts) = asked.await.ok()?;
    if spec.rehearsal.is_some()
        && let Ok(counts) = counts
    {
        let required = required(spec);
        let current = counts.iter().map(|count| count.current_count).max().unwrap_or(0);
        outcome.counts = Some(Counts {
            current: i64::from(current),
            required: i64::from(required),
            clients: None,
        });
        let verdict = Verdict::of_count("the rehearsal host", current, required);
        outcome.conditions.push(("ThresholdMet", verdict));
    }
    routes
        .ok()
        .map(|routes| routes.distinct_clients.max(routes.distinct_machines))
}

/// Recognises a change of anything that a visit depends on.
fn mark(host: &HostSpec) -> String {
    let mut parts = vec![
        format!("{host:?}"),
        host.credentials.password.expose_secret().to_owned(),
    ];
    for wanted in &host.wanted {
        parts.extend(wanted.key.as_ref().map(|key| key.expose_secret().to_owned()));
        if let Activation::Phone(Some(typed)) = &wanted.activation {
            parts.push(typed.expose_secret().to_owned());
        }
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    journal::mark(&parts)
}

/// Saves the journal as a part of the memory.
struct Saving<'a> {
    store: &'a dyn Store,
    rest: Memory,
}

impl JournalStore for Saving<'_> {
    fn save<'a>(&'a self, journal: &'a Journal) -> futures::future::BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            let memory = Memory {
                journal: journal.clone(),
                ..self.rest.clone()
            };
            self.store.save(&memory).await
        })
    }
}

#[cfg(test)]
mod tests;
