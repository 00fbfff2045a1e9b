//! One visit to a licensed host: read it, decide, do at most one thing, report.

use futures::future::BoxFuture;
use kms_host::ledger::{HostFact, Millis};
use secrecy::{ExposeSecret as _, SecretString};
use wsman::client::{Client, Error};
use wsman::hresult::Hresult;

use super::execute::{Action, carry_out};
use super::facts::{HostFacts, LicenseStatus};
use super::journal::{Journal, Kind, Outcome, mark};
use super::observe::{self, ReadError};
use super::phone::confirmation_id;
use super::plan::{Activation, Plan, Step, Wanted, online_mark, phone_mark, plan};
use super::products::HostProduct;
use super::settings::{self, Setting, WantedSettings};

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
    /// Now, in milliseconds since the epoch.
    pub now: i64,
}

/// A change that was carried out, or refused: an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// A word for the event's reason: `KeyInstalled`, `Activated`, `Confirmed`, `SettingChanged`, or with `Refused`.
    pub reason: &'static str,
    /// In words.
    pub message: String,
    /// Whether it was refused or its end is unknown.
    pub failed: bool,
}

/// What came of a visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the host said, after the change if there was one.
    pub facts: HostFacts,
    /// The plan of each product.
    pub plans: Vec<Plan>,
    /// Settings that differ.
    pub differences: Vec<Setting>,
    /// What was done.
    pub change: Option<Change>,
}

impl Report {
    /// Whether every wanted product is activated.
    pub fn is_licensed(&self) -> bool {
        !self.plans.is_empty() && self.plans.iter().all(|plan| plan.step == Step::None)
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
        let required = self.plans.iter().map(|plan| plan.product.required).max();
        let any = self
            .facts
            .products
            .iter()
            .any(|product| product.status == LicenseStatus::Licensed);
        HostFact {
            read_at: Millis(now),
            current_count: self.current_count(),
            required_count: required,
            // A host without products in the spec is judged by what it carries.
            licensed: Some(if self.plans.is_empty() { any } else { self.is_licensed() }),
        }
    }

    /// One sentence for the host's row in status: the first product that is not well, or none.
    pub fn message(&self) -> Option<String> {
        let waiting = self
            .plans
            .iter()
            .find(|plan| plan.step != Step::None)
            .map(|plan| plan.message.clone());
        waiting.or_else(|| {
            self.differences
                .first()
                .map(|setting| format!("to do: {}", setting.describe()))
        })
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
}

/// Visits a host. In `Manage` it carries out one step or one change of a setting; the caller comes again for the next.
///
/// # Errors
/// See [`VisitError`]. A refused step is no error but a [`Change`].
pub async fn visit(visit: &Visit<'_>, journal: &mut Journal, store: &dyn JournalStore) -> Result<Report, VisitError> {
    let products: Vec<&HostProduct> = visit.wanted.iter().map(|wanted| wanted.product).collect();
    let facts = observe::read(visit.client, &products).await?;
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
        None => set(visit, &report).await,
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
    let differences = settings::differences(visit.settings, &facts.service);
    Report {
        facts,
        plans,
        differences,
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
    journal.begin(visit.host, product.name, kind, mark, visit.now);
    store.save(journal).await.map_err(failed)?;
    let outcome = carry_out(visit.client, &facts.service.version, &action).await;
    let ended = match &outcome {
        Ok(()) => Outcome::Done,
        Err(error) => ended(error),
    };
    journal.end(visit.host, product.name, ended);
    // What was begun is saved; that its end is not costs a wait at most.
    if let Err(error) = store.save(journal).await {
        tracing::warn!(host = visit.host, error = %error, "the end of a step could not be saved");
    }
    Ok(Some(described(visit.host, product, kind, outcome)))
}

/// A code of the host is its answer, unless it says "later"; all else leaves the end unknown.
fn ended(error: &Error) -> Outcome {
    match error
        .hresult()
        .or_else(|| error.outcome_unknown().then_some(Hresult::OK))
    {
        Some(Hresult::OK) | None => Outcome::Unknown,
        Some(code) => Outcome::Refused(code.0),
    }
}

fn described(host: &str, product: &HostProduct, kind: Kind, outcome: Result<(), Error>) -> Change {
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
    match outcome {
        Ok(()) => Change {
            reason: done,
            message: format!("{host}: {what}: done"),
            failed: false,
        },
        Err(error) => Change {
            reason: refused,
            message: format!("{host}: {what}: {error}"),
            failed: true,
        },
    }
}

async fn set(visit: &Visit<'_>, report: &Report) -> Option<Change> {
    let setting = *report.differences.first()?;
    let what = setting.describe();
    let outcome = carry_out(visit.client, &report.facts.service.version, &Action::Set(setting)).await;
    Some(match outcome {
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
    })
}

#[cfg(test)]
mod tests;
