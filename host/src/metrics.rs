//! Metrics of a host replica, prefix `okms_`. Every label has a bounded set of values: no addresses, names of machines or
//! client machine IDs.
//!
//! What the data path counts is resolved to a plain counter once, at start, so that counting is one atomic addition.

use std::fmt::Write as _;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::admission::Refusal;
use crate::ledger::QueueStats;
use crate::routing;

/// Seconds, from half a millisecond to 16 seconds.
fn latency() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result_ {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Version {
    version: &'static str,
}

/// Label `host`: the name of a licensed host, of which a configuration has at most 64.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HostLabel {
    /// Name of the licensed host.
    pub host: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HostResult {
    host: String,
    result: &'static str,
}

/// How a request ended for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestResult {
    /// With a response.
    Answered,
    /// With a fault.
    Fault,
    /// With a closed connection.
    Closed,
}

impl RequestResult {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Answered, "answered"),
        (Self::Fault, "fault"),
        (Self::Closed, "closed"),
    ];
}

/// How one call to a licensed host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallResult {
    /// It answered, with whatever return code.
    Answered,
    /// It answered with a fault, which was passed on.
    Fault,
    /// It could not be connected or bound.
    Connect,
    /// It closed the connection or broke the protocol before its answer.
    Broken,
    /// It did not answer in time.
    Timeout,
    /// It answered with a fault of the transport kind (too busy, unavailable).
    Busy,
    /// It was not called: as many calls were under way as may be.
    Full,
}

impl CallResult {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Answered, "answered"),
        (Self::Fault, "fault"),
        (Self::Connect, "connect"),
        (Self::Broken, "broken"),
        (Self::Timeout, "timeout"),
        (Self::Busy, "busy"),
        (Self::Full, "full"),
    ];
}

/// Return codes with a label of their own (KMS error codes of "Resolve Windows activation error codes"); any other is
/// `other`.
const CODES: [(u32, &str); 9] = [
    (0, "0x00000000"),
    (0xC004_F042, "0xC004F042"),
    (0xC004_F038, "0xC004F038"),
    (0xC004_F039, "0xC004F039"),
    (0xC004_F041, "0xC004F041"),
    (0xC004_F06C, "0xC004F06C"),
    (0xC004_F050, "0xC004F050"),
    (0x8007_000D, "0x8007000D"),
    (0x8007_0005, "0x80070005"),
];

/// Versions of the messages with a label of their own; any other is `other`.
const VERSIONS: [((u16, u16), &str); 3] = [((4, 0), "4.0"), ((5, 0), "5.0"), ((6, 0), "6.0")];

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Connections accepted.
    pub connections: Counter,
    refusals: [Counter; Refusal::ALL.len()],
    requests: [Counter; RequestResult::ALL.len()],
    /// From a whole request received to its answer ready, in seconds.
    pub request_seconds: Histogram,
    codes: [Counter; CODES.len() + 1],
    versions: [Counter; VERSIONS.len() + 1],
    calls: Family<HostResult, Counter>,
    call_seconds: Family<HostLabel, Histogram>,
    /// Requests that were sent to a further licensed host.
    pub retries: Counter,
    /// Requests that found no eligible licensed host.
    pub no_host: Counter,
    host_up: Family<HostLabel, Gauge>,
    routed: [Counter; routing::Reason::ALL.len()],
    /// Distinct clients within 30 days, as routing knows.
    pub distinct_clients: Gauge,
    /// Generation of the configuration in use: 1 at the start, one more with each reload.
    pub config_generation: Gauge,
    /// Whether the last look at the configuration file found it good.
    pub config_good: Gauge,
    config_reloads: Family<Result_, Counter>,
}

/// Counters of one licensed host, resolved once.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    calls: [Counter; CallResult::ALL.len()],
    /// Seconds from a call's first byte sent to its answer.
    pub seconds: Histogram,
    /// 1 while it is eligible, 0 while ejected.
    pub up: Gauge,
}

impl HostMetrics {
    /// Counts one call.
    pub fn called(&self, result: CallResult) {
        if let Some(counter) = self.calls.get(result as usize) {
            counter.inc();
        }
    }
}

/// Gauges that are read when the metrics are collected, not kept.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Connections open.
    pub connections: u64,
    /// Sources connected.
    pub sources: u64,
    /// Whether the replica is draining.
    pub draining: bool,
    /// The fleet as routing sees it, in relay mode.
    pub routing: Option<routing::RoutingStatus>,
    /// Observations on their way to the ledger, in relay mode.
    pub observations: Option<QueueStats>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// All metrics at zero, and those that a part of the replica keeps by itself and registers under the same prefix.
    pub fn with(register: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::with_prefix("okms");
        register(&mut registry);
        let connections = Counter::default();
        registry.register("connections", "Connections accepted", connections.clone());

        let family = Family::<Reason, Counter>::default();
        registry.register("refusals", "Clients refused or cut off", family.clone());
        let refusals = Refusal::ALL.map(|refusal| {
            family.get_or_create_owned(&Reason {
                reason: refusal.label(),
            })
        });

        let family = Family::<Result_, Counter>::default();
        registry.register("requests", "Requests by what the client got", family.clone());
        let requests = RequestResult::ALL.map(|(_, result)| family.get_or_create_owned(&Result_ { result }));

        let request_seconds = latency();
        registry.register(
            "request_duration_seconds",
            "From a whole request received to its answer ready",
            request_seconds.clone(),
        );

        let family = Family::<Code, Counter>::default();
        registry.register("answers", "Answers by return code", family.clone());
        let mut labels = CODES.iter().map(|(_, label)| *label).chain(["other"]);
        let codes = std::array::from_fn(|_| {
            family.get_or_create_owned(&Code {
                code: labels.next().unwrap_or("other"),
            })
        });

        let family = Family::<Version, Counter>::default();
        registry.register("request_versions", "Requests by message version", family.clone());
        let mut labels = VERSIONS.iter().map(|(_, label)| *label).chain(["other"]);
        let versions = std::array::from_fn(|_| {
            family.get_or_create_owned(&Version {
                version: labels.next().unwrap_or("other"),
            })
        });

        let calls = Family::<HostResult, Counter>::default();
        registry.register(
            "licensed_host_calls",
            "Calls to licensed hosts by how they ended",
            calls.clone(),
        );
        let call_seconds = Family::<HostLabel, Histogram>::new_with_constructor(latency);
        registry.register(
            "licensed_host_call_duration_seconds",
            "From a call sent to a licensed host to its answer",
            call_seconds.clone(),
        );
        let retries = Counter::default();
        registry.register(
            "relay_retries",
            "Requests sent to a further licensed host",
            retries.clone(),
        );
        let no_host = Counter::default();
        registry.register(
            "relay_no_host",
            "Requests that found no eligible licensed host",
            no_host.clone(),
        );
        let host_up = Family::<HostLabel, Gauge>::default();
        registry.register(
            "licensed_host_up",
            "1 while a licensed host is eligible",
            host_up.clone(),
        );

        let family = Family::<Reason, Counter>::default();
        registry.register(
            "routing_decisions",
            "Requests by why their first host was the first",
            family.clone(),
        );
        let mut reasons = routing::Reason::ALL.iter();
        let routed = std::array::from_fn(|_| {
            let reason = reasons.next().map_or("", |reason| reason.as_str());
            family.get_or_create_owned(&Reason { reason })
        });
        let distinct_clients = Gauge::default();
        registry.register(
            "distinct_clients",
            "Distinct clients within 30 days",
            distinct_clients.clone(),
        );

        let config_generation = Gauge::default();
        registry.register(
            "config_generation",
            "Generation of the configuration in use",
            config_generation.clone(),
        );
        let config_good = Gauge::default();
        registry.register(
            "config_good",
            "1 if the configuration file was good when last read",
            config_good.clone(),
        );
        let config_reloads = Family::<Result_, Counter>::default();
        registry.register(
            "config_reloads",
            "Changes of the configuration file seen",
            config_reloads.clone(),
        );
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running build", version);

        Self {
            registry,
            connections,
            refusals,
            requests,
            request_seconds,
            codes,
            versions,
            calls,
            call_seconds,
            retries,
            no_host,
            host_up,
            routed,
            distinct_clients,
            config_generation,
            config_good,
            config_reloads,
        }
    }

    /// Counts a refusal.
    pub fn refused(&self, refusal: Refusal) {
        if let Some(counter) = self.refusals.get(refusal.index()) {
            counter.inc();
        }
    }

    /// Refusals by reason since the start, those that happened.
    pub fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = Refusal::ALL.into_iter().zip(&self.refusals);
        counts
            .map(|(refusal, counter)| (refusal.label(), counter.get()))
            .filter(|(_, count)| *count > 0)
    }

    /// Counts a request's end.
    pub fn request(&self, result: RequestResult) {
        if let Some(counter) = self.requests.get(result as usize) {
            counter.inc();
        }
    }

    /// Requests by what the client got, since the start.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RequestResult::ALL
            .into_iter()
            .zip(&self.requests)
            .map(|((_, label), counter)| (label, counter.get()))
    }

    /// Counts an answer's return code.
    pub fn answered(&self, code: u32) {
        let index = CODES
            .iter()
            .position(|(known, _)| *known == code)
            .unwrap_or(CODES.len());
        if let Some(counter) = self.codes.get(index) {
            counter.inc();
        }
    }

    /// Counts a request's message version, major and minor.
    pub fn version(&self, version: (u16, u16)) {
        let index = VERSIONS
            .iter()
            .position(|(known, _)| *known == version)
            .unwrap_or(VERSIONS.len());
        if let Some(counter) = self.versions.get(index) {
            counter.inc();
        }
    }

    /// Counts a routing decision.
    pub fn routed(&self, reason: routing::Reason) {
        let counter = routing::Reason::ALL
            .iter()
            .position(|known| *known == reason)
            .and_then(|at| self.routed.get(at));
        if let Some(counter) = counter {
            counter.inc();
        }
    }

    /// The counters of a licensed host.
    pub fn host(&self, name: &str) -> HostMetrics {
        let label = HostLabel { host: name.to_owned() };
        HostMetrics {
            calls: CallResult::ALL.map(|(_, result)| {
                self.calls.get_or_create_owned(&HostResult {
                    host: name.to_owned(),
                    result,
                })
            }),
            seconds: self.call_seconds.get_or_create_owned(&label),
            up: self.host_up.get_or_create_owned(&label),
        }
    }

    /// Forgets a licensed host that is no longer configured.
    pub fn forget_host(&self, name: &str) {
        let label = HostLabel { host: name.to_owned() };
        for (_, result) in CallResult::ALL {
            self.calls.remove(&HostResult {
                host: name.to_owned(),
                result,
            });
        }
        self.call_seconds.remove(&label);
        self.host_up.remove(&label);
    }

    /// Counts a change of the configuration file.
    pub fn reloaded(&self, good: bool) {
        self.config_reloads
            .get_or_create(&Result_ {
                result: if good { "applied" } else { "refused" },
            })
            .inc();
        self.config_good.set(i64::from(good));
    }

    /// The OpenMetrics text.
    pub fn encode(&self, now: Now) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode_registry(&mut text, &self.registry);
        let mut sample = |name: &str, help: &str, kind: &str, value: u64| {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let _ = write!(
                text,
                "# HELP okms_{name} {help}.\n# TYPE okms_{name} {kind}\nokms_{name}{suffix} {value}\n"
            );
        };
        sample("open_connections", "Connections open", "gauge", now.connections);
        sample("connected_sources", "Sources connected", "gauge", now.sources);
        sample(
            "draining",
            "1 while the replica drains",
            "gauge",
            u64::from(now.draining),
        );
        if let Some(routing) = &now.routing {
            let active = u64::try_from(routing.active_set.len()).unwrap_or(u64::MAX);
            sample("active_hosts", "Licensed hosts in the active set", "gauge", active);
            sample(
                "ledger_up",
                "1 if the ledger was read within routing.staleAfter",
                "gauge",
                u64::from(routing.knowledge == routing::Knowledge::Fresh),
            );
        }
        if let Some(QueueStats {
            depth,
            written,
            dropped,
        }) = now.observations
        {
            sample(
                "ledger_queue_depth",
                "Observations waiting for the ledger",
                "gauge",
                depth,
            );
            sample(
                "ledger_observations_written",
                "Observations written to the ledger",
                "counter",
                written,
            );
            sample(
                "ledger_observations_dropped",
                "Observations dropped, too many waited",
                "counter",
                dropped,
            );
        }
        if let Some(routing) = &now.routing {
            let _ = write_routing(&mut text, routing);
        }
        text.push_str("# EOF\n");
        text
    }
}

/// Routing's knowledge as a set of states, and what it believes of each host.
fn write_routing(text: &mut String, routing: &routing::RoutingStatus) -> std::fmt::Result {
    text.push_str("# HELP okms_routing_knowledge How far routing can trust its counts.\n");
    text.push_str("# TYPE okms_routing_knowledge stateset\n");
    for knowledge in routing::Knowledge::ALL {
        let value = u8::from(*knowledge == routing.knowledge);
        writeln!(
            text,
            "okms_routing_knowledge{{okms_routing_knowledge=\"{knowledge}\"}} {value}"
        )?;
    }
    text.push_str(
        "# HELP okms_licensed_host_count Current count of a licensed host as routing believes, at most 2N.\n",
    );
    text.push_str("# TYPE okms_licensed_host_count gauge\n");
    for host in &routing.hosts {
        writeln!(
            text,
            "okms_licensed_host_count{{host=\"{}\"}} {}",
            host.name, host.count
        )?;
    }
    text.push_str("# HELP okms_licensed_host_state What a licensed host is to the fleet.\n");
    text.push_str("# TYPE okms_licensed_host_state stateset\n");
    for host in &routing.hosts {
        for state in routing::HostState::ALL {
            let value = u8::from(*state == host.state);
            let name = &host.name;
            writeln!(
                text,
                "okms_licensed_host_state{{host=\"{name}\",okms_licensed_host_state=\"{state}\"}} {value}"
            )?;
        }
    }
    Ok(())
}
