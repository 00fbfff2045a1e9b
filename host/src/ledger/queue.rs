//! The bounded queue between a relay and the ledger: the relay never waits for the store.
//!
//! A task writes what was offered in batches. What an outage holds back stays in the queue, within its bound, and is
//! written afterwards; what does not fit is dropped and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{Answered, Ledger, LedgerError};
use crate::telemetry::chain;

/// Attempts to write what the store rejects: it may have been in the middle of something.
const ATTEMPTS_AT_REJECTED: u32 = 5;

/// Bounds of an [`ObservationQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Observations kept while the store is away, at most. One takes about 100 bytes.
    pub waiting: usize,
    /// Observations in one write, at most.
    pub batch: usize,
    /// How long writing what is left may take when the replica stops.
    pub grace: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            waiting: 100_000,
            batch: 500,
            grace: Duration::from_secs(5),
        }
    }
}

/// Figures of a queue, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Observations that wait now, those being written included.
    pub depth: u64,
    /// Observations written.
    pub written: u64,
    /// Observations lost: the queue was full, the replica stopped while the store was away, or the store rejected them.
    pub dropped: u64,
}

/// Where a relay leaves its observations.
#[derive(Debug, Clone)]
pub struct ObservationQueue {
    waiting: mpsc::Sender<Answered>,
    figures: Arc<Figures>,
}

#[derive(Debug, Default)]
struct Figures {
    offered: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl ObservationQueue {
    /// Starts the task that writes to `ledger`; within a tokio runtime. When `stop` is cancelled it writes what is left,
    /// within the grace, and ends.
    pub fn start(ledger: Arc<dyn Ledger>, limits: QueueLimits, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (sender, waiting) = mpsc::channel(limits.waiting.max(1));
        let figures = Arc::new(Figures::default());
        let writer = Writer {
            ledger,
            waiting,
            figures: figures.clone(),
            limits,
            stop,
        };
        (
            Self {
                waiting: sender,
                figures,
            },
            tokio::spawn(writer.run()),
        )
    }

    /// Leaves an observation. Never waits; beyond the bound the observation is dropped.
    pub fn offer(&self, answered: Answered) {
        self.figures.offered.fetch_add(1, Ordering::Relaxed);
        if self.waiting.try_send(answered).is_err() {
            self.figures.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The figures now.
    pub fn stats(&self) -> QueueStats {
        // Read in this order, what was offered covers what was written and dropped.
        let written = self.figures.written.load(Ordering::Acquire);
        let dropped = self.figures.dropped.load(Ordering::Acquire);
        let offered = self.figures.offered.load(Ordering::Acquire);
        QueueStats {
            depth: offered.saturating_sub(written + dropped),
            written,
            dropped,
        }
    }
}

struct Writer {
    ledger: Arc<dyn Ledger>,
    waiting: mpsc::Receiver<Answered>,
    figures: Arc<Figures>,
    limits: QueueLimits,
    stop: CancellationToken,
}

impl Writer {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(self.limits.batch);
        let stop = self.stop.clone();
        let stopped = stop.run_until_cancelled(self.write_all(&mut batch)).await.is_none();
        if stopped {
            self.waiting.close();
            let deadline = Instant::now() + self.limits.grace;
            let finished = time::timeout_at(deadline, self.write_all(&mut batch)).await.is_ok();
            let left = if finished { 0 } else { batch.len() + self.waiting.len() };
            if left != 0 {
                tracing::warn!(
                    observations = left,
                    "the ledger's store was away when this replica stopped: dropped"
                );
            }
            self.figures
                .dropped
                .fetch_add(u64::try_from(left).unwrap_or(u64::MAX), Ordering::Release);
        }
    }

    /// Writes until nobody can offer any more. May be cancelled at any time: what is in `batch` is not yet known to be
    /// written, and writing it again does no harm.
    async fn write_all(&mut self, batch: &mut Vec<Answered>) {
        loop {
            if batch.is_empty() && self.waiting.recv_many(batch, self.limits.batch.max(1)).await == 0 {
                return;
            }
            let figure = if self.write(batch).await {
                &self.figures.written
            } else {
                &self.figures.dropped
            };
            figure.fetch_add(u64::try_from(batch.len()).unwrap_or(u64::MAX), Ordering::Release);
            batch.clear();
        }
    }

    /// Writes one batch, however long the store is away or must not be written to. False if it rejects the batch.
    async fn write(&self, batch: &[Answered]) -> bool {
        let pauses = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .without_max_times()
            .with_jitter();
        let (mut failures, mut rejections) = (0_u64, 0);
        for pause in pauses.build() {
            let error = match self.ledger.answered(batch).await {
                Ok(()) if failures == 0 => return true,
                Ok(()) => {
                    tracing::info!(failures, "observations are written to the ledger again");
                    return true;
                }
                Err(error) => error,
            };
            if failures == 0 {
                tracing::warn!(error = chain(&error), "observations wait for the ledger");
            }
            failures += 1;
            rejections += u32::from(matches!(error, LedgerError::Rejected { .. }));
            if rejections == ATTEMPTS_AT_REJECTED {
                tracing::error!(
                    error = chain(&error),
                    observations = batch.len(),
                    "the ledger's store rejects observations: dropped"
                );
                return false;
            }
            time::sleep(pause).await;
        }
        false
    }
}
