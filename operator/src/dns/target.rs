//! Where clients are sent: follows the Service, or what the spec fixes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use kms_dns::names::HostName;
use kms_dns::records::{Desired, Endpoint, OwnerId, RecordsError};

use super::settings::Zone;

/// What is known of the Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// IP addresses of its load balancer, of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// Host names of its load balancer.
    pub host_names: Vec<String>,
    /// Port that clients connect to.
    pub port: u16,
}

/// What a Service says of where clients reach it: its load balancer's addresses and names, and `externalIPs`.
#[must_use]
pub fn facts(service: &Service) -> ServiceFacts {
    let spec = service.spec.as_ref();
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = || status.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let external = spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let addresses = ingress().filter_map(|ingress| ingress.ip.as_ref()).chain(external);
    let port = spec.and_then(|spec| spec.ports.as_ref()?.first());
    // Behind a node's address it is the node's port that clients need.
    let by_node = spec.is_some_and(|spec| spec.type_.as_deref() == Some("NodePort"));
    let number = port.and_then(|port| port.node_port.filter(|_| by_node).or(Some(port.port)));
    ServiceFacts {
        addresses: addresses.filter_map(|address| address.parse().ok()).collect(),
        host_names: ingress().filter_map(|ingress| ingress.hostname.clone()).collect(),
        port: number.and_then(|port| u16::try_from(port).ok()).unwrap_or(1688),
    }
}

/// Where clients are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To these.
    Known(Vec<Endpoint>),
    /// Nowhere yet, and why.
    Waiting(String),
}

/// Decides for one zone; `name` is that of the resource, which is the first label of the target that we publish.
///
/// In this order: a name that the spec fixes (with the spec's addresses, if any), the spec's addresses, the load
/// balancer's addresses, the load balancer's host names.
#[must_use]
pub fn target(zone: &Zone, name: &str, service: &ServiceFacts) -> Target {
    let endpoint = |target: HostName, addresses: BTreeSet<IpAddr>| Endpoint {
        target,
        addresses,
        port: service.port,
        priority: zone.priority,
        weight: zone.weight,
    };
    if let Some(target) = &zone.target {
        return Target::Known(vec![endpoint(target.clone(), zone.addresses.clone())]);
    }
    let addresses = if zone.addresses.is_empty() {
        &service.addresses
    } else {
        &zone.addresses
    };
    if !addresses.is_empty() {
        return match HostName::within(name, &zone.name) {
            Ok(target) => Target::Known(vec![endpoint(target, addresses.clone())]),
            Err(error) => Target::Waiting(format!(
                "no target can be named after the resource ({error}); set `target`"
            )),
        };
    }
    let names: Result<Vec<HostName>, _> = service.host_names.iter().map(|name| name.parse()).collect();
    match names {
        Ok(names) if names.is_empty() => Target::Waiting(
            "the Service has no address outside of the cluster yet; wait for its load balancer, or set `target` or \
             `addresses`"
                .to_owned(),
        ),
        Ok(names) => Target::Known(names.into_iter().map(|name| endpoint(name, BTreeSet::new())).collect()),
        Err(error) => Target::Waiting(format!("the load balancer's name cannot be published: {error}")),
    }
}

/// The records for `endpoints`.
///
/// # Errors
/// When something cannot be published.
pub fn desired(zone: &Zone, owner: &OwnerId, endpoints: &[Endpoint]) -> Result<Desired, RecordsError> {
    Desired::new(zone.name.clone(), zone.apex.clone(), owner.clone(), zone.ttl, endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::settings::{check, tests::input};

    fn published(target_name: Option<&str>, addresses: &[&str], service: &ServiceFacts) -> Result<Vec<String>, String> {
        let mut input = input();
        input.target = target_name.map(str::to_owned);
        input.addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        let zone = check(0, &input).unwrap();
        match target(&zone, "kms", service) {
            Target::Known(endpoints) => Ok(desired(&zone, &"c1/kms".parse().unwrap(), &endpoints)
                .unwrap()
                .zone_file()),
            Target::Waiting(why) => Err(why),
        }
    }

    fn service(addresses: &[&str], host_names: &[&str]) -> ServiceFacts {
        ServiceFacts {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            host_names: host_names.iter().map(|&name| name.to_owned()).collect(),
            port: 1688,
        }
    }

    const SRV: &str = "_vlmcs._tcp.corp.example.com. 3600 IN SRV 0 100 1688";

    #[test]
    fn addresses_of_both_families_stand_at_our_name() {
        assert_eq!(
            published(None, &[], &service(&["192.0.2.1", "2001:db8::1"], &[])).unwrap(),
            [
                &format!("{SRV} kms.corp.example.com."),
                "kms.corp.example.com. 3600 IN A 192.0.2.1",
                "kms.corp.example.com. 3600 IN AAAA 2001:db8::1",
            ]
        );
    }

    #[test]
    fn a_load_balancer_s_name_is_pointed_at_and_what_the_spec_fixes_goes_first() {
        let balancer = service(&[], &["LB-1.cloud.example."]);
        assert_eq!(
            published(None, &[], &balancer).unwrap(),
            [format!("{SRV} lb-1.cloud.example.")]
        );
        let both = service(&["192.0.2.1"], &["lb-1.cloud.example"]);
        assert_eq!(
            published(Some("kms.example.net"), &[], &both).unwrap(),
            [format!("{SRV} kms.example.net.")]
        );
        let fixed = published(None, &["198.51.100.7"], &both).unwrap();
        assert_eq!(fixed[1], "kms.corp.example.com. 3600 IN A 198.51.100.7");
    }

    #[test]
    fn the_service_says_where_clients_reach_it() {
        let service = |yaml: &str| facts(&serde_saphyr::from_str(yaml).unwrap());
        let balancer = service(
            "{spec: {type: LoadBalancer, ports: [{port: 1688, nodePort: 31000}]}, status: {loadBalancer: {ingress: [{ip: \
             192.0.2.1}, {ip: '2001:db8::1'}, {hostname: lb.example}]}}}",
        );
        assert_eq!(balancer.addresses.len(), 2);
        assert_eq!(
            (balancer.host_names.as_slice(), balancer.port),
            (["lb.example".to_owned()].as_slice(), 1688)
        );
        let node =
            service("{spec: {type: NodePort, ports: [{port: 1688, nodePort: 31000}], externalIPs: [192.0.2.9]}}");
        assert_eq!((node.addresses.len(), node.port), (1, 31_000));
    }

    #[test]
    fn without_an_address_there_is_nothing_to_publish_yet() {
        assert!(
            published(None, &[], &service(&[], &[]))
                .unwrap_err()
                .contains("load balancer")
        );
    }
}
