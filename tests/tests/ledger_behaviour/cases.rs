//! What a ledger does, case by case.

use std::fmt::Debug;

use futures::{FutureExt, future::BoxFuture};
use kms_host::ledger::{
    Answered, Event, HostFact, HostName, Ledger, Millis, Pseudonym, RoutesRead, Sighting, Totals, Verdict,
    counting::SENT_AGAIN_WITHIN_MS, memory::EVENTS_KEPT,
};
use system_tests::ledger::{DAY, NOW, cmid, event, key, sighting};
use uuid::Uuid;

use super::Place;

const OFFICE: Uuid = Uuid::from_u128(1);
const WINDOWS: Uuid = Uuid::from_u128(2);

type Case = for<'a> fn(&'a Place) -> BoxFuture<'a, ()>;

const CASES: [(&str, Case); 21] = [
    ("distinct clients are counted for each application", |place| {
        distinct(place).boxed()
    }),
    ("an entry lives thirty days", |place| thirty_days(place).boxed()),
    ("the most recent 2N are kept and the table never shrinks", |place| {
        most_recent(place).boxed()
    }),
    ("a replay changes nothing but the failed requests", |place| {
        replays(place).boxed()
    }),
    ("a client's last request is answered again for a minute", |place| {
        sent_again(place).boxed()
    }),
    ("a batch is counted in its order, over applications", |place| {
        batches(place).boxed()
    }),
    ("totals go by licence status", |place| totals(place).boxed()),
    ("refusals are failed requests and events", |place| {
        refusals(place).boxed()
    }),
    ("events are read on from a cursor", |place| events(place).boxed()),
    ("the newest events are kept", |place| kept_events(place).boxed()),
    ("a client is where it was answered last", |place| routes(place).boxed()),
    ("of more clients than are wanted the newest are read", |place| {
        newest_routes(place).boxed()
    }),
    ("an old observation moves nobody", |place| {
        old_observations(place).boxed()
    }),
    ("an observation written twice counts as two asks", |place| {
        twice(place).boxed()
    }),
    ("an answer tells whether its host was warm", |place| warm(place).boxed()),
    ("machines of events are counted for thirty days", |place| {
        machines(place).boxed()
    }),
    ("only what changed is read", |place| changed(place).boxed()),
    ("a route lives thirty days", |place| routes_expire(place).boxed()),
    ("many clients answered in one millisecond are all read", |place| {
        one_millisecond(place).boxed()
    }),
    ("a fact replaces the one before", |place| facts(place).boxed()),
    ("two replicas see one ledger", |place| two_replicas(place).boxed()),
];

pub(crate) async fn all(place: &Place) {
    for (name, case) in CASES {
        println!("case: {name}");
        case(place).await;
    }
}

async fn count(ledger: &dyn Ledger, application: Uuid, n: u32, required: u32, at: i64) -> u32 {
    match ledger
        .count(&[sighting(application, n, required, Millis(at))])
        .await
        .unwrap()[..]
    {
        [Verdict::Counted { count }] => count,
        ref other => panic!("not counted: {other:?}"),
    }
}

async fn current(ledger: &dyn Ledger, now: i64) -> Vec<(Uuid, u32, u32)> {
    let counts = ledger.counts(Millis(now)).await.unwrap();
    counts
        .into_iter()
        .map(|count| (count.application, count.current_count, count.largest_required))
        .collect()
}

fn client(n: u32) -> Pseudonym {
    key().machine(&cmid(n))
}

fn answered(n: u32, host: &str, at: i64) -> Answered {
    Answered {
        client: client(n),
        host: host.to_owned(),
        at: Millis(at),
        warm: true,
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort();
    list
}

async fn distinct(place: &Place) {
    let ledger = place.ledger();
    assert_eq!(current(&*ledger, NOW.0).await, []);
    for (n, expected) in [(1, 1), (2, 2), (1, 2), (3, 3), (2, 3)] {
        assert_eq!(
            count(&*ledger, OFFICE, n, 5, NOW.0 + i64::from(n) + 10 * i64::from(expected)).await,
            expected
        );
    }
    assert_eq!(count(&*ledger, WINDOWS, 1, 25, NOW.0 + 100).await, 1);
    assert_eq!(current(&*ledger, NOW.0 + 100).await, [(OFFICE, 3, 5), (WINDOWS, 1, 25)]);
}

async fn thirty_days(place: &Place) {
    let ledger = place.ledger();
    count(&*ledger, OFFICE, 1, 5, NOW.0).await;
    count(&*ledger, OFFICE, 2, 5, NOW.0 + DAY).await;
    let full = [(OFFICE, 2, 5)];
    assert_eq!(current(&*ledger, NOW.0 + 30 * DAY - 1).await, full);
    assert_eq!(current(&*ledger, NOW.0 + 30 * DAY).await, [(OFFICE, 1, 5)]);
    // Looking does not change what is there.
    assert_eq!(current(&*ledger, NOW.0 + 30 * DAY - 1).await, full);
    // A renewal begins the thirty days anew.
    assert_eq!(count(&*ledger, OFFICE, 2, 5, NOW.0 + 30 * DAY).await, 1);
    assert_eq!(count(&*ledger, OFFICE, 3, 5, NOW.0 + 60 * DAY - 1).await, 2);
    assert_eq!(count(&*ledger, OFFICE, 3, 5, NOW.0 + 60 * DAY).await, 1);
}

async fn most_recent(place: &Place) {
    let ledger = place.ledger();
    for n in 0..15 {
        assert_eq!(
            count(&*ledger, OFFICE, n, 5, NOW.0 + i64::from(n)).await,
            (n + 1).min(10)
        );
    }
    // 0 to 4 were pushed out; 5 is the oldest and goes next.
    assert_eq!(count(&*ledger, OFFICE, 0, 5, NOW.0 + 100).await, 10);
    assert_eq!(count(&*ledger, OFFICE, 50, 25, NOW.0 + 101).await, 11);
    for n in 60..120 {
        count(&*ledger, OFFICE, n, 5, NOW.0 + 1000 + i64::from(n)).await;
    }
    assert_eq!(current(&*ledger, NOW.0 + 2000).await, [(OFFICE, 50, 25)]);
    // A client that comes with an old time into a full table is pushed out itself.
    assert_eq!(count(&*ledger, OFFICE, 200, 5, NOW.0).await, 50);
}

async fn replays(place: &Place) {
    let ledger = place.ledger();
    let mut first = sighting(OFFICE, 1, 5, NOW);
    // A minute and more ago by the client's clock.
    first.request_time_micros -= SENT_AGAIN_WITHIN_MS * 1000 + 1;
    let mut earlier = first.clone();
    earlier.request_time_micros -= 1;
    let mut of_other_application = first.clone();
    of_other_application.application = WINDOWS;
    let batch = [first.clone(), first.clone(), earlier, of_other_application];
    let counted = Verdict::Counted { count: 1 };
    assert_eq!(
        ledger.count(&batch).await.unwrap(),
        [counted, Verdict::Replayed, Verdict::Replayed, counted],
    );
    let mut later = first;
    later.required = 25;
    assert_eq!(ledger.count(&[later.clone()]).await.unwrap(), [Verdict::Replayed]);
    let [office, _] = &ledger.counts(NOW).await.unwrap()[..] else {
        panic!("two applications")
    };
    assert_eq!((office.current_count, office.largest_required), (1, 5));
    assert_eq!((office.totals.total, office.totals.failed), (1, 3));
    assert_eq!(ledger.recent_events(10).await.unwrap().len(), 2);
    later.request_time_micros += 1;
    assert_eq!(ledger.count(&[later]).await.unwrap(), [counted]);
}

async fn sent_again(place: &Place) {
    let ledger = place.ledger();
    count(&*ledger, OFFICE, 2, 5, NOW.0 - 1).await;
    let first = sighting(OFFICE, 1, 5, NOW);
    let at = |later| {
        let at = Millis(NOW.0 + later);
        Sighting { at, ..first.clone() }
    };
    let (counted, again) = (Verdict::Counted { count: 2 }, Verdict::SentAgain { count: 2 });
    let within = [at(0), at(0), at(SENT_AGAIN_WITHIN_MS), at(-SENT_AGAIN_WITHIN_MS)];
    assert_eq!(ledger.count(&within).await.unwrap(), [counted, again, again, again]);
    let beyond = [at(SENT_AGAIN_WITHIN_MS + 1), at(-SENT_AGAIN_WITHIN_MS - 1)];
    assert_eq!(ledger.count(&beyond).await.unwrap(), [Verdict::Replayed; 2]);
    let [office] = &ledger.counts(NOW).await.unwrap()[..] else {
        panic!("one application")
    };
    assert_eq!((office.totals.total, office.totals.failed), (2, 2));
    assert_eq!(ledger.recent_events(10).await.unwrap().len(), 2);
    // Once the client has gone on, only its newest request is its last.
    let next = sighting(OFFICE, 1, 5, Millis(NOW.0 + 1));
    assert_eq!(
        ledger.count(&[next, at(1)]).await.unwrap(),
        [counted, Verdict::Replayed]
    );
}

async fn batches(place: &Place) {
    let ledger = place.ledger();
    let batch: Vec<_> = (0..24)
        .map(|n| {
            let application = if n % 3 == 0 { WINDOWS } else { OFFICE };
            sighting(
                application,
                n % 12,
                if n < 12 { 2 } else { 5 },
                Millis(NOW.0 + i64::from(n)),
            )
        })
        .collect();
    let verdicts = ledger.count(&batch).await.unwrap();
    let one_by_one = place.ledger();
    for (sighting, verdict) in batch.iter().zip(&verdicts) {
        assert_eq!(
            one_by_one.count(std::slice::from_ref(sighting)).await.unwrap(),
            [*verdict]
        );
    }
    assert_eq!(ledger.counts(NOW).await.unwrap(), one_by_one.counts(NOW).await.unwrap());
    assert_eq!(ledger.count(&[]).await.unwrap(), []);
}

async fn totals(place: &Place) {
    let ledger = place.ledger();
    // The licence status of machine n is n mod 7.
    for n in [0, 1, 1, 2, 8, 6] {
        let at = NOW.0 + i64::try_from(ledger.recent_events(100).await.unwrap().len()).unwrap();
        count(&*ledger, OFFICE, n, 5, at).await;
    }
    let [office] = &ledger.counts(NOW).await.unwrap()[..] else {
        panic!("one application")
    };
    assert_eq!(
        office.totals,
        Totals {
            total: 6,
            failed: 0,
            by_status: [1, 3, 1, 0, 0, 0, 1]
        }
    );
}

async fn refusals(place: &Place) {
    let ledger = place.ledger();
    let refused = |n| Event {
        hresult: 0xC004_F06C,
        ..event(n, NOW)
    };
    ledger
        .refused(&[(OFFICE, refused(1)), (WINDOWS, refused(2)), (OFFICE, refused(3))])
        .await
        .unwrap();
    let counts = ledger.counts(NOW).await.unwrap();
    let failed: Vec<_> = counts
        .iter()
        .map(|count| (count.application, count.totals.failed))
        .collect();
    assert_eq!(failed, [(OFFICE, 2), (WINDOWS, 1)]);
    assert!(
        counts
            .iter()
            .all(|count| count.current_count == 0 && count.totals.total == 0)
    );
    let events = ledger.events(None, 10).await.unwrap();
    let events: Vec<_> = events.into_iter().map(|stored| stored.event).collect();
    assert_eq!(events, [refused(1), refused(2), refused(3)]);
}

async fn events(place: &Place) {
    let ledger = place.ledger();
    assert_eq!(ledger.events(None, 10).await.unwrap(), []);
    count(&*ledger, OFFICE, 0, 5, NOW.0).await;
    let read_from_hosts: Vec<_> = (1..10).map(|n| event(n, Millis(NOW.0 + i64::from(n)))).collect();
    ledger.append_events(&read_from_hosts).await.unwrap();
    ledger.append_events(&[]).await.unwrap();

    let all = ledger.events(None, 100).await.unwrap();
    assert_eq!(all[0].event, event(0, NOW));
    assert_eq!(
        all[1..].iter().map(|stored| stored.event.clone()).collect::<Vec<_>>(),
        read_from_hosts
    );

    let mut paged = ledger.events(None, 3).await.unwrap();
    loop {
        let after = paged.last().unwrap().cursor.clone();
        let page = ledger.events(Some(&after), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 3);
        paged.extend(page);
    }
    assert_eq!(paged, all);

    let mut newest = ledger.recent_events(4).await.unwrap();
    newest.reverse();
    assert_eq!(newest, all[6..]);
    // What is no cursor begins at the begin; above all it is no command.
    assert_eq!(ledger.events(Some("0-0\r\nFLUSHALL"), 100).await.unwrap(), all);
}

async fn kept_events(place: &Place) {
    let ledger = place.ledger();
    let total = u32::try_from(EVENTS_KEPT).unwrap() + 500;
    let numbers: Vec<u32> = (0..total).collect();
    for chunk in numbers.chunks(1000) {
        let events: Vec<_> = chunk.iter().map(|n| event(*n, Millis(NOW.0 + i64::from(*n)))).collect();
        ledger.append_events(&events).await.unwrap();
    }
    let kept = ledger.events(None, usize::try_from(total).unwrap()).await.unwrap();
    // Redis trims whole nodes of its stream.
    assert!(
        (EVENTS_KEPT..EVENTS_KEPT + 200).contains(&kept.len()),
        "{} events",
        kept.len()
    );
    assert_eq!(
        kept.last().map(|stored| stored.event.at),
        Some(Millis(NOW.0 + i64::from(total) - 1))
    );
}

/// Routes in an order to be compared: client, host, time; distinct clients; clients by host.
async fn read(
    ledger: &dyn Ledger,
    since: i64,
    now: i64,
) -> (Vec<(Pseudonym, HostName, i64)>, u64, Vec<(HostName, u64)>) {
    let RoutesRead {
        changed,
        distinct_clients,
        clients_by_host,
        ..
    } = ledger.routes(Millis(since), Millis(now)).await.unwrap();
    let changed = changed
        .into_iter()
        .map(|route| (route.client, route.host, route.at.0))
        .collect();
    (sorted(changed), distinct_clients, sorted(clients_by_host))
}

fn hosts(list: &[(&str, u64)]) -> Vec<(HostName, u64)> {
    list.iter()
        .map(|(host, clients)| ((*host).to_owned(), *clients))
        .collect()
}

async fn routes(place: &Place) {
    let ledger = place.ledger();
    assert_eq!(read(&*ledger, 0, NOW.0).await, (vec![], 0, vec![]));
    ledger
        .answered(&[answered(1, "kms1", NOW.0), answered(2, "kms1", NOW.0 + 1)])
        .await
        .unwrap();
    ledger
        .answered(&[answered(3, "kms2", NOW.0 + 2), answered(1, "kms2", NOW.0 + 3)])
        .await
        .unwrap();
    let (changed, distinct, by_host) = read(&*ledger, 0, NOW.0 + 4).await;
    let expected = [(1, "kms2", 3), (2, "kms1", 1), (3, "kms2", 2)];
    let expected = expected
        .map(|(n, host, later)| (client(n), host.to_owned(), NOW.0 + later))
        .to_vec();
    assert_eq!((changed, distinct), (sorted(expected), 3));
    assert_eq!(by_host, hosts(&[("kms1", 1), ("kms2", 2)]));
    ledger.answered(&[answered(2, "kms2", NOW.0 + 5)]).await.unwrap();
    assert_eq!(read(&*ledger, 0, NOW.0 + 5).await.2, hosts(&[("kms2", 3)]));
    ledger.answered(&[]).await.unwrap();
}

async fn newest_routes(place: &Place) {
    // More than one page of what is read, four in each millisecond.
    const CLIENTS: u32 = 2600;
    let ledger = place.ledger();
    let all: Vec<_> = (0..CLIENTS)
        .map(|n| answered(n, "kms1", NOW.0 + i64::from(n / 4)))
        .collect();
    for batch in all.chunks(500) {
        ledger.answered(batch).await.unwrap();
    }
    let mut order: Vec<_> = all.iter().map(|answered| (answered.at, answered.client)).collect();
    order.sort_unstable();
    for since in [Millis(0), Millis(NOW.0 + 600)] {
        for most in [0, 1, 3, 100, 2303, 5000] {
            let read = ledger.newest_routes(since, Millis(NOW.0 + 700), most).await.unwrap();
            let found: Vec<_> = read.changed.iter().map(|route| (route.at, route.client)).collect();
            let changed: Vec<_> = order.iter().copied().filter(|(at, _)| *at >= since).collect();
            let wanted = &changed[changed.len().saturating_sub(most)..];
            assert_eq!(found.len(), wanted.len(), "{most} since {since:?}");
            assert!(
                found == wanted,
                "{most} since {since:?}: they are not the newest, oldest first"
            );
            assert_eq!(read.distinct_clients, u64::from(CLIENTS), "the totals know all");
        }
    }
}

async fn old_observations(place: &Place) {
    let ledger = place.ledger();
    ledger
        .answered(&[
            answered(1, "new", NOW.0),
            answered(1, "old", NOW.0 - 5),
            answered(1, "tie", NOW.0),
        ])
        .await
        .unwrap();
    let (changed, distinct, by_host) = read(&*ledger, 0, NOW.0).await;
    assert_eq!(changed, [(client(1), "new".to_owned(), NOW.0)]);
    assert_eq!((distinct, by_host), (1, hosts(&[("new", 1)])));
}

async fn twice(place: &Place) {
    const HOUR: i64 = 60 * 60 * 1000;
    let ledger = place.ledger();
    let asks = async |now: i64| ledger.routes(Millis(0), Millis(now)).await.unwrap().changed[0].asks_today;
    ledger.answered(&[answered(1, "kms1", NOW.0)]).await.unwrap();
    let before = read(&*ledger, 0, NOW.0).await;
    assert_eq!(asks(NOW.0).await, 1);
    ledger.answered(&[answered(1, "kms1", NOW.0)]).await.unwrap();
    assert_eq!(read(&*ledger, 0, NOW.0).await, before);
    assert_eq!(asks(NOW.0).await, 2);
    ledger
        .answered(&[answered(1, "kms1", NOW.0 + 20 * HOUR)])
        .await
        .unwrap();
    assert_eq!(asks(NOW.0 + 20 * HOUR).await, 3);
    assert_eq!(asks(NOW.0 + 25 * HOUR).await, 1);
    assert_eq!(asks(NOW.0 + 50 * HOUR).await, 0);
    for _ in 0..3 {
        let many: Vec<_> = (0..100).map(|n| answered(1, "kms1", NOW.0 + 60 * HOUR + n)).collect();
        ledger.answered(&many).await.unwrap();
    }
    assert_eq!(asks(NOW.0 + 60 * HOUR).await, 255);
}

async fn warm(place: &Place) {
    let ledger = place.ledger();
    let told = async |warm: bool, later: i64| {
        let answered = Answered {
            warm,
            ..answered(1, "kms1", NOW.0 + later)
        };
        ledger.answered(&[answered]).await.unwrap();
        let read = ledger.routes(Millis(0), Millis(NOW.0 + 9)).await.unwrap();
        assert_eq!(read.clients_by_host, hosts(&[("kms1", 1)]));
        read.changed[0].warm
    };
    assert!(!told(false, 0).await);
    assert!(told(true, 1).await, "the same host, by now warm");
    assert!(told(false, 0).await, "an old observation");
    assert!(told(false, 1).await, "one of the same time");
    assert!(!told(false, 2).await);
}

async fn machines(place: &Place) {
    let ledger = place.ledger();
    let distinct = async |now: i64| {
        let read = ledger.routes(Millis(0), Millis(now)).await.unwrap();
        assert_eq!((read.distinct_clients, read.changed), (0, vec![]), "no relay saw them");
        read.distinct_machines
    };
    assert_eq!(distinct(NOW.0).await, 0);
    let refused = Event {
        hresult: 0xC004_F042,
        ..event(9, NOW)
    };
    let later = Millis(NOW.0 + DAY);
    ledger
        .append_events(&[event(1, NOW), event(2, later), event(1, NOW), refused.clone()])
        .await
        .unwrap();
    ledger.refused(&[(OFFICE, refused)]).await.unwrap();
    assert_eq!(distinct(later.0).await, 2);
    // Machine 1 asked last when the day began, though that is read late.
    ledger.append_events(&[event(2, NOW)]).await.unwrap();
    assert_eq!(distinct(NOW.0 + 30 * DAY - 1).await, 2);
    assert_eq!(distinct(NOW.0 + 30 * DAY).await, 1);
    let many: Vec<_> = (10..2510).map(|n| event(n, NOW)).collect();
    for events in many.chunks(500) {
        ledger.append_events(events).await.unwrap();
    }
    assert_eq!(distinct(NOW.0 + 30 * DAY - 1).await, 2501);
    assert_eq!(distinct(NOW.0 + 30 * DAY).await, 1);
    assert_eq!(distinct(NOW.0 + 31 * DAY).await, 0);
}

async fn changed(place: &Place) {
    let ledger = place.ledger();
    let all: Vec<_> = (0..10).map(|n| answered(n, "kms1", NOW.0 + i64::from(n))).collect();
    ledger.answered(&all).await.unwrap();
    let (changed, distinct, by_host) = read(&*ledger, NOW.0 + 7, NOW.0 + 10).await;
    let expected = (7..10)
        .map(|n| (client(n), "kms1".to_owned(), NOW.0 + i64::from(n)))
        .collect();
    assert_eq!(changed, sorted(expected));
    assert_eq!((distinct, by_host), (10, hosts(&[("kms1", 10)])));
}

async fn routes_expire(place: &Place) {
    let ledger = place.ledger();
    let mut all: Vec<_> = (0..2500).map(|n| answered(n, "kms1", NOW.0)).collect();
    all.push(answered(5000, "kms2", NOW.0 + 1));
    ledger.answered(&all).await.unwrap();
    assert_eq!(read(&*ledger, i64::MAX, NOW.0 + 30 * DAY - 1).await.1, 2501);
    let left = (
        vec![(client(5000), "kms2".to_owned(), NOW.0 + 1)],
        1,
        hosts(&[("kms2", 1)]),
    );
    assert_eq!(read(&*ledger, 0, NOW.0 + 30 * DAY).await, left);
}

async fn one_millisecond(place: &Place) {
    let ledger = place.ledger();
    for chunk in (0..5000).collect::<Vec<_>>().chunks(500) {
        let batch: Vec<_> = chunk.iter().map(|n| answered(*n, "kms1", NOW.0)).collect();
        ledger.answered(&batch).await.unwrap();
    }
    ledger.answered(&[answered(9000, "kms1", NOW.0 + 1)]).await.unwrap();
    assert_eq!(read(&*ledger, 0, NOW.0 + 1).await.0.len(), 5001);
}

async fn facts(place: &Place) {
    let ledger = place.ledger();
    let fact = |count| HostFact {
        read_at: NOW,
        current_count: count,
        required_count: Some(5),
        licensed: Some(true),
    };
    ledger.put_fact("kms1", &fact(Some(3))).await.unwrap();
    ledger.put_fact("kms2", &fact(Some(10))).await.unwrap();
    ledger.put_fact("kms1", &fact(None)).await.unwrap();
    let mut facts = ledger.routes(NOW, NOW).await.unwrap().facts;
    facts.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        facts,
        [("kms1".to_owned(), fact(None)), ("kms2".to_owned(), fact(Some(10)))]
    );
}

async fn two_replicas(place: &Place) {
    let [one, other] = place.replicas();
    assert_eq!(count(&*one, OFFICE, 1, 5, NOW.0).await, 1);
    assert_eq!(count(&*other, OFFICE, 2, 5, NOW.0).await, 2);
    assert_eq!(
        other.count(&[sighting(OFFICE, 1, 5, NOW)]).await.unwrap(),
        [Verdict::SentAgain { count: 2 }]
    );
    one.answered(&[answered(1, "kms1", NOW.0)]).await.unwrap();
    other.ping().await.unwrap();
    same(read(&*one, 0, NOW.0).await, read(&*other, 0, NOW.0).await);
    same(one.counts(NOW).await.unwrap(), other.counts(NOW).await.unwrap());
    same(
        one.recent_events(9).await.unwrap(),
        other.recent_events(9).await.unwrap(),
    );
}

fn same<T: PartialEq + Debug>(one: T, other: T) {
    assert_eq!(one, other);
}
