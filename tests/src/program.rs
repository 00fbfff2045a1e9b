//! Programs as processes of their own: ours, as they were built beside the running test or bench, and others.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::http;
use crate::replica::eventually;

/// Clock ticks in a second of `/proc/PID/stat`: the kernel's interface has 100 on every platform that Debian supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where the program of this name was built: in the folder above the running test's or bench's.
///
/// # Errors
/// When it was not built.
pub fn path(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let folder = own
        .parent()
        .and_then(Path::parent)
        .context("this program is in a target folder")?;
    let program = folder.join(name);
    if !program.exists() {
        bail!("{name} was not built: run `cargo build --bins` in the same profile first");
    }
    Ok(program)
}

/// A port of this machine that was free a moment ago.
///
/// # Errors
/// When none is.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it; what it prints goes to a file.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{command:?} starts"))?;
        Ok(Self(child))
    }

    /// Its process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Ends it as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    /// Tells it to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// When it goes on.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let mut ended = None;
        eventually("the process ends", async || {
            ended = self.0.try_wait().ok().flatten();
            ended.is_some()
        })
        .await?;
        ended.context("an exit status")
    }

    /// Memory that it has now, in bytes (`VmRSS`).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next())
            .context("a process that has memory")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Processor time that it has used, in seconds.
    ///
    /// # Errors
    /// When it has ended.
    pub fn processor_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // Behind the name, which may hold anything, the 12th and 13th field (proc(5): utime, stime).
        let (_, behind) = stat.rsplit_once(')').context("a name in parentheses")?;
        let fields: Vec<&str> = behind.split_whitespace().collect();
        let ticks = |at: usize| -> Result<f64> { Ok(fields.get(at).context("utime and stime")?.parse()?) };
        Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.kill());
    }
}

/// A host replica as a process of its own.
#[derive(Debug)]
pub struct HostProcess {
    /// Where clients are served.
    pub address: SocketAddr,
    /// The admin endpoint.
    pub admin: SocketAddr,
    /// The process.
    pub process: Process,
    folder: tempfile::TempDir,
}

impl HostProcess {
    /// Starts one from the text of a configuration without `listen` and `admin`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(yaml: &str) -> Result<Self> {
        Self::start_on(free_port()?, yaml).await
    }

    /// The same on a port, such as that of one that was killed.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_on(port: u16, yaml: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let file = folder.path().join("kms-host.yaml");
        fs::write(
            &file,
            format!("listen: ['{address}']\nadmin: {{listen: '{admin}'}}\nlog: {{filter: warn}}\n{yaml}"),
        )?;
        let log = folder.path().join("log");
        let process = Process::start(Command::new(path("kms-host")?).arg("--config").arg(&file), &log)?;
        let started = Self {
            address,
            admin,
            process,
            folder,
        };
        eventually("the replica is ready", async || {
            http::get(admin, "/readyz")
                .await
                .is_ok_and(|(head, _)| head.starts_with("HTTP/1.1 200"))
        })
        .await
        .with_context(|| started.log())?;
        Ok(started)
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Its JSON status.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self) -> Result<serde_json::Value> {
        let (_, body) = http::get(self.admin, "/status").await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The value of a metric's sample; 0 if absent.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        http::metric(self.admin, sample).await
    }

    /// A `licensedHosts` item of a configuration.
    #[must_use]
    pub fn item(&self, name: &str) -> String {
        item(name, self.address)
    }
}

/// A `licensedHosts` item of a configuration.
#[must_use]
pub fn item(name: &str, address: SocketAddr) -> String {
    format!("{{name: {name}, address: {}, port: {}}}", address.ip(), address.port())
}
