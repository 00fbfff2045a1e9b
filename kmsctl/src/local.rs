//! What `kmsctl up` runs on this machine: a record that the other commands read, so that they need no addresses.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

const FILE: &str = "up.json";
/// Held by the `kmsctl up` whose folder it is.
const LOCK: &str = "lock";

/// How often the lock is tried again, and after how long: together longer than anybody looks at it.
const TRIES: u32 = 20;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

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
    /// The record in a folder whose lock is held. One that was killed leaves its record and gives back the lock.
    fn read(folder: &Path) -> Result<Option<Self>> {
        if !is_claimed(folder)? {
            return Ok(None);
        }
        let path = folder.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let local = serde_json::from_str(&text)
            .with_context(|| format!("{} is no record of `kmsctl up`: remove it", path.display()))?;
        Ok(Some(local))
    }
}

/// Whether a `kmsctl up` has the folder.
fn is_claimed(folder: &Path) -> Result<bool> {
    let path = folder.join(LOCK);
    let cannot = || format!("cannot see whether {} is locked", path.display());
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(cannot),
    };
    // Shared, so that two commands that look at the same time do not take each other for it.
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(fs::TryLockError::WouldBlock) => Ok(true),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(cannot),
    }
}

/// The folder of one `kmsctl up`. It is given back when this is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct Claim {
    folder: PathBuf,
    _lock: fs::File,
}

impl Claim {
    /// Takes the folder, before anything is written there.
    ///
    /// # Errors
    /// When something else runs already, or the folder cannot be written.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(LOCK);
        let cannot = || format!("cannot lock {}", path.display());
        let file = fs::File::create(&path).with_context(cannot)?;
        let mut tries = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // A command that looks whether something runs holds it for a moment.
                Err(fs::TryLockError::WouldBlock) if tries < TRIES => {
                    tries += 1;
                    thread::sleep(BETWEEN_TRIES);
                }
                Err(fs::TryLockError::WouldBlock) => {
                    let other =
                        Local::read(folder)?.map_or(String::new(), |other| format!(", as process {}", other.pid));
                    bail!("`kmsctl up` runs already{other}: stop it, or give this one another --state-dir")
                }
                Err(fs::TryLockError::Error(error)) => return Err(error).with_context(cannot),
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            _lock: file,
        })
    }

    /// Writes the record; it is removed when the returned guard is dropped.
    ///
    /// # Errors
    /// When the record cannot be written.
    pub fn record(&self, local: &Local) -> Result<Recorded<'_>> {
        let path = self.folder.join(FILE);
        let text = serde_json::to_string_pretty(local)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Recorded(path, PhantomData))
    }
}

/// A written record, removed when dropped: while the folder is still claimed, so that it is not another's.
#[derive(Debug)]
pub struct Recorded<'claim>(PathBuf, PhantomData<&'claim Claim>);

impl Drop for Recorded<'_> {
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
    fn a_record_lasts_as_long_as_the_folder_is_claimed() {
        let folder = tempfile::tempdir().unwrap();
        let own = local(std::process::id());
        assert_eq!(Local::read(folder.path()).unwrap(), None);
        let claim = Claim::take(folder.path()).unwrap();
        assert_eq!(Local::read(folder.path()).unwrap(), None, "it has still to start");
        let recorded = claim.record(&own).unwrap();
        assert_eq!(Local::read(folder.path()).unwrap().as_ref(), Some(&own));
        let refusal = Claim::take(folder.path()).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("runs already, as process {}", own.pid)),
            "{refusal}"
        );
        drop(recorded);
        assert_eq!(Local::read(folder.path()).unwrap(), None);
    }

    #[test]
    fn the_record_of_one_that_was_killed_is_not_taken_for_another_process_of_its_number() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::take(folder.path()).unwrap();
        // This process lives, and has not the folder: as if the number had been given to it anew.
        std::mem::forget(claim.record(&local(std::process::id())).unwrap());
        assert!(Local::read(folder.path()).unwrap().is_some());
        drop(claim);
        assert_eq!(Local::read(folder.path()).unwrap(), None);
        Claim::take(folder.path()).unwrap();
    }

    #[test]
    fn who_looks_is_not_taken_for_who_runs() {
        let folder = tempfile::tempdir().unwrap();
        drop(Claim::take(folder.path()).unwrap());
        let looks = fs::File::open(folder.path().join(LOCK)).unwrap();
        looks.try_lock_shared().unwrap();
        assert!(!is_claimed(folder.path()).unwrap(), "another one looks");
        let gone = thread::spawn(move || {
            thread::sleep(BETWEEN_TRIES * 2);
            drop(looks);
        });
        Claim::take(folder.path()).unwrap();
        gone.join().unwrap();
    }

    #[test]
    fn what_is_no_record_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let _claim = Claim::take(folder.path()).unwrap();
        fs::write(folder.path().join(FILE), "{").unwrap();
        let error = Local::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("up.json is no record"), "{error}");
    }
}
