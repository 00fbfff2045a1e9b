//! Licensed hosts: the genuine KMS hosts behind the replicas, and how they are read or managed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::{ConfigOrSecretKey, LocalName};

/// A genuine KMS host: Windows with a KMS host key that Microsoft has activated.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LicensedHost {
    /// Short name of the host in status, metrics and events.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// DNS name or IP address, without a port.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9:]+$"))]
    pub address: String,

    /// TCP port of its KMS service.
    #[serde(default = "kms_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Share of clients relative to the other hosts of the active set. 0: only when no other host is left.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 0, max = 1000))]
    pub weight: i32,

    /// How the operator reaches the host to read counts and licence state and, if asked, to set it up. None: it is only
    /// relayed to, and known by what the relays see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<ManagementSpec>,
}

/// Management over WS-Management (WinRM), by WMI class, never by shell.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.transport != 'Http' || self.authentication == 'Ntlm'").message(
        "management over Http needs authentication Ntlm, which seals the messages; use transport Https for Basic"
    ),
    validation = Rule::new("self.transport == 'Https' || (!has(self.caBundle) && !has(self.certificateSha256))").message(
        "caBundle and certificateSha256 are for transport Https"
    ),
    validation = Rule::new("!has(self.caBundle) || !has(self.certificateSha256)").message(
        "set one of caBundle and certificateSha256: a pinned certificate needs no bundle"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ManagementSpec {
    /// `Observe` (default) reads and changes nothing. `Manage` installs keys, activates and sets up the host for the
    /// products of the spec; each change is an event.
    #[serde(default)]
    pub mode: ManagementMode,

    /// `Https` (default, port 5986) or `Http` (port 5985, only with sealed messages).
    #[serde(default)]
    pub transport: Transport,

    /// `Ntlm` (default) or `Basic` (only over Https).
    #[serde(default)]
    pub authentication: Authentication,

    /// DNS name or IP address of its WS-Management endpoint, when it is not the host's `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9:]+$"))]
    pub address: Option<String>,

    /// TCP port of WS-Management. Default: 5986 for Https, 5985 for Http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,

    /// Secret with keys `username` (also `DOMAIN\user` or `user@domain`) and `password`.
    pub credentials_secret: LocalName,

    /// Certificates (PEM) of the authorities that may have signed the host's certificate. Default: the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<ConfigOrSecretKey>,

    /// SHA-256 of the host's own certificate (DER), in hexadecimal, for hosts whose certificate nobody signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(equal = 64), regex(pattern = "^[0-9a-fA-F]{64}$"))]
    pub certificate_sha256: Option<String>,

    /// Settings of its KMS service. With `mode: Manage` they are corrected once all products are activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<HostSettings>,

    /// Seconds between two readings of the host.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 30, max = 86400))]
    pub interval_seconds: i32,
}

/// Settings of a licensed host's KMS service. They take effect when its service Software Protection restarts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostSettings {
    /// Whether the host publishes its own SRV record. Off by default, since clients would find it beside the replicas.
    #[serde(default)]
    pub dns_publishing: bool,

    /// Whether the service runs at low priority. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_priority: Option<bool>,

    /// Minutes after which clients that are not activated ask again. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 15, max = 43200))]
    pub activation_interval_minutes: Option<i32>,

    /// Minutes after which activated clients renew. Default: left as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 15, max = 43200))]
    pub renewal_interval_minutes: Option<i32>,
}

/// What the operator may do on a licensed host.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ManagementMode {
    /// Read only.
    #[default]
    Observe,
    /// Set up and activate.
    Manage,
}

/// Transport of WS-Management.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TLS.
    #[default]
    Https,
    /// Plain HTTP with NTLM-sealed messages.
    Http,
}

/// Authentication of WS-Management.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// NTLM, with message sealing over Http and channel bindings over Https.
    #[default]
    Ntlm,
    /// User name and password in a header.
    Basic,
}

pub(super) fn kms_port() -> i32 {
    1688
}

fn default_weight() -> i32 {
    100
}

fn default_interval() -> i32 {
    300
}
