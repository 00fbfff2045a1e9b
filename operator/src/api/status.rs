//! Status: what the operator saw, for people, kstatus and the scale subresource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::dns::{Rfc2136Publisher, WindowsDnsPublisher};

/// What the operator saw of an [`super::OfficeKmsHost`].
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
// A resource that no operator has looked at yet is otherwise taken for one that is as it should be: kstatus knows nothing of
// one without a status.
#[schemars(extend("default" = {"observedGeneration": -1}))]
pub struct OfficeKmsHostStatus {
    /// Generation of the spec that this status is about; -1 before an operator has looked at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Conditions: Ready, Reconciling, Stalled, Available, LedgerReady, HostsAnswer, HostsLicensed, HostsUnequal,
    /// ThresholdMet, DnsPublished, ClientsBypassRelay, Paused. docs/reference/conditions.md lists their reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,

    /// Host replicas that exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub replicas: Option<i32>,

    /// Host replicas that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ready_replicas: Option<i32>,

    /// Label selector of the replicas' pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,

    /// Addresses at which clients reach the Service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub endpoints: Vec<Endpoint>,

    /// Counts that clients are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,

    /// A row per licensed host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub licensed_hosts: Vec<LicensedHostStatus>,

    /// A row per DNS zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["zone".into()]))]
    pub dns: Vec<ZoneStatus>,

    /// The Secret with the keys that were generated for this resource. They are generated once: if it is gone, people are
    /// called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub generated_keys: Option<String>,

    /// One-word figures of `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// One-word figures of `kubectl get`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Ready replicas of those wanted, such as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub replicas: Option<String>,

    /// Current count of the required count, such as `10/5`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub count: Option<String>,

    /// Activated licensed hosts of those in the spec, such as `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub licensed: Option<String>,

    /// Verified zones of those in the spec, such as `1/1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub dns: Option<String>,
}

/// An address at which clients reach the Service.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// IP address or DNS name.
    #[schemars(length(max = 253))]
    pub address: String,

    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Whether it is reachable from outside the cluster.
    pub external: bool,
}

/// Counts. A count is a saturated gauge (at most 2N): readiness, not a number of clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Highest current count of the hosts that answer.
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub current: i64,

    /// Largest required count N of the products.
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub required: i64,

    /// Distinct clients that the replicas saw in 30 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub clients: Option<i64>,
}

/// What is known of a licensed host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LicensedHostStatus {
    /// The host's name in the spec.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,

    /// Whether its WS-Management answered at the last reading.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,

    /// Whether every product of the spec is activated on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licensed: Option<bool>,

    /// Its current count, absent when it shows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub current_count: Option<i64>,

    /// Its largest required count N.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_i64))]
    pub required_count: Option<i64>,

    /// Operating system caption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub operating_system: Option<String>,

    /// A row per product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub products: Vec<HostProductStatus>,

    /// When it was last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Time>,

    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// A product on a licensed host.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostProductStatus {
    /// The product's name in the spec.
    #[schemars(length(min = 1, max = 32))]
    pub name: String,

    /// Next step: `InstallPack`, `UpgradeSystem`, `InstallKey`, `Activate`, `Confirm`, `None`, or `Blocked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub step: Option<String>,

    /// Licence status: Unlicensed, Licensed, InitialGrace, OutOfTolerance, NonGenuineGrace, Notification, ExtendedGrace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub license_status: Option<String>,

    /// Installation ID to read to Microsoft's voice, in groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub installation_id: Option<String>,

    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// What is known of a DNS zone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ZoneStatus {
    /// The zone's name in the spec.
    #[schemars(length(min = 1, max = 253))]
    pub zone: String,

    /// Publisher: `rfc2136`, `dnsEndpoint`, `windowsDns` or `manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub publisher: Option<String>,

    /// Whether the zone's authoritative servers answered with exactly our records.
    #[serde(default)]
    pub verified: bool,

    /// Records that are or should be published, in zone-file form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub records: Vec<String>,

    /// Others' SRV records under the name, in zone-file form: clients may pass by the replicas through them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 1024)))]
    pub foreign: Vec<String>,

    /// Since when it is verified; moved on by the daily refresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Time>,

    /// When the records were last published afresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refreshed_at: Option<Time>,

    /// Since when no target answers, while records still stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<Time>,

    /// Published targets that stopped answering: their records go after the grace period.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub silent: Vec<SilentTarget>,

    /// Through what our records were published, or are about to be: from there they are taken away when the zone leaves the
    /// spec or changes its publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    pub published_by: Vec<PublishedBy>,

    /// What is wrong, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
}

/// A target that stopped answering.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SilentTarget {
    /// Its address, or its host name where the addresses are somebody else's.
    #[schemars(length(min = 1, max = 253))]
    pub target: String,

    /// Since when it does not answer.
    pub since: Time,
}

/// A publisher through which records of ours may stand in a zone.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PublishedBy {
    /// What our records are marked with.
    #[schemars(length(min = 1, max = 128))]
    pub owner: String,

    /// Dynamic update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rfc2136: Option<Rfc2136Publisher>,

    /// A Windows DNS server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows_dns: Option<WindowsDnsPublisher>,

    /// Since when its records are to go and could not be taken away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_since: Option<Time>,

    /// Whether records were published through it, or may have been: an update was sent.
    #[serde(default)]
    pub published: bool,
}
