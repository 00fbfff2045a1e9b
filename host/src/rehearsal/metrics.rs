//! Metrics of a rehearsal host.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Metrics of a rehearsal host, in memory until registered.
#[derive(Debug, Clone, Default)]
pub struct RehearsalMetrics {
    requests: Family<ResultLabel, Counter>,
    microsoft_clients: Counter,
    refusals_not_recorded: Counter,
    ledger_up: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl RehearsalMetrics {
    /// Registers them; the registry's prefix is the caller's choice.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "rehearsal_requests",
            "Requests that reached the rehearsal host, by what became of them",
            self.requests.clone(),
        );
        registry.register(
            "rehearsal_microsoft_clients",
            "Requests of Microsoft KMS clients, which a rehearsal host refuses: they should be sent to a licensed host",
            self.microsoft_clients.clone(),
        );
        registry.register(
            "rehearsal_refusals_not_recorded",
            "Refused requests that the ledger was not told of because it was behind or away",
            self.refusals_not_recorded.clone(),
        );
        // A relay's is read from its routing and has the same name.
        registry.register(
            "ledger_up",
            "1 if the ledger was read when last tried",
            self.ledger_up.clone(),
        );
    }

    /// Requests of Microsoft clients so far.
    pub fn microsoft_clients(&self) -> u64 {
        self.microsoft_clients.get()
    }

    /// Requests so far with this result: `counted`, `sent_again`, `busy`, or a [`super::Reason`]'s label.
    pub fn requests(&self, result: &'static str) -> u64 {
        self.requests.get_or_create(&ResultLabel { result }).get()
    }

    /// Notes whether the ledger was read just now.
    pub(crate) fn ledger_read(&self, read: bool) {
        self.ledger_up.set(i64::from(read));
    }

    pub(super) fn request(&self, result: &'static str) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }

    pub(super) fn microsoft_client(&self) {
        self.microsoft_clients.inc();
    }

    pub(super) fn refusals_not_recorded(&self, count: usize) {
        self.refusals_not_recorded
            .inc_by(u64::try_from(count).unwrap_or(u64::MAX));
    }
}
