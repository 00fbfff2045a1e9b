//! Who may lead. Pure.

use std::time::{Duration, Instant};

use crate::client::UNACKNOWLEDGED;

/// Times of an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a lease holds that is not renewed.
    pub lease: Duration,
    /// How long after asking for a renewal a leader may act.
    pub renew_deadline: Duration,
    /// Between attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// Those of Kubernetes' own controllers.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Whether a leader that is cut off surely ends before its lease can be taken, and has more than one attempt.
    #[must_use]
    pub fn is_safe(&self) -> bool {
        self.renew_deadline + UNACKNOWLEDGED < self.lease
            && self.retry * 2 <= self.renew_deadline
            && !self.retry.is_zero()
            && self.lease.subsec_nanos() == 0
    }
}

/// What a lease says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Who holds it; empty when nobody does.
    pub holder: String,
    /// Changes with each renewal.
    pub version: String,
    /// How long it holds.
    pub duration: Duration,
    /// How often it changed hands.
    pub transitions: i32,
}

/// The lease as this process saw it.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    /// Notes what the lease says now.
    pub fn update(&mut self, record: &Record, now: Instant) {
        if self.version.as_ref() != Some(&record.version) {
            self.version = Some(record.version.clone());
            self.since = Some(now);
        }
    }

    /// How long nobody has renewed it, as far as this process saw.
    #[must_use]
    pub fn unchanged_for(&self, now: Instant) -> Duration {
        self.since
            .map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What to do with a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is ours: renew it.
    Renew,
    /// It is nobody's, or its holder is silent: take it.
    Take,
    /// It is another's.
    Wait,
}

/// What `me` does with a lease that has not changed for `unchanged_for`.
#[must_use]
pub fn decide(record: &Record, me: &str, unchanged_for: Duration) -> Step {
    match record.holder.as_str() {
        "" => Step::Take,
        holder if holder == me => Step::Renew,
        _ if unchanged_for > record.duration => Step::Take,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.into(),
            version: version.into(),
            duration: Duration::from_secs(15),
            transitions: 0,
        }
    }

    #[test]
    fn a_silent_holder_loses_the_lease_only_after_its_whole_duration() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut seen = Seen::default();
        seen.update(&record("other", "1"), at(0));
        assert_eq!(
            decide(&record("other", "1"), "me", seen.unchanged_for(at(15))),
            Step::Wait
        );
        seen.update(&record("other", "2"), at(15));
        assert_eq!(
            decide(&record("other", "2"), "me", seen.unchanged_for(at(16))),
            Step::Wait,
            "it was renewed"
        );
        assert_eq!(
            decide(&record("other", "2"), "me", seen.unchanged_for(at(31))),
            Step::Take
        );
        assert_eq!(decide(&record("me", "2"), "me", Duration::ZERO), Step::Renew);
        assert_eq!(decide(&record("", "2"), "me", Duration::ZERO), Step::Take);
    }

    #[test]
    fn the_default_times_are_safe() {
        assert!(Timing::default().is_safe());
    }

    proptest! {
        /// Leader: asked at 0, the server wrote it at `written`, the leader acts until its deadline and what it sent may
        /// arrive a little later. Candidate: saw the renewal at `saw` or later.
        #[test]
        fn no_two_act_at_a_time(
            spare in 5u64..60, more in 0u64..60, retry in 1u64..30,
            written in 0u64..5000, saw in 0u64..5000, waited in 0u64..300_000,
        ) {
            let timing = Timing {
                lease: Duration::from_secs(2 * retry + more + spare),
                renew_deadline: Duration::from_secs(2 * retry + more),
                retry: Duration::from_secs(retry),
            };
            prop_assert!(timing.is_safe());
            let last_write_arrives = timing.renew_deadline + UNACKNOWLEDGED;
            let record = Record { duration: timing.lease, ..record("leader", "1") };
            let step = decide(&record, "candidate", Duration::from_millis(waited));
            let taken_at = Duration::from_millis(written + saw + waited);
            if step == Step::Take {
                prop_assert!(taken_at > last_write_arrives);
            }
        }
    }
}
