//! Manifests in files: the documents that matter here, and what is wrong with them.

mod schema;

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kms_operator::api::OfficeKmsHost;
use kms_operator::secrets::Objects;

/// Largest manifest that is read, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// The text of a manifest; `-` is standard input.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut source: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
    };
    (&mut source)
        .take(LARGEST)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text)
}

/// The documents of a manifest that matter here.
#[derive(Default)]
pub struct Manifest {
    /// The resources.
    pub hosts: Vec<OfficeKmsHost>,
    /// Secrets and ConfigMaps.
    objects: Vec<Object>,
    /// What cannot be read, by document.
    pub problems: Vec<String>,
}

enum Object {
    Secret(Secret),
    ConfigMap(ConfigMap),
}

impl Manifest {
    /// Takes a text apart; documents of other kinds are passed over. A resource must be one that an API server would take by
    /// its CRD's fields, types and bounds.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut manifest = Self::default();
        let documents: Vec<serde_json::Value> = match serde_saphyr::from_multiple(text) {
            Ok(documents) => documents,
            Err(error) => {
                manifest.problems.push(format!("not YAML: {error}"));
                return manifest;
            }
        };
        for (at, document) in documents.into_iter().enumerate() {
            let kind = document
                .get("kind")
                .and_then(serde_json::Value::as_str)
                .unwrap_or_default()
                .to_owned();
            // A Secret's own error could show its content.
            let wrong = |why: String| format!("document {}: {kind}: {why}", at + 1);
            match kind.as_str() {
                "OfficeKmsHost" => match host(document) {
                    Ok(host) => manifest.hosts.push(host),
                    Err(problems) => manifest.problems.extend(problems.into_iter().map(wrong)),
                },
                "Secret" => match serde_json::from_value(document) {
                    Ok(secret) => manifest.objects.push(Object::Secret(secret)),
                    Err(_) => manifest
                        .problems
                        .push(wrong("is no Secret: its data must be base64".to_owned())),
                },
                "ConfigMap" => match serde_json::from_value(document) {
                    Ok(map) => manifest.objects.push(Object::ConfigMap(map)),
                    Err(error) => manifest.problems.push(wrong(error.to_string())),
                },
                _ => {}
            }
        }
        manifest
    }

    /// Secrets and ConfigMaps of a namespace.
    #[must_use]
    pub fn objects(&self, namespace: &str, default: &str) -> Objects {
        let mut objects = Objects::default();
        let here = |given: Option<&String>| given.map_or(default, String::as_str) == namespace;
        for object in &self.objects {
            match object {
                Object::Secret(secret) if here(secret.metadata.namespace.as_ref()) => {
                    objects.add_secret(secret.clone());
                }
                Object::ConfigMap(map) if here(map.metadata.namespace.as_ref()) => objects.add_config_map(map.clone()),
                _ => {}
            }
        }
        objects
    }
}

/// The resource that a document is, or everything that is wrong with it.
fn host(document: serde_json::Value) -> Result<OfficeKmsHost, Vec<String>> {
    let document = schema::without_nulls(document);
    let problems = schema::check(&document);
    if problems.is_empty() {
        serde_json::from_value(document).map_err(|error| vec![error.to_string()])
    } else {
        Err(problems.iter().map(ToString::to_string).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_one_that_an_api_server_would_take() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
        let mut read_of = 0;
        for folder in [examples.clone(), examples.join("manifests")] {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
                if !is_yaml {
                    continue;
                }
                let manifest = Manifest::parse(&read(&path).unwrap());
                assert_eq!(manifest.problems, Vec::<String>::new(), "{}", path.display());
                read_of += manifest.hosts.len();
            }
        }
        assert!(read_of >= 4, "{read_of}");
    }
}
