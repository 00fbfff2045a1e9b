//! What was begun and how it ended, so that nothing is done twice: kept outside the operator's memory.
//!
//! The journal is saved before a step and after it. A step that was begun and has no end was cut off by a restart or a
//! broken connection: whether it took effect is then seen on the host, never assumed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Attempts by `HOST/PRODUCT`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Journal {
    /// The last attempt of each host and product.
    pub attempts: BTreeMap<String, Attempt>,
    /// The last restart of each host's licensing service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub restarts: BTreeMap<String, Restart>,
}

/// A restart of a host's licensing service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// The value of the annotation that asked for it.
    pub asked: String,
    /// Whether its end was seen.
    pub done: bool,
}

/// An attempt to activate, online or by telephone.
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
}

impl Journal {
    /// The last attempt of a host and product.
    pub fn attempt(&self, host: &str, product: &str) -> Option<&Attempt> {
        self.attempts.get(&entry(host, product))
    }

    /// Notes that an attempt begins.
    pub fn begin(&mut self, host: &str, product: &str, kind: Kind, mark: String, now: i64) {
        let before = self
            .attempt(host, product)
            .filter(|before| before.kind == kind && before.mark == mark);
        let tries = before.map_or(0, |before| before.tries).saturating_add(1);
        let attempt = Attempt {
            kind,
            mark,
            begun_at: now,
            outcome: Outcome::Unknown,
            tries,
        };
        self.attempts.insert(entry(host, product), attempt);
    }

    /// Notes how it ended.
    pub fn end(&mut self, host: &str, product: &str, outcome: Outcome) {
        if let Some(attempt) = self.attempts.get_mut(&entry(host, product)) {
            attempt.outcome = outcome;
        }
    }
}

fn entry(host: &str, product: &str) -> String {
    format!("{host}/{product}")
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
