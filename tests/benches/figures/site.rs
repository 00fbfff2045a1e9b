//! The servers that figures are measured on: a rehearsal host that stands for a licensed host, and what is in front of it.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use system_tests::program::HostProcess;

/// One address sends all requests of a load.
pub(crate) const LIMITS: &str = "clients: {limits: {requestsPerMinutePerSource: 1000000, connectionsPerSource: 20000, \
                          idleTimeout: 10m}}\n";

/// A folder with the keys of a site.
#[derive(Debug)]
pub(crate) struct Keys(tempfile::TempDir);

impl Keys {
    /// Makes them.
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        fs::write(folder.path().join("site.key"), [5; 32])?;
        fs::write(folder.path().join("ledger.key"), [7; 32])?;
        Ok(Self(folder))
    }

    /// The file with the site key.
    pub(crate) fn site(&self) -> PathBuf {
        self.0.path().join("site.key")
    }

    /// The file with the ledger key.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.0.path().join("ledger.key")
    }

    /// Starts a rehearsal host that counts in memory.
    pub(crate) async fn rehearsal_host(&self) -> Result<HostProcess> {
        HostProcess::start(&format!(
            "name: upstream\nrehearsal: {{siteKeyFile: {}}}\n{LIMITS}",
            self.site().display()
        ))
        .await
    }
}

/// Starts a relay to these hosts; `more` is further configuration.
pub(crate) async fn relay(hosts: &[(&str, SocketAddr)], more: &str) -> Result<HostProcess> {
    let items: Vec<String> = hosts
        .iter()
        .map(|(name, address)| system_tests::program::item(name, *address))
        .collect();
    HostProcess::start(&format!(
        "name: relay\nrelay: {{licensedHosts: [{}]}}\n{LIMITS}{more}",
        items.join(", ")
    ))
    .await
}
