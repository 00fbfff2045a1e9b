//! The Deployment of the host replicas.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, KeyToPath, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, PodSpec, PodTemplateSpec, ProjectedVolumeSource, ResourceRequirements,
    SecretProjection, SleepAction, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kms_host::config::{ADMIN_PORT, KMS_PORT};
use kube::ResourceExt as _;

use super::common::{
    Component, Patience, container, labels, pod_security, pull_secrets, select, with, workload_metadata,
};
use super::config_map::Written;
use super::references::{Kind, Reference};
use super::service::{ADMIN, KMS, MANAGEMENT};
use super::{Inputs, MANAGEMENT_PORT, SECRETS_DIRECTORY, config_map, drain, names, references, scaling};
use crate::api::{self, OfficeKmsHost};
use crate::settings::Settings;

/// Annotation of pods: a digest of the configuration that only a restart takes over.
pub const CONFIG_ANNOTATION: &str = "officekms.io/config";

/// Annotation of pods: a digest of the keys that replicas read when they start.
pub const KEYS_ANNOTATION: &str = "officekms.io/keys";

const CONFIG_DIRECTORY: &str = "/etc/officekms/config";

/// Everyone in the pod may read the files and nobody may write them: the image's user is not known here.
const READ_ONLY: i32 = 0o444;

/// The Deployment.
#[must_use]
pub fn build(host: &OfficeKmsHost, config: &Written, settings: &Settings, inputs: &Inputs) -> Deployment {
    let own_image = host.spec.pod.as_ref().and_then(|pod| pod.image.as_deref());
    Deployment {
        metadata: workload_metadata(host, host.name_any(), Component::Host, own_image, &settings.host_image),
        spec: Some(DeploymentSpec {
            replicas: scaling::replicas(host),
            selector: select(host, Component::Host),
            strategy: Some(one_more_never_one_less()),
            min_ready_seconds: Some(5),
            revision_history_limit: Some(3),
            template: PodTemplateSpec {
                metadata: Some(template_metadata(host, config, inputs)),
                spec: Some(pod(host, settings)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn one_more_never_one_less() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_surge: Some(IntOrString::Int(1)),
            max_unavailable: Some(IntOrString::Int(0)),
        }),
    }
}

/// Nothing here depends on the operator's version, so that its upgrade restarts no pod; nor does the default image, which a
/// workload keeps ([`crate::control::upgrade`]).
fn template_metadata(host: &OfficeKmsHost, config: &Written, inputs: &Inputs) -> ObjectMeta {
    let none = BTreeMap::new();
    let (added_labels, added_annotations) = host
        .spec
        .pod
        .as_ref()
        .map_or((&none, &none), |pod| (&pod.labels, &pod.annotations));
    let mut annotations = BTreeMap::from([(CONFIG_ANNOTATION.to_owned(), config.restart_digest.clone())]);
    if let Some(keys) = inputs.keys_digest() {
        annotations.insert(KEYS_ANNOTATION.to_owned(), keys.to_owned());
    }
    ObjectMeta {
        labels: Some(with(added_labels, labels(host, Component::Host))),
        annotations: Some(with(added_annotations, annotations)),
        ..ObjectMeta::default()
    }
}

fn pod(host: &OfficeKmsHost, settings: &Settings) -> PodSpec {
    let pod: api::PodSpec = host.spec.pod.clone().unwrap_or_default();
    let some_map = |map: BTreeMap<String, String>| (!map.is_empty()).then_some(map);
    PodSpec {
        service_account_name: Some(host.name_any()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(pod_security()),
        image_pull_secrets: pull_secrets(host, settings),
        termination_grace_period_seconds: i64::try_from(drain::seconds(&host.spec).grace).ok(),
        node_selector: some_map(pod.node_selector),
        tolerations: (!pod.tolerations.is_empty()).then_some(pod.tolerations),
        affinity: pod.affinity,
        topology_spread_constraints: Some(pod.topology_spread_constraints.unwrap_or_else(|| spread(host)))
            .filter(|constraints| !constraints.is_empty()),
        priority_class_name: pod.priority_class_name,
        containers: vec![host_container(host, pod.image.as_deref(), pod.resources, settings)],
        volumes: Some(volumes(host)),
        ..PodSpec::default()
    }
}

/// Over nodes and zones, as far as there are any: a full cluster is no reason to answer nobody.
fn spread(host: &OfficeKmsHost) -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .map(|topology| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: topology.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(select(host, Component::Host)),
            // Replicas of the revision that is leaving do not count.
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        })
        .into()
}

fn host_container(
    host: &OfficeKmsHost,
    image: Option<&str>,
    resources: Option<ResourceRequirements>,
    settings: &Settings,
) -> Container {
    let managed = host
        .spec
        .rehearsal
        .as_ref()
        .is_some_and(|rehearsal| rehearsal.management_secret.is_some());
    let mut ports = vec![port(KMS, KMS_PORT), port(ADMIN, ADMIN_PORT)];
    ports.extend(managed.then(|| port(MANAGEMENT, MANAGEMENT_PORT)));
    let sleep = i64::try_from(drain::seconds(&host.spec).before_stop).unwrap_or(1);
    Container {
        args: Some(vec![
            "--config".to_owned(),
            format!("{CONFIG_DIRECTORY}/{}", config_map::FILE),
        ]),
        env: Some(environment(host)),
        ports: Some(ports),
        resources: Some(resources.unwrap_or_else(default_resources)),
        volume_mounts: Some(mounts(host)),
        startup_probe: Some(
            Patience {
                period: 2,
                timeout: 2,
                failures: 30,
            }
            .http("/healthz", ADMIN),
        ),
        liveness_probe: Some(
            Patience {
                period: 10,
                timeout: 3,
                failures: 3,
            }
            .http("/healthz", ADMIN),
        ),
        readiness_probe: Some(
            Patience {
                period: 5,
                timeout: 3,
                failures: 2,
            }
            .http("/readyz", ADMIN),
        ),
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: sleep }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ..container("kms-host", image.unwrap_or(&settings.host_image), settings)
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn environment(host: &OfficeKmsHost) -> Vec<EnvVar> {
    let monitoring = host.spec.monitoring.as_ref();
    let collector = monitoring.and_then(|monitoring| monitoring.otlp_endpoint.clone());
    let collector = collector.map(|url| EnvVar {
        name: "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
        value: Some(url),
        value_from: None,
    });
    [pod_name()].into_iter().chain(collector).collect()
}

/// Each replica is called as its pod, although all read one file.
fn pod_name() -> EnvVar {
    EnvVar {
        name: "KMS_HOST_NAME".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.name".to_owned(),
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
        limits: quantities(&[("memory", "256Mi")]),
        claims: None,
    }
}

fn mounts(host: &OfficeKmsHost) -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    let mut mounts = vec![mount("config", CONFIG_DIRECTORY)];
    if !references::mounted(host).is_empty() {
        mounts.push(mount("secrets", SECRETS_DIRECTORY));
    }
    mounts
}

/// Whole directories, never single files, so that the kubelet brings changes into running pods.
fn volumes(host: &OfficeKmsHost) -> Vec<Volume> {
    let mut volumes = vec![Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: names::config(host),
            default_mode: Some(READ_ONLY),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }];
    let sources: Vec<VolumeProjection> = references::mounted(host).iter().map(projection).collect();
    if !sources.is_empty() {
        volumes.push(Volume {
            name: "secrets".to_owned(),
            projected: Some(ProjectedVolumeSource {
                default_mode: Some(READ_ONLY),
                sources: Some(sources),
            }),
            ..Volume::default()
        });
    }
    volumes
}

fn projection(reference: &Reference) -> VolumeProjection {
    let items = Some(vec![KeyToPath {
        key: reference.key.clone(),
        path: reference.file.to_owned(),
        mode: None,
    }]);
    match reference.kind {
        Kind::Secret => VolumeProjection {
            secret: Some(SecretProjection {
                name: reference.name.clone(),
                items,
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        Kind::ConfigMap => VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: reference.name.clone(),
                items,
                optional: None,
            }),
            ..VolumeProjection::default()
        },
    }
}
