//! Whether records may stand now: what does not answer is not published, and what stops answering keeps its records for a
//! grace period, so that a short outage does not send every client into negative caches.

use std::fmt;

use jiff::{SignedDuration, Timestamp};

/// How often records are published again although they stand: scavenging of dynamic records takes what is older.
pub const REFRESH: SignedDuration = SignedDuration::from_hours(24);

/// What a bind probe of the target found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The KMS interface was bound.
    Answered,
    /// It was not.
    Failed {
        /// Why.
        why: String,
    },
    /// There is no target.
    NoTarget {
        /// Why.
        why: String,
    },
    /// The spec asks for none.
    Off,
}

/// What is remembered of a zone between rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Whether our records stand there, as far as we know.
    pub published: bool,
    /// Since when the target does not answer.
    pub failing_since: Option<Timestamp>,
    /// When the records were last published afresh.
    pub refreshed_at: Option<Timestamp>,
}

/// What to do with a zone's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Publish them; `refresh` also those that stand.
    Publish {
        /// Whether they are published afresh.
        refresh: bool,
    },
    /// Leave them as they are until then.
    Keep {
        /// When they go.
        until: Timestamp,
        /// What is wrong.
        why: String,
    },
    /// Nothing stands and nothing is published.
    Wait {
        /// What is wrong.
        why: String,
    },
    /// Take them away.
    Withdraw {
        /// What is wrong.
        why: String,
    },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish { .. } => f.write_str("the records are published"),
            Self::Keep { until, why } => write!(f, "the records stay until {until:.0}: {why}"),
            Self::Wait { why } => write!(f, "nothing is published yet: {why}"),
            Self::Withdraw { why } => write!(f, "the records are taken away: {why}"),
        }
    }
}

/// Decides, and what to remember.
#[must_use]
pub fn decide(probe: &Probe, memory: Memory, grace: SignedDuration, now: Timestamp) -> (Action, Memory) {
    let why = match probe {
        Probe::Answered | Probe::Off => {
            let due = |at: Timestamp| now.duration_since(at) >= REFRESH;
            let refresh = memory.published && memory.refreshed_at.is_none_or(due);
            let kept = Memory {
                failing_since: None,
                ..memory
            };
            return (Action::Publish { refresh }, kept);
        }
        Probe::Failed { why } | Probe::NoTarget { why } => why.clone(),
    };
    if !memory.published {
        return (Action::Wait { why }, memory);
    }
    let since = memory.failing_since.unwrap_or(now);
    let kept = Memory {
        failing_since: Some(since),
        ..memory
    };
    // A sum beyond the calendar is a grace without end.
    let until = since.checked_add(grace).unwrap_or(Timestamp::MAX);
    if now < until {
        (Action::Keep { until, why }, kept)
    } else {
        (Action::Withdraw { why }, kept)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRACE: SignedDuration = SignedDuration::from_mins(10);

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + 60 * minute).unwrap()
    }

    fn failed() -> Probe {
        Probe::Failed { why: "refused".into() }
    }

    #[test]
    fn a_target_that_never_answered_is_not_published() {
        let (action, _) = decide(&failed(), Memory::default(), GRACE, at(0));
        assert!(matches!(action, Action::Wait { .. }));
        let (action, _) = decide(&Probe::Answered, Memory::default(), GRACE, at(0));
        assert_eq!(action, Action::Publish { refresh: false });
        let (action, _) = decide(&Probe::Off, Memory::default(), GRACE, at(0));
        assert_eq!(
            action,
            Action::Publish { refresh: false },
            "the probe can be turned off"
        );
    }

    #[test]
    fn records_of_a_silent_target_stay_for_the_grace_period_and_then_go() {
        let published = Memory {
            published: true,
            refreshed_at: Some(at(0)),
            ..Memory::default()
        };
        let (action, memory) = decide(&failed(), published, GRACE, at(0));
        assert!(matches!(action, Action::Keep { until, .. } if until == at(10)));
        let (action, memory) = decide(&failed(), memory, GRACE, at(9));
        assert!(matches!(action, Action::Keep { .. }));
        let (recovered, forgotten) = decide(&Probe::Answered, memory, GRACE, at(9));
        assert_eq!((recovered, forgotten), (Action::Publish { refresh: false }, published));
        let (action, _) = decide(&failed(), memory, GRACE, at(10));
        assert!(matches!(action, Action::Withdraw { .. }));
    }

    #[test]
    fn records_are_published_afresh_every_day() {
        let published = Memory {
            published: true,
            refreshed_at: Some(at(0)),
            ..Memory::default()
        };
        let refresh = |minute| decide(&Probe::Answered, published, GRACE, at(minute)).0;
        assert_eq!(refresh(24 * 60 - 1), Action::Publish { refresh: false });
        assert_eq!(refresh(24 * 60), Action::Publish { refresh: true });
    }

    proptest! {
        #[test]
        fn records_never_go_before_the_grace_is_over(failing in proptest::collection::vec(any::<bool>(), 1..60)) {
            let mut memory = Memory { published: true, refreshed_at: Some(at(0)), ..Memory::default() };
            let mut in_a_row = 0;
            for (minute, failing) in (0..).zip(failing) {
                in_a_row = if failing { in_a_row + 1 } else { 0 };
                let probe = if failing { failed() } else { Probe::Answered };
                let (action, kept) = decide(&probe, memory, GRACE, at(minute));
                memory = kept;
                prop_assert_eq!(matches!(action, Action::Withdraw { .. }), in_a_row > 10);
            }
        }
    }
}
