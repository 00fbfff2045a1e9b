//! One simulation: events in the order of their time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::hosts::Hosts;
use super::policy::Policy;
use super::{Arrivals, DAY, HOUR, MEASURED, Outcome, Scenario, SplitMix};
use crate::ledger::{Millis, Pseudonym};

/// Between two requests of a client without a licence (VLActivationInterval, 120 minutes).
const RETRY: Duration = Duration::from_secs(2 * 3600);

/// Between two renewals (VLRenewalInterval, 10,080 minutes).
const RENEW: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a licence lasts after an activation.
const VALIDITY: Duration = Duration::from_secs(180 * 24 * 3600);

/// A simulated client.
#[derive(Debug)]
struct SimClient {
    address: Pseudonym,
    cmid: Pseudonym,
    arrives: Millis,
    /// Requests that a host answered.
    answers: u64,
    /// Periods in which it holds a licence, the last one open to prolongation.
    licences: Vec<(Millis, Millis)>,
}

/// Simulates `scenario`.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut random = SplitMix(scenario.seed);
    let mut clients = arrive(scenario, &mut random);
    let end = millis(scenario.lasts);
    let mut hosts = Hosts::new(scenario, scenario.dies_at.map(millis), scenario.joins_at.map(millis));
    let mut policy = Policy::new(scenario.policy, clients.len(), random.next(), scenario.required);
    let mut due: BinaryHeap<_> = clients
        .iter()
        .enumerate()
        .map(|(at, client)| Reverse((client.arrives, at)))
        .collect();
    let (mut answers, mut too_low) = (0, 0);
    while let Some(Reverse((now, at))) = due.pop() {
        let Some(client) = clients.get_mut(at).filter(|_| now < end) else {
            break;
        };
        let count = policy
            .reach(&hosts, at, client.address, now)
            .map(|host| hosts.ask(host, client.cmid, now));
        answers += u64::from(count.is_some());
        client.answers += u64::from(count.is_some());
        let licensed = count.is_some_and(|count| count >= scenario.required);
        too_low += u64::from(count.is_some() && !licensed);
        if licensed {
            client.license(now);
        }
        let pause = match scenario.sleeps.filter(|_| now == client.arrives) {
            _ if licensed => RENEW,
            Some(sleeps) => sleeps,
            None => RETRY,
        };
        due.push(Reverse((after(now, pause), at)));
    }
    let share = |after_own_arrival: Duration| {
        let holds = |client: &&SimClient| client.holds(after(client.arrives, after_own_arrival));
        let holding = u32::try_from(clients.iter().filter(holds).count()).unwrap_or(u32::MAX);
        f64::from(holding) / f64::from(scenario.clients.max(1))
    };
    let mut clients_by_answers = BTreeMap::new();
    for client in &clients {
        *clients_by_answers.entry(client.answers).or_default() += 1;
    }
    let waited = clients
        .iter()
        .map(|client| client.licences.first().map(|(from, _)| from.0 - client.arrives.0));
    let longest = waited
        .collect::<Option<Vec<_>>>()
        .and_then(|waited| waited.into_iter().max());
    Outcome {
        scenario: scenario.clone(),
        licensed_after: MEASURED.map(share),
        last_licensed_after: longest
            .and_then(|longest| u64::try_from(longest).ok())
            .map(Duration::from_millis),
        lost: u32::try_from(clients.iter().filter(|client| client.lost(end)).count()).unwrap_or(u32::MAX),
        answers,
        too_low,
        clients_by_answers,
        counts: hosts.counts(end),
    }
}

impl SimClient {
    fn license(&mut self, now: Millis) {
        let until = after(now, VALIDITY);
        match self.licences.last_mut() {
            Some(last) if now < last.1 => last.1 = until,
            _ => self.licences.push((now, until)),
        }
    }

    fn holds(&self, at: Millis) -> bool {
        self.licences.iter().any(|(from, until)| *from <= at && at < *until)
    }

    fn lost(&self, end: Millis) -> bool {
        self.licences.len() > 1 || self.licences.last().is_some_and(|(_, until)| *until < end)
    }
}

/// The clients with the times at which they come, spread at random within their period.
fn arrive(scenario: &Scenario, random: &mut SplitMix) -> Vec<SimClient> {
    let first = match scenario.arrivals {
        Arrivals::AtOnce => scenario.clients,
        Arrivals::Rolling => (scenario.clients / 2).max(scenario.required).min(scenario.clients),
    };
    let pseudonym = |random: &mut SplitMix| {
        let (low, high) = (random.next(), random.next());
        Pseudonym(((u128::from(high) << 64) | u128::from(low)).to_le_bytes())
    };
    (0..scenario.clients)
        .map(|number| {
            let within = if number < first { HOUR } else { DAY * 20 };
            let at = random.below(u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
            SimClient {
                address: pseudonym(random),
                cmid: pseudonym(random),
                arrives: millis(Duration::from_millis(at)),
                answers: 0,
                licences: Vec::new(),
            }
        })
        .collect()
}

fn millis(at: Duration) -> Millis {
    Millis(i64::try_from(at.as_millis()).unwrap_or(i64::MAX))
}

fn after(at: Millis, time: Duration) -> Millis {
    Millis(at.0.saturating_add(millis(time).0))
}
