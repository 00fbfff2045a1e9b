//! Generated sequences: whatever is done, a ledger shows what the rule says.
//!
//! The model is the rule over the whole history, without any structure to speed it up. The other operations are
//! compared with the ledger in memory.

use std::collections::BTreeMap;

use kms_host::ledger::{
    Answered, ApplicationCount, Ledger, MemoryLedger, Millis, Sighting, Verdict, counting::CLOCK_TOLERANCE_MS,
};
use proptest::{prelude::*, test_runner::TestRunner};
use system_tests::ledger::{DAY, NOW, cmid, event, key, sighting};
use tokio::runtime::Handle;
use uuid::Uuid;

use super::Place;

#[derive(Debug, Clone)]
enum Step {
    Count(Vec<Ask>),
    /// What was asked last, again.
    Again,
    Answered(Vec<(u32, u8, i64)>),
    Refused(u8),
    Later(i64),
}

#[derive(Debug, Clone)]
struct Ask {
    application: u8,
    machine: u32,
    required: u32,
    clock_off_by_ms: i64,
}

fn step() -> impl Strategy<Value = Step> {
    let off_by_seconds = prop::sample::select(vec![-10_800i64, -3_600, -61, -60, 0, 0, 60, 61, 3_600, 10_800]);
    let ask = (
        0..2u8,
        0..30u32,
        prop::sample::select(vec![1u32, 2, 5, 25]),
        off_by_seconds,
    );
    let ask = ask.prop_map(|(application, machine, required, seconds)| Ask {
        application,
        machine,
        required,
        clock_off_by_ms: seconds * 1000,
    });
    prop_oneof![
        4 => prop::collection::vec(ask, 1..8).prop_map(Step::Count),
        2 => Just(Step::Again),
        2 => prop::collection::vec((0..30u32, 0..3u8, -DAY..DAY), 1..8).prop_map(Step::Answered),
        1 => (0..2u8).prop_map(Step::Refused),
        3 => (0..12 * DAY).prop_map(Step::Later),
        2 => (0..90_000i64).prop_map(Step::Later),
    ]
}

/// Must be called within a multi-threaded runtime.
pub(crate) fn all(place: &Place) {
    let cases = if place.redis.is_some() { 12 } else { 48 };
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let steps = prop::collection::vec(step(), 1..30);
    let run =
        |steps: Vec<Step>| tokio::task::block_in_place(|| Handle::current().block_on(follows_the_rule(place, steps)));
    runner.run(&steps, run).unwrap();
    println!("ok: {cases} generated sequences");
}

async fn follows_the_rule(place: &Place, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (ledger, memory) = (place.ledger(), MemoryLedger::new());
    let mut model = BTreeMap::<Uuid, Model>::new();
    let mut now = NOW.0;
    // Who asked last, and when by his clock. What is older than the clock tolerance is refused before it is counted.
    let mut asked: Vec<(Ask, i64)> = Vec::new();
    for step in steps {
        match step {
            Step::Later(ms) => now += ms,
            Step::Count(_) | Step::Again => {
                if let Step::Count(asks) = step {
                    let made = |ask: &Ask| (now + ask.clock_off_by_ms) * 1000;
                    asked = asks.into_iter().map(|ask| (ask.clone(), made(&ask))).collect();
                }
                asked.retain(|(_, made)| (now * 1000 - made).abs() <= CLOCK_TOLERANCE_MS * 1000);
                let sightings: Vec<_> = asked
                    .iter()
                    .map(|(ask, made)| Sighting {
                        request_time_micros: *made,
                        ..sighting(application(ask.application), ask.machine, ask.required, Millis(now))
                    })
                    .collect();
                let expected: Vec<_> = asked
                    .iter()
                    .zip(&sightings)
                    .map(|((ask, made), sighting)| {
                        let of_application = model.entry(sighting.application).or_default();
                        of_application.ask(ask.machine, ask.required, now, *made)
                    })
                    .collect();
                prop_assert_eq!(ledger.count(&sightings).await.unwrap(), expected);
                memory.count(&sightings).await.unwrap();
            }
            Step::Answered(answers) => {
                let batch: Vec<_> = answers
                    .into_iter()
                    .map(|(n, host, later)| Answered {
                        client: key().machine(&cmid(n)),
                        host: format!("kms{host}"),
                        at: Millis(now + later),
                        warm: later % 2 == 0,
                    })
                    .collect();
                ledger.answered(&batch).await.unwrap();
                memory.answered(&batch).await.unwrap();
            }
            Step::Refused(of) => {
                let refused = [(application(of), event(0, Millis(now)))];
                ledger.refused(&refused).await.unwrap();
                memory.refused(&refused).await.unwrap();
                model.entry(application(of)).or_default().failed += 1;
            }
        }
        let counts = ledger.counts(Millis(now)).await.unwrap();
        let shown: Vec<_> = counts.iter().map(Shown::from).collect();
        let expected: Vec<_> = model
            .iter()
            .map(|(application, model)| model.shown(*application, now))
            .collect();
        prop_assert_eq!(shown, expected);
        prop_assert_eq!(counts, memory.counts(Millis(now)).await.unwrap());
        for (since, most) in [(0, usize::MAX), (now - DAY, usize::MAX), (0, 3)] {
            let (since, now) = (Millis(since), Millis(now));
            let mut one = ledger.newest_routes(since, now, most).await.unwrap();
            let mut other = memory.newest_routes(since, now, most).await.unwrap();
            for read in [&mut one, &mut other] {
                read.changed.sort_by_key(|route| route.client);
                read.clients_by_host.sort();
            }
            prop_assert_eq!(one, other);
        }
    }
    Ok(())
}

fn application(n: u8) -> Uuid {
    Uuid::from_u128(1 + u128::from(n))
}

/// The rule, in its own words: every request ever counted.
#[derive(Debug, Default)]
struct Model {
    counted: Vec<(u32, u32, i64, i64)>,
    failed: u64,
}

#[derive(Debug, PartialEq)]
struct Shown {
    application: Uuid,
    count: usize,
    largest_required: u32,
    total: u64,
    failed: u64,
}

impl Model {
    fn ask(&mut self, machine: u32, required: u32, now: i64, made: i64) -> Verdict {
        let last = self.counted.iter().rev().find(|counted| counted.0 == machine);
        let count = |model: &Self| u32::try_from(model.table(now).len()).unwrap();
        if last.is_some_and(|last| made <= last.3 && last.3 >= (now - 4 * 60 * 60 * 1000) * 1000) {
            let last = last.is_some_and(|last| made == last.3);
            if last && (now * 1000 - made).abs() <= 60 * 1_000_000 {
                return Verdict::SentAgain { count: count(self) };
            }
            self.failed += 1;
            return Verdict::Replayed;
        }
        self.counted.push((machine, required, now, made));
        Verdict::Counted { count: count(self) }
    }

    /// Clients kept at `now`. Time only moves on, so a client that was pushed out and did not come back is out.
    fn table(&self, now: i64) -> Vec<(i64, u32)> {
        let (mut table, mut largest) = (BTreeMap::new(), 0);
        for (machine, required, at, _) in &self.counted {
            largest = largest.max(2 * usize::try_from(*required).unwrap());
            table.retain(|_, last| at - *last < 30 * DAY);
            table.insert(*machine, *at);
            let mut by_age: Vec<_> = table
                .iter()
                .map(|(machine, last)| (*last, pseudonym_order(*machine)))
                .collect();
            by_age.sort_unstable();
            let pushed_out = by_age.len().saturating_sub(largest);
            for (_, (_, machine)) in by_age.drain(..pushed_out) {
                table.remove(&machine);
            }
        }
        table.retain(|_, last| now - *last < 30 * DAY);
        table.into_iter().map(|(machine, last)| (last, machine)).collect()
    }

    fn shown(&self, application: Uuid, now: i64) -> Shown {
        Shown {
            application,
            count: self.table(now).len(),
            largest_required: self.counted.iter().map(|counted| counted.1).max().unwrap_or(0),
            total: u64::try_from(self.counted.len()).unwrap(),
            failed: self.failed,
        }
    }
}

/// Of clients last seen in the same millisecond, the one with the smaller pseudonym counts as the older.
fn pseudonym_order(machine: u32) -> (kms_host::ledger::Pseudonym, u32) {
    (key().machine(&cmid(machine)), machine)
}

impl From<&ApplicationCount> for Shown {
    fn from(count: &ApplicationCount) -> Self {
        Self {
            application: count.application,
            count: usize::try_from(count.current_count).unwrap(),
            largest_required: count.largest_required,
            total: count.totals.total,
            failed: count.totals.failed,
        }
    }
}
