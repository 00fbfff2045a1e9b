//! The counting rule of a KMS host, without I/O.
//!
//! A host keeps a table of clients per application. An entry lives 30 days from the client's last request. Only the
//! most recent 2N are kept, N being the largest count that any client of the application required; the table grows
//! with N and never shrinks. The number of entries is the count that the host shows ("Volume Activation Planning
//! Guide"). The Redis scripts follow the same rule; one test suite holds both to it.

use std::collections::{BTreeSet, HashMap};

use super::{Millis, Pseudonym};

/// How long an entry lives after the client's last request: 30 days ("Volume Activation Planning Guide").
pub const ENTRY_LIFE_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// How far a client's clock may be off: 4 hours, beyond which a KMS host answers 0xC004F06C.
pub const CLOCK_TOLERANCE_MS: i64 = 4 * 60 * 60 * 1000;

/// How far from its own time a client's last request may come again and be answered again: a relay asks another host
/// within seconds when an answer is lost, and a client waits no longer.
pub const SENT_AGAIN_WITHIN_MS: i64 = 60 * 1000;

/// The largest N that a ledger takes: bounds the client tables. Published values are 5 and 25.
pub const LARGEST_REQUIRED: u32 = 1000;

/// Entries of a [`ReplayGuard`] at most. When more distinct clients ask within 8 hours, the oldest are forgotten.
pub const GUARDED_CLIENTS: usize = 1_000_000;

/// Clients by when they were last seen: each once, the oldest at hand.
#[derive(Debug, Default)]
pub(super) struct Recency {
    last: HashMap<Pseudonym, i64>,
    order: BTreeSet<(i64, Pseudonym)>,
}

impl Recency {
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }

    /// When `client` was seen last.
    fn last(&self, client: &Pseudonym) -> Option<i64> {
        self.last.get(client).copied()
    }

    /// Notes that `client` was seen at `at`. Says whether that is news: a new client, or later than before.
    pub(super) fn see(&mut self, client: Pseudonym, at: i64) -> bool {
        if let Some(last) = self.last.get_mut(&client) {
            if at <= *last {
                return false;
            }
            self.order.remove(&(*last, client));
            *last = at;
        } else {
            self.last.insert(client, at);
        }
        self.order.insert((at, client));
        true
    }

    /// Takes out the client seen longest ago if that was at or before `until`.
    pub(super) fn pop_until(&mut self, until: i64) -> Option<Pseudonym> {
        let oldest = *self.order.first()?;
        (oldest.0 <= until).then(|| self.pop(oldest))
    }

    /// Takes out the client seen longest ago if there are more than `most`.
    pub(super) fn pop_beyond(&mut self, most: usize) -> Option<Pseudonym> {
        let oldest = *self.order.first()?;
        (self.len() > most).then(|| self.pop(oldest))
    }

    /// Clients seen at or after `since`, oldest first.
    pub(super) fn since(&self, since: i64) -> impl DoubleEndedIterator<Item = (i64, Pseudonym)> {
        self.order.range((since, Pseudonym([0; 16]))..).copied()
    }

    fn pop(&mut self, oldest: (i64, Pseudonym)) -> Pseudonym {
        self.order.remove(&oldest);
        self.last.remove(&oldest.1);
        oldest.1
    }
}

/// The client table of one application.
#[derive(Debug, Default)]
pub struct ClientTable {
    clients: Recency,
    largest_required: u32,
}

impl ClientTable {
    /// Counts a request and returns the current count with it.
    pub fn count(&mut self, client: Pseudonym, required: u32, at: Millis) -> u32 {
        self.largest_required = self.largest_required.max(required.clamp(1, LARGEST_REQUIRED));
        while self.clients.pop_until(at.0.saturating_sub(ENTRY_LIFE_MS)).is_some() {}
        self.clients.see(client, at.0);
        while self.clients.pop_beyond(self.kept()).is_some() {}
        saturated(self.clients.len())
    }

    /// The count at `now`, without a request.
    pub fn current_count(&self, now: Millis) -> u32 {
        saturated(
            self.clients
                .since(now.0.saturating_sub(ENTRY_LIFE_MS).saturating_add(1))
                .count(),
        )
    }

    /// The largest N that any client required; 0 before the first.
    pub fn largest_required(&self) -> u32 {
        self.largest_required
    }

    /// 2N.
    fn kept(&self) -> usize {
        usize::try_from(self.largest_required.saturating_mul(2)).unwrap_or(usize::MAX)
    }
}

/// Refuses requests that are not newer than the last one of the same client. A request time outside the clock
/// tolerance is refused for that alone, so what is older need not be remembered.
#[derive(Debug, Default)]
pub struct ReplayGuard(Recency);

/// What a [`ReplayGuard`] takes a request for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// New.
    New,
    /// The client's last one again, within [`SENT_AGAIN_WITHIN_MS`] of its time.
    SentAgain,
    /// An old one.
    Replayed,
}

impl ReplayGuard {
    /// What a request is that was made at `request_micros` (by the client's clock, in microseconds since the epoch) and
    /// came at `at`. A new one is new no longer afterwards.
    pub fn see(&mut self, client: Pseudonym, request_micros: i64, at: Millis) -> Freshness {
        let forgotten =
            at.0.saturating_sub(CLOCK_TOLERANCE_MS)
                .saturating_mul(1000)
                .saturating_sub(1);
        while self.0.pop_until(forgotten).is_some() {}
        if !self.0.see(client, request_micros) {
            let age = at.0.saturating_mul(1000).abs_diff(request_micros);
            let is_last = self.0.last(&client) == Some(request_micros);
            return if is_last && age <= SENT_AGAIN_WITHIN_MS.unsigned_abs() * 1000 {
                Freshness::SentAgain
            } else {
                Freshness::Replayed
            };
        }
        while self.0.pop_beyond(GUARDED_CLIENTS).is_some() {}
        Freshness::New
    }
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap as Map;

    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 24 * 60 * 60 * 1000;

    fn client(n: u8) -> Pseudonym {
        Pseudonym([n; 16])
    }

    /// The rule as the planning guide words it, over the whole history and without any structure to speed it up.
    fn model(history: &[(u8, u32, i64)]) -> u32 {
        let (mut table, mut largest): (Map<u8, i64>, _) = (Map::new(), 0);
        for &(who, required, at) in history {
            largest = largest.max(required);
            table.retain(|_, last| at - *last < 30 * DAY);
            let last = table.entry(who).or_insert(at);
            *last = at.max(*last);
            let mut by_age: Vec<_> = table.iter().map(|(who, last)| (*last, *who)).collect();
            by_age.sort_unstable();
            by_age.reverse();
            by_age.truncate(2 * largest as usize);
            table = by_age.into_iter().map(|(last, who)| (who, last)).collect();
        }
        u32::try_from(table.len()).unwrap()
    }

    proptest! {
        #[test]
        fn counts_as_the_rule_says(
            requests in prop::collection::vec((0..40u8, prop::sample::select(vec![1u32, 2, 5, 10]), 0..5 * DAY), 1..80),
        ) {
            let (mut table, mut history, mut now) = (ClientTable::default(), Vec::new(), 0);
            for (who, required, later) in requests {
                now += later;
                history.push((who, required, now));
                let count = table.count(client(who), required, Millis(now));
                prop_assert_eq!(count, model(&history));
                prop_assert_eq!(table.current_count(Millis(now)), count);
            }
        }

        #[test]
        fn counts_alike_when_the_clocks_of_replicas_differ(
            requests in prop::collection::vec((0..40u8, 1..6u32, 0..40 * DAY), 1..60),
        ) {
            let mut table = ClientTable::default();
            for upto in 1..=requests.len() {
                let (who, required, at) = requests[upto - 1];
                prop_assert_eq!(table.count(client(who), required, Millis(at)), model(&requests[..upto]));
            }
        }

        #[test]
        fn each_request_is_new_once_and_the_last_one_may_come_again_within_a_minute(
            times in prop::collection::vec((0..3u8, prop::sample::select(vec![-9000, -61, -60, -59, 0, 1, 60, 61, 9000i64])), 1..50),
        ) {
            let mut guard = ReplayGuard::default();
            let mut last: Map<u8, i64> = Map::new();
            for (who, seconds) in times {
                let expected = match last.get(&who) {
                    Some(last) if seconds == *last && seconds.abs() <= 60 => Freshness::SentAgain,
                    Some(last) if seconds <= *last => Freshness::Replayed,
                    _ => Freshness::New,
                };
                prop_assert_eq!(guard.see(client(who), seconds * 1_000_000, Millis(0)), expected);
                if expected == Freshness::New {
                    last.insert(who, seconds);
                }
            }
        }
    }

    #[test]
    fn an_entry_lives_thirty_days_and_no_longer() {
        let mut table = ClientTable::default();
        table.count(client(1), 5, Millis(0));
        assert_eq!(table.current_count(Millis(30 * DAY - 1)), 1);
        assert_eq!(table.current_count(Millis(30 * DAY)), 0);
        assert_eq!(table.count(client(2), 5, Millis(30 * DAY)), 1);
    }

    #[test]
    fn the_table_grows_with_the_largest_n_and_never_shrinks() {
        let mut table = ClientTable::default();
        let counts: Vec<_> = (0..15)
            .map(|n| table.count(client(n), 5, Millis(i64::from(n))))
            .collect();
        assert_eq!(counts.last(), Some(&10));
        assert_eq!(table.count(client(20), 25, Millis(20)), 11);
        let counts: Vec<_> = (30..90)
            .map(|n| table.count(client(n), 5, Millis(i64::from(n))))
            .collect();
        assert_eq!(counts.last(), Some(&50));
    }

    #[test]
    fn the_guard_forgets_what_the_clock_tolerance_refuses_anyway() {
        let mut guard = ReplayGuard::default();
        for n in 0..100 {
            assert_eq!(guard.see(client(n), 0, Millis(0)), Freshness::New);
        }
        let later = CLOCK_TOLERANCE_MS + 1;
        assert_eq!(guard.see(client(200), later * 1000, Millis(later)), Freshness::New);
        assert_eq!(guard.0.len(), 1);
    }
}
