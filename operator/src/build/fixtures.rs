//! Resources for tests.

use std::fs;
use std::path::{Path, PathBuf};

use crate::api::OfficeKmsHost;

/// `kms` in namespace `licensing`, as an API server would hand it out.
pub(crate) fn host(spec: serde_json::Value) -> OfficeKmsHost {
    let resource = serde_json::json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": "kms", "namespace": "licensing", "uid": "1d3c5b7a-0000-4000-8000-000000000001", "generation": 1},
        "spec": spec,
    });
    serde_json::from_value(resource).expect("a resource")
}

/// Every resource of docs/examples with its file's name.
pub(crate) fn examples() -> Vec<(String, OfficeKmsHost)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let mut files: Vec<PathBuf> = vec![folder.join("demo.yaml")];
    let manifests = fs::read_dir(folder.join("manifests")).expect("docs/examples/manifests exists");
    files.extend(manifests.map(|entry| entry.expect("an entry").path()));
    files.sort();
    let mut examples = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("an example is text");
        let hosts: Vec<OfficeKmsHost> = serde_saphyr::from_multiple(&text).expect("an example is of this API");
        let stem = file
            .file_stem()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        for mut host in hosts {
            host.metadata.namespace.get_or_insert_with(|| "licensing".to_owned());
            host.metadata.uid = Some("1d3c5b7a-0000-4000-8000-000000000001".to_owned());
            examples.push((
                format!("{stem}-{}", host.metadata.name.clone().unwrap_or_default()),
                host,
            ));
        }
    }
    examples
}
