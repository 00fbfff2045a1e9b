//! Image archives: what is in them, and that the same inputs give the same bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use kms_operator::manifests::OPERATOR_IMAGE;
use kms_operator::settings::HOST_IMAGE;
use serde_json::Value;
use system_tests::helm::workspace;
use system_tests::peer::{has, skipped};

/// Runs `images/archive.py`.
fn archive(binary: &Path, file: &Path, certificates: &Path) -> Result<Output> {
    let output = Command::new("python3")
        .arg(workspace().join("images/archive.py"))
        .args([
            "registry.example.com:5000/officekms/kms-host:1.2.3".as_ref(),
            binary.as_os_str(),
            file.as_os_str(),
        ])
        .arg("--certificates")
        .arg(certificates)
        .args(["--label", "org.opencontainers.image.title=kms-host"])
        .env("SOURCE_DATE_EPOCH", "1700000000")
        .output()?;
    Ok(output)
}

/// A 64-bit ELF executable for x86-64 with one program header of this type: 1 is loaded, 3 asks for a dynamic loader.
fn elf(header: u8) -> Vec<u8> {
    let at = |offset: usize| match offset {
        0 => 0x7f,
        1 => b'E',
        2 => b'L',
        3 => b'F',
        4 | 16 => 2,     // 64 bits; an executable
        5 | 6 | 56 => 1, // little-endian; one program header,
        18 => 62,
        32 => 64, // which is here
        54 => 56, // and so long
        64 => header,
        _ => 0,
    };
    (0..120).map(at).collect()
}

/// Content of a tar by name, read by another program than the one that wrote it.
fn entries(tar: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(tar)
        .arg("-C")
        .arg(folder.path())
        .status()?;
    ensure!(unpacked.success(), "tar can't read {}", tar.display());
    let mut found = BTreeMap::new();
    let mut left = vec![folder.path().to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else {
            let name = path.strip_prefix(folder.path())?.display().to_string();
            found.insert(name, std::fs::read(&path)?);
        }
    }
    Ok(found)
}

#[test]
fn an_archive_is_an_image_layout_of_one_binary_for_a_numeric_user() {
    if !has("python3", "--version") || !has("tar", "--version") || !has("sha256sum", "--version") {
        return skipped(
            "an_archive_is_an_image_layout_of_one_binary_for_a_numeric_user",
            "python3 or tar is missing",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("binary"), elf(1)).unwrap();
    std::fs::write(at("bundle"), "authorities").unwrap();
    let said = archive(&at("binary"), &at("one.tar"), &at("bundle")).unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    archive(&at("binary"), &at("two.tar"), &at("bundle")).unwrap();
    assert_eq!(
        std::fs::read(at("one.tar")).unwrap(),
        std::fs::read(at("two.tar")).unwrap(),
        "not deterministic"
    );

    let files = entries(&at("one.tar")).unwrap();
    let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let name = digest.replace("sha256:", "blobs/sha256/");
        assert_eq!(descriptor["size"], files[&name].len(), "{name}");
        let path = at("blob");
        std::fs::write(&path, &files[&name]).unwrap();
        let sum = Command::new("sha256sum").arg(&path).output().unwrap().stdout;
        assert_eq!(digest, format!("sha256:{}", String::from_utf8_lossy(&sum[..64])));
        name
    };
    let index = json("index.json");
    let reference = &index["manifests"][0];
    assert_eq!(
        reference["digest"],
        String::from_utf8_lossy(&said.stdout).trim_end(),
        "the digest that was printed"
    );
    let name = "registry.example.com:5000/officekms/kms-host:1.2.3";
    assert_eq!(reference["annotations"]["io.containerd.image.name"], name);
    assert_eq!(json("manifest.json")[0]["RepoTags"][0], name, "for docker load");
    let manifest = json(&blob(reference));
    let config = json(&blob(&manifest["config"]));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], "/kms-host");
    assert_eq!(config["config"]["Labels"]["org.opencontainers.image.title"], "kms-host");
    assert_eq!(
        (&config["architecture"], &config["os"]),
        (&"amd64".into(), &"linux".into())
    );

    let packed = blob(&manifest["layers"][0]);
    std::fs::write(at("layer.tar.gz"), &files[&packed]).unwrap();
    let root = entries(&at("layer.tar.gz")).unwrap();
    let names: Vec<&String> = root.keys().collect();
    assert_eq!(names, ["etc/ssl/certs/ca-certificates.crt", "kms-host"]);
    assert_eq!(root["kms-host"], elf(1));
}

/// What `make images` builds is what the operator and the installation name.
#[test]
fn images_are_named_as_the_installation_names_them() {
    let script = std::fs::read_to_string(workspace().join("scripts/images")).unwrap();
    let repository = script
        .lines()
        .find_map(|line| line.strip_prefix("repository=${IMAGE_REPOSITORY:-"))
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap();
    let version = env!("CARGO_PKG_VERSION");
    for (name, image) in [("kms-host", HOST_IMAGE), ("kms-operator", OPERATOR_IMAGE)] {
        assert_eq!(image, format!("{repository}/{name}:{version}"));
    }
}

#[test]
fn a_binary_that_would_not_start_on_nothing_is_refused() {
    if !has("python3", "--version") {
        return skipped(
            "a_binary_that_would_not_start_on_nothing_is_refused",
            "python3 is missing",
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("bundle"), "").unwrap();
    for (content, why) in [(elf(3), "dynamic loader"), (b"#!/bin/sh\n".to_vec(), "no 64-bit")] {
        std::fs::write(at("binary"), content).unwrap();
        let said = archive(&at("binary"), &at("image.tar"), &at("bundle")).unwrap();
        assert!(!said.status.success());
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(error.contains(why), "{error}");
    }
}
