//! Resources that this version of the operator cannot read, as where the CRD of another version is installed: their status
//! says so. Nothing else is done for them, and what stands for them stays.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::Context;
use super::queue::Key;
use crate::apply::FIELD_MANAGER;
use crate::kinds::HOST;
use crate::status;

/// Tells it in the status, unless it is told there.
pub(super) async fn tell(context: Arc<Context>, key: Key, object: DynamicObject, why: String) {
    let stored = object.data.pointer("/status/conditions").cloned();
    let before: Vec<Condition> = stored
        .and_then(|stored| serde_json::from_value(stored).ok())
        .unwrap_or_default();
    let generation = object.metadata.generation;
    let conditions = status::unreadable(&before, &why, generation, Timestamp::now());
    let observed = object
        .data
        .pointer("/status/observedGeneration")
        .and_then(Value::as_i64);
    if observed == generation && conditions.iter().all(|wanted| before.contains(wanted)) {
        return;
    }
    // Only what is told here: rows that this version knows nothing of are left to the one that wrote them.
    let patch = json!({
        "metadata": {"uid": object.metadata.uid, "resourceVersion": object.metadata.resource_version},
        "status": {"observedGeneration": generation, "conditions": conditions},
    });
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &HOST.resource());
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match api.patch_status(&key.name, &params, &Patch::Merge(&patch)).await {
        Ok(_) => context.metrics.wrote(HOST.kind, "status"),
        // The watch shows what came of a conflict.
        Err(error) => {
            tracing::warn!(object.r#ref = %key, %error, "the status of an unreadable resource was not written");
        }
    }
}
