//! The zones of all resources, each on a DNS server of this machine: an SRV record for each replica.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use kms_dns::names::{HostName, ZoneName};
use kms_dns::records::{Desired, Endpoint, OwnerId};
use kms_dns::server::{Server, Sockets, Zone};
use kms_operator::api::OfficeKmsHost;
use kube::ResourceExt as _;

use super::replicas::Running;
use crate::local::LocalZone;

/// Port of the first DNS server.
const PORT: u16 = 5354;

/// Seconds that a record may be kept: short, since everything here ends soon.
const TTL: u32 = 60;

/// A zone that is served until dropped.
pub(super) struct Served {
    name: ZoneName,
    server: Server,
}

impl Served {
    /// For other commands.
    pub(super) fn local(&self) -> LocalZone {
        LocalZone {
            name: self.name.to_string(),
            server: self.server.address(),
        }
    }
}

/// Serves every zone of every resource.
///
/// # Errors
/// When a name cannot be, or no port can be had.
pub(super) async fn serve(hosts: &[OfficeKmsHost], running: &Running) -> Result<Vec<Served>> {
    let mut zones: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
    for host in hosts {
        for zone in host.spec.dns.iter().flat_map(|dns| &dns.zones) {
            let name: ZoneName = zone.name.parse()?;
            let endpoints = zones.entry(zone.name.clone()).or_default();
            for replica in running.of(&host.name_any()) {
                endpoints.push(Endpoint {
                    target: HostName::within(&replica.name, &name)?,
                    addresses: [replica.clients.ip()].into(),
                    port: replica.clients.port(),
                    priority: 0,
                    weight: 100,
                });
            }
        }
    }
    let owner: OwnerId = "kmsctl-up".parse()?;
    let mut served = Vec::new();
    for ((name, endpoints), offset) in zones.into_iter().zip(0..) {
        let name: ZoneName = name.parse()?;
        let desired = Desired::new(name.clone(), name.clone(), owner.clone(), TTL, &endpoints)?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let sockets = match Sockets::bind(at(PORT.saturating_add(offset))).await {
            Ok(sockets) => sockets,
            Err(_) => Sockets::bind(at(0)).await.context("no port for the DNS server")?,
        };
        let zone = Zone::new(&name, TTL, 1, desired.entries, []);
        let server = Server::start(sockets, zone).context("the DNS server cannot start")?;
        served.push(Served { name, server });
    }
    Ok(served)
}
