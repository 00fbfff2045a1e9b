//! Whether a licensed host may be called: a pure state machine over the outcomes of calls and probes.
//!
//! ```text
//! well --(ejectAfter failures in a row)--> ejected --(time over)--> one trial
//!  ^                                        |   ^                     |
//!  |                                        |   +-- fails: twice -----+
//!  +-- a probe succeeds, where it only -----+       as long           |
//!  |   could not be reached                                           |
//!  +---------------------------------- succeeds ----------------------+
//! ```

use std::time::{Duration, Instant};

use crate::config::HealthConfig;

/// How long a trial may be without an outcome before another is allowed: its request may have been cancelled.
const TRIAL_LASTS: Duration = Duration::from_secs(30);

/// Whether a host may be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eligibility {
    /// It may.
    Well,
    /// It was ejected; one request may try it.
    Trial,
    /// It is ejected.
    Ejected {
        /// Until then.
        until: Instant,
    },
}

/// In what a host failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It could not be connected and bound.
    Reach,
    /// It was bound, but did not answer a call.
    Answer,
}

/// The health of one host.
#[derive(Debug, Clone, Default)]
pub struct Health {
    failures: u32,
    /// In what it failed last, since it was well.
    last: Option<Failure>,
    ejected: Option<Ejected>,
}

#[derive(Debug, Clone, Copy)]
struct Ejected {
    since: Instant,
    until: Instant,
    lasting: Duration,
    trial: Option<Instant>,
}

impl Health {
    /// Whether the host may be called at `now`.
    pub fn eligibility(&self, now: Instant) -> Eligibility {
        match self.ejected {
            None => Eligibility::Well,
            Some(ejected) if now < ejected.until => Eligibility::Ejected { until: ejected.until },
            Some(Ejected { trial: Some(begun), .. }) if now < begun + TRIAL_LASTS => Eligibility::Ejected {
                until: begun + TRIAL_LASTS,
            },
            Some(_) => Eligibility::Trial,
        }
    }

    /// Takes the trial, if there is one to take; a host that is well needs none. False means: do not call.
    pub fn begin(&mut self, now: Instant) -> bool {
        match (self.eligibility(now), &mut self.ejected) {
            (Eligibility::Well, _) => true,
            (Eligibility::Trial, Some(ejected)) => {
                ejected.trial = Some(now);
                true
            }
            _ => false,
        }
    }

    /// A call was answered. True if that ended an ejection.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.last = None;
        self.ejected.take().is_some()
    }

    /// A probe succeeded. True if that ended an ejection, as it does for a host that only could not be reached. Of one
    /// that could be reached, but did not answer, it says nothing: such a host binds and then lets a client wait.
    pub fn probed(&mut self) -> bool {
        self.last != Some(Failure::Answer) && self.succeeded()
    }

    /// A call ended without saying anything of the host. If it was the trial, the next request is that.
    pub fn undecided(&mut self) {
        if let Some(ejected) = &mut self.ejected {
            ejected.trial = None;
        }
    }

    /// A call or a probe failed. The new end of the ejection, if that began or prolonged one.
    pub fn failed(&mut self, last: Failure, now: Instant, config: &HealthConfig) -> Option<Instant> {
        self.failures = self.failures.saturating_add(1);
        self.last = Some(last);
        let longest = config.eject_for_at_most.get();
        let (since, lasting) = match self.ejected {
            None if self.failures < config.eject_after => return None,
            None => (now, config.eject_for.get().min(longest)),
            // Calls that were under way when the ejection began say nothing new.
            Some(ejected) if now < ejected.until => return None,
            Some(ejected) => (ejected.since, ejected.lasting.saturating_mul(2).min(longest)),
        };
        let until = now + lasting;
        self.ejected = Some(Ejected {
            since,
            until,
            lasting,
            trial: None,
        });
        Some(until)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Since when it is ejected.
    pub fn ejected_since(&self) -> Option<Instant> {
        self.ejected.map(|ejected| ejected.since)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Period;

    fn config() -> HealthConfig {
        HealthConfig {
            eject_after: 3,
            eject_for: Period::seconds(2),
            eject_for_at_most: Period::seconds(5),
            probe_interval: Period::seconds(10),
        }
    }

    #[test]
    fn failures_in_a_row_eject_and_one_success_in_between_does_not() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(Failure::Answer, now, &config());
        health.failed(Failure::Answer, now, &config());
        health.succeeded();
        health.failed(Failure::Answer, now, &config());
        assert_eq!(health.failed(Failure::Answer, now, &config()), None);
        assert_eq!(health.eligibility(now), Eligibility::Well);
        let until = now + Duration::from_secs(2);
        assert_eq!(health.failed(Failure::Answer, now, &config()), Some(until));
        assert_eq!(health.eligibility(now), Eligibility::Ejected { until });
    }

    #[test]
    fn one_trial_decides_and_failing_it_doubles_the_time_up_to_the_longest() {
        let (mut health, mut now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.failed(Failure::Answer, now, &config());
        }
        for lasting in [2, 4, 5, 5] {
            now += Duration::from_secs(lasting);
            assert!(health.begin(now), "the first request is the trial");
            assert!(!health.begin(now), "there is only one");
            assert!(health.failed(Failure::Answer, now, &config()).is_some());
            assert!(!health.begin(now));
        }
        now += Duration::from_secs(5);
        assert!(health.begin(now));
        assert!(health.succeeded());
        assert_eq!(health.eligibility(now), Eligibility::Well);
        assert_eq!(health.failures(), 0);
    }

    #[test]
    fn a_probe_that_succeeds_readmits_a_host_that_could_not_be_reached_and_no_other() {
        let now = Instant::now();
        let until = now + Duration::from_secs(2);
        for (last, then) in [
            (Failure::Reach, Eligibility::Well),
            (Failure::Answer, Eligibility::Ejected { until }),
        ] {
            let mut health = Health::default();
            for _ in 0..3 {
                health.failed(last, now, &config());
            }
            assert_eq!(health.probed(), last == Failure::Reach);
            assert_eq!(health.eligibility(now), then);
        }
    }

    #[test]
    fn a_trial_that_says_nothing_leaves_the_next_request_to_be_the_trial() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.failed(Failure::Answer, now, &config());
        }
        let now = now + Duration::from_secs(2);
        assert!(health.begin(now));
        health.undecided();
        assert!(health.begin(now));
        assert!(!health.begin(now));
    }

    #[test]
    fn a_trial_that_never_ends_does_not_eject_for_ever() {
        let (mut health, now) = (Health::default(), Instant::now());
        for _ in 0..3 {
            health.failed(Failure::Answer, now, &config());
        }
        let now = now + Duration::from_secs(2);
        assert!(health.begin(now));
        assert!(health.begin(now + TRIAL_LASTS));
    }

    proptest! {
        /// Whatever happens, an ejected host gets its trial after at most the longest ejection and a trial's time.
        #[test]
        fn no_host_is_ejected_for_ever(events in prop::collection::vec((0u8..5, 0u64..4000), 0..60)) {
            let (mut health, mut now) = (Health::default(), Instant::now());
            for (event, millis) in events {
                now += Duration::from_millis(millis);
                match event {
                    0 => { health.begin(now); }
                    1 => { health.succeeded(); }
                    2 => { health.failed(Failure::Answer, now, &config()); }
                    3 => { health.probed(); }
                    _ => health.undecided(),
                }
            }
            prop_assert!(health.begin(now + TRIAL_LASTS + Duration::from_secs(5)));
        }
    }
}
