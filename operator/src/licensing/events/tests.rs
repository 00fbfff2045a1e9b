//! Shapes of the event, and reading an event log on, over the wire.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use wsman::client::{Credentials, Endpoint, Limits, Scheme, Transport};
use wsman::hresult::Hresult;
use wsman::reply::Output;
use wsman::server::{self, Answer, Call, Provider, Query, Settings};

use super::*;

const INFO: &str = "0x0,5,pc01.contoso.com,08c3bda0-c556-4b61-9e4e-7bf6d4df80be,2006/1/14 2:30,0,2,40123,cf67834d-db4a-402c-ab1f-2c134f02b700";

fn event(name: &str, cmid: u128, at: i64) -> Event {
    let mut event = parse("kms01", Millis(at), &[INFO.to_owned()]).unwrap();
    event.client_name = name.to_owned();
    event.cmid = Uuid::from_u128(cmid);
    event
}

#[test]
fn both_shapes_of_the_event_read_the_same() {
    let one = parse("kms01", Millis(7), &[INFO.to_owned()]).unwrap();
    assert_eq!((one.hresult, one.required, one.minutes_to_expiration), (0, 5, 40_123));
    assert_eq!(one.client_name, "pc01.contoso.com");
    let mut many: Vec<String> = INFO.split(',').map(str::to_owned).collect();
    assert_eq!(parse("kms01", Millis(7), &many), Some(one.clone()));
    many.insert(0, "KmsRequests".to_owned());
    assert_eq!(parse("kms01", Millis(7), &many), Some(one));
    let skew = INFO.replace("0x0", "0xC004F06C");
    assert_eq!(parse("kms01", Millis(7), &[skew]).unwrap().hresult, 0xC004_F06C);
    assert_eq!(parse("kms01", Millis(7), &["nothing".to_owned()]), None);
}

/// An event log over the wire: lists its newest events first, as Windows does.
#[derive(Default)]
struct EventLog(Mutex<Vec<Instance>>);

impl EventLog {
    fn write(&self, rows: impl IntoIterator<Item = Instance>) {
        self.0.lock().unwrap().extend(rows);
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Provider for EventLog {
    fn instances<'a>(&'a self, _: &'a str, query: &'a Query) -> Answer<'a, Vec<Instance>> {
        assert_eq!(query.class, "Win32_NTLogEvent");
        Box::pin(async { Ok(self.0.lock().unwrap().iter().rev().cloned().collect()) })
    }

    fn invoke<'a>(&'a self, _: &'a Call) -> Answer<'a, Output> {
        Box::pin(async { Err(Hresult::WBEM_INVALID_METHOD) })
    }
}

async fn logging() -> (Client, Arc<EventLog>, tokio_util::sync::DropGuard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        transport: Transport::Http,
        scheme: Scheme::Ntlm,
    };
    let account = Credentials {
        user: "admin".into(),
        password: "drill".to_owned().into(),
    };
    let settings = Settings {
        account: account.clone(),
        identity: None,
        limits: server::Limits::default(),
    };
    let (log, stop) = (
        Arc::new(EventLog::default()),
        tokio_util::sync::CancellationToken::new(),
    );
    tokio::spawn(server::serve(listener, settings, log.clone(), stop.clone()));
    let limits = Limits {
        page: 5,
        ..Limits::default()
    };
    (Client::new(endpoint, account, limits).unwrap(), log, stop.drop_guard())
}

/// Half past an hour, in milliseconds.
const START: i64 = 1_700_001_000_000;

fn row(record: u32, second: i64, strings: &str) -> Instance {
    let at = Timestamp::from_millisecond(START + 1000 * second).ok();
    Instance::new("Win32_NTLogEvent")
        .with("EventCode", 12290_u32)
        .with("InsertionStrings", vec![strings.to_owned()])
        .with("Logfile", "Key Management Service")
        .with("RecordNumber", record)
        .with("TimeGenerated", at)
}

fn records(reading: &Reading) -> Vec<u32> {
    reading.events.iter().map(|logged| logged.record).collect()
}

#[tokio::test]
async fn more_events_than_one_reading_takes_are_read_oldest_first_and_none_is_lost() {
    let (client, server, _stop) = logging().await;
    // Two a second, then many in one second, then some more.
    server.write((1..=40).map(|record| row(record, i64::from(record) / 2, INFO)));
    server.write((41..=45).map(|record| row(record, 600, INFO)));
    let log = Log {
        client: &client,
        host: "kms01",
        most: 10,
    };
    let (mut from, mut cursor, mut all, mut more) = (START - 1000, None, Vec::new(), true);
    while more {
        let read = log.between(from, cursor, START + 700_000).await.unwrap();
        assert!(read.overlaps && read.events.len() <= 20, "{read:?}");
        (cursor, more) = (read.cursor, read.more);
        from = cursor.unwrap().at;
        all.extend(records(&read));
    }
    // What a second holds is read again with the next reading, and found in the ledger.
    all.dedup();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (1..=45).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_log_is_read_on_by_number_and_one_that_was_cleared_and_filled_again_by_time() {
    let (client, server, _stop) = logging().await;
    let now = START + 3_600_000;
    let read = async |cursor| read_on(&client, "kms01", cursor, now).await.unwrap();
    server.write((1..=3).map(|record| row(record, i64::from(record), INFO)));
    let first = read(None).await;
    assert_eq!((records(&first), first.overlaps), (vec![1, 2, 3], true));
    // The host's clock is set back, and an event is garbled.
    server.write([row(4, 2, INFO), row(5, 5, "garbled"), row(6, 6, INFO)]);
    let second = read(first.cursor).await;
    assert_eq!(
        (records(&second), second.unreadable, second.overlaps),
        (vec![4, 6], 1, false)
    );
    assert_eq!(second.cursor.unwrap().record, 6);
    let none = read(second.cursor).await;
    assert_eq!(
        (records(&none), none.unreadable, none.cursor),
        (vec![], 0, second.cursor)
    );
    // Cleared, and by now beyond the cursor: the number 6 is another event.
    server.clear();
    server.write((1..=8).map(|record| row(record, 100 + i64::from(record), INFO)));
    let third = read(second.cursor).await;
    assert_eq!(
        (records(&third), third.overlaps),
        ((1..=8).collect(), true),
        "none is passed over"
    );
    assert_eq!(third.cursor.unwrap().record, 8);
}

#[test]
fn what_the_ledger_has_is_not_written_twice() {
    let (old, new) = (event("pc01", 1, 5), event("pc02", 2, 6));
    assert_eq!(
        unknown_to(std::slice::from_ref(&old), vec![old.clone(), new.clone()]),
        [new]
    );
}

#[test]
fn clones_are_found_and_one_machine_with_two_spellings_is_none() {
    let mut duplicates = Duplicates::default();
    duplicates.note(&[event("pc01.contoso.com", 1, 10), event("PC01", 1, 11)], Millis(20));
    assert!(duplicates.message().is_none());
    duplicates.note(&[event("pc02", 1, 12)], Millis(20));
    let message = duplicates.message().unwrap();
    assert!(message.contains("by pc01, pc02"), "{message}");
    duplicates.note(&[], Millis(20 + THIRTY_DAYS_MS));
    assert!(duplicates.found().is_empty());
}

proptest! {
    #[test]
    fn strange_strings_never_panic(strings in proptest::collection::vec("[ -~]{0,40}", 0..12), one in "[0-9a-f,x -]{0,120}") {
        let _ = parse("kms01", Millis(0), &strings);
        let _ = parse("kms01", Millis(0), &[one]);
    }
}
