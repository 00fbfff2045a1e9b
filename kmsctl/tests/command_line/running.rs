//! A `kmsctl up` for tests, and commands beside it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The program.
pub(crate) const KMSCTL: &str = env!("CARGO_BIN_EXE_kmsctl");

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A manifest of docs/examples.
pub(crate) fn example(name: &str) -> PathBuf {
    workspace().join("docs/examples").join(name)
}

/// Runs a command on its own.
pub(crate) fn kmsctl(arguments: &[&str]) -> Result<Output> {
    let nothing_runs = tempfile::tempdir()?;
    let mut command = Command::new(KMSCTL);
    command.args(arguments).env("OFFICEKMS_STATE_DIR", nothing_runs.path());
    Ok(command.output()?)
}

/// A `kmsctl up` that runs until dropped.
pub(crate) struct Up {
    /// Its process.
    pub(crate) process: Child,
    /// Its --state-dir.
    pub(crate) state: tempfile::TempDir,
    /// What it printed until it was ready.
    pub(crate) told: String,
}

impl Up {
    /// Starts it, and reads on until it is ready.
    pub(crate) fn start(manifest: &Path, arguments: &[&str]) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let mut process = Command::new(KMSCTL)
            .arg("up")
            .arg("-f")
            .arg(manifest)
            .arg("--state-dir")
            .arg(state.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("output")?).lines();
        let mut told = String::new();
        loop {
            let Some(line) = lines.next().transpose()? else {
                let status = process.wait()?;
                bail!("kmsctl up ended with {status}:\n{told}");
            };
            told += &line;
            told.push('\n');
            if line.starts_with("Running until interrupted") {
                break;
            }
        }
        // The rest is read too, so that it can be written.
        std::thread::spawn(move || lines.count());
        Ok(Self { process, state, told })
    }

    /// Runs another command beside it.
    pub(crate) fn beside(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(KMSCTL);
        command.args(arguments).env("OFFICEKMS_STATE_DIR", self.state.path());
        Ok(command.current_dir(workspace()).output()?)
    }

    /// The JSON that another command prints, and its exit code.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
        let output = self.beside(&[arguments, &["-o", "json"]].concat())?;
        let value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok((value, output.status.code()))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
