//! Section `routing`: how clients are spread over licensed hosts.

use serde::{Deserialize, Serialize};

use crate::config::period::Period;
use crate::config::place::SectionProblem;

/// N when neither the configuration nor a host says another: Office and Windows Server need 5 clients ("Volume
/// Activation Planning Guide").
pub const DEFAULT_REQUIRED_COUNT: u32 = 5;

/// How clients are spread over licensed hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RoutingConfig {
    /// What decides.
    pub policy: Policy,
    /// Required count N, 1..=1000: the largest that any product of the fleet needs (5 for Office and Windows Server, 25
    /// for Windows clients). Without it, the largest that the hosts report, else 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub required_count: Option<u32>,
    /// Hosts in the active set, 1..=64, whatever the number of clients. Without it as many as the clients fill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_hosts: Option<u32>,
    /// Whether hosts with different products serve the same clients.
    pub mixed_product_sets: MixedProductSets,
    /// Requests of one address within 24 hours beyond which several clients share it (NAT), 1..=255. One client without
    /// a licence asks every 2 hours, 12 times.
    pub shared_address_asks: u8,
    /// How often the ledger is read.
    pub refresh_interval: Period,
    /// How old the last read may be before status and metrics call it `lastKnown`.
    pub stale_after: Period,
    /// How old the last read may be before hosts are taken in their configured order.
    pub last_known_for: Period,
    /// How long a count that was read from a host stands against what the relays saw since. Then the higher counts.
    pub facts_fresh_for: Period,
    /// How long a host may be ejected before another takes its place in the active set.
    pub promote_after: Period,
    /// Clients whose last answer is remembered, 1000..=10000000; beyond them those seen longest ago are forgotten, and
    /// are treated as new. 100,000 take about 8 MiB.
    pub max_clients: u32,
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Self {
            policy: Policy::CountAware,
            required_count: None,
            active_hosts: None,
            mixed_product_sets: MixedProductSets::Refuse,
            shared_address_asks: 14,
            refresh_interval: Period::seconds(2),
            stale_after: Period::seconds(30),
            last_known_for: Period::seconds(24 * 3600),
            facts_fresh_for: Period::seconds(2 * 3600),
            promote_after: Period::seconds(5 * 60),
            max_clients: 200_000,
        }
    }
}

/// What decides where clients go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Policy {
    /// The hosts' counts: every client activates, however many hosts there are.
    #[default]
    CountAware,
    /// The configured order: all clients to the first host that answers.
    Preference,
}

/// Whether hosts with different products serve the same clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MixedProductSets {
    /// Only hosts that carry what the preferred host carries are used. On another host, clients of a missing product
    /// would get 0xC004F042.
    #[default]
    Refuse,
    /// All hosts are used.
    Accept,
}

impl RoutingConfig {
    /// Everything that is wrong with the section.
    pub fn problems(&self) -> Vec<SectionProblem> {
        let mut found = Vec::new();
        let mut problem = |field, message: String, hint| found.push(SectionProblem::at(field, message, hint));
        if let Some(required @ (0 | 1001..)) = self.required_count {
            problem(
                "requiredCount",
                format!("{required} is out of range"),
                "from 1 to 1000 is possible",
            );
        }
        if let Some(active @ (0 | 65..)) = self.active_hosts {
            problem(
                "activeHosts",
                format!("{active} is out of range"),
                "from 1 to 64 is possible",
            );
        }
        if self.shared_address_asks == 0 {
            problem(
                "sharedAddressAsks",
                "0 would make every address a shared one".into(),
                "from 1 to 255 is possible",
            );
        }
        if !(1000..=10_000_000).contains(&self.max_clients) {
            let message = format!("{} is out of range", self.max_clients);
            problem("maxClients", message, "from 1000 to 10000000 is possible");
        }
        if self.refresh_interval.get().is_zero() {
            problem(
                "refreshInterval",
                "must be longer than zero".into(),
                "write a length of time such as 2s",
            );
        }
        if self.stale_after <= self.refresh_interval {
            let message = format!(
                "{} is not longer than refreshInterval {}",
                self.stale_after, self.refresh_interval
            );
            problem("staleAfter", message, "set it to several times `refreshInterval`");
        }
        if self.last_known_for < self.stale_after {
            let message = format!(
                "{} is shorter than staleAfter {}",
                self.last_known_for, self.stale_after
            );
            problem("lastKnownFor", message, "set it to `staleAfter` or longer");
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_usable_and_every_wrong_setting_is_named() {
        assert_eq!(RoutingConfig::default().problems(), []);
        let wrong = RoutingConfig {
            required_count: Some(0),
            active_hosts: Some(0),
            shared_address_asks: 0,
            max_clients: 1,
            refresh_interval: Period::seconds(0),
            stale_after: Period::seconds(0),
            last_known_for: Period(std::time::Duration::ZERO),
            ..RoutingConfig::default()
        };
        let fields: Vec<_> = wrong
            .problems()
            .into_iter()
            .map(|problem| crate::config::place::display_path(&problem.path))
            .collect();
        assert_eq!(
            fields,
            [
                "requiredCount",
                "activeHosts",
                "sharedAddressAsks",
                "maxClients",
                "refreshInterval",
                "staleAfter"
            ]
        );
    }
}
