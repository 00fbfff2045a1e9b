//! Programs that nobody here wrote: finding them, and skipping a test by its name where one cannot be had.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A Python that can import `module`: the one that `OFFICEKMS_PYTHON` names, that of the workspace's `.venv`, or the
/// system's.
#[must_use]
pub fn python_with(module: &str) -> Option<PathBuf> {
    python_for(&format!("import {module}"))
}

/// A Python in which this statement succeeds, from the same places.
#[must_use]
pub fn python_for(statement: &str) -> Option<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/bin/python");
    let named = std::env::var_os("OFFICEKMS_PYTHON").map(PathBuf::from);
    named
        .into_iter()
        .chain([workspace, PathBuf::from("python3")])
        .find(|python| runs(Command::new(python).arg("-c").arg(statement)))
}

/// Whether `program` can be started at all; `probe` is an argument that makes it end at once.
#[must_use]
pub fn has(program: &str, probe: &str) -> bool {
    runs(Command::new(program).arg(probe))
}

/// Path of one of our scripts that drive a peer.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

/// Says that a test did not run, and why.
pub fn skipped(test: &str, why: &str) {
    println!("SKIPPED {test}: {why}");
}

/// Runs a scenario of `peers/impacket_client.py` against a server and returns what it saw.
///
/// # Errors
/// With what the script said, where it failed.
pub async fn impacket(python: &Path, server: SocketAddr, scenario: &str) -> Result<Value> {
    let output = tokio::process::Command::new(python)
        .arg(script("impacket_client.py"))
        .args([&server.port().to_string(), scenario])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{scenario}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("the script's answer is not JSON")
}

fn runs(command: &mut Command) -> bool {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
