//! Queries that are being read page by page: rows that wait for the next Pull, bounded in number and time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::value::Instance;

/// Rows of one query that were not sent yet.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) rows: VecDeque<Instance>,
    /// Whether rows go out as `XmlFragment`.
    pub(super) fragments: bool,
    pub(super) namespace: String,
}

/// All queries that wait, the oldest first.
#[derive(Debug)]
pub(super) struct Pages {
    most: usize,
    idle: Duration,
    waiting: Mutex<VecDeque<(Uuid, Instant, Waiting)>>,
}

impl Pages {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self {
            most,
            idle,
            waiting: Mutex::new(VecDeque::new()),
        }
    }

    /// Keeps rows; the oldest query is forgotten when there are too many.
    pub(super) fn keep(&self, waiting: Waiting, now: Instant) -> Uuid {
        let context = Uuid::new_v4();
        let mut all = self.fresh(now);
        while all.len() >= self.most.max(1) {
            all.pop_front();
        }
        all.push_back((context, now, waiting));
        context
    }

    /// Takes a query's rows; none when it is unknown or waited too long.
    pub(super) fn take(&self, context: &str, now: Instant) -> Option<Waiting> {
        let context = Uuid::try_parse(context.strip_prefix("uuid:").unwrap_or(context)).ok()?;
        let mut all = self.fresh(now);
        let at = all.iter().position(|(known, _, _)| *known == context)?;
        all.remove(at).map(|(_, _, waiting)| waiting)
    }

    fn fresh(&self, now: Instant) -> MutexGuard<'_, VecDeque<(Uuid, Instant, Waiting)>> {
        // Every change below is whole, so a poisoned lock holds nothing half-done.
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, since, _)| now.saturating_duration_since(*since) <= self.idle);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Waiting {
        Waiting {
            rows: VecDeque::new(),
            fragments: true,
            namespace: "root/cimv2".into(),
        }
    }

    #[test]
    fn the_oldest_query_is_forgotten_for_a_new_one_and_all_after_their_time() {
        let start = Instant::now();
        let pages = Pages::new(2, Duration::from_secs(60));
        let first = pages.keep(rows(), start).to_string();
        let second = pages.keep(rows(), start).to_string();
        let third = pages.keep(rows(), start).to_string();
        assert!(pages.take(&first, start).is_none());
        assert!(pages.take(&format!("uuid:{second}"), start).is_some());
        assert!(pages.take(&second, start).is_none());
        assert!(pages.take(&third, start + Duration::from_secs(61)).is_none());
    }
}
