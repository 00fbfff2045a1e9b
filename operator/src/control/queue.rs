//! Which resource is looked at next: one entry for each, at most one worker at a time on each, back-off with jitter on each.
//!
//! A resource that fails waits alone: nothing of it is shared with the others but the workers, and it holds a worker only
//! while it is looked at. What changes while a worker is at it is looked at afterwards, once.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A namespaced resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a resource is to be looked at, which decides whether its back-off holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// What people asked for changed: at once.
    Asked,
    /// Something around it changed: not before its back-off is over.
    Seen,
}

/// When a resource is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// After this time, unless something changes. Until `hold` is over, only [`Cause::Asked`] shortens it.
    After {
        /// The time.
        again: Duration,
        /// How long what is seen waits.
        hold: Duration,
    },
    /// As soon as the back-off of a failed look is over.
    Retry,
    /// Never, unless it is asked for again: it is gone.
    Forget,
}

/// First wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after failures.
const LAST_RETRY: Duration = Duration::from_secs(120);

/// How long to wait after so many failures in a row; `jitter` is 0 to 1 and takes up to half of it away.
#[must_use]
pub fn backoff(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(LAST_RETRY);
    whole.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[derive(Debug, Default)]
struct Entry {
    due: Option<Instant>,
    held_until: Option<Instant>,
    running: bool,
    again: Option<Cause>,
    failures: u32,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<Arc<Key>, Entry>,
    order: BTreeSet<(Instant, Arc<Key>)>,
}

impl Inner {
    fn schedule(&mut self, key: &Arc<Key>, due: Option<Instant>) {
        let entry = self.entries.entry(Arc::clone(key)).or_default();
        if let Some(before) = entry.due.take() {
            self.order.remove(&(before, Arc::clone(key)));
        }
        entry.due = due;
        if let Some(due) = due {
            self.order.insert((due, Arc::clone(key)));
        }
    }

    fn trigger(&mut self, key: &Arc<Key>, cause: Cause, now: Instant) {
        let entry = self.entries.entry(Arc::clone(key)).or_default();
        if entry.running {
            if entry.again != Some(Cause::Asked) {
                entry.again = Some(cause);
            }
            return;
        }
        let at = match cause {
            Cause::Asked => now,
            Cause::Seen => entry.held_until.map_or(now, |held| held.max(now)),
        };
        if entry.due.is_none_or(|due| due > at) {
            self.schedule(key, Some(at));
        }
    }
}

/// The queue. Clones are the same queue.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a resource looked at.
    pub fn trigger(&self, key: &Key, cause: Cause) {
        self.lock().trigger(&Arc::new(key.clone()), cause, Instant::now());
        self.wake.notify_one();
    }

    /// The next resource; waits until one is due. Its worker calls [`Queue::done`] when it has looked at it.
    pub async fn next(&self) -> Arc<Key> {
        loop {
            let wait = {
                let mut inner = self.lock();
                let first = inner.order.first().cloned();
                match first {
                    Some((due, key)) if due <= Instant::now() => {
                        inner.schedule(&key, None);
                        if let Some(entry) = inner.entries.get_mut(&key) {
                            entry.running = true;
                        }
                        if !inner.order.is_empty() {
                            // Others may be due as well, and a notification wakes one worker only.
                            self.wake.notify_one();
                        }
                        return key;
                    }
                    first => first.map(|(due, _)| due),
                }
            };
            match wait {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.wake.notified() => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends a look at a resource. `jitter` is random, 0 to 1.
    pub fn done(&self, key: &Arc<Key>, next: Next, jitter: f64) {
        let now = Instant::now();
        let mut inner = self.lock();
        let Some(entry) = inner.entries.get_mut(key) else {
            return;
        };
        entry.running = false;
        let again = entry.again.take();
        let due = match next {
            Next::After { again, hold } => {
                entry.failures = 0;
                entry.held_until = Some(now + hold);
                now + again
            }
            Next::Retry => {
                entry.failures = entry.failures.saturating_add(1);
                let due = now + backoff(entry.failures, jitter);
                entry.held_until = Some(due);
                due
            }
            Next::Forget if again.is_none() => {
                inner.entries.remove(key);
                return;
            }
            Next::Forget => now,
        };
        inner.schedule(key, Some(due));
        if let Some(cause) = again {
            inner.trigger(key, cause, now);
        }
        drop(inner);
        self.wake.notify_one();
    }

    /// Resources that are due and wait for a worker.
    #[must_use]
    pub fn depth(&self) -> usize {
        let now = Instant::now();
        self.lock().order.iter().take_while(|(due, _)| *due <= now).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "a".into(),
            name: name.into(),
        }
    }

    fn after(seconds: u64) -> Next {
        Next::After {
            again: Duration::from_secs(seconds),
            hold: Duration::ZERO,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_during_a_look_is_looked_at_once_more() {
        let queue = Queue::default();
        queue.trigger(&key("one"), Cause::Asked);
        let one = queue.next().await;
        queue.trigger(&one, Cause::Seen);
        queue.trigger(&one, Cause::Seen);
        let nobody = tokio::time::timeout(Duration::from_secs(5), queue.next()).await;
        assert!(nobody.is_err(), "two workers never look at the same resource");
        queue.done(&one, after(3600), 0.0);
        let again = queue.next().await;
        queue.done(&again, after(3600), 0.0);
        let begin = Instant::now();
        queue.next().await;
        assert_eq!(begin.elapsed().as_secs(), 3600, "then it rests");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_resource_backs_off_alone_and_a_new_wish_ends_its_wait() {
        let queue = Queue::default();
        queue.trigger(&key("bad"), Cause::Asked);
        for _ in 0..20 {
            let bad = queue.next().await;
            queue.done(&bad, Next::Retry, 0.0);
        }
        queue.trigger(&key("bad"), Cause::Seen);
        queue.trigger(&key("good"), Cause::Seen);
        let begin = Instant::now();
        let first = queue.next().await;
        assert_eq!(first.name, "good");
        assert_eq!(begin.elapsed(), Duration::ZERO);
        queue.done(&first, Next::Forget, 0.0);
        let second = queue.next().await;
        assert_eq!(
            begin.elapsed(),
            LAST_RETRY,
            "what is merely seen does not end a back-off"
        );
        queue.done(&second, Next::Retry, 0.0);
        queue.trigger(&key("bad"), Cause::Asked);
        let begin = Instant::now();
        queue.next().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_gone_is_forgotten_unless_it_came_back_meanwhile() {
        let queue = Queue::default();
        queue.trigger(&key("one"), Cause::Asked);
        let one = queue.next().await;
        queue.trigger(&one, Cause::Asked);
        queue.done(&one, Next::Forget, 0.0);
        let one = queue.next().await;
        queue.done(&one, Next::Forget, 0.0);
        assert!(queue.lock().entries.is_empty());
        assert!(queue.lock().order.is_empty());
    }

    proptest! {
        #[test]
        fn waits_grow_to_a_bound_and_jitter_takes_at_most_half(failures in 0u32..100, jitter in 0.0f64..=1.0) {
            let whole = backoff(failures, 0.0);
            prop_assert!(whole >= FIRST_RETRY && whole <= LAST_RETRY);
            prop_assert!(backoff(failures + 1, 0.0) >= whole);
            let jittered = backoff(failures, jitter);
            prop_assert!(jittered <= whole && jittered >= whole / 2);
        }
    }
}
