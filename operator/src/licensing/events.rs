//! 12290 events of licensed hosts: reading on after a cursor, both shapes of the event, duplicate CMIDs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jiff::Timestamp;
use kms_host::ledger::{Event, Millis};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use wsman::client::{Client, Error};
use wsman::names::CIMV2;
use wsman::value::{Instance, dmtf};

/// Events taken in one reading; the rest comes with the next.
const MOST: usize = 20_000;
/// How far back the first reading goes, and how long a CMID counts: 30 days.
const THIRTY_DAYS_MS: i64 = 30 * 24 * 3600 * 1000;
/// CMIDs remembered for finding duplicates.
const MOST_CMIDS: usize = 200_000;

/// How far a host's log was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cursor {
    /// Record number of the newest event read.
    pub record: u32,
    /// Its time, in milliseconds since the epoch.
    pub at: i64,
}

/// An event with its place in the host's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Record number; restarts at 1 when the log is cleared.
    pub record: u32,
    /// The event.
    pub event: Event,
}

/// Reads what is new since `cursor`, oldest first, and where to read on.
///
/// # Errors
/// When the host does not answer, or refuses.
pub async fn read_on(
    client: &Client,
    host: &str,
    cursor: Option<Cursor>,
    now: i64,
) -> Result<(Vec<Logged>, Option<Cursor>), Error> {
    let log = "SELECT RecordNumber, TimeGenerated, InsertionStrings FROM Win32_NTLogEvent WHERE \
               Logfile = 'Key Management Service' AND EventCode = 12290";
    let since = |at: i64| Timestamp::from_millisecond(at).map(dmtf).unwrap_or_default();
    let ask = async |condition: String| {
        let (rows, _) = client
            .query_up_to(CIMV2, &format!("{log} AND {condition}"), MOST)
            .await?;
        Ok::<_, Error>(rows.iter().filter_map(|row| logged(host, row)).collect::<Vec<_>>())
    };
    let Some(cursor) = cursor else {
        let read = ask(format!(
            "TimeGenerated > '{}'",
            since(now.saturating_sub(THIRTY_DAYS_MS))
        ))
        .await?;
        return Ok(in_order(read, None));
    };
    let mut read = ask(format!("RecordNumber > {}", cursor.record)).await?;
    if follows_on(&read, cursor) {
        return Ok(in_order(read, Some(cursor)));
    }
    // Nothing new by number, or a gap: the log may have been cleared, and then numbers began again at 1.
    let later = ask(format!("TimeGenerated > '{}'", since(cursor.at))).await?;
    read.extend(later.into_iter().filter(|logged| logged.record <= cursor.record));
    Ok(in_order(read, Some(cursor)))
}

fn follows_on(read: &[Logged], cursor: Cursor) -> bool {
    read.iter().map(|logged| logged.record).min() == Some(cursor.record.saturating_add(1))
}

/// Orders by time, then number, and finds the new cursor.
fn in_order(mut read: Vec<Logged>, cursor: Option<Cursor>) -> (Vec<Logged>, Option<Cursor>) {
    read.sort_by_key(|logged| (logged.event.at, logged.record));
    read.dedup_by_key(|logged| (logged.event.at, logged.record));
    let newest = read.last().map(|logged| Cursor {
        record: logged.record,
        at: logged.event.at.0,
    });
    (read, newest.or(cursor))
}

/// Reads a row; what is no 12290 event with all its fields is left out.
fn logged(host: &str, row: &Instance) -> Option<Logged> {
    let record = row.u32("RecordNumber").ok()??;
    let at = Millis(row.datetime("TimeGenerated").ok()??.as_millisecond());
    let event = parse(host, at, &row.strings("InsertionStrings").ok()?)?;
    Some(Logged { record, event })
}

/// Reads the insertion strings of event 12290: one string of nine fields between commas, or each field its own string,
/// with something before them ("KMS Events Logged in the Windows Event Log", Table 11, documents the first only). The
/// CMID is found as the first UUID; three fields stand before it and five after it.
pub fn parse(host: &str, at: Millis, strings: &[String]) -> Option<Event> {
    let fields: Vec<&str> = match strings {
        [one] => one.split(',').map(str::trim).collect(),
        many => many.iter().map(|field| field.trim()).collect(),
    };
    let place = fields.iter().position(|field| Uuid::try_parse(field).is_ok())?;
    let (before, rest) = fields.split_at_checked(place)?;
    let [.., hresult, required, client_name] = before else {
        return None;
    };
    let [cmid, client_time, virtual_machine, status, minutes, activation_id, ..] = rest else {
        return None;
    };
    let code = hresult.trim_start_matches("Info:").trim();
    let code = code
        .strip_prefix("0x")
        .or_else(|| code.strip_prefix("0X"))
        .unwrap_or(code);
    Some(Event {
        at,
        host: host.to_owned(),
        hresult: u32::from_str_radix(code, 16).ok()?,
        required: required.parse().ok()?,
        client_name: client_name.chars().take(255).collect(),
        cmid: Uuid::try_parse(cmid).ok()?,
        client_time: client_time.chars().take(64).collect(),
        virtual_machine: *virtual_machine == "1",
        license_status: status.parse().ok()?,
        minutes_to_expiration: minutes.parse().ok()?,
        activation_id: Uuid::try_parse(activation_id).ok()?,
    })
}

/// Leaves out what the ledger has already: a restart between writing events and saving the cursor reads them twice.
pub fn unknown_to(ledger: &[Event], read: Vec<Event>) -> Vec<Event> {
    let key = |event: &Event| {
        (
            event.host.clone(),
            event.at,
            event.cmid,
            event.activation_id,
            event.client_time.clone(),
        )
    };
    let known: HashSet<_> = ledger.iter().map(key).collect();
    read.into_iter().filter(|event| !known.contains(&key(event))).collect()
}

/// CMIDs that machines with different names use: cloned images without sysprep /generalize (KB929829). Each such group
/// counts as one client.
#[derive(Debug, Clone, Default)]
pub struct Duplicates {
    seen: BTreeMap<Uuid, BTreeMap<String, Millis>>,
}

impl Duplicates {
    /// Notes events.
    pub fn note(&mut self, events: &[Event], now: Millis) {
        let oldest = Millis(now.0.saturating_sub(THIRTY_DAYS_MS));
        self.seen.retain(|_, names| {
            names.retain(|_, at| *at >= oldest);
            !names.is_empty()
        });
        for event in events.iter().filter(|event| event.at >= oldest) {
            if self.seen.len() >= MOST_CMIDS && !self.seen.contains_key(&event.cmid) {
                continue;
            }
            // A machine can show its short name once and its full name another time.
            let name = event
                .client_name
                .split('.')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            let names = self.seen.entry(event.cmid).or_default();
            // Ten names show a clone as well as a thousand.
            if names.len() < 10 || names.contains_key(&name) {
                names.insert(name, event.at);
            }
        }
    }

    /// CMIDs with more than one name, and the names.
    pub fn found(&self) -> Vec<(Uuid, BTreeSet<&str>)> {
        self.seen
            .iter()
            .filter(|(_, names)| names.len() > 1)
            .map(|(cmid, names)| (*cmid, names.keys().map(String::as_str).collect()))
            .collect()
    }

    /// What to tell people; none when all is well.
    pub fn message(&self) -> Option<String> {
        let found = self.found();
        let (cmid, names) = found.first()?;
        let names = names.iter().copied().collect::<Vec<_>>().join(", ");
        Some(format!(
            "{} CMIDs are used under several machine names, such as {cmid} by {names}: cloned images count as one \
             client; run `slmgr /rearm` (Windows) or `ospp /rearm` (Office) on them, and sysprep /generalize the image",
            found.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn reading_on_orders_and_knows_a_cleared_log() {
        let at = |record, at| Logged {
            record,
            event: event("pc", 1, at),
        };
        let cursor = Cursor { record: 100, at: 1000 };
        assert!(follows_on(&[at(102, 3), at(101, 2)], cursor));
        assert!(!follows_on(&[], cursor));
        assert!(!follows_on(&[at(150, 3)], cursor));
        let (read, next) = in_order(vec![at(2, 3000), at(1, 2000), at(2, 3000)], Some(cursor));
        assert_eq!(read.iter().map(|logged| logged.record).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(next, Some(Cursor { record: 2, at: 3000 }));
        assert_eq!(in_order(vec![], Some(cursor)).1, Some(cursor));
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
}
