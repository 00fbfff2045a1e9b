//! The API: `OfficeKmsHost`, group `officekms.io`, version `v1alpha1`.
//!
//! One file per section of the spec, and one for the status. Every field's doc comment becomes its description in the
//! CRD, so it is written for the person who fills in the manifest. Rules that join fields are CEL rules whose messages
//! say what to do; what only a look at the cluster can tell is left to [`crate::validate`].
//!
//! Integers are `i32`/`i64` with ranges: `uint` formats are unknown to API servers. Every list, map and string has a
//! bound, which also keeps the rules within the API server's cost budget.

#![allow(
    unreachable_pub,
    reason = "KubeSchema copies each struct, with its `pub`, into a function"
)]

mod clients;
mod deletion;
mod dns;
mod ledger;
mod licensed_hosts;
mod monitoring;
mod pod;
mod products;
mod reference;
mod rehearsal;
mod replicas;
mod routing;
mod service;
pub mod status;

pub use clients::{ClientLimits, ClientsSpec, ProxyProtocolSpec};
pub use deletion::DeletionPolicy;
pub use dns::{
    DnsEndpointPublisher, DnsSpec, ManualPublisher, Rfc2136Publisher, TsigAlgorithm, TsigKey, WindowsDnsPublisher,
    ZoneSpec,
};
pub use ledger::{
    LedgerSpec, ManagedLedger, MemoryLedger, RedisLedger, RedisMode, RedisTls, SentinelSpec, StorageSpec,
};
pub use licensed_hosts::{Authentication, HostSettings, LicensedHost, ManagementMode, ManagementSpec, Transport};
pub use monitoring::{MonitoringSpec, ServiceMonitorSpec};
pub use pod::PodSpec;
pub(crate) use pod::default_grace;
pub use products::{ActivationMethod, Product, ProductName};
pub use reference::{ConfigOrSecretKey, LocalName, SecretKey};
pub use rehearsal::RehearsalSpec;
pub use replicas::AutoscalingSpec;
pub use routing::{NoHostAnswer, RoutingSpec};
pub use service::{IpFamilyPolicy, ServiceSpec, ServiceType, TrafficPolicy};
pub use status::OfficeKmsHostStatus;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// API group of every kind and annotation of this project.
pub const GROUP: &str = "officekms.io";

/// Annotation that stops all changes to a resource's children while it is `"true"`.
pub const PAUSED_ANNOTATION: &str = "officekms.io/paused";

/// Annotation that lets a resource be deleted without its clean-up (DNS records stay behind) while it is `"true"`.
pub const SKIP_CLEANUP_ANNOTATION: &str = "officekms.io/skip-cleanup";

/// An organisation's KMS endpoints: what they should be.
///
/// The operator turns it into host replicas that answer on TCP 1688, share their client counts, are found through DNS SRV
/// records, and stand in front of the organisation's own licensed KMS hosts.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "officekms.io",
    version = "v1alpha1",
    kind = "OfficeKmsHost",
    plural = "officekmshosts",
    singular = "officekmshost",
    shortname = "okms",
    category = "officekms",
    namespaced,
    status = "OfficeKmsHostStatus",
    derive = "PartialEq",
    doc = "OfficeKmsHost describes an organisation's KMS endpoints for volume-licensed Office and Windows: replicas that answer on TCP 1688, share their client counts, are found through DNS and stand in front of its own licensed KMS hosts.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether clients are answered as the spec says"
    ),
    printcolumn(
        name = "Replicas",
        type_ = "string",
        json_path = ".status.summary.replicas",
        description = "Ready host replicas of those wanted"
    ),
    printcolumn(
        name = "Count",
        type_ = "string",
        json_path = ".status.summary.count",
        description = "Current count of the required count N"
    ),
    printcolumn(
        name = "Licensed",
        type_ = "string",
        json_path = ".status.summary.licensed",
        description = "Licensed hosts that are activated, of those in the spec"
    ),
    printcolumn(
        name = "DNS",
        type_ = "string",
        json_path = ".status.summary.dns",
        description = "Zones whose records are published and verified, of those in the spec"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is or is not ready",
        priority = "1"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        description = "What to do about it",
        priority = "1"
    ),
    validation = Rule::new("size(self.metadata.name) <= 52").message(
        "metadata.name must be at most 52 characters: its children add suffixes and Service names end at 63"
    ),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message(
        "metadata.name becomes a Service name: use lower-case letters, digits and '-', starting with a letter"
    )
)]
#[x_kube(
    validation = Rule::new("has(self.licensedHosts) != has(self.rehearsal)").message(
        "set exactly one of licensedHosts (relay to your licensed KMS hosts) and rehearsal (a stand-in for tests)"
    ),
    validation = Rule::new("!has(self.ledger) || !has(self.ledger.memory) || (self.replicas <= 1 && !has(self.autoscaling))").message(
        "ledger.memory is one replica's own: set replicas to 1 without autoscaling, or use ledger.redis or ledger.managed"
    ),
    validation = Rule::new("has(self.licensedHosts) || !has(self.products) || self.products.all(p, !has(p.hostKeySecret))").message(
        "products[].hostKeySecret is for licensed hosts: a rehearsal host holds no Microsoft key, remove it"
    ),
    validation = Rule::new("!has(self.licensedHosts) || !self.licensedHosts.exists(h, has(h.management) && h.management.mode == 'Manage') || (has(self.products) && size(self.products) > 0)").message(
        "a licensed host with management.mode Manage needs products: say which products it is to be activated for"
    ),
    validation = Rule::new("!has(self.rehearsal) || !has(self.rehearsal.managementSecret) || (self.replicas <= 1 && !has(self.autoscaling))").message(
        "rehearsal.managementSecret makes the replica one Windows host with its own licences: set replicas to 1 without autoscaling"
    ),
    validation = Rule::new("!has(self.rehearsal) || !has(self.products) || self.products.all(p, p.name != 'Windows' && p.name != 'WindowsServer')").message(
        "rehearsal hosts answer for Office products: remove Windows and WindowsServer from products"
    ),
    // Without a ledger section it is managed, with the default volume.
    validation = Rule::new("!((!has(self.ledger) || has(self.ledger.managed)) && (!has(oldSelf.ledger) || has(oldSelf.ledger.managed))) || ((has(self.ledger) ? self.ledger.managed.storage.size : '1Gi') == (has(oldSelf.ledger) ? oldSelf.ledger.managed.storage.size : '1Gi') && (has(self.ledger) && has(self.ledger.managed.storage.storageClassName) ? self.ledger.managed.storage.storageClassName : '') == (has(oldSelf.ledger) && has(oldSelf.ledger.managed.storage.storageClassName) ? oldSelf.ledger.managed.storage.storageClassName : ''))").message(
        "ledger.managed.storage can't be changed: the StatefulSet's volume keeps its size and class"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct OfficeKmsHostSpec {
    /// Host replicas to run. 0 stops answering clients. Left to the autoscaler while `autoscaling` is set.
    #[serde(default = "replicas::default_replicas")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,

    /// Scales host replicas by their CPU use, in place of `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,

    /// The organisation's own licensed KMS hosts, in order of preference. Replicas relay each activation request to one of
    /// them. Exactly one of `licensedHosts` and `rehearsal` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub licensed_hosts: Option<Vec<LicensedHost>>,

    /// Makes replicas rehearsal hosts, which answer rehearsal clients under the site's own key and activate nothing of
    /// Microsoft's. Exactly one of `licensedHosts` and `rehearsal` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<RehearsalSpec>,

    /// Products that the hosts activate. For licensed hosts it is what they are compared with and, with
    /// `management.mode: Manage`, made to be; for a rehearsal host what it answers for. Empty: Office LTSC 2024 alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub products: Option<Vec<Product>>,

    /// Which clients are answered, and how many at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<ClientsSpec>,

    /// The Service in front of the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSpec>,

    /// DNS zones in which clients find the Service. None: publish nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsSpec>,

    /// Where replicas share clients, counts and events. Default: `managed`, a small Redis with a volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerSpec>,

    /// How requests find a licensed host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingSpec>,

    /// What is exported for monitoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<MonitoringSpec>,

    /// How the pods of the replicas look and where they run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodSpec>,

    /// What deletion of this resource does to what outlives its pods: `Delete` (default) removes published DNS records, the
    /// managed ledger's volume and generated keys; `Retain` keeps them.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}
