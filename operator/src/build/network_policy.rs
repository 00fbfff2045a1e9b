//! The replicas' NetworkPolicy: nothing but their ports is reachable.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::common::{Component, metadata, select};
use super::service::{ADMIN, KMS, MANAGEMENT};
use crate::api::OfficeKmsHost;

/// The NetworkPolicy, unless the spec refuses it.
///
/// Which clients are answered is decided by the replicas, which see through load balancers and PROXY headers: the KMS port
/// is open here. The admin port is for operators and for the pods of the namespaces that the spec names, of all when it names
/// none. Where replicas connect to is left alone: licensed hosts are named by DNS, which a NetworkPolicy can't express.
#[must_use]
pub fn build(host: &OfficeKmsHost) -> Option<NetworkPolicy> {
    let wanted = host.spec.pod.as_ref().is_none_or(|pod| pod.network_policy);
    let managed = host
        .spec
        .rehearsal
        .as_ref()
        .is_some_and(|rehearsal| rehearsal.management_secret.is_some());
    let mut open = vec![tcp(KMS)];
    open.extend(managed.then(|| tcp(MANAGEMENT)));
    wanted.then(|| NetworkPolicy {
        metadata: metadata(host, host.name_any(), Component::Host),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(host, Component::Host)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(open),
                },
                NetworkPolicyIngressRule {
                    from: Some(of_admin(host)),
                    ports: Some(vec![tcp(ADMIN)]),
                },
            ]),
            egress: None,
        }),
    })
}

/// Who may reach the admin port.
fn of_admin(host: &OfficeKmsHost) -> Vec<NetworkPolicyPeer> {
    let namespaces = host.spec.monitoring.as_ref().map(|monitoring| &monitoring.namespaces);
    match namespaces.filter(|namespaces| !namespaces.is_empty()) {
        None => vec![NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            ..NetworkPolicyPeer::default()
        }],
        Some(namespaces) => vec![
            operators(),
            NetworkPolicyPeer {
                namespace_selector: Some(LabelSelector {
                    match_labels: None,
                    match_expressions: Some(vec![LabelSelectorRequirement {
                        key: "kubernetes.io/metadata.name".to_owned(),
                        operator: "In".to_owned(),
                        values: Some(namespaces.clone()),
                    }]),
                }),
                ..NetworkPolicyPeer::default()
            },
        ],
    }
}

/// Operators, wherever they run.
pub(super) fn operators() -> NetworkPolicyPeer {
    let label = ("app.kubernetes.io/name".to_owned(), "kms-operator".to_owned());
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_labels: Some([label].into()),
            match_expressions: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}

/// A TCP port by its name.
pub(super) fn tcp(port: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(port.to_owned())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}
