//! Looks at what is outside of the cluster, in tasks of their own: a slow name server or licensed host holds up neither the
//! reconciliation of its resource nor another resource.
//!
//! A reconciliation asks for the newest outcome and takes what there is. When none is there, when it is due again or when
//! what it depends on changed, a look is begun beside it; when it ends, whoever listens is woken to reconcile again.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::api::OfficeKmsHost;

/// Looks at the same time.
const MOST: usize = 64;

/// A resource: namespace, name and UID.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a resource made anew is another.
    pub uid: String,
}

impl Key {
    /// Of a resource.
    #[must_use]
    pub fn of(host: &OfficeKmsHost) -> Self {
        Self {
            namespace: host.metadata.namespace.clone().unwrap_or_default(),
            name: host.metadata.name.clone().unwrap_or_default(),
            uid: host.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

/// A number that stands for `parts`: the same for the same, another for others.
#[must_use]
pub fn about(parts: &[serde_json::Value]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in parts {
        part.to_string().hash(&mut hasher);
    }
    hasher.finish()
}

/// Who is told that a look ended.
pub type Wake = Arc<dyn Fn(&Key) + Send + Sync>;

/// Outcomes of looks by resource. Cheap to clone.
pub struct Looks<O> {
    kind: &'static str,
    entries: Arc<Mutex<BTreeMap<Key, Entry<O>>>>,
    room: Arc<Semaphore>,
    wake: Wake,
}

impl<O> fmt::Debug for Looks<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").finish_non_exhaustive()
    }
}

impl<O> Clone for Looks<O> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            entries: Arc::clone(&self.entries),
            room: Arc::clone(&self.room),
            wake: Arc::clone(&self.wake),
        }
    }
}

#[derive(Debug)]
struct Entry<O> {
    running: bool,
    last: Option<Last<O>>,
}

#[derive(Debug)]
struct Last<O> {
    outcome: Arc<O>,
    about: u64,
    due: Instant,
    told: bool,
}

/// The newest outcome.
#[derive(Debug, Clone)]
pub struct Seen<O> {
    /// It.
    pub outcome: Arc<O>,
    /// Whether it is handed out for the first time: its events are to be told now.
    pub fresh: bool,
    /// When to ask again at the latest.
    pub again_in: Duration,
}

impl<O: Send + Sync + 'static> Looks<O> {
    /// No looks yet; `kind` is what traces call them. `wake` is told of each that ended, and must return at once.
    #[must_use]
    pub fn new(kind: &'static str, wake: Wake) -> Self {
        Self {
            kind,
            entries: Arc::default(),
            room: Arc::new(Semaphore::new(MOST)),
            wake,
        }
    }

    /// The newest outcome, if there is one, and the beginning of a look where one is due. `about` stands for all that the
    /// look depends on; `look` gives its outcome and when to look again.
    pub fn ask(
        &self,
        key: &Key,
        about: u64,
        look: impl FnOnce() -> BoxFuture<'static, (O, Duration)>,
    ) -> Option<Seen<O>> {
        let now = Instant::now();
        let mut entries = self.lock();
        let entry = entries.entry(key.clone()).or_insert(Entry {
            running: false,
            last: None,
        });
        let current = entry
            .last
            .as_ref()
            .is_some_and(|last| last.about == about && now < last.due);
        if !current && !entry.running {
            entry.running = true;
            self.begin(key.clone(), about, look());
        }
        let last = entry.last.as_mut()?;
        Some(Seen {
            outcome: Arc::clone(&last.outcome),
            fresh: !std::mem::replace(&mut last.told, true),
            again_in: last.due.saturating_duration_since(now),
        })
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn begin(&self, key: Key, about: u64, look: BoxFuture<'static, (O, Duration)>) {
        let looks = self.clone();
        let name = format_args!("{}/{}", key.namespace, key.name);
        let span = tracing::info_span!(parent: None, "look", object.r#ref = %name, kind = self.kind);
        let looking = async move {
            // The semaphore is never closed.
            let room = Arc::clone(&looks.room);
            let _room = room.acquire().await;
            let (outcome, again_in) = look.await;
            let last = Last {
                outcome: Arc::new(outcome),
                about,
                due: Instant::now() + again_in,
                told: false,
            };
            // A resource that was forgotten meanwhile stays so.
            if let Some(entry) = looks.lock().get_mut(&key) {
                *entry = Entry {
                    running: false,
                    last: Some(last),
                };
            }
            (looks.wake)(&key);
        };
        tokio::spawn(looking.instrument(span));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry<O>>> {
        // Each change is one assignment, so a poisoned lock holds nothing half-done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    fn key() -> Key {
        Key {
            namespace: "office".into(),
            name: "kms".into(),
            uid: "1".into(),
        }
    }

    struct Story {
        looks: Looks<u32>,
        woken: mpsc::Receiver<Key>,
        begun: Arc<AtomicU32>,
    }

    impl Story {
        fn new() -> Self {
            let (wake, woken) = mpsc::channel(4);
            Self {
                looks: Looks::new("test", Arc::new(move |key| wake.try_send(key.clone()).expect("room"))),
                woken,
                begun: Arc::default(),
            }
        }

        fn ask(&self, about: u64) -> Option<Seen<u32>> {
            let begun = Arc::clone(&self.begun);
            self.looks.ask(&key(), about, || {
                Box::pin(async move { (begun.fetch_add(1, Ordering::SeqCst), Duration::from_secs(60)) })
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_is_begun_when_it_is_due_or_its_subject_changed_and_told_once() {
        let mut story = Story::new();
        assert!(story.ask(1).is_none(), "the first look has only begun");
        assert!(story.ask(1).is_none(), "and is not begun twice");
        assert_eq!(story.woken.recv().await, Some(key()));
        let seen = story.ask(1).unwrap();
        assert_eq!((*seen.outcome, seen.fresh), (0, true));
        assert!(!story.ask(1).unwrap().fresh);
        // The same before it is due; then anew.
        tokio::time::advance(Duration::from_secs(59)).await;
        story.ask(1);
        assert_eq!(story.begun.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            *story.ask(1).unwrap().outcome,
            0,
            "the old outcome until the new is there"
        );
        story.woken.recv().await;
        assert_eq!(*story.ask(1).unwrap().outcome, 1);
        story.ask(2);
        story.woken.recv().await;
        assert_eq!(*story.ask(2).unwrap().outcome, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_forgotten_during_its_look_stays_forgotten() {
        let mut story = Story::new();
        story.ask(1);
        story.looks.forget(&key());
        story.woken.recv().await;
        assert!(story.ask(1).is_none());
    }
}
