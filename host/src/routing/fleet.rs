//! What is known of the licensed hosts, and what each is to the fleet: the active set.

use std::cmp::Reverse;
use std::time::Duration;

use smallvec::SmallVec;

use super::config::{DEFAULT_REQUIRED_COUNT, MixedProductSets, Policy, RoutingConfig};
use super::hash::HashKey;
use super::reason::{ClientSource, CountSource, HostState, Knowledge};
use crate::ledger::{HostFact, HostName, Millis};

/// How long an entry of a host's client table lives, and with it anything a count can prove: 30 days.
const COUNT_LIFE_MS: i64 = crate::ledger::counting::ENTRY_LIFE_MS;

/// A licensed host as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSetup {
    /// Its name. Its clients' hashes depend on it and on nothing else.
    pub name: HostName,
    /// Its place in the preference order, the lowest first.
    pub preference: u32,
    /// Share of the clients among active hosts; 0 is used only when no other host is eligible.
    pub weight: u32,
    /// Products whose host keys it carries, in any order. None given: taken to be what the others carry.
    pub products: Vec<String>,
    /// What was read from it.
    pub fact: Option<HostFact>,
    /// Clients within 30 days that it answered last, as the relays saw them.
    pub seen: u64,
}

/// Distinct clients within 30 days, counted in two ways.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DistinctClients {
    /// Source addresses that the relays saw.
    pub addresses: u64,
    /// Machines in the events that were read from licensed hosts.
    pub machines: u64,
}

/// A licensed host with what is believed of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name.
    pub name: HostName,
    pub(super) key: HashKey,
    pub(super) preference: u32,
    /// Share of the clients among active hosts.
    pub weight: u32,
    /// Current count as believed, at most 2N.
    pub count: u32,
    /// Where the count comes from.
    pub count_from: CountSource,
    /// Whether its host key is activated; taken to be unless it was read otherwise lately.
    pub licensed: bool,
    /// Whether it carries what the preferred host carries, or sets may be mixed.
    pub same_products: bool,
}

/// Whether a host answers, as this replica sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It may be asked.
    Well,
    /// It is ejected for failures.
    Ejected {
        /// For how long now.
        lasting: Duration,
    },
}

/// The licensed hosts and the totals, as of one reading of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The hosts, as given.
    pub hosts: Vec<Host>,
    /// D, distinct clients within 30 days.
    pub distinct_clients: u64,
    /// What D counts.
    pub clients_from: ClientSource,
    /// N, the largest required count.
    pub required: u32,
    /// How far the counts can be trusted.
    pub knowledge: Knowledge,
    /// What decides.
    pub policy: Policy,
    pub(super) shared_address_asks: u8,
    promote_after: Duration,
    active_hosts: Option<u64>,
    /// Indices of the hosts, the most preferred first.
    pub(super) by_preference: Vec<usize>,
}

/// What a host is to the fleet now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// In a word.
    pub state: HostState,
    /// In the active set. An ejected host stays in it for a while.
    pub member: bool,
    /// Its count has reached N.
    pub warm: bool,
    /// May be asked now.
    pub eligible: bool,
}

impl DistinctClients {
    /// D. An address may stand for many machines (NAT), and events may be read from some hosts only, or not yet: either
    /// number can be too low. One that is too high, as where machines change their addresses, costs a second request now
    /// and then, but nobody's activation.
    fn larger(self) -> (u64, ClientSource) {
        if self.machines > self.addresses {
            (self.machines, ClientSource::Machines)
        } else {
            (self.addresses, ClientSource::Addresses)
        }
    }
}

impl Fleet {
    /// Puts together what is known at `now`.
    pub fn new(
        config: &RoutingConfig,
        hosts: &[HostSetup],
        distinct: DistinctClients,
        knowledge: Knowledge,
        now: Millis,
    ) -> Self {
        let reported = hosts.iter().filter_map(|host| host.fact.as_ref()?.required_count).max();
        let required = config
            .required_count
            .or(reported)
            .unwrap_or(DEFAULT_REQUIRED_COUNT)
            .max(1);
        let mut by_preference: Vec<usize> = (0..hosts.len()).collect();
        by_preference.sort_by_key(|at| hosts.get(*at).map(|host| (host.preference, &host.name)));
        let stated = |host: &HostSetup| {
            let mut products = host.products.clone();
            products.sort_unstable();
            products.dedup();
            (!products.is_empty()).then_some(products)
        };
        // A host that activates nobody has no say in what the others are to carry.
        let licensed = |host: &HostSetup| {
            let fact = host.fact.as_ref();
            let fresh = fact.filter(|fact| is_fresh(fact, config.facts_fresh_for.get(), now));
            fresh.and_then(|fact| fact.licensed).unwrap_or(true)
        };
        let by_say = by_preference.iter().filter_map(|at| hosts.get(*at));
        let pool = by_say
            .clone()
            .filter(|host| licensed(host) && host.weight > 0)
            .chain(by_say.filter(|host| licensed(host)))
            .find_map(stated);
        let accept = config.mixed_product_sets == MixedProductSets::Accept;
        let believed = hosts.iter().map(|host| {
            let (count, count_from) = believed_count(host, config.facts_fresh_for.get(), now);
            Host {
                name: host.name.clone(),
                key: HashKey::of(&host.name),
                preference: host.preference,
                weight: host.weight,
                count: count.min(required.saturating_mul(2)),
                count_from,
                licensed: licensed(host),
                same_products: accept || stated(host).is_none_or(|products| Some(products) == pool),
            }
        });
        let (distinct_clients, clients_from) = distinct.larger();
        Self {
            hosts: believed.collect(),
            distinct_clients,
            clients_from,
            required,
            knowledge,
            policy: config.policy,
            shared_address_asks: config.shared_address_asks,
            promote_after: config.promote_after.get(),
            active_hosts: config.active_hosts.map(u64::from),
            by_preference,
        }
    }

    /// What each host is now, in the hosts' order.
    ///
    /// The active set is taken in preference order. The host at place i (from 1) joins it when D reaches 2N x i, and
    /// stays, while it has clients, until D falls under that by more than N: so the set is a function of the shared
    /// counts alone, and yet does not swing when D does. The most preferred host is always in it. A configured number of
    /// active hosts stands over D.
    pub fn standings(&self, health: impl Fn(usize) -> Health) -> SmallVec<[Standing; 8]> {
        let mut standings: SmallVec<[Standing; 8]> = SmallVec::with_capacity(self.hosts.len());
        for (at, host) in self.hosts.iter().enumerate() {
            let warm = host.count >= self.required;
            let state = match health(at) {
                _ if !host.same_products => HostState::OtherProducts,
                _ if !host.licensed => HostState::Unlicensed,
                Health::Ejected { .. } => HostState::Ejected,
                Health::Well if host.weight == 0 => HostState::Reserve,
                Health::Well if warm => HostState::Standby,
                Health::Well => HostState::Cold,
            };
            standings.push(Standing {
                state,
                member: false,
                warm,
                eligible: state.is_eligible(),
            });
        }
        let (clients, required) = (self.distinct_clients, u64::from(self.required));
        let mut place = 1;
        for at in &self.by_preference {
            let (Some(host), Some(standing)) = (self.hosts.get(*at), standings.get_mut(*at)) else {
                continue;
            };
            let candidate = match standing.state {
                HostState::Standby | HostState::Cold => true,
                HostState::Ejected => {
                    host.weight > 0
                        && matches!(health(*at), Health::Ejected { lasting } if lasting < self.promote_after)
                }
                _ => false,
            };
            if !candidate {
                continue;
            }
            let joins_at = required.saturating_mul(2).saturating_mul(place);
            let stays = host.count > 0 && clients.saturating_add(required) >= joins_at;
            let joins = self
                .active_hosts
                .map_or(place == 1 || clients >= joins_at || stays, |active| place <= active);
            if joins {
                place += 1;
                standing.member = true;
                standing.state = match standing.state {
                    HostState::Standby => HostState::Active,
                    HostState::Cold => HostState::Warming,
                    other => other,
                };
            }
        }
        standings
    }

    /// Eligible hosts by count, the highest first; equal ones in preference order. Weight 0 comes last.
    pub(super) fn by_count(&self, standings: &[Standing]) -> SmallVec<[usize; 8]> {
        let mut order: SmallVec<[usize; 8]> = self.eligible(standings).collect();
        order.sort_by_key(|at| self.hosts.get(*at).map(|host| (host.weight == 0, Reverse(host.count))));
        order
    }

    /// Eligible hosts in preference order.
    pub(super) fn eligible<'a>(&'a self, standings: &'a [Standing]) -> impl Iterator<Item = usize> + 'a {
        let eligible = |at: &usize| standings.get(*at).is_some_and(|standing| standing.eligible);
        self.by_preference.iter().copied().filter(eligible)
    }
}

pub(super) fn is_fresh(fact: &HostFact, fresh_for: Duration, now: Millis) -> bool {
    let age = now.0.saturating_sub(fact.read_at.0);
    u128::try_from(age).map_or(true, |age| age <= fresh_for.as_millis())
}

/// A fresh count from the host itself stands. An older one is a lower bound of what the host had then, and so is what
/// relays saw: the higher of the two. After 30 days none of the clients that it counted is proven to be in the table.
fn believed_count(host: &HostSetup, fresh_for: Duration, now: Millis) -> (u32, CountSource) {
    let seen = (u32::try_from(host.seen).unwrap_or(u32::MAX), CountSource::Seen);
    let reported = host.fact.as_ref().and_then(|fact| Some((fact.current_count?, fact)));
    match reported {
        Some((count, fact)) if !is_fresh(fact, fresh_for, now) => {
            if now.0.saturating_sub(fact.read_at.0) < COUNT_LIFE_MS && count > seen.0 {
                (count, CountSource::Reported)
            } else {
                seen
            }
        }
        Some((count, _)) => (count, CountSource::Reported),
        None => seen,
    }
}
