//! What our status needs of a child's content, and nothing else of it. Pure.

use k8s_openapi::api::core::v1::Service as ServiceObject;
use serde_json::Value;

use crate::kinds::ChildKind;

/// What is kept of a child that is watched as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Facts {
    /// Nothing.
    #[default]
    None,
    /// Of a Deployment or StatefulSet.
    Workload(Workload),
    /// Of a Service.
    Service(Service),
}

/// How far a workload is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workload {
    /// Pods wanted.
    pub wanted: i32,
    /// Generation that its controller has seen.
    pub observed_generation: i64,
    /// Pods that exist.
    pub replicas: i32,
    /// Pods of the newest revision.
    pub updated: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Why its controller gave up, or cannot make pods.
    pub stuck: Option<String>,
}

/// Where a Service answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    /// Addresses inside the cluster.
    pub cluster: Vec<String>,
    /// Addresses of its load balancer.
    pub balancer: Vec<String>,
    /// Whether it is to have a load balancer.
    pub balanced: bool,
    /// Port for clients.
    pub port: i32,
    /// The object without its metadata, for DNS.
    pub object: Box<ServiceObject>,
}

impl Facts {
    /// Of an object of a kind.
    #[must_use]
    pub fn of(kind: &ChildKind, object: &Value) -> Self {
        match kind.kind {
            "Deployment" | "StatefulSet" => Self::Workload(workload(object)),
            "Service" => Self::Service(service(object)),
            _ => Self::None,
        }
    }
}

fn number(object: &Value, path: &str) -> Option<i64> {
    object.pointer(path).and_then(Value::as_i64)
}

fn small(object: &Value, path: &str) -> i32 {
    number(object, path)
        .and_then(|number| i32::try_from(number).ok())
        .unwrap_or_default()
}

fn workload(object: &Value) -> Workload {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let stuck = conditions.into_iter().flatten().find_map(|condition| {
        let text = |name: &str| condition.get(name).and_then(Value::as_str).unwrap_or_default();
        let bad = matches!(
            (text("type"), text("status")),
            ("Progressing", "False") | ("ReplicaFailure", "True")
        );
        bad.then(|| format!("{}: {}", text("reason"), text("message")))
    });
    Workload {
        wanted: number(object, "/spec/replicas")
            .and_then(|n| i32::try_from(n).ok())
            .unwrap_or(1),
        observed_generation: number(object, "/status/observedGeneration").unwrap_or_default(),
        replicas: small(object, "/status/replicas"),
        updated: small(object, "/status/updatedReplicas"),
        ready: small(object, "/status/readyReplicas"),
        stuck,
    }
}

fn service(object: &Value) -> Service {
    let list = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let ports = list("/spec/ports");
    let port = ports
        .iter()
        .find(|port| port.get("name").and_then(Value::as_str) == Some("kms"))
        .or(ports.first());
    Service {
        cluster: list("/spec/clusterIPs")
            .iter()
            .filter_map(text)
            .filter(|ip| ip != "None")
            .collect(),
        balancer: list("/status/loadBalancer/ingress")
            .iter()
            .filter_map(|ingress| ingress.get("ip").or(ingress.get("hostname")).and_then(text))
            .collect(),
        balanced: object.pointer("/spec/type").and_then(Value::as_str) == Some("LoadBalancer"),
        port: port.map(|port| small(port, "/port")).unwrap_or_default(),
        object: serde_json::from_value(object.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::KINDS;

    fn kind(name: &str) -> &'static ChildKind {
        KINDS.iter().find(|kind| kind.kind == name).expect("a kind")
    }

    #[test]
    fn a_deployment_that_cannot_go_on_says_why() {
        let object = json!({"spec": {"replicas": 3}, "status": {"observedGeneration": 2, "replicas": 3, "readyReplicas": 1,
            "conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too long"}]}});
        let Facts::Workload(workload) = Facts::of(kind("Deployment"), &object) else {
            panic!("a workload")
        };
        assert_eq!(
            (workload.wanted, workload.ready, workload.observed_generation),
            (3, 1, 2)
        );
        assert_eq!(workload.stuck.as_deref(), Some("ProgressDeadlineExceeded: too long"));
    }

    #[test]
    fn a_service_has_addresses_inside_and_outside() {
        let object = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "ports": [{"port": 8080}, {"name": "kms", "port": 1688}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}]}}});
        let Facts::Service(service) = Facts::of(kind("Service"), &object) else {
            panic!("a service")
        };
        assert_eq!(service.cluster, ["10.0.0.1"]);
        assert_eq!(service.balancer, ["192.0.2.1", "lb.example.com"]);
        assert_eq!((service.port, service.balanced), (1688, true));
    }
}
