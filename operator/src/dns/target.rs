//! Where clients are sent: follows the Service, or what the spec fixes.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
    fn without_an_address_there_is_nothing_to_publish_yet() {
        assert!(
            published(None, &[], &service(&[], &[]))
                .unwrap_err()
                .contains("load balancer")
        );
    }
}
