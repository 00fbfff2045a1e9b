//! What zones' reports come to: the conditions `DnsPublished` and `ClientsBypassRelay`.

use super::round::Report;
use super::settings::Problem;
use crate::api::status::ZoneStatus;

/// A condition before Kubernetes' form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is so.
    pub status: bool,
    /// One word.
    pub reason: &'static str,
    /// What is so, or what to do.
    pub message: String,
}

/// Whether every zone's authoritative servers hold the records.
#[must_use]
pub fn dns_published(problems: &[Problem], reports: &[Report]) -> Verdict {
    let verdict = |status, reason, message| Verdict {
        status,
        reason,
        message,
    };
    if !problems.is_empty() {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        return verdict(false, "InvalidSpec", problems.join("; "));
    }
    let failing: Vec<&Report> = reports.iter().filter(|report| !report.verified).collect();
    let Some(first) = failing.first() else {
        let silent: Vec<String> = reports
            .iter()
            .filter(|report| report.failure == Some("silent"))
            .map(|report| format!("{}: {}", report.zone, report.message))
            .collect();
        return match reports.len() {
            _ if !silent.is_empty() => verdict(true, "TargetSilent", silent.join("; ")),
            0 => verdict(true, "NothingToPublish", "the spec names no zone".to_owned()),
            count => verdict(true, "Published", format!("{count} of {count} zones hold the records")),
        };
    };
    let reason = match first.failure {
        Some("waiting") => "WaitingForTarget",
        Some("silent") => "TargetSilent",
        Some("unverified") | None => "NotVerified",
        Some(_) => "PublishingFailed",
    };
    let messages: Vec<String> = failing
        .iter()
        .map(|report| format!("{}: {}", report.zone, report.message))
        .collect();
    verdict(false, reason, messages.join("; "))
}

/// Whether others' records let clients pass by the replicas.
#[must_use]
pub fn clients_bypass_relay(rows: &[ZoneStatus]) -> Verdict {
    let foreign: Vec<&str> = rows
        .iter()
        .flat_map(|row| row.foreign.iter().map(String::as_str))
        .collect();
    if foreign.is_empty() {
        return Verdict {
            status: false,
            reason: "OnlyOurRecords",
            message: "no zone has SRV records of others".to_owned(),
        };
    }
    Verdict {
        status: true,
        reason: "ForeignRecords",
        message: format!(
            "clients may use {}; turn DNS publishing off on these hosts, or list their targets in removeForeign",
            foreign.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(zone: &str, failure: Option<&'static str>) -> Report {
        Report {
            zone: zone.into(),
            verified: failure.is_none(),
            failure,
            message: "why".into(),
            ..Report::default()
        }
    }

    #[test]
    fn the_condition_names_the_zones_that_fail_and_the_fields_that_are_wrong() {
        assert_eq!(dns_published(&[], &[report("a", None)]).reason, "Published");
        let failing = dns_published(&[], &[report("a", None), report("b", Some("badkey"))]);
        assert_eq!(
            (failing.status, failing.reason, failing.message.as_str()),
            (false, "PublishingFailed", "b: why")
        );
        assert_eq!(
            dns_published(&[], &[report("a", Some("waiting"))]).reason,
            "WaitingForTarget"
        );
        let mut silent = report("a", Some("silent"));
        silent.verified = true;
        let kept = dns_published(&[], &[silent]);
        assert_eq!((kept.status, kept.reason), (true, "TargetSilent"), "they still stand");
        let problem = Problem {
            path: "spec.dns.zones[0].name".into(),
            message: "is none".into(),
        };
        let invalid = dns_published(&[problem], &[]);
        assert_eq!(
            (invalid.reason, invalid.message.as_str()),
            ("InvalidSpec", "spec.dns.zones[0].name: is none")
        );
    }

    #[test]
    fn foreign_records_are_named() {
        let mut with = ZoneStatus::default();
        assert!(!clients_bypass_relay(std::slice::from_ref(&with)).status);
        with.foreign = vec!["_vlmcs._tcp.a. IN SRV 0 0 1688 dc1.a.".into()];
        let verdict = clients_bypass_relay(&[with]);
        assert!(verdict.status && verdict.message.contains("dc1.a."), "{verdict:?}");
    }
}
