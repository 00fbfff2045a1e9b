//! Authoritative name servers that take signed updates: BIND, Knot and PowerDNS, each with its state in a directory of its
//! own and on a free loopback port.

mod bind;
mod knot;
mod pdns;
mod proxy;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::{Child, Command};

pub use proxy::Proxy;

use crate::peer;
use crate::replica::eventually;

/// Name of the key that servers know.
pub const KEY: &str = "officekms";
/// Its secret in base64.
pub const SECRET: &str = "bm90IGEgc2VjcmV0IGF0IGFsbCwgb25seSBmb3IgdGVzdHM=";
/// The zone that servers serve and let the key update.
pub const ZONE: &str = "corp.example.com";
/// A zone that they serve and that the key may not update.
pub const CLOSED: &str = "closed.example.com";

/// A server's software.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Software {
    /// ISC BIND 9.
    Bind,
    /// Knot DNS.
    Knot,
    /// PowerDNS Authoritative Server on SQLite.
    PowerDns,
}

impl Software {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Bind, Self::Knot, Self::PowerDns];

    /// Why it cannot be had here, if it cannot.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        let (program, probe, why) = match self {
            Self::Bind => ("named", "-v", "named is not installed (Debian package bind9)"),
            Self::Knot => ("knotd", "--version", "knotd is not installed (Debian package knot)"),
            Self::PowerDns => (
                "pdns_server",
                "--help",
                "pdns_server is not installed (Debian packages pdns-server, pdns-backend-sqlite3 and sqlite3)",
            ),
        };
        (!peer::has(program, probe)).then_some(why)
    }

    fn command(
        self,
        directory: &Path,
        address: SocketAddr,
        algorithm: &str,
        secondary_of: Option<SocketAddr>,
    ) -> Result<Command> {
        match self {
            Self::Bind => bind::command(directory, address, algorithm, secondary_of),
            Self::Knot => knot::command(directory, address, algorithm),
            Self::PowerDns => pdns::command(directory, address, algorithm),
        }
    }
}

/// A running server. Dropped, it is killed.
pub struct NameServer {
    /// Where it answers, by UDP and TCP.
    pub address: SocketAddr,
    software: Software,
    algorithm: &'static str,
    secondary_of: Option<SocketAddr>,
    running: Option<Child>,
    state: tempfile::TempDir,
}

impl NameServer {
    /// Starts a primary of [`ZONE`] and [`CLOSED`] whose key has `algorithm`, such as `hmac-sha256`.
    pub async fn start(software: Software, algorithm: &'static str) -> Result<Self> {
        Self::start_as(software, algorithm, None).await
    }

    /// Starts BIND as a secondary that transfers [`ZONE`] from `primary` as it starts.
    pub async fn start_secondary(primary: SocketAddr) -> Result<Self> {
        Self::start_as(Software::Bind, "hmac-sha256", Some(primary)).await
    }

    async fn start_as(software: Software, algorithm: &'static str, secondary_of: Option<SocketAddr>) -> Result<Self> {
        let mut server = Self {
            address: free_address()?,
            software,
            algorithm,
            secondary_of,
            running: None,
            state: tempfile::tempdir()?,
        };
        server.run().await?;
        Ok(server)
    }

    /// Kills it; its zones stay on disk.
    pub async fn kill(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill().await?;
        }
        Ok(())
    }

    /// Starts it (again), on the same port, and waits until it answers for its zone.
    pub async fn run(&mut self) -> Result<()> {
        let log = fs::File::create(self.state.path().join("log"))?;
        let child = self
            .software
            .command(self.state.path(), self.address, self.algorithm, self.secondary_of)?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{:?} starts", self.software))?;
        self.running = Some(child);
        let address = self.address;
        let ready = eventually("the name server answers for its zone", async || {
            dig(address, &[ZONE, "SOA"])
                .await
                .is_ok_and(|answer| answer.contains("SOA"))
        });
        if let Err(error) = ready.await {
            bail!("{error}: {}", fs::read_to_string(self.state.path().join("log"))?);
        }
        Ok(())
    }

    /// What `dig` prints of the records at `name`, a line each, sorted.
    pub async fn records(&self, name: &str, kind: &str) -> Result<Vec<String>> {
        let answer = dig(self.address, &["+noall", "+answer", name, kind]).await?;
        let mut lines: Vec<String> = answer
            .lines()
            .filter(|line| !line.starts_with(';') && !line.is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        Ok(lines)
    }

    /// Changes records as `nsupdate` does, signed by the key.
    pub async fn nsupdate(&self, commands: &str) -> Result<()> {
        let script = self.state.path().join("nsupdate");
        let (address, algorithm) = (self.address, self.algorithm);
        let server = format!("server {} {}\n", address.ip(), address.port());
        fs::write(&script, format!("{server}zone {ZONE}\n{commands}\nsend\n"))?;
        let output = Command::new("nsupdate")
            .args(["-v", "-y", &format!("{algorithm}:{KEY}:{SECRET}")])
            .arg(&script)
            .output()
            .await
            .context("nsupdate runs (Debian package bind9-dnsutils)")?;
        ensure!(
            output.status.success(),
            "nsupdate: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

/// Asks as an administrator does.
pub async fn dig(server: SocketAddr, arguments: &[&str]) -> Result<String> {
    let output = Command::new("dig")
        .args([&format!("@{}", server.ip()), "-p", &server.port().to_string()])
        .args(["+tries=1", "+time=1", "+norecurse"])
        .args(arguments)
        .output()
        .await
        .context("dig runs (Debian package bind9-dnsutils)")?;
    ensure!(
        output.status.success(),
        "dig: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A loopback port that is free for UDP and TCP.
pub fn free_address() -> Result<SocketAddr> {
    for _ in 0..32 {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = tcp.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no free port for UDP and TCP")
}

fn zone_file(zone: &str) -> String {
    format!(
        "$TTL 60\n@ IN SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60\n@ IN NS ns.{zone}.\nns IN A 127.0.0.1\n"
    )
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path of UTF-8")
}
