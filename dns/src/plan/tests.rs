use proptest::prelude::*;

use super::*;
use crate::records::Endpoint;

fn zone() -> ZoneName {
    "corp.example.com".parse().unwrap()
}

fn endpoint(host: &str, addresses: &[&str]) -> Endpoint {
    Endpoint {
        target: format!("{host}.corp.example.com").parse().unwrap(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        port: 1688,
        priority: 0,
        weight: 100,
    }
}

fn desired(owner: &str, endpoints: &[Endpoint]) -> Desired {
    Desired::new(zone(), zone(), owner.parse().unwrap(), 300, endpoints).unwrap()
}

/// What a server does with a plan, after checking its prerequisites.
fn apply(observed: &Observed, plan: &Plan) -> Observed {
    let mut records = observed.records.clone();
    for prerequisite in &plan.prerequisites {
        let (name, kind, expected) = match prerequisite {
            Prerequisite::Exactly { name, kind, data } => (name, *kind, data.clone()),
            Prerequisite::Absent { name, kind } => (name, *kind, Vec::new()),
        };
        let found: Vec<RData> = observed.set(name, kind).map(|record| record.data.clone()).collect();
        assert_eq!(found, expected, "a plan holds for what it was made for");
    }
    for change in &plan.changes {
        let record = change.record();
        records.retain(|there| !(there.name == record.name && there.data == record.data));
        if let Change::Add(record) = change {
            records.push(record.clone());
        }
    }
    Observed { records }
}

fn published(owner: &str, endpoints: &[Endpoint], on: &Observed) -> Observed {
    apply(on, &plan(&desired(owner, endpoints), on, &Options::default()).unwrap())
}

fn foreign(target: &str) -> Entry {
    Entry {
        name: zone().service(),
        data: Data::Srv {
            priority: 0,
            weight: 0,
            port: 1688,
            target: Name::from_ascii(target).unwrap(),
        },
    }
}

fn entries(observed: &Observed) -> BTreeSet<Entry> {
    observed.entries().into_keys().collect()
}

#[test]
fn an_empty_zone_gets_the_records_and_their_marks_if_it_is_still_empty() {
    let desired = desired("c1", &[endpoint("kms", &["192.0.2.1"])]);
    let plan = plan(&desired, &Observed::default(), &Options::default()).unwrap();
    assert_eq!(plan.changes.len(), 4);
    assert!(
        plan.prerequisites
            .iter()
            .all(|p| matches!(p, Prerequisite::Absent { .. }))
    );
    let sets: Vec<String> = plan
        .prerequisites
        .iter()
        .map(|p| match p {
            Prerequisite::Absent { name, kind } | Prerequisite::Exactly { name, kind, .. } => {
                format!("{} {kind}", plain(name))
            }
        })
        .collect();
    assert!(sets.contains(&"kms.corp.example.com CNAME".to_owned()), "{sets:?}");
}

#[test]
fn what_is_published_needs_no_change_unless_it_is_refreshed() {
    let wanted = [endpoint("kms", &["192.0.2.1"])];
    let zone = published("c1", &wanted, &Observed::default());
    let again = plan(&desired("c1", &wanted), &zone, &Options::default()).unwrap();
    assert_eq!((again.changes.len(), again.prerequisites.len()), (0, 0));
    let options = Options {
        refresh: true,
        ..Options::default()
    };
    let refreshed = plan(&desired("c1", &wanted), &zone, &options).unwrap();
    assert_eq!(refreshed.changes.len(), 4);
    assert_eq!(entries(&apply(&zone, &refreshed)), entries(&zone));
}

#[test]
fn another_time_to_live_is_set_where_the_set_is_ours_alone() {
    let wanted = [endpoint("kms", &[])];
    let zone = published("c1", &wanted, &Observed::default());
    let mut longer = desired("c1", &wanted);
    longer.ttl = 900;
    let changed = apply(&zone, &plan(&longer, &zone, &Options::default()).unwrap());
    assert!(changed.entries().values().all(|ttl| *ttl == 900));

    let beside = published("c2", &[endpoint("other", &[])], &zone);
    let kept = plan(&longer, &beside, &Options::default()).unwrap();
    assert_eq!(kept.changes, [], "the set is shared: its time to live stays");
}

#[test]
fn a_changed_target_takes_its_old_records_away() {
    let zone = published("c1", &[endpoint("old", &["192.0.2.1"])], &Observed::default());
    let zone = published("c1", &[endpoint("new", &["192.0.2.2"])], &zone);
    let fresh = published("c1", &[endpoint("new", &["192.0.2.2"])], &Observed::default());
    assert_eq!(entries(&zone), entries(&fresh));
    assert_eq!(zone.marks(), fresh.marks());
}

#[test]
fn names_of_addresses_that_we_left_behind_are_looked_at() {
    let zone = published("c1", &[endpoint("old", &["192.0.2.1"])], &Observed::default());
    let names = address_names(&desired("c1", &[endpoint("new", &["192.0.2.2"])]), &zone);
    assert_eq!(
        names.iter().map(plain).collect::<Vec<_>>(),
        ["new.corp.example.com", "old.corp.example.com"]
    );
    let others = address_names(&desired("c2", &[]), &zone);
    assert!(others.is_empty(), "another's target is not our business");
}

#[test]
fn two_owners_publish_side_by_side_and_each_takes_away_its_own() {
    let first = published("c1", &[endpoint("a", &["192.0.2.1"])], &Observed::default());
    let both = published("c2", &[endpoint("b", &["192.0.2.2"])], &first);
    let second = plan(
        &desired("c2", &[endpoint("b", &["192.0.2.2"])]),
        &both,
        &Options::default(),
    )
    .unwrap();
    assert_eq!(second.because(Reason::Neighbour).count(), 2);
    assert_eq!(second.bypasses().count(), 0, "a neighbour is no bypass");
    let left = published("c2", &[], &both);
    assert_eq!((entries(&left), left.marks()), (entries(&first), first.marks()));
}

#[test]
fn the_same_record_of_two_owners_goes_with_the_last() {
    let same = [endpoint("kms", &["192.0.2.1"])];
    let one = published("c1", &same, &Observed::default());
    let two = published("c2", &same, &one);
    assert_eq!((entries(&two), two.marks().len()), (entries(&one), 4));
    let left = published("c1", &[], &two);
    assert_eq!((entries(&left), left.marks().len()), (entries(&one), 2));
    assert!(entries(&published("c2", &[], &left)).is_empty());
}

#[test]
fn others_records_are_kept_and_reported_and_only_listed_ones_removed() {
    let windows = foreign("dc1.corp.example.com.");
    let zone = Observed {
        // Windows spells names as the machine does.
        records: vec![
            foreign("DC1.corp.example.com.").record(3600),
            foreign("dc2.corp.example.com.").record(3600),
        ],
    };
    let wanted = desired("c1", &[endpoint("kms", &[])]);
    let kept = plan(&wanted, &zone, &Options::default()).unwrap();
    assert_eq!(kept.bypasses().count(), 2);
    assert!(kept.changes.iter().all(|change| matches!(change, Change::Add(_))));
    assert!(
        kept.changes
            .iter()
            .any(|change| change.record().record_type() == RecordType::SRV && change.record().ttl == 3600)
    );

    let options = Options {
        remove_foreign: ["DC1.corp.example.com".parse().unwrap()].into(),
        ..Options::default()
    };
    let listed = plan(&wanted, &zone, &options).unwrap();
    assert_eq!(listed.because(Reason::Listed).collect::<Vec<_>>(), [&windows]);
    let left = apply(&zone, &listed);
    assert!(!entries(&left).contains(&windows));
    let spelt: Vec<&Change> = listed
        .changes
        .iter()
        .filter(|change| matches!(change, Change::Remove(_)))
        .collect();
    assert!(
        matches!(&spelt[..], [Change::Remove(record)] if record.data.to_string().contains("DC1")),
        "{spelt:?}"
    );
}

#[test]
fn a_neighbour_s_record_is_never_removed_even_if_listed() {
    let zone = published("c2", &[endpoint("b", &[])], &Observed::default());
    let options = Options {
        remove_foreign: ["b.corp.example.com".parse().unwrap()].into(),
        ..Options::default()
    };
    let plan = plan(&desired("c1", &[endpoint("a", &[])]), &zone, &options).unwrap();
    assert!(plan.changes.iter().all(|change| matches!(change, Change::Add(_))));
}

#[test]
fn a_record_entered_by_hand_serves_and_is_not_taken_over() {
    let wanted = desired("c1", &[endpoint("kms", &[])]);
    let by_hand = Observed {
        records: wanted.entries.iter().map(|entry| entry.record(300)).collect(),
    };
    let plan = plan(&wanted, &by_hand, &Options::default()).unwrap();
    assert_eq!((plan.changes.len(), plan.because(Reason::AlreadyThere).count()), (0, 1));
    assert_eq!(published("c1", &[], &by_hand), by_hand, "nor is it removed later");
}

#[test]
fn drift_is_repaired_and_marks_that_outlived_their_record_go() {
    let wanted = [endpoint("kms", &["192.0.2.1"])];
    let whole = published("c1", &wanted, &Observed::default());
    let mut robbed = whole.clone();
    robbed.records.retain(|record| record.record_type() == RecordType::TXT);
    assert_eq!(entries(&published("c1", &wanted, &robbed)), entries(&whole));
    assert!(published("c1", &[], &robbed).records.is_empty());
}

#[test]
fn an_alias_at_the_target_stops_everything() {
    let alias = hickory_proto::rr::rdata::CNAME(Name::from_ascii("elsewhere.example.com.").unwrap());
    let zone = Observed {
        records: vec![Record::from_rdata(
            Name::from_ascii("kms.corp.example.com.").unwrap(),
            60,
            RData::CNAME(alias),
        )],
    };
    let wanted = desired("c1", &[endpoint("kms", &["192.0.2.1"])]);
    assert!(matches!(
        plan(&wanted, &zone, &Options::default()),
        Err(PlanError::Alias { .. })
    ));
}

proptest! {
    /// Owners come, change and go in any order beside somebody's own records.
    #[test]
    fn every_owner_gets_what_it_wants_and_nobody_loses_anything(
        steps in proptest::collection::vec((0usize..3, proptest::collection::btree_set(0u8..4, 0..3)), 1..12),
        by_hand in proptest::collection::btree_set(0u8..6, 0..3),
    ) {
        let strangers: BTreeSet<Entry> = by_hand.iter().map(|host| foreign(&format!("h{host}.corp.example.com."))).collect();
        let mut zone = Observed { records: strangers.iter().map(|entry| entry.record(60)).collect() };
        let mut wishes = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        for (owner, hosts) in steps {
            let endpoints: Vec<Endpoint> = hosts.iter().map(|host| endpoint(&format!("h{host}"), &["192.0.2.9"])).collect();
            let wanted = desired(&format!("c{owner}"), &endpoints);
            wishes[owner] = wanted.entries.clone();
            zone = apply(&zone, &plan(&wanted, &zone, &Options::default()).unwrap());
            let converged = plan(&wanted, &zone, &Options::default()).unwrap();
            prop_assert_eq!(converged.changes, []);
            let expected: BTreeSet<Entry> = wishes.iter().flatten().chain(&strangers).cloned().collect();
            prop_assert_eq!(entries(&zone), expected);
        }
    }
}
