//! DNS: the zones in which clients find the Service, and who publishes there.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::licensed_hosts::{Authentication, Transport};
use super::reference::{ConfigOrSecretKey, LocalName, SecretKey};

/// Zones to publish in.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DnsSpec {
    /// One entry per zone: `_vlmcs._tcp.ZONE` gets an SRV record for each target.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub zones: Vec<ZoneSpec>,

    /// What our records are marked with, so that others' stay untouched. Default: the resource's UID. Give a name of your
    /// own before you move the resource to another cluster, which then takes the records over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[-._/a-z0-9]+$"))]
    pub owner: Option<String>,

    /// Whether targets are tried by an RPC bind first: one that does not answer is not published, and one that stops
    /// answering is taken away after `gracePeriodSeconds`. Switch it off where the operator cannot reach the targets.
    #[serde(default = "default_probe")]
    pub probe: bool,

    /// Seconds that the records of a target which stopped answering, or of a Service that lost its address, still stand.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 0, max = 604800))]
    pub grace_period_seconds: i32,

    /// Seconds between two looks at the zones' servers.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 10, max = 86400))]
    pub check_interval_seconds: i32,
}

/// A zone, its records, and exactly one publisher.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("[has(self.rfc2136), has(self.dnsEndpoint), has(self.windowsDns), has(self.manual)].filter(p, p).size() == 1").message(
        "set exactly one publisher: rfc2136, dnsEndpoint, windowsDns or manual"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ZoneSpec {
    /// Domain that clients look in, such as `corp.example.com`, without a final dot.
    #[schemars(
        length(min = 1, max = 230),
        regex(pattern = "^[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9_])?(\\.[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9_])?)*$")
    )]
    pub name: String,

    /// Host name that the SRV record points at. Default: `NAME.ZONE`, with address records for the Service's addresses.
    /// Another name gets no address records: it is somebody else's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub target: Option<String>,

    /// Addresses for the target's A and AAAA records. Default: those of the Service's load balancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 2, max = 45), regex(pattern = "^[0-9a-fA-F.:]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<String>,

    /// Time to live of the records in seconds.
    #[serde(default = "default_ttl")]
    #[schemars(range(min = 30, max = 86400))]
    pub ttl: i32,

    /// Priority of the SRV record; clients try lower ones first.
    #[serde(default)]
    #[schemars(range(min = 0, max = 65535))]
    pub priority: i32,

    /// Weight of the SRV record among those of one priority.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 65535))]
    pub weight: i32,

    /// Targets of others' SRV records under the name that may be removed, such as a licensed host's own publication through
    /// which clients pass by the replicas. What is not listed is reported and never touched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub remove_foreign: Vec<String>,

    /// Authoritative servers that are asked whether they hold the records: a DNS name or IP address, with `:port` when it
    /// is not 53. Default: those of the zone's NS records, which may lead to another side of a split horizon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 260), regex(pattern = "^[-._a-zA-Z0-9:\\[\\]]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub verify_servers: Vec<String>,

    /// Publishes by dynamic update (RFC 2136) signed with TSIG: BIND, Knot, PowerDNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rfc2136: Option<Rfc2136Publisher>,

    /// Publishes through external-dns by a DNSEndpoint object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_endpoint: Option<DnsEndpointPublisher>,

    /// Publishes in Windows DNS by WMI over WS-Management.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows_dns: Option<WindowsDnsPublisher>,

    /// Publishes nothing: status shows the records to enter by hand, and they are verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual: Option<ManualPublisher>,
}

/// Dynamic update with TSIG.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Rfc2136Publisher {
    /// Servers that take updates, in order: a DNS name or IP address, with `:port` when it is not 53.
    #[schemars(
        length(min = 1, max = 8),
        inner(length(min = 1, max = 260), regex(pattern = "^[-._a-zA-Z0-9:\\[\\]]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub servers: Vec<String>,

    /// Zone apex, when `name` is a domain within a larger zone. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub zone: Option<String>,

    /// The key that signs updates.
    pub tsig: TsigKey,
}

/// A TSIG key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TsigKey {
    /// Name of the key, as the server knows it.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key_name: String,

    /// `HmacSha256` (default), `HmacSha384` or `HmacSha512`.
    #[serde(default)]
    pub algorithm: TsigAlgorithm,

    /// The secret in base64, as `tsig-keygen` prints it.
    pub secret: SecretKey,
}

/// MAC of a TSIG key (RFC 8945).
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TsigAlgorithm {
    /// hmac-sha256.
    #[default]
    HmacSha256,
    /// hmac-sha384.
    HmacSha384,
    /// hmac-sha512.
    HmacSha512,
}

/// external-dns' DNSEndpoint.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DnsEndpointPublisher {
    /// Labels of the DNSEndpoint, for external-dns instances that select by label.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub labels: std::collections::BTreeMap<String, String>,
}

/// A Windows DNS server, reached over WS-Management.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("self.transport != 'Http' || self.authentication == 'Ntlm'").message(
    "windowsDns over Http needs authentication Ntlm, which seals the messages; use transport Https for Basic"
), validation = Rule::new("!has(self.caBundle) || !has(self.certificateSha256)").message(
    "set one of caBundle and certificateSha256: a pinned certificate needs no bundle"
))]
#[serde(rename_all = "camelCase")]
pub struct WindowsDnsPublisher {
    /// DNS name or IP address of the DNS server (a domain controller, in most organisations).
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9:]+$"))]
    pub server: String,

    /// `Https` (default, port 5986) or `Http` (port 5985, sealed messages).
    #[serde(default)]
    pub transport: Transport,

    /// `Ntlm` (default) or `Basic` (only over Https).
    #[serde(default)]
    pub authentication: Authentication,

    /// TCP port of WS-Management. Default: 5986 for Https, 5985 for Http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// Secret with keys `username` and `password`.
    pub credentials_secret: LocalName,

    /// Certificates (PEM) of the authorities that may have signed the server's certificate. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<ConfigOrSecretKey>,

    /// SHA-256 of the server's own certificate (DER), in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub certificate_sha256: Option<String>,

    /// Zone apex, when `name` is a domain within a larger zone. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub zone: Option<String>,
}

/// Publication by hand.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ManualPublisher {}

fn default_ttl() -> i32 {
    3600
}

fn default_weight() -> i32 {
    100
}

fn default_probe() -> bool {
    true
}

fn default_grace() -> i32 {
    600
}

fn default_interval() -> i32 {
    300
}
