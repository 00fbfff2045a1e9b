//! The CRD as YAML, generated from [`crate::api`] and never edited by hand.

#[cfg(test)]
mod reference;

use kube::CustomResourceExt;

use crate::api::OfficeKmsHost;

/// The CustomResourceDefinition in YAML, with a first line that says where it comes from.
///
/// # Errors
/// When the definition can't be written as YAML, which its test excludes.
pub fn yaml() -> Result<String, serde_saphyr::SerializeError> {
    let definition = serde_saphyr::to_string(&OfficeKmsHost::crd())?;
    Ok(format!(
        "# Generated from operator/src/api; a test fails when it differs.\n{definition}"
    ))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use serde_json::Value;

    use super::*;

    /// Set `UPDATE_GENERATED=1` to write the file anew.
    #[test]
    fn the_file_in_crds_is_what_the_code_generates() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/officekms.io_officekmshosts.yaml");
        let generated = yaml().expect("a CRD is YAML");
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            fs::write(&path, &generated).expect("crds/ can be written");
        }
        let stored = fs::read_to_string(&path).expect("crds/ holds the CRD");
        assert!(
            stored == generated,
            "crds/ differs from operator/src/api: run this test with UPDATE_GENERATED=1"
        );
        assert!(
            generated.len() < 256 * 1024,
            "client-side kubectl apply stores the whole CRD in an annotation"
        );
        assert!(!generated.contains("format: uint"), "API servers know no uint formats");
    }

    /// Types of Kubernetes itself, which it bounds where it uses them, and its count of generations.
    const OF_KUBERNETES: [&str; 8] = [
        ".spec.ledger.managed.resources",
        ".spec.ledger.managed.tolerations[]",
        ".spec.pod.affinity",
        ".spec.pod.resources",
        ".spec.pod.tolerations[]",
        ".spec.pod.topologySpreadConstraints[]",
        ".status.conditions[]",
        ".status.observedGeneration",
    ];

    /// What has no bound below a schema.
    fn unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
        if OF_KUBERNETES.contains(&path) {
            return;
        }
        let has = |key: &str| schema.get(key).is_some();
        let bounded = match schema.get("type").and_then(Value::as_str) {
            Some("string") => has("maxLength") || has("enum") || has("format"),
            Some("integer" | "number") => has("minimum") && has("maximum"),
            Some("array") => has("maxItems"),
            Some("object") => !has("additionalProperties") || has("maxProperties"),
            _ => true,
        };
        if !bounded {
            found.push(path.to_owned());
        }
        for (name, field) in schema
            .get("properties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            unbounded(field, &format!("{path}.{name}"), found);
        }
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(each) = schema.get(key) {
                unbounded(each, &format!("{path}{mark}"), found);
            }
        }
    }

    #[test]
    fn everything_of_our_own_has_bounds() {
        let crd = serde_json::to_value(OfficeKmsHost::crd()).expect("JSON");
        let mut found = Vec::new();
        for part in ["spec", "status"] {
            let path = format!("/spec/versions/0/schema/openAPIV3Schema/properties/{part}");
            unbounded(crd.pointer(&path).expect("a schema"), &format!(".{part}"), &mut found);
        }
        assert_eq!(found, Vec::<String>::new(), "without bounds");
    }

    #[test]
    fn a_resource_that_nobody_has_looked_at_is_of_no_generation() {
        let crd = serde_json::to_value(OfficeKmsHost::crd()).expect("JSON");
        let default = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/status/default");
        assert_eq!(default, Some(&serde_json::json!({"observedGeneration": -1})));
    }

    #[test]
    fn the_example_manifests_are_of_this_api() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
        let mut paths = vec![examples.join("demo.yaml")];
        let folder = fs::read_dir(examples.join("manifests")).expect("docs/examples/manifests exists");
        paths.extend(folder.map(|entry| entry.expect("a folder's entry can be read").path()));
        let mut read = 0;
        for path in paths {
            let text = fs::read_to_string(&path).expect("an example is text");
            let hosts: Vec<OfficeKmsHost> =
                serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for host in hosts {
                assert!(
                    host.spec.licensed_hosts.is_some() != host.spec.rehearsal.is_some(),
                    "{}",
                    path.display()
                );
                read += 1;
            }
        }
        assert_eq!(read, 4);
    }
}
