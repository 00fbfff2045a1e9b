//! Which default images a resource gets: those that it was made with, until it may take over new ones. Pure.
//!
//! A new operator brings new default images. Were they taken over at once, each upgrade would restart every pod of every
//! resource in the same minute. So each workload carries the default image that it was made with
//! ([`IMAGE_ANNOTATION`](crate::build::IMAGE_ANNOTATION)) and keeps it; how many resources may take over others at the same
//! time is the administrator's to say. Only one that is ready takes them over, and one that does not become ready with them
//! keeps its turn: images that do not work stop there.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::queue::Key;
use crate::settings::Settings;

/// Default images that workloads were made with; none where there is no workload yet, or where its image is no default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Made {
    /// Of the host replicas.
    pub host: Option<String>,
    /// Of the managed ledger.
    pub redis: Option<String>,
}

/// The settings with the images that the workloads were made with; none when those are the settings' own.
#[must_use]
pub fn kept(settings: &Settings, made: Made) -> Option<Settings> {
    let kept = Settings {
        host_image: made.host.unwrap_or_else(|| settings.host_image.clone()),
        redis_image: made.redis.unwrap_or_else(|| settings.redis_image.clone()),
        ..settings.clone()
    };
    (kept != *settings).then_some(kept)
}

/// Whose turn it is to take over new default images.
#[derive(Debug)]
pub struct Turns {
    most: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    taken: BTreeSet<Key>,
    waiting: BTreeSet<Key>,
}

impl Turns {
    /// So many at a time; with 0 nobody's turn comes.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            inner: Mutex::default(),
        }
    }

    /// Whether a resource that has older images may take over the new ones now. If not, and it is ready, it waits for its
    /// turn.
    pub fn take(&self, key: &Key, ready: bool) -> bool {
        let mut inner = self.lock();
        let may = inner.taken.contains(key) || ready && inner.taken.len() < self.most;
        let now_in = if may { &mut inner.taken } else { &mut inner.waiting };
        if ready {
            now_in.insert(key.clone());
        }
        if may || !ready {
            inner.waiting.remove(key);
        }
        may
    }

    /// A resource has the images that it is to have and is at rest, or is gone. Returns whose turn it is now.
    pub fn leave(&self, key: &Key) -> Option<Key> {
        let mut inner = self.lock();
        inner.waiting.remove(key);
        inner.taken.remove(key);
        (inner.taken.len() < self.most)
            .then(|| inner.waiting.first().cloned())
            .flatten()
    }

    /// How many resources keep older images.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "a".into(),
            name: name.into(),
        }
    }

    #[test]
    fn what_runs_keeps_its_image_and_what_is_new_gets_the_present_default() {
        let settings = Settings {
            host_image: "host:2".into(),
            redis_image: "redis:2".into(),
            ..Settings::default()
        };
        let made = |host: Option<&str>, redis: Option<&str>| Made {
            host: host.map(Into::into),
            redis: redis.map(Into::into),
        };
        assert_eq!(kept(&settings, Made::default()), None);
        assert_eq!(kept(&settings, made(Some("host:2"), None)), None);
        let older = kept(&settings, made(Some("host:1"), None)).expect("an older image");
        assert_eq!(
            (older.host_image.as_str(), older.redis_image.as_str()),
            ("host:1", "redis:2")
        );
        let older = kept(&settings, made(Some("host:2"), Some("redis:1"))).expect("an older image");
        assert_eq!(
            (older.host_image.as_str(), older.redis_image.as_str()),
            ("host:2", "redis:1")
        );
    }

    #[test]
    fn nobodys_turn_comes_unless_the_administrator_says_so() {
        let turns = Turns::new(0);
        assert!(!turns.take(&key("one"), true) && !turns.take(&key("one"), true) && !turns.take(&key("two"), true));
        assert_eq!(turns.waiting(), 2);
        assert_eq!(turns.leave(&key("one")), None);
        assert_eq!(turns.waiting(), 1);
    }

    #[test]
    fn so_many_take_over_at_a_time_and_the_next_follows_when_one_is_at_rest() {
        let turns = Turns::new(1);
        assert!(
            !turns.take(&key("broken"), false),
            "it could not show that the images work"
        );
        assert!(turns.take(&key("one"), true));
        assert!(!turns.take(&key("two"), true) && !turns.take(&key("three"), true));
        assert!(turns.take(&key("one"), false), "its turn lasts until it is ready again");
        assert_eq!(turns.leave(&key("one")), Some(key("three")), "the first by name");
        assert!(turns.take(&key("three"), true) && !turns.take(&key("two"), true));
        assert_eq!(turns.leave(&key("four")), None, "one without a turn frees none");
        assert_eq!(turns.leave(&key("three")), Some(key("two")));
        // The one whose turn it is went before it took it: the next follows.
        assert_eq!(turns.leave(&key("two")), None);
        assert_eq!(turns.waiting(), 0);
    }
}
