//! One visit to a licensed host: read it, decide, do at most one thing, report.

use futures::future::BoxFuture;
use kms_host::ledger::{HostFact, Millis};
use secrecy::{ExposeSecret as _, SecretString};
use wsman::client::{self, Client, Error};
use wsman::hresult::Hresult;

use super::execute::{Action, carry_out};
use super::facts::{HostFacts, LicenseStatus, Product};
use super::journal::{Journal, Kind, Outcome, mark};
use super::observe::{self, ReadError};
use super::phone::confirmation_id;
use super::plan::{Activation, Plan, Reason, Step, Wanted, online_mark, phone_mark, plan};
use super::products::HostProduct;
use super::settings::{self, Setting, WantedSettings};
use crate::client::{Gate, NotLeading};

/// Where the journal is kept. Saving must have reached its store when the future is done.
pub trait JournalStore: Send + Sync {
    /// Saves the journal.
    fn save<'a>(&'a self, journal: &'a Journal) -> BoxFuture<'a, anyhow::Result<()>>;
}

/// What the operator may do on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read only.
    Observe,
    /// Carry out steps.
    Manage,
}

/// What a visit is about.
pub struct Visit<'a> {
    /// The host's name in the spec.
    pub host: &'a str,
    /// How it is reached.
    pub client: &'a Client,
    /// Products that it is to carry.
    pub wanted: &'a [Wanted],
    /// Settings that it is to have.
    pub settings: &'a WantedSettings,
    /// What may be done.
    pub mode: Mode,
    /// Open as long as this process may change anything.
    pub gate: &'a Gate,
    /// Now, in milliseconds since the epoch.
    pub now: i64,
}

/// A change that was carried out, or refused: an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A word for the event's reason: `KeyInstalled`, `Activated`, `Confirmed`, `SettingChanged`, the same with `Refused`,
    /// or that of the plan which follows from how it ended.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// Whether it was refused or its end is unknown.
    pub failed: bool,
}

/// What came of a visit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What the host said, after the change if there was one.
    pub facts: HostFacts,
    /// The plan of each product.
    pub plans: Vec<Plan>,
    /// Settings that differ and are to be changed.
    pub differences: Vec<Setting>,
    /// Settings that differ although the host took them: it shows them when its service starts anew.
    pub after_restart: Vec<Setting>,
    /// What was done.
    pub change: Option<Change>,
}

impl Report {
    /// Whether every wanted product is activated. Where none is named, whether any is.
    pub fn is_licensed(&self) -> bool {
        if self.plans.is_empty() {
            return self.serves();
        }
        self.plans.iter().all(|plan| plan.step == Step::None)
    }

    /// Whether the host answers clients of some wanted product: what else it lacks keeps those clients away, not all.
    pub fn serves(&self) -> bool {
        let licensed = |product: &Product| product.status == LicenseStatus::Licensed;
        if self.plans.is_empty() {
            return self
                .facts
                .products
                .iter()
                .any(|found| found.is_host() && licensed(found));
        }
        let mut found = self.plans.iter().filter_map(|plan| self.facts.product(plan.product));
        found.any(licensed)
    }

    /// Whether the host's count reaches what each wanted product requires.
    pub fn is_warm(&self, required: u32) -> bool {
        if self.plans.is_empty() {
            return self.serves() && self.current_count().is_some_and(|count| count >= required);
        }
        self.plans.iter().all(|plan| {
            let found = self.facts.product(plan.product);
            found.is_some_and(|found| {
                found.status == LicenseStatus::Licensed
                    && found.current_count.is_some_and(|count| count >= plan.product.required)
            })
        })
    }

    /// Highest current count of the products.
    pub fn current_count(&self) -> Option<u32> {
        self.facts
            .products
            .iter()
            .filter_map(|product| product.current_count)
            .max()
    }

    /// The fact for the ledger, and so for the routing.
    pub fn fact(&self, now: i64) -> HostFact {
        HostFact {
            read_at: Millis(now),
            current_count: self.current_count(),
            required_count: self.plans.iter().map(|plan| plan.product.required).max(),
            licensed: Some(self.serves()),
        }
    }

    /// One sentence for the host's row in status: the first product that is not well, or none.
    pub fn message(&self) -> Option<String> {
        let waiting = self
            .plans
            .iter()
            .find(|plan| plan.step != Step::None)
            .map(|plan| plan.message.clone());
        let to_do = || Some(format!("to do: {}", self.differences.first()?.describe()));
        let taken = || {
            let setting = self.after_restart.first()?.describe();
            Some(format!("{setting}: set; {}", settings::AFTER_RESTART))
        };
        waiting.or_else(to_do).or_else(taken)
    }
}

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    /// The host could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The journal could not be saved, so nothing was begun.
    #[error("the journal cannot be saved, so nothing is changed on {host}")]
    Journal {
        /// The host.
        host: String,
        /// What happened.
        #[source]
        source: anyhow::Error,
    },
    /// A change was held back or cut short. What was begun is in the journal, for who leads now.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

/// Visits a host. In `Manage` it carries out one step or one change of a setting; the caller comes again for the next.
///
/// # Errors
/// See [`VisitError`]. A refused step is no error but a [`Change`].
pub async fn visit(visit: &Visit<'_>, journal: &mut Journal, store: &dyn JournalStore) -> Result<Report, VisitError> {
    let products: Vec<&HostProduct> = visit.wanted.iter().map(|wanted| wanted.product).collect();
    let facts = observe::read(visit.client, &products).await?;
    journal.still_differs(visit.host, &settings::differences(visit.settings, &facts.service));
    let report = decide(visit, facts, journal);
    if visit.mode == Mode::Observe {
        return Ok(report);
    }
    let change = match report
        .plans
        .iter()
        .zip(visit.wanted)
        .find(|(plan, _)| plan.step.is_ours())
    {
        Some((plan, wanted)) => step(visit, plan, wanted, &report.facts, journal, store).await?,
        None => set(visit, &report, journal).await?,
    };
    let Some(change) = change else { return Ok(report) };
    // The report shows the host as it is now; if it cannot be read any more, as it was.
    let facts = observe::read(visit.client, &products).await.unwrap_or(report.facts);
    Ok(Report {
        change: Some(change),
        ..decide(visit, facts, journal)
    })
}

fn decide(visit: &Visit<'_>, facts: HostFacts, journal: &Journal) -> Report {
    let plans = visit
        .wanted
        .iter()
        .map(|wanted| plan(visit.host, wanted, &facts, journal, visit.now))
        .collect();
    let (after_restart, differences) = settings::differences(visit.settings, &facts.service)
        .into_iter()
        .partition(|setting| journal.has_taken(visit.host, *setting));
    Report {
        facts,
        plans,
        differences,
        after_restart,
        change: None,
    }
}

async fn step(
    visit: &Visit<'_>,
    plan: &Plan,
    wanted: &Wanted,
    facts: &HostFacts,
    journal: &mut Journal,
    store: &dyn JournalStore,
) -> Result<Option<Change>, VisitError> {
    let product = plan.product;
    let key = wanted.key.as_ref();
    let shown = key.map_or("", |key| key.expose_secret().trim());
    let found = facts.product(product);
    let digits: SecretString;
    let (kind, mark, action) = match (plan.step, &wanted.activation, key, found) {
        (Step::InstallKey, _, Some(key), _) => (Kind::InstallKey, mark(&[shown]), Action::InstallKey(key)),
        (Step::Activate, _, _, Some(found)) => (Kind::Activate, online_mark(shown, found), Action::Activate(found.id)),
        (Step::Confirm, Activation::Phone(Some(typed)), _, Some(found)) => {
            let Ok(read) = confirmation_id(typed.expose_secret()) else {
                return Ok(None);
            };
            let mark = phone_mark(shown, found, &read);
            digits = read.into();
            let installation_id = found.installation_id.as_deref().unwrap_or_default();
            (
                Kind::Confirm,
                mark,
                Action::Confirm {
                    id: found.id,
                    installation_id,
                    confirmation_id: &digits,
                },
            )
        }
        _ => return Ok(None),
    };
    let failed = |source| VisitError::Journal {
        host: visit.host.to_owned(),
        source,
    };
    journal.begin(visit.host, product.licence(), kind, &mark, visit.now);
    store.save(journal).await.map_err(failed)?;
    let carried = carry_out(visit.client, &facts.service.version, &action);
    let outcome = visit.gate.through(carried).await?;
    let ended = outcome.as_ref().map_or_else(ended, |()| Outcome::Done);
    journal.end(visit.host, product.licence(), ended);
    // What was begun is saved; that its end is not costs a wait at most.
    if let Err(error) = store.save(journal).await {
        tracing::warn!(host = visit.host, error = %error, "the end of a step could not be saved");
    }
    Ok(Some(described(visit.host, product, kind, outcome, ended)))
}

/// A code is the answer of the host, or of the service behind it, unless it says that neither was reached or let the account
/// do it; all else leaves the end unknown.
fn ended(error: &Error) -> Outcome {
    if error.kind() == client::Kind::AccessDenied {
        return Outcome::NotReached(Hresult::ACCESS_DENIED.0);
    }
    match error.hresult() {
        Some(code) if code == Hresult::OK || code.is_lost() => Outcome::Unknown,
        Some(code) if code.is_transient() => Outcome::NotReached(code.0),
        Some(code) => Outcome::Refused(code.0),
        None => Outcome::Unknown,
    }
}

fn described(host: &str, product: &HostProduct, kind: Kind, outcome: Result<(), Error>, ended: Outcome) -> Change {
    let title = product.title;
    let (done, refused, what) = match kind {
        Kind::InstallKey => (
            "KeyInstalled",
            "KeyRefused",
            format!("installation of the KMS host key of {title}"),
        ),
        Kind::Activate => ("Activated", "ActivationRefused", format!("activation of {title}")),
        Kind::Confirm => (
            "Confirmed",
            "ConfirmationRefused",
            format!("activation by telephone of {title}"),
        ),
    };
    let error = match outcome {
        Ok(()) => {
            return Change {
                reason: done,
                message: format!("{host}: {what}: done"),
                failed: false,
            };
        }
        Err(error) => error,
    };
    let reason = match ended {
        Outcome::NotReached(code) if Hresult(code) == Hresult::ACCESS_DENIED => Reason::AccessDenied.as_str(),
        Outcome::NotReached(_) => Reason::ServiceUnreachable.as_str(),
        Outcome::Unknown | Outcome::Done => Reason::OutcomeUnknown.as_str(),
        Outcome::Refused(_) => refused,
    };
    Change {
        reason,
        message: format!("{host}: {what}: {error}"),
        failed: true,
    }
}

/// Changes a setting once: what the host takes and does not show waits for a restart, and is not told again each time.
async fn set(visit: &Visit<'_>, report: &Report, journal: &mut Journal) -> Result<Option<Change>, NotLeading> {
    let Some(setting) = report.differences.first().copied() else {
        return Ok(None);
    };
    let what = setting.describe();
    let action = Action::Set(setting);
    let carried = carry_out(visit.client, &report.facts.service.version, &action);
    let outcome = visit.gate.through(carried).await?;
    if outcome.is_ok() {
        journal.took(visit.host, setting);
    }
    Ok(Some(match outcome {
        Ok(()) => Change {
            reason: "SettingChanged",
            message: format!("{}: {what}: done; {}", visit.host, settings::AFTER_RESTART),
            failed: false,
        },
        Err(error) => Change {
            reason: "SettingRefused",
            message: format!("{}: {what}: {error}", visit.host),
            failed: true,
        },
    }))
}

#[cfg(test)]
mod tests;
