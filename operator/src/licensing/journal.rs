//! What was begun and how it ended, so that nothing is done twice: kept outside the operator's memory.
//!
//! The journal is saved before a step and after it. A step that was begun and has no end was cut off by a restart or a
//! broken connection: whether it took effect is then seen on the host, never assumed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::settings::Setting;

/// Attempts kept of each licence. Refusals are the last to go.
const MOST: usize = 32;

/// What is remembered of licensed hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Journal {
    /// Attempts by `HOST/LICENCE`, the newest last: one for each kind and mark.
    pub attempts: BTreeMap<String, Vec<Attempt>>,
    /// The last restart of each host's licensing service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restarts: BTreeMap<String, Restart>,
    /// Settings that each host took and does not show yet.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub taken: BTreeMap<String, Vec<Setting>>,
}

/// A restart of a host's licensing service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// The value of the annotation that asked for it.
    pub asked: String,
    /// How far it is.
    pub phase: Phase,
    /// Whether the host's count was reached before: until it is again, no other host is restarted.
    pub was_warm: bool,
}

/// How far a restart is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// About to stop the service; whether it was told is not known.
    Begun,
    /// It is stopped.
    Stopped,
    /// It was stopped and runs again.
    Done,
    /// It was not stopped, or nobody knows.
    Failed,
}

impl Phase {
    /// Whether something is left to do.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Begun | Self::Stopped)
    }
}

/// An attempt to install a key, or to activate, online or by telephone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// What was tried.
    pub kind: Kind,
    /// Mark of the key, or of key and confirmation ID, that were used.
    pub mark: String,
    /// When it was begun, in milliseconds since the epoch.
    pub begun_at: i64,
    /// How it ended.
    pub outcome: Outcome,
    /// How often the same was tried with the same secrets.
    pub tries: u32,
    /// How often of these nothing was reached that could have answered, in a row.
    #[serde(default)]
    pub missed: u32,
}

/// What can be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Installing the key.
    InstallKey,
    /// Activation online.
    Activate,
    /// Activation by telephone.
    Confirm,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Begun; the end was never seen.
    Unknown,
    /// The host said yes.
    Done,
    /// The host, or the activation service, said no with this code.
    Refused(u32),
    /// Nobody was reached who could have said yes or no: nothing happened.
    NotReached(u32),
}

impl Journal {
    /// The attempts at a host's licence, the newest last.
    pub fn attempts(&self, host: &str, licence: &str) -> &[Attempt] {
        self.attempts.get(&entry(host, licence)).map_or(&[], Vec::as_slice)
    }

    /// Notes that an attempt begins.
    pub fn begin(&mut self, host: &str, licence: &str, kind: Kind, mark: &str, now: i64) {
        let all = self.attempts.entry(entry(host, licence)).or_default();
        let same = all
            .iter()
            .position(|before| before.kind == kind && before.mark == mark)
            .map(|at| all.remove(at));
        all.push(Attempt {
            kind,
            mark: mark.to_owned(),
            begun_at: now,
            outcome: Outcome::Unknown,
            tries: same.as_ref().map_or(0, |same| same.tries).saturating_add(1),
            missed: same.map_or(0, |same| same.missed),
        });
        if all.len() > MOST {
            let refused = |attempt: &Attempt| matches!(attempt.outcome, Outcome::Refused(_));
            all.remove(all.iter().position(|attempt| !refused(attempt)).unwrap_or(0));
        }
    }

    /// Notes how the newest attempt ended.
    pub fn end(&mut self, host: &str, licence: &str, outcome: Outcome) {
        let newest = self
            .attempts
            .get_mut(&entry(host, licence))
            .and_then(|all| all.last_mut());
        if let Some(attempt) = newest {
            attempt.outcome = outcome;
            if matches!(outcome, Outcome::NotReached(_)) {
                attempt.tries = attempt.tries.saturating_sub(1);
                attempt.missed = attempt.missed.saturating_add(1);
            } else {
                attempt.missed = 0;
            }
        }
    }

    /// Whether a host took a setting that it does not show yet.
    pub fn has_taken(&self, host: &str, setting: Setting) -> bool {
        self.taken.get(host).is_some_and(|taken| taken.contains(&setting))
    }

    /// Notes that a host took a setting.
    pub fn took(&mut self, host: &str, setting: Setting) {
        self.taken.entry(host.to_owned()).or_default().push(setting);
    }

    /// Forgets what a host took of all but these settings, since it shows them by now or nobody wants them.
    pub fn still_differs(&mut self, host: &str, differences: &[Setting]) {
        if let Some(taken) = self.taken.get_mut(host) {
            taken.retain(|setting| differences.contains(setting));
            if taken.is_empty() {
                self.taken.remove(host);
            }
        }
    }

    /// Takes over what another journal says of a host.
    pub fn take_over(&mut self, from: &Self, host: &str) {
        let prefix = entry(host, "");
        self.attempts.retain(|entry, _| !entry.starts_with(&prefix));
        let attempts = from.attempts.iter().filter(|(entry, _)| entry.starts_with(&prefix));
        self.attempts
            .extend(attempts.map(|(entry, attempts)| (entry.clone(), attempts.clone())));
        match from.taken.get(host) {
            Some(taken) => drop(self.taken.insert(host.to_owned(), taken.clone())),
            None => drop(self.taken.remove(host)),
        }
    }
}

fn entry(host: &str, licence: &str) -> String {
    format!("{host}/{licence}")
}

/// A mark by which secrets are recognised and from which they cannot be told: 64 bits of their SHA-256.
pub fn mark(secrets: &[&str]) -> String {
    let mut digest = Sha256::new();
    for secret in secrets {
        digest.update(secret.len().to_be_bytes());
        digest.update(secret);
    }
    digest
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_outlives_whatever_else_is_tried() {
        let mut journal = Journal::default();
        journal.begin("a", "Office2016", Kind::Activate, "refused", 0);
        journal.end("a", "Office2016", Outcome::Refused(1));
        for number in 0..100 {
            journal.begin("a", "Office2016", Kind::InstallKey, &format!("{number}"), number);
            journal.end("a", "Office2016", Outcome::Done);
        }
        let kept = journal.attempts("a", "Office2016");
        assert_eq!((kept.len(), kept[0].mark.as_str()), (MOST, "refused"));
        assert_eq!(kept.last().unwrap().mark, "99");
    }

    #[test]
    fn a_host_s_part_is_taken_over_as_a_whole() {
        let (mut whole, mut part) = (Journal::default(), Journal::default());
        whole.begin("a", "Office2016", Kind::Activate, "old", 0);
        whole.begin("ab", "Office2016", Kind::Activate, "other", 0);
        whole.took("a", Setting::LowPriority(true));
        part.begin("a", "Office2016", Kind::Activate, "new", 0);
        part.begin("ab", "Office2016", Kind::Activate, "not ours", 0);
        whole.take_over(&part, "a");
        assert_eq!(whole.attempts("a", "Office2016")[0].mark, "new");
        assert_eq!(whole.attempts("ab", "Office2016")[0].mark, "other");
        assert!(whole.taken.is_empty());
    }
}
