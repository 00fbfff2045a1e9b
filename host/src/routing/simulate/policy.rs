//! Who chooses the host that a client's request reaches.

use std::time::Duration;

use futures::FutureExt;
use serde::{Deserialize, Serialize};

use super::SplitMix;
use super::hosts::Hosts;
use super::srv::choose;
use crate::config::{KMS_PORT, LicensedHostConfig};
use crate::ledger::{Answered, Ledger, MemoryLedger, Millis, Pseudonym};
use crate::routing::{Health, RoutingConfig, View};

/// How clients find hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum PolicyName {
    /// An SRV record that lists all hosts; each client keeps to the one that answered.
    DnsRandom,
    /// A load balancer that gives each connection to the next healthy host.
    RoundRobin,
    /// A load balancer that chooses by a hash of the source address, modulo the healthy hosts.
    SourceHash,
    /// Relays with this routing.
    CountAware,
}

impl PolicyName {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::DnsRandom, Self::RoundRobin, Self::SourceHash, Self::CountAware];

    /// As tables show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DnsRandom => "DNS random",
            Self::RoundRobin => "round robin",
            Self::SourceHash => "source hash",
            Self::CountAware => "count-aware",
        }
    }
}

/// A policy at work.
pub(super) enum Policy {
    DnsRandom {
        cached: Vec<Option<usize>>,
        random: SplitMix,
    },
    RoundRobin {
        next: usize,
    },
    SourceHash,
    CountAware(Box<Relays>),
}

/// The relays: one view stands for all, as all decide alike.
pub(super) struct Relays {
    config: RoutingConfig,
    ledger: MemoryLedger,
    view: View,
    /// Hosts in the view: it gets a changed configuration when one joins.
    listed: usize,
}

impl Policy {
    pub(super) fn new(name: PolicyName, clients: usize, seed: u64, required: u32) -> Self {
        match name {
            PolicyName::DnsRandom => Self::DnsRandom {
                cached: vec![None; clients],
                random: SplitMix(seed),
            },
            PolicyName::RoundRobin => Self::RoundRobin { next: 0 },
            PolicyName::SourceHash => Self::SourceHash,
            PolicyName::CountAware => {
                let config = RoutingConfig {
                    required_count: Some(required),
                    ..RoutingConfig::default()
                };
                let view = View::new(&config, &[], Millis(0));
                Self::CountAware(Box::new(Relays {
                    config,
                    ledger: MemoryLedger::new(),
                    view,
                    listed: 0,
                }))
            }
        }
    }

    /// The host that answers this request; none if no host does.
    pub(super) fn reach(&mut self, hosts: &Hosts, client: usize, address: Pseudonym, now: Millis) -> Option<usize> {
        match self {
            Self::DnsRandom { cached, random } => {
                let cached = cached.get_mut(client)?;
                if cached.is_none_or(|host| !hosts.answers(host, now)) {
                    // The order in which targets that do not answer are tried does not matter.
                    let alive = hosts.alive(now).filter_map(|at| Some((at, hosts.hosts.get(at)?.srv)));
                    *cached = choose(&alive.collect::<Vec<_>>(), random);
                }
                *cached
            }
            Self::RoundRobin { next } => {
                let alive: Vec<usize> = hosts.alive(now).collect();
                *next += 1;
                alive.get((*next - 1) % alive.len().max(1)).copied()
            }
            Self::SourceHash => {
                let alive: Vec<usize> = hosts.alive(now).collect();
                let hash = u128::from_le_bytes(address.0) % u128::try_from(alive.len().max(1)).unwrap_or(1);
                usize::try_from(hash).ok().and_then(|at| alive.get(at)).copied()
            }
            Self::CountAware(relays) => relays.reach(hosts, address, now),
        }
    }
}

impl Relays {
    fn reach(&mut self, hosts: &Hosts, address: Pseudonym, now: Millis) -> Option<usize> {
        let listed: Vec<usize> = hosts.listed(now).collect();
        if listed.len() != self.listed {
            self.listed = listed.len();
            self.view.replace(&self.config, &configured(hosts, &listed), now);
        }
        let since = self.view.since(now);
        let read = self.ledger.routes(since, now).now_or_never()?.ok()?;
        self.view.absorb(read, since, now);
        // Relays notice within seconds that a host is dead.
        let health = |at: usize| match hosts.hosts.get(at).and_then(|host| host.until) {
            Some(until) if until <= now => Health::Ejected {
                lasting: Duration::from_millis(u64::try_from(now.0 - until.0).unwrap_or(0)),
            },
            _ => Health::Well,
        };
        let snapshot = self.view.load();
        let decision = snapshot.decide(health, address, now);
        let reached = decision.order.iter().find(|tried| hosts.answers(tried.host, now))?;
        let answered = Answered {
            client: address,
            host: hosts.hosts.get(reached.host)?.name.clone(),
            at: now,
            warm: reached.warm,
        };
        self.ledger.answered(&[answered]).now_or_never()?.ok()?;
        Some(reached.host)
    }
}

/// Hosts join at the end, so a host's index is the same here and there.
fn configured(hosts: &Hosts, listed: &[usize]) -> Vec<LicensedHostConfig> {
    let host = |at: &usize| {
        Some(LicensedHostConfig {
            name: hosts.hosts.get(*at)?.name.clone(),
            address: "192.0.2.1".to_owned(),
            port: KMS_PORT,
            weight: 1,
            products: Vec::new(),
            facts: None,
        })
    };
    listed.iter().filter_map(host).collect()
}
