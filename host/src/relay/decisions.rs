//! What became of each client's last request here: for who asks why a client went where it went.
//!
//! Bounded, in memory, of this replica alone. Split by the pseudonym, so that requests of different clients hardly ever
//! wait for each other.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smallvec::SmallVec;

use crate::ledger::{Millis, Pseudonym};
use crate::routing::{Ended, LastDecision, Reason, TriedHost};

/// Parts of the whole.
const SHARDS: usize = 64;

/// Clients that a part remembers: 65,536 in all, about 10 MB.
const PER_SHARD: usize = 1024;

/// The hosts that a request was decided for, and how it ended at each. Most are answered by the first.
pub(super) type Tried = SmallVec<[(Arc<str>, Ended); 2]>;

/// What became of clients' last requests.
#[derive(Debug)]
pub(super) struct Decisions(Box<[Mutex<Shard>]>);

#[derive(Debug, Default)]
struct Shard {
    last: HashMap<Pseudonym, Last>,
    /// In the order in which they came first.
    known: VecDeque<Pseudonym>,
}

#[derive(Debug)]
struct Last {
    at: Millis,
    reason: Reason,
    tried: Tried,
}

impl Default for Decisions {
    fn default() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }
}

impl Decisions {
    /// Notes what became of a request.
    pub(super) fn note(&self, client: Pseudonym, at: Millis, reason: Reason, tried: Tried) {
        let Some(mut shard) = self.shard(client) else { return };
        let known = shard.last.insert(client, Last { at, reason, tried }).is_some();
        if !known {
            shard.known.push_back(client);
            if shard.known.len() > PER_SHARD
                && let Some(oldest) = shard.known.pop_front()
            {
                shard.last.remove(&oldest);
            }
        }
    }

    /// What became of the client's last request, if that is remembered.
    pub(super) fn last(&self, client: Pseudonym, now: Millis) -> Option<LastDecision> {
        let shard = self.shard(client)?;
        let last = shard.last.get(&client)?;
        let tried = last.tried.iter().map(|(host, ended)| TriedHost {
            host: host.to_string(),
            ended: *ended,
        });
        Some(LastDecision::new(last.at, now, last.reason, tried.collect()))
    }

    fn shard(&self, client: Pseudonym) -> Option<MutexGuard<'_, Shard>> {
        let Pseudonym([first, ..]) = client;
        let shard = self.0.get(usize::from(first) % SHARDS)?;
        Some(shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(n: usize) -> Pseudonym {
        Pseudonym(u128::try_from(n).unwrap().to_le_bytes())
    }

    #[test]
    fn the_last_decision_of_a_client_is_told_with_how_each_host_ended() {
        let decisions = Decisions::default();
        assert_eq!(decisions.last(client(1), Millis(0)), None);
        let tried = |hosts: &[(&str, Ended)]| hosts.iter().map(|(host, ended)| ((*host).into(), *ended)).collect();
        decisions.note(client(1), Millis(0), Reason::NoHost, tried(&[]));
        let after_failure = [("kms-1", Ended::Failed), ("kms-2", Ended::Answered)];
        decisions.note(client(1), Millis(5000), Reason::Sticky, tried(&after_failure));
        decisions.note(client(2), Millis(6000), Reason::FirstTime, tried(&[]));
        let last = decisions.last(client(1), Millis(9000)).unwrap();
        assert_eq!((last.reason, last.seconds_ago), (Reason::Sticky, 4));
        let hosts: Vec<_> = last
            .tried
            .iter()
            .map(|tried| (tried.host.as_str(), tried.ended))
            .collect();
        assert_eq!(hosts, after_failure);
    }

    #[test]
    fn no_more_clients_are_remembered_than_the_bound_allows() {
        let decisions = Decisions::default();
        // All of one part.
        let clients: Vec<_> = (0..2 * PER_SHARD).map(|n| client(n * 256)).collect();
        for client in &clients {
            decisions.note(*client, Millis(0), Reason::Sticky, Tried::new());
            decisions.note(*client, Millis(1), Reason::Sticky, Tried::new());
        }
        let remembered = clients
            .iter()
            .filter(|client| decisions.last(**client, Millis(1)).is_some());
        assert_eq!(remembered.count(), PER_SHARD);
        assert!(decisions.last(*clients.last().unwrap(), Millis(1)).is_some());
    }
}
