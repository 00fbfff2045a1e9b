//! What all children share: labels, owner, security, pods of the `restricted` kind.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, HTTPGetAction, LocalObjectReference, PodSecurityContext, Probe, SeccompProfile,
    SecurityContext, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource as _, ResourceExt as _};

use super::IMAGE_ANNOTATION;
use crate::api::OfficeKmsHost;
use crate::settings::Settings;

/// Value of the label `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "kms-operator";

/// Labels as Kubernetes takes them.
pub type Labels = BTreeMap<String, String>;

/// What a child is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// Host replicas.
    Host,
    /// The managed ledger.
    Ledger,
}

impl Component {
    /// `app.kubernetes.io/name` and `app.kubernetes.io/component`.
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::Host => ("kms-host", "host"),
            Self::Ledger => ("redis", "ledger"),
        }
    }
}

fn label_map<const N: usize>(labels: [(&str, &str); N]) -> Labels {
    labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Label of the resource that a child belongs to.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// Labels that pods are selected by. They never change.
#[must_use]
pub fn selector(host: &OfficeKmsHost, component: Component) -> Labels {
    let (name, component) = component.labels();
    label_map([
        ("app.kubernetes.io/name", name),
        (INSTANCE, &host.name_any()),
        ("app.kubernetes.io/component", component),
    ])
}

/// Labels of a child.
#[must_use]
pub fn labels(host: &OfficeKmsHost, component: Component) -> Labels {
    let mut labels = label_map([
        ("app.kubernetes.io/managed-by", MANAGED_BY),
        ("app.kubernetes.io/part-of", "officekms"),
    ]);
    labels.extend(selector(host, component));
    labels
}

pub(super) fn select(host: &OfficeKmsHost, component: Component) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(host, component)),
        match_expressions: None,
    }
}

/// Labels that the user added, under the operator's own.
pub(super) fn with(added: &Labels, own: Labels) -> Labels {
    let mut all = added.clone();
    all.extend(own);
    all
}

/// Metadata of a child: where it is, what it is, and that it goes when the resource goes.
#[must_use]
pub fn metadata(host: &OfficeKmsHost, name: String, component: Component) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: host.namespace(),
        labels: Some(labels(host, component)),
        owner_references: owner(host).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The same for a workload, which remembers the default image that it was made with.
pub(super) fn workload_metadata(
    host: &OfficeKmsHost,
    name: String,
    component: Component,
    own_image: Option<&str>,
    default_image: &str,
) -> ObjectMeta {
    let made_with = |image: &str| label_map([(IMAGE_ANNOTATION, image)]);
    ObjectMeta {
        annotations: own_image.is_none().then(|| made_with(default_image)),
        ..metadata(host, name, component)
    }
}

/// The owner reference of children. None before the API server gave the resource its UID.
#[must_use]
pub fn owner(host: &OfficeKmsHost) -> Option<OwnerReference> {
    let owner = host.controller_owner_ref(&())?;
    Some(OwnerReference {
        block_owner_deletion: Some(true),
        ..owner
    })
}

pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..PodSecurityContext::default()
    }
}

/// No privilege, no capability, nothing to write on but the volumes.
pub(super) fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}

pub(super) fn container(name: &str, image: &str, settings: &Settings) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.as_str().to_owned()),
        security_context: Some(container_security()),
        ..Container::default()
    }
}

/// The resource's pull secrets, then the operator's.
pub(super) fn pull_secrets(host: &OfficeKmsHost, settings: &Settings) -> Option<Vec<LocalObjectReference>> {
    let own = host
        .spec
        .pod
        .iter()
        .flat_map(|pod| &pod.image_pull_secrets)
        .map(|secret| &secret.name);
    let mut names: Vec<String> = Vec::new();
    for name in own.chain(&settings.image_pull_secrets) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    (!names.is_empty()).then(|| names.into_iter().map(|name| LocalObjectReference { name }).collect())
}

/// How often and how long a probe is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) period: i32,
    pub(super) timeout: i32,
    pub(super) failures: i32,
}

impl Patience {
    pub(super) fn probe(self) -> Probe {
        Probe {
            period_seconds: Some(self.period),
            timeout_seconds: Some(self.timeout),
            failure_threshold: Some(self.failures),
            ..Probe::default()
        }
    }

    pub(super) fn http(self, path: &str, port: &str) -> Probe {
        Probe {
            http_get: Some(HTTPGetAction {
                path: Some(path.to_owned()),
                port: IntOrString::String(port.to_owned()),
                ..HTTPGetAction::default()
            }),
            ..self.probe()
        }
    }

    pub(super) fn tcp(self, port: &str) -> Probe {
        Probe {
            tcp_socket: Some(TCPSocketAction {
                port: IntOrString::String(port.to_owned()),
                host: None,
            }),
            ..self.probe()
        }
    }
}
