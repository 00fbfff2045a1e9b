//! Rows of `status.licensedHosts` and `status.counts`. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::plan::Plan;
use super::round::{Outcome, Row};
use super::visit::Report;
use crate::api::OfficeKmsHostSpec;
use crate::api::status::{Counts, HostProductStatus, LicensedHostStatus};

/// How often `readAt` moves on while nothing else changes: each move is a write.
const MOVES_ON: SignedDuration = SignedDuration::from_hours(1);
/// Longest message of a row.
const LONGEST: usize = 1024;

/// The rows, in the spec's order. `before` are those of the status, from which a row takes what is not known now.
#[must_use]
pub fn rows(
    spec: &OfficeKmsHostSpec,
    rows: &[Row],
    before: &[LicensedHostStatus],
    now: Timestamp,
) -> Vec<LicensedHostStatus> {
    let hosts = spec.licensed_hosts.iter().flatten();
    hosts
        .map(|host| {
            let before = before.iter().find(|row| row.name == host.name);
            match rows.iter().find(|row| row.host == host.name) {
                Some(row) => one(row, before, now),
                None => LicensedHostStatus {
                    name: host.name.clone(),
                    ..LicensedHostStatus::default()
                },
            }
        })
        .collect()
}

fn one(row: &Row, before: Option<&LicensedHostStatus>, now: Timestamp) -> LicensedHostStatus {
    let mut fresh = match &row.outcome {
        Outcome::Read(report) => LicensedHostStatus {
            message: report
                .message()
                .or_else(|| row.log.clone())
                .map(|message| short(&message)),
            ..read(&row.host, report)
        },
        Outcome::Failed { reason, message } => LicensedHostStatus {
            name: row.host.clone(),
            reachable: Some(answered(reason)),
            message: Some(short(message)),
            // What it showed last is still the best that is known; whether it is so now is not.
            operating_system: before.and_then(|before| before.operating_system.clone()),
            products: before.map(|before| before.products.clone()).unwrap_or_default(),
            read_at: before.and_then(|before| before.read_at.clone()),
            ..LicensedHostStatus::default()
        },
        Outcome::Waiting => return before.cloned().unwrap_or_else(|| named(&row.host)),
    };
    if matches!(row.outcome, Outcome::Read(_)) {
        fresh.read_at = Some(Time(now));
        if let Some(before) = before {
            let still = before.read_at.clone().filter(|at| now.duration_since(at.0) < MOVES_ON);
            let same = LicensedHostStatus {
                read_at: before.read_at.clone(),
                ..fresh.clone()
            };
            if same == *before {
                fresh.read_at = still.or(fresh.read_at);
            }
        }
    }
    fresh
}

fn named(host: &str) -> LicensedHostStatus {
    LicensedHostStatus {
        name: host.to_owned(),
        ..LicensedHostStatus::default()
    }
}

/// Whether a host with such a failure answered at all.
fn answered(reason: &str) -> bool {
    matches!(
        reason,
        "AccessDenied" | "HostRefused" | "UnreadableAnswer" | "CertificateNotTrusted"
    )
}

fn read(host: &str, report: &Report) -> LicensedHostStatus {
    let system = &report.facts.system;
    LicensedHostStatus {
        name: host.to_owned(),
        reachable: Some(true),
        licensed: Some(report.is_licensed()),
        current_count: report.current_count().map(i64::from),
        required_count: report.plans.iter().map(|plan| i64::from(plan.product.required)).max(),
        operating_system: Some(system.caption.chars().take(256).collect()),
        products: report.plans.iter().map(|plan| product(plan, report)).collect(),
        read_at: None,
        message: None,
    }
}

fn product(plan: &Plan, report: &Report) -> HostProductStatus {
    let found = report.facts.product(plan.product);
    HostProductStatus {
        name: plan.product.name.to_owned(),
        step: Some(plan.step.as_str().to_owned()),
        license_status: found.map(|found| found.status.as_str().to_owned()),
        installation_id: plan.installation_id.as_ref().map(|id| id.chars().take(128).collect()),
        message: Some(short(&plan.message)),
    }
}

/// The counts that clients are told: the highest of the hosts that answer.
#[must_use]
pub fn counts(rows: &[Row], required: u32, clients: Option<u64>) -> Counts {
    let current = rows.iter().filter_map(|row| match &row.outcome {
        Outcome::Read(report) => report.current_count(),
        Outcome::Failed { .. } | Outcome::Waiting => None,
    });
    Counts {
        current: current.max().map_or(0, i64::from),
        required: i64::from(required),
        clients: clients.and_then(|clients| i64::try_from(clients).ok()),
    }
}

fn short(message: &str) -> String {
    message.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OfficeKmsHost;
    use crate::licensing::facts::{HostFacts, OperatingSystem};

    fn spec() -> OfficeKmsHostSpec {
        let manifest = "{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {name: kms}, spec: {licensedHosts: \
                        [{name: a, address: a, management: {credentialsSecret: {name: s}}}, {name: b, address: b}]}}";
        serde_saphyr::from_str::<OfficeKmsHost>(manifest).unwrap().spec
    }

    fn row(outcome: Outcome) -> Vec<Row> {
        vec![Row {
            host: "a".into(),
            outcome,
            ..Row::default()
        }]
    }

    fn good() -> Vec<Row> {
        row(Outcome::Read(Box::new(Report {
            facts: HostFacts {
                system: OperatingSystem {
                    caption: "Windows Server 2022".into(),
                    ..OperatingSystem::default()
                },
                ..HostFacts::default()
            },
            ..Report::default()
        })))
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 60 * minute).unwrap()
    }

    #[test]
    fn a_host_that_stays_the_same_costs_a_write_an_hour() {
        let first = rows(&spec(), &good(), &[], at(0));
        assert_eq!(first.len(), 2, "hosts without management have a row too");
        assert_eq!(rows(&spec(), &good(), &first, at(59)), first);
        let later = rows(&spec(), &good(), &first, at(60));
        assert_eq!(later[0].read_at, Some(Time(at(60))));
    }

    #[test]
    fn a_host_that_is_off_keeps_what_it_showed_and_is_not_called_licensed() {
        let first = rows(&spec(), &good(), &[], at(0));
        let off = Outcome::Failed {
            reason: "HostUnreachable",
            message: "it is off".into(),
        };
        let row = &rows(&spec(), &row(off), &first, at(1))[0];
        assert_eq!((row.reachable, row.licensed), (Some(false), None));
        assert_eq!(row.operating_system.as_deref(), Some("Windows Server 2022"));
        assert_eq!(row.read_at, Some(Time(at(0))));
    }
}
