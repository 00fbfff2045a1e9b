//! How many replicas, who decides it, and how many may be away at a time.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec, MetricTarget,
    ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;

use super::common::{Component, metadata, select};
use crate::api::OfficeKmsHost;

/// Replicas that the Deployment asks for: none while an autoscaler decides.
#[must_use]
pub fn replicas(host: &OfficeKmsHost) -> Option<i32> {
    host.spec.autoscaling.is_none().then_some(host.spec.replicas)
}

/// One replica may be away at a time for a drained node. Of a single replica it would keep the node from being drained, so
/// it has none. A replica that is not ready is never what keeps a node.
#[must_use]
pub fn disruption_budget(host: &OfficeKmsHost) -> Option<PodDisruptionBudget> {
    let most = host
        .spec
        .autoscaling
        .as_ref()
        .map_or(host.spec.replicas, |autoscaling| autoscaling.max_replicas);
    (most > 1).then(|| PodDisruptionBudget {
        metadata: metadata(host, host.name_any(), Component::Host),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(select(host, Component::Host)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}

/// The autoscaler that the spec asks for.
#[must_use]
pub fn autoscaler(host: &OfficeKmsHost) -> Option<HorizontalPodAutoscaler> {
    let autoscaling = host.spec.autoscaling.as_ref()?;
    let cpu = ResourceMetricSource {
        name: "cpu".to_owned(),
        target: MetricTarget {
            type_: "Utilization".to_owned(),
            average_utilization: Some(autoscaling.target_cpu_utilization_percentage),
            ..MetricTarget::default()
        },
    };
    Some(HorizontalPodAutoscaler {
        metadata: metadata(host, host.name_any(), Component::Host),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: host.name_any(),
            },
            min_replicas: Some(autoscaling.min_replicas),
            max_replicas: autoscaling.max_replicas,
            metrics: Some(vec![MetricSpec {
                type_: "Resource".to_owned(),
                resource: Some(cpu),
                ..MetricSpec::default()
            }]),
            ..HorizontalPodAutoscalerSpec::default()
        }),
        status: None,
    })
}
