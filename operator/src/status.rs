//! The status of a resource from what was seen of it. Pure: the same sight gives the same status, and a status that is
//! already there is not written again.
//!
//! kstatus: `Reconciling` while the operator is at work, `Stalled` when only people can go on, `Ready` otherwise. `Ready` is
//! about clients being answered as the spec says; whether licensed hosts, ledger and DNS are well is told beside it, since
//! replicas answer without the operator's view of those.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::OfficeKmsHost;
use crate::api::status::{Counts, Endpoint, OfficeKmsHostStatus, Summary};
use crate::build::common::{Component, selector};
use crate::build::redis::DATA;
use crate::build::{self, names};
use crate::conditions::{kind, reason};
use crate::control::facts::{Service, Workload};
use crate::control::outside::{Seen, has_zones};
use crate::licensing::resource::required;
use crate::notice::Notice;

/// What Events say that was being done.
const ACTION: &str = "Reconciling";
/// Before people are called to a managed ledger that is not ready: its volume and its image may take their time.
const LEDGER_STARTS: SignedDuration = SignedDuration::from_mins(10);
/// Longest message of a condition.
const LONGEST: usize = 1024;

/// What keeps a resource from being as its spec says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// One word.
    pub reason: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
    /// Whether only people can end it.
    pub needs_people: bool,
}

/// A workload with its generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The workload's generation.
    pub generation: i64,
    /// How far it is.
    pub workload: Workload,
}

/// What was seen of a resource.
#[derive(Debug, Clone, Default)]
pub struct Sight {
    /// What is in the way, the worst first.
    pub troubles: Vec<Trouble>,
    /// Whether every child is as the present spec wants it.
    pub applied: bool,
    /// The Deployment.
    pub deployment: Option<Running>,
    /// The managed ledger, where there is one.
    pub ledger: Option<Running>,
    /// Whether there is to be a managed ledger.
    pub managed_ledger: bool,
    /// The Service.
    pub service: Option<Service>,
    /// What goes on outside.
    pub outside: Seen,
    /// Whether changes are stopped.
    pub paused: bool,
    /// The Secret with generated keys, if it was seen.
    pub keys: Option<String>,
}

struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

fn verdict(kind: &'static str, status: Option<bool>, reason: &str, message: impl Into<String>) -> Verdict {
    Verdict {
        kind,
        status: match status {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        },
        reason: reason.to_owned(),
        message: message.into().chars().take(LONGEST).collect(),
    }
}

/// The status that `host` should have now.
#[must_use]
pub fn status(host: &OfficeKmsHost, sight: &Sight, now: Timestamp) -> OfficeKmsHostStatus {
    let before = host.status.clone().unwrap_or_default();
    let ready = readiness(host, sight, now);
    let (at_work, stalled) = (!ready.done && !ready.stalled, ready.stalled);
    let mut verdicts = vec![
        verdict(kind::READY, Some(ready.done), ready.reason, ready.message.clone()),
        verdict(
            kind::RECONCILING,
            Some(at_work),
            ready.reason,
            if at_work { ready.message.as_str() } else { "" },
        ),
        verdict(
            kind::STALLED,
            Some(stalled),
            ready.reason,
            if stalled { ready.message.as_str() } else { "" },
        ),
        available(sight),
        ledger(host, sight),
    ];
    verdicts.extend(answering(host, sight));
    verdicts.extend(hosts(host, sight));
    verdicts.extend(zones(sight));
    verdicts.push(match sight.paused {
        true => verdict(
            kind::PAUSED,
            Some(true),
            reason::PAUSED,
            "nothing is changed while the annotation officekms.io/paused is \"true\"",
        ),
        false => verdict(kind::PAUSED, Some(false), reason::NOT_PAUSED, ""),
    });
    let unseen = unseen(host, sight);
    let kept = before
        .conditions
        .iter()
        .filter(|condition| unseen.contains(&condition.type_.as_str()))
        .cloned();
    let mut conditions: Vec<Condition> = kept.collect();
    let generation = match sight.paused && is_behind(host) {
        true => before.observed_generation,
        false => host.metadata.generation,
    };
    for verdict in verdicts {
        if !conditions.iter().any(|kept| kept.type_ == verdict.kind) {
            conditions.push(condition(verdict, &before.conditions, generation, now));
        }
    }
    conditions.sort_by_key(|condition| kind::ALL.iter().position(|kind| *kind == condition.type_));
    let workload = sight.deployment.as_ref().map(|running| &running.workload);
    let selector: Vec<String> = selector(host, Component::Host)
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let counts = match (&sight.outside.licensing, &sight.outside.replicas) {
        (None, None) => before.counts.clone(),
        _ => counts(host, sight),
    };
    let rows = match &sight.outside.licensing {
        Some(outcome) => outcome.rows.clone(),
        None if host.spec.licensed_hosts.is_some() => before.licensed_hosts.clone(),
        None => Vec::new(),
    };
    let dns = sight
        .outside
        .dns
        .as_ref()
        .map_or(before.dns.clone(), |outcome| outcome.rows.clone());
    let mut status = OfficeKmsHostStatus {
        observed_generation: generation,
        conditions,
        replicas: workload.map(|workload| workload.replicas),
        ready_replicas: workload.map(|workload| workload.ready),
        selector: Some(selector.join(",")),
        endpoints: endpoints(sight),
        counts,
        licensed_hosts: rows,
        dns,
        generated_keys: build::secrets::keys(host).and_then(|_| sight.keys.clone().or(before.generated_keys)),
        summary: None,
    };
    status.summary = Some(summary(host, workload, &status));
    status
}

/// Conditions of a resource that this version cannot read, beside those that others gave it.
#[must_use]
pub fn unreadable(before: &[Condition], why: &str, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    let message =
        format!("this operator cannot read the resource: {why}; correct it, or install the CRD of this version");
    let verdicts = [
        verdict(kind::READY, Some(false), reason::INVALID_SPEC, message.as_str()),
        verdict(kind::RECONCILING, Some(false), reason::INVALID_SPEC, ""),
        verdict(kind::STALLED, Some(true), reason::INVALID_SPEC, message.as_str()),
    ];
    let mut conditions: Vec<Condition> = verdicts
        .into_iter()
        .map(|verdict| condition(verdict, before, generation, now))
        .collect();
    let others = before
        .iter()
        .filter(|other| conditions.iter().all(|ours| ours.type_ != other.type_));
    let others: Vec<Condition> = others.cloned().collect();
    conditions.extend(others);
    conditions
}

/// Conditions about what was not looked at yet, since the operator has just started: what stands of them is kept, so that a
/// restart neither writes nor tells anything that did not change.
fn unseen(host: &OfficeKmsHost, sight: &Sight) -> Vec<&'static str> {
    let mut unseen = Vec::new();
    if sight.outside.replicas.is_none() {
        unseen.push(kind::LEDGER_READY);
        unseen.extend(host.spec.licensed_hosts.is_some().then_some(kind::HOSTS_ANSWER));
        unseen.extend(host.spec.rehearsal.is_some().then_some(kind::THRESHOLD_MET));
    }
    if sight.outside.licensing.is_none() && host.spec.licensed_hosts.is_some() {
        unseen.extend([kind::HOSTS_LICENSED, kind::HOSTS_UNEQUAL, kind::THRESHOLD_MET]);
    }
    if sight.outside.dns.is_none() && has_zones(host) {
        unseen.extend([kind::DNS_PUBLISHED, kind::CLIENTS_BYPASS_RELAY]);
    }
    unseen
}

/// Whether the stored status calls people for this reason.
#[must_use]
pub fn is_stalled(host: &OfficeKmsHost, reason: &str) -> bool {
    let conditions = host.status.iter().flat_map(|status| &status.conditions);
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind::STALLED && condition.status == "True" && condition.reason == reason)
}

/// Whether a paused resource was not carried out before the pause: then nobody says that it is as its spec says, and its
/// status is still about the generation before.
fn is_behind(host: &OfficeKmsHost) -> bool {
    let Some(before) = &host.status else { return true };
    let ready = before
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind::READY);
    // Pods may have become ready since; what was in the way of the children still is.
    let carried_out = ready.is_some_and(|ready| {
        ready.status == "True"
            || [
                reason::PROGRESSING,
                reason::REPLICAS_NOT_READY,
                reason::LEDGER_NOT_READY,
                reason::ROLLOUT_STUCK,
                reason::CONFIG_REJECTED,
            ]
            .contains(&ready.reason.as_str())
    });
    before.observed_generation != host.metadata.generation || !carried_out
}

struct Readiness {
    done: bool,
    stalled: bool,
    reason: &'static str,
    message: String,
}

fn readiness(host: &OfficeKmsHost, sight: &Sight, now: Timestamp) -> Readiness {
    let is = |done, stalled, reason, message: String| Readiness {
        done,
        stalled,
        reason,
        message,
    };
    if let Some(first) = sight.troubles.first() {
        let more = match sight.troubles.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        return is(
            false,
            first.needs_people,
            first.reason,
            format!("{}{more}", first.message),
        );
    }
    if host.metadata.deletion_timestamp.is_some() {
        let left = sight
            .outside
            .cleaned
            .as_ref()
            .map(|cleaned| cleaned.left.join("; "))
            .unwrap_or_default();
        return is(
            false,
            false,
            reason::CLEANING_UP,
            format!("DNS records are being taken away {left}"),
        );
    }
    if sight.paused && is_behind(host) {
        return is(
            false,
            false,
            reason::PAUSED,
            "the present spec was not carried out before changes were stopped".to_owned(),
        );
    }
    let Some(running) = &sight.deployment else {
        return is(
            false,
            false,
            reason::PROGRESSING,
            "the Deployment is being made".to_owned(),
        );
    };
    if !sight.applied && !sight.paused {
        return is(
            false,
            false,
            reason::PROGRESSING,
            "children are being applied".to_owned(),
        );
    }
    let workload = &running.workload;
    let stuck = workload
        .stuck
        .as_ref()
        .filter(|_| workload.ready < workload.wanted || workload.updated < workload.wanted);
    if let Some(why) = stuck {
        return is(
            false,
            true,
            reason::ROLLOUT_STUCK,
            format!("the Deployment cannot go on: {why}"),
        );
    }
    let seen = workload.observed_generation >= running.generation;
    if !seen || workload.updated < workload.wanted || workload.ready < workload.wanted {
        let message = format!(
            "{} of {} replicas are ready, {} of the newest revision",
            workload.ready, workload.wanted, workload.updated
        );
        let reason = if seen && workload.updated >= workload.wanted {
            reason::REPLICAS_NOT_READY
        } else {
            reason::PROGRESSING
        };
        return is(false, false, reason, message);
    }
    // Relays answer without it; a rehearsal host does not.
    if !managed_ledger_is_ready(sight) && host.spec.rehearsal.is_some() {
        let message = format!(
            "the managed ledger is not ready, and a rehearsal host needs it: {}",
            look_at_ledger(host)
        );
        let overdue = unready_since(host).is_some_and(|since| now.duration_since(since) >= LEDGER_STARTS);
        return is(false, overdue, reason::LEDGER_NOT_READY, message);
    }
    if let Some(why) = sight.outside.replicas.as_ref().and_then(|seen| seen.reload.as_ref()) {
        let message = format!(
            "a replica cannot take over the changed configuration and goes on with the one before: {why}; give the pods \
             the host image of the operator's version"
        );
        return is(false, true, reason::CONFIG_REJECTED, message);
    }
    if workload.wanted == 0 {
        return is(
            true,
            false,
            reason::SCALED_TO_ZERO,
            "the spec asks for no replica: nobody is answered".to_owned(),
        );
    }
    is(
        true,
        false,
        reason::AS_SPECIFIED,
        format!("{} of {} replicas answer clients", workload.ready, workload.wanted),
    )
}

fn managed_ledger_is_ready(sight: &Sight) -> bool {
    let ready = |ledger: &Running| ledger.workload.ready >= ledger.workload.wanted;
    !sight.managed_ledger || sight.ledger.as_ref().is_some_and(ready)
}

fn look_at_ledger(host: &OfficeKmsHost) -> String {
    let redis = names::redis(host);
    format!("look at the pod {redis}-0, its events and log, and at its volume claim {DATA}-{redis}-0")
}

/// Since when the stored status says that the resource is not ready.
fn unready_since(host: &OfficeKmsHost) -> Option<Timestamp> {
    let mut conditions = host.status.iter().flat_map(|status| &status.conditions);
    let ready = conditions.find(|condition| condition.type_ == kind::READY && condition.status == "False")?;
    Some(ready.last_transition_time.0)
}

fn available(sight: &Sight) -> Verdict {
    let ready = sight.deployment.as_ref().map_or(0, |running| running.workload.ready);
    match ready {
        0 => verdict(
            kind::AVAILABLE,
            Some(false),
            reason::NO_REPLICA,
            "no replica answers clients: look at the pods",
        ),
        _ => verdict(kind::AVAILABLE, Some(true), reason::REPLICAS_READY, ""),
    }
}

fn ledger(host: &OfficeKmsHost, sight: &Sight) -> Verdict {
    match &sight.outside.replicas {
        Some(replicas) if replicas.answered > 0 => match &replicas.without_ledger {
            None => verdict(kind::LEDGER_READY, Some(true), reason::LEDGER_ANSWERS, ""),
            Some((count, why)) => {
                let mut message = format!(
                    "{count} of {} replicas do not reach the ledger: {why}",
                    replicas.answered
                );
                if !managed_ledger_is_ready(sight) {
                    message = format!("{message}; it is not ready: {}", look_at_ledger(host));
                }
                verdict(kind::LEDGER_READY, Some(false), reason::LEDGER_UNREACHABLE, message)
            }
        },
        _ => {
            let message = "no replica could be asked through its admin port from here";
            verdict(kind::LEDGER_READY, None, reason::REPLICAS_NOT_ASKED, message)
        }
    }
}

/// Whether licensed hosts answer on their KMS port, as the replicas find it: WS-Management may well answer without.
fn answering(host: &OfficeKmsHost, sight: &Sight) -> Option<Verdict> {
    host.spec.licensed_hosts.as_ref()?;
    let replicas = sight.outside.replicas.as_ref().filter(|replicas| replicas.answered > 0);
    let Some(replicas) = replicas else {
        let message = "no replica could be asked through its admin port from here";
        return Some(verdict(kind::HOSTS_ANSWER, None, reason::REPLICAS_NOT_ASKED, message));
    };
    if replicas.silent.is_empty() {
        return Some(verdict(kind::HOSTS_ANSWER, Some(true), reason::EVERY_HOST_ANSWERS, ""));
    }
    let told: Vec<String> = replicas
        .silent
        .iter()
        .map(|(name, silence)| {
            let why = silence.why.as_deref().unwrap_or("no answer");
            let (of, answered, address) = (silence.replicas, replicas.answered, &silence.address);
            format!("{name} ({address}) does not answer {of} of {answered} replicas: {why}")
        })
        .collect();
    let message = format!(
        "{}; is it on, is its KMS port open to the pods, does the service sppsvc run?",
        told.join("; ")
    );
    Some(verdict(kind::HOSTS_ANSWER, Some(false), reason::HOST_SILENT, message))
}

fn hosts(host: &OfficeKmsHost, sight: &Sight) -> Vec<Verdict> {
    let of = |(kind, found): &(&'static str, crate::licensing::conditions::Verdict)| {
        verdict(kind, found.status, found.reason, found.message.clone())
    };
    let found = sight.outside.licensing.iter().flat_map(|outcome| &outcome.conditions);
    let mut verdicts: Vec<Verdict> = found.map(of).collect();
    if verdicts.iter().any(|verdict| verdict.kind == kind::THRESHOLD_MET) {
        return verdicts;
    }
    let count = sight.outside.replicas.as_ref().and_then(|replicas| replicas.current);
    match (&host.spec.rehearsal, count) {
        (Some(_), Some(count)) => {
            let found =
                crate::licensing::conditions::Verdict::of_count("the rehearsal host", count, required(&host.spec));
            verdicts.push(verdict(kind::THRESHOLD_MET, found.status, found.reason, found.message));
        }
        (Some(_), None) => {
            let message = "no replica could be asked for its count";
            verdicts.push(verdict(kind::THRESHOLD_MET, None, reason::REPLICAS_NOT_ASKED, message));
        }
        (None, _) => {}
    }
    verdicts
}

fn zones(sight: &Sight) -> Vec<Verdict> {
    let Some(outcome) = &sight.outside.dns else {
        return Vec::new();
    };
    let of = |kind, found: &crate::dns::condition::Verdict| {
        verdict(kind, Some(found.status), found.reason, found.message.clone())
    };
    let published = outcome.published.as_ref().map(|found| of(kind::DNS_PUBLISHED, found));
    let bypassed = outcome
        .bypassed
        .as_ref()
        .map(|found| of(kind::CLIENTS_BYPASS_RELAY, found));
    published.into_iter().chain(bypassed).collect()
}

/// The time of a transition moves only with the status.
fn condition(verdict: Verdict, before: &[Condition], generation: Option<i64>, now: Timestamp) -> Condition {
    let same = before
        .iter()
        .find(|condition| condition.type_ == verdict.kind && condition.status == verdict.status);
    let whole = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Condition {
        type_: verdict.kind.to_owned(),
        status: verdict.status.to_owned(),
        reason: verdict.reason,
        message: verdict.message,
        observed_generation: generation,
        last_transition_time: same.map_or(Time(whole), |condition| condition.last_transition_time.clone()),
    }
}

fn endpoints(sight: &Sight) -> Vec<Endpoint> {
    let Some(service) = &sight.service else {
        return Vec::new();
    };
    let endpoint = |external| {
        move |address: &String| Endpoint {
            address: address.clone(),
            port: service.port,
            external,
        }
    };
    let outer = service.balancer.iter().map(endpoint(true));
    outer
        .chain(service.cluster.iter().map(endpoint(false)))
        .take(16)
        .collect()
}

fn counts(host: &OfficeKmsHost, sight: &Sight) -> Option<Counts> {
    let replicas = sight.outside.replicas.as_ref().filter(|replicas| replicas.answered > 0);
    let clients = replicas
        .and_then(|replicas| replicas.clients)
        .and_then(|clients| i64::try_from(clients).ok());
    if let Some(counts) = sight
        .outside
        .licensing
        .as_ref()
        .and_then(|outcome| outcome.counts.clone())
    {
        return Some(Counts {
            clients: counts.clients.or(clients),
            ..counts
        });
    }
    let replicas = replicas?;
    let current = host.spec.rehearsal.as_ref().and(replicas.current);
    (current.is_some() || clients.is_some()).then(|| Counts {
        current: i64::from(current.unwrap_or_default()),
        required: i64::from(required(&host.spec)),
        clients,
    })
}

fn summary(host: &OfficeKmsHost, workload: Option<&Workload>, status: &OfficeKmsHostStatus) -> Summary {
    let of = |part: usize, whole: usize| (whole > 0).then(|| format!("{part}/{whole}"));
    let licensed = status
        .licensed_hosts
        .iter()
        .filter(|row| row.licensed == Some(true))
        .count();
    let verified = status.dns.iter().filter(|row| row.verified).count();
    let zones = host.spec.dns.as_ref().map_or(0, |dns| dns.zones.len());
    let in_spec = host.spec.licensed_hosts.as_ref().map_or(0, Vec::len);
    let known = status.licensed_hosts.iter().any(|row| row.licensed.is_some());
    Summary {
        replicas: workload.map(|workload| format!("{}/{}", workload.ready, workload.wanted)),
        count: status
            .counts
            .as_ref()
            .map(|counts| format!("{}/{}", counts.current, counts.required)),
        licensed: if known { of(licensed, in_spec) } else { None },
        dns: of(verified, zones),
    }
}

/// Whether the stored status says the same as the wanted one. What others wrote beside ours does not count.
#[must_use]
pub fn is_written(stored: Option<&OfficeKmsHostStatus>, wanted: &OfficeKmsHostStatus) -> bool {
    let Some(stored) = stored else { return false };
    let ours = |condition: &&Condition| kind::ALL.contains(&condition.type_.as_str());
    let find = |type_: &str| stored.conditions.iter().find(|condition| condition.type_ == type_);
    let same_conditions = wanted
        .conditions
        .iter()
        .all(|condition| find(&condition.type_) == Some(condition))
        && stored.conditions.iter().filter(ours).count() == wanted.conditions.len();
    let without = |status: &OfficeKmsHostStatus| OfficeKmsHostStatus {
        conditions: Vec::new(),
        ..status.clone()
    };
    same_conditions && without(stored) == without(wanted)
}

/// Events for what changed between two statuses: only about transitions.
#[must_use]
pub fn notices(before: Option<&OfficeKmsHostStatus>, after: &OfficeKmsHostStatus) -> Vec<Notice> {
    fn find<'a>(status: &'a OfficeKmsHostStatus, type_: &str) -> Option<&'a Condition> {
        status.conditions.iter().find(|condition| condition.type_ == type_)
    }
    let known = |word: &str| reason::ALL.into_iter().find(|known| *known == word);
    let mut notices = Vec::new();
    for (type_, bad) in [
        (kind::READY, "False"),
        (kind::STALLED, "True"),
        (kind::LEDGER_READY, "False"),
        (kind::HOSTS_ANSWER, "False"),
        (kind::PAUSED, "True"),
    ] {
        let was = before.and_then(|before| find(before, type_));
        let Some(is) = find(after, type_) else { continue };
        let Some(word) = known(&is.reason) else { continue };
        let turned = was.map(|was| was.status.as_str()) != Some(is.status.as_str());
        let worse = is.status == bad && was.is_some_and(|was| was.reason != is.reason);
        let good = is.status != bad && is.status != "Unknown";
        match type_ {
            // From nothing to not ready is no news, nor is each step on the way; Stalled tells what is wrong.
            kind::READY if turned && good => notices.push(Notice::normal(ACTION, word, &is.message)),
            kind::READY if turned && was.is_some() => notices.push(Notice::warning(ACTION, word, &is.message)),
            kind::READY => {}
            _ if is.status == bad && (turned || worse) => notices.push(Notice::warning(ACTION, word, &is.message)),
            _ if good && turned && was.is_some_and(|was| was.status == bad) => {
                let message = format!("{type_} is {} again", is.status);
                notices.push(Notice::normal(ACTION, word, &message));
            }
            _ => {}
        }
    }
    notices
}

#[cfg(test)]
mod tests;
