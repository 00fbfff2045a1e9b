//! Gathers concurrent counting requests of one replica into batches.
//!
//! Batching is natural: while one batch is with the ledger, the next one gathers; a request that comes alone goes alone
//! and at once. So the store's round trip bounds the number of batches per second, not the number of requests.
//! What waits is bounded; beyond the bound, or when the ledger does not answer in time, the caller is told [`Busy`].

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use super::{Ledger, LedgerError, Sighting, Verdict};

/// Bounds of a [`CountBatcher`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Requests in one batch, at most. A batch is one script call, during which the store serves nobody else.
    pub batch: usize,
    /// Requests that wait, at most; more are refused at once.
    pub waiting: usize,
    /// From request to verdict, at most.
    pub patience: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            batch: 128,
            waiting: 4096,
            patience: Duration::from_secs(2),
        }
    }
}

/// Why a request was not counted. The client may ask again.
#[derive(Debug, thiserror::Error)]
pub enum Busy {
    /// Too many requests wait already.
    #[error("too many requests wait to be counted")]
    Full,
    /// The ledger did not answer in time. It may have counted the request all the same.
    #[error("the ledger did not count the request in time")]
    TimedOut,
    /// The ledger cannot count now.
    #[error("the ledger cannot count now")]
    Ledger(#[source] Arc<LedgerError>),
}

/// Counts requests in batches. The task behind it ends when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct CountBatcher {
    waiting: mpsc::Sender<Waiting>,
    patience: Duration,
}

#[derive(Debug)]
struct Waiting {
    sighting: Sighting,
    verdict: oneshot::Sender<Result<Verdict, Busy>>,
}

impl CountBatcher {
    /// Starts the task that calls `ledger`; within a tokio runtime.
    pub fn start(ledger: Arc<dyn Ledger>, limits: BatchLimits) -> Self {
        let (sender, receiver) = mpsc::channel(limits.waiting.max(1));
        tokio::spawn(run(ledger, receiver, limits));
        Self {
            waiting: sender,
            patience: limits.patience,
        }
    }

    /// Counts one request.
    pub async fn count(&self, sighting: Sighting) -> Result<Verdict, Busy> {
        let (verdict, answer) = oneshot::channel();
        self.waiting
            .try_send(Waiting { sighting, verdict })
            .map_err(|_| Busy::Full)?;
        match time::timeout(self.patience, answer).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(_)) | Err(_) => Err(Busy::TimedOut),
        }
    }
}

async fn run(ledger: Arc<dyn Ledger>, mut waiting: mpsc::Receiver<Waiting>, limits: BatchLimits) {
    let mut gathered = Vec::with_capacity(limits.batch);
    while waiting.recv_many(&mut gathered, limits.batch.max(1)).await != 0 {
        // Whose caller has gone away is not counted.
        let (sightings, callers): (Vec<_>, Vec<_>) = gathered
            .drain(..)
            .filter(|one| !one.verdict.is_closed())
            .map(|one| (one.sighting, one.verdict))
            .unzip();
        if sightings.is_empty() {
            continue;
        }
        match time::timeout(limits.patience, ledger.count(&sightings)).await {
            Ok(Ok(verdicts)) => {
                for (caller, verdict) in callers.into_iter().zip(verdicts) {
                    let _gone = caller.send(Ok(verdict));
                }
            }
            Ok(Err(error)) => {
                let error = Arc::new(error);
                for caller in callers {
                    let _gone = caller.send(Err(Busy::Ledger(error.clone())));
                }
            }
            Err(_elapsed) => {
                for caller in callers {
                    let _gone = caller.send(Err(Busy::TimedOut));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "batcher_tests.rs"]
mod tests;
