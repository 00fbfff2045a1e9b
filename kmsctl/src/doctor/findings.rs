//! Findings on their way.

use super::facts::Read;
use super::{Finding, State};

/// Findings on their way, all about one thing.
pub(super) struct Findings<'f> {
    found: &'f mut Vec<Finding>,
    prefix: String,
}

impl<'f> Findings<'f> {
    /// About the cluster.
    pub(super) fn new(found: &'f mut Vec<Finding>) -> Self {
        Self {
            found,
            prefix: String::new(),
        }
    }

    /// About one of its resources.
    pub(super) fn about(&mut self, name: &str) -> Findings<'_> {
        Findings {
            found: self.found,
            prefix: format!("{name} "),
        }
    }

    pub(super) fn add(
        &mut self,
        state: State,
        about: &str,
        what: impl Into<String>,
        advice: impl Into<Option<String>>,
    ) {
        let about = format!("{}{about}", self.prefix);
        self.found.push(Finding {
            state,
            about,
            what: what.into(),
            advice: advice.into(),
        });
    }

    pub(super) fn good(&mut self, about: &str, what: impl Into<String>) {
        self.add(State::Good, about, what, None);
    }

    /// What was read; a finding if it was not.
    pub(super) fn read<'r, T>(&mut self, about: &str, read: &'r Read<T>) -> Option<&'r T> {
        match read {
            Ok(value) => Some(value),
            Err(why) => {
                self.add(State::Unknown, about, format!("could not be read: {why}"), None);
                None
            }
        }
    }
}
