//! Restarting a host's licensing service, so that changed settings take effect: only when somebody asks for it by
//! annotation, one host at a time, and never the last one whose count is reached, since a restart can cost a host its count
//! ("Tools to manage volume activation of Office").

use std::time::Duration;

use wsman::client::{Client, Error};
use wsman::hresult::Hresult;
use wsman::names::{CIMV2, Class};

use super::journal::Journal;
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

/// Decides. `managed` are the hosts of mode `Manage`.
#[must_use]
pub fn decide(asked: Option<&str>, managed: &[&str], rows: &[Row], journal: &Journal, required: u32) -> Decision {
    let Some(asked) = asked.map(str::trim).filter(|asked| !asked.is_empty()) else {
        return Decision::Nothing;
    };
    let host = asked.split('@').next().unwrap_or_default();
    match journal.restarts.get(host).filter(|restart| restart.asked == asked) {
        Some(restart) if restart.done => return Decision::Nothing,
        Some(_) => return Decision::Resume(host.to_owned()),
        None => {}
    }
    if !managed.contains(&host) {
        return Decision::Refuse(format!(
            "`{host}` is no licensed host with management.mode Manage: correct the annotation {ANNOTATION}"
        ));
    }
    let warm = |row: &&Row| {
        row.host != host
            && matches!(&row.outcome, Outcome::Read(report) if report.is_licensed()
                && report.current_count().is_some_and(|count| count >= required))
    };
    if !rows.iter().any(|row| warm(&row)) {
        return Decision::Refuse(format!(
            "the service of {host} is not restarted: no other licensed host counts {required} clients now, and a restart \
             can cost {host} its count; restart it at the host if that is accepted"
        ));
    }
    Decision::Restart(host.to_owned())
}

/// Stops the service, if it runs, and starts it.
///
/// # Errors
/// What the host answers.
pub async fn restart(client: &Client) -> Result<(), Error> {
    let class = Class::new(CIMV2, "Win32_Service")?;
    let service = [("Name", SERVICE)];
    let stopped = client.call(&class, &service, "StopService", &[]).await?.return_value;
    if !matches!(stopped, 0 | NOT_ACTIVE | NO_CONTROL) {
        return Err(returned(client, "StopService", stopped));
    }
    start(client).await
}

/// Starts the service, if it does not run.
///
/// # Errors
/// What the host answers.
pub async fn start(client: &Client) -> Result<(), Error> {
    let class = Class::new(CIMV2, "Win32_Service")?;
    let mut left = TRIES;
    loop {
        let started = client
            .call(&class, &[("Name", SERVICE)], "StartService", &[])
            .await?
            .return_value;
        left -= 1;
        match started {
            0 | ALREADY_RUNNING => return Ok(()),
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
            differences: vec![],
            change: None,
        };
        Row {
            host: host.into(),
            outcome: Outcome::Read(Box::new(report)),
            again_in: Duration::ZERO,
            events: 0,
        }
    }

    #[test]
    fn a_restart_is_asked_for_by_name_done_once_and_never_of_the_last_warm_host() {
        let managed = ["a", "b"];
        let decide = |asked, rows: &[Row], journal: &Journal| decide(asked, &managed, rows, journal, 5);
        let (warm, cold) = ([row("a", 5), row("b", 5)], [row("a", 5), row("b", 4)]);
        let none = Journal::default();
        assert_eq!(decide(None, &warm, &none), Decision::Nothing);
        assert_eq!(decide(Some("a@1"), &warm, &none), Decision::Restart("a".into()));
        assert!(matches!(decide(Some("a@1"), &cold, &none), Decision::Refuse(_)));
        assert_eq!(
            decide(Some("b"), &cold, &none),
            Decision::Restart("b".into()),
            "the cold one may"
        );
        assert!(matches!(decide(Some("c"), &warm, &none), Decision::Refuse(_)));
        let with = |done| {
            let restart = Restart {
                asked: "a@1".into(),
                done,
            };
            Journal {
                restarts: [("a".to_owned(), restart)].into(),
                ..Journal::default()
            }
        };
        assert_eq!(decide(Some("a@1"), &warm, &with(true)), Decision::Nothing);
        assert_eq!(decide(Some("a@1"), &warm, &with(false)), Decision::Resume("a".into()));
        assert_eq!(decide(Some("a@2"), &warm, &with(true)), Decision::Restart("a".into()));
    }
}
