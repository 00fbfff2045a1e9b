use clap::Parser;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kms_operator::api::OfficeKmsHost;
use kms_operator::secrets::Objects;
use serde_json::{Value, json};

use super::diagnose::diagnose;
use super::facts::{Facts, Operator, Permission, Resource};
use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object")
}

fn condition(type_: &str, status: &str) -> Value {
    json!({"type": type_, "status": status, "reason": "Because", "message": "of this", "lastTransitionTime": "2026-11-01T00:00:00Z"})
}

/// A resource with a managed ledger, of which everything is as it should be.
fn healthy() -> Facts {
    let host: OfficeKmsHost = of(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": "kms", "namespace": "licensing", "generation": 2},
        "spec": {"licensedHosts": [{"name": "a", "address": "kms-a.example"}]},
        "status": {
            "observedGeneration": 2,
            "conditions": [condition("Ready", "True"), condition("HostsUnequal", "False")],
            "licensedHosts": [{"name": "a", "reachable": true, "licensed": true}],
            "dns": [{"zone": "corp.example", "verified": true}],
        },
    }));
    let mut objects = Objects::default();
    let key = "00".repeat(32);
    for (name, entry) in [("kms-keys", "ledger-key"), ("kms-redis", "password")] {
        objects.add_secret(of::<Secret>(
            json!({"metadata": {"name": name}, "stringData": {entry: key}}),
        ));
    }
    let pod = json!({
        "metadata": {"name": "kms-1", "namespace": "licensing"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": []},
    });
    Facts {
        served: Ok(Some(vec!["v1alpha1".to_owned()])),
        operators: Ok(vec![Operator {
            namespace: "officekms".to_owned(),
            name: "kms-operator".to_owned(),
            service_account: "kms-operator".to_owned(),
            watches: Vec::new(),
            wanted: 2,
            ready: 2,
        }]),
        permissions: vec![permission(Ok(true))],
        resources: Ok(vec![Resource {
            host,
            objects,
            deployment: Ok(Some(of::<Deployment>(json!({
                "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"readyReplicas": 2},
            })))),
            stateful_set: Ok(Some(of::<StatefulSet>(
                json!({"status": {"replicas": 1, "readyReplicas": 1}}),
            ))),
            service: Ok(Some(Service::default())),
            pods: Ok(vec![of::<Pod>(pod)]),
            claims: Ok(vec![of::<PersistentVolumeClaim>(
                json!({"metadata": {"name": "data"}, "status": {"phase": "Bound"}}),
            )]),
        }]),
        asked: (None, Some("licensing".to_owned())),
    }
}

fn permission(allowed: Result<bool, String>) -> Permission {
    Permission {
        account: "officekms/kms-operator".to_owned(),
        namespace: "licensing".to_owned(),
        verb: "patch".to_owned(),
        group: "apps".to_owned(),
        resource: "deployments".to_owned(),
        allowed,
    }
}

fn resource(facts: &mut Facts) -> &mut Resource {
    &mut facts.resources.as_mut().expect("resources")[0]
}

fn status(facts: &mut Facts) -> &mut kms_operator::api::OfficeKmsHostStatus {
    resource(facts).host.status.as_mut().expect("a status")
}

/// What is told beyond a healthy cluster, as lines.
fn told(change: impl FnOnce(&mut Facts)) -> (Vec<String>, Exit) {
    let mut facts = healthy();
    change(&mut facts);
    let report = Report::new(diagnose(&facts), false);
    let ill = report.findings.iter().filter(|finding| finding.state != State::Good);
    let lines = ill.map(|finding| {
        let advice = finding.advice.as_deref().unwrap_or("-");
        format!(
            "{} {}: {} -> {advice}",
            finding.state.word(),
            finding.about,
            finding.what
        )
    });
    (lines.collect(), report.exit())
}

#[test]
fn a_healthy_resource_is_said_to_be_healthy() {
    assert_eq!(told(|_| {}), (vec![], Exit::Ok));
    let report = Report::new(diagnose(&healthy()), true);
    let mut out = Vec::new();
    report.view(&mut out).expect("a view");
    let text = String::from_utf8(out).expect("text");
    assert!(
        text.ends_with(&format!("{} checks, nothing is wrong\n", report.findings.len())),
        "{text}"
    );
    assert!(report.findings.len() >= 12);
}

/// Each change makes exactly one more finding, and it names the cause.
#[test]
fn each_cause_is_named_with_what_to_do() {
    type Change = fn(&mut Facts);
    let cases: Vec<(Change, &str)> = vec![
        (
            |facts| facts.served = Ok(Some(vec!["v1".to_owned()])),
            "WRONG CRD: serves v1, not v1alpha1",
        ),
        (
            |facts| facts.served = Err("forbidden".to_owned()),
            "unknown CRD: could not be read: forbidden",
        ),
        (|facts| facts.operators = Ok(vec![]), "WRONG operator: there is none"),
        (
            |facts| facts.operators.as_mut().expect("operators")[0].ready = 0,
            "WRONG operator: officekms/kms-operator has 0 of 2",
        ),
        (
            |facts| facts.operators.as_mut().expect("operators")[0].wanted = 0,
            "WRONG operator: officekms/kms-operator is scaled to none",
        ),
        (
            |facts| facts.permissions.push(permission(Ok(false))),
            "WRONG permission: the operator (officekms/kms-operator) may not patch deployments.apps in namespace licensing",
        ),
        (
            |facts| facts.permissions.push(permission(Err("no".to_owned()))),
            "unknown permission: what the operator may do",
        ),
        (
            |facts| facts.resources = Ok(vec![]),
            "not yet OfficeKmsHost: there is none in namespace licensing",
        ),
        (
            |facts| {
                facts.resources = Ok(vec![]);
                facts.asked.0 = Some("kms".to_owned());
            },
            "WRONG OfficeKmsHost: there is no `kms` in namespace licensing",
        ),
        (
            |facts| {
                resource(facts).host.spec.service =
                    Some(of(json!({"type": "NodePort", "loadBalancerSourceRanges": ["x"]})));
            },
            "WRONG licensing/kms spec.service.loadBalancerSourceRanges[0]",
        ),
        (
            |facts| {
                resource(facts).host.metadata.annotations =
                    Some([("officekms.io/paused".to_owned(), "true".to_owned())].into());
            },
            "not yet licensing/kms pause: changes are stopped",
        ),
        (
            |facts| {
                resource(facts).host.metadata = of(json!({
                    "name": "kms", "namespace": "licensing", "generation": 2, "finalizers": ["officekms.io/dns"],
                    "deletionTimestamp": "2026-11-01T00:00:00Z",
                }));
            },
            "not yet licensing/kms deletion: waits for officekms.io/dns",
        ),
        (
            |facts| status(facts).observed_generation = Some(1),
            "not yet licensing/kms status: is of generation 1",
        ),
        (
            |facts| resource(facts).host.status = None,
            "WRONG licensing/kms status: no operator has looked at it",
        ),
        (
            |facts| status(facts).conditions = vec![of(condition("LedgerReady", "False"))],
            "WRONG licensing/kms condition LedgerReady",
        ),
        (
            |facts| status(facts).conditions = vec![of(condition("ThresholdMet", "False"))],
            "not yet licensing/kms condition ThresholdMet",
        ),
        (
            |facts| status(facts).conditions = vec![of(condition("HostsUnequal", "True"))],
            "WRONG licensing/kms condition HostsUnequal",
        ),
        (
            |facts| status(facts).conditions = vec![of(condition("DnsPublished", "Unknown"))],
            "unknown licensing/kms condition DnsPublished",
        ),
        (
            |facts| status(facts).licensed_hosts[0].reachable = Some(false),
            "WRONG licensing/kms licensed host a: its WS-Management",
        ),
        (
            |facts| status(facts).licensed_hosts[0].licensed = Some(false),
            "WRONG licensing/kms licensed host a: is not activated",
        ),
        (
            |facts| status(facts).dns[0].verified = false,
            "WRONG licensing/kms zone corp.example: is not verified",
        ),
        (
            |facts| status(facts).dns[0].foreign = vec!["r".to_owned()],
            "WRONG licensing/kms zone corp.example: holds another's record: r",
        ),
        (
            |facts| resource(facts).deployment = Ok(None),
            "not yet licensing/kms Deployment: does not exist",
        ),
        (
            |facts| resource(facts).deployment = Ok(Some(of(json!({"status": {"readyReplicas": 0}})))),
            "WRONG licensing/kms Deployment: 0 of 1 replicas are ready",
        ),
        (
            |facts| {
                resource(facts).deployment = Ok(Some(of(json!({"status": {"readyReplicas": 1, "conditions": [
                    {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
                ]}}))));
            },
            "WRONG licensing/kms Deployment: exceeded quota -> a quota",
        ),
        (
            |facts| resource(facts).stateful_set = Ok(Some(StatefulSet::default())),
            "WRONG licensing/kms managed ledger: is not ready",
        ),
        (
            |facts| {
                resource(facts).claims = Ok(vec![of(
                    json!({"metadata": {"name": "data"}, "status": {"phase": "Pending"}}),
                )]);
            },
            "WRONG licensing/kms volume data: is Pending, of storage class (none",
        ),
        (
            |facts| resource(facts).service = Ok(None),
            "not yet licensing/kms Service: does not exist",
        ),
        (
            |facts| {
                resource(facts).host.spec.service = Some(of(
                    json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
                ));
            },
            "WRONG licensing/kms Service: has no address",
        ),
        (
            |facts| resource(facts).pods = Err("no".to_owned()),
            "unknown licensing/kms pods: could not be read: no",
        ),
    ];
    for (change, expected) in cases {
        let (lines, exit) = told(change);
        assert_eq!(lines.len(), 1, "{expected}: {lines:#?}");
        assert!(lines[0].starts_with(expected), "{expected}: {lines:#?}");
        let unknown = expected.starts_with("unknown");
        assert_eq!(exit, if unknown { Exit::Ok } else { Exit::NotYet }, "{expected}");
    }
}

#[test]
fn without_the_definition_nothing_else_is_asked_for() {
    let (lines, _) = told(|facts| {
        facts.served = Ok(None);
        facts.resources = Ok(vec![]);
    });
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].contains("kmsctl crd | kubectl apply --server-side -f -"),
        "{lines:?}"
    );
}

#[test]
fn a_pod_that_does_not_run_says_why() {
    let waiting = |reason: &str| json!({"containerStatuses": [container(json!({"waiting": {"reason": reason, "message": "m"}}))]});
    for (status, expected) in [
        (
            waiting("ImagePullBackOff"),
            "WRONG licensing/kms pod kms-1: ImagePullBackOff: m -> check spec.pod.image",
        ),
        (
            waiting("CrashLoopBackOff"),
            "WRONG licensing/kms pod kms-1: CrashLoopBackOff: m -> kubectl -n licensing logs kms-1 --previous",
        ),
        (
            waiting("CreateContainerConfigError"),
            "WRONG licensing/kms pod kms-1: CreateContainerConfigError: m",
        ),
        (
            waiting("ContainerCreating"),
            "not yet licensing/kms pod kms-1: ContainerCreating: m",
        ),
        (
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}),
            "WRONG licensing/kms pod kms-1: no node takes it: 0/3 nodes",
        ),
        (
            json!({}),
            "not yet licensing/kms pod kms-1: is not ready -> kubectl -n licensing logs kms-1",
        ),
    ] {
        let pod = json!({"metadata": {"name": "kms-1", "namespace": "licensing"}, "status": status});
        let (lines, _) = told(|facts| resource(facts).pods = Ok(vec![of(pod)]));
        assert!(
            lines.len() == 1 && lines[0].starts_with(expected),
            "{expected}: {lines:?}"
        );
    }
}

fn container(state: Value) -> Value {
    json!({"name": "kms-host", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

#[test]
fn a_missing_secret_is_the_users_or_the_operators() {
    let (lines, _) = told(|facts| {
        let mut objects = Objects::default();
        objects.add_secret(of(
            json!({"metadata": {"name": "kms-keys"}, "stringData": {"other": "x"}}),
        ));
        objects.add_secret(of(
            json!({"metadata": {"name": "kms-redis"}, "stringData": {"password": "x"}}),
        ));
        resource(facts).objects = objects;
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("WRONG") && lines[0].contains("was generated and has been changed"),
        "{lines:?}"
    );
    let (lines, _) = told(|facts| {
        let own = json!({"redis": {"addresses": ["r:1"], "passwordSecret": {"name": "mine", "key": "p"}}});
        resource(facts).host.spec.ledger = Some(of(own));
    });
    assert_eq!(
        lines,
        [
            "WRONG licensing/kms spec.ledger.redis.passwordSecret: there is no Secret `mine` in this namespace: create it -> -"
        ]
    );
}

#[test]
fn the_worst_is_told_first() {
    let (lines, _) = told(|facts| {
        status(facts).observed_generation = Some(1);
        facts.served = Err("no".to_owned());
        status(facts).dns[0].verified = false;
    });
    let words: Vec<_> = lines
        .iter()
        .map(|line| line.split(' ').next().unwrap_or_default())
        .collect();
    assert_eq!(words, ["WRONG", "not", "unknown"]);
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

#[test]
fn a_name_is_of_one_namespace() {
    assert!(Line::try_parse_from(["doctor", "kms", "-n", "licensing", "-v"]).is_ok());
    assert!(Line::try_parse_from(["doctor", "kms", "-A"]).is_err());
    assert!(Line::parse_from(["doctor", "-A"]).args.all_namespaces);
}

/// The operator, watching only these namespaces.
fn watching(facts: &mut Facts, namespaces: &[&str]) -> Operator {
    let operator = &mut facts.operators.as_mut().expect("operators")[0];
    operator.watches = namespaces.iter().map(ToString::to_string).collect();
    operator.clone()
}

#[test]
fn an_operator_of_other_namespaces_is_not_responsible_and_not_to_blame() {
    let (lines, _) = told(|facts| drop(watching(facts, &["licensing", "other"])));
    assert_eq!(lines, Vec::<String>::new());

    // Beside one that serves the namespace, another one may be as ill as it likes.
    let (lines, exit) = told(|facts| {
        let other = Operator {
            watches: vec!["other".to_owned()],
            namespace: "elsewhere".to_owned(),
            ready: 0,
            ..watching(facts, &[])
        };
        facts.operators.as_mut().expect("operators").push(other);
    });
    assert_eq!((lines, exit), (vec![], Exit::Ok));

    // Alone it is none at all, however well it is.
    let (lines, exit) = told(|facts| drop(watching(facts, &["other"])));
    assert_eq!(
        lines,
        [
            "WRONG operator: none of those that run here watches namespace licensing -> list licensing in watchNamespaces of one \
          of them, or install one for it: docs/install.md"
        ]
    );
    assert_eq!(exit, Exit::NotYet);

    // Where nothing was asked for but "all", it is one of those that are looked at.
    let (lines, _) = told(|facts| {
        watching(facts, &["other"]);
        facts.operators.as_mut().expect("operators")[0].ready = 0;
        facts.asked = (None, None);
        facts.resources = Ok(vec![]);
    });
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("WRONG operator: officekms/kms-operator has 0 of 2")),
        "{lines:?}"
    );
}
