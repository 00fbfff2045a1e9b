//! How many replicas: a number, or an autoscaler's bounds.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Two: one may be drained or die while the other answers.
pub(super) fn default_replicas() -> i32 {
    2
}

/// Bounds and target of the HorizontalPodAutoscaler.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("self.minReplicas <= self.maxReplicas").message(
    "autoscaling.minReplicas must not be greater than maxReplicas"
))]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Fewest replicas.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 100))]
    pub min_replicas: i32,

    /// Most replicas.
    #[schemars(range(min = 1, max = 100))]
    pub max_replicas: i32,

    /// CPU use, in percent of the pods' CPU request, that the autoscaler holds. More than 100 where pods may use more than
    /// they request.
    #[serde(default = "default_cpu")]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_utilization_percentage: i32,
}

fn default_cpu() -> i32 {
    70
}
