//! How a pod's grace period is spent.

use crate::api::OfficeKmsHostSpec;
use crate::api::default_grace;

/// What kms-host may take beyond its drain to write the ledger and to end its admin endpoint.
const ENDING: u64 = 8;

/// A pod's last seconds, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// Until kms-host is told to stop. Meanwhile load balancers learn that the pod is leaving, and clients that they still
    /// send are answered.
    pub before_stop: u64,
    /// For requests in flight.
    pub drain: u64,
    /// All together, and then the pod is killed.
    pub grace: u64,
}

/// How the grace period of `spec` is spent.
#[must_use]
pub fn seconds(spec: &OfficeKmsHostSpec) -> Drain {
    let grace = spec
        .pod
        .as_ref()
        .map_or_else(default_grace, |pod| pod.termination_grace_period_seconds);
    let grace = u64::try_from(grace).unwrap_or_default();
    let before_stop = (grace / 9).clamp(1, 5);
    Drain {
        before_stop,
        drain: grace.saturating_sub(before_stop + ENDING).max(1),
        grace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_fit_into_the_grace_period() {
        for grace in 5..=600 {
            let mut spec: OfficeKmsHostSpec = serde_json::from_value(serde_json::json!({"pod": {}})).expect("a spec");
            spec.pod.as_mut().expect("a pod").termination_grace_period_seconds = grace;
            let drain = seconds(&spec);
            assert!(drain.before_stop >= 1 && drain.drain >= 1);
            assert!(drain.before_stop + drain.drain < drain.grace, "{drain:?}");
            if grace >= 15 {
                assert!(drain.before_stop + drain.drain + ENDING <= drain.grace, "{drain:?}");
            }
        }
        let spec: OfficeKmsHostSpec = serde_json::from_value(serde_json::json!({})).expect("a spec");
        assert_eq!(
            seconds(&spec),
            Drain {
                before_stop: 5,
                drain: 32,
                grace: 45
            }
        );
    }
}
