//! Metrics of the operator, prefix `okms_operator_`. Every label has a bounded set of values; names are those of
//! resources and what their specs list, never of clients.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::control::queue::Key;
use crate::licensing::metrics::LicensedHosts;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WriteLabel {
    kind: &'static str,
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    verb: &'static str,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConditionLabel {
    condition: &'static str,
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UnwellLabel {
    namespace: String,
    name: String,
    condition: &'static str,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PermissionLabel {
    verb: String,
    resource: String,
    namespace: String,
}

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ResultLabel, Counter>,
    reconcile_seconds: Histogram,
    errors: Family<ReasonLabel, Counter>,
    writes: Family<WriteLabel, Counter>,
    requests: Family<RequestLabel, Counter>,
    watch_errors: Family<WriteLabel, Counter>,
    depth: Gauge,
    busy: Gauge,
    leader: Gauge,
    resources: Gauge,
    children: Gauge,
    older_images: Gauge,
    conditions: Family<ConditionLabel, Gauge>,
    unwell: Family<UnwellLabel, Gauge>,
    licensed_hosts: LicensedHosts,
    missing_permissions: Family<PermissionLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("okms_operator"),
            reconciles: Family::default(),
            // 1 ms to 16 s.
            reconcile_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            errors: Family::default(),
            writes: Family::default(),
            requests: Family::default(),
            watch_errors: Family::default(),
            depth: Gauge::default(),
            busy: Gauge::default(),
            leader: Gauge::default(),
            resources: Gauge::default(),
            children: Gauge::default(),
            older_images: Gauge::default(),
            conditions: Family::default(),
            unwell: Family::default(),
            licensed_hosts: LicensedHosts::default(),
            missing_permissions: Family::default(),
        };
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the operator", version);
        registry.register(
            "reconciles",
            "Looks at a resource by their result",
            self.reconciles.clone(),
        );
        registry.register_with_unit(
            "reconcile_duration",
            "Duration of a look at a resource",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        registry.register(
            "errors",
            "What kept resources from being ready, by reason",
            self.errors.clone(),
        );
        registry.register(
            "writes",
            "Objects written on the API server, by kind and verb",
            self.writes.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server by verb and code",
            self.requests.clone(),
        );
        registry.register("watch_errors", "Watches that broke, by kind", self.watch_errors.clone());
        registry.register(
            "queue_depth",
            "Resources that are due and wait for a worker",
            self.depth.clone(),
        );
        registry.register("workers_busy", "Workers that look at a resource", self.busy.clone());
        registry.register(
            "leader",
            "Whether this process leads (1) or stands by (0)",
            self.leader.clone(),
        );
        registry.register("resources", "OfficeKmsHost resources known", self.resources.clone());
        registry.register("children", "Children known", self.children.clone());
        registry.register(
            "resources_with_older_images",
            "Resources that keep a default image older than this operator's",
            self.older_images.clone(),
        );
        registry.register(
            "conditions",
            "Resources by the status of their conditions",
            self.conditions.clone(),
        );
        registry.register(
            "unwell",
            "Conditions that somebody is to look at (1), by resource",
            self.unwell.clone(),
        );
        registry.register_collector(Box::new(self.licensed_hosts.clone()));
        registry.register(
            "missing_permissions",
            "Permissions that the operator needs and does not have (1)",
            self.missing_permissions.clone(),
        );
        self
    }

    /// What licensed hosts say.
    #[must_use]
    pub fn licensed_hosts(&self) -> &LicensedHosts {
        &self.licensed_hosts
    }

    /// Counts a look at a resource.
    pub fn reconciled(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ResultLabel { result }).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// Counts what keeps a resource from being ready.
    pub fn failed(&self, reason: &'static str) {
        self.errors.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Counts an object that was written.
    pub fn wrote(&self, kind: &'static str, verb: &'static str) {
        self.writes.get_or_create(&WriteLabel { kind, verb }).inc();
    }

    /// Counts a request.
    pub fn requested(&self, verb: &'static str, code: &str) {
        let code = code.to_owned();
        self.requests.get_or_create(&RequestLabel { verb, code }).inc();
    }

    /// Counts a watch that broke.
    pub fn watch_broke(&self, kind: &'static str) {
        self.watch_errors
            .get_or_create(&WriteLabel { kind, verb: "watch" })
            .inc();
    }

    /// Counts workers in and out.
    pub fn worker(&self, busy: bool) {
        let _before = if busy { self.busy.inc() } else { self.busy.dec() };
    }

    /// Says whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Says how many resources keep older default images.
    pub fn keep_older_images(&self, resources: usize) {
        self.older_images.set(i64::try_from(resources).unwrap_or(i64::MAX));
    }

    /// Says how many resources have a condition in a status.
    pub fn condition(&self, condition: &'static str, status: &'static str, resources: usize) {
        let gauge = self.conditions.get_or_create(&ConditionLabel { condition, status });
        gauge.set(i64::try_from(resources).unwrap_or(i64::MAX));
    }

    /// Says which conditions of which resources somebody is to look at, in place of what was said before.
    pub fn unwell(&self, conditions: Vec<(Key, &'static str, String)>) {
        self.unwell.clear();
        for (key, condition, reason) in conditions {
            let label = UnwellLabel {
                namespace: key.namespace,
                name: key.name,
                condition,
                reason,
            };
            self.unwell.get_or_create(&label).set(1);
        }
    }

    /// Says whether the operator has a permission that it needs; only what it lacks is shown.
    pub fn permission(&self, verb: &str, resource: &str, namespace: &str, granted: bool) {
        let label = PermissionLabel {
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: namespace.to_owned(),
        };
        if granted {
            self.missing_permissions.remove(&label);
        } else {
            self.missing_permissions.get_or_create(&label).set(1);
        }
    }

    /// The text that Prometheus reads, with what is known only now.
    #[must_use]
    pub fn encode(&self, depth: usize, resources: usize, children: usize) -> String {
        for (gauge, value) in [
            (&self.depth, depth),
            (&self.resources, resources),
            (&self.children, children),
        ] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_can_be_read() {
        let metrics = Metrics::default();
        metrics.reconciled("ready", Duration::from_millis(3));
        metrics.failed("Forbidden");
        metrics.wrote("Deployment", "apply");
        metrics.leads(true);
        let text = metrics.encode(2, 3, 4);
        for line in [
            "okms_operator_reconciles_total{result=\"ready\"} 1",
            "okms_operator_errors_total{reason=\"Forbidden\"} 1",
            "okms_operator_writes_total{kind=\"Deployment\",verb=\"apply\"} 1",
            "okms_operator_leader 1",
            "okms_operator_queue_depth 2",
            "okms_operator_resources 3",
            "okms_operator_children 4",
            "okms_operator_reconcile_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
