//! The configuration of a host replica: one YAML file, read again while the replica runs.
//!
//! Reading never stops at the first mistake: [`load`] reports every unknown field, every value of the wrong type and
//! every broken rule of the file together, each with its line, its column and a hint. Secrets are never in the file; it
//! names the files that hold them.
//!
//! ```text
//! text -> tree (places) -> decode (types, unknown fields) -> check (rules) -> HostConfig
//! ```

mod check;
mod clients;
mod decode;
mod files;
pub(crate) mod period;
pub(crate) mod place;
mod problem;
mod relay;
mod tree;
mod watch;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use clients::{ClientsConfig, LimitsConfig, ProxyProtocolConfig};
pub use files::FileProblem;
pub use period::{NotAPeriod, Period};
pub use place::{Place, SectionProblem, Step, display_path};
pub use problem::{Problem, Problems};
pub use relay::{
    HealthConfig, InterfaceConfig, KMS_PORT, LicensedHostConfig, PoolConfig, RelayConfig, RelayTimeouts, Syntax,
    WhenNoHost,
};
pub use watch::{LOOK_EVERY, Look, ReadError, WatchedFile};

use check::{Check, IntoPath};

use crate::ledger::LedgerConfig;
use crate::rehearsal::RehearsalConfig;
use crate::routing::RoutingConfig;

/// Port of the admin endpoint.
pub const ADMIN_PORT: u16 = 9688;

/// Configuration of a host replica. Exactly one of `relay` and `rehearsal` is set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostConfig {
    /// The replica's name in status and logs, 1..=253 characters.
    #[serde(default = "default_name")]
    pub name: String,
    /// Answer with what licensed hosts answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<RelayConfig>,
    /// Answer rehearsal clients, as a stand-in for licensed hosts. A change needs a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<RehearsalConfig>,
    /// Addresses on which clients are served. A change needs a restart.
    #[serde(default = "default_listen")]
    pub listen: Vec<SocketAddr>,
    /// The admin endpoint. A change needs a restart.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Who may connect, and how much.
    #[serde(default)]
    pub clients: ClientsConfig,
    /// Where clients, counts and events are recorded. A change needs a restart.
    #[serde(default)]
    pub ledger: LedgerConfig,
    /// How clients are spread over licensed hosts.
    #[serde(default)]
    pub routing: RoutingConfig,
    /// How long requests in flight may take to finish when the replica is told to stop.
    #[serde(default = "default_drain")]
    pub drain_grace_period: Period,
    /// Logging. A change needs a restart.
    #[serde(default)]
    pub log: LogConfig,
}

/// The admin endpoint: metrics, probes, status and the page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Address on which it listens. It shows machine names to whoever asks, so that other machines reach it only where
    /// that is asked for.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
        }
    }
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LogConfig {
    /// Text for people or JSON for collectors.
    pub format: LogFormat,
    /// What is logged: a level (`info`), or directives as `tracing_subscriber::EnvFilter` reads them.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

/// Form of the log's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

fn default_name() -> String {
    "kms-host".to_owned()
}

fn default_listen() -> Vec<SocketAddr> {
    vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, KMS_PORT))]
}

fn default_drain() -> Period {
    Period::seconds(20)
}

/// Reads a configuration from `text`; `file` is only the name shown with problems.
///
/// # Errors
/// Every problem of the text.
pub fn load(text: &str, file: &Path) -> Result<HostConfig, Problems> {
    let root = tree::parse(text).map_err(|problem| Problems::new(file, text, vec![problem]))?;
    let decode::Decoded { value, mut problems } = decode::decode::<HostConfig>(root.clone());
    if let Some(config) = &value {
        let mut check = Check::new(&root, &problems);
        config.check(&mut check);
        problems.extend(check.into_problems());
    }
    match value {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(Problems::new(file, text, problems)),
    }
}

impl HostConfig {
    fn check(&self, check: &mut Check<'_>) {
        if self.name.is_empty() || self.name.len() > 253 {
            check.problem(
                ["name"],
                "must have 1 to 253 characters",
                "use the pod's or the machine's name",
            );
        }
        match (&self.relay, &self.rehearsal) {
            (None, None) => check.problem(
                ["relay"],
                "neither `relay` nor `rehearsal` is set",
                "set `relay` with the licensed hosts, or `rehearsal` for drills",
            ),
            (Some(_), Some(_)) => check.problem(
                ["rehearsal"],
                "is set beside `relay`",
                "a replica is one or the other: remove one of the two",
            ),
            _ => {}
        }
        if self.listen.is_empty() || self.listen.len() > 16 {
            check.problem(
                ["listen"],
                "1 to 16 addresses are possible",
                "list at least `0.0.0.0:1688`",
            );
        }
        self.check_addresses(check);
        if let Some(relay) = &self.relay {
            relay.check(check);
        }
        if let Some(rehearsal) = &self.rehearsal {
            check.section("rehearsal", rehearsal.problems());
        }
        check.section("ledger", self.ledger.problems());
        check.section("routing", self.routing.problems());
        self.clients.check(check);
        if let Err(error) = self.log.filter.parse::<tracing_subscriber::EnvFilter>() {
            check.problem(
                ["log", "filter"],
                error,
                "write a level: error, warn, info, debug or trace",
            );
        }
    }

    /// Each address must be free when it is listened on.
    fn check_addresses(&self, check: &mut Check<'_>) {
        // As they are bound: beside an IPv4 address, an IPv6 wildcard for clients leaves IPv4 alone.
        let v6_only = self.listen.iter().any(SocketAddr::is_ipv4);
        let clients = self.listen.iter().enumerate();
        let mut sockets: Vec<_> = clients
            .map(|(index, address)| (("listen", index).into_path(), *address, v6_only))
            .collect();
        sockets.push((["admin", "listen"].into_path(), self.admin.listen, false));
        let management = self.rehearsal.as_ref().and_then(|section| section.management.as_ref());
        if let Some(management) = management {
            let path = ["rehearsal", "management", "listen"].into_path();
            sockets.push((path, management.listen, false));
        }
        for (index, (path, address, v6_only)) in sockets.iter().enumerate() {
            let taken = sockets.iter().take(index).find(|(_, other, other_v6_only)| {
                takes(*address, *v6_only, *other) || takes(*other, *other_v6_only, *address)
            });
            if let Some((by, other, _)) = taken {
                check.problem(
                    path.clone(),
                    format!("{address} is taken already: `{}` is {other}", display_path(by)),
                    "give each a port of its own, or an address of the machine of its own",
                );
            }
        }
    }
}

/// Whether a socket at `address` takes what comes to `other`. Port 0 is any free port.
fn takes(address: SocketAddr, v6_only: bool, other: SocketAddr) -> bool {
    let everywhere =
        address.ip().is_unspecified() && (address.is_ipv4() == other.is_ipv4() || (address.is_ipv6() && !v6_only));
    address.port() != 0 && address.port() == other.port() && (address == other || everywhere)
}

#[cfg(test)]
mod tests;
