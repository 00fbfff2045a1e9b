//! The DNS of one resource: from its spec, its Service and its status to what is done in its zones, and its new status.
//!
//! What must outlive the operator stands in the status rows. Before anything is published in a place outside of the
//! cluster, that place must stand in the stored status and the finalizer in the stored resource: so whatever happens in
//! between, it is known where records may have to be taken away.
//!
//! ```text
//! 1st look: rows name the places, nothing is published --> stored, finalizer set
//! 2nd look: what was left elsewhere is taken away, then records are published and verified
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kms_dns::dns_endpoint::dns_endpoint;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::candidate::{Candidate, Surroundings};
use super::condition::{Verdict, clients_bypass_relay, dns_published};
use super::input;
use super::presence::Action;
use super::round::{Limits, Report, Task, round};
use super::session::Session;
use super::settings::{Problem, ZonePublisher, duplicates};
use super::target::ServiceFacts;
use super::withdraw::withdraw;
use crate::api::OfficeKmsHost;
use crate::api::status::{PublishedBy, SilentTarget, ZoneStatus};
use crate::notice::Notice;
use crate::secrets::{Objects, ReadSecrets};

/// Finalizer of a resource that has, or is about to have, records outside of the cluster.
pub const FINALIZER: &str = "officekms.io/dns";
/// How long records are tried to be taken away from a place that was left.
const LEFT_LIMIT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// The same where none were ever published, as far as is known: a server's name that was mistyped.
const LEFT_EMPTY_LIMIT: SignedDuration = SignedDuration::from_mins(10);
/// After a look that did not go well.
const SOON: Duration = Duration::from_secs(30);
/// After a look that only noted where records will stand.
const AT_ONCE: Duration = Duration::from_millis(100);
/// Most places that are remembered of a zone.
const MOST_PLACES: usize = 4;
/// Longest message of a row.
const LONGEST: usize = 1024;
/// Longest record, and most records, that a row shows.
const SHOWN: usize = 64;
/// What Events say that was being done.
const ACTION: &str = "Publishing";

/// What came of a look at a resource's zones.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// `status.dns`.
    pub rows: Vec<ZoneStatus>,
    /// `DnsPublished`.
    pub published: Option<Verdict>,
    /// `ClientsBypassRelay`.
    pub bypassed: Option<Verdict>,
    /// Events of Kubernetes.
    pub notices: Vec<Notice>,
    /// DNSEndpoint objects that are to be, without owner references.
    pub endpoints: Vec<Value>,
    /// Names of those that stay as they are, if they are there; others of this resource are to go.
    pub kept_endpoints: BTreeSet<String>,
    /// Whether the resource needs [`FINALIZER`]: records stand outside, or are about to.
    pub finalizer: bool,
    /// When to look again.
    pub again_in: Duration,
}

/// Looks at the zones: takes away what was left elsewhere, publishes, verifies, refreshes. Takes at most twice
/// `limits.zone`, however many zones there are.
pub async fn visit(
    host: &OfficeKmsHost,
    service: Option<&ServiceFacts>,
    secrets: &dyn ReadSecrets,
    session: &Session,
    limits: &Limits,
    now: Timestamp,
) -> Outcome {
    let stored: &[ZoneStatus] = host.status.as_ref().map_or(&[], |status| &status.dns);
    let spec = host.spec.dns.as_ref();
    let objects = Objects::read(secrets, &input::names(spec, stored)).await;
    session.remember(&objects);
    let held = |mark: &str| session.held_back(mark, now);
    let mut candidates = Vec::new();
    if let Some(dns) = spec {
        let around = Surroundings {
            host,
            dns,
            stored,
            service,
            objects: &objects,
            held: &held,
            now,
        };
        let names: Vec<&str> = dns.zones.iter().map(|zone| zone.name.as_str()).collect();
        let mut twice = duplicates(&names);
        let made = (0..)
            .zip(&dns.zones)
            .map(|(index, zone)| Candidate::new((index, zone), twice.remove(&index), &around));
        candidates = join_all(made.collect::<Vec<_>>()).await;
    }
    let gone: Vec<&ZoneStatus> = stored
        .iter()
        .filter(|row| candidates.iter().all(|candidate| candidate.spec.name != row.zone))
        .filter(|row| !row.published_by.is_empty())
        .collect();

    // What is ours elsewhere goes first: seen from there, what is published now could be the same records.
    let mut notices = Vec::new();
    let mut rows = Vec::new();
    let leftovers: Vec<(&str, &PublishedBy)> = candidates
        .iter()
        .flat_map(|candidate| candidate.left.iter().map(|place| (candidate.spec.name.as_str(), place)))
        .chain(
            gone.iter()
                .flat_map(|row| row.published_by.iter().map(|place| (row.zone.as_str(), place))),
        )
        .collect();
    let emptied = withdraw(&leftovers, &objects, session, limits, now).await;
    let mut stuck: BTreeMap<String, (Vec<PublishedBy>, String)> = BTreeMap::new();
    for ((zone, place), emptied) in leftovers.iter().zip(emptied) {
        match emptied {
            Ok(()) => notices.push(Notice::normal(
                ACTION,
                "RecordsTakenAway",
                &format!("{zone}: our records were taken away"),
            )),
            Err(why) => {
                let place = left(zone, place, stored, now);
                let limit = if place.published { LEFT_LIMIT } else { LEFT_EMPTY_LIMIT };
                let since = place.left_since.as_ref().map_or(now, |at| at.0);
                if now.duration_since(since) >= limit {
                    let told = format!("records may stay behind, look for them by hand: {why}");
                    notices.push(Notice::warning(ACTION, "RecordsLeftBehind", &told));
                    continue;
                }
                let entry = stuck.entry((*zone).to_owned()).or_default();
                entry.0.push(place);
                entry.1 = why;
            }
        }
    }
    for row in &gone {
        if let Some((places, why)) = stuck.get(&row.zone).cloned() {
            rows.push(ZoneStatus {
                verified: false,
                published_by: places,
                foreign: Vec::new(),
                message: Some(short(&format!(
                    "it left the spec, and its records could not be taken away: {why}"
                ))),
                ..(*row).clone()
            });
        }
    }

    let finalizer_set = host
        .metadata
        .finalizers
        .as_ref()
        .is_some_and(|all| all.iter().any(|one| one == FINALIZER));
    let mut again_in = spec.map_or(Duration::from_secs(300), |dns| seconds(dns.check_interval_seconds));
    let mut problems = Vec::new();
    let mut tasks = Vec::new();
    let mut waiting = Vec::new();
    let mut endpoints = Vec::new();
    let mut kept_endpoints = BTreeSet::new();
    for mut candidate in candidates {
        let noted = candidate.is_noted() && (candidate.place.is_none() || finalizer_set);
        match candidate.checked.clone() {
            Ok(mut task) => {
                if matches!(task.action, Action::Publish { .. }) && !noted {
                    task.action = Action::Wait {
                        why: "it is noted where records will stand, then they are published".to_owned(),
                    };
                    candidate.notes = true;
                    again_in = AT_ONCE;
                }
                session.take_turns(&mut task.zone.publisher);
                match endpoint(host, &task) {
                    Some(Wanted::So(object)) => endpoints.push(object),
                    Some(Wanted::AsItIs(name)) => _ = kept_endpoints.insert(name),
                    None => {}
                }
                tasks.push(task);
                waiting.push(candidate);
            }
            Err(wrong) => {
                if candidate.spec.dns_endpoint.is_some() {
                    kept_endpoints.insert(endpoint_name(host, &candidate.spec.name));
                }
                rows.push(unusable(candidate, &wrong, &stuck));
                problems.extend(wrong);
            }
        }
    }
    let reports = round(&tasks, limits).await;
    for ((candidate, task), report) in waiting.iter().zip(&tasks).zip(&reports) {
        if report.failure == Some("denied")
            && let Some(publisher) = &candidate.spec.windows_dns
        {
            session.refuse(publisher, &objects, now);
        }
        rows.push(row(candidate, task, report, &stuck, now));
    }
    notices.extend(rows.iter().flat_map(|row| transitions(row, stored)));
    let silent = reports.iter().any(|report| report.failure.is_some());
    if silent || rows.iter().any(|row| !row.verified) || !problems.is_empty() {
        again_in = again_in.min(SOON);
    }
    let finalizer = rows.iter().any(|row| !row.published_by.is_empty());
    Outcome {
        published: Some(published(&problems, &reports, &rows, &stuck)),
        bypassed: Some(clients_bypass_relay(&rows)),
        rows,
        notices,
        endpoints,
        kept_endpoints,
        finalizer,
        again_in,
    }
}

impl Outcome {
    /// Notes that an object for external-dns could not be applied, or none could when no `name` is given.
    pub(super) fn failed_endpoint(&mut self, host: &OfficeKmsHost, name: Option<&str>, why: &str) {
        let concerned = |row: &&mut ZoneStatus| {
            row.publisher.as_deref() == Some("dnsEndpoint")
                && name.is_none_or(|name| endpoint_name(host, &row.zone) == name)
        };
        for row in self.rows.iter_mut().filter(concerned) {
            row.verified = false;
            row.verified_at = None;
            row.message = Some(short(why));
        }
        self.published = Some(Verdict {
            status: false,
            reason: "PublishingFailed",
            message: short(why),
        });
    }
}

/// A place that is left, with since when and what stands there as far as is known.
fn left(zone: &str, place: &PublishedBy, stored: &[ZoneStatus], now: Timestamp) -> PublishedBy {
    if place.left_since.is_some() {
        return place.clone();
    }
    let row = stored.iter().find(|row| row.zone == zone);
    PublishedBy {
        left_since: Some(Time(now)),
        published: place.published || row.is_some_and(|row| row.refreshed_at.is_some()),
        ..place.clone()
    }
}

/// The row of a zone that cannot be published as the spec has it: what stands there stays.
fn unusable(
    candidate: Candidate<'_>,
    wrong: &[Problem],
    stuck: &BTreeMap<String, (Vec<PublishedBy>, String)>,
) -> ZoneStatus {
    let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    let mut row = ZoneStatus {
        zone: candidate.spec.name.clone(),
        verified: false,
        verified_at: None,
        message: Some(short(&told.join("; "))),
        ..candidate.before
    };
    keep_stuck(&mut row, stuck);
    row
}

fn row(
    candidate: &Candidate<'_>,
    task: &Task,
    report: &Report,
    stuck: &BTreeMap<String, (Vec<PublishedBy>, String)>,
    now: Timestamp,
) -> ZoneStatus {
    let before = &candidate.before;
    let (refreshed_at, stands) = match &task.action {
        Action::Publish { refresh } if report.carried_out => {
            let fresh = *refresh || before.refreshed_at.is_none();
            let at = if fresh {
                Some(Time(now))
            } else {
                before.refreshed_at.clone()
            };
            (at, true)
        }
        Action::Withdraw { .. } if report.carried_out => (None, false),
        Action::Publish { .. } | Action::Keep { .. } | Action::Withdraw { .. } => (before.refreshed_at.clone(), true),
        // Where it is noted that records will stand, they may.
        Action::Wait { .. } => {
            let was = candidate.place.is_some() && candidate.is_noted();
            (before.refreshed_at.clone(), candidate.notes || was)
        }
    };
    let place = candidate.place.clone().filter(|_| stands).map(|place| PublishedBy {
        published: report.attempted
            || refreshed_at.is_some()
            || before.published_by.iter().any(|place| place.published),
        ..place
    });
    let foreign = report.foreign.as_ref().map(|records| shown(records));
    let silent = candidate.silent.iter().take(SHOWN).map(|(target, since)| SilentTarget {
        target: target.clone(),
        since: Time(*since),
    });
    let moved_on = refreshed_at != before.refreshed_at;
    let verified_at = match (&before.verified_at, report.verified) {
        (_, false) => None,
        (Some(since), true) if before.verified && !moved_on => Some(since.clone()),
        (_, true) => Some(Time(now)),
    };
    let mut row = ZoneStatus {
        zone: candidate.spec.name.clone(),
        publisher: Some(report.publisher.to_owned()),
        verified: report.verified,
        records: shown(&report.records),
        // As long as nobody looked, what was seen holds.
        foreign: foreign.unwrap_or_else(|| before.foreign.clone()),
        verified_at,
        refreshed_at,
        failing_since: candidate.memory.failing_since.map(Time),
        silent: silent.collect(),
        published_by: place.into_iter().collect(),
        message: Some(short(&report.message)),
    };
    keep_stuck(&mut row, stuck);
    row
}

fn keep_stuck(row: &mut ZoneStatus, stuck: &BTreeMap<String, (Vec<PublishedBy>, String)>) {
    if let Some((places, why)) = stuck.get(&row.zone) {
        row.published_by.extend(places.iter().cloned());
        row.published_by.truncate(MOST_PLACES);
        let message = row.message.take().unwrap_or_default();
        row.message = Some(short(&format!(
            "records left elsewhere could not be taken away: {why}; {message}"
        )));
        row.verified = false;
    }
}

/// What becomes of a DNSEndpoint.
enum Wanted {
    /// It is to be so.
    So(Value),
    /// The one of this name stays as it is.
    AsItIs(String),
}

/// The DNSEndpoint of a zone that external-dns publishes, while records are to stand.
fn endpoint(host: &OfficeKmsHost, task: &Task) -> Option<Wanted> {
    let ZonePublisher::DnsEndpoint { labels } = &task.zone.publisher else {
        return None;
    };
    let name = endpoint_name(host, &task.zone.name.to_string());
    match task.action {
        Action::Publish { .. } => {
            let namespace = host.metadata.namespace.as_deref().unwrap_or_default();
            dns_endpoint(&name, namespace, labels, &task.desired).map(Wanted::So)
        }
        Action::Keep { .. } => Some(Wanted::AsItIs(name)),
        Action::Withdraw { .. } | Action::Wait { .. } => None,
    }
}

/// Name of a zone's DNSEndpoint: the resource's name and a mark of the zone, whose own name can be too long.
fn endpoint_name(host: &OfficeKmsHost, zone: &str) -> String {
    let digest = Sha256::digest(zone.to_ascii_lowercase().as_bytes());
    let mark: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{mark}", host.metadata.name.as_deref().unwrap_or_default())
}

fn published(
    problems: &[Problem],
    reports: &[Report],
    rows: &[ZoneStatus],
    stuck: &BTreeMap<String, (Vec<PublishedBy>, String)>,
) -> Verdict {
    let verdict = dns_published(problems, reports);
    if !verdict.status {
        return verdict;
    }
    if let Some((zone, (_, why))) = stuck.iter().next() {
        return Verdict {
            status: false,
            reason: "RecordsLeftElsewhere",
            message: format!("{zone}: records could not be taken away: {why}"),
        };
    }
    match rows.iter().find(|row| !row.verified) {
        Some(row) => Verdict {
            status: false,
            reason: "NotVerified",
            message: format!("{}: {}", row.zone, row.message.as_deref().unwrap_or_default()),
        },
        None => verdict,
    }
}

/// Events for what changed in a zone.
fn transitions(row: &ZoneStatus, stored: &[ZoneStatus]) -> Vec<Notice> {
    let before = stored.iter().find(|before| before.zone == row.zone);
    let mut notices = Vec::new();
    let was_verified = before.is_some_and(|before| before.verified);
    let message = row.message.as_deref().unwrap_or_default();
    if row.verified && !was_verified {
        let told = format!("{}: {} records stand at every server", row.zone, row.records.len());
        notices.push(Notice::normal(ACTION, "DnsPublished", &told));
    } else if was_verified && !row.verified {
        notices.push(Notice::warning(
            ACTION,
            "DnsNotPublished",
            &format!("{}: {message}", row.zone),
        ));
    }
    let was_silent = before.is_some_and(|before| before.failing_since.is_some());
    if row.failing_since.is_some() && !was_silent {
        let told = format!("{}: {message}", row.zone);
        notices.push(Notice::warning(ACTION, "TargetSilent", &told));
    }
    let known = before.map(|before| before.silent.as_slice()).unwrap_or_default();
    let is_new = |silent: &&SilentTarget| !known.iter().any(|known| known.target == silent.target);
    let new: Vec<&str> = row
        .silent
        .iter()
        .filter(is_new)
        .map(|silent| silent.target.as_str())
        .collect();
    // Where none answers, that was told.
    if !new.is_empty() && row.failing_since.is_none() {
        let told = format!("{}: {} stopped answering: {message}", row.zone, new.join(", "));
        notices.push(Notice::warning(ACTION, "TargetSilent", &told));
    }
    let known = before.map(|before| before.foreign.as_slice()).unwrap_or_default();
    let new: Vec<&str> = row
        .foreign
        .iter()
        .filter(|record| !known.contains(record))
        .map(String::as_str)
        .collect();
    if !new.is_empty() {
        let told = format!("clients may pass by the replicas through {}", new.join(", "));
        notices.push(Notice::warning(ACTION, "ClientsBypassRelay", &told));
    }
    notices
}

/// As many records as a row shows.
fn shown(records: &[String]) -> Vec<String> {
    records.iter().take(SHOWN).map(|record| short(record)).collect()
}

fn seconds(number: i32) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(300))
}

fn short(message: &str) -> String {
    message.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests;
