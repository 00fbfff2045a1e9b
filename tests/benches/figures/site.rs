//! The servers that figures are measured on: a rehearsal host that stands for a licensed host, and what is in front of it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use system_tests::program::{HostProcess, Process, free_port};
use system_tests::replica::eventually;
use tokio::net::TcpStream;

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

/// HAProxy in `mode tcp` in front of one server.
#[derive(Debug)]
pub(crate) struct HaProxy {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    /// Why it can't be had here, if so.
    pub(crate) fn missing() -> Option<String> {
        let found = Command::new("haproxy").arg("-v").output().is_ok();
        (!found).then(|| "haproxy is not installed".to_owned())
    }

    /// Its version, as it says itself.
    pub(crate) fn version() -> Result<String> {
        let output = Command::new("haproxy").arg("-v").output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        Ok(printed.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }

    /// Starts it. Threads are its default, one for each core; nothing is logged.
    pub(crate) async fn before(server: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let file = folder.path().join("haproxy.cfg");
        fs::write(
            &file,
            format!(
                "global\n  maxconn 20000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  \
                 timeout server 60s\nfrontend clients\n  bind {address}\n  default_backend hosts\nbackend hosts\n  \
                 server host {server}\n"
            ),
        )?;
        let log = folder.path().join("log");
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file), &log)?;
        wait_for(address, &log).await?;
        Ok(Self {
            address,
            _process: process,
            _folder: folder,
        })
    }
}

async fn wait_for(address: SocketAddr, log: &Path) -> Result<()> {
    let listens = async || TcpStream::connect(address).await.is_ok();
    if let Err(error) = eventually("the server listens", listens).await {
        bail!("{error}: {}", fs::read_to_string(log).context("its log")?);
    }
    Ok(())
}
