//! The ledger: where replicas share clients, counts and events.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::{ConfigOrSecretKey, SecretKey};

/// Exactly one store, and the key under which machine names are sealed in it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(validation = Rule::new("[has(self.redis), has(self.managed), has(self.memory)].filter(p, p).size() == 1").message(
    "set exactly one of ledger.redis (your own), ledger.managed (a small Redis that the operator runs) and ledger.memory (one replica)"
))]
#[serde(rename_all = "camelCase")]
pub struct LedgerSpec {
    /// A Redis (6.2 or later) or Valkey of your own: standalone, Sentinel or Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisLedger>,

    /// A Redis with one pod and a volume, which the operator runs. Its loss for minutes costs nothing; bring your own where
    /// the loss of a node's volume must not cost 30 days of counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedLedger>,

    /// The memory of the one replica, lost with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryLedger>,

    /// Key (32 bytes, raw, in hex or in base64) under which clients are pseudonyms and events are sealed. Default: generated once into Secret
    /// `NAME-keys`, key `ledger-key`. With another key, what was recorded before can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_secret: Option<SecretKey>,
}

/// A Redis or Valkey of your own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("(self.mode == 'Sentinel') == has(self.sentinel)").message(
        "sentinel and mode: Sentinel belong together: set both or neither"
    ),
    validation = Rule::new("self.mode != 'Standalone' || size(self.addresses) == 1").message(
        "mode Standalone takes exactly one address; use Sentinel or Cluster for several"
    ),
    validation = Rule::new("self.mode != 'Cluster' || self.database == 0").message(
        "a Redis Cluster has one database only: remove database"
    ),
    validation = Rule::new("!has(self.username) || has(self.passwordSecret)").message(
        "an ACL user needs a password: set passwordSecret too"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct RedisLedger {
    /// `Standalone` (default), `Sentinel` or `Cluster`.
    #[serde(default)]
    pub mode: RedisMode,

    /// `host:port` of the server, of the Sentinels, or of nodes of the Cluster.
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 3, max = 260), regex(pattern = "^[-._a-zA-Z0-9:\\[\\]]+:[0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<String>,

    /// Sentinel's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<SentinelSpec>,

    /// ACL user. Default: Redis' `default` user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub username: Option<String>,

    /// Password. Read again when it changes, without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,

    /// Database number, 0 for Cluster.
    #[serde(default)]
    #[schemars(range(min = 0, max = 15))]
    pub database: i32,

    /// TLS. None: plain TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
}

/// How Redis is found.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// The primary that Sentinels name.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// Sentinel.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SentinelSpec {
    /// Name under which Sentinels know the primary.
    #[schemars(length(min = 1, max = 128))]
    pub master_name: String,

    /// Password of the Sentinels, when they have one of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<SecretKey>,
}

/// TLS to Redis.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// Certificates (PEM) of the authorities that may have signed the server's. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<ConfigOrSecretKey>,
}

/// The operator's small Redis: one pod, one volume, an append-only file, a generated password, a NetworkPolicy.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ManagedLedger {
    /// Image, for registries of your own. Default: the operator's setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Its volume.
    #[serde(default)]
    pub storage: StorageSpec,

    /// CPU and memory of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Labels of nodes that it may run on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub node_selector: BTreeMap<String, String>,

    /// Taints that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,

    /// Priority class of its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// A volume.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size, such as `1Gi` or `500M`, fixed once created: StatefulSets do not change it.
    #[serde(default = "default_size")]
    #[schemars(length(min = 2, max = 16), regex(pattern = "^[1-9][0-9]*(Mi|Gi|Ti|Pi|M|G|T|P)$"))]
    pub size: String,

    /// Storage class, fixed once created. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: default_size(),
            storage_class_name: None,
        }
    }
}

fn default_size() -> String {
    "1Gi".to_owned()
}

/// The replica's own memory.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryLedger {}
