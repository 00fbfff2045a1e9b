use serde_json::{Value, json};

use super::*;

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z"
    })
}

fn resource(generation: i64, ready: &str) -> Resource {
    let host: OfficeKmsHost = of(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": "kms", "namespace": "licensing", "generation": generation},
        "spec": {"rehearsal": {}},
        "status": {"observedGeneration": 1, "conditions": [
            condition("Ready", ready, "SecretMissing", "create the Secret tsig"),
        ]}
    }));
    host.into()
}

/// A relay that knows two licensed hosts.
fn relay(name: &str) -> Value {
    let host = |name: &str, health: &str| {
        json!({"name": name, "address": format!("{name}.example:1688"), "health": health, "failures": 0,
            "answered": 3, "failed": 1, "idleConnections": 0})
    };
    let routed = |name: &str, state: &str, count: u32| json!({"name": name, "state": state, "because": "it is so", "count": count, "countFrom": "reported", "weight": 100});
    json!({
        "name": name, "mode": "relay", "version": "1", "uptimeSeconds": 9, "ready": true, "draining": false,
        "config": {"generation": 1}, "connections": {"open": 0, "sources": 0, "accepted": 0},
        "requests": {}, "refusals": {},
        "licensedHosts": [host("kms01", "well"), host("kms02", "well")],
        "routing": {"policy": "countAware", "knowledge": "fresh", "distinctClients": 9, "requiredCount": 5,
            "activeSet": ["kms01"], "clientsKnown": 9,
            "hosts": [routed("kms01", "active", 9), routed("kms02", "warming", 2)]},
        "ledger": {"available": true, "counts": [], "recentEvents": []},
    })
}

fn replica(status: Value) -> Replica {
    Replica::new("http://127.0.0.1:9688/".to_owned(), Ok(of(status)))
}

fn shown(report: &Report) -> String {
    let mut text = Vec::new();
    report.view(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn a_resource_is_ready_only_as_it_is_now() {
    assert_eq!(Report::Resources(vec![resource(1, "True")]).exit(), Exit::Ok);
    assert_eq!(Report::Resources(vec![resource(2, "True")]).exit(), Exit::NotYet);
    assert_eq!(Report::Resources(vec![resource(1, "False")]).exit(), Exit::NotYet);
}

#[test]
fn what_is_not_ready_says_what_to_do() {
    let text = shown(&Report::Resources(vec![resource(1, "False")]));
    assert!(text.contains("create the Secret tsig"), "{text}");
    let text = shown(&Report::Resources(vec![resource(2, "True")]));
    assert!(text.contains("does one run"), "{text}");
    let text = shown(&Report::Resources(Vec::new()));
    assert!(text.contains("-A"), "{text}");
}

#[test]
fn a_resource_that_is_ready_shows_each_condition_that_is_not_good_and_no_other() {
    let mut ready = resource(1, "True");
    ready.status.conditions.extend(
        [
            condition("HostsLicensed", "False", "KeyMissing", "kms02 has no key"),
            condition("ClientsBypassRelay", "True", "OthersRecords", "kms09 is in DNS"),
            condition("HostsUnequal", "False", "Equal", "the same everywhere"),
            condition("DnsPublished", "True", "Verified", "one zone"),
        ]
        .map(of::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>),
    );
    let text = shown(&Report::Resources(vec![ready]));
    for line in [
        "licensing/kms: HostsLicensed is False (KeyMissing): kms02 has no key",
        "licensing/kms: ClientsBypassRelay is True (OthersRecords): kms09 is in DNS",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for good in ["Ready is", "HostsUnequal", "DnsPublished"] {
        assert!(!text.contains(good), "{good}: {text}");
    }
}

#[test]
fn each_licensed_host_has_a_row_with_what_the_operator_read_and_what_the_replicas_see() {
    let mut resource = resource(1, "True");
    resource.status.licensed_hosts = of(json!([
        {"name": "kms01", "reachable": true, "licensed": true, "currentCount": 10, "requiredCount": 5,
            "products": [{"name": "OfficeLTSC2024", "step": "None"}]},
        {"name": "kms02", "reachable": true, "licensed": false, "message": "one product is left",
            "products": [{"name": "OfficeLTSC2024", "step": "Confirm", "message": "call Microsoft"}]},
    ]));
    let mut second = relay("kms-1");
    second["licensedHosts"][1]["health"] = json!("trial");
    second["licensedHosts"][1]["lastFailure"] = json!({"secondsAgo": 12, "error": "timed out"});
    resource.replicas = vec![replica(relay("kms-0")), replica(second)];
    let report = Report::Resources(vec![resource]);
    let text = shown(&report);
    let row = |host: &str| -> Vec<&str> {
        let line = text.lines().find(|line| line.trim_start().starts_with(host));
        line.unwrap_or_else(|| panic!("{host}: {text}"))
            .split_whitespace()
            .collect()
    };
    assert_eq!(row("kms01 ").join(" "), "kms01 active well 9 of 5 10 of 5 yes");
    assert_eq!(
        row("kms02 ").join(" "),
        "kms02 warming trial or well 2 of 5 no OfficeLTSC2024: Confirm"
    );
    for line in [
        "kms02: one product is left",
        "kms02, OfficeLTSC2024: call Microsoft",
        "kms02: to kms-1 it failed 12 s ago: timed out",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
    }
    assert_eq!(report.exit(), Exit::Ok);
}

#[test]
fn replicas_of_a_resource_that_cannot_be_asked_are_told_and_change_no_exit_code() {
    let mut resource = resource(1, "True");
    resource.replicas_error = Some("you may not list pods".to_owned());
    let report = Report::Resources(vec![resource]);
    assert!(shown(&report).contains("Its replicas were not asked: you may not list pods"));
    assert_eq!(report.exit(), Exit::Ok);
}

#[test]
fn a_replica_that_does_not_answer_is_shown() {
    let replica = Replica::new(
        "http://127.0.0.1:9688/".to_owned(),
        Err(anyhow::anyhow!("cannot reach")),
    );
    let report = Report::Replicas(vec![replica]);
    assert_eq!(report.exit(), Exit::Failed);
    assert!(shown(&report).contains("error: cannot reach"));
}

/// What is told of a relay beyond one that is well, and how the command ends.
fn told(change: impl FnOnce(&mut Value)) -> (Vec<String>, Exit) {
    let lines = |value| -> Vec<String> {
        let text = shown(&Report::Replicas(vec![replica(value)]));
        text.lines().map(str::to_owned).collect()
    };
    let mut changed = relay("kms-0");
    change(&mut changed);
    let well = lines(relay("kms-0"));
    let exit = Report::Replicas(vec![replica(changed.clone())]).exit();
    let more = lines(changed)
        .into_iter()
        .filter(|line| line.starts_with("kms") && !well.contains(line));
    (more.collect(), exit)
}

#[test]
fn a_replica_says_what_keeps_it_from_its_work() {
    assert_eq!(told(|_| {}), (vec![], Exit::Ok));
    let (lines, exit) = told(|relay| {
        for (at, state) in ["ejected", "unlicensed"].iter().enumerate() {
            relay["routing"]["hosts"][at]["state"] = json!(state);
        }
    });
    assert!(
        lines.iter().any(|line| line.contains("no licensed host may be asked")),
        "{lines:?}"
    );
    assert_eq!(exit, Exit::NotYet);
    let (_, exit) = told(|relay| relay["routing"]["hosts"][0]["state"] = json!("ejected"));
    assert_eq!(exit, Exit::Ok, "another one may be asked");
    let (lines, exit) = told(|relay| {
        relay["ledger"] = json!({"available": false, "error": "refused", "counts": [], "recentEvents": []});
    });
    assert!(
        lines.contains(&"kms-0: its ledger is away: refused".to_owned()),
        "{lines:?}"
    );
    assert_eq!(exit, Exit::NotYet);
}

#[test]
fn a_replica_says_which_configuration_it_does_not_use_and_how_hosts_failed() {
    let (lines, exit) = told(|relay| {
        relay["config"]["lastReload"] = json!({"uptimeSeconds": 5, "applied": false, "error": "line 3: no port"});
        relay["config"]["needsRestart"] = json!(["listen", "ledger"]);
        relay["licensedHosts"][0]["lastFailure"] = json!({"secondsAgo": 7, "error": "connection refused"});
    });
    assert_eq!(
        lines,
        [
            "kms-0: the changed configuration is not in use: line 3: no port",
            "kms-0: changed, and waits for a restart: listen, ledger",
            "kms01 failed 7 s ago: connection refused",
        ]
    );
    assert_eq!(exit, Exit::Ok, "clients are answered");
}
