//! What is said of a resource beside its readiness: replicas, ledger, licensed hosts, zones. Pure.

use super::readiness::look_at_ledger;
use super::{Sight, Verdict, verdict};
use crate::api::OfficeKmsHost;
use crate::conditions::{kind, reason};
use crate::licensing::resource::required;

pub(super) fn available(sight: &Sight) -> Verdict {
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

pub(super) fn ledger(host: &OfficeKmsHost, sight: &Sight) -> Verdict {
    match &sight.outside.replicas {
        Some(replicas) if replicas.answered > 0 => match &replicas.without_ledger {
            None => verdict(kind::LEDGER_READY, Some(true), reason::LEDGER_ANSWERS, ""),
            Some((count, why)) => {
                let mut message = format!(
                    "{count} of {} replicas do not reach the ledger: {why}",
                    replicas.answered
                );
                if !sight.ledger_is_ready() {
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
pub(super) fn answering(host: &OfficeKmsHost, sight: &Sight) -> Option<Verdict> {
    host.spec.licensed_hosts.as_ref()?;
    let replicas = sight.outside.replicas.as_ref().filter(|replicas| replicas.answered > 0);
    let Some(replicas) = replicas else {
        let message = "no replica could be asked through its admin port from here";
        return Some(verdict(kind::HOSTS_ANSWER, None, reason::REPLICAS_NOT_ASKED, message));
    };
    if replicas.silent.is_empty() {
        return Some(verdict(kind::HOSTS_ANSWER, Some(true), reason::EVERY_HOST_ANSWERS, ""));
    }
    let silent = replicas.silent.iter();
    let names: Vec<String> = silent
        .map(|(name, silence)| format!("{name} ({})", silence.address))
        .collect();
    let head = format!("replicas get no answer of {}: ", names.join(", "));
    // What is said of the same hosts stands: how many replicas and which error may be others at each look.
    let mut stored = host.status.iter().flat_map(|status| &status.conditions);
    let stood = stored.find(|condition| condition.type_ == kind::HOSTS_ANSWER && condition.message.starts_with(&head));
    let message = stood.map_or_else(
        || {
            let told = replicas.silent.iter().map(|(name, silence)| {
                let why = silence.why.as_deref().unwrap_or("no answer");
                let (of, answered) = (silence.replicas, replicas.answered);
                format!("{name}, at {of} of {answered} replicas: {why}")
            });
            let told = told.collect::<Vec<_>>().join("; ");
            format!("{head}{told}; is it on, is its KMS port open to the pods, does its service sppsvc run?")
        },
        |stood| stood.message.clone(),
    );
    Some(verdict(kind::HOSTS_ANSWER, Some(false), reason::HOST_SILENT, message))
}

pub(super) fn hosts(host: &OfficeKmsHost, sight: &Sight) -> Vec<Verdict> {
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

pub(super) fn zones(sight: &Sight) -> Vec<Verdict> {
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
