//! Connections to one licensed host that are already bound with one transfer syntax.
//!
//! The last connection given back is the first taken, so that the others grow old and are trimmed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Idle connections of one kind. Generic over the connection so that its rules are tested without sockets.
#[derive(Debug)]
pub(super) struct Pool<C> {
    idle: Mutex<Vec<(C, Instant)>>,
}

impl<C> Default for Pool<C> {
    fn default() -> Self {
        Self { idle: Mutex::default() }
    }
}

impl<C> Pool<C> {
    /// The connection that was used last, if any is idle.
    pub(super) fn take(&self) -> Option<C> {
        self.lock().pop().map(|(connection, _)| connection)
    }

    /// Gives a connection back that can be used again; at most `most` are kept.
    pub(super) fn give_back(&self, connection: C, now: Instant, most: usize) {
        let mut idle = self.lock();
        if idle.len() < most {
            idle.push((connection, now));
        }
    }

    /// Closes what was not used within `idle_timeout`.
    pub(super) fn trim(&self, now: Instant, idle_timeout: Duration) {
        self.lock()
            .retain(|(_, since)| now.saturating_duration_since(*since) < idle_timeout);
    }

    /// Closes all: the host was seen to close one of them.
    pub(super) fn clear(&self) {
        let closed = std::mem::take(&mut *self.lock());
        drop(closed);
    }

    /// Connections kept.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(C, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_is_taken_first_and_the_unused_are_trimmed() {
        let (pool, start) = (Pool::default(), Instant::now());
        for n in 0..3u64 {
            pool.give_back(n, start + Duration::from_secs(n), 3);
        }
        pool.give_back(9, start, 3);
        assert_eq!(pool.len(), 3, "no more than the most are kept");
        pool.trim(start + Duration::from_secs(11), Duration::from_secs(10));
        assert_eq!((pool.take(), pool.take()), (Some(2), None));
    }
}
