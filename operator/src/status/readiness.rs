//! Whether clients are answered as the spec says, whether the operator is at work, or only people can go on. Pure.

use super::Sight;
use crate::api::OfficeKmsHost;
use crate::build::names;
use crate::build::redis::DATA;
use crate::conditions::{kind, reason};

pub(super) struct Readiness {
    pub(super) done: bool,
    pub(super) stalled: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

pub(super) fn readiness(host: &OfficeKmsHost, sight: &Sight) -> Readiness {
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
    if !sight.ledger_is_ready() && host.spec.rehearsal.is_some() {
        let message = format!(
            "the managed ledger is not ready, and a rehearsal host needs it: {}",
            look_at_ledger(host)
        );
        return is(false, sight.ledger_overdue, reason::LEDGER_NOT_READY, message);
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

/// Whether a paused resource was not carried out before the pause: then nobody says that it is as its spec says, and its
/// status is still about the generation before.
pub(super) fn is_behind(host: &OfficeKmsHost) -> bool {
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

pub(super) fn look_at_ledger(host: &OfficeKmsHost) -> String {
    let redis = names::redis(host);
    format!("look at the pod {redis}-0, its events and log, and at its volume claim {DATA}-{redis}-0")
}
