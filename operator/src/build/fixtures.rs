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

/// Every resource of docs/examples with the names of its file and its own.
pub(crate) fn examples() -> Vec<(String, OfficeKmsHost)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let list = |folder: PathBuf| {
        fs::read_dir(folder)
            .expect("docs/examples exists")
            .map(|entry| entry.expect("an entry").path())
    };
    let mut files: Vec<PathBuf> = list(folder.clone()).chain(list(folder.join("manifests"))).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let mut examples = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("an example is text");
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).expect("an example is YAML");
        let stem = file
            .file_stem()
            .expect("a file has a name")
            .to_string_lossy()
            .into_owned();
        // Beside resources there are Secrets, and kms-host's own files.
        for document in documents
            .into_iter()
            .filter(|document| document["kind"] == "OfficeKmsHost")
        {
            let mut host: OfficeKmsHost = serde_json::from_value(document).expect("an example is of this API");
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
