//! What the operator may do on the API server, as data: the chart and `install.yaml` are generated from or compared with
//! it, so that a permission is granted when the code that needs it lands, and never otherwise.
//!
//! Two sets. [`in_watched_namespaces`] is granted cluster-wide, or by a Role in each namespace of `watchNamespaces`.
//! [`in_own_namespace`] is granted where the operator runs. Neither needs a cluster-scoped object. What people may do is
//! [`for_people`].

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::api::GROUP;

/// Verbs on children: read through watches, applied by server-side apply, pruned.
const CHILD: &[&str] = &["get", "list", "watch", "create", "patch", "delete"];

/// Rules for the namespaces whose `OfficeKmsHost` resources are served.
#[must_use]
pub fn in_watched_namespaces() -> Vec<PolicyRule> {
    vec![
        // `patch` sets and removes the finalizer.
        rule(GROUP, &["officekmshosts"], &["get", "list", "watch", "patch"]),
        rule(GROUP, &["officekmshosts/status"], &["get", "patch"]),
        // Owner references that block deletion need this where OwnerReferencesPermissionEnforcement is on.
        rule(GROUP, &["officekmshosts/finalizers"], &["update"]),
        rule("", &["configmaps", "serviceaccounts", "services"], CHILD),
        // By name only: without `list` and `watch` the operator holds no Secret that no resource names.
        rule("", &["secrets"], &["get", "create", "patch"]),
        rule("apps", &["deployments", "statefulsets"], CHILD),
        rule("autoscaling", &["horizontalpodautoscalers"], CHILD),
        rule("networking.k8s.io", &["networkpolicies"], CHILD),
        rule("policy", &["poddisruptionbudgets"], CHILD),
        rule("monitoring.coreos.com", &["servicemonitors"], CHILD),
        // Not watched: they are read when DNS is looked at.
        rule(
            "externaldns.k8s.io",
            &["dnsendpoints"],
            &["get", "list", "create", "patch", "delete"],
        ),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        // Where the replicas' admin ports are, for their status.
        rule("discovery.k8s.io", &["endpointslices"], &["list"]),
    ]
}

/// Rules for the namespace that the operator runs in: its leader election.
#[must_use]
pub fn in_own_namespace() -> Vec<PolicyRule> {
    vec![rule("coordination.k8s.io", &["leases"], &["get", "create", "update"])]
}

/// Labels and rules of roles for people, which the cluster's own roles take in: `view` reads resources, `edit` writes them
/// too.
#[must_use]
pub fn for_people() -> [(&'static str, &'static [&'static str], PolicyRule); 2] {
    let read = rule(
        GROUP,
        &["officekmshosts", "officekmshosts/status"],
        &["get", "list", "watch"],
    );
    let write = rule(
        GROUP,
        &["officekmshosts", "officekmshosts/scale"],
        &["create", "update", "patch", "delete", "deletecollection"],
    );
    [
        ("view", &["view", "edit", "admin"], read),
        ("edit", &["edit", "admin"], write),
    ]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_granted_by_wildcard_and_secrets_are_never_listed() {
        for rule in in_watched_namespaces().into_iter().chain(in_own_namespace()) {
            let resources = rule.resources.expect("every rule names resources");
            let groups = rule.api_groups.expect("every rule names groups");
            assert!(
                rule.verbs
                    .iter()
                    .chain(&resources)
                    .chain(&groups)
                    .all(|word| !word.contains('*'))
            );
            if resources.iter().any(|resource| resource == "secrets") {
                assert!(!rule.verbs.iter().any(|verb| verb == "list" || verb == "watch"));
            }
        }
    }
}
