//! What the status shows of the ledger. However many ask, its store is read once a second at most.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use super::status::LedgerStatus;
use crate::ledger::{Ledger, LedgerError, Millis, StoredEvent};
use crate::telemetry::chain;

/// How long the ledger's store may take to answer for a status.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long what was read is shown.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// Events shown.
const RECENT: usize = 20;

/// The ledger as the status shows it.
pub struct LedgerView {
    ledger: Arc<dyn Ledger>,
    shown: Mutex<Option<(Instant, LedgerStatus)>>,
}

impl LedgerView {
    /// Nothing is read yet.
    pub fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self {
            ledger,
            shown: Mutex::default(),
        }
    }

    /// What was read within the last second. Who asks while it is being read waits for the same.
    pub(super) async fn status(&self) -> LedgerStatus {
        let mut shown = self.shown.lock().await;
        if let Some((read_at, status)) = &*shown
            && read_at.elapsed() < FRESH_FOR
        {
            return status.clone();
        }
        let status = self.read().await;
        *shown = Some((Instant::now(), status.clone()));
        status
    }

    /// Which ledger it is.
    pub(super) fn id(&self) -> Uuid {
        self.ledger.id()
    }

    /// At most `limit` events, oldest first: those after a cursor, or the newest ones.
    pub(super) async fn events(&self, after: Option<&str>, limit: usize) -> Result<Vec<StoredEvent>, String> {
        let reading = async {
            match after {
                Some(cursor) => self.ledger.events(Some(cursor), limit).await,
                None => self.ledger.recent_events(limit).await.map(|mut events| {
                    events.reverse();
                    events
                }),
            }
        };
        match timeout(PATIENCE, reading).await {
            Ok(result) => result.map_err(|error| chain(&error)),
            Err(_) => Err("the ledger's store did not answer in time".to_owned()),
        }
    }

    async fn read(&self) -> LedgerStatus {
        let reading = async {
            let counts = self.ledger.counts(wall_clock()).await?;
            let recent_events = self.ledger.recent_events(RECENT).await?;
            Ok::<_, LedgerError>((counts, recent_events))
        };
        let error = match timeout(PATIENCE, reading).await {
            Ok(Ok((counts, recent_events))) => {
                return LedgerStatus {
                    available: true,
                    counts,
                    recent_events,
                    ..LedgerStatus::default()
                };
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "its store did not answer in time".to_owned(),
        };
        LedgerStatus {
            error: Some(error),
            ..LedgerStatus::default()
        }
    }
}

/// The wall clock, where the edge needs it.
fn wall_clock() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Event, MemoryLedger};

    fn event() -> Event {
        Event {
            at: Millis(0),
            host: "kms1".to_owned(),
            hresult: 0,
            required: 5,
            client_name: "pc1".to_owned(),
            cmid: uuid::Uuid::nil(),
            client_time: String::new(),
            virtual_machine: false,
            license_status: 1,
            minutes_to_expiration: 0,
            activation_id: uuid::Uuid::nil(),
        }
    }

    #[tokio::test]
    async fn what_was_read_is_shown_until_it_is_a_second_old() {
        let ledger = Arc::new(MemoryLedger::new());
        let view = LedgerView::new(ledger.clone());
        assert_eq!(view.status().await.recent_events.len(), 0);
        ledger.append_events(&[event()]).await.expect("appended");
        let read_at = |view: &LedgerView| view.shown.try_lock().expect("free").as_ref().expect("read").0;
        let first = read_at(&view);
        while view.status().await.recent_events.is_empty() {
            assert_eq!(read_at(&view), first, "not read again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(read_at(&view).duration_since(first) >= FRESH_FOR);
        assert_eq!(view.events(None, 10).await.expect("read").len(), 1);
    }
}
