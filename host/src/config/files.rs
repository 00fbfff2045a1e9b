//! The files that a configuration names, read as at the start of a replica but before it.

use std::error::Error;
use std::fmt;

use super::HostConfig;
use crate::ledger;
use crate::rehearsal::SiteKey;
use crate::rehearsal::management::ManagementConfig;
use crate::telemetry::chain;

/// A file that cannot be used. It is named, and nothing of what is in it.
#[derive(Debug)]
pub struct FileProblem {
    /// The setting that names the file.
    pub setting: String,
    /// What is wrong with it.
    pub error: Box<dyn Error>,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.setting, chain(&*self.error))
    }
}

impl HostConfig {
    /// Every file that the configuration names and that is missing, unreadable, empty or not what it should be.
    #[must_use]
    pub fn file_problems(&self) -> Vec<FileProblem> {
        let mut found = Vec::new();
        let mut problem = |setting: String, error: Box<dyn Error>| found.push(FileProblem { setting, error });
        if let Some(rehearsal) = &self.rehearsal {
            if let Err(error) = SiteKey::read(&rehearsal.site_key_file) {
                problem("rehearsal.siteKeyFile".to_owned(), error.into());
            }
            for (setting, error) in rehearsal.management.iter().flat_map(ManagementConfig::file_problems) {
                problem(format!("rehearsal.management.{setting}"), error.into());
            }
        }
        for (setting, error) in ledger::file_problems(&self.ledger) {
            problem(format!("ledger.{setting}"), error);
        }
        found
    }
}
