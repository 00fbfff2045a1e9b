//! What to do next for a product on a host: a pure function of what was observed and what is wanted.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use wsman::hresult::Hresult;

use super::facts::{HostFacts, LicenseStatus, Product};
use super::journal::{Attempt, Journal, Kind, Outcome, mark};
use super::phone::{confirmation_id, grouped};
use super::products::{HostProduct, LTSC_2024_CLIENT};
use super::support;

/// After an attempt whose end nobody saw, the host is given this long to show its effect.
const SETTLE_MILLIS: i64 = 10 * 60 * 1000;
/// Longest wait before an attempt that reached nobody is made again.
const LONGEST_WAIT: i64 = 24 * 3600 * 1000;
/// Attempts with one key after which the host did not show "Licensed", before people are asked.
const MOST_TRIES: u32 = 2;

/// A product that a host is to carry.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The product.
    pub product: &'static HostProduct,
    /// Its host key, where the spec names one and it was read.
    pub key: Option<SecretString>,
    /// Whether the spec names a host key, be it read or not.
    pub names_key: bool,
    /// Why a secret that the spec names cannot be had. Until then nothing is done: another key than the one that is meant
    /// could be used up.
    pub missing: Option<String>,
    /// How it is activated.
    pub activation: Activation,
}

/// How a host key is activated.
#[derive(Debug, Clone)]
pub enum Activation {
    /// Over the internet.
    Online,
    /// By telephone, with the confirmation ID once it is there.
    Phone(Option<SecretString>),
}

/// The next step. The words are those of `status.licensedHosts[].products[].step`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Nothing to do.
    None,
    /// Install the Volume License Pack: for people, since a pack is a program that runs on the host.
    InstallPack,
    /// Move to a Windows that can host the product: for people.
    UpgradeSystem,
    /// Install the host key.
    InstallKey,
    /// Activate online.
    Activate,
    /// Deposit the confirmation ID.
    Confirm,
    /// Nothing can go on before somebody changes something.
    Blocked,
}

impl Step {
    /// The word in status, events and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::InstallPack => "InstallPack",
            Self::UpgradeSystem => "UpgradeSystem",
            Self::InstallKey => "InstallKey",
            Self::Activate => "Activate",
            Self::Confirm => "Confirm",
            Self::Blocked => "Blocked",
        }
    }

    /// Whether the operator itself carries it out in `mode: Manage`.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::InstallKey | Self::Activate | Self::Confirm)
    }
}

/// Why that is the next step. One word each, for condition reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Activated.
    Licensed,
    /// The pack is missing.
    PackMissing,
    /// The Windows is too old for the product.
    SystemNotSupported,
    /// No key is installed, and the spec has none.
    KeyNotGiven,
    /// A Secret that the spec names cannot be read.
    SecretMissing,
    /// No key is installed.
    KeyMissing,
    /// Another key than the spec's is installed.
    WrongKey,
    /// The host refused the key.
    KeyRefused,
    /// The account may not do what the step needs.
    AccessDenied,
    /// The host, or Microsoft's service behind it, was not reached by the last attempt.
    ServiceUnreachable,
    /// The key is not activated yet.
    NotActivated,
    /// The key waits for a confirmation ID.
    AwaitingConfirmation,
    /// The confirmation ID in the Secret cannot be one.
    ConfirmationMalformed,
    /// The host refused the confirmation ID.
    ConfirmationRefused,
    /// Microsoft's service refused the activation.
    ActivationRefused,
    /// A step was begun; the host is given time to show its effect.
    Settling,
    /// The step was taken more than once, and the host does not show its effect.
    OutcomeUnknown,
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Licensed => "Licensed",
            Self::PackMissing => "PackMissing",
            Self::SystemNotSupported => "SystemNotSupported",
            Self::KeyNotGiven => "KeyNotGiven",
            Self::SecretMissing => "SecretMissing",
            Self::KeyMissing => "KeyMissing",
            Self::WrongKey => "WrongKey",
            Self::KeyRefused => "KeyRefused",
            Self::AccessDenied => "AccessDenied",
            Self::ServiceUnreachable => "ServiceUnreachable",
            Self::NotActivated => "NotActivated",
            Self::AwaitingConfirmation => "AwaitingConfirmation",
            Self::ConfirmationMalformed => "ConfirmationMalformed",
            Self::ConfirmationRefused => "ConfirmationRefused",
            Self::ActivationRefused => "ActivationRefused",
            Self::Settling => "Settling",
            Self::OutcomeUnknown => "OutcomeUnknown",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was decided for a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The product.
    pub product: &'static HostProduct,
    /// The next step.
    pub step: Step,
    /// Why.
    pub reason: Reason,
    /// In words: what is, and what to do. Never a key.
    pub message: String,
    /// Installation ID in groups, while a telephone is needed.
    pub installation_id: Option<String>,
}

/// Decides the next step of a product on a host.
pub fn plan(host: &str, wanted: &Wanted, facts: &HostFacts, journal: &Journal, now: i64) -> Plan {
    let product = wanted.product;
    let support = support::judge(product, &facts.system);
    let found = facts.product(product);
    let attempts = Attempts {
        all: journal.attempts(host, product.licence()),
        now,
    };
    let (step, reason, mut message) = match (support.unsupported, found) {
        (_, Some(found)) if found.status == LicenseStatus::Licensed && fits(wanted, found) => {
            (Step::None, Reason::Licensed, format!("{} is activated", product.title))
        }
        (Some(unsupported), _) => (Step::UpgradeSystem, Reason::SystemNotSupported, unsupported),
        (None, None) if product.pack.is_some() => {
            (Step::InstallPack, Reason::PackMissing, pack_missing(product, facts))
        }
        (None, _) if wanted.missing.is_some() => {
            let why = wanted.missing.as_deref().unwrap_or_default();
            (
                Step::Blocked,
                Reason::SecretMissing,
                format!("{}: {why}", product.title),
            )
        }
        (None, found) => match found.filter(|found| fits(wanted, found) && found.partial_key.is_some()) {
            Some(keyed) => activate(wanted, keyed, &attempts),
            None => install_key(wanted, found, &attempts),
        },
    };
    for notice in support.notices {
        message.push_str("; ");
        message.push_str(&notice);
    }
    let telephone = matches!(wanted.activation, Activation::Phone(_)) && reason != Reason::Licensed;
    let installation_id = found
        .filter(|_| telephone)
        .and_then(|found| found.installation_id.as_deref())
        .map(grouped);
    Plan {
        product,
        step,
        reason,
        message,
        installation_id,
    }
}

/// Whether the installed key is the wanted one, as far as its last five characters tell. With no key wanted, any fits.
fn fits(wanted: &Wanted, found: &Product) -> bool {
    match (&wanted.key, &found.partial_key) {
        (Some(key), Some(partial)) => last_five(key.expose_secret()).eq_ignore_ascii_case(partial),
        (Some(_), None) => false,
        (None, _) => true,
    }
}

fn last_five(key: &str) -> &str {
    let key = key.trim();
    key.char_indices()
        .rev()
        .nth(4)
        .and_then(|(at, _)| key.get(at..))
        .unwrap_or(key)
}

fn pack_missing(product: &HostProduct, facts: &HostFacts) -> String {
    let client = facts.products.iter().any(|found| found.id == LTSC_2024_CLIENT);
    let trap = if client && product.name == "OfficeLTSC2024" {
        "; the licence 8d368fc1-... that it has is of the Office client, not of the host"
    } else {
        ""
    };
    format!(
        "the Volume License Pack of {} is not installed{trap}: run it on the host ({})",
        product.title,
        product.pack_url().unwrap_or_default()
    )
}

/// The next step, why, and in words.
type Next = (Step, Reason, String);

fn install_key(wanted: &Wanted, found: Option<&Product>, attempts: &Attempts<'_>) -> Next {
    let title = wanted.product.title;
    let Some(key) = &wanted.key else {
        if wanted.names_key {
            let text = format!("no KMS host key of {title} is installed: install the spec's");
            return (Step::InstallKey, Reason::KeyMissing, text);
        }
        let text =
            format!("no KMS host key of {title} is installed: name one in products[].hostKeySecret, or install it");
        return (Step::Blocked, Reason::KeyNotGiven, text);
    };
    let attempt = attempts.of(Kind::InstallKey, &mark(&[key.expose_secret().trim()]));
    if let Some(code) = attempt.and_then(refused) {
        let text = format!(
            "the host refused the KMS host key of {title}: {code}: {}",
            code.advice()
        );
        return (Step::Blocked, Reason::KeyRefused, text);
    }
    if let Some(waiting) = attempt.and_then(|attempt| attempts.held_up(attempt, title)) {
        return waiting;
    }
    match found.and_then(|found| found.partial_key.as_deref()) {
        Some(partial) => {
            let text =
                format!("{title} carries a key that ends in {partial}, another than the spec's: install the spec's");
            (Step::InstallKey, Reason::WrongKey, text)
        }
        None => (
            Step::InstallKey,
            Reason::KeyMissing,
            format!("no KMS host key of {title} is installed: install it"),
        ),
    }
}

fn activate(wanted: &Wanted, found: &Product, attempts: &Attempts<'_>) -> Next {
    let title = wanted.product.title;
    let key = wanted.key.as_ref().map_or("", |key| key.expose_secret().trim());
    match &wanted.activation {
        Activation::Online => {
            let attempt = attempts.of(Kind::Activate, &online_mark(key, found));
            if let Some(code) = attempt.and_then(refused).or_else(|| shown_refusal(found)) {
                let text = format!(
                    "the activation of {title} was refused: {code}: {}; not tried again by itself, since a host key \
                     can be activated only a few times: give another key, or set activation: Phone",
                    code.advice()
                );
                return (Step::Blocked, Reason::ActivationRefused, text);
            }
            if let Some(waiting) = attempt.and_then(|attempt| attempts.held_up(attempt, title)) {
                return waiting;
            }
            let text = format!(
                "{title} has its key and is not activated ({}): activate it",
                state(found)
            );
            (Step::Activate, Reason::NotActivated, text)
        }
        Activation::Phone(None) => {
            let text = format!(
                "{title} waits for its confirmation ID: read the installation ID to Microsoft's Activation Center \
                 (`kmsctl phone`), and put the 48 digits into the Secret of products[].confirmationIdSecret"
            );
            (Step::Blocked, Reason::AwaitingConfirmation, text)
        }
        Activation::Phone(Some(typed)) => {
            let digits = match confirmation_id(typed.expose_secret()) {
                Ok(digits) => digits,
                Err(error) => {
                    return (
                        Step::Blocked,
                        Reason::ConfirmationMalformed,
                        format!("{title}: {error}"),
                    );
                }
            };
            let attempt = attempts.of(Kind::Confirm, &phone_mark(key, found, &digits));
            if let Some(code) = attempt.and_then(refused) {
                let text = format!(
                    "the host refused the confirmation ID of {title}: {code}: {}",
                    code.advice()
                );
                return (Step::Blocked, Reason::ConfirmationRefused, text);
            }
            if let Some(waiting) = attempt.and_then(|attempt| attempts.held_up(attempt, title)) {
                return waiting;
            }
            let text = format!("the confirmation ID of {title} is there: deposit it");
            (Step::Confirm, Reason::NotActivated, text)
        }
    }
}

/// The mark of an online activation: the key, or what the host shows of it.
pub(super) fn online_mark(key: &str, found: &Product) -> String {
    mark(&[key, found.partial_key.as_deref().unwrap_or_default()])
}

/// The mark of an activation by telephone: key, installation ID and confirmation ID.
pub(super) fn phone_mark(key: &str, found: &Product, digits: &str) -> String {
    mark(&[key, found.installation_id.as_deref().unwrap_or_default(), digits])
}

fn refused(attempt: &Attempt) -> Option<Hresult> {
    match attempt.outcome {
        Outcome::Refused(code) => Some(Hresult(code)),
        Outcome::Done | Outcome::Unknown | Outcome::NotReached(_) => None,
    }
}

/// A final refusal that the host itself shows: somebody tried before us, by hand or before our journal was lost.
fn shown_refusal(found: &Product) -> Option<Hresult> {
    Some(Hresult(found.reason)).filter(|code| found.status == LicenseStatus::Notification && code.is_final())
}

/// What was tried before, and what time it is.
struct Attempts<'a> {
    all: &'a [Attempt],
    now: i64,
}

impl<'a> Attempts<'a> {
    fn of(&self, kind: Kind, mark: &str) -> Option<&'a Attempt> {
        self.all
            .iter()
            .find(|attempt| attempt.kind == kind && attempt.mark == mark)
    }

    /// Whether nothing else of its kind was tried since.
    fn is_newest(&self, attempt: &Attempt) -> bool {
        let newest = self.all.iter().rfind(|other| other.kind == attempt.kind);
        newest.is_some_and(|newest| newest.mark == attempt.mark)
    }

    /// Why the same is not done again now, if it is not.
    fn held_up(&self, attempt: &Attempt, title: &str) -> Option<Next> {
        let age = self.now.saturating_sub(attempt.begun_at);
        let what = match attempt.kind {
            Kind::InstallKey => "installation of the key",
            Kind::Activate | Kind::Confirm => "activation",
        };
        if let Outcome::NotReached(code) = attempt.outcome {
            let code = Hresult(code);
            let reason = match code {
                Hresult::ACCESS_DENIED => Reason::AccessDenied,
                _ => Reason::ServiceUnreachable,
            };
            return (age < back_off(attempt.missed)).then(|| {
                let text = format!(
                    "the {what} of {title} did not get through: {code}: {}; it is tried again by itself",
                    code.advice()
                );
                (Step::Blocked, reason, text)
            });
        }
        if age < SETTLE_MILLIS && self.is_newest(attempt) {
            let text = format!("the {what} of {title} was begun and the host is given ten minutes to show it");
            return Some((Step::Blocked, Reason::Settling, text));
        }
        (attempt.tries >= MOST_TRIES).then(|| {
            let text = format!(
                "the {what} of {title} was done {MOST_TRIES} times with the same key and the host does not show it: look \
                 at the host with `kmsctl dlv`, then do it there or give another key"
            );
            (Step::Blocked, Reason::OutcomeUnknown, text)
        })
    }
}

/// Ten minutes after the first attempt that reached nobody, then twice as long each time, up to a day.
fn back_off(missed: u32) -> i64 {
    SETTLE_MILLIS
        .saturating_mul(1 << missed.saturating_sub(1).min(16))
        .min(LONGEST_WAIT)
}

fn state(found: &Product) -> String {
    let days = found.grace_minutes.div_ceil(24 * 60);
    match found.status {
        LicenseStatus::InitialGrace => format!("initial grace period, {days} days left"),
        LicenseStatus::OutOfTolerance => format!("hardware out of tolerance, {days} days left"),
        LicenseStatus::ExtendedGrace => format!("extended grace period, {days} days left"),
        LicenseStatus::NonGenuineGrace => "non-genuine grace period".to_owned(),
        LicenseStatus::Notification => format!("notification: {}", Hresult(found.reason)),
        other => other.as_str().to_lowercase(),
    }
}

#[cfg(test)]
mod tests;
