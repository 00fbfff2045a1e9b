use std::sync::Mutex;

use futures::{FutureExt, future::BoxFuture};
use tokio::{sync::Semaphore, task::JoinSet};
use uuid::Uuid;

use super::*;
use crate::ledger::{
    Answered, ApplicationCount, Event, HostFact, LedgerKey, MemoryLedger, Millis, RoutesRead, StoredEvent,
};

/// A ledger in memory that counts a batch only when it is let, and notes how large each was.
struct Slow {
    ledger: MemoryLedger,
    lets: Semaphore,
    batches: Mutex<Vec<usize>>,
}

impl Slow {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ledger: MemoryLedger::new(),
            lets: Semaphore::new(0),
            batches: Mutex::default(),
        })
    }

    async fn has_been_asked(&self, times: usize) {
        while self.batches.lock().unwrap().len() < times {
            tokio::task::yield_now().await;
        }
    }
}

impl Ledger for Slow {
    fn id(&self) -> Uuid {
        self.ledger.id()
    }
    fn count<'a>(&'a self, batch: &'a [Sighting]) -> BoxFuture<'a, Result<Vec<Verdict>, LedgerError>> {
        async move {
            self.batches.lock().unwrap().push(batch.len());
            self.lets.acquire().await.unwrap().forget();
            self.ledger.count(batch).await
        }
        .boxed()
    }
    fn refused<'a>(&'a self, batch: &'a [(Uuid, Event)]) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.ledger.refused(batch)
    }
    fn answered<'a>(&'a self, batch: &'a [Answered]) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.ledger.answered(batch)
    }
    fn put_fact<'a>(&'a self, host: &'a str, fact: &'a HostFact) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.ledger.put_fact(host, fact)
    }
    fn append_events<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), LedgerError>> {
        self.ledger.append_events(events)
    }
    fn newest_routes(&self, since: Millis, now: Millis, most: usize) -> BoxFuture<'_, Result<RoutesRead, LedgerError>> {
        self.ledger.newest_routes(since, now, most)
    }
    fn counts(&self, now: Millis) -> BoxFuture<'_, Result<Vec<ApplicationCount>, LedgerError>> {
        self.ledger.counts(now)
    }
    fn events<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LedgerError>> {
        self.ledger.events(after, limit)
    }
    fn recent_events(&self, limit: usize) -> BoxFuture<'_, Result<Vec<StoredEvent>, LedgerError>> {
        self.ledger.recent_events(limit)
    }
    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>> {
        self.ledger.ping()
    }
}

fn sighting(n: u128) -> Sighting {
    let cmid = Uuid::from_u128(n);
    Sighting {
        application: Uuid::from_u128(1),
        client: LedgerKey::new(&[7; 32]).machine(&cmid),
        required: 25,
        at: Millis(0),
        request_time_micros: 0,
        event: Event {
            at: Millis(0),
            host: "rehearsal".to_owned(),
            hresult: 0,
            required: 25,
            client_name: "pc".to_owned(),
            cmid,
            client_time: String::new(),
            virtual_machine: false,
            license_status: 2,
            minutes_to_expiration: 0,
            activation_id: Uuid::nil(),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_is_away_goes_together() {
    let ledger = Slow::new();
    let batcher = CountBatcher::start(
        ledger.clone(),
        BatchLimits {
            batch: 8,
            ..BatchLimits::default()
        },
    );
    let mut asking = JoinSet::new();
    for n in 0..12 {
        let batcher = batcher.clone();
        asking.spawn(async move { batcher.count(sighting(n)).await.unwrap() });
        ledger.has_been_asked(1).await;
    }
    tokio::task::yield_now().await;
    ledger.lets.add_permits(3);
    let mut verdicts = asking.join_all().await;
    verdicts.sort_by_key(|verdict| match verdict {
        Verdict::Counted { count } => *count,
        Verdict::SentAgain { .. } | Verdict::Replayed => 0,
    });
    let each_once: Vec<_> = (1..=12).map(|count| Verdict::Counted { count }).collect();
    assert_eq!(verdicts, each_once);
    assert_eq!(*ledger.batches.lock().unwrap(), [1, 8, 3]);
}

#[tokio::test(start_paused = true)]
async fn who_has_gone_away_is_not_counted() {
    let ledger = Slow::new();
    let batcher = CountBatcher::start(ledger.clone(), BatchLimits::default());
    let first = tokio::spawn({
        let batcher = batcher.clone();
        async move { batcher.count(sighting(1)).await }
    });
    ledger.has_been_asked(1).await;
    assert!(
        batcher.count(sighting(2)).now_or_never().is_none(),
        "it waits, and its caller goes away"
    );
    ledger.lets.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), Verdict::Counted { count: 1 });
    assert_eq!(batcher.count(sighting(3)).await.unwrap(), Verdict::Counted { count: 2 });
}

#[tokio::test(start_paused = true)]
async fn a_late_verdict_is_not_waited_for_and_the_next_batch_goes_on() {
    let ledger = Slow::new();
    let batcher = CountBatcher::start(ledger.clone(), BatchLimits::default());
    assert!(matches!(batcher.count(sighting(1)).await, Err(Busy::TimedOut)));
    let second = tokio::spawn(async move { batcher.count(sighting(2)).await });
    ledger.has_been_asked(2).await;
    ledger.lets.add_permits(1);
    assert_eq!(
        second.await.unwrap().unwrap(),
        Verdict::Counted { count: 1 },
        "the first was given up"
    );
}
