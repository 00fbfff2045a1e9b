//! The managed ledger: one small Redis with a volume, for those who have none of their own.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, ExecAction, KeyToPath,
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ResourceRequirements, SecretKeySelector, SecretVolumeSource, Service, ServiceSpec, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sha2::{Digest as _, Sha256};

use super::common::{
    Component, Patience, container, labels, metadata, pod_security, pull_secrets, select, selector, workload_metadata,
};
use super::{Inputs, REDIS_PORT, config_map, names, network_policy, service};
use crate::api::{DeletionPolicy, ManagedLedger, OfficeKmsHost};
use crate::settings::Settings;

const PORT: &str = "redis";
const CONFIG_FILE: &str = "redis.conf";
const CONFIG_DIRECTORY: &str = "/etc/redis/config";
const AUTH_DIRECTORY: &str = "/etc/redis/auth";
/// Name of the volume, and of its claim.
pub const DATA: &str = "data";
const DATA_DIRECTORY: &str = "/data";

/// Written to the append-only file every second: what a crash loses, replicas write again or count again.
fn configuration() -> String {
    let auth = names::AUTH_CONF;
    [
        "bind * -::*",
        &format!("port {REDIS_PORT}"),
        &format!("dir {DATA_DIRECTORY}"),
        "appendonly yes",
        "appendfsync everysec",
        // The append-only file is enough.
        "save \"\"",
        // A full memory must be seen, not lose counts.
        "maxmemory-policy noeviction",
        "tcp-keepalive 60",
        &format!("include {AUTH_DIRECTORY}/{auth}"),
    ]
    .join("\n")
        + "\n"
}

/// Its configuration, without the password.
#[must_use]
pub fn config_map(host: &OfficeKmsHost) -> ConfigMap {
    ConfigMap {
        metadata: metadata(host, names::redis(host), Component::Ledger),
        data: Some([(CONFIG_FILE.to_owned(), configuration())].into()),
        ..ConfigMap::default()
    }
}

/// Its address.
#[must_use]
pub fn service(host: &OfficeKmsHost) -> Service {
    Service {
        metadata: metadata(host, names::redis(host), Component::Ledger),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(selector(host, Component::Ledger)),
            ports: Some(vec![service::port(PORT, i32::from(REDIS_PORT))]),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Only the replicas of the same resource, and operators, reach it; it reaches nobody.
#[must_use]
pub fn network_policy(host: &OfficeKmsHost) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(host, names::redis(host), Component::Ledger),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(host, Component::Ledger)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(vec![
                    NetworkPolicyPeer {
                        pod_selector: Some(select(host, Component::Host)),
                        ..NetworkPolicyPeer::default()
                    },
                    network_policy::operators(),
                ]),
                ports: Some(vec![network_policy::tcp(PORT)]),
            }]),
            // No rule for a listed type lets nothing out. An empty list would be the same, and a write at each apply.
            egress: None,
        }),
    }
}

/// The StatefulSet of one pod and one volume.
#[must_use]
pub fn stateful_set(host: &OfficeKmsHost, settings: &Settings, inputs: &Inputs) -> StatefulSet {
    let managed = host
        .spec
        .ledger
        .as_ref()
        .and_then(|ledger| ledger.managed.clone())
        .unwrap_or_default();
    let when_deleted = match host.spec.deletion_policy {
        DeletionPolicy::Delete => "Delete",
        DeletionPolicy::Retain => "Retain",
    };
    let mut annotations = BTreeMap::from([(
        super::deployment::CONFIG_ANNOTATION.to_owned(),
        config_map::short_digest(&Sha256::digest(configuration())),
    )]);
    if let Some(digest) = inputs.redis_digest() {
        annotations.insert(super::deployment::KEYS_ANNOTATION.to_owned(), digest.to_owned());
    }
    StatefulSet {
        metadata: workload_metadata(
            host,
            names::redis(host),
            Component::Ledger,
            managed.image.as_deref(),
            &settings.redis_image,
        ),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names::redis(host)),
            selector: select(host, Component::Ledger),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some(when_deleted.to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels(host, Component::Ledger)),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(host, &managed, settings)),
            },
            volume_claim_templates: Some(vec![claim(host, &managed)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// Claims of a StatefulSet can't change, so nothing but the selector's labels is on them.
fn claim(host: &OfficeKmsHost, managed: &ManagedLedger) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            labels: Some(selector(host, Component::Ledger)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: managed.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(managed.storage.size.clone()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn pod(host: &OfficeKmsHost, managed: &ManagedLedger, settings: &Settings) -> PodSpec {
    PodSpec {
        service_account_name: Some(kube::ResourceExt::name_any(host)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(security(settings)),
        image_pull_secrets: pull_secrets(host, settings),
        termination_grace_period_seconds: Some(30),
        node_selector: (!managed.node_selector.is_empty()).then(|| managed.node_selector.clone()),
        tolerations: (!managed.tolerations.is_empty()).then(|| managed.tolerations.clone()),
        priority_class_name: managed.priority_class_name.clone(),
        containers: vec![redis_container(host, managed, settings)],
        volumes: Some(volumes(host)),
        ..PodSpec::default()
    }
}

/// Public images of Redis and Valkey name no numeric user, which `runAsNonRoot` needs.
fn security(settings: &Settings) -> PodSecurityContext {
    let user = (settings.redis_user != 0).then_some(settings.redis_user);
    PodSecurityContext {
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: user.map(|_| "OnRootMismatch".to_owned()),
        ..pod_security()
    }
}

fn redis_container(host: &OfficeKmsHost, managed: &ManagedLedger, settings: &Settings) -> Container {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    let quick = Patience {
        period: 5,
        timeout: 3,
        failures: 3,
    };
    Container {
        // Valkey's images answer to this name too. No shell and no entry point script is needed.
        command: Some(vec![
            "redis-server".to_owned(),
            format!("{CONFIG_DIRECTORY}/{CONFIG_FILE}"),
        ]),
        env: Some(vec![password_for_probe(host)]),
        ports: Some(vec![ContainerPort {
            name: Some(PORT.to_owned()),
            container_port: i32::from(REDIS_PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: Some(managed.resources.clone().unwrap_or_else(default_resources)),
        // A large append-only file takes a while to be read.
        startup_probe: Some(Patience { failures: 60, ..quick }.tcp(PORT)),
        liveness_probe: Some(Patience { period: 10, ..quick }.tcp(PORT)),
        readiness_probe: Some(Probe {
            exec: Some(ExecAction {
                command: Some(["redis-cli", "-e", "ping"].map(str::to_owned).into()),
            }),
            ..quick.probe()
        }),
        volume_mounts: Some(vec![
            mount("config", CONFIG_DIRECTORY, true),
            mount("auth", AUTH_DIRECTORY, true),
            mount(DATA, DATA_DIRECTORY, false),
        ]),
        ..container(
            "redis",
            managed.image.as_deref().unwrap_or(&settings.redis_image),
            settings,
        )
    }
}

/// The variable in which `redis-cli` looks for a password.
fn password_for_probe(host: &OfficeKmsHost) -> EnvVar {
    EnvVar {
        name: "REDISCLI_AUTH".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: names::redis(host),
                key: names::PASSWORD.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}

fn default_resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| {
        Some(
            list.iter()
                .map(|&(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .collect(),
        )
    };
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        limits: quantities(&[("memory", "512Mi")]),
        claims: None,
    }
}

fn volumes(host: &OfficeKmsHost) -> Vec<Volume> {
    vec![
        Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names::redis(host),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: "auth".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(names::redis(host)),
                items: Some(vec![KeyToPath {
                    key: names::AUTH_CONF.to_owned(),
                    path: names::AUTH_CONF.to_owned(),
                    mode: None,
                }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]
}
