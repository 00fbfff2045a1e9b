//! Clients: who is answered, and the limits that keep one from starving the others.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Admission of clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClientsSpec {
    /// Networks (CIDR) whose clients are answered. Empty: all that are not denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        inner(length(min = 3, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_cidrs: Vec<String>,

    /// Networks (CIDR) whose clients are refused, also when an allowed network holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 128),
        inner(length(min = 3, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub denied_cidrs: Vec<String>,

    /// Limits of each replica.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ClientLimits>,

    /// Reads the PROXY protocol (v1 and v2) in front of connections from trusted load balancers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolSpec>,
}

/// Limits of each replica. What exceeds one is refused and counted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientLimits {
    /// Client connections at a time.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: i32,

    /// Client connections at a time from one address.
    #[schemars(range(min = 1, max = 100_000))]
    pub connections_per_source: i32,

    /// Requests per minute from one address.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests_per_minute: i32,

    /// Seconds that a client may take from connecting to the end of its bind.
    #[schemars(range(min = 1, max = 300))]
    pub handshake_timeout_seconds: i32,

    /// Seconds that a bound connection may be silent.
    #[schemars(range(min = 1, max = 3600))]
    pub idle_timeout_seconds: i32,

    /// Seconds in which a request is answered or given up.
    #[schemars(range(min = 1, max = 300))]
    pub request_timeout_seconds: i32,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_source: 256,
            requests_per_minute: 600,
            handshake_timeout_seconds: 10,
            idle_timeout_seconds: 60,
            request_timeout_seconds: 20,
        }
    }
}

/// Trust in PROXY protocol headers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ProxyProtocolSpec {
    /// Networks (CIDR) of the load balancers. Connections from them must start with a header; others must not.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 3, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub trusted_cidrs: Vec<String>,
}
