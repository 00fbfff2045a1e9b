use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::ledger::{Answered, Event, MemoryLedger};
use crate::routing::{ClientSource, Health, Reason};

const MINUTE: i64 = 60_000;
const START: i64 = 1_000_000 * MINUTE;

fn hosts(names: &[&str]) -> Vec<LicensedHostConfig> {
    let host = |name: &&str| LicensedHostConfig {
        name: (*name).to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 1688,
        weight: 1,
        products: vec![],
        facts: None,
    };
    names.iter().map(host).collect()
}

fn client(n: u32) -> Pseudonym {
    Pseudonym(
        u128::from(n)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_le_bytes(),
    )
}

fn refresh_now(view: &View, ledger: &MemoryLedger, now: Millis) {
    let since = view.since(now);
    let read = ledger.newest_routes(since, now, view.most());
    let read = read.now_or_never().unwrap().unwrap();
    view.absorb(read, since, now);
}

fn well(_: usize) -> Health {
    Health::Well
}

proptest! {
    /// Whatever a replica read before, and in however many steps, it decides as one that reads the ledger for the first
    /// time.
    #[test]
    fn replicas_with_the_same_ledger_decide_alike(
        answers in prop::collection::vec((0u32..40, 0usize..3, 0i64..3 * 24 * 60), 0..150),
        reads in prop::collection::btree_set(0usize..150, 0..10),
        asking in 0u32..45,
    ) {
        let names = ["a", "b", "c"];
        let config = RoutingConfig::default();
        let ledger = MemoryLedger::new();
        let old = View::new(&config, &hosts(&names), Millis(START));
        let mut now = START;
        for (at, (who, host, minutes)) in answers.into_iter().enumerate() {
            now += minutes * MINUTE / 20;
            let answered = Answered { client: client(who), host: names[host].to_owned(), at: Millis(now), warm: who % 2 == 0 };
            ledger.answered(&[answered]).now_or_never().unwrap().unwrap();
            if reads.contains(&at) {
                refresh_now(&old, &ledger, Millis(now));
            }
        }
        let new = View::new(&config, &hosts(&names), Millis(now));
        refresh_now(&old, &ledger, Millis(now));
        refresh_now(&new, &ledger, Millis(now));
        let (old, new) = (old.load(), new.load());
        prop_assert_eq!(&old.fleet, &new.fleet);
        let decide = |view: &Snapshot| view.decide(well, client(asking), Millis(now));
        prop_assert_eq!(decide(&old), decide(&new));
    }
}

#[test]
fn what_was_read_last_stands_for_a_day_and_then_the_preference_order() {
    let ledger = MemoryLedger::new();
    let view = View::new(&RoutingConfig::default(), &hosts(&["a", "b"]), Millis(START));
    assert_eq!(view.load().fleet.knowledge, Knowledge::PreferenceOrder);
    assert_eq!(
        view.load().decide(well, client(0), Millis(START)).reason,
        Reason::PreferenceOrder
    );
    let answered = (0..5).map(|n| Answered {
        client: client(n),
        host: "b".into(),
        at: Millis(START),
        warm: true,
    });
    ledger
        .answered(&answered.collect::<Vec<_>>())
        .now_or_never()
        .unwrap()
        .unwrap();
    refresh_now(&view, &ledger, Millis(START));
    for (minutes, knowledge, first) in [
        (0, Knowledge::Fresh, 1),
        (1, Knowledge::LastKnown, 1),
        (24 * 60, Knowledge::LastKnown, 1),
        (24 * 60 + 1, Knowledge::PreferenceOrder, 0),
    ] {
        let now = Millis(START + minutes * MINUTE);
        view.missed(now);
        let snapshot = view.load();
        assert_eq!(snapshot.fleet.knowledge, knowledge);
        assert_eq!(
            snapshot.decide(well, client(99), now).order[0].host,
            first,
            "after {minutes} minutes"
        );
    }
}

#[test]
fn last_answers_follow_the_hosts_through_a_changed_configuration() {
    let ledger = MemoryLedger::new();
    let config = RoutingConfig::default();
    let view = View::new(&config, &hosts(&["a", "b"]), Millis(START));
    ledger
        .answered(&[Answered {
            client: client(1),
            host: "b".into(),
            at: Millis(START),
            warm: true,
        }])
        .now_or_never()
        .unwrap()
        .unwrap();
    refresh_now(&view, &ledger, Millis(START));
    let host = |view: &View| view.load().client(client(1)).last.map(|last| last.host);
    assert_eq!(host(&view), Some(Some(1)));
    view.replace(&config, &hosts(&["b", "a"]), Millis(START));
    assert_eq!(host(&view), Some(Some(0)));
    view.replace(&config, &hosts(&["a"]), Millis(START));
    assert_eq!(host(&view), Some(None));
}

#[test]
fn the_later_fact_counts_whether_configured_or_read() {
    let ledger = MemoryLedger::new();
    let fact = |at, licensed| HostFact {
        read_at: Millis(at),
        current_count: Some(7),
        required_count: None,
        licensed: Some(licensed),
    };
    ledger
        .put_fact("a", &fact(START, true))
        .now_or_never()
        .unwrap()
        .unwrap();
    for (configured_at, licensed) in [(START - 1, true), (START + 1, false)] {
        let mut hosts = hosts(&["a"]);
        hosts[0].facts = Some(fact(configured_at, false));
        let view = View::new(&RoutingConfig::default(), &hosts, Millis(START));
        refresh_now(&view, &ledger, Millis(START + 1));
        assert_eq!(view.load().fleet.hosts[0].licensed, licensed);
        assert_eq!(view.load().fleet.hosts[0].count, 7);
    }
}

#[test]
fn machines_behind_one_address_are_counted_by_the_events_of_the_hosts() {
    let ledger = MemoryLedger::new();
    let view = View::new(&RoutingConfig::default(), &hosts(&["a", "b", "c"]), Millis(START));
    let answered = |n: i64| Answered {
        client: client(1),
        host: "a".into(),
        at: Millis(START + n),
        warm: true,
    };
    ledger
        .answered(&(0..60).map(answered).collect::<Vec<_>>())
        .now_or_never()
        .unwrap()
        .unwrap();
    let status = || {
        refresh_now(&view, &ledger, Millis(START + 60));
        view.load().status(well, Millis(START + 60))
    };
    let relays_alone = status();
    assert_eq!((relays_alone.distinct_clients, relays_alone.active_set.len()), (1, 1));
    assert_eq!(relays_alone.clients_from, ClientSource::Addresses);
    let event = |n: u128| Event {
        at: Millis(START),
        host: "a".into(),
        hresult: 0,
        required: 5,
        client_name: format!("pc{n}"),
        cmid: uuid::Uuid::from_u128(n),
        client_time: String::new(),
        virtual_machine: false,
        license_status: 1,
        minutes_to_expiration: 0,
        activation_id: uuid::Uuid::nil(),
    };
    ledger
        .append_events(&(0..60).map(event).collect::<Vec<_>>())
        .now_or_never()
        .unwrap()
        .unwrap();
    let with_events = status();
    assert_eq!(with_events.distinct_clients, 60);
    assert_eq!(with_events.clients_from, ClientSource::Machines);
    assert_eq!(with_events.active_set, ["a", "b", "c"], "60 clients fill three hosts");
}

#[test]
fn a_host_that_nobody_read_lately_is_not_left_out_for_what_it_once_was() {
    let config = RoutingConfig::default();
    let fresh_for = i64::try_from(config.facts_fresh_for.get().as_millis()).unwrap();
    let mut hosts = hosts(&["a"]);
    hosts[0].facts = Some(HostFact {
        read_at: Millis(START),
        current_count: None,
        required_count: None,
        licensed: Some(false),
    });
    for (age, licensed) in [(0, false), (fresh_for, false), (fresh_for + 1, true)] {
        let view = View::new(&config, &hosts, Millis(START + age));
        assert_eq!(view.load().fleet.hosts[0].licensed, licensed, "after {age} ms");
    }
}

#[test]
fn what_another_replica_writes_late_is_read_soon() {
    let ledger = MemoryLedger::new();
    let view = View::new(&RoutingConfig::default(), &hosts(&["a"]), Millis(START));
    refresh_now(&view, &ledger, Millis(START));
    let late = Answered {
        client: client(1),
        host: "a".into(),
        at: Millis(START - 60 * MINUTE),
        warm: true,
    };
    ledger.answered(&[late]).now_or_never().unwrap().unwrap();
    for (after, known) in [(2000, false), (4000, false), (6000, true)] {
        refresh_now(&view, &ledger, Millis(START + after));
        let last = view.load().client(client(1)).last;
        assert_eq!(last.is_some(), known, "after {after} ms");
    }
    assert!(view.since(Millis(START + 12_000)).0 > 0, "and then only changes again");
}

#[test]
fn clients_beyond_the_bound_are_forgotten_the_oldest_first() {
    let ledger = MemoryLedger::new();
    let config = RoutingConfig {
        max_clients: 1000,
        ..RoutingConfig::default()
    };
    let view = View::new(&config, &hosts(&["a"]), Millis(START));
    let answered = (0..3000).map(|n| Answered {
        client: client(n),
        host: "a".into(),
        at: Millis(START + i64::from(n)),
        warm: true,
    });
    ledger
        .answered(&answered.collect::<Vec<_>>())
        .now_or_never()
        .unwrap()
        .unwrap();
    refresh_now(&view, &ledger, Millis(START + 3000));
    let snapshot = view.load();
    assert_eq!(snapshot.clients_known(), 1000);
    assert!(snapshot.client(client(1999)).last.is_none());
    assert!(snapshot.client(client(2000)).last.is_some());
    assert_eq!(snapshot.fleet.distinct_clients, 3000, "the totals know them still");
}

#[tokio::test]
async fn a_read_asks_for_no_more_clients_than_are_remembered() {
    let ledger = MemoryLedger::new();
    let config = RoutingConfig {
        max_clients: 1000,
        ..RoutingConfig::default()
    };
    let view = View::new(&config, &hosts(&["a"]), Millis(START));
    let answer = async |clients: std::ops::Range<u32>, from: i64| {
        let answered = clients.map(|n| Answered {
            client: client(n),
            host: "a".into(),
            at: Millis(from + i64::from(n)),
            warm: true,
        });
        ledger.answered(&answered.collect::<Vec<_>>()).await.unwrap();
    };
    answer(0..1000, START - 60 * MINUTE).await;
    read(&view, &ledger, Millis(START)).await.unwrap();
    // Few enough to be kept beside the others for a while, and more than are wanted.
    answer(1000..2020, START).await;
    read(&view, &ledger, Millis(START + 5000)).await.unwrap();
    let snapshot = view.load();
    assert_eq!(snapshot.clients_known(), 2000);
    assert!(
        snapshot.client(client(1019)).last.is_none(),
        "a thousand were seen after it"
    );
    assert!(snapshot.client(client(1020)).last.is_some() && snapshot.client(client(2019)).last.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_view_is_refreshed_until_it_is_told_to_stop() {
    let ledger = Arc::new(MemoryLedger::new());
    let view = Arc::new(View::new(&RoutingConfig::default(), &hosts(&["a"]), Millis(START)));
    let token = CancellationToken::new();
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let seen = move |snapshot: &Snapshot| sender.send(snapshot.fleet.distinct_clients).unwrap();
    let task = tokio::spawn(refresh(
        Arc::clone(&view),
        Arc::clone(&ledger) as Arc<dyn Ledger>,
        || Millis(START),
        seen,
        token.clone(),
    ));
    assert_eq!(receiver.recv().await, Some(0));
    ledger
        .answered(&[Answered {
            client: client(1),
            host: "a".into(),
            at: Millis(START),
            warm: true,
        }])
        .await
        .unwrap();
    while receiver.recv().await != Some(1) {}
    token.cancel();
    task.await.unwrap();
}
