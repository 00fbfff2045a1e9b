//! What was read from the ledger: totals, facts, and each client's last answer.
//!
//! Last answers are kept in two maps: a large one that is replaced now and then, and a small one of what changed since.
//! A snapshot shares both, so publishing one copies only the small map.

use std::collections::HashMap;
use std::sync::Arc;

use super::decide::LastAnswer;
use crate::ledger::counting::ENTRY_LIFE_MS;
use crate::ledger::{HostFact, HostName, Millis, Pseudonym, RoutesRead};

/// How often everything is read again, not only what changed: what an outage held back was written with its old times.
const FULL_READ_EVERY_MS: i64 = 3600 * 1000;

/// The least time between full reads. One is made early when the ledger knows more clients than were read: another
/// replica wrote what an outage had held back.
const FULL_READ_AGAIN_MS: i64 = 5000;

/// How far before the last read an incremental one begins: batches arrive late and replicas' clocks differ.
const OVERLAP_MS: i64 = 2 * 60 * 1000;

/// Changes that may gather in the small map, at least; beyond that an eighth of the large one.
const SMALL: usize = 1024;

/// A last answer with the host by its position in [`Known::names`].
#[derive(Debug, Clone, Copy)]
struct Answer {
    host: u16,
    warm: bool,
    asks_today: u8,
    at: Millis,
}

type Answers = HashMap<Pseudonym, Answer>;

/// What was read from the ledger.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// When the last read was made.
    pub(super) read_at: Option<Millis>,
    full_read_at: Option<Millis>,
    missing: Missing,
    pub(super) distinct_clients: u64,
    pub(super) distinct_machines: u64,
    pub(super) clients_by_host: Vec<(HostName, u64)>,
    pub(super) facts: Vec<(HostName, HostFact)>,
    names: Vec<HostName>,
    large: Arc<Answers>,
    small: Arc<Answers>,
}

/// Whether the ledger counts clients whose last answers were not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Missing {
    #[default]
    None,
    Some,
    /// Even a full read did not bring them; the next one waits its time.
    EvenAfterFullRead,
}

/// Last answers as a snapshot shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered {
    large: Arc<Answers>,
    small: Arc<Answers>,
    /// The fleet's index of each name.
    hosts: Vec<Option<usize>>,
}

impl Known {
    /// From when on the next read should ask for changes.
    pub(super) fn since(&self, now: Millis) -> Millis {
        let patience = match self.missing {
            Missing::Some => FULL_READ_AGAIN_MS,
            Missing::None | Missing::EvenAfterFullRead => FULL_READ_EVERY_MS,
        };
        match (self.read_at, self.full_read_at) {
            (Some(read), Some(full)) if now.0.saturating_sub(full.0) < patience => {
                Millis(read.0.saturating_sub(OVERLAP_MS))
            }
            _ => Millis(0),
        }
    }

    /// Takes in what a read that was begun at `now` with `since` brought. Keeps `most` clients.
    pub(super) fn absorb(&mut self, read: RoutesRead, since: Millis, now: Millis, most: usize) {
        self.distinct_clients = read.distinct_clients;
        self.distinct_machines = read.distinct_machines;
        self.clients_by_host = read.clients_by_host;
        self.facts = read.facts;
        self.read_at = Some(now);
        let full = since.0 <= 0;
        if full {
            self.full_read_at = Some(now);
            self.names.clear();
            (self.large, self.small) = Default::default();
        }
        let mut changed = Vec::with_capacity(read.changed.len());
        for route in read.changed {
            let Some(host) = self.intern(route.host) else { continue };
            changed.push((
                route.client,
                Answer {
                    host,
                    warm: route.warm,
                    asks_today: route.asks_today,
                    at: route.at,
                },
            ));
        }
        let into = if full { &mut self.large } else { &mut self.small };
        Arc::make_mut(into).extend(changed);
        if full || self.small.len() > SMALL.max(self.large.len() / 8) {
            let large = Arc::make_mut(&mut self.large);
            large.extend(std::mem::take(&mut self.small).iter());
            forget_old(large, now, most);
        }
        let expected = usize::try_from(self.distinct_clients).unwrap_or(usize::MAX).min(most);
        let known = self.large.len()
            + self
                .small
                .keys()
                .filter(|client| !self.large.contains_key(client))
                .count();
        self.missing = match (known < expected, full, self.missing) {
            (false, ..) => Missing::None,
            (true, false, Missing::None | Missing::Some) => Missing::Some,
            (true, ..) => Missing::EvenAfterFullRead,
        };
    }

    /// The last answers, for a fleet whose hosts have these names.
    pub(super) fn answered<'a>(&self, hosts: impl Iterator<Item = &'a str> + Clone) -> Answered {
        let index = |name: &HostName| hosts.clone().position(|host| host == name);
        Answered {
            large: Arc::clone(&self.large),
            small: Arc::clone(&self.small),
            hosts: self.names.iter().map(index).collect(),
        }
    }

    /// The position of a name; none once there are more names than any fleet had hosts in 30 days.
    fn intern(&mut self, name: HostName) -> Option<u16> {
        let at = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        u16::try_from(at).ok()
    }
}

impl Answered {
    /// The client's last answer.
    pub(super) fn last(&self, client: Pseudonym) -> Option<LastAnswer> {
        let answer = self.small.get(&client).or_else(|| self.large.get(&client))?;
        let host = self.hosts.get(usize::from(answer.host)).copied().flatten();
        Some(LastAnswer {
            host,
            at: answer.at,
            warm: answer.warm,
            asks_today: answer.asks_today,
        })
    }

    /// Clients whose last answer is known; those in both maps count twice.
    pub(super) fn len(&self) -> usize {
        self.large.len() + self.small.len()
    }
}

/// Forgets clients that were not answered for 30 days, and beyond `most` those answered longest ago.
fn forget_old(answers: &mut Answers, now: Millis, most: usize) {
    answers.retain(|_, answer| now.0.saturating_sub(answer.at.0) < ENTRY_LIFE_MS);
    if let Some(excess) = answers.len().checked_sub(most).filter(|excess| *excess > 0) {
        let mut ages: Vec<(Millis, Pseudonym)> = answers.iter().map(|(client, answer)| (answer.at, *client)).collect();
        let (_, last, _) = ages.select_nth_unstable(excess - 1);
        let last = *last;
        answers.retain(|client, answer| (answer.at, *client) > last);
    }
}
