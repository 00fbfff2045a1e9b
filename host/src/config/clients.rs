//! Section `clients`: who may connect, and how much each may ask for.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Period;
use super::check::Check;

/// Who may connect, and how much.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientsConfig {
    /// Networks that may connect; everyone may if empty.
    pub allow: Vec<IpNet>,
    /// Networks that may not, even if allowed above.
    pub deny: Vec<IpNet>,
    /// How much each may ask for.
    pub limits: LimitsConfig,
    /// Load balancers in front that tell the client's address by PROXY protocol (version 1 or 2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocolConfig>,
}

/// Limits of clients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections at one time, 1..=1000000.
    pub connections: u32,
    /// Connections at one time of one source, 1..=1000000.
    pub connections_per_source: u32,
    /// Requests of one source within a minute, 1..=1000000. A minute's worth may come at once.
    pub requests_per_minute_per_source: u32,
    /// How long a client may take to bind.
    pub handshake_timeout: Period,
    /// How long a bound connection may be silent.
    pub idle_timeout: Period,
    /// How long a request may take, from its first byte to the last byte of its answer.
    pub request_timeout: Period,
    /// Bytes of one reassembled request stub, 64..=65536. KMS requests have less than 1 KiB.
    pub max_request_bytes: u32,
    /// Bits of an IPv6 address that make one source, 32..=128. A machine has all of its subnet's addresses at will,
    /// usually 2^64 of them. An IPv4 address is a source by itself.
    pub ipv6_prefix: u8,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_source: 256,
            requests_per_minute_per_source: 600,
            handshake_timeout: Period::seconds(10),
            idle_timeout: Period::seconds(60),
            request_timeout: Period::seconds(15),
            max_request_bytes: 4096,
            ipv6_prefix: 64,
        }
    }
}

/// PROXY protocol from load balancers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProxyProtocolConfig {
    /// Networks of the load balancers. A PROXY header from anywhere else ends the connection.
    pub trusted: Vec<IpNet>,
    /// Whether a connection from a trusted network must begin with a PROXY header.
    #[serde(default = "yes")]
    pub required: bool,
    /// How long the header may take to arrive.
    #[serde(default = "header_timeout")]
    pub header_timeout: Period,
}

fn yes() -> bool {
    true
}

fn header_timeout() -> Period {
    Period::seconds(5)
}

impl ClientsConfig {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        let limits = &self.limits;
        let at = |field: &'static str| ["clients", "limits", field];
        for (field, value, range) in [
            ("connections", limits.connections, 1..=1_000_000),
            ("connectionsPerSource", limits.connections_per_source, 1..=1_000_000),
            (
                "requestsPerMinutePerSource",
                limits.requests_per_minute_per_source,
                1..=1_000_000,
            ),
            ("maxRequestBytes", limits.max_request_bytes, 64..=65_536),
        ] {
            check.range(at(field), value, range);
        }
        check.range(at("ipv6Prefix"), limits.ipv6_prefix, 32..=128);
        check.positive(at("handshakeTimeout"), limits.handshake_timeout);
        check.positive(at("idleTimeout"), limits.idle_timeout);
        check.positive(at("requestTimeout"), limits.request_timeout);
        for (index, net) in self.allow.iter().enumerate() {
            if self.deny.iter().any(|deny| deny.contains(net)) {
                check.problem(
                    ("clients", "allow", index),
                    format!("{net} is allowed here but lies within a denied network"),
                    "deny wins over allow: remove one of the two",
                );
            }
        }
        if let Some(proxy) = &self.proxy_protocol {
            if proxy.trusted.is_empty() {
                check.problem(
                    ["clients", "proxyProtocol", "trusted"],
                    "no network is trusted, so no PROXY header would be accepted",
                    "list the load balancers' networks, or remove `proxyProtocol`",
                );
            }
            check.positive(["clients", "proxyProtocol", "headerTimeout"], proxy.header_timeout);
        }
    }
}
