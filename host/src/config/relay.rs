//! Section `relay`: the licensed hosts that answer, and how they are called.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Period;
use super::check::Check;
use crate::ledger::HostFact;
use crate::rpc::{Interface, Offer, TransferSyntax};

/// TCP port of a KMS host ("Configure a KMS host computer to activate volume licensed versions of Office").
pub const KMS_PORT: u16 = 1688;

/// Relay: the licensed hosts, and how they are called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayConfig {
    /// The licensed hosts, most preferred first, 1..=64.
    pub licensed_hosts: Vec<LicensedHostConfig>,
    /// The interface that is relayed: KMS unless set.
    #[serde(default)]
    pub interface: InterfaceConfig,
    /// How long a licensed host may take.
    #[serde(default)]
    pub timeouts: RelayTimeouts,
    /// Connections kept to each licensed host.
    #[serde(default)]
    pub pool: PoolConfig,
    /// How a licensed host that fails is noticed and taken out.
    #[serde(default)]
    pub health: HealthConfig,
    /// What a client gets while no licensed host is eligible.
    #[serde(default)]
    pub when_no_host: WhenNoHost,
}

/// A licensed host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LicensedHostConfig {
    /// Its name in metrics, logs and the ledger: 1..=63 letters, digits, `-` and `.`.
    pub name: String,
    /// IP address or DNS name.
    pub address: String,
    /// TCP port.
    #[serde(default = "kms_port")]
    pub port: u16,
    /// Share of the clients among active hosts, 0..=1000; 0 is used only when no other host is eligible.
    #[serde(default = "one")]
    pub weight: u32,
    /// Products whose host keys it carries. Hosts with unequal sets are not mixed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<String>,
    /// What was read from the host by its owner, if nothing else reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFact>,
}

fn kms_port() -> u16 {
    KMS_PORT
}

fn one() -> u32 {
    1
}

/// A DCE/RPC interface and its operations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InterfaceConfig {
    /// Interface UUID.
    pub uuid: Uuid,
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// First operation number that is relayed.
    pub first_opnum: u16,
    /// Last operation number that is relayed.
    pub last_opnum: u16,
    /// Transfer syntaxes that clients are offered: those that every licensed host speaks, the preferred one first.
    pub syntaxes: Vec<Syntax>,
}

/// A transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Syntax {
    /// NDR 2.0.
    Ndr,
    /// NDR64 1.0.
    Ndr64,
}

impl Default for InterfaceConfig {
    fn default() -> Self {
        Self {
            uuid: Interface::KMS.uuid,
            major: Interface::KMS.major,
            minor: Interface::KMS.minor,
            first_opnum: 0,
            last_opnum: 0,
            syntaxes: vec![Syntax::Ndr64, Syntax::Ndr],
        }
    }
}

impl InterfaceConfig {
    /// The interface.
    pub fn interface(&self) -> Interface {
        Interface {
            uuid: self.uuid,
            major: self.major,
            minor: self.minor,
        }
    }

    /// What clients are offered. A call to an operation outside gets the fault nca_s_op_rng_error.
    pub fn offer(&self) -> Offer {
        let syntax = |syntax: &Syntax| match syntax {
            Syntax::Ndr => TransferSyntax::Ndr,
            Syntax::Ndr64 => TransferSyntax::Ndr64,
        };
        Offer {
            interface: self.interface(),
            opnums: self.first_opnum..=self.last_opnum,
            syntaxes: self.syntaxes.iter().map(syntax).collect(),
        }
    }
}

/// How long a licensed host may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RelayTimeouts {
    /// To connect and bind. Then the next host is tried.
    pub connect: Period,
    /// To answer one call. Then the next host is tried.
    pub call: Period,
}

impl Default for RelayTimeouts {
    fn default() -> Self {
        Self {
            connect: Period::seconds(3),
            call: Period::seconds(5),
        }
    }
}

/// Connections kept to each licensed host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PoolConfig {
    /// Calls under way at one host at one time, each on a connection of its own, 1..=1024; a request beyond them waits.
    /// As many idle connections at most are kept in each transfer syntax.
    pub max_connections: u32,
    /// How long a connection is kept without use.
    pub idle_timeout: Period,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 128,
            idle_timeout: Period::seconds(30),
        }
    }
}

/// How a licensed host that fails is noticed and taken out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HealthConfig {
    /// Failures in a row that eject a host, 1..=100.
    pub eject_after: u32,
    /// How long the first ejection lasts; each further one lasts twice as long. Then one trial request decides.
    pub eject_for: Period,
    /// The longest ejection.
    pub eject_for_at_most: Period,
    /// How often each host is probed (TCP connect and RPC bind; it costs the host no count); 0s turns probes off.
    pub probe_interval: Period,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            eject_after: 3,
            eject_for: Period::seconds(2),
            eject_for_at_most: Period::seconds(60),
            probe_interval: Period::seconds(10),
        }
    }
}

/// What a client gets while no licensed host is eligible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WhenNoHost {
    /// The connection is closed: a client then takes the next target of the SRV record.
    #[default]
    Close,
    /// The RPC fault RPC_S_SERVER_UNAVAILABLE.
    Fault,
}

impl RelayConfig {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        if self.licensed_hosts.is_empty() || self.licensed_hosts.len() > 64 {
            check.problem(
                ["relay", "licensedHosts"],
                format!(
                    "{} licensed hosts are listed, 1 to 64 are possible",
                    self.licensed_hosts.len()
                ),
                "list each licensed KMS host with its `name` and `address`",
            );
        }
        let mut names = BTreeSet::new();
        let mut targets = BTreeSet::new();
        for (index, host) in self.licensed_hosts.iter().enumerate() {
            let at = |field: &'static str| ("relay", "licensedHosts", index, field);
            if !is_name(&host.name) {
                check.problem(
                    at("name"),
                    format!("`{}` is not a host's name", host.name),
                    "use 1 to 63 letters, digits, `-` and `.`, beginning with a letter or digit",
                );
            } else if !names.insert(host.name.as_str()) {
                check.problem(
                    at("name"),
                    format!("`{}` is already the name of another host", host.name),
                    "give each host its own name",
                );
            }
            if !is_address(&host.address) {
                check.problem(
                    at("address"),
                    format!("`{}` is neither an IP address nor a DNS name", host.address),
                    "write the address alone; the port has its own field `port`",
                );
            } else if !targets.insert((host.address.to_ascii_lowercase(), host.port)) {
                check.problem(
                    at("address"),
                    format!("{}:{} is already listed", host.address, host.port),
                    "a host that is listed twice is still one host with one count; use `weight` to give it more clients",
                );
            }
            if host.port == 0 {
                check.problem(at("port"), "0 is no TCP port", "KMS hosts listen on 1688");
            }
            check.range(at("weight"), host.weight, 0..=1000);
        }
        if self.interface.first_opnum > self.interface.last_opnum {
            check.problem(
                ["relay", "interface", "lastOpnum"],
                format!(
                    "{} is before firstOpnum {}",
                    self.interface.last_opnum, self.interface.first_opnum
                ),
                "set both to the first and last operation that may be relayed",
            );
        }
        if self.interface.syntaxes.is_empty() || self.interface.syntaxes.len() > 2 {
            check.problem(
                ["relay", "interface", "syntaxes"],
                "one or both of ndr64 and ndr",
                "leave it out for both",
            );
        }
        check.positive(["relay", "timeouts", "connect"], self.timeouts.connect);
        check.positive(["relay", "timeouts", "call"], self.timeouts.call);
        check.range(["relay", "pool", "maxConnections"], self.pool.max_connections, 1..=1024);
        check.positive(["relay", "pool", "idleTimeout"], self.pool.idle_timeout);
        check.range(["relay", "health", "ejectAfter"], self.health.eject_after, 1..=100);
        check.positive(["relay", "health", "ejectFor"], self.health.eject_for);
        if self.health.eject_for_at_most < self.health.eject_for {
            check.problem(
                ["relay", "health", "ejectForAtMost"],
                format!(
                    "{} is shorter than ejectFor {}",
                    self.health.eject_for_at_most, self.health.eject_for
                ),
                "set it to `ejectFor` or longer",
            );
        }
    }
}

fn is_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
}

/// An IP address, or a DNS name of up to 253 characters in labels of 1 to 63.
fn is_address(address: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
            && !label.starts_with('-')
    };
    address.parse::<std::net::IpAddr>().is_ok()
        || (address.len() <= 253 && address.trim_end_matches('.').split('.').all(label))
}
