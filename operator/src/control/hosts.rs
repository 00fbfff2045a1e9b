//! The resources, as the API server showed them last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt as _;

use super::queue::{Cause, Key};
use crate::api::{GROUP, OfficeKmsHost};
use crate::conditions::kind;

/// All resources that are watched.
#[derive(Debug, Default)]
pub struct Hosts(Mutex<HashMap<Key, Arc<OfficeKmsHost>>>);

/// The key of a resource.
#[must_use]
pub fn key(host: &OfficeKmsHost) -> Key {
    Key {
        namespace: host.namespace().unwrap_or_default(),
        name: host.name_any(),
    }
}

impl Hosts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<OfficeKmsHost>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a resource, unless something newer is known. Tells why it is to be looked at, if it is.
    pub fn put(&self, mut host: OfficeKmsHost) -> Option<Cause> {
        host.metadata.managed_fields = None;
        let mut hosts = self.lock();
        let before = hosts.insert(key(&host), Arc::new(host.clone()));
        let Some(before) = before else {
            return Some(Cause::Asked);
        };
        if before.metadata.uid == host.metadata.uid && !is_newer(&host, &before) {
            hosts.insert(key(&before), before);
            return None;
        }
        let same = before.metadata.uid == host.metadata.uid
            && before.metadata.generation == host.metadata.generation
            && ours(&before).eq(ours(&host))
            && before.metadata.deletion_timestamp == host.metadata.deletion_timestamp
            && before.metadata.finalizers == host.metadata.finalizers;
        match same {
            false => Some(Cause::Asked),
            // Ours are put here before the watch shows them: this is somebody else's status.
            true => (before.status != host.status).then_some(Cause::Seen),
        }
    }

    /// Forgets a resource.
    pub fn remove(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// A resource.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<OfficeKmsHost>> {
        self.lock().get(key).cloned()
    }

    /// All keys in a namespace, or everywhere when it is empty.
    #[must_use]
    pub fn keys(&self, scope: &str) -> Vec<Key> {
        let hosts = self.lock();
        hosts
            .keys()
            .filter(|key| scope.is_empty() || key.namespace == scope)
            .cloned()
            .collect()
    }

    /// How many there are in each condition's status: `(condition, status, resources)`.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&'static str, &'static str, usize)> {
        let mut counts: HashMap<(&'static str, &'static str), usize> = HashMap::new();
        for kind in kind::ALL {
            for status in ["True", "False", "Unknown"] {
                counts.insert((kind, status), 0);
            }
        }
        for host in self.lock().values() {
            for condition in host.status.iter().flat_map(|status| &status.conditions) {
                let found = counts
                    .iter_mut()
                    .find(|((kind, status), _)| *kind == condition.type_ && *status == condition.status);
                if let Some((_, count)) = found {
                    *count += 1;
                }
            }
        }
        counts
            .into_iter()
            .map(|((kind, status), count)| (kind, status, count))
            .collect()
    }

    /// Conditions, with their reason, that somebody is to look at: those that are neither as they should be, nor unknown, nor
    /// about work that goes on.
    #[must_use]
    pub fn unwell(&self) -> Vec<(Key, &'static str, String)> {
        let mut unwell = Vec::new();
        for (key, host) in self.lock().iter() {
            for condition in host.status.iter().flat_map(|status| &status.conditions) {
                let Some(found) = kind::ALL.into_iter().find(|kind| *kind == condition.type_) else {
                    continue;
                };
                if found != kind::RECONCILING
                    && condition.status != "Unknown"
                    && kind::good(found) != Some(condition.status.as_str())
                {
                    unwell.push((key.clone(), found, condition.reason.clone()));
                }
            }
        }
        unwell
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Annotations that ask something of the operator. What others note beside them is nothing to look at.
fn ours(host: &OfficeKmsHost) -> impl Iterator<Item = (&String, &String)> {
    let prefix = format!("{GROUP}/");
    let all = host.metadata.annotations.iter().flatten();
    all.filter(move |(name, _)| name.starts_with(&prefix))
}

fn is_newer(host: &OfficeKmsHost, than: &OfficeKmsHost) -> bool {
    let version = |host: &OfficeKmsHost| host.resource_version().and_then(|version| version.parse::<u64>().ok());
    match (version(host), version(than)) {
        (Some(version), Some(than)) => version > than,
        _ => host.resource_version() != than.resource_version(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(version: u32, generation: i64, ready: i32) -> OfficeKmsHost {
        serde_json::from_value(json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
            "metadata": {"name": "kms", "namespace": "a", "uid": "u", "generation": generation, "resourceVersion": version.to_string()},
            "spec": {"rehearsal": {}}, "status": {"readyReplicas": ready}
        }))
        .expect("a resource")
    }

    #[test]
    fn what_somebody_is_to_look_at_is_told_with_the_resource() {
        let hosts = Hosts::default();
        let mut ill = host(1, 1, 0);
        let conditions = json!([
            {"type": "Ready", "status": "False", "reason": "RolloutStuck"},
            {"type": "Reconciling", "status": "True", "reason": "RolloutStuck"},
            {"type": "HostsUnequal", "status": "True", "reason": "ProductsDiffer"},
            {"type": "Paused", "status": "False", "reason": "NotPaused"},
            {"type": "LedgerReady", "status": "Unknown", "reason": "ReplicasNotAsked"},
            {"type": "Audited", "status": "False", "reason": "OfSomebodyElse"},
        ]);
        let whole = |mut condition: serde_json::Value| {
            condition["message"] = json!("");
            condition["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
            serde_json::from_value(condition).expect("a condition")
        };
        let conditions: Vec<serde_json::Value> = serde_json::from_value(conditions).expect("a list");
        ill.status.as_mut().expect("a status").conditions = conditions.into_iter().map(whole).collect();
        hosts.put(ill);
        let told: Vec<_> = hosts
            .unwell()
            .into_iter()
            .map(|(key, kind, reason)| (key.name, kind, reason))
            .collect();
        assert_eq!(
            told,
            [
                ("kms".to_owned(), kind::READY, "RolloutStuck".to_owned()),
                ("kms".to_owned(), kind::HOSTS_UNEQUAL, "ProductsDiffer".to_owned()),
            ]
        );
    }

    #[test]
    fn our_own_status_wakes_nobody_and_anothers_does() {
        let hosts = Hosts::default();
        assert_eq!(hosts.put(host(1, 1, 0)), Some(Cause::Asked));
        // The answer to our own write comes first, then the watch shows the same.
        hosts.put(host(2, 1, 1));
        assert_eq!(hosts.put(host(2, 1, 1)), None);
        assert_eq!(hosts.put(host(1, 1, 0)), None, "the past is no news");
        assert_eq!(hosts.put(host(3, 1, 5)), Some(Cause::Seen));
        assert_eq!(hosts.put(host(4, 2, 5)), Some(Cause::Asked));
        let noted = |version, name: &str| {
            let mut host = host(version, 2, 5);
            host.metadata.annotations = Some([(name.to_owned(), "true".to_owned())].into());
            host
        };
        assert_eq!(hosts.put(noted(5, "example.com/seen")), None, "a note for others");
        assert_eq!(hosts.put(noted(6, "officekms.io/paused")), Some(Cause::Asked));
    }
}
