//! Types and reasons of conditions: the words that status, Events, logs and metrics share. docs/reference/conditions.md says
//! of each what to do; a test holds the page against this file.

/// Types of conditions.
pub mod kind {
    /// Clients are answered as the spec says.
    pub const READY: &str = "Ready";
    /// The operator is at work.
    pub const RECONCILING: &str = "Reconciling";
    /// Only people can end what is in the way.
    pub const STALLED: &str = "Stalled";
    /// At least one replica answers.
    pub const AVAILABLE: &str = "Available";
    /// Replicas reach their ledger.
    pub const LEDGER_READY: &str = "LedgerReady";
    /// Licensed hosts answer the replicas on their KMS port.
    pub const HOSTS_ANSWER: &str = "HostsAnswer";
    /// Licensed hosts carry their products, activated.
    pub const HOSTS_LICENSED: &str = "HostsLicensed";
    /// Licensed hosts differ in what they activate.
    pub const HOSTS_UNEQUAL: &str = "HostsUnequal";
    /// The count reaches the required one.
    pub const THRESHOLD_MET: &str = "ThresholdMet";
    /// Zones hold our records.
    pub const DNS_PUBLISHED: &str = "DnsPublished";
    /// Others' records let clients pass by.
    pub const CLIENTS_BYPASS_RELAY: &str = "ClientsBypassRelay";
    /// Changes are stopped by annotation.
    pub const PAUSED: &str = "Paused";

    /// Every type, in the order of the status.
    pub const ALL: [&str; 12] = [
        READY,
        RECONCILING,
        STALLED,
        AVAILABLE,
        LEDGER_READY,
        HOSTS_ANSWER,
        HOSTS_LICENSED,
        HOSTS_UNEQUAL,
        THRESHOLD_MET,
        DNS_PUBLISHED,
        CLIENTS_BYPASS_RELAY,
        PAUSED,
    ];

    /// The status, `True` or `False`, that a condition of this type has when all is well; none for types that are not ours.
    #[must_use]
    pub fn good(kind: &str) -> Option<&'static str> {
        match kind {
            READY | AVAILABLE | LEDGER_READY | HOSTS_ANSWER | HOSTS_LICENSED | THRESHOLD_MET | DNS_PUBLISHED => {
                Some("True")
            }
            RECONCILING | STALLED | HOSTS_UNEQUAL | CLIENTS_BYPASS_RELAY | PAUSED => Some("False"),
            _ => None,
        }
    }
}

/// Reasons of the conditions that the operator itself finds. Those about licensed hosts and DNS are with their modules.
pub mod reason {
    /// All is as the spec says.
    pub const AS_SPECIFIED: &str = "AsSpecified";
    /// The spec asks for no replica.
    pub const SCALED_TO_ZERO: &str = "ScaledToZero";
    /// A new spec is being carried out.
    pub const PROGRESSING: &str = "Progressing";
    /// Fewer replicas are ready than wanted.
    pub const REPLICAS_NOT_READY: &str = "ReplicasNotReady";
    /// The managed ledger is not ready.
    pub const LEDGER_NOT_READY: &str = "LedgerNotReady";
    /// A workload's controller gave up or cannot make pods.
    pub const ROLLOUT_STUCK: &str = "RolloutStuck";
    /// A replica refuses the configuration that it was given.
    pub const CONFIG_REJECTED: &str = "ConfigRejected";
    /// No replica is ready.
    pub const NO_REPLICA: &str = "NoReplica";
    /// At least one replica is ready.
    pub const REPLICAS_READY: &str = "ReplicasReady";
    /// The spec cannot be carried out.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A Secret or ConfigMap that the spec names is not there, or lacks a key.
    pub const MISSING_REFERENCE: &str = "MissingReference";
    /// The operator lacks a permission.
    pub const FORBIDDEN: &str = "Forbidden";
    /// The namespace is being deleted.
    pub const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";
    /// A child's name belongs to something else.
    pub const NAME_TAKEN: &str = "NameTaken";
    /// The cluster lacks a kind.
    pub const KIND_MISSING: &str = "KindMissing";
    /// The API server or a policy refused a child.
    pub const REFUSED: &str = "Refused";
    /// The API server could not be asked.
    pub const API_UNAVAILABLE: &str = "ApiUnavailable";
    /// Somebody changes children again and again.
    pub const CONTESTED: &str = "Contested";
    /// The operator is wrong.
    pub const DEFECT: &str = "Defect";
    /// Changes are stopped by annotation.
    pub const PAUSED: &str = "PausedByAnnotation";
    /// Changes are not stopped.
    pub const NOT_PAUSED: &str = "NotPaused";
    /// The resource is being deleted.
    pub const DELETING: &str = "Deleting";
    /// Deletion waits until outside state is removed.
    pub const CLEANING_UP: &str = "CleaningUp";
    /// Every replica that answered reaches the ledger.
    pub const LEDGER_ANSWERS: &str = "LedgerAnswers";
    /// A replica does not reach the ledger.
    pub const LEDGER_UNREACHABLE: &str = "LedgerUnreachable";
    /// No replica could be asked.
    pub const REPLICAS_NOT_ASKED: &str = "ReplicasNotAsked";
    /// Every replica that answered gets answers of every licensed host.
    pub const EVERY_HOST_ANSWERS: &str = "EveryHostAnswers";
    /// A licensed host does not answer a replica.
    pub const HOST_SILENT: &str = "HostSilent";

    /// Every reason of this module.
    pub const ALL: [&str; 28] = [
        AS_SPECIFIED,
        SCALED_TO_ZERO,
        PROGRESSING,
        REPLICAS_NOT_READY,
        LEDGER_NOT_READY,
        ROLLOUT_STUCK,
        CONFIG_REJECTED,
        NO_REPLICA,
        REPLICAS_READY,
        INVALID_SPEC,
        MISSING_REFERENCE,
        FORBIDDEN,
        NAMESPACE_TERMINATING,
        NAME_TAKEN,
        KIND_MISSING,
        REFUSED,
        API_UNAVAILABLE,
        CONTESTED,
        DEFECT,
        PAUSED,
        NOT_PAUSED,
        DELETING,
        CLEANING_UP,
        LEDGER_ANSWERS,
        LEDGER_UNREACHABLE,
        REPLICAS_NOT_ASKED,
        EVERY_HOST_ANSWERS,
        HOST_SILENT,
    ];
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn of_each_condition_it_is_known_what_is_good() {
        for kind in kind::ALL {
            assert!(kind::good(kind).is_some(), "{kind}");
        }
        assert_eq!(kind::good("Ready"), Some("True"));
        assert_eq!(kind::good("Stalled"), Some("False"));
        assert_eq!(kind::good("SomebodyElses"), None);
    }
}
