//! What is remembered of a resource between two looks, and what follows from it: who fights for its children. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::status::OfficeKmsHostStatus;
use crate::api::{DeletionPolicy, OfficeKmsHost};
use crate::build::Inputs;

/// Repairs within this time are counted.
const WINDOW: Duration = Duration::from_secs(120);
/// So many repairs are a fight.
const FIGHT: usize = 5;
/// A fight is over when nothing had to be put back for so long. Longer than what is seen is held in a fight, so that one
/// that goes on is never taken for over.
const CALM: Duration = Duration::from_secs(25);
/// How long what is missing may be on its way, as where all is applied in one go, before people are called; and how long
/// watches may take to begin.
const GRACE: Duration = Duration::from_secs(30);
/// How long a managed ledger may take to become ready before people are called: its volume and its image take their time.
const LEDGER_STARTS: Duration = Duration::from_secs(600);
/// How long what was read of Secrets is used, when all was well.
const FRESH: Duration = Duration::from_secs(30);

/// What is remembered of a resource as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct Memory {
    repairs: VecDeque<(Instant, String)>,
    inputs: Option<(i64, Instant, Inputs)>,
    /// Since when something that the spec names is not there.
    lacking: Option<Instant>,
    /// Since when its managed ledger is not ready.
    ledger_waits: Option<Instant>,
    /// Since when it waits for the watches to show what there is.
    unseen: Option<Instant>,
    /// The generated Secrets whose owners are as this policy wants them.
    owned: Option<(DeletionPolicy, Vec<String>)>,
    /// The status that was written last, or found as it should be.
    said: Option<OfficeKmsHostStatus>,
    /// Whether the last look left the status to the next.
    settling: bool,
    /// The resource as it was at the last look: what is outside is known by it.
    pub(super) host: Option<Arc<OfficeKmsHost>>,
}

impl Memory {
    /// Of a resource that is seen for the first time.
    pub(super) fn of(host: Arc<OfficeKmsHost>) -> Self {
        Self {
            host: Some(host),
            ..Self::default()
        }
    }

    /// Notes what was put back.
    pub(super) fn repaired(&mut self, what: String, now: Instant) {
        self.repairs.push_back((now, what));
        while self.repairs.len() > 2 * FIGHT {
            self.repairs.pop_front();
        }
    }

    /// Who changes children again and again, if somebody does, and for how long to leave them.
    pub(super) fn fight(&mut self, now: Instant) -> Option<(String, Duration)> {
        while self
            .repairs
            .front()
            .is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.repairs.pop_front();
        }
        let (last, what) = self.repairs.back()?;
        if now.saturating_duration_since(*last) > CALM {
            return None;
        }
        let hold = Duration::from_secs(2 * u64::try_from(self.repairs.len()).unwrap_or(u64::MAX));
        (self.repairs.len() >= FIGHT).then(|| (what.clone(), hold))
    }

    /// What was read of Secrets lately, for this generation.
    pub(super) fn inputs(&self, generation: i64, now: Instant) -> Option<Inputs> {
        let (of, at, inputs) = self.inputs.as_ref()?;
        (*of == generation && now.saturating_duration_since(*at) < FRESH).then(|| inputs.clone())
    }

    /// Keeps what was read.
    pub(super) fn keep(&mut self, generation: i64, now: Instant, inputs: Inputs) {
        self.inputs = Some((generation, now, inputs));
        self.lacking = None;
    }

    /// Whether something that the spec names and that is not there, as was just seen, may still be on its way.
    pub(super) fn may_come(&mut self, now: Instant) -> bool {
        lasting(&mut self.lacking, true, now).is_some_and(|time| time < GRACE)
    }

    /// Whether to wait until the watches have shown what there is: what was not shown yet would be taken for missing, and a
    /// resource that is well for one on its way. Not for ever, as a watch may never come about.
    pub(super) fn waits_for_watches(&mut self, settled: bool, now: Instant) -> bool {
        lasting(&mut self.unseen, !settled, now).is_some_and(|time| time < GRACE)
    }

    /// Whether people are to be called to the managed ledger.
    pub(super) fn ledger_is_overdue(&mut self, ready: bool, now: Instant) -> bool {
        lasting(&mut self.ledger_waits, !ready, now).is_some_and(|time| time >= LEDGER_STARTS)
    }

    /// Whether the owners of these generated Secrets are as `policy` wants them.
    pub(super) fn has_owned(&self, policy: DeletionPolicy, names: &[String]) -> bool {
        self.owned
            .as_ref()
            .is_some_and(|(of, known)| *of == policy && known == names)
    }

    /// Notes that the owners of these generated Secrets are as `policy` wants them.
    pub(super) fn own(&mut self, policy: DeletionPolicy, names: Vec<String>) {
        self.owned = Some((policy, names));
    }

    /// Whether the status is left to the next look after a change of children. Not twice in a row: children that are changed
    /// at each look do not keep the status from people.
    pub(super) fn lets_settle(&mut self, changed: bool) -> bool {
        self.settling = changed && !self.settling;
        self.settling
    }

    /// Notes the status that was written, or found as it should be.
    pub(super) fn say(&mut self, status: OfficeKmsHostStatus) {
        self.said = Some(status);
    }

    /// The status as this process left it.
    pub(super) fn said(&self) -> Option<&OfficeKmsHostStatus> {
        self.said.as_ref()
    }
}

/// For how long something has been so, as `since` remembers it; none when it is not so now.
fn lasting(since: &mut Option<Instant>, is_so: bool, now: Instant) -> Option<Duration> {
    if !is_so {
        *since = None;
        return None;
    }
    Some(now.saturating_duration_since(*since.get_or_insert(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_called_to_a_ledger_that_has_not_been_ready_for_ten_minutes() {
        let (mut memory, begin) = (Memory::default(), Instant::now());
        let after = |minutes: u64| begin + Duration::from_secs(60 * minutes);
        assert!(!memory.ledger_is_overdue(false, begin));
        assert!(!memory.ledger_is_overdue(false, after(9)));
        assert!(memory.ledger_is_overdue(false, after(10)));
        assert!(!memory.ledger_is_overdue(true, after(11)));
        assert!(!memory.ledger_is_overdue(false, after(12)), "it has its time again");
    }

    #[test]
    fn a_few_repairs_are_none_and_many_are_a_fight_that_ends() {
        let mut memory = Memory::default();
        let begin = Instant::now();
        for second in 0..4 {
            memory.repaired("x".into(), begin + Duration::from_secs(second));
        }
        assert_eq!(memory.fight(begin + Duration::from_secs(4)), None);
        memory.repaired(
            "Service kms, which kubectl-edit changes".into(),
            begin + Duration::from_secs(5),
        );
        let (what, hold) = memory.fight(begin + Duration::from_secs(5)).expect("a fight");
        assert!(what.contains("kubectl-edit"));
        assert_eq!(hold, Duration::from_secs(10));
        assert!(memory.fight(begin + Duration::from_secs(30)).is_some());
        assert_eq!(memory.fight(begin + Duration::from_secs(31)), None, "it ended");
        memory.repaired("again".into(), begin + Duration::from_secs(40));
        assert!(
            memory.fight(begin + Duration::from_secs(40)).is_some(),
            "and is known when it begins anew"
        );
        assert_eq!(memory.fight(begin + Duration::from_secs(161)), None);
    }

    #[test]
    fn a_status_is_left_to_the_next_look_but_not_again_and_again() {
        let mut memory = Memory::default();
        assert!(!memory.lets_settle(false));
        assert!(memory.lets_settle(true));
        assert!(!memory.lets_settle(true), "children that never rest");
        assert!(memory.lets_settle(true));
        assert!(!memory.lets_settle(false));
        assert!(memory.lets_settle(true));
    }

    #[test]
    fn watches_are_waited_for_but_not_for_ever() {
        let mut memory = Memory::default();
        let begin = Instant::now();
        assert!(!memory.waits_for_watches(true, begin));
        assert!(memory.waits_for_watches(false, begin));
        assert!(memory.waits_for_watches(false, begin + Duration::from_secs(29)));
        assert!(!memory.waits_for_watches(false, begin + Duration::from_secs(30)));
        assert!(!memory.waits_for_watches(true, begin + Duration::from_secs(31)));
    }

    #[test]
    fn what_is_missing_is_waited_for_a_while_and_anew_once_it_was_there() {
        let mut memory = Memory::default();
        let begin = Instant::now();
        assert!(memory.may_come(begin));
        assert!(memory.may_come(begin + Duration::from_secs(29)));
        assert!(!memory.may_come(begin + Duration::from_secs(30)));
        memory.keep(1, begin + Duration::from_secs(40), Inputs::unread());
        assert!(memory.may_come(begin + Duration::from_secs(50)));
    }
}
