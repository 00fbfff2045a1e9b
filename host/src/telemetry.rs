//! Logging: text or JSON to standard error, and a limit for lines that a peer can provoke.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat};

/// Sets up logging for the whole process. A second call changes nothing.
pub fn init(log: &LogConfig) {
    // The filter was checked with the rest of the configuration.
    let filter = log.filter.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match log.format {
        LogFormat::Text => registry.with(lines).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

/// How often a line that a peer can provoke is written at most.
const NOISY_LINE_EVERY: Duration = Duration::from_secs(10);

/// Lets one line pass every ten seconds and counts those it held back.
#[derive(Debug)]
pub struct Quiet {
    start: Instant,
    /// Milliseconds after `start` at which the next line may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl Default for Quiet {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            next: AtomicU64::new(0),
            held_back: AtomicU64::new(0),
        }
    }
}

impl Quiet {
    /// Whether a line may be written at `now`: how many were held back since the last one, or none if this one is too.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let now = millis(now.saturating_duration_since(self.start));
        let next = self.next.load(Ordering::Relaxed);
        let after = now.saturating_add(millis(NOISY_LINE_EVERY));
        if now >= next
            && self
                .next
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_passes_and_says_how_many_did_not() {
        let quiet = Quiet::default();
        let at = |seconds| quiet.start + Duration::from_secs(seconds);
        assert_eq!(quiet.pass(at(0)), Some(0));
        assert_eq!(quiet.pass(at(1)), None);
        assert_eq!(quiet.pass(at(9)), None);
        assert_eq!(quiet.pass(at(10)), Some(2));
        assert_eq!(quiet.pass(at(19)), None);
    }
}
