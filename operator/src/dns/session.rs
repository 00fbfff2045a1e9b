//! What is known of a resource's zones as long as the process lives.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use kms_dns::rfc2136::{ServerAddress, Turn};

use super::input;
use super::settings::ZonePublisher;
use crate::api::WindowsDnsPublisher;
use crate::secrets::Objects;

/// A refused account is not tried again before: Windows locks it after a few tries, and forgets them after half an hour by
/// default.
const AFTER_REFUSED_PASSWORD: SignedDuration = SignedDuration::from_hours(1);
/// Most lists of servers of which it is remembered who answered: more than a resource has zones and places.
const MOST_TURNS: usize = 127;

/// What is known as long as the process lives: accounts that a Windows DNS server refused, and which of several servers
/// answered last.
#[derive(Debug, Default)]
pub struct Session {
    refused: Mutex<BTreeMap<String, Timestamp>>,
    turns: Mutex<Vec<(Vec<ServerAddress>, Turn)>>,
    /// The credentials of the last looks: in a namespace that ends, their Secret may go before the records can.
    credentials: Mutex<Objects>,
}

impl Session {
    /// Keeps credentials, and those of earlier looks of which nothing is left.
    pub(super) fn remember(&self, objects: &Objects) {
        let mut known = self.credentials();
        *known = objects.clone().or_else(&known);
    }

    /// The credentials of the last looks.
    pub(super) fn credentials(&self) -> MutexGuard<'_, Objects> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an account is not tried now.
    pub(super) fn held_back(&self, mark: &str, now: Timestamp) -> Option<String> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let until = refused.get(mark).filter(|until| now < **until)?;
        Some(format!(
            "the server refused this user and password: correct the Secret; the same are not tried before {until:.0}, so \
             that no account is locked"
        ))
    }

    /// Begins with the server that answered last, or behind those that did not.
    pub(super) fn take_turns(&self, publisher: &mut ZonePublisher) {
        let ZonePublisher::Rfc2136 { servers, turn, .. } = publisher else {
            return;
        };
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = turns.iter().find(|(known, _)| known == servers) {
            *turn = known.clone();
            return;
        }
        turns.truncate(MOST_TURNS);
        turns.insert(0, (servers.clone(), turn.clone()));
    }

    /// Notes that a server refused an account.
    pub(super) fn refuse(&self, publisher: &WindowsDnsPublisher, objects: &Objects, now: Timestamp) {
        if let Some(mark) = input::account_mark(publisher, objects) {
            let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
            refused.retain(|_, until| now < *until);
            refused.insert(
                mark,
                now.saturating_add(AFTER_REFUSED_PASSWORD).unwrap_or(Timestamp::MAX),
            );
        }
    }
}
