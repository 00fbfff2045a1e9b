//! What people are told once, when it happens: the content of a Kubernetes Event.

/// An Event before it has an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether something is wrong.
    pub warning: bool,
    /// One word.
    pub reason: &'static str,
    /// What the operator was doing, as Events want it.
    pub action: &'static str,
    /// In words; never a secret.
    pub message: String,
}

/// Longest note of an Event (`events.k8s.io/v1`).
const LONGEST: usize = 1024;

impl Notice {
    /// Something that is as it should be.
    #[must_use]
    pub fn normal(action: &'static str, reason: &'static str, message: &str) -> Self {
        Self {
            warning: false,
            reason,
            action,
            message: message.chars().take(LONGEST).collect(),
        }
    }

    /// Something that somebody should look at.
    #[must_use]
    pub fn warning(action: &'static str, reason: &'static str, message: &str) -> Self {
        Self {
            warning: true,
            ..Self::normal(action, reason, message)
        }
    }
}
