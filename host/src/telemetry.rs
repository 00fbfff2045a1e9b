//! Logging: text or JSON to standard error, and a limit for lines that a peer can provoke. Traces go with it where a
//! collector is named.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::config::{LogConfig, LogFormat};
use crate::otlp::Traces;

/// Sets up logging, and traces if there are any, for the whole process. A second call changes nothing.
///
/// The log's filter is about lines: a quiet log takes nothing from the traces.
pub fn init(log: &LogConfig, traces: Option<&Traces>) {
    // The filter was checked with the rest of the configuration.
    let filter: EnvFilter = log.filter.parse().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = match log.format {
        LogFormat::Text => lines().boxed(),
        LogFormat::Json => lines().json().flatten_event(true).boxed(),
    };
    let registry = tracing_subscriber::registry();
    let _ = match traces {
        // Nothing but the filter is asked of what it leaves out.
        None => registry.with(lines.and_then(filter)).try_init(),
        Some(traces) => registry.with(lines.with_filter(filter)).with(traces.layer()).try_init(),
    };
}

fn lines<S>() -> fmt::Layer<S, fmt::format::DefaultFields, fmt::format::Format, fn() -> std::io::Stderr>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fmt::layer().with_writer(std::io::stderr)
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

/// An error and its causes in one line. A cause that the error before it has told already is not told again.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{says}")]
        struct Failed {
            says: &'static str,
            source: Option<Box<Failed>>,
        }
        let failed = |says, source: Option<Failed>| Failed {
            says,
            source: source.map(Box::new),
        };
        let refused = failed("connection refused", None);
        let redis = failed("no answer: connection refused", Some(refused));
        assert_eq!(
            chain(&failed("the ledger is away", Some(redis))),
            "the ledger is away: no answer: connection refused"
        );
    }

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
