//! Workloads and their pods: why one does not run.

use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kms_operator::build::references;
use kube::ResourceExt as _;

use super::State;
use super::facts::Resource;
use super::findings::Findings;

/// The Deployment, the managed ledger, and pods and claims of both.
pub(super) fn workloads(resource: &Resource, found: &mut Findings<'_>) {
    deployment(resource, found);
    if references::is_managed(&resource.host) {
        ledger(resource, found);
    }
    if let Some(pods) = found.read("pods", &resource.pods) {
        for pod in pods {
            self::pod(pod, found);
        }
    }
}

fn deployment(resource: &Resource, found: &mut Findings<'_>) {
    let Some(deployment) = found.read("Deployment", &resource.deployment) else {
        return;
    };
    let Some(deployment) = deployment else {
        found.add(
            State::NotYet,
            "Deployment",
            "does not exist",
            "the operator creates it: see whether one runs".to_owned(),
        );
        return;
    };
    let status = deployment.status.clone().unwrap_or_default();
    for condition in status.conditions.iter().flatten() {
        let stuck = matches!(
            (condition.type_.as_str(), condition.status.as_str()),
            ("ReplicaFailure", "True") | ("Progressing", "False")
        );
        if stuck {
            let message = condition.message.clone().unwrap_or_default();
            let advice =
                "a quota, a policy or a webhook of the cluster may refuse the pods: the message names it".to_owned();
            found.add(State::Wrong, "Deployment", message, advice);
        }
    }
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = status.ready_replicas.unwrap_or(0);
    let what = format!("{ready} of {wanted} replicas are ready");
    match ready {
        _ if wanted == 0 => found.add(
            State::NotYet,
            "Deployment",
            "is scaled to none: no client is answered",
            None,
        ),
        ready if ready >= wanted => found.good("Deployment", what),
        0 => found.add(State::Wrong, "Deployment", what, None),
        _ => found.add(State::NotYet, "Deployment", what, None),
    }
}

fn ledger(resource: &Resource, found: &mut Findings<'_>) {
    if let Some(set) = found.read("managed ledger", &resource.stateful_set) {
        match set.as_ref().map(|set| {
            set.status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0)
        }) {
            None => found.add(
                State::NotYet,
                "managed ledger",
                "does not exist",
                "the operator creates it".to_owned(),
            ),
            Some(0) => found.add(
                State::Wrong,
                "managed ledger",
                "is not ready",
                "relays go on by the preference order; rehearsal hosts answer nobody".to_owned(),
            ),
            Some(_) => found.good("managed ledger", "is ready"),
        }
    }
    if let Some(claims) = found.read("volume", &resource.claims) {
        for claim in claims {
            volume(claim, found);
        }
    }
}

fn volume(claim: &PersistentVolumeClaim, found: &mut Findings<'_>) {
    let phase = claim
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    let about = format!("volume {}", claim.name_any());
    if phase == "Bound" {
        found.good(&about, "is bound");
    } else {
        let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
        let what = format!(
            "is {phase}, of storage class {}",
            class.unwrap_or("(none: the cluster has no default)")
        );
        let advice =
            "set spec.ledger.managed.storage.storageClassName to a class that exists, or bring a Redis of your own";
        found.add(State::Wrong, &about, what, advice.to_owned());
    }
}

fn pod(pod: &Pod, found: &mut Findings<'_>) {
    let about = format!("pod {}", pod.name_any());
    let namespace = pod.namespace().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let condition = |type_: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == type_)
    };
    if let Some(scheduled) = condition("PodScheduled")
        && scheduled.status == "False"
    {
        let message = scheduled.message.clone().unwrap_or_default();
        let advice = "give the cluster room, or relax spec.pod.nodeSelector, affinity or resources".to_owned();
        found.add(State::Wrong, &about, format!("no node takes it: {message}"), advice);
        return;
    }
    let waiting = status.container_statuses.iter().flatten().find_map(waiting);
    if let Some((reason, message)) = waiting {
        let (state, advice) = advice(&reason, &namespace, &pod.name_any());
        found.add(state, &about, format!("{reason}: {message}"), advice);
        return;
    }
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        found.good(&about, "is ready");
    } else {
        let logs = format!("kubectl -n {namespace} logs {}", pod.name_any());
        found.add(State::NotYet, &about, "is not ready", logs);
    }
}

fn waiting(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let ended = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let message = waiting
        .message
        .clone()
        .or_else(|| ended.map(|ended| format!("it ended with code {}", ended.exit_code)));
    Some((waiting.reason.clone().unwrap_or_default(), message.unwrap_or_default()))
}

/// What to do about a container that waits (kubelet's reasons).
fn advice(reason: &str, namespace: &str, pod: &str) -> (State, Option<String>) {
    match reason {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => (
            State::Wrong,
            Some("check spec.pod.image or the operator's --host-image, and spec.pod.imagePullSecrets".to_owned()),
        ),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            (State::Wrong, Some(format!("kubectl -n {namespace} describe pod {pod}")))
        }
        "CrashLoopBackOff" => (
            State::Wrong,
            Some(format!("kubectl -n {namespace} logs {pod} --previous")),
        ),
        // ContainerCreating, PodInitializing.
        _ => (
            State::NotYet,
            Some(format!("kubectl -n {namespace} describe pod {pod}")),
        ),
    }
}
