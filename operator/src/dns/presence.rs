//! Whether records may stand now: what does not answer is not published, and what stops answering keeps its records for a
//! grace period, so that a short outage does not send every client into negative caches.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use kms_dns::records::Endpoint;

/// How often records are published again although they stand: scavenging of dynamic records takes what is older.
pub const REFRESH: SignedDuration = SignedDuration::from_hours(24);

/// What bind probes of the targets found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// The KMS interface was bound at one of them at least.
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
    /// Whether our records stand there, or may do.
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

/// Targets that stopped answering, and since when: an address, or a host name where the addresses are somebody else's.
pub type Silent = BTreeMap<String, Timestamp>;

/// What may be published of several targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// These.
    pub endpoints: Vec<Endpoint>,
    /// Those that stopped answering, for the next time.
    pub silent: Silent,
    /// What does not answer, and what becomes of it.
    pub told: Option<String>,
}

/// Admits what answers, and what stopped answering as long as its grace lasts. What does not answer and did not stand is
/// left out.
///
/// `failed` says why a target did not answer; `stood` whether its records stand.
#[must_use]
pub fn admit(
    endpoints: &[Endpoint],
    failed: &BTreeMap<String, String>,
    stood: &dyn Fn(&str) -> bool,
    before: &Silent,
    grace: SignedDuration,
    now: Timestamp,
) -> Admitted {
    let mut silent = Silent::new();
    let mut told = Vec::new();
    let mut left_out = BTreeSet::new();
    for (target, why) in failed {
        let since = before.get(target).copied().or_else(|| stood(target).then_some(now));
        silent.extend(since.map(|since| (target.clone(), since)));
        let until = since.map(|since| since.checked_add(grace).unwrap_or(Timestamp::MAX));
        if let Some(until) = until.filter(|until| now < *until) {
            told.push(format!("the records of {target} stay until {until:.0}: {why}"));
        } else {
            told.push(format!("{target} is not published: {why}"));
            left_out.insert(target.as_str());
        }
    }
    let endpoints = endpoints.iter().filter_map(|endpoint| {
        let mut endpoint = endpoint.clone();
        if endpoint.addresses.is_empty() {
            return (!left_out.contains(&*endpoint.target.to_string())).then_some(endpoint);
        }
        endpoint
            .addresses
            .retain(|address| !left_out.contains(&*address.to_string()));
        // Without addresses of ours it would be somebody else's name.
        (!endpoint.addresses.is_empty()).then_some(endpoint)
    });
    Admitted {
        endpoints: endpoints.collect(),
        silent,
        told: (!told.is_empty()).then(|| told.join("; ")),
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

    fn endpoint(target: &str, addresses: &[&str]) -> Endpoint {
        Endpoint {
            target: target.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            port: 1688,
            priority: 0,
            weight: 0,
        }
    }

    #[test]
    fn a_silent_target_among_others_loses_its_records_after_its_grace_and_never_gets_any() {
        let all = [
            endpoint("kms.example", &["192.0.2.1", "192.0.2.2", "2001:db8::1"]),
            endpoint("lb.example", &[]),
        ];
        let dead = |targets: &[&str]| {
            targets
                .iter()
                .map(|&target| (target.to_owned(), "refused".to_owned()))
                .collect()
        };
        let stood = |target: &str| target != "2001:db8::1";
        let failed = dead(&["192.0.2.2", "2001:db8::1", "lb.example"]);

        let first = admit(&all, &failed, &stood, &Silent::new(), GRACE, at(0));
        let kept = [
            endpoint("kms.example", &["192.0.2.1", "192.0.2.2"]),
            endpoint("lb.example", &[]),
        ];
        assert_eq!(
            first.endpoints, kept,
            "what never stood is left out, what stood is kept"
        );
        assert_eq!(first.silent.len(), 2);
        let later = admit(&all, &failed, &stood, &first.silent, GRACE, at(9));
        assert_eq!((&later.endpoints, &later.silent), (&first.endpoints, &first.silent));
        let over = admit(&all, &failed, &stood, &later.silent, GRACE, at(10));
        assert_eq!(over.endpoints, [endpoint("kms.example", &["192.0.2.1"])]);
        let told = over.told.unwrap();
        assert!(told.contains("lb.example is not published: refused"), "{told}");
        // Whatever the status says still stands: it is silent, and has had its grace.
        let after = admit(&all, &failed, &stood, &over.silent, GRACE, at(60));
        assert_eq!(after.endpoints, over.endpoints);

        let back = admit(&all, &dead(&["192.0.2.2"]), &stood, &over.silent, GRACE, at(61));
        assert_eq!(back.silent.len(), 1, "what answers again is forgotten");
        let none = admit(&all, &BTreeMap::new(), &stood, &back.silent, GRACE, at(62));
        assert_eq!((none.endpoints.as_slice(), none.told), (all.as_slice(), None));
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
