//! What the replica says of itself: one value, shown as JSON, as the page and by `kmsctl status`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::ledger::LedgerView;
use crate::admission::Admission;
use crate::ledger::{ApplicationCount, ObservationQueue, QueueStats, StoredEvent};
use crate::metrics::Metrics;
use crate::relay::{LicensedHostStatus, Relay};
use crate::routing::RoutingStatus;

/// The state of a host replica.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The replica's name.
    pub name: String,
    /// `relay` or `rehearsal`.
    pub mode: String,
    /// Version of the program.
    pub version: String,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether clients are served.
    pub ready: bool,
    /// Whether it stops.
    pub draining: bool,
    /// The configuration in use.
    pub config: ConfigStatus,
    /// Connections of clients.
    pub connections: Connections,
    /// Requests since the start by what the client got.
    pub requests: BTreeMap<String, u64>,
    /// Clients refused since the start, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Licensed hosts, in relay mode.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub licensed_hosts: Vec<LicensedHostStatus>,
    /// How clients are spread over them, in relay mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingStatus>,
    /// The ledger.
    pub ledger: LedgerStatus,
}

/// The configuration in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigStatus {
    /// 1 at the start, one more with each reload.
    pub generation: u64,
    /// How the last change of the file ended; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadResult>,
    /// Fields that were changed in the file and wait for a restart.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// How a change of the configuration file ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReloadResult {
    /// When, in seconds since the start.
    pub uptime_seconds: u64,
    /// Whether the new configuration is in use.
    pub applied: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Connections of clients.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Open now.
    pub open: usize,
    /// Sources connected now.
    pub sources: usize,
    /// Accepted since the start.
    pub accepted: u64,
}

/// The ledger.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerStatus {
    /// Whether its store answered, within the last second.
    pub available: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Observations of the relay on their way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observations: Option<Observations>,
    /// Counts and totals by application.
    pub counts: Vec<ApplicationCount>,
    /// The newest events, newest first.
    pub recent_events: Vec<StoredEvent>,
}

/// Observations of a relay since the start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observations {
    /// Waiting to be written.
    pub waiting: u64,
    /// Written.
    pub written: u64,
    /// Dropped because too many waited.
    pub dropped: u64,
}

impl From<QueueStats> for Observations {
    fn from(stats: QueueStats) -> Self {
        Self {
            waiting: stats.depth,
            written: stats.written,
            dropped: stats.dropped,
        }
    }
}

/// Where the status comes from.
pub struct Source {
    /// The replica's name.
    pub name: String,
    /// When it started.
    pub started: Instant,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Its admission.
    pub admission: Arc<Admission>,
    /// Its relay, in relay mode.
    pub relay: Option<Arc<Relay>>,
    /// Its ledger.
    pub ledger: LedgerView,
    /// Observations on their way to the ledger, in relay mode.
    pub queue: Option<ObservationQueue>,
    /// The configuration's state.
    pub config: Mutex<ConfigStatus>,
    /// Set once clients are served.
    pub ready: AtomicBool,
    /// Set when it begins to stop.
    pub draining: AtomicBool,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Source {
    /// Whether clients are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Whether it stops.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The state now.
    pub async fn status(&self) -> Status {
        let mut ledger = self.ledger.status().await;
        ledger.observations = self.queue.as_ref().map(|queue| queue.stats().into());
        let now = Instant::now();
        Status {
            name: self.name.clone(),
            mode: if self.relay.is_some() { "relay" } else { "rehearsal" }.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: now.saturating_duration_since(self.started).as_secs(),
            ready: self.is_ready() && !self.is_draining(),
            draining: self.is_draining(),
            config: self.config.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            connections: Connections {
                open: self.admission.open(),
                sources: self.admission.sources(),
                accepted: self.metrics.connections.get(),
            },
            requests: owned(self.metrics.requests()),
            refusals: owned(self.metrics.refusals()),
            licensed_hosts: self.relay.as_ref().map(|relay| relay.status(now)).unwrap_or_default(),
            routing: self.relay.as_ref().map(|relay| relay.routing()),
            ledger,
        }
    }
}

fn owned(counters: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    counters.map(|(name, count)| (name.to_owned(), count)).collect()
}
