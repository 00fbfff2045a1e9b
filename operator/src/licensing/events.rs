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
/// A reading by time is halved until it fits, down to this: times in a log are whole seconds.
const SHORTEST_MS: i64 = 1000;
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

/// What a reading found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Events, the oldest first.
    pub events: Vec<Logged>,
    /// Where to read on.
    pub cursor: Option<Cursor>,
    /// Whether some of the events can have been read before: they are to be compared with what is known.
    pub overlaps: bool,
    /// Whether there are more.
    pub more: bool,
    /// Rows that are no 12290 event with all its fields.
    pub unreadable: usize,
}

/// Reads what is new since `cursor`, oldest first.
///
/// # Errors
/// When the host does not answer, or refuses.
pub async fn read_on(client: &Client, host: &str, cursor: Option<Cursor>, now: i64) -> Result<Reading, Error> {
    let log = Log {
        client,
        host,
        most: MOST,
    };
    let Some(cursor) = cursor else {
        return log.between(now.saturating_sub(THIRTY_DAYS_MS), None, now).await;
    };
    let (rows, complete) = log.ask(&format!("RecordNumber >= {}", cursor.record)).await?;
    // A log that was cleared counts from 1 again, perhaps beyond the cursor: only the event that was read last, with its
    // time, proves that this is the same log.
    let proven = rows.iter().any(|row| place(row) == Some((cursor.record, cursor.at)));
    if proven && complete {
        let fresh = rows
            .iter()
            .filter(|row| place(row).is_none_or(|(record, _)| record > cursor.record));
        return Ok(log.reading(fresh, Some(cursor)));
    }
    // Times are whole seconds, so that events of the cursor's second can be new.
    log.between(cursor.at, Some(cursor), now).await
}

/// The log "Key Management Service" of a host.
struct Log<'a> {
    client: &'a Client,
    host: &'a str,
    /// Events taken in one reading.
    most: usize,
}

impl Log<'_> {
    async fn ask(&self, condition: &str) -> Result<(Vec<Instance>, bool), Error> {
        let query = format!(
            "SELECT RecordNumber, TimeGenerated, InsertionStrings FROM Win32_NTLogEvent WHERE Logfile = 'Key Management \
             Service' AND EventCode = 12290 AND {condition}"
        );
        self.client.query_up_to(CIMV2, &query, self.most).await
    }

    /// Reads by time. A host lists its newest events first and would give up the oldest, so that a span with too many is
    /// halved, and the older half is read first.
    async fn between(&self, from: i64, cursor: Option<Cursor>, now: i64) -> Result<Reading, Error> {
        let mut found = Reading {
            cursor,
            overlaps: true,
            ..Reading::default()
        };
        // The last span is open: clocks differ.
        let mut spans = vec![(from, None)];
        while let Some((from, to)) = spans.pop() {
            let until = to.map_or_else(String::new, |to| format!(" AND TimeGenerated < '{}'", at(to)));
            let (rows, complete) = self.ask(&format!("TimeGenerated >= '{}'{until}", at(from))).await?;
            let end = to.unwrap_or_else(|| now.max(from + 2 * SHORTEST_MS));
            let middle = from.midpoint(end) / SHORTEST_MS * SHORTEST_MS;
            if !complete && middle > from {
                spans.extend([(middle, to), (from, Some(middle))]);
                continue;
            }
            let read = self.reading(rows.iter(), found.cursor);
            found.events.extend(read.events);
            found.unreadable += read.unreadable;
            found.cursor = read.cursor;
            found.more = !spans.is_empty();
            if found.events.len() >= self.most {
                break;
            }
        }
        Ok(found)
    }

    /// The events of these rows in the order of the log, and the new cursor.
    fn reading<'a>(&self, rows: impl Iterator<Item = &'a Instance>, cursor: Option<Cursor>) -> Reading {
        let mut reading = Reading::default();
        // What cannot be read is passed over once, not told each time.
        let mut newest: Option<(u32, i64)> = None;
        for row in rows {
            newest = newest.max(place(row));
            match logged(self.host, row) {
                Some(logged) => reading.events.push(logged),
                None => reading.unreadable += 1,
            }
        }
        reading.events.sort_by_key(|logged| logged.record);
        reading.events.dedup_by_key(|logged| logged.record);
        reading.cursor = newest.map(|(record, at)| Cursor { record, at }).or(cursor);
        reading
    }
}

fn at(millis: i64) -> String {
    Timestamp::from_millisecond(millis).map(dmtf).unwrap_or_default()
}

/// Where an event stands in the log, and when it was written.
fn place(row: &Instance) -> Option<(u32, i64)> {
    let at = row.datetime("TimeGenerated").ok()??.as_millisecond();
    Some((row.u32("RecordNumber").ok()??, at))
}

/// Reads a row.
fn logged(host: &str, row: &Instance) -> Option<Logged> {
    let (record, at) = place(row)?;
    let event = parse(host, Millis(at), &row.strings("InsertionStrings").ok()?)?;
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
mod tests;
