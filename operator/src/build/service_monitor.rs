//! The ServiceMonitor of the Prometheus Operator, whose types Kubernetes itself does not have.

use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::common::{Component, INSTANCE, metadata, selector, with};
use super::service::{ADMIN, ENDPOINT};
use crate::api::OfficeKmsHost;

/// The ServiceMonitor, if the spec asks for one.
#[must_use]
pub fn build(host: &OfficeKmsHost) -> Option<Value> {
    let wanted = host.spec.monitoring.as_ref()?.service_monitor.as_ref()?;
    let mut metadata = metadata(host, host.name_any(), Component::Host);
    metadata.labels = metadata.labels.map(|own| with(&wanted.labels, own));
    let mut labels = selector(host, Component::Host);
    labels.insert(ENDPOINT.to_owned(), ADMIN.to_owned());
    Some(json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": metadata,
        "spec": {
            // `job` is the resource: alerts name it.
            "jobLabel": INSTANCE,
            "selector": {"matchLabels": labels},
            "endpoints": [{"port": ADMIN, "path": "/metrics", "interval": wanted.interval}],
        },
    }))
}
