//! One resource: from its spec to its status. Needs no Kubernetes: what it refers to comes from [`ReadSecrets`], what is to
//! outlive the process goes to [`Store`].
//!
//! ```text
//! loop { outcome = visit(&host, &secrets, &session, &store, ledger, Timestamp::now()).await; sleep(outcome.again_in) }
//! ```
//!
//! `kmsctl up` runs exactly that with [`crate::secrets::Objects`] made from the Secrets of the manifest, a
//! [`super::store::FileStore`] or [`super::store::InMemory`], and the ledger that its relays share. The operator runs it in
//! a task for each resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kms_host::ledger::{Ledger, MemoryLedger, Millis};
use secrecy::ExposeSecret as _;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::conditions::{Verdict, hosts_licensed, hosts_unequal, threshold_met};
use super::input::{self, Misfit};
use super::journal::{self, Journal};
use super::plan::{Activation, Step};
use super::restart::{self, Decision};
use super::round::{HostSpec, Keeper, Memory, Outcome as HostOutcome, Row};
use super::status;
use super::store::Store;
use super::visit::{JournalStore, Mode};
use crate::api::status::{Counts, LicensedHostStatus};
use crate::api::{OfficeKmsHost, OfficeKmsHostSpec};
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
    /// When to look again.
    pub again_in: Duration,
}

/// Looks at a resource's licensed hosts: visits those that are due, at most one step each in `mode: Manage`, and says what
/// its status is.
///
/// `ledger` is the one that the resource's replicas share; none when it cannot be reached from here: facts then reach only
/// the status. Calls for one session follow each other.
pub async fn visit(
    host: &OfficeKmsHost,
    secrets: &dyn ReadSecrets,
    session: &Session,
    store: &dyn Store,
    ledger: Option<&dyn Ledger>,
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
    let used = ledger.unwrap_or(&session.own);
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
    let clients = match ledger {
        Some(ledger) => counts_of(ledger, spec, millis, &mut outcome).await,
        None => None,
    };
    if spec.licensed_hosts.is_some() && !looked.rows.is_empty() {
        outcome.counts = Some(status::counts(&looked.rows, required(spec), clients));
    }
    outcome.hosts = looked.rows;
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
    ledger: &dyn Ledger,
    asked: Asked<'_>,
    now: i64,
) -> anyhow::Result<Looked> {
    let mut kept = session.kept.lock().await;
    let Kept {
        memory,
        saved_at,
        hosts: seen,
        restart_told,
    } = &mut *kept;
    let mut current = match memory.take() {
        Some(memory) => memory,
        None => store.load().await?,
    };
    let saved = current.clone();
    let names: BTreeSet<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    session.keeper.keep_only(&names, &mut current);
    seen.retain(|name, _| names.contains(name.as_str()));
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
        if row.outcome == HostOutcome::Waiting {
            let last = seen.remove(&host.name).filter(|seen| seen.mark == mark);
            row.outcome = last.map_or_else(|| held_back(&current, &host.name), |seen| seen.row.outcome);
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
        events: 0,
    }));
    let duplicates = {
        let mut told = session.duplicates.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = round.duplicates.filter(|message| told.as_ref() != Some(message));
        fresh.inspect(|message| *told = Some(message.clone()))
    };
    looked
        .notices
        .extend(duplicates.map(|message| Notice::warning(ACTION, "DuplicateClients", &message)));

    let weighty = current.journal != saved.journal || current.patience != saved.patience;
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
    let (name, resume) = match decision {
        Decision::Nothing => return None,
        Decision::Refuse(why) => return Some(Notice::warning(ACTION, "RestartRefused", &why)),
        Decision::Restart(name) => (name, false),
        Decision::Resume(name) => (name, true),
    };
    let host = hosts.iter().find(|host| host.name == name)?;
    let mut note = async |done| {
        let restart = journal::Restart {
            asked: asked.restart.unwrap_or_default().trim().to_owned(),
            done,
        };
        memory.journal.restarts.insert(name.clone(), restart);
        saving.save(&memory.journal).await
    };
    if let Err(error) = note(false).await {
        let why = format!("{name}: the journal cannot be saved, so the service is not restarted: {error:#}");
        return Some(Notice::warning(ACTION, "RestartRefused", &why));
    }
    if let Err(why) = session.keeper.restart(host, resume).await {
        let why = format!("{name}: the restart of Software Protection did not go well, see that it runs: {why}");
        return Some(Notice::warning(ACTION, "RestartFailed", &why));
    }
    if let Err(error) = note(true).await {
        tracing::warn!(host = name, error = %error, "the end of a restart could not be saved");
    }
    let message = format!("{name}: Software Protection was restarted, as the annotation asked");
    Some(Notice::normal(ACTION, "ServiceRestarted", &message))
}

/// Why a host is left alone when only the journal remembers: after a restart.
fn held_back(memory: &Memory, host: &str) -> HostOutcome {
    let patience = memory.patience.get(host).cloned().unwrap_or_default();
    let until = Timestamp::from_millisecond(patience.not_before).unwrap_or(Timestamp::MAX);
    if patience.refused.is_some() {
        return HostOutcome::Failed {
            reason: "AccessDenied",
            message: format!(
                "the host refused this user and password: correct the Secret; the same are not tried before {until:.0}, so \
                 that no account is locked"
            ),
        };
    }
    HostOutcome::Failed {
        reason: "HostUnreachable",
        message: format!(
            "it failed {} times in a row and is asked again at {until:.0}",
            patience.failures
        ),
    }
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
