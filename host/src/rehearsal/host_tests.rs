use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use uuid::Uuid;

use super::*;
use crate::{
    ledger::{self, Ledger, LedgerConfig, LedgerError, counting::SENT_AGAIN_WITHIN_MS},
    rehearsal::{
        client::{self, Machine, Outcome},
        config::RehearsalConfig,
        message::WorkstationName,
        products::WINDOWS,
    },
    sealing::ENTROPY_BYTES,
};

const NOW: Millis = Millis(1_790_000_000_000);
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn key() -> SiteKey {
    SiteKey::new(&[7; 32])
}

fn host_on(opened: Opened) -> RehearsalHost {
    let config = RehearsalConfig::new("/unused".into()).validate().unwrap();
    RehearsalHost::start(config, key(), opened, BatchLimits::default())
}

fn memory() -> Opened {
    ledger::open(&LedgerConfig::default()).unwrap()
}

fn machine(n: u8) -> Machine {
    Machine::new(
        WorkstationName::new(&format!("pc{n}")).unwrap(),
        Uuid::from_u128(n.into()),
    )
}

fn office() -> Product {
    Product::named("OfficeLTSC2024").unwrap()
}

fn ask(n: u8, micros_later: i64) -> client::Asked {
    let entropy = [n; ENTROPY_BYTES];
    client::ask(&key(), &machine(n), &office(), NOW.0 * 1000 + micros_later, &entropy)
}

async fn activate(host: &RehearsalHost, n: u8, micros_later: i64) -> Outcome {
    let asked = ask(n, micros_later);
    match host.handle(&asked.body, PEER, NOW).await {
        Handled::Answered { body, .. } => asked.conclude(&key(), S_OK, Some(&body)).unwrap(),
        Handled::Refused(reason) => asked.conclude(&key(), reason.hresult(), None).unwrap(),
        Handled::Busy => panic!("busy"),
    }
}

#[tokio::test]
async fn the_fifth_office_client_is_licensed() {
    let host = host_on(memory());
    for n in 1..=4 {
        let outcome = activate(&host, n, 0).await;
        assert_eq!(
            (outcome.hresult(), outcome.current_count()),
            (0xC004_F038, Some(u32::from(n)))
        );
    }
    let Outcome::Licensed(response) = activate(&host, 5, 0).await else {
        panic!("not licensed")
    };
    assert_eq!((response.current_count, response.host_id.as_str()), (5, "rehearsal"));
    assert_eq!(
        (response.activation_interval_minutes, response.renewal_interval_minutes),
        (120, 10_080)
    );
    assert_eq!(activate(&host, 1, 1).await.hresult(), 0);
}

#[tokio::test]
async fn three_replicas_on_one_ledger_share_one_count() {
    let opened = memory();
    let replicas = [
        host_on(opened.clone()),
        host_on(opened.clone()),
        host_on(opened.clone()),
    ];
    let mut counts = Vec::new();
    for n in 0..5 {
        counts.push(
            activate(&replicas[usize::from(n) % 3], n, 0)
                .await
                .current_count()
                .unwrap(),
        );
    }
    assert_eq!(counts, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn concurrent_requests_are_each_counted_once() {
    let host = Arc::new(host_on(memory()));
    let all = (0..9).map(|n| {
        let host = host.clone();
        async move { activate(&host, n, 0).await.current_count().unwrap() }
    });
    let mut counts = futures::future::join_all(all).await;
    counts.sort_unstable();
    assert_eq!(counts, (1..=9).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_microsoft_client_is_refused_counted_apart_and_warned_of_once() {
    let opened = memory();
    let host = host_on(opened.clone());
    for major in 4..=6 {
        let body = [&[0, 0, major, 0][..], &[0xAB; 252]].concat();
        assert_eq!(
            host.handle(&body, PEER, NOW).await,
            Handled::Refused(Reason::MicrosoftClient)
        );
    }
    assert_eq!(Reason::MicrosoftClient.hresult(), 0x8007_000D);
    assert_eq!(host.metrics().microsoft_clients(), 3);
    assert_eq!(opened.ledger.counts(NOW).await.unwrap(), []);
    assert_eq!(opened.ledger.recent_events(10).await.unwrap(), []);
}

#[test]
fn warnings_are_rare_and_say_how_many_they_stand_for() {
    let warning = RareWarning::default();
    assert_eq!(warning.due(NOW), Some(1));
    assert_eq!(warning.due(NOW), None);
    assert_eq!(warning.due(Millis(NOW.0 + WARN_EVERY_MS - 1)), None);
    assert_eq!(warning.due(Millis(NOW.0 + WARN_EVERY_MS)), Some(3));
}

#[tokio::test]
async fn forged_and_foreign_bodies_are_invalid_data() {
    let host = host_on(memory());
    let mut forged = ask(1, 0).body;
    *forged.last_mut().unwrap() ^= 1;
    let other_site = client::ask(
        &SiteKey::new(&[8; 32]),
        &machine(1),
        &office(),
        NOW.0 * 1000,
        &[1; ENTROPY_BYTES],
    );
    for (body, reason) in [
        (forged, Reason::Forged),
        (other_site.body, Reason::Forged),
        (Vec::new(), Reason::NotAnEnvelope),
        (b"OKR1".to_vec(), Reason::NotAnEnvelope),
        (vec![0; 300], Reason::NotAnEnvelope),
    ] {
        assert_eq!(host.handle(&body, PEER, NOW).await, Handled::Refused(reason));
        assert_eq!(reason.hresult(), 0x8007_000D);
    }
    assert_eq!(host.metrics().requests("forged"), 2);
}

/// What is logged on a test's thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn what_is_wrong_here_is_warned_of_once_with_what_to_do() {
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _logging = tracing::subscriber::set_default(logging);
    let other_key = SiteKey::new(&[8; 32]);
    let forged = client::ask(&other_key, &machine(1), &office(), NOW.0 * 1000, &[1; ENTROPY_BYTES]);
    let (_, host) = host_on_away(true, BatchLimits::default());
    for _ in 0..2 {
        assert_eq!(
            host.handle(&forged.body, PEER, NOW).await,
            Handled::Refused(Reason::Forged)
        );
        assert_eq!(host.handle(&ask(1, 0).body, PEER, NOW).await, Handled::Busy);
    }
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for said in [
        "compare the site keys",
        "look whether the ledger is away",
        "redis:6379 is unavailable: connection refused",
    ] {
        assert_eq!(text.matches(said).count(), 1, "{said}: {text}");
    }
}

#[tokio::test]
async fn a_clock_may_be_off_by_four_hours_and_no_more() {
    const FOUR_HOURS: i64 = 4 * 60 * 60 * 1_000_000;
    let host = host_on(memory());
    assert_eq!(activate(&host, 1, FOUR_HOURS).await.current_count(), Some(1));
    assert_eq!(activate(&host, 2, -FOUR_HOURS).await.current_count(), Some(2));
    assert_eq!(activate(&host, 3, FOUR_HOURS + 1).await.hresult(), 0xC004_F06C);
    assert_eq!(activate(&host, 4, -FOUR_HOURS - 1).await.hresult(), 0xC004_F06C);
}

#[tokio::test]
async fn a_replayed_request_is_invalid_data_on_any_replica() {
    let opened = memory();
    let (one, other) = (host_on(opened.clone()), host_on(opened));
    let asked = ask(1, 0);
    assert!(matches!(
        one.handle(&asked.body, PEER, NOW).await,
        Handled::Answered { .. }
    ));
    let later = Millis(NOW.0 + SENT_AGAIN_WITHIN_MS + 1);
    for host in [&one, &other] {
        assert_eq!(
            host.handle(&asked.body, PEER, later).await,
            Handled::Refused(Reason::Replayed)
        );
    }
    assert_eq!(Reason::Replayed.hresult(), 0x8007_000D);
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_is_answered_by_any_replica_and_counted_once() {
    let opened = memory();
    let (one, other) = (host_on(opened.clone()), host_on(opened.clone()));
    let asked = ask(1, 0);
    let later = Millis(NOW.0 + SENT_AGAIN_WITHIN_MS);
    for (host, now) in [(&one, NOW), (&one, later), (&other, later)] {
        let Handled::Answered { body, .. } = host.handle(&asked.body, PEER, now).await else {
            panic!("not answered")
        };
        let outcome = asked.conclude(&key(), S_OK, Some(&body)).unwrap();
        assert_eq!(outcome.current_count(), Some(1));
    }
    let requests = |result| one.metrics().requests(result) + other.metrics().requests(result);
    assert_eq!((requests("counted"), requests("sent_again")), (1, 2));
    let [office] = &opened.ledger.counts(later).await.unwrap()[..] else {
        panic!("one application")
    };
    assert_eq!((office.totals.total, office.totals.failed), (1, 0));
    assert_eq!(opened.ledger.recent_events(9).await.unwrap().len(), 1);

    // Once the client has gone on, the old request is a replay, however young.
    assert!(matches!(
        one.handle(&ask(1, 1).body, PEER, NOW).await,
        Handled::Answered { .. }
    ));
    assert_eq!(
        other.handle(&asked.body, PEER, NOW).await,
        Handled::Refused(Reason::Replayed)
    );
}

#[tokio::test]
async fn an_unknown_product_is_refused_by_its_own_code() {
    let host = host_on(memory());
    let windows = Product {
        application: WINDOWS,
        ..office()
    };
    let unknown = Product {
        id: Uuid::from_u128(9),
        ..office()
    };
    for product in [windows, unknown] {
        let asked = client::ask(&key(), &machine(1), &product, NOW.0 * 1000, &[1; ENTROPY_BYTES]);
        assert_eq!(
            host.handle(&asked.body, PEER, NOW).await,
            Handled::Refused(Reason::UnknownProduct)
        );
    }
    assert_eq!(Reason::UnknownProduct.hresult(), 0xC004_F042);
}

#[tokio::test]
async fn refusals_reach_the_totals_and_the_events() {
    let opened = memory();
    let host = host_on(opened.clone());
    activate(&host, 1, 0).await;
    activate(&host, 1, -1).await;
    activate(&host, 2, i64::from(i32::MAX) * 100).await;
    let seen = async {
        loop {
            let events = opened.ledger.recent_events(10).await.unwrap();
            if events.len() == 3 {
                return events;
            }
            tokio::task::yield_now().await;
        }
    };
    let events = tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
    let mut codes: Vec<_> = events.iter().map(|stored| stored.event.hresult).collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 0x8007_000D, 0xC004_F06C]);
    let [office] = &opened.ledger.counts(NOW).await.unwrap()[..] else {
        panic!("one application")
    };
    assert_eq!(
        (office.totals.total, office.totals.failed, office.current_count),
        (1, 2, 1)
    );
    assert_eq!(office.totals.by_status, [0, 0, 1, 0, 0, 0, 0]);
}

#[test]
fn a_client_time_is_printed_as_in_event_12290() {
    // "KMS Events Logged in the Windows Event Log", the example of event 12290.
    assert_eq!(client_time(1_137_205_800_000_000), "2006/1/14 2:30");
    assert_eq!(client_time(1_137_204_000_000_000 + 240_000_000), "2006/1/14 2:04");
    assert_eq!(client_time(i64::MAX), "");
}

/// A ledger whose store is away or does not answer.
struct Away {
    answers: bool,
    asked: Mutex<u32>,
}

impl Ledger for Away {
    fn id(&self) -> Uuid {
        Uuid::nil()
    }
    fn count<'a>(&'a self, _: &'a [Sighting]) -> BoxFuture<'a, Result<Vec<Verdict>, LedgerError>> {
        *self.asked.lock().unwrap() += 1;
        if self.answers {
            away()
        } else {
            std::future::pending().boxed()
        }
    }
    fn refused<'a>(&'a self, _: &'a [(Uuid, Event)]) -> BoxFuture<'a, Result<(), LedgerError>> {
        away()
    }
    fn answered<'a>(&'a self, _: &'a [ledger::Answered]) -> BoxFuture<'a, Result<(), LedgerError>> {
        away()
    }
    fn put_fact<'a>(&'a self, _: &'a str, _: &'a ledger::HostFact) -> BoxFuture<'a, Result<(), LedgerError>> {
        away()
    }
    fn append_events<'a>(&'a self, _: &'a [Event]) -> BoxFuture<'a, Result<(), LedgerError>> {
        away()
    }
    fn newest_routes(&self, _: Millis, _: Millis, _: usize) -> BoxFuture<'_, Result<ledger::RoutesRead, LedgerError>> {
        away()
    }
    fn counts(&self, _: Millis) -> BoxFuture<'_, Result<Vec<ledger::ApplicationCount>, LedgerError>> {
        away()
    }
    fn events<'a>(
        &'a self,
        _: Option<&'a str>,
        _: usize,
    ) -> BoxFuture<'a, Result<Vec<ledger::StoredEvent>, LedgerError>> {
        away()
    }
    fn recent_events(&self, _: usize) -> BoxFuture<'_, Result<Vec<ledger::StoredEvent>, LedgerError>> {
        away()
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        away()
    }
}

fn away<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, LedgerError>> {
    let source = std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into();
    std::future::ready(Err(LedgerError::Unavailable {
        store: "redis:6379".into(),
        source,
    }))
    .boxed()
}

fn host_on_away(answers: bool, limits: BatchLimits) -> (Arc<Away>, RehearsalHost) {
    let ledger = Arc::new(Away {
        answers,
        asked: Mutex::new(0),
    });
    let opened = Opened {
        ledger: ledger.clone(),
        key: LedgerKey::new(&[1; 32]),
    };
    let config = RehearsalConfig::new("/unused".into()).validate().unwrap();
    (ledger, RehearsalHost::start(config, key(), opened, limits))
}

#[tokio::test]
async fn without_a_ledger_the_host_is_busy_and_invents_no_count() {
    let (_, host) = host_on_away(true, BatchLimits::default());
    assert_eq!(host.handle(&ask(1, 0).body, PEER, NOW).await, Handled::Busy);
    assert_eq!(host.metrics().requests("busy"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_does_not_answer_is_not_waited_for_long() {
    let (_, host) = host_on_away(false, BatchLimits::default());
    let before = tokio::time::Instant::now();
    assert_eq!(host.handle(&ask(1, 0).body, PEER, NOW).await, Handled::Busy);
    assert!(before.elapsed() <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_bound_a_request_is_busy_at_once() {
    let (ledger, host) = host_on_away(
        false,
        BatchLimits {
            batch: 1,
            waiting: 2,
            ..BatchLimits::default()
        },
    );
    let host = Arc::new(host);
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..3 {
        let host = host.clone();
        waiting.spawn(async move { host.handle(&ask(n, 0).body, PEER, NOW).await });
        while n == 0 && *ledger.asked.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::task::yield_now().await;
    let before = tokio::time::Instant::now();
    assert_eq!(host.handle(&ask(9, 0).body, PEER, NOW).await, Handled::Busy);
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert!(waiting.join_all().await.iter().all(|handled| *handled == Handled::Busy));
}
