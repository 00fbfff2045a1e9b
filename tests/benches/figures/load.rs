//! The load: `kmsctl load` as a process of its own, the same for every server.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use kmsctl::load::Report;
use system_tests::program;
use tokio::process::Command;

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u16,
    pub(crate) seconds: u64,
    pub(crate) warm_up: u64,
    /// Requests in a second over all connections; as many as are answered without it.
    pub(crate) rate: Option<u32>,
}

impl Load {
    /// Asks a server, every request over a new connection and all from the one address that the system chooses.
    pub(crate) async fn on(&self, server: SocketAddr, site_key: &Path) -> Result<Report> {
        let mut command = Command::new(program::path("kmsctl")?);
        command
            .args(["load", "--host", &server.to_string(), "-o", "json"])
            .args(["--sources", "system"])
            .args(["--connections", &self.connections.to_string()])
            .args(["--seconds", &self.seconds.to_string()])
            .args(["--warm-up", &self.warm_up.to_string()])
            .arg("--machines")
            .arg(u32::from(self.connections).max(50).to_string())
            .arg("--site-key-file")
            .arg(site_key)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        let output = command.output().await?;
        let report: Report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("kmsctl load: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok(report)
    }

    /// The same, where no request may fail or be refused: a refusal costs a host less than what it is measured at.
    pub(crate) async fn without_errors(&self, server: SocketAddr, site_key: &Path) -> Result<Report> {
        let report = self.on(server, site_key).await?;
        ensure!(report.errors.is_empty(), "requests failed: {:?}", report.errors);
        ensure!(report.refused.is_empty(), "requests were refused: {:?}", report.refused);
        Ok(report)
    }
}
