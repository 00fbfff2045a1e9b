//! How soon to ask a host again after a failure. Pure.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use wsman::client::Error;

use super::round::Outcome;

/// After a refused password: Windows locks accounts after as few as three wrong tries, and forgets them after half an
/// hour by default.
const AFTER_REFUSED_PASSWORD: Duration = Duration::from_secs(3600);
const FIRST: Duration = Duration::from_secs(15);
const LONGEST: Duration = Duration::from_secs(900);

/// What is remembered about a host's failures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Patience {
    /// Failures in a row.
    pub failures: u32,
    /// Not to be asked before this time, in milliseconds since the epoch.
    pub not_before: i64,
    /// Mark of the credentials that were refused; others may be tried at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Patience {
    /// How long to wait still; none: ask now. New credentials end the wait for refused ones.
    pub fn wait(&self, credentials: &str, now: i64) -> Option<Duration> {
        let refused_others = self.refused.as_deref().is_some_and(|mark| mark != credentials);
        let left = u64::try_from(self.not_before.saturating_sub(now))
            .ok()
            .filter(|&left| left > 0);
        left.filter(|_| !refused_others).map(Duration::from_millis)
    }

    /// Notes a failure; says how long to wait.
    pub fn failed(&mut self, error: &Error, credentials: &str, now: i64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let wait = if error.locks_account() {
            self.refused = Some(credentials.to_owned());
            AFTER_REFUSED_PASSWORD
        } else {
            self.refused = None;
            FIRST
                .saturating_mul(1 << self.failures.saturating_sub(1).min(10))
                .min(LONGEST)
        };
        self.not_before = now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        wait
    }

    /// Notes that another host refused the same account: it is left alone as long.
    pub fn refused_elsewhere(&mut self, credentials: &str, until: i64) {
        self.refused = Some(credentials.to_owned());
        self.not_before = until;
    }

    /// Why the host is left alone, when nothing else is remembered of it.
    pub fn held_back(&self) -> Outcome {
        let until = Timestamp::from_millisecond(self.not_before).unwrap_or(Timestamp::MAX);
        if self.refused.is_some() {
            return Outcome::Failed {
                reason: "AccessDenied",
                message: format!(
                    "this user and password were refused: correct the Secret, and give a host with an account of its own \
                     one of its own; the same are not tried before {until:.0}, so that no account is locked"
                ),
            };
        }
        Outcome::Failed {
            reason: "HostUnreachable",
            message: format!(
                "it failed {} times in a row and is asked again at {until:.0}",
                self.failures
            ),
        }
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Error {
        Error::Unauthorized {
            host: "h:5986".into(),
            user: "u".into(),
            scheme: "NTLM",
        }
    }

    fn off() -> Error {
        Error::Unreachable {
            host: "h:5986".into(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        }
    }

    #[test]
    fn a_refused_password_is_not_tried_again_for_an_hour_unless_it_changes() {
        let mut patience = Patience::default();
        assert_eq!(patience.wait("a", 0), None);
        patience.failed(&refused(), "a", 0);
        assert_eq!(patience.wait("a", 1_000), Some(Duration::from_secs(3599)));
        assert_eq!(patience.wait("b", 1_000), None);
        assert_eq!(patience.wait("a", 3_600_000), None);
    }

    #[test]
    fn other_failures_back_off_up_to_a_quarter_of_an_hour() {
        let mut patience = Patience::default();
        let waits: Vec<u64> = (0..9).map(|_| patience.failed(&off(), "a", 0).as_secs()).collect();
        assert_eq!(waits, [15, 30, 60, 120, 240, 480, 900, 900, 900]);
        patience.succeeded();
        assert_eq!(patience.wait("a", 0), None);
    }
}
