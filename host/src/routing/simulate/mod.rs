//! A simulated fleet: clients that behave as Microsoft documents, licensed hosts that count as KMS hosts do, and a policy
//! between them.
//!
//! Deterministic: a seed, no wall clock, no threads. Count-aware routing is not modelled but *run*: the simulation calls
//! the [`View`](super::View) and [`decide`](super::decide()) that the relays call, on a ledger in memory.
//!
//! The clients ("Volume Activation Planning Guide", `slmgr` documentation):
//! - They ask for the first time when they are installed. The host answers with its count; the client holds a licence if
//!   the count has reached N, for 180 days.
//! - Without a licence, and after a renewal that failed, they ask again every 2 hours; else they renew after 7 days.
//! - They keep to the host that answered last. If it does not answer they choose among the targets of the SRV record, by
//!   weight at random within the lowest priority, until one answers.
//!
//! The hosts keep a client for 30 days after its last request, and the most recent 2N clients at most.

mod grid;
mod hosts;
mod policy;
mod run;
mod srv;
mod svg;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

pub use grid::{Grid, grid};
pub use policy::PolicyName;
pub use run::run;
pub use srv::SrvTarget;
pub use svg::svg;
pub use table::{summary, table};

/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// When shares of licensed clients are measured: 4 hours, 24 hours, 7 days and 40 days.
pub const MEASURED: [Duration; 4] = [
    Duration::from_secs(4 * 3600),
    Duration::from_secs(24 * 3600),
    Duration::from_secs(7 * 24 * 3600),
    Duration::from_secs(40 * 24 * 3600),
];

/// How clients come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Arrivals {
    /// All are installed within the first hour.
    AtOnce,
    /// Half of them, and at least N if there are so many, within the first hour; the others one by one until day 20.
    Rolling,
}

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scenario {
    /// Who chooses the host.
    pub policy: PolicyName,
    /// Clients, each with its own address.
    pub clients: u32,
    /// Licensed hosts at the beginning.
    pub hosts: u32,
    /// N.
    pub required: u32,
    /// How clients come.
    pub arrivals: Arrivals,
    /// When the most preferred host dies for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dies_at: Option<Duration>,
    /// When a new host joins: with an empty table, as the least preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joins_at: Option<Duration>,
    /// Ranks of the hosts in the SRV record, in the hosts' order; those beyond have priority 0 and weight 0.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub srv: Vec<SrvTarget>,
    /// How long a client is switched off after a first request in vain; none asks again after two hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sleeps: Option<Duration>,
    /// How long is simulated.
    pub lasts: Duration,
    /// Another seed gives other arrivals and other choices.
    pub seed: u64,
}

impl Scenario {
    /// A host dies on day 3 and a new one joins on day 10; 200 days, so that licences of 180 days can be lost.
    pub fn new(policy: PolicyName, clients: u32, hosts: u32, required: u32) -> Self {
        Self {
            policy,
            clients,
            hosts,
            required,
            arrivals: Arrivals::AtOnce,
            dies_at: Some(DAY * 3),
            joins_at: Some(DAY * 10),
            srv: Vec::new(),
            sleeps: None,
            lasts: DAY * 200,
            seed: 1,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What was simulated.
    pub scenario: Scenario,
    /// Share of the clients that held a licence so long after their own first request ([`MEASURED`]).
    pub licensed_after: [f64; 4],
    /// The longest that a client waited for its first licence; none if one still waits at the end.
    pub last_licensed_after: Option<Duration>,
    /// Clients that had a licence and lost it.
    pub lost: u32,
    /// Requests that a host answered.
    pub answers: u64,
    /// Answers whose count was too low.
    pub too_low: u64,
    /// Clients by the number of their requests that a host answered.
    pub clients_by_answers: BTreeMap<u64, u32>,
    /// The count that each host shows at the end which still answers.
    pub counts: BTreeMap<String, u32>,
}

/// A small generator of random numbers whose results never change (Steele, Lea, Flood: "Fast splittable pseudorandom
/// number generators"). Good enough to choose hosts by; nothing secret depends on it.
#[derive(Debug, Clone)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is small against 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[cfg(test)]
mod tests;
