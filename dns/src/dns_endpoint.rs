//! Publishing through external-dns: the `DNSEndpoint` object of its `crd` source. Pure; who has a cluster applies it.
//!
//! external-dns keeps its own TXT registry, so that our marks are not in the object. It must manage SRV records
//! (`--managed-record-types=SRV`), and a provider that reads SRV records back: its rfc2136 provider does not.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::names::plain;
use crate::records::{Data, Desired};

/// Group and version of the object.
pub const API_VERSION: &str = "externaldns.k8s.io/v1alpha1";
/// Kind of the object.
pub const KIND: &str = "DNSEndpoint";

/// The object for what is desired; `None` if that is nothing.
#[must_use]
pub fn dns_endpoint(
    name: &str,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    desired: &Desired,
) -> Option<Value> {
    let mut sets: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for entry in &desired.entries {
        let key = (plain(&entry.name), entry.data.kind().to_string());
        sets.entry(key).or_default().push(target(&entry.data));
    }
    let endpoints: Vec<Value> = sets
        .into_iter()
        .map(|((name, kind), targets)| {
            json!({
                "dnsName": name,
                "recordType": kind,
                "recordTTL": desired.ttl,
                "targets": targets,
            })
        })
        .collect();
    (!endpoints.is_empty()).then(|| {
        json!({
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "endpoints": endpoints },
        })
    })
}

/// A target as external-dns writes it: an SRV target needs its final dot (`NewSRVRecord` of its `endpoint` package).
fn target(data: &Data) -> String {
    match data {
        Data::Srv {
            priority,
            weight,
            port,
            target,
        } => format!("{priority} {weight} {port} {}.", plain(target)),
        Data::A(address) => address.to_string(),
        Data::Aaaa(address) => address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::ZoneName;
    use crate::records::Endpoint;

    #[test]
    fn srv_targets_end_in_a_dot_and_names_do_not() {
        let zone: ZoneName = "corp.example.com".parse().unwrap();
        let endpoint = Endpoint {
            target: "kms.corp.example.com".parse().unwrap(),
            addresses: [
                "192.0.2.1".parse().unwrap(),
                "192.0.2.2".parse().unwrap(),
                "2001:db8::1".parse().unwrap(),
            ]
            .into(),
            port: 1688,
            priority: 0,
            weight: 100,
        };
        let desired = Desired::new(zone.clone(), zone, "c1".parse().unwrap(), 300, &[endpoint]).unwrap();
        let object = dns_endpoint("kms", "office", &BTreeMap::new(), &desired).unwrap();
        assert_eq!(
            object["spec"]["endpoints"],
            json!([
                {"dnsName": "_vlmcs._tcp.corp.example.com", "recordType": "SRV", "recordTTL": 300,
                 "targets": ["0 100 1688 kms.corp.example.com."]},
                {"dnsName": "kms.corp.example.com", "recordType": "A", "recordTTL": 300,
                 "targets": ["192.0.2.1", "192.0.2.2"]},
                {"dnsName": "kms.corp.example.com", "recordType": "AAAA", "recordTTL": 300,
                 "targets": ["2001:db8::1"]},
            ])
        );
        assert!(dns_endpoint("kms", "office", &BTreeMap::new(), &desired.withdrawn()).is_none());
    }
}
