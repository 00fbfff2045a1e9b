//! Restarting a host's licensing service, so that changed settings take effect: only when somebody asks for it by
//! annotation, one host at a time, and never the last one whose count is reached, since a restart can cost a host its count
//! ("Tools to manage volume activation of Office").

use std::time::Duration;

use wsman::client::{Client, Error};
use wsman::hresult::Hresult;
use wsman::names::{CIMV2, Class};

use super::journal::{Journal, Phase};
use super::round::{Outcome, Row};

/// Annotation that asks for a restart: `HOST` or `HOST@ANYTHING`. Each new value is one restart.
pub const ANNOTATION: &str = "officekms.io/restart-software-protection";
/// The service ("Software Protection").
const SERVICE: &str = "sppsvc";
/// `Win32_Service.StopService` of a service that does not run, and `StartService` of one that does ("StartService method of
/// the Win32_Service class").
const NOT_ACTIVE: u32 = 6;
const NO_CONTROL: u32 = 5;
const ALREADY_RUNNING: u32 = 10;
/// How often starting is tried: stopping takes a service a while.
const TRIES: u32 = 15;

/// What is to be done about an annotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: there is none, or it was done.
    Nothing,
    /// Restart this host's service.
    Restart(String),
    /// It was cut off: see that the service runs.
    Resume(String),
    /// It is not done, and why.
    Refuse(String),
}

/// Decides. `managed` are the hosts of mode `Manage`; `required` is the count of a host for which no product is named.
#[must_use]
pub fn decide(asked: Option<&str>, managed: &[&str], rows: &[Row], journal: &Journal, required: u32) -> Decision {
    // What was begun is ended first, whatever the annotation says by now: the service may stand still.
    let cut_off = journal
        .restarts
        .iter()
        .find(|(host, restart)| restart.phase.is_unfinished() && managed.contains(&host.as_str()));
    if let Some((host, _)) = cut_off {
        return Decision::Resume(host.clone());
    }
    let Some(asked) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else {
        return Decision::Nothing;
    };
    let host = asked.split('@').next().unwrap_or_default();
    if !managed.contains(&host) {
        return Decision::Refuse(format!(
            "`{host}` is no licensed host with management.mode Manage: correct the annotation {ANNOTATION}"
        ));
    }
    if journal.restarts.get(host).is_some_and(|restart| restart.asked == asked) {
        return Decision::Nothing;
    }
    let warms = rows.iter().find(|row| {
        let restart = journal.restarts.get(&row.host);
        row.host != host && restart.is_some_and(|restart| restart.was_warm) && !is_warm(row, required)
    });
    if let Some(other) = warms {
        return Decision::Refuse(format!(
            "the service of {host} is not restarted before {}, which was restarted, has its count back",
            other.host
        ));
    }
    if !rows.iter().any(|row| row.host != host && is_warm(row, required)) {
        return Decision::Refuse(format!(
            "the service of {host} is not restarted: no other licensed host counts enough clients of its products now, and \
             a restart can cost {host} its count; restart it at the host if that is accepted"
        ));
    }
    Decision::Restart(host.to_owned())
}

/// Whether a host counts enough clients of its products.
pub(super) fn is_warm(row: &Row, required: u32) -> bool {
    matches!(&row.outcome, Outcome::Read(report) if report.is_warm(required))
}

/// How far a restart came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How far.
    pub phase: Phase,
    /// What stood in its way.
    pub problem: Option<String>,
}

impl Ended {
    fn at(phase: Phase, problem: &impl ToString) -> Self {
        Self {
            phase,
            problem: Some(problem.to_string()),
        }
    }
}

/// Stops the service, if it runs, and starts it.
pub async fn restart(client: &Client) -> Ended {
    match stop(client).await {
        Ok(()) => resume(client, Phase::Stopped).await,
        Err(error) if error.outcome_unknown() => Ended::at(Phase::Begun, &error),
        Err(error) => Ended::at(Phase::Failed, &error),
    }
}

/// Goes on with a restart that was cut off: sees that the service runs.
pub async fn resume(client: &Client, phase: Phase) -> Ended {
    match start(client).await {
        Ok(ALREADY_RUNNING) if phase != Phase::Stopped => Ended::at(
            Phase::Failed,
            &"it runs, and whether it was stopped before is not known: give the annotation a new value to try again",
        ),
        Ok(_) => Ended {
            phase: Phase::Done,
            problem: None,
        },
        Err(error) => Ended::at(phase, &error),
    }
}

async fn stop(client: &Client) -> Result<(), Error> {
    let class = Class::new(CIMV2, "Win32_Service")?;
    let stopped = client.call(&class, &[("Name", SERVICE)], "StopService", &[]).await?;
    match stopped.return_value {
        0 | NOT_ACTIVE | NO_CONTROL => Ok(()),
        code => Err(returned(client, "StopService", code)),
    }
}

/// Starts the service, if it does not run; gives 0 or [`ALREADY_RUNNING`].
async fn start(client: &Client) -> Result<u32, Error> {
    let class = Class::new(CIMV2, "Win32_Service")?;
    let mut left = TRIES;
    loop {
        let started = client
            .call(&class, &[("Name", SERVICE)], "StartService", &[])
            .await?
            .return_value;
        left -= 1;
        match started {
            0 | ALREADY_RUNNING => return Ok(started),
            code if left == 0 => return Err(returned(client, "StartService", code)),
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
}

fn returned(client: &Client, operation: &str, code: u32) -> Error {
    Error::Returned {
        host: client.host(),
        operation: operation.to_owned(),
        code: Hresult(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::licensing::facts::{HostFacts, LicenseStatus, Product};
    use crate::licensing::journal::Restart;
    use crate::licensing::plan::{Plan, Reason, Step};
    use crate::licensing::products::HostProduct;
    use crate::licensing::visit::Report;

    fn row(host: &str, count: u32) -> Row {
        let product = HostProduct::named("Office2016").unwrap();
        let report = Report {
            facts: HostFacts {
                products: vec![Product {
                    id: product.id.unwrap(),
                    status: LicenseStatus::Licensed,
                    current_count: Some(count),
                    ..Product::default()
                }],
                ..HostFacts::default()
            },
            plans: vec![Plan {
                product,
                step: Step::None,
                reason: Reason::Licensed,
                message: String::new(),
                installation_id: None,
            }],
            ..Report::default()
        };
        Row {
            host: host.into(),
            outcome: Outcome::Read(Box::new(report)),
            ..Row::default()
        }
    }

    fn after(host: &str, phase: Phase) -> Journal {
        let restart = Restart {
            asked: format!("{host}@1"),
            phase,
            was_warm: true,
        };
        Journal {
            restarts: [(host.to_owned(), restart)].into(),
            ..Journal::default()
        }
    }

    fn decided(asked: Option<&str>, rows: &[Row], journal: &Journal) -> Decision {
        decide(asked, &["a", "b", "c"], rows, journal, 5)
    }

    #[test]
    fn a_restart_is_asked_for_by_name_done_once_and_never_of_the_last_warm_host() {
        let (warm, cold) = ([row("a", 5), row("b", 5)], [row("a", 5), row("b", 4)]);
        let none = Journal::default();
        assert_eq!(decided(None, &warm, &none), Decision::Nothing);
        assert_eq!(decided(Some("a@1"), &warm, &none), Decision::Restart("a".into()));
        assert!(matches!(decided(Some("a@1"), &cold, &none), Decision::Refuse(_)));
        assert_eq!(
            decided(Some("b"), &cold, &none),
            Decision::Restart("b".into()),
            "the cold one may"
        );
        assert!(matches!(decided(Some("d"), &warm, &none), Decision::Refuse(_)));
        for ended in [Phase::Done, Phase::Failed] {
            assert_eq!(decided(Some("a@1"), &warm, &after("a", ended)), Decision::Nothing);
        }
        assert_eq!(
            decided(Some("a@2"), &warm, &after("a", Phase::Done)),
            Decision::Restart("a".into())
        );
    }

    #[test]
    fn what_was_cut_off_is_ended_first_and_only_where_the_host_is_still_managed() {
        let warm = [row("a", 5), row("b", 5)];
        for phase in [Phase::Begun, Phase::Stopped] {
            for asked in [Some("a@1"), Some("b@1"), None] {
                assert_eq!(decided(asked, &warm, &after("a", phase)), Decision::Resume("a".into()));
            }
            let observed = decide(Some("a@1"), &["b"], &warm, &after("a", phase), 5);
            assert!(matches!(observed, Decision::Refuse(_)), "{observed:?}");
        }
    }

    #[test]
    fn a_host_waits_until_the_one_before_has_its_count_back() {
        let journal = after("a", Phase::Done);
        let warming = [row("a", 0), row("b", 5), row("c", 5)];
        let Decision::Refuse(why) = decided(Some("b"), &warming, &journal) else {
            panic!("refused")
        };
        assert!(
            why.contains("before a, which was restarted, has its count back"),
            "{why}"
        );
        let warm = [row("a", 5), row("b", 5), row("c", 5)];
        assert_eq!(decided(Some("b"), &warm, &journal), Decision::Restart("b".into()));
    }
}
