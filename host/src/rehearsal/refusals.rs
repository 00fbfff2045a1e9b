//! Tells the ledger of refused requests, behind the answer and never in its way.

use std::sync::Arc;

use tokio::sync::mpsc;
use uuid::Uuid;

use super::metrics::RehearsalMetrics;
use crate::ledger::{Event, Ledger};

/// Refusals that wait for the ledger, at most; more are counted in a metric and forgotten.
const WAITING: usize = 1024;

/// Refusals written in one call, at most.
const BATCH: usize = 128;

/// What the ledger is told of a refused request.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Add to the application's failed requests and append the event.
    Failed(Uuid, Event),
    /// Append the event: the failure is counted already, or belongs to no application of ours.
    EventOnly(Event),
}

/// Takes refusals; the task that writes them ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub(super) struct Refusals {
    waiting: mpsc::Sender<Refusal>,
    metrics: RehearsalMetrics,
}

impl Refusals {
    pub(super) fn start(ledger: Arc<dyn Ledger>, metrics: RehearsalMetrics) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING);
        tokio::spawn(write(ledger, receiver, metrics.clone()));
        Self { waiting, metrics }
    }

    pub(super) fn tell(&self, refusal: Refusal) {
        if self.waiting.try_send(refusal).is_err() {
            self.metrics.refusals_not_recorded(1);
        }
    }
}

async fn write(ledger: Arc<dyn Ledger>, mut waiting: mpsc::Receiver<Refusal>, metrics: RehearsalMetrics) {
    let mut gathered = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut gathered, BATCH).await != 0 {
        let (mut failed, mut events) = (Vec::new(), Vec::new());
        for refusal in gathered.drain(..) {
            match refusal {
                Refusal::Failed(application, event) => failed.push((application, event)),
                Refusal::EventOnly(event) => events.push(event),
            }
        }
        if !failed.is_empty() && ledger.refused(&failed).await.is_err() {
            metrics.refusals_not_recorded(failed.len());
        }
        if !events.is_empty() && ledger.append_events(&events).await.is_err() {
            metrics.refusals_not_recorded(events.len());
        }
    }
}
