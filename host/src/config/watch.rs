//! The configuration file while the replica runs: read again every few seconds and on SIGHUP.
//!
//! The content is compared, not the file's time or inode, because Kubernetes swaps symlinks when a mounted ConfigMap
//! changes and keeps whatever times it likes.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::{HostConfig, Problems, load};

/// How often the file is looked at.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Bytes of the largest configuration file that is read. A ConfigMap has at most 1 MiB.
const LARGEST: u64 = 1024 * 1024;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is in it is wrong.
    #[error(transparent)]
    Wrong(#[from] Problems),
}

/// What a look at the file found.
#[derive(Debug)]
pub enum Look {
    /// Nothing new since the last look.
    Same,
    /// A good configuration.
    Good(Box<HostConfig>),
    /// Something new that cannot be used.
    Bad(ReadError),
}

/// A configuration file and what was last seen in it.
#[derive(Debug)]
pub struct WatchedFile {
    file: PathBuf,
    seen: Option<String>,
    /// Stands in for the file's `name`.
    name: Option<String>,
}

impl WatchedFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read, or has problems.
    pub fn open(file: &Path) -> Result<(HostConfig, Self), ReadError> {
        Self::open_as(file, None)
    }

    /// The same for a replica that is called `name` if one is given, whatever the file says.
    ///
    /// # Errors
    /// It cannot be read, or has problems.
    pub fn open_as(file: &Path, name: Option<String>) -> Result<(HostConfig, Self), ReadError> {
        let text = read(file)?;
        let config = load(&text, file)?;
        let watched = Self {
            file: file.to_owned(),
            seen: Some(text),
            name,
        };
        Ok((watched.named(config), watched))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn named(&self, mut config: HostConfig) -> HostConfig {
        if let Some(name) = &self.name {
            config.name.clone_from(name);
        }
        config
    }

    /// Reads the file again.
    pub fn look(&mut self) -> Look {
        let text = match read(&self.file) {
            Ok(text) => text,
            // Said once: a file that is away stays away for many looks.
            Err(_) if self.seen.is_none() => return Look::Same,
            Err(error) => {
                self.seen = None;
                return Look::Bad(error);
            }
        };
        if self.seen.as_ref() == Some(&text) {
            return Look::Same;
        }
        let loaded = load(&text, &self.file);
        self.seen = Some(text);
        match loaded {
            Ok(config) => Look::Good(Box::new(self.named(config))),
            Err(problems) => Look::Bad(problems.into()),
        }
    }
}

fn read(file: &Path) -> Result<String, ReadError> {
    let unreadable = |source| ReadError::Unreadable {
        file: file.to_owned(),
        source,
    };
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(opened, LARGEST + 1), &mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST {
        return Err(unreadable(io::Error::other("it is larger than 1 MiB")));
    }
    Ok(text)
}

impl HostConfig {
    /// The fields that only a restart takes over, and what each says that matters to it.
    pub fn fixed(&self) -> Vec<(&'static str, serde_json::Value)> {
        let Self {
            name,
            relay,
            rehearsal,
            listen,
            admin,
            clients: _,
            ledger,
            routing: _,
            drain_grace_period: _,
            log,
        } = self;
        vec![
            ("name", json!(name)),
            // What a relay does is taken over; that a replica is one is not.
            ("relay", json!(relay.is_some())),
            ("rehearsal", json!(rehearsal)),
            ("ledger", json!(ledger)),
            ("listen", json!(listen)),
            ("admin", json!(admin)),
            ("log", json!(log)),
        ]
    }

    /// The fields in which `new` differs and that only a restart takes over.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let fields = self.fixed().into_iter().zip(new.fixed());
        fields
            .filter_map(|((field, before), (_, after))| (before != after).then_some(field))
            .collect()
    }

    /// What is in use once `new` is taken over while the replica runs. What waits for a restart stays as it is, so that
    /// it is still seen to differ at the next change.
    pub fn taking_over(&self, new: Self) -> Self {
        let Self {
            name,
            relay,
            rehearsal,
            listen,
            admin,
            clients: _,
            ledger,
            routing: _,
            drain_grace_period: _,
            log,
        } = self.clone();
        Self {
            name,
            relay: if relay.is_some() == new.relay.is_some() {
                new.relay
            } else {
                relay
            },
            rehearsal,
            listen,
            admin,
            ledger,
            log,
            ..new
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const GOOD: &str = "relay: {licensedHosts: [{name: a, address: 10.0.0.1}]}\n";

    #[test]
    fn a_change_is_seen_through_swapped_symlinks_as_kubernetes_makes_them() {
        let dir = tempfile::tempdir().expect("directory");
        let path = |name: &str| dir.path().join(name);
        for (version, text) in [("v1", GOOD.to_owned()), ("v2", GOOD.replace("10.0.0.1", "10.0.0.2"))] {
            fs::create_dir(path(version)).expect("directory");
            fs::write(path(version).join("config.yaml"), text).expect("written");
        }
        symlink("v1", path("..data")).expect("link");
        symlink("..data/config.yaml", path("config.yaml")).expect("link");
        let (config, mut file) = WatchedFile::open(&path("config.yaml")).expect("good");
        assert!(matches!(file.look(), Look::Same));
        symlink("v2", path("..new")).expect("link");
        fs::rename(path("..new"), path("..data")).expect("swapped");
        let Look::Good(new) = file.look() else {
            panic!("the change is seen")
        };
        assert_eq!(new.relay.as_ref().expect("relay").licensed_hosts[0].address, "10.0.0.2");
        assert_eq!(config.needs_restart(&new), Vec::<&str>::new());
        assert!(matches!(file.look(), Look::Same));
    }

    #[test]
    fn what_waits_for_a_restart_is_seen_at_each_change_until_then() {
        let config = |text: &str| load(text, Path::new("config.yaml")).expect("good");
        let rehearsal = "rehearsal: {siteKeyFile: /k, products: [{name: OfficeLTSC2021}]}\n";
        let started = config(GOOD);
        for (field, text) in [
            ("name", format!("name: other\n{GOOD}")),
            ("relay", rehearsal.to_owned()),
            ("rehearsal", rehearsal.to_owned()),
            ("ledger", format!("ledger: {{memory: {{}}, keyFile: /k}}\n{GOOD}")),
            ("listen", format!("listen: ['127.0.0.1:1']\n{GOOD}")),
            ("admin", format!("admin: {{listen: '127.0.0.1:1'}}\n{GOOD}")),
            ("log", format!("log: {{format: json}}\n{GOOD}")),
        ] {
            let changed = config(&text);
            let used = started.taking_over(changed.clone());
            assert!(used.needs_restart(&changed).contains(&field), "{field}");
            assert_eq!(used.needs_restart(&started), Vec::<&str>::new(), "{field}");
        }
        let changed = config(&format!(
            "drainGracePeriod: 1s\n{}",
            GOOD.replace("10.0.0.1", "10.0.0.2")
        ));
        assert_eq!(started.taking_over(changed.clone()), changed, "the rest is taken over");
    }

    #[test]
    fn a_name_given_to_the_replica_stands_over_the_files() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, format!("name: shared\n{GOOD}")).expect("written");
        let (config, mut file) = WatchedFile::open_as(&path, Some("kms-0".to_owned())).expect("good");
        fs::write(&path, format!("name: renamed\n{GOOD}")).expect("written");
        let Look::Good(new) = file.look() else {
            panic!("the change is seen")
        };
        assert_eq!((config.name.as_str(), new.name.as_str()), ("kms-0", "kms-0"));
    }

    #[test]
    fn bad_content_is_reported_once_and_the_way_back_is_seen() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("config.yaml");
        fs::write(&path, GOOD).expect("written");
        let (config, mut file) = WatchedFile::open(&path).expect("good");
        fs::write(&path, "relay: {}\n").expect("written");
        assert!(matches!(file.look(), Look::Bad(ReadError::Wrong(_))));
        assert!(matches!(file.look(), Look::Same));
        fs::remove_file(&path).expect("removed");
        assert!(matches!(file.look(), Look::Bad(ReadError::Unreadable { .. })));
        assert!(matches!(file.look(), Look::Same));
        fs::write(&path, format!("listen: ['127.0.0.1:0']\n{GOOD}")).expect("written");
        let Look::Good(new) = file.look() else {
            panic!("the change is seen")
        };
        assert_eq!(config.needs_restart(&new), ["listen"]);
    }
}
