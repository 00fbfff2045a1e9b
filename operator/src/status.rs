//! The status of a resource from what was seen of it. Pure: the same sight gives the same status, and a status that is
//! already there is not written again.
//!
//! kstatus: `Reconciling` while the operator is at work, `Stalled` when only people can go on, `Ready` otherwise. `Ready` is
//! about clients being answered as the spec says; whether licensed hosts, ledger and DNS are well is told beside it, since
//! replicas answer without the operator's view of those.

mod notices;
mod readiness;
mod verdicts;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::api::OfficeKmsHost;
use crate::api::status::{Counts, Endpoint, OfficeKmsHostStatus, Summary};
use crate::build::common::{Component, selector};
use crate::conditions::{kind, reason};
use crate::control::facts::{Service, Workload};
use crate::control::outside::{Seen, has_zones};
use crate::licensing::resource::required;

pub use notices::notices;
use readiness::{is_behind, readiness};
use verdicts::{answering, available, hosts, ledger, zones};

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
    /// Whether people are to be called to it, since it has not been ready for long.
    pub ledger_overdue: bool,
    /// The Service.
    pub service: Option<Service>,
    /// What goes on outside.
    pub outside: Seen,
    /// Whether changes are stopped.
    pub paused: bool,
    /// The Secret with generated keys, if it was seen.
    pub keys: Option<String>,
}

impl Sight {
    /// Whether the managed ledger is ready, where there is to be one.
    #[must_use]
    pub fn ledger_is_ready(&self) -> bool {
        let ready = |ledger: &Running| ledger.workload.ready >= ledger.workload.wanted;
        !self.managed_ledger || self.ledger.as_ref().is_some_and(ready)
    }
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
    let ready = readiness(host, sight);
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
        // Also while the spec names keys of its own: those that were generated may still open what was recorded.
        generated_keys: sight.keys.clone().or(before.generated_keys),
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

#[cfg(test)]
mod tests;
