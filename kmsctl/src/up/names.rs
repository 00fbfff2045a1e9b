//! The zones of all resources, each on a DNS server of this machine: an SRV record for each replica, marked by its owner as
//! in production.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use kms_dns::names::{HostName, ZoneName};
use kms_dns::records::{Desired, Endpoint, Entry, Mark, OwnerId};
use kms_dns::server::{Server, Sockets, Zone};
use kms_operator::api::{OfficeKmsHost, ZoneSpec};
use kms_operator::dns::input;
use kube::ResourceExt as _;

use super::replicas::Running;
use crate::local::LocalZone;

/// Port of the first DNS server.
const PORT: u16 = 5354;

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

/// What stands in a zone.
#[derive(Default)]
struct Records {
    /// Seconds that they may be kept: the least that a resource asks for.
    ttl: Option<u32>,
    entries: BTreeSet<Entry>,
    marks: BTreeSet<Mark>,
}

/// Serves every zone of every resource.
///
/// # Errors
/// When a name cannot be, or no port can be had.
pub(super) async fn serve(hosts: &[OfficeKmsHost], running: &Running) -> Result<Vec<Served>> {
    let mut zones: BTreeMap<ZoneName, Records> = BTreeMap::new();
    for host in hosts {
        let owner: OwnerId = input::owner(host).parse().context("spec.dns.owner")?;
        let name = host.name_any();
        let replicas = running.of(&name);
        let replicas: Vec<_> = replicas
            .map(|replica| (replica.name.as_str(), replica.clients))
            .collect();
        for (index, zone) in host.spec.dns.iter().flat_map(|dns| &dns.zones).enumerate() {
            let desired = desired(zone, &owner, &replicas).with_context(|| format!("spec.dns.zones[{index}]"))?;
            let records = zones.entry(desired.zone).or_default();
            records.ttl = Some(records.ttl.map_or(desired.ttl, |ttl| ttl.min(desired.ttl)));
            records
                .marks
                .extend(desired.entries.iter().map(|entry| Mark::of(&owner, entry)));
            records.entries.extend(desired.entries);
        }
    }
    let mut served = Vec::new();
    for ((name, records), offset) in zones.into_iter().zip(0..) {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let sockets = match Sockets::bind(at(PORT.saturating_add(offset))).await {
            Ok(sockets) => sockets,
            Err(_) => Sockets::bind(at(0)).await.context("no port for the DNS server")?,
        };
        let zone = Zone::new(
            &name,
            records.ttl.unwrap_or_default(),
            1,
            records.entries,
            records.marks,
        );
        let server = Server::start(sockets, zone).context("the DNS server cannot start")?;
        served.push(Served { name, server });
    }
    Ok(served)
}

/// The records of a zone as its spec has them, with the addresses and ports of this machine: those of the spec, and a target
/// of another zone, lead to where these replicas are not.
fn desired(spec: &ZoneSpec, owner: &OwnerId, replicas: &[(&str, SocketAddr)]) -> Result<Desired> {
    let name: ZoneName = spec.name.parse()?;
    let fixed = spec
        .target
        .as_ref()
        .map(|target| target.parse::<HostName>())
        .transpose()?;
    let fixed = fixed.filter(|target| name.holds(target.name()));
    let mut endpoints = Vec::new();
    for (replica, clients) in replicas {
        endpoints.push(Endpoint {
            target: fixed.clone().map_or_else(|| HostName::within(replica, &name), Ok)?,
            addresses: [clients.ip()].into(),
            port: clients.port(),
            priority: u16::try_from(spec.priority).context("priority")?,
            weight: u16::try_from(spec.weight).context("weight")?,
        });
    }
    let ttl = u32::try_from(spec.ttl).context("ttl")?;
    Ok(Desired::new(name.clone(), name, owner.clone(), ttl, &endpoints)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_has_what_its_spec_says_and_the_addresses_of_this_machine() {
        let lines = |spec: &str| {
            let spec: ZoneSpec = serde_saphyr::from_str(spec).unwrap();
            let replicas = [
                ("kms-0", "127.0.0.1:4001".parse().unwrap()),
                ("kms-1", "127.0.0.1:4002".parse().unwrap()),
            ];
            desired(&spec, &"c1".parse().unwrap(), &replicas).unwrap().zone_file()
        };
        assert_eq!(
            lines(
                "{name: demo.example, priority: 7, weight: 20, ttl: 300, target: kms.demo.example, addresses: \
                 [192.0.2.1], manual: {}}"
            ),
            [
                "_vlmcs._tcp.demo.example. 300 IN SRV 7 20 4001 kms.demo.example.",
                "_vlmcs._tcp.demo.example. 300 IN SRV 7 20 4002 kms.demo.example.",
                "kms.demo.example. 300 IN A 127.0.0.1",
            ]
        );
        let elsewhere = lines("{name: demo.example, target: kms.example.net, manual: {}}");
        assert_eq!(
            elsewhere[0],
            "_vlmcs._tcp.demo.example. 3600 IN SRV 0 100 4001 kms-0.demo.example."
        );
    }
}
