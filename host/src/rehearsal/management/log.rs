//! The event log of a rehearsal host: the ledger's events with the record numbers of a Windows log.

use std::collections::VecDeque;

use wsman::value::Instance;

use super::classes::time;
use crate::ledger::{Event, Ledger, LedgerError};

/// Events kept; the oldest are overwritten, as in a Windows log of the usual size.
const KEPT: usize = 20_000;
/// Events read from the ledger at a time.
const BATCH: usize = 1000;

/// The log "Key Management Service".
#[derive(Debug)]
pub(super) struct EventLog {
    host: String,
    cursor: Option<String>,
    next: u32,
    kept: VecDeque<(u32, Event)>,
}

impl EventLog {
    pub(super) fn new(host: String) -> Self {
        Self {
            host,
            cursor: None,
            next: 1,
            kept: VecDeque::new(),
        }
    }

    /// Takes over what the ledger has beyond the last reading.
    pub(super) async fn read_on(&mut self, ledger: &dyn Ledger) -> Result<(), LedgerError> {
        loop {
            let batch = ledger.events(self.cursor.as_deref(), BATCH).await?;
            let whole = batch.len() == BATCH;
            for stored in batch {
                self.cursor = Some(stored.cursor);
                // Other hosts can share the ledger.
                if stored.event.host == self.host {
                    self.kept.push_back((self.next, stored.event));
                    self.next = self.next.saturating_add(1);
                }
            }
            while self.kept.len() > KEPT {
                self.kept.pop_front();
            }
            if !whole {
                return Ok(());
            }
        }
    }

    /// Events beyond a record number, newest first as Windows lists them.
    pub(super) fn instances(&self, after: u64) -> Vec<Instance> {
        self.kept
            .iter()
            .rev()
            .take_while(|(number, _)| u64::from(*number) > after)
            .map(|(number, event)| instance(*number, event, &self.host))
            .collect()
    }
}

fn instance(number: u32, event: &Event, host: &str) -> Instance {
    let strings = insertion_strings(event);
    let message = format!(
        "An activation request has been processed. \r\n\r\nInfo:\r\n{}",
        strings.join(",")
    );
    Instance::new("Win32_NTLogEvent")
        .with("ComputerName", host)
        .with("EventCode", 12290_u32)
        .with("EventIdentifier", 1_073_754_114_u32)
        .with("EventType", 3_u32)
        .with("InsertionStrings", vec![strings.join(",")])
        .with("Logfile", "Key Management Service")
        .with("Message", message)
        .with("RecordNumber", number)
        .with("SourceName", "Microsoft-Windows-Security-SPP")
        .with("TimeGenerated", time(event.at))
        .with("TimeWritten", time(event.at))
}

/// The fields of event 12290 in their order ("KMS Events Logged in the Windows Event Log", Table 11).
fn insertion_strings(event: &Event) -> [String; 9] {
    [
        format!("0x{:X}", event.hresult),
        event.required.to_string(),
        event.client_name.clone(),
        event.cmid.to_string(),
        event.client_time.clone(),
        u8::from(event.virtual_machine).to_string(),
        event.license_status.to_string(),
        event.minutes_to_expiration.to_string(),
        event.activation_id.to_string(),
    ]
}
