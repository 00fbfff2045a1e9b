//! HAProxy in `mode tcp` in front of one server.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::program::{Process, free_port};
use crate::replica::eventually;

/// A running HAProxy. Dropped, it is killed.
#[derive(Debug)]
pub struct HaProxy {
    /// Where it listens.
    pub address: SocketAddr,
    commands: PathBuf,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl HaProxy {
    /// Why it can't be had here, if so.
    #[must_use]
    pub fn missing() -> Option<String> {
        let found = Command::new("haproxy").arg("-v").output().is_ok();
        (!found).then(|| "haproxy is not installed".to_owned())
    }

    /// Its version, as it says itself.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn version() -> Result<String> {
        let output = Command::new("haproxy").arg("-v").output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        Ok(printed.split_whitespace().nth(2).unwrap_or("unknown").to_owned())
    }

    /// Starts it. Threads are its default, one for each core; nothing is logged.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub async fn before(server: SocketAddr) -> Result<Self> {
        Self::start(server, "", "").await
    }

    /// Starts it with options of its `server` line, such as `send-proxy`, and further lines of its `backend`.
    ///
    /// # Errors
    /// When it does not come to listen.
    pub async fn start(server: SocketAddr, options: &str, backend: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let (file, commands) = (folder.path().join("haproxy.cfg"), folder.path().join("commands"));
        fs::write(
            &file,
            format!(
                "global\n  maxconn 2000\n  stats socket {}\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                 timeout client 60s\n  timeout server 60s\nfrontend clients\n  bind {address}\n  default_backend hosts\n\
                 backend hosts\n  server host {server} {options}\n{backend}",
                commands.display()
            ),
        )?;
        let log = folder.path().join("log");
        let process = Process::start(Command::new("haproxy").arg("-db").arg("-f").arg(&file), &log)?;
        wait_for(address, &log).await?;
        Ok(Self {
            address,
            commands,
            _process: process,
            _folder: folder,
        })
    }

    /// What its last health check of the server found: `L4OK`, `L7OK`, `L7TOUT` and the like; empty while there was none.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn check(&self) -> Result<String> {
        let mut stream = UnixStream::connect(&self.commands).await?;
        stream.write_all(b"show stat hosts 4 -1\n").await?;
        let mut table = String::new();
        stream.read_to_string(&mut table).await?;
        let mut lines = table.trim_start_matches("# ").lines();
        let column = lines
            .next()
            .and_then(|names| names.split(',').position(|name| name == "check_status"));
        let value = lines
            .next()
            .zip(column)
            .and_then(|(row, column)| row.split(',').nth(column));
        Ok(value.with_context(|| format!("no check in: {table}"))?.to_owned())
    }
}

async fn wait_for(address: SocketAddr, log: &Path) -> Result<()> {
    let listens = async || TcpStream::connect(address).await.is_ok();
    if let Err(error) = eventually("HAProxy listens", listens).await {
        bail!("{error}: {}", fs::read_to_string(log).context("its log")?);
    }
    Ok(())
}
