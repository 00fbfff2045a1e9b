//! The Service in front of the replicas.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::licensed_hosts::kms_port;

/// The Service. Without this section it is a ClusterIP Service on port 1688.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.type != 'LoadBalancer' || self.acceptPublic || (has(self.loadBalancerSourceRanges) && size(self.loadBalancerSourceRanges) > 0 && self.loadBalancerSourceRanges.all(c, !c.endsWith('/0')))").message(
        "a LoadBalancer may be reachable from the internet: list your networks in loadBalancerSourceRanges (no /0), or set acceptPublic: true if something else keeps strangers out"
    ),
    validation = Rule::new("!has(self.nodePort) || self.type != 'ClusterIP'").message(
        "nodePort needs type NodePort or LoadBalancer"
    ),
    validation = Rule::new("self.type == 'LoadBalancer' || (!has(self.class) && !has(self.loadBalancerSourceRanges))").message(
        "class and loadBalancerSourceRanges need type LoadBalancer"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP` (default), `NodePort` or `LoadBalancer`.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// TCP port of the Service.
    #[serde(default = "kms_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Port on every node, for NodePort and LoadBalancer. Default: the cluster chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,

    /// Load balancer class, where a cluster has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class: Option<String>,

    /// Networks (CIDR) that the load balancer lets in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 128),
        inner(length(min = 3, max = 49), regex(pattern = "^[0-9a-fA-F.:]+/[0-9]+$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub load_balancer_source_ranges: Option<Vec<String>>,

    /// Accepts a load balancer without source ranges.
    #[serde(default)]
    pub accept_public: bool,

    /// Annotations of the Service, for the load balancer's controller.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "additionalProperties" = {"type": "string", "maxLength": 16384}))]
    pub annotations: BTreeMap<String, String>,

    /// `Local` (default) keeps the clients' addresses, on which limits and routing rest; `Cluster` spreads over nodes
    /// without a replica too. For NodePort and LoadBalancer.
    #[serde(default)]
    pub external_traffic_policy: TrafficPolicy,

    /// `SingleStack`, `PreferDualStack` (default) or `RequireDualStack`.
    #[serde(default)]
    pub ip_family_policy: IpFamilyPolicy,
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self {
            type_: ServiceType::default(),
            port: kms_port(),
            node_port: None,
            class: None,
            load_balancer_source_ranges: None,
            accept_public: false,
            annotations: BTreeMap::new(),
            external_traffic_policy: TrafficPolicy::default(),
            ip_family_policy: IpFamilyPolicy::default(),
        }
    }
}

/// Type of the Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Within the cluster, or routed to by a gateway.
    #[default]
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// Behind a load balancer.
    LoadBalancer,
}

impl ServiceType {
    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// External traffic policy of the Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Only to replicas of the receiving node; the client's address is kept.
    #[default]
    Local,
    /// To any replica; the client's address is lost.
    Cluster,
}

impl TrafficPolicy {
    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Cluster => "Cluster",
        }
    }
}

/// IP families of the Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpFamilyPolicy {
    /// One family.
    SingleStack,
    /// Both, where the cluster has both.
    #[default]
    PreferDualStack,
    /// Both, or an error.
    RequireDualStack,
}

impl IpFamilyPolicy {
    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SingleStack => "SingleStack",
            Self::PreferDualStack => "PreferDualStack",
            Self::RequireDualStack => "RequireDualStack",
        }
    }
}
