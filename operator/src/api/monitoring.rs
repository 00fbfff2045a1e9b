//! Monitoring: what the operator creates for Prometheus, and where replicas send traces.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Monitoring of the replicas. Metrics are always served on the admin port.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringSpec {
    /// Creates a ServiceMonitor for the Prometheus Operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_monitor: Option<ServiceMonitorSpec>,

    /// Namespaces whose pods may reach the admin port: where Prometheus runs. Pods that are labelled as operators may
    /// from every namespace. Empty: the pods of every namespace. What the port shows names licensed hosts and the clients of
    /// recent events.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub namespaces: Vec<String>,

    /// Collector of traces, as URL of its OTLP endpoint for HTTP, such as `http://collector.tracing:4318`. Each request is a
    /// span. A change replaces the pods, one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 512), regex(pattern = "^https?://[^ ]+$"))]
    pub otlp_endpoint: Option<String>,
}

/// The ServiceMonitor.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Scrape interval, such as `30s`.
    #[serde(default = "default_interval")]
    #[schemars(length(min = 2, max = 8), regex(pattern = "^[1-9][0-9]*(s|m|h)$"))]
    pub interval: String,

    /// Labels by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub labels: BTreeMap<String, String>,
}

fn default_interval() -> String {
    "30s".to_owned()
}
