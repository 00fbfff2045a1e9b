//! The Service in front of the replicas, and the headless one of their admin endpoints.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kms_host::config::ADMIN_PORT;
use kube::ResourceExt as _;

use super::common::{Component, metadata, selector};
use super::{MANAGEMENT_PORT, names};
use crate::api::{self, OfficeKmsHost, ServiceType};

/// Name of the KMS port.
pub const KMS: &str = "kms";

/// Name of the admin port.
pub const ADMIN: &str = "admin";

/// Name of a rehearsal host's WS-Management port.
pub const MANAGEMENT: &str = "winrm";

/// The Service that clients reach.
#[must_use]
pub fn build(host: &OfficeKmsHost) -> Service {
    let spec = host.spec.service.clone().unwrap_or_default();
    let external = spec.type_ != ServiceType::ClusterIP;
    let balanced = spec.type_ == ServiceType::LoadBalancer;
    let mut metadata = metadata(host, host.name_any(), Component::Host);
    metadata.annotations = (!spec.annotations.is_empty()).then(|| spec.annotations.clone());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(spec.type_.as_str().to_owned()),
            selector: Some(selector(host, Component::Host)),
            ports: Some(ports(host, &spec)),
            ip_family_policy: Some(spec.ip_family_policy.as_str().to_owned()),
            external_traffic_policy: external.then(|| spec.external_traffic_policy.as_str().to_owned()),
            load_balancer_class: spec.class.filter(|_| balanced),
            load_balancer_source_ranges: spec
                .load_balancer_source_ranges
                .filter(|ranges| balanced && !ranges.is_empty()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn ports(host: &OfficeKmsHost, spec: &api::ServiceSpec) -> Vec<ServicePort> {
    let kms = ServicePort {
        node_port: spec.node_port.filter(|_| spec.type_ != ServiceType::ClusterIP),
        ..port(KMS, spec.port)
    };
    let managed = host
        .spec
        .rehearsal
        .as_ref()
        .and_then(|rehearsal| rehearsal.management_secret.as_ref());
    [Some(kms), managed.map(|_| port(MANAGEMENT, i32::from(MANAGEMENT_PORT)))]
        .into_iter()
        .flatten()
        .collect()
}

/// A Service without an address of its own whose name resolves to all replicas: their metrics and their state are asked one
/// by one. It keeps the admin endpoint off the Service that clients reach.
#[must_use]
pub fn build_admin(host: &OfficeKmsHost) -> Service {
    let policy = host
        .spec
        .service
        .as_ref()
        .map(|spec| spec.ip_family_policy)
        .unwrap_or_default();
    let mut metadata = metadata(host, names::admin(host), Component::Host);
    if let Some(labels) = &mut metadata.labels {
        labels.insert(ENDPOINT.to_owned(), ADMIN.to_owned());
    }
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector(host, Component::Host)),
            ports: Some(vec![port(ADMIN, i32::from(ADMIN_PORT))]),
            ip_family_policy: Some(policy.as_str().to_owned()),
            // A replica that is not ready has the more to tell.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Label by which a ServiceMonitor tells the admin Service from the one for clients.
pub(super) const ENDPOINT: &str = "officekms.io/endpoint";

/// A port that leads to the container's port of the same name.
pub(super) fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
