//! What `kmsctl up` runs on this machine: a record that the other commands read, so that they need no addresses.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

const FILE: &str = "up.json";
/// Held by the `kmsctl up` whose folder it is.
const LOCK: &str = "lock";

/// Where `kmsctl up` keeps its keys and its record.
#[derive(Debug, Clone, clap::Args)]
pub struct StateDir {
    /// Folder in which `kmsctl up` keeps keys and addresses for other commands
    /// [default: officekms in XDG_STATE_HOME or ~/.local/state]
    #[arg(long = "state-dir", env = "OFFICEKMS_STATE_DIR", value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl StateDir {
    /// The folder; it need not exist.
    ///
    /// # Errors
    /// When neither the argument nor the environment tells one.
    pub fn path(&self) -> Result<PathBuf> {
        if let Some(folder) = &self.folder {
            return Ok(folder.clone());
        }
        let of = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        of("XDG_STATE_HOME")
            .or_else(|| of("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("officekms"))
            .context("no folder for the state of `kmsctl up`: give --state-dir, or set HOME")
    }

    /// What runs now, if anything does.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn read(&self) -> Result<Option<Local>> {
        // Without a folder nothing can have been recorded.
        self.path().map_or(Ok(None), |folder| Local::read(&folder))
    }
}

/// What runs, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Local {
    /// Process that runs it.
    pub pid: u32,
    /// Zones in which clients find the service.
    pub zones: Vec<LocalZone>,
    /// Site key of the rehearsal hosts, if there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_key_file: Option<PathBuf>,
    /// The replicas.
    pub replicas: Vec<LocalReplica>,
}

/// A zone, and the DNS server on this machine that holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalZone {
    /// Its name.
    pub name: String,
    /// Where the server answers, by UDP and TCP.
    pub server: SocketAddr,
}

/// A host replica on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalReplica {
    /// `RESOURCE-NUMBER`.
    pub name: String,
    /// The resource that it belongs to.
    pub resource: String,
    /// Whether it relays; else it is a rehearsal host.
    pub relays: bool,
    /// Where it answers clients.
    pub clients: SocketAddr,
    /// Its admin endpoint.
    pub admin: SocketAddr,
}

impl Local {
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let local: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no record of `kmsctl up`: remove it", path.display()))?;
        Ok(local.is_alive().then_some(local))
    }

    /// A record outlives a process that was killed.
    fn is_alive(&self) -> bool {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
    }

    /// Takes the folder for one `kmsctl up`, before anything is written there. It is given back when the file is dropped, or
    /// the process ends in whatever way.
    ///
    /// # Errors
    /// When something else runs already, or the folder cannot be written.
    pub fn claim(folder: &Path) -> Result<fs::File> {
        let path = folder.join(LOCK);
        let cannot = || format!("cannot lock {}", path.display());
        let file = fs::File::create(&path).with_context(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => {
                let other = Self::read(folder)?.map_or(String::new(), |other| format!(", as process {}", other.pid));
                bail!("`kmsctl up` runs already{other}: stop it, or give this one another --state-dir")
            }
            Err(fs::TryLockError::Error(error)) => Err(error).with_context(cannot),
        }
    }

    /// Writes the record; it is removed when the returned guard is dropped.
    ///
    /// # Errors
    /// When something else runs already, or the record cannot be written.
    pub fn record(&self, folder: &Path) -> Result<Recorded> {
        if let Some(other) = Self::read(folder)?.filter(|other| other.pid != self.pid) {
            bail!(
                "`kmsctl up` runs already, as process {}: stop it, or give this one another --state-dir",
                other.pid
            );
        }
        let path = folder.join(FILE);
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Recorded(path))
    }
}

/// A written record, removed when dropped.
#[derive(Debug)]
pub struct Recorded(PathBuf);

impl Drop for Recorded {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(pid: u32) -> Local {
        Local {
            pid,
            zones: vec![LocalZone {
                name: "demo.example".to_owned(),
                server: "127.0.0.1:5354".parse().unwrap(),
            }],
            site_key_file: None,
            replicas: Vec::new(),
        }
    }

    #[test]
    fn a_record_lasts_as_long_as_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let own = local(std::process::id());
        assert_eq!(Local::read(folder.path()).unwrap(), None);
        let recorded = own.record(folder.path()).unwrap();
        assert_eq!(Local::read(folder.path()).unwrap().as_ref(), Some(&own));
        let refusal = local(1).record(folder.path()).unwrap_err().to_string();
        assert!(refusal.contains("runs already"), "{refusal}");
        drop(recorded);
        assert_eq!(Local::read(folder.path()).unwrap(), None);

        // No process has this number: Linux ends at 2^22.
        let killed = local(1 << 30).record(folder.path()).unwrap();
        assert_eq!(Local::read(folder.path()).unwrap(), None);
        std::mem::forget(killed);
        own.record(folder.path()).unwrap();
    }

    #[test]
    fn what_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Local::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("up.json is no record"), "{error}");
    }
}
