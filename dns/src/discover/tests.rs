use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

fn zone() -> ZoneName {
    "corp.example.com".parse().unwrap()
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Entry {
    Entry {
        name: zone().service(),
        data: Data::Srv {
            priority,
            weight,
            port,
            target: Name::from_ascii(target).unwrap(),
        },
    }
}

fn with_address() -> Addresses {
    Addresses {
        addresses: ["192.0.2.1".parse().unwrap()].into(),
        ..Addresses::default()
    }
}

fn judged(entries: &[Entry], marks: &[Mark], found: Addresses) -> Discovery {
    let entries: BTreeSet<Entry> = entries.iter().cloned().collect();
    let found = entries
        .iter()
        .filter_map(target)
        .map(|name| (name, found.clone()))
        .collect();
    judge(zone(), &entries, marks, &found)
}

#[test]
fn sound_records_cause_no_warning() {
    let discovery = judged(
        &[
            srv(0, 1, 1688, "a.corp.example.com."),
            srv(0, 1, 1688, "b.corp.example.com."),
        ],
        &[],
        with_address(),
    );
    assert_eq!(discovery.warnings, []);
    assert!(discovery.is_usable());
}

#[test]
fn each_fault_has_its_warning() {
    let none = judged(&[], &[], with_address());
    assert!(matches!(none.warnings[..], [Warning::NoRecords { .. }]) && !none.is_usable());

    let one = srv(0, 0, 1688, "a.corp.example.com.");
    let addressless = judged(std::slice::from_ref(&one), &[], Addresses::default());
    assert!(matches!(addressless.warnings[..], [Warning::NoAddress { .. }]));

    let alias = Addresses {
        alias: true,
        ..with_address()
    };
    assert!(matches!(
        judged(std::slice::from_ref(&one), &[], alias).warnings[..],
        [Warning::AliasTarget { .. }]
    ));

    let failure = Addresses {
        failure: Some("refused".into()),
        ..Addresses::default()
    };
    assert!(matches!(
        judged(std::slice::from_ref(&one), &[], failure).warnings[..],
        [Warning::Unresolved { .. }]
    ));

    let port = judged(&[srv(0, 0, 1689, "a.corp.example.com.")], &[], with_address());
    assert!(matches!(port.warnings[..], [Warning::OtherPort { port: 1689, .. }]));

    let root = judged(&[srv(0, 0, 0, ".")], &[], with_address());
    assert!(matches!(root.warnings[..], [Warning::NotAvailable]));

    let priorities = judged(
        &[one.clone(), srv(10, 0, 1688, "b.corp.example.com.")],
        &[],
        with_address(),
    );
    assert_eq!(
        priorities.warnings,
        [Warning::PriorityExcludes {
            excluded: vec!["b.corp.example.com".into()],
            preferred: vec!["a.corp.example.com".into()],
        }]
    );

    let zero = judged(
        &[one.clone(), srv(0, 5, 1688, "b.corp.example.com.")],
        &[],
        with_address(),
    );
    assert!(matches!(zero.warnings[..], [Warning::WeightZero { .. }]));

    let many: Vec<Entry> = (0..40)
        .map(|index| srv(0, 0, 1688, &format!("h{index}.corp.example.com.")))
        .collect();
    assert!(matches!(
        judged(&many, &[], with_address()).warnings[..],
        [Warning::TooMany { count: 40, .. }]
    ));

    let mark = Mark::of(&"c1".parse().unwrap(), &one);
    let two = judged(&[one, srv(0, 0, 1688, "b.corp.example.com.")], &[mark], with_address());
    assert_eq!(
        two.warnings,
        [Warning::SeveralOwners {
            owners: vec!["c1".into(), "unmarked".into()]
        }]
    );
}

#[test]
fn weights_share_the_clients_out() {
    let discovery = judged(
        &[
            srv(0, 300, 1688, "a.corp.example.com."),
            srv(0, 100, 1688, "b.corp.example.com."),
        ],
        &[],
        with_address(),
    );
    let mut rng = StdRng::seed_from_u64(7);
    let first = (0..4000)
        .filter(|_| discovery.order(&mut rng)[0].target.starts_with('a'))
        .count();
    assert!(
        (2800..3300).contains(&first),
        "{first} of 4000 instead of about three quarters"
    );
}

proptest! {
    #[test]
    fn an_order_holds_every_target_once_and_never_sets_a_later_priority_before_an_earlier(
        records in proptest::collection::btree_set((0u16..3, 0u16..4, 0u8..20), 0..20),
        seed: u64,
    ) {
        let entries: Vec<Entry> = records
            .iter()
            .map(|(priority, weight, host)| srv(*priority, *weight, 1688, &format!("h{host}.corp.example.com.")))
            .collect();
        let discovery = judged(&entries, &[], with_address());
        let order = discovery.order(&mut StdRng::seed_from_u64(seed));
        prop_assert!(order.is_sorted_by_key(|candidate| candidate.priority));
        prop_assert_eq!(order.len(), discovery.candidates.len());
        for candidate in &discovery.candidates {
            prop_assert!(order.contains(candidate));
        }
        prop_assert_eq!(&order, &discovery.order(&mut StdRng::seed_from_u64(seed)), "same chance, same order");
    }
}
