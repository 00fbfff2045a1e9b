//! Which host a command asks: one that is named, or those that a zone's SRV records name, as a client does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use kms_dns::discover::{KMS_PORT, ResolverSource, lookup};
use kms_dns::names::ZoneName;
use kms_dns::rfc2136::ServerAddress;
use rand::Rng;

use crate::exit::Misuse;
use crate::local::{Local, LocalZone, StateDir};

/// Which host is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// Host to ask; `HOST:PORT` where the port is not 1688
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with_all = ["zone", "servers"])]
    host: Option<String>,
    /// Domain whose SRV records name the hosts [default: what `kmsctl up` runs here]
    #[arg(long)]
    zone: Option<ZoneName>,
    /// Name server to ask instead of this machine's; may be repeated
    #[arg(long = "dns", value_name = "SERVER")]
    servers: Vec<ServerAddress>,
    #[command(flatten)]
    state: StateDir,
}

/// How the hosts of a [`Target`] are found; looked up anew for each client.
#[derive(Debug, Clone)]
pub enum Hosts {
    /// Named outright.
    Named {
        /// As the user wrote it.
        name: String,
        /// Its addresses.
        addresses: Vec<SocketAddr>,
    },
    /// By SRV records.
    Zone {
        /// The domain.
        zone: ZoneName,
        /// Who is asked.
        source: ResolverSource,
    },
}

/// An address to try, and the name that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host name and port.
    pub name: String,
    /// Where to connect to.
    pub address: SocketAddr,
}

impl Target {
    /// How the hosts are found.
    ///
    /// # Errors
    /// When a name has no address, or nothing says which hosts are meant.
    pub async fn hosts(&self) -> Result<Hosts> {
        if let Some(host) = &self.host {
            return named(host).await;
        }
        let mut servers = Vec::new();
        for server in &self.servers {
            servers.extend(server.resolve().await?);
        }
        let local = self.state.read()?;
        let zones = local.as_ref().map(|local| local.zones.as_slice()).unwrap_or_default();
        let zone = match (&self.zone, &local) {
            (Some(zone), _) => zone.clone(),
            (None, Some(local)) => match local.zones.first() {
                Some(zone) => zone.name.parse()?,
                None => return first_replica(local),
            },
            (None, None) => {
                let question = "which host? Give --host or --zone, or start `kmsctl up` on this machine";
                return Err(Misuse(question.to_owned()).into());
            }
        };
        if servers.is_empty() {
            servers.extend(local_server(&zone, zones));
        }
        let source = match servers.as_slice() {
            [] => ResolverSource::System,
            _ => ResolverSource::Servers(servers),
        };
        Ok(Hosts::Zone { zone, source })
    }

    /// The file with the site key: the one given, or that of what `kmsctl up` runs here.
    ///
    /// # Errors
    /// When there is neither, or the record cannot be read.
    pub fn site_key(&self, given: Option<&Path>) -> Result<PathBuf> {
        if let Some(file) = given {
            return Ok(file.to_owned());
        }
        let local = self.state.read()?.and_then(|local| local.site_key_file);
        local.with_context(|| {
            let need = "rehearsal clients need the site key of the rehearsal hosts";
            Misuse(format!("{need}: give --site-key-file, or start `kmsctl up`"))
        })
    }
}

/// The zones of `kmsctl up` are known to its own name server only.
pub(crate) fn local_server(zone: &ZoneName, zones: &[LocalZone]) -> Option<SocketAddr> {
    let own = zones
        .iter()
        .find(|own| own.name.parse().is_ok_and(|name: ZoneName| name == *zone));
    own.map(|own| own.server)
}

/// A host that the user named.
///
/// # Errors
/// When it has no address.
pub async fn named(text: &str) -> Result<Hosts> {
    let (host, port) = split(text)?;
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), port))
        .await
        .with_context(|| format!("{host} has no address that this machine can look up"))?
        .collect();
    if addresses.is_empty() {
        bail!("{host} has no address");
    }
    let name = match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    Ok(Hosts::Named { name, addresses })
}

/// A replica to ask where there is no zone: a relay if there is one.
///
/// # Errors
/// When nothing runs.
pub(crate) fn first_replica(local: &Local) -> Result<Hosts> {
    let replica = local
        .replicas
        .iter()
        .find(|replica| replica.relays)
        .or(local.replicas.first());
    let replica = replica.context("what `kmsctl up` runs here has no replica: give --host")?;
    Ok(Hosts::Named {
        name: replica.clients.to_string(),
        addresses: vec![replica.clients],
    })
}

impl Hosts {
    /// The addresses that one client would try, in its order.
    ///
    /// # Errors
    /// When the zone cannot be looked up, or names no host with an address.
    pub async fn places<R: Rng>(&self, rng: &mut R) -> Result<Vec<Place>> {
        match self {
            Self::Named { name, addresses } => Ok(addresses
                .iter()
                .map(|address| Place {
                    name: name.clone(),
                    address: *address,
                })
                .collect()),
            Self::Zone { zone, source } => {
                let found = lookup(zone, source)
                    .await
                    .with_context(|| format!("the KMS hosts of {zone} could not be looked up"))?;
                let places: Vec<Place> = found
                    .order(rng)
                    .iter()
                    .flat_map(|candidate| {
                        candidate.sockets().map(|address| Place {
                            name: format!("{}:{}", candidate.target.trim_end_matches('.'), candidate.port),
                            address,
                        })
                    })
                    .collect();
                if places.is_empty() {
                    bail!(
                        "{} names no host with an address: `kmsctl discover {zone}` tells what is wrong",
                        found.name
                    );
                }
                Ok(places)
            }
        }
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS` or `[ADDRESS]:PORT`.
fn split(text: &str) -> Result<(String, u16)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    match bare.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && !host.is_empty() => {
            let port = port.parse().with_context(|| Misuse(format!("`{port}` is no port")))?;
            Ok((host.to_owned(), port))
        }
        _ if bare.is_empty() => {
            let rule = "a host is a name or an address, with `:PORT` where it is not 1688";
            Err(Misuse(rule.to_owned()).into())
        }
        _ => Ok((bare.to_owned(), KMS_PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_with_and_without_ports() {
        for (text, host, port) in [
            ("kms01", "kms01", 1688),
            ("kms01:1689", "kms01", 1689),
            ("192.0.2.7", "192.0.2.7", 1688),
            ("192.0.2.7:1", "192.0.2.7", 1),
            ("2001:db8::7", "2001:db8::7", 1688),
            ("[2001:db8::7]", "2001:db8::7", 1688),
            ("[2001:db8::7]:1689", "2001:db8::7", 1689),
        ] {
            assert_eq!(split(text).unwrap(), (host.to_owned(), port), "{text}");
        }
        for text in ["", "kms01:", "kms01:x", "kms01:65536"] {
            assert!(split(text).is_err(), "{text}");
        }
    }
}
