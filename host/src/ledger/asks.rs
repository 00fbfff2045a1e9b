//! How often a client asked within a day: 24 hourly counters in a ring.
//!
//! An address that asks more often than one client would is shared by several behind NAT; routing wants to know. The
//! window is the hour that runs and the 23 before it.

use super::Millis;

const HOUR_MS: i64 = 60 * 60 * 1000;
const HOURS: i64 = 24;

/// Counters of one client. The counter of hour `h` since the epoch lies at `h mod 24`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asks {
    /// The latest hour counted.
    latest: i64,
    counters: [u8; 24],
}

impl Asks {
    /// Before the first request, which comes at `at`.
    pub(super) fn none(at: Millis) -> Self {
        Self {
            latest: at.0.div_euclid(HOUR_MS),
            counters: [0; 24],
        }
    }

    /// Reads what the Redis scripts store: the latest hour (i32, big-endian), then the counters.
    pub(super) fn from_stored(bytes: &[u8; 28]) -> Self {
        let mut asks = Self {
            latest: 0,
            counters: [0; 24],
        };
        if let Some((latest, counters)) = bytes.split_first_chunk() {
            asks.latest = i32::from_be_bytes(*latest).into();
            asks.counters
                .iter_mut()
                .zip(counters)
                .for_each(|(to, from)| *to = *from);
        }
        asks
    }

    pub(super) fn add(&mut self, at: Millis) {
        let hour = at.0.div_euclid(HOUR_MS);
        if hour <= self.latest - HOURS {
            return;
        }
        for passed in (self.latest + 1..=hour).rev().take(self.counters.len()) {
            if let Some(counter) = self.counters.get_mut(slot(passed)) {
                *counter = 0;
            }
        }
        self.latest = self.latest.max(hour);
        if let Some(counter) = self.counters.get_mut(slot(hour)) {
            *counter = counter.saturating_add(1);
        }
    }

    /// Requests within the window that ends with the hour of `now`, saturating. Counts later hours too: the clocks of
    /// replicas differ.
    pub(super) fn today(&self, now: Millis) -> u8 {
        let begin = now.0.div_euclid(HOUR_MS) - HOURS + 1;
        (self.latest - HOURS + 1..=self.latest)
            .filter(|hour| *hour >= begin)
            .filter_map(|hour| self.counters.get(slot(hour)))
            .fold(0, |sum, counter| sum.saturating_add(*counter))
    }
}

fn slot(hour: i64) -> usize {
    usize::try_from(hour.rem_euclid(HOURS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_the_hours_of_a_day(hours in prop::collection::vec(0..80i64, 1..60), now in 0..90i64) {
            let mut asks = Asks::none(Millis(hours[0] * HOUR_MS));
            let (mut latest, mut kept) = (hours[0], Vec::new());
            for hour in &hours {
                asks.add(Millis(hour * HOUR_MS + 17));
                latest = latest.max(*hour);
                kept.push(*hour);
                kept.retain(|hour| *hour > latest - 24);
            }
            let expected = kept.iter().filter(|hour| **hour > now - 24).count();
            prop_assert_eq!(usize::from(asks.today(Millis(now * HOUR_MS))), expected);
        }
    }

    #[test]
    fn saturates() {
        let mut asks = Asks::none(Millis(0));
        (0..1000).for_each(|n| asks.add(Millis(n * HOUR_MS / 500)));
        assert_eq!(asks.today(Millis(HOUR_MS)), 255);
    }
}
