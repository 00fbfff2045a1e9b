//! Samba's RPC server (`samba-dcerpcd`), alone, with all its state in a directory of its own.
//!
//! It listens on port 135 of a loopback address that is this process's alone, so tests may run side by side.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::replica::eventually;

const PROGRAM: &str = "/usr/libexec/samba/samba-dcerpcd";

/// A running Samba. Dropped, it is killed.
pub struct Samba {
    /// Its endpoint mapper, interface e1af8308-5d1f-11c9-91a4-08002b14a0fa version 3.0.
    pub endpoint_mapper: SocketAddr,
    _server: Child,
    _state: tempfile::TempDir,
}

/// Why Samba cannot be had here, if it cannot.
pub fn missing() -> Option<&'static str> {
    if !Path::new(PROGRAM).exists() {
        return Some("samba-dcerpcd is not installed (Debian package samba)");
    }
    TcpListener::bind((address(), 135))
        .is_err()
        .then_some("port 135 may not be bound here")
}

/// A loopback address by process.
fn address() -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 77, high, low.clamp(1, 254))
}

impl Samba {
    /// Starts Samba and waits until its endpoint mapper listens.
    pub async fn start() -> Result<Self> {
        let state = tempfile::tempdir()?;
        let directory = state.path().display();
        let mut config = format!(
            "[global]\nworkgroup = TEST\nnetbios name = STANDIN\nserver role = standalone server\n\
             interfaces = {}/8\nbind interfaces only = yes\nrpc start on demand helpers = false\n\
             disable spoolss = yes\nlog file = {directory}/log\n",
            address(),
        );
        for name in [
            "private dir",
            "lock directory",
            "state directory",
            "cache directory",
            "pid directory",
            "ncalrpc dir",
        ] {
            let path = state.path().join(name.replace(' ', "-"));
            fs::create_dir(&path)?;
            config.push_str(&format!("{name} = {}\n", path.display()));
        }
        let file = state.path().join("smb.conf");
        fs::write(&file, config)?;
        let mut server = Command::new(PROGRAM)
            .args([
                "--libexec-rpcds",
                "--foreground",
                "--no-process-group",
                "--debug-stdout",
                "--configfile",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(fs::File::create(state.path().join("out"))?)
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("samba-dcerpcd starts")?;
        let endpoint_mapper = SocketAddr::from((address(), 135));
        eventually("Samba's endpoint mapper listens", async || {
            TcpStream::connect(endpoint_mapper).await.is_ok()
        })
        .await?;
        ensure!(
            server.try_wait()?.is_none(),
            "samba-dcerpcd ended: {}",
            fs::read_to_string(state.path().join("out"))?
        );
        Ok(Self {
            endpoint_mapper,
            _server: server,
            _state: state,
        })
    }
}
