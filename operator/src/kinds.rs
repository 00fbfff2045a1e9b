//! The kinds of children: how each is reached and how much of it is watched.

use kube::core::{ApiResource, DynamicObject};

/// How a kind is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// As a whole: its status is part of ours.
    Whole,
    /// Its metadata only.
    Metadata,
    /// Not at all: read by name, since a permission to list Secrets is one to read them all.
    ByName,
}

/// A kind of children.
#[derive(Debug, PartialEq, Eq)]
pub struct ChildKind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Resource in URLs and permissions.
    pub plural: &'static str,
    /// How it is watched.
    pub watched: Watched,
    /// What to do where the cluster does not have the kind; none for kinds that every cluster has.
    pub absent: Option<&'static str>,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    watched: Watched,
) -> ChildKind {
    ChildKind {
        group,
        version,
        kind,
        plural,
        watched,
        absent: None,
    }
}

/// Secrets: generated ones are children, and those of users are read.
pub const SECRET: ChildKind = kind("", "v1", "Secret", "secrets", Watched::ByName);

/// ConfigMaps: those of replicas are children, and those of users are read.
pub const CONFIG_MAP: ChildKind = kind("", "v1", "ConfigMap", "configmaps", Watched::Metadata);

/// The resource itself.
pub const HOST: ChildKind = ChildKind {
    group: crate::api::GROUP,
    version: "v1alpha1",
    kind: "OfficeKmsHost",
    plural: "officekmshosts",
    watched: Watched::Whole,
    absent: Some("install the CRD, with the chart or from crds/"),
};

/// Its status, as permissions name it.
pub const HOST_STATUS: ChildKind = kind(
    crate::api::GROUP,
    "v1alpha1",
    "OfficeKmsHost",
    "officekmshosts/status",
    Watched::Whole,
);

/// Every kind that the operator applies and prunes. DNSEndpoints are with [`crate::dns::cluster`].
pub static KINDS: [ChildKind; 10] = [
    kind("", "v1", "ServiceAccount", "serviceaccounts", Watched::Metadata),
    SECRET,
    CONFIG_MAP,
    kind("", "v1", "Service", "services", Watched::Whole),
    kind("apps", "v1", "Deployment", "deployments", Watched::Whole),
    kind("apps", "v1", "StatefulSet", "statefulsets", Watched::Whole),
    kind(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        Watched::Metadata,
    ),
    kind(
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        Watched::Metadata,
    ),
    kind(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        Watched::Metadata,
    ),
    ChildKind {
        group: "monitoring.coreos.com",
        version: "v1",
        kind: "ServiceMonitor",
        plural: "servicemonitors",
        watched: Watched::Metadata,
        absent: Some("install the Prometheus operator's CRDs, or remove spec.monitoring.serviceMonitor"),
    },
];

impl ChildKind {
    /// The kind of this name, if it is one of ours.
    #[must_use]
    pub fn named(kind: &str) -> Option<&'static Self> {
        KINDS.iter().find(|known| known.kind == kind)
    }

    /// The kind of an object, if it is one of ours.
    #[must_use]
    pub fn of(object: &DynamicObject) -> Option<&'static Self> {
        let types = object.types.as_ref()?;
        KINDS
            .iter()
            .find(|kind| kind.kind == types.kind && kind.api_version() == types.api_version)
    }

    /// `apiVersion` of its objects.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// For clients.
    #[must_use]
    pub fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: self.api_version(),
            kind: self.kind.to_owned(),
            plural: self.plural.to_owned(),
        }
    }

    /// Resource with its group, as permissions and error messages name it: `deployments.apps`.
    #[must_use]
    pub fn resource_name(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_may_be_made_and_watched_ones_listed() {
        let rules = crate::rbac::in_watched_namespaces();
        for kind in &KINDS {
            let rule = rules.iter().find(|rule| {
                let has = |list: &Option<Vec<String>>, what: &str| list.iter().flatten().any(|item| item == what);
                has(&rule.api_groups, kind.group) && has(&rule.resources, kind.plural)
            });
            let verbs = &rule.unwrap_or_else(|| panic!("{} has no rule", kind.kind)).verbs;
            for verb in ["get", "create", "patch"] {
                assert!(verbs.iter().any(|given| given == verb), "{verb} {}", kind.plural);
            }
            // Generated Secrets go with their owner.
            let deleted = verbs.iter().any(|verb| verb == "delete");
            assert_eq!(deleted, kind.watched != Watched::ByName, "{}", kind.plural);
            let listed = verbs.iter().any(|verb| verb == "list");
            assert_eq!(listed, kind.watched != Watched::ByName, "{}", kind.plural);
        }
    }
}
