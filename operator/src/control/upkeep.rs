//! What is remembered of a resource between two looks, and what follows from it: who fights for its children. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::OfficeKmsHost;
use crate::build::Inputs;

/// Repairs within this time are counted.
const WINDOW: Duration = Duration::from_secs(120);
/// So many repairs are a fight.
const FIGHT: usize = 5;
/// How long what was read of Secrets is used, when all was well.
const FRESH: Duration = Duration::from_secs(30);

/// What is remembered of a resource as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct Memory {
    repairs: VecDeque<(Instant, String)>,
    inputs: Option<(i64, Instant, Inputs)>,
    /// The resource as it was at the last look: what is outside is known by it.
    pub(super) host: Option<Arc<OfficeKmsHost>>,
}

impl Memory {
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
        let (_, what) = self.repairs.back()?;
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(memory.fight(begin + Duration::from_secs(126)), None, "it ended");
    }
}
