//! What holds for every fleet, every client and every count.

use std::time::Duration;

use proptest::prelude::*;

use super::fleet::is_fresh;
use super::hash::{HashKey, Score};
use super::*;
use crate::ledger::{HostFact, Millis, Pseudonym};

const DAY: i64 = 24 * 3600 * 1000;
const NOW: Millis = Millis(100 * DAY);

/// A fleet, who of it is ejected, and a client.
#[derive(Debug, Clone)]
struct Case {
    hosts: Vec<HostSetup>,
    ejected: Vec<bool>,
    distinct: u64,
    config: RoutingConfig,
    knowledge: Knowledge,
    client: Client,
}

impl Case {
    fn fleet(&self) -> Fleet {
        let distinct = DistinctClients {
            addresses: self.distinct,
            machines: 0,
        };
        Fleet::new(&self.config, &self.hosts, distinct, self.knowledge, NOW)
    }

    fn health(&self, at: usize) -> Health {
        if self.ejected[at] {
            Health::Ejected {
                lasting: Duration::from_secs(1),
            }
        } else {
            Health::Well
        }
    }

    fn decide(&self) -> Decision {
        decide(&self.fleet(), |at| self.health(at), &self.client, NOW)
    }

    fn names(&self, decision: &Decision) -> Vec<String> {
        decision
            .order
            .iter()
            .map(|tried| self.hosts[tried.host].name.clone())
            .collect()
    }

    /// The same case with its hosts listed in another order.
    fn turned(&self, by: usize) -> Self {
        let mut turned = self.clone();
        let hosts = self.hosts.len();
        turned.ejected.truncate(hosts);
        turned.hosts.rotate_left(by % hosts);
        turned.ejected.rotate_left(by % hosts);
        turned.hosts.reverse();
        turned.ejected.reverse();
        if let Some(last) = &mut turned.client.last {
            last.host = last.host.map(|at| {
                let name = &self.hosts[at].name;
                turned.hosts.iter().position(|host| host.name == *name).unwrap()
            });
        }
        turned
    }
}

fn facts() -> impl Strategy<Value = Option<HostFact>> {
    let fact = (
        0..40 * DAY,
        prop::option::of(0u32..60),
        prop::option::of(prop::bool::weighted(0.8)),
    );
    prop::option::of(fact.prop_map(|(age, current_count, licensed)| HostFact {
        read_at: Millis(NOW.0 - age),
        current_count,
        required_count: None,
        licensed,
    }))
}

fn hosts(most: usize) -> impl Strategy<Value = Vec<HostSetup>> {
    let products = prop_oneof![
        4 => Just(vec![]),
        4 => Just(vec!["OfficeLTSC2024".to_owned()]),
        1 => Just(vec!["Office2016".to_owned()]),
    ];
    let host = (prop_oneof![1 => Just(0u32), 9 => 1u32..5], products, facts(), 0u64..40);
    prop::collection::vec(host, 1..=most).prop_map(|hosts| {
        let host =
            |(at, (weight, products, fact, seen)): (usize, (u32, Vec<String>, Option<HostFact>, u64))| HostSetup {
                name: format!("kms-{at}"),
                preference: u32::try_from(at).unwrap(),
                weight,
                products,
                fact,
                seen,
            };
        hosts.into_iter().enumerate().map(host).collect()
    })
}

fn cases() -> impl Strategy<Value = Case> {
    let last = (
        any::<prop::sample::Index>(),
        prop::bool::weighted(0.9),
        0..31 * DAY,
        any::<bool>(),
        0u8..30,
    );
    let knowledge = prop_oneof![6 => Just(Knowledge::Fresh), 2 => Just(Knowledge::LastKnown), 1 => Just(Knowledge::PreferenceOrder)];
    let policy = prop_oneof![9 => Just(Policy::CountAware), 1 => Just(Policy::Preference)];
    let mixed = prop_oneof![Just(MixedProductSets::Refuse), Just(MixedProductSets::Accept)];
    let required = prop::option::of(prop_oneof![Just(5u32), Just(25)]);
    (
        hosts(6),
        prop::collection::vec(prop::bool::weighted(0.2), 6),
        0u64..200,
        required,
        knowledge,
        policy,
        mixed,
    )
        .prop_flat_map(
            move |(hosts, ejected, distinct, required_count, knowledge, policy, mixed_product_sets)| {
                (any::<[u8; 16]>(), prop::option::of(last.clone())).prop_map(move |(pseudonym, last)| Case {
                    client: Client {
                        pseudonym: Pseudonym(pseudonym),
                        last: last.map(|(host, known, ago, warm, asks_today)| LastAnswer {
                            host: known.then(|| host.index(hosts.len())),
                            at: Millis(NOW.0 - ago),
                            warm,
                            asks_today,
                        }),
                    },
                    hosts: hosts.clone(),
                    ejected: ejected.clone(),
                    distinct,
                    config: RoutingConfig {
                        required_count,
                        policy,
                        mixed_product_sets,
                        ..RoutingConfig::default()
                    },
                    knowledge,
                })
            },
        )
}

/// Hosts that are all warm, so that only the hash decides.
fn warm_hosts(weights: &[u32]) -> Case {
    let hosts = weights.iter().enumerate().map(|(at, weight)| HostSetup {
        name: format!("kms-{at}"),
        preference: u32::try_from(at).unwrap(),
        weight: *weight,
        products: vec![],
        fact: None,
        seen: 1000,
    });
    Case {
        hosts: hosts.collect(),
        ejected: vec![false; weights.len()],
        distinct: 100_000,
        config: RoutingConfig::default(),
        knowledge: Knowledge::Fresh,
        client: Client {
            pseudonym: Pseudonym([0; 16]),
            last: None,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn the_order_in_which_hosts_are_listed_does_not_matter(case in cases(), by in 0usize..6) {
        let turned = case.turned(by);
        let (here, there) = (case.decide(), turned.decide());
        prop_assert_eq!(here.reason, there.reason);
        prop_assert_eq!(case.names(&here), turned.names(&there));
    }

    #[test]
    fn every_eligible_host_is_tried_once_and_no_other_ever(case in cases()) {
        let standings = case.fleet().standings(|at| case.health(at));
        let decision = case.decide();
        let mut tried: Vec<_> = decision.order.iter().map(|tried| tried.host).collect();
        tried.sort_unstable();
        let eligible: Vec<_> = (0..case.hosts.len()).filter(|at| standings[*at].eligible).collect();
        prop_assert_eq!(tried, eligible);
        prop_assert_eq!(decision.reason == Reason::NoHost, decision.order.is_empty());
        for (at, host) in case.hosts.iter().enumerate() {
            let fact = host.fact.as_ref().filter(|fact| is_fresh(fact, case.config.facts_fresh_for.get(), NOW));
            let licensed = fact.and_then(|fact| fact.licensed) != Some(false);
            prop_assert!(!standings[at].eligible || (licensed && !case.ejected[at]));
        }
    }

    #[test]
    fn product_sets_are_never_mixed_unless_accepted(case in cases()) {
        prop_assume!(case.config.mixed_product_sets == MixedProductSets::Refuse);
        let sets: std::collections::BTreeSet<_> =
            case.decide().order.iter().map(|tried| &case.hosts[tried.host].products).filter(|set| !set.is_empty()).collect();
        prop_assert!(sets.len() <= 1, "{:?}", sets);
    }

    #[test]
    fn a_client_that_may_hold_no_licence_never_goes_to_a_cold_host_while_a_warm_one_lives(case in cases()) {
        prop_assume!(case.config.policy == Policy::CountAware && case.knowledge != Knowledge::PreferenceOrder);
        let fleet = case.fleet();
        let standings = fleet.standings(|at| case.health(at));
        let warm = |at: usize| standings[at].warm && standings[at].eligible && case.hosts[at].weight > 0;
        prop_assume!((0..case.hosts.len()).any(warm));
        let decision = case.decide();
        // Not whether that host is warm now: it may have become so since, while this client slept.
        let renews = case.client.last.is_some_and(|last| NOW.0 - last.at.0 >= DAY && last.warm);
        if !renews {
            let warm_hosts = (0..case.hosts.len()).filter(|at| warm(*at)).count();
            // All warm hosts come before all cold ones, in fail-over too.
            prop_assert!(decision.order.iter().take(warm_hosts).all(|tried| warm(tried.host)), "{:?}", decision);
        } else if !warm(decision.order[0].host) {
            prop_assert_eq!(decision.reason, Reason::WarmsUp);
        }
    }

    #[test]
    fn while_no_host_is_warm_all_clients_go_to_the_highest_count(case in cases(), other: [u8; 16]) {
        let mut case = case;
        case.knowledge = Knowledge::Fresh;
        case.config = RoutingConfig::default();
        for host in &mut case.hosts {
            host.seen %= 5;
            host.fact = None;
            host.weight += 1;
        }
        let first = case.decide();
        prop_assert_eq!(first.reason, if first.order.is_empty() { Reason::NoHost } else { Reason::HighestCount });
        case.client = Client { pseudonym: Pseudonym(other), last: None };
        prop_assert_eq!(&case.decide(), &first);
        let fleet = case.fleet();
        let counts: Vec<_> = first.order.iter().filter(|tried| case.hosts[tried.host].weight > 0)
            .map(|tried| fleet.hosts[tried.host].count).collect();
        prop_assert!(counts.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn without_counts_the_preference_order_stands(case in cases()) {
        let mut case = case;
        case.knowledge = Knowledge::PreferenceOrder;
        let order: Vec<_> = case.decide().order.iter().map(|tried| (case.hosts[tried.host].weight == 0, tried.host)).collect();
        prop_assert!(order.is_sorted());
        // An empty ledger says the same.
        case.knowledge = Knowledge::Fresh;
        case.distinct = 0;
        case.client.last = None;
        for host in &mut case.hosts {
            host.seen = 0;
            host.fact = None;
        }
        let order: Vec<_> = case.decide().order.iter().map(|tried| (case.hosts[tried.host].weight == 0, tried.host)).collect();
        prop_assert!(order.is_sorted());
    }

    #[test]
    fn a_host_that_joins_takes_clients_and_moves_no_other(
        weights in prop::collection::vec(1u32..10, 2..6), client: [u8; 16],
    ) {
        let (mut before, mut after) = (warm_hosts(&weights[1..]), warm_hosts(&weights));
        // The one that joins has the lowest place in the list, so that all indices shift.
        after.hosts[0].name = "new".into();
        for (host, old) in after.hosts.iter_mut().skip(1).zip(&before.hosts) {
            host.name.clone_from(&old.name);
        }
        (before.client.pseudonym, after.client.pseudonym) = (Pseudonym(client), Pseudonym(client));
        let (was, is) = (before.names(&before.decide()), after.names(&after.decide()));
        prop_assert!(is[0] == "new" || is[0] == was[0]);
        // Read the other way: a host that leaves moves its own clients, each to the next in its hash order.
        let rest: Vec<_> = is.into_iter().filter(|name| name != "new").collect();
        prop_assert_eq!(rest, was);
    }

    #[test]
    fn an_ejected_host_moves_its_own_clients_to_the_next_in_hash_order(
        weights in prop::collection::vec(1u32..10, 2..6), out: prop::sample::Index, client: [u8; 16],
    ) {
        let mut case = warm_hosts(&weights);
        case.client.pseudonym = Pseudonym(client);
        let out = out.index(weights.len());
        let was: Vec<_> = case.decide().order.iter().map(|tried| tried.host).filter(|at| *at != out).collect();
        let own = case.decide().order[0].host == out;
        case.ejected[out] = true;
        let decision = case.decide();
        prop_assert_eq!(decision.reason == Reason::FailOver, own);
        prop_assert_eq!(decision.order.iter().map(|tried| tried.host).collect::<Vec<_>>(), was);
    }

    #[test]
    fn the_active_set_is_as_large_as_the_formula_says_while_nothing_joined(
        hosts in 1u64..6, distinct in 0u64..400, required in prop_oneof![Just(5u32), Just(25)],
    ) {
        let mut case = warm_hosts(&vec![1; usize::try_from(hosts).unwrap()]);
        case.hosts.iter_mut().for_each(|host| host.seen = 0);
        case.distinct = distinct;
        case.config.required_count = Some(required);
        let members = case.fleet().standings(|_| Health::Well).iter().filter(|standing| standing.member).count();
        let formula = (distinct / (2 * u64::from(required))).clamp(1, hosts);
        prop_assert_eq!(u64::try_from(members).unwrap(), formula);
    }

    #[test]
    fn a_configured_number_of_active_hosts_stands_over_the_clients(
        hosts in 1u64..6, distinct in 0u64..400, active in 1u32..8,
    ) {
        let mut case = warm_hosts(&vec![1; usize::try_from(hosts).unwrap()]);
        case.distinct = distinct;
        case.config.active_hosts = Some(active);
        let members = case.fleet().standings(|_| Health::Well).iter().filter(|standing| standing.member).count();
        prop_assert_eq!(u64::try_from(members).unwrap(), u64::from(active).min(hosts));
    }

    #[test]
    fn the_active_set_does_not_flap_around_a_threshold(steps in prop::collection::vec(-4i64..=4, 1..200), place in 2u64..4) {
        let mut case = warm_hosts(&[1, 1, 1]);
        case.hosts.iter_mut().for_each(|host| host.seen = 0);
        let (mut members, mut changes) = (0, 0);
        for step in steps {
            // D swings by less than N around the threshold of this place.
            case.distinct = (10 * place).checked_add_signed(step).unwrap();
            let standings = case.fleet().standings(|_| Health::Well);
            let now = standings.iter().filter(|standing| standing.member).count();
            changes += u32::from(members != 0 && now != members);
            members = now;
            // A host in the set has clients, if only those that warm it up.
            for (host, standing) in case.hosts.iter_mut().zip(&standings) {
                host.seen = u64::from(standing.member);
            }
        }
        prop_assert!(changes <= 1, "{changes} changes");
    }

    /// A host whose count swings around N keeps the clients that renew; only those that may hold no licence go elsewhere
    /// while it is below, and each of them to a warm host.
    #[test]
    fn a_count_that_swings_around_the_required_one_moves_no_client_that_renews(
        swings in 0usize..3, client: [u8; 16], ago in DAY..30 * DAY, warm: bool,
    ) {
        let mut case = warm_hosts(&[1, 1, 1]);
        case.client.pseudonym = Pseudonym(client);
        let at = Millis(NOW.0 - ago);
        case.client.last = Some(LastAnswer { host: Some(swings), at, warm, asks_today: 0 });
        let mut first = |seen| {
            case.hosts[swings].seen = seen;
            case.decide().order[0].host
        };
        let (above, below) = (first(5), first(4));
        prop_assert_eq!(above, first(5));
        if warm || above != swings {
            prop_assert_eq!(above, below);
        } else {
            prop_assert!(below != swings, "a client that may hold no licence stays at a cold host");
        }
    }

    /// However often a host fails and comes back: as long as each ejection is shorter than `promoteAfter`, no other host
    /// takes its place.
    #[test]
    fn short_ejections_never_change_the_active_set(
        ejected in prop::collection::vec(prop::option::of(0u64..300), 1..50), out in 0usize..3, distinct in 0u64..40,
    ) {
        let mut case = warm_hosts(&[1, 1, 1]);
        case.distinct = distinct;
        let members = |lasting: Option<u64>| -> Vec<bool> {
            let health = |at: usize| match lasting.filter(|_| at == out) {
                Some(seconds) => Health::Ejected { lasting: Duration::from_secs(seconds) },
                None => Health::Well,
            };
            case.fleet().standings(health).iter().map(|standing| standing.member).collect()
        };
        for lasting in ejected {
            prop_assert_eq!(members(lasting), members(None));
        }
    }

    #[test]
    fn what_a_host_reports_stands_against_what_relays_saw(reported in 0u32..50, seen in 0u64..50, age in 0..2 * 3600 * 1000i64) {
        let mut case = warm_hosts(&[1]);
        case.hosts[0].seen = seen;
        case.hosts[0].fact = Some(HostFact {
            read_at: Millis(NOW.0 - age), current_count: Some(reported), required_count: Some(5), licensed: Some(true),
        });
        let host = &case.fleet().hosts[0];
        prop_assert_eq!((host.count, host.count_from), (reported.min(10), CountSource::Reported));
    }
}

#[test]
fn an_old_count_of_a_host_only_raises_what_relays_saw() {
    let mut case = warm_hosts(&[1]);
    for (age, seen, expected) in [(DAY, 3, 8), (DAY, 9, 9), (31 * DAY, 3, 3)] {
        case.hosts[0].seen = seen;
        case.hosts[0].fact = Some(HostFact {
            read_at: Millis(NOW.0 - age),
            current_count: Some(8),
            required_count: None,
            licensed: None,
        });
        assert_eq!(case.fleet().hosts[0].count, expected);
    }
}

#[test]
fn a_client_that_asks_again_within_a_day_goes_to_the_next_warm_host() {
    let mut case = warm_hosts(&[1, 1, 1]);
    let order: Vec<_> = case.decide().order.iter().map(|tried| tried.host).collect();
    let mut ask = |host, minutes: i64| {
        case.client.last = Some(LastAnswer {
            host: Some(host),
            at: Millis(NOW.0 - minutes * 60_000),
            warm: true,
            asks_today: 1,
        });
        let decision = case.decide();
        (decision.reason, decision.order[0].host)
    };
    assert_eq!(ask(order[0], 120), (Reason::RetryElsewhere, order[1]));
    assert_eq!(ask(order[1], 120), (Reason::RetryElsewhere, order[2]));
    assert_eq!(ask(order[2], 120), (Reason::RetryElsewhere, order[0]));
    assert_eq!(
        ask(order[0], 1),
        (Reason::Sticky, order[0]),
        "another product of the same visit"
    );
    assert_eq!(ask(order[0], 7 * 24 * 60), (Reason::Sticky, order[0]), "a renewal");
}

#[test]
fn a_short_ejection_promotes_nobody_and_a_long_one_does() {
    let mut case = warm_hosts(&[1, 1]);
    case.hosts[1].seen = 0;
    case.distinct = 12;
    let states = |seconds| {
        let lasting = Duration::from_secs(seconds);
        let standings = case.fleet().standings(|at| {
            if at == 0 {
                Health::Ejected { lasting }
            } else {
                Health::Well
            }
        });
        (standings[0].member, standings[1].state)
    };
    assert_eq!(states(10), (true, HostState::Cold));
    assert_eq!(states(600), (false, HostState::Warming));
}

#[test]
fn a_client_that_was_told_too_low_and_slept_is_no_renewal_though_its_host_is_warm_by_now() {
    let mut case = warm_hosts(&[1, 1]);
    // The second host is cold, and the client belongs to it.
    case.hosts[1].seen = 0;
    let belongs = |case: &Case| Score::new(HashKey::of("kms-1"), 1, case.client.pseudonym);
    let other = |case: &Case| Score::new(HashKey::of("kms-0"), 1, case.client.pseudonym);
    while belongs(&case) < other(&case) {
        case.client.pseudonym.0[0] += 1;
    }
    for (warm, reason, first) in [(false, Reason::LastAnswerCold, 0), (true, Reason::WarmsUp, 1)] {
        case.client.last = Some(LastAnswer {
            host: Some(0),
            at: Millis(NOW.0 - 3 * DAY),
            warm,
            asks_today: 0,
        });
        let decision = case.decide();
        assert_eq!((decision.reason, decision.order[0].host), (reason, first));
    }
}

#[test]
fn a_host_without_a_licence_does_not_say_which_products_the_others_are_to_carry() {
    let mut case = warm_hosts(&[1, 1]);
    case.hosts[0].products = vec!["Office2016".to_owned()];
    case.hosts[1].products = vec!["OfficeLTSC2024".to_owned()];
    assert_eq!(case.names(&case.decide()), ["kms-0"]);
    case.hosts[0].fact = Some(HostFact {
        read_at: NOW,
        current_count: None,
        required_count: None,
        licensed: Some(false),
    });
    assert_eq!(case.names(&case.decide()), ["kms-1"]);
}
