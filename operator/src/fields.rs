//! Whether a field manager still owns all that it applied, from `metadata.managedFields` alone. Pure.
//!
//! The API server takes a field from its managers as soon as somebody else changes or removes it. So an object has kept
//! what was applied as long as our entry still covers each field that we want: no value needs to be compared, no Secret
//! to be held, and `0.1` CPU equals `100m`. What the object had too much of is seen by a hash of the wish in an annotation.
//!
//! The form is that of structured-merge-diff's `FieldsV1`: `f:NAME` for a field, `k:{..}` for the element of a list with
//! these keys, `v:VALUE` for an element of a set, `.` for the thing itself, and `{}` for what is owned as a whole.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Map, Value};

/// What `manager` owns through server-side apply of the object itself.
#[must_use]
pub fn applied_by<'a>(entries: &'a [ManagedFieldsEntry], manager: &str) -> Option<&'a Value> {
    entries
        .iter()
        .find(|entry| {
            entry.manager.as_deref() == Some(manager)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        })
        .and_then(|entry| entry.fields_v1.as_ref())
        .map(|fields| &fields.0)
}

/// Whether `owned` covers all of `wanted` but what makes out which object it is.
#[must_use]
pub fn cover(owned: &Value, wanted: &Value) -> bool {
    let (Value::Object(owned), Value::Object(wanted)) = (owned, wanted) else {
        return false;
    };
    wanted.iter().all(|(name, value)| match name.as_str() {
        "apiVersion" | "kind" | "status" => true,
        "metadata" => {
            let fields = owned.get("f:metadata").and_then(Value::as_object);
            let metadata = value.as_object();
            metadata.into_iter().flatten().all(|(name, value)| match name.as_str() {
                "name" | "namespace" | "uid" | "resourceVersion" | "creationTimestamp" | "generation" => true,
                _ => fields.is_some_and(|fields| field(fields, name, value)),
            })
        }
        _ => field(owned, name, value),
    })
}

fn field(owned: &Map<String, Value>, name: &str, wanted: &Value) -> bool {
    // Null asks for nothing; the API server drops it.
    wanted.is_null()
        || owned
            .get(&format!("f:{name}"))
            .is_some_and(|owned| covers(owned, wanted))
}

fn covers(owned: &Value, wanted: &Value) -> bool {
    let Value::Object(owned) = owned else { return false };
    if owned.is_empty() {
        // Owned as a whole.
        return true;
    }
    match wanted {
        Value::Object(wanted) => wanted.iter().all(|(name, value)| field(owned, name, value)),
        Value::Array(wanted) => wanted.iter().all(|element| element_covered(owned, element)),
        _ => true,
    }
}

/// An element of a list whose elements are owned one by one.
fn element_covered(owned: &Map<String, Value>, element: &Value) -> bool {
    owned.iter().any(|(key, owned)| {
        if let Some(keys) = key.strip_prefix("k:") {
            let Ok(Value::Object(keys)) = serde_json::from_str(keys) else {
                return false;
            };
            // A key that we leave out has its default there, such as TCP.
            let same = keys
                .iter()
                .all(|(name, value)| element.get(name).is_none_or(|wanted| wanted == value));
            return same && covers(owned, element);
        }
        let Some(value) = key.strip_prefix("v:") else {
            return false;
        };
        serde_json::from_str::<Value>(value).is_ok_and(|value| value == *element)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What kube-apiserver 1.36 wrote for the object of [`wanted`].
    fn owned() -> Value {
        json!({
            "f:metadata": {
                "f:labels": {"f:app": {}},
                "f:ownerReferences": {"k:{\"uid\":\"u\"}": {}}
            },
            "f:spec": {
                "f:selector": {},
                "f:replicas": {},
                "f:template": {
                    "f:spec": {
                        "f:containers": {
                            "k:{\"name\":\"host\"}": {
                                ".": {}, "f:name": {}, "f:args": {},
                                "f:ports": {"k:{\"containerPort\":1688,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                                "f:resources": {"f:requests": {"f:cpu": {}}}
                            }
                        }
                    }
                }
            }
        })
    }

    fn wanted() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "kms", "namespace": "a", "labels": {"app": "kms"}, "ownerReferences": [{"uid": "u", "kind": "X"}]},
            "spec": {
                "selector": {"matchLabels": {"app": "kms"}},
                "replicas": 2,
                "template": {"spec": {"containers": [{
                    "name": "host", "args": ["run"], "ports": [{"containerPort": 1688}],
                    "resources": {"requests": {"cpu": "0.1"}}, "env": null
                }]}}
            }
        })
    }

    #[test]
    fn all_that_was_applied_is_covered() {
        assert!(cover(&owned(), &wanted()));
    }

    #[test]
    fn each_field_that_somebody_took_is_missed() {
        let taken = [
            "/f:metadata/f:labels/f:app",
            "/f:metadata/f:ownerReferences/k:{\"uid\":\"u\"}",
            "/f:spec/f:selector",
            "/f:spec/f:replicas",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"host\"}",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"host\"}/f:args",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"host\"}/f:resources/f:requests/f:cpu",
            "/f:spec/f:template/f:spec/f:containers/k:{\"name\":\"host\"}/f:ports/k:{\"containerPort\":1688,\"protocol\":\"TCP\"}",
        ];
        for path in taken {
            let mut left = owned();
            let mut path_left = path;
            while let Some((parent, name)) = path_left.rsplit_once('/') {
                let branch = left.pointer_mut(parent).and_then(Value::as_object_mut);
                let branch = branch.expect("a branch");
                branch.remove(name).expect("the field was there");
                // The API server leaves no empty branch behind.
                if branch.keys().any(|key| key != ".") {
                    break;
                }
                path_left = parent;
            }
            assert!(!cover(&left, &wanted()), "{path}");
        }
    }

    #[test]
    fn members_of_sets_are_told_apart() {
        let owned = json!({"f:metadata": {"f:finalizers": {".": {}, "v:\"a\"": {}}}});
        assert!(cover(&owned, &json!({"metadata": {"finalizers": ["a"]}})));
        assert!(!cover(&owned, &json!({"metadata": {"finalizers": ["b"]}})));
    }
}
