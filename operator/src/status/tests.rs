use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::control::replicas::{Replicas, Silence};

fn host() -> OfficeKmsHost {
    serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
        "metadata": {"name": "kms", "namespace": "a", "uid": "u", "generation": 3},
        "spec": {"licensedHosts": [{"name": "kms01", "address": "kms01.example.com"}], "replicas": 2}
    }))
    .expect("a resource")
}

fn sight(ready: i32) -> Sight {
    Sight {
        applied: true,
        deployment: Some(Running {
            generation: 1,
            workload: Workload {
                wanted: 2,
                observed_generation: 1,
                replicas: 2,
                updated: 2,
                ready,
                stuck: None,
            },
        }),
        ..Sight::default()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn find<'a>(status: &'a OfficeKmsHostStatus, type_: &str) -> &'a Condition {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .expect("the condition")
}

fn words(status: &OfficeKmsHostStatus) -> [String; 3] {
    ["Ready", "Reconciling", "Stalled"].map(|type_| find(status, type_).status.clone())
}

#[test]
fn kstatus_reads_progress_readiness_and_what_only_people_can_end() {
    let ready = status(&host(), &sight(2), at(1));
    assert_eq!(words(&ready), ["True", "False", "False"]);
    assert_eq!(ready.observed_generation, Some(3));
    assert_eq!(
        ready
            .selector
            .as_deref()
            .map(|selector| selector.contains("app.kubernetes.io/instance=kms")),
        Some(true)
    );
    assert_eq!(ready.summary.expect("a summary").replicas.as_deref(), Some("2/2"));

    assert_eq!(words(&status(&host(), &sight(1), at(1))), ["False", "True", "False"]);

    let mut stalled = sight(2);
    stalled.troubles.push(Trouble {
        reason: reason::FORBIDDEN,
        message: "may not".into(),
        needs_people: true,
    });
    let stalled = status(&host(), &stalled, at(1));
    assert_eq!(words(&stalled), ["False", "False", "True"]);
    assert_eq!(find(&stalled, "Stalled").message, "may not");

    let mut stuck = sight(1);
    stuck.deployment.as_mut().expect("a deployment").workload.stuck = Some("quota".into());
    assert_eq!(words(&status(&host(), &stuck, at(1))), ["False", "False", "True"]);

    let mut behind = sight(2);
    behind.deployment.as_mut().expect("a deployment").generation = 2;
    assert_eq!(
        words(&status(&host(), &behind, at(1))),
        ["False", "True", "False"],
        "old pods are not the new spec"
    );
}

#[test]
fn the_same_sight_is_written_once_and_times_move_only_with_a_transition() {
    let mut host = host();
    let first = status(&host, &sight(1), at(10));
    assert!(!is_written(None, &first));
    host.status = Some(first.clone());
    let same = status(&host, &sight(1), at(20));
    assert!(is_written(host.status.as_ref(), &same));
    let ready = status(&host, &sight(2), at(30));
    assert!(!is_written(host.status.as_ref(), &ready));
    assert_eq!(find(&ready, "Ready").last_transition_time.0, at(30));
    assert_eq!(find(&ready, "Paused").last_transition_time.0, at(10));
}

#[test]
fn a_condition_that_somebody_added_is_left_and_one_of_ours_that_somebody_changed_is_not() {
    let wanted = status(&host(), &sight(2), at(1));
    let mut stored = wanted.clone();
    let mut added = find(&stored, "Ready").clone();
    added.type_ = "Audited".to_owned();
    stored.conditions.push(added);
    assert!(is_written(Some(&stored), &wanted));
    stored.conditions[0].message = "lies".to_owned();
    assert!(!is_written(Some(&stored), &wanted));
}

#[test]
fn events_tell_of_transitions_and_of_nothing_else() {
    let (waiting, ready) = (status(&host(), &sight(1), at(1)), status(&host(), &sight(2), at(1)));
    assert!(notices(None, &waiting).is_empty());
    let told: Vec<_> = notices(Some(&waiting), &ready)
        .into_iter()
        .map(|notice| notice.reason)
        .collect();
    assert_eq!(told, [reason::AS_SPECIFIED]);
    assert!(notices(Some(&ready), &ready).is_empty());
    let gone = notices(Some(&ready), &waiting);
    assert!(gone.len() == 1 && gone[0].warning);
}

#[test]
fn the_ledger_is_known_only_from_replicas_that_answered() {
    let mut seen = sight(2);
    assert_eq!(find(&status(&host(), &seen, at(1)), "LedgerReady").status, "Unknown");
    let replicas = |without_ledger| {
        Some(Arc::new(Replicas {
            answered: 2,
            without_ledger,
            clients: Some(7),
            ..Replicas::default()
        }))
    };
    seen.outside.replicas = replicas(None);
    let well = status(&host(), &seen, at(1));
    assert_eq!(find(&well, "LedgerReady").status, "True");
    assert_eq!(well.counts.expect("counts").clients, Some(7));
    seen.outside.replicas = replicas(Some((1, "refused".into())));
    let ill = status(&host(), &seen, at(1));
    assert_eq!(find(&ill, "LedgerReady").status, "False");
    assert!(find(&ill, "LedgerReady").message.contains("1 of 2 replicas"));
    assert_eq!(find(&ill, "Ready").status, "True", "relays answer without it");
}

#[test]
fn a_licensed_host_that_replicas_get_no_answers_of_is_named() {
    let mut seen = sight(2);
    let of = |seen: &Sight| find(&status(&host(), seen, at(1)), "HostsAnswer").clone();
    assert_eq!(of(&seen).status, "Unknown", "nobody was asked");
    let replicas = |silent| {
        Some(Arc::new(Replicas {
            answered: 2,
            silent,
            ..Replicas::default()
        }))
    };
    seen.outside.replicas = replicas([].into());
    assert_eq!(of(&seen).status, "True");
    let silence = Silence {
        address: "kms01.example.com:1688".into(),
        replicas: 1,
        why: Some("connection refused".into()),
    };
    seen.outside.replicas = replicas([("kms01".to_owned(), silence)].into());
    let silent = of(&seen);
    assert_eq!(
        (silent.status.as_str(), silent.reason.as_str()),
        ("False", reason::HOST_SILENT)
    );
    let told =
        "replicas get no answer of kms01 (kms01.example.com:1688): kms01, at 1 of 2 replicas: connection refused;";
    assert!(silent.message.starts_with(told), "{}", silent.message);
    let ready = status(&host(), &seen, at(1));
    assert_eq!(find(&ready, "Ready").status, "True", "the others answer");
    let well = status(
        &host(),
        &Sight {
            outside: Seen {
                replicas: replicas([].into()),
                ..Seen::default()
            },
            ..sight(2)
        },
        at(1),
    );
    let told = notices(Some(&well), &ready);
    assert!(
        told.iter()
            .any(|notice| notice.warning && notice.reason == reason::HOST_SILENT)
    );

    // The same hosts for another reason are no news.
    let mut stored = host();
    stored.status = Some(ready);
    let mut another = |name: &str| {
        let silence = Silence {
            address: format!("{name}.example.com:1688"),
            replicas: 2,
            why: Some("timed out".into()),
        };
        seen.outside.replicas = replicas([(name.to_owned(), silence)].into());
        find(&status(&stored, &seen, at(2)), "HostsAnswer").message.clone()
    };
    assert_eq!(another("kms01"), silent.message);
    assert!(another("kms02").contains("at 2 of 2 replicas: timed out"));

    let mut rehearsal = host();
    rehearsal.spec.licensed_hosts = None;
    rehearsal.spec.rehearsal = Some(Default::default());
    let conditions = status(&rehearsal, &seen, at(1)).conditions;
    assert!(conditions.iter().all(|condition| condition.type_ != "HostsAnswer"));
}

#[test]
fn people_are_called_to_a_managed_ledger_that_does_not_start() {
    let mut host = host();
    host.spec.licensed_hosts = None;
    host.spec.rehearsal = Some(Default::default());
    let mut seen = sight(2);
    seen.managed_ledger = true;
    let first = status(&host, &seen, at(1));
    assert_eq!(find(&first, "Ready").reason, reason::LEDGER_NOT_READY);
    assert!(find(&first, "Ready").message.contains("pod kms-redis-0"));
    assert!(find(&first, "Ready").message.contains("claim data-kms-redis-0"));
    assert_eq!(words(&first), ["False", "True", "False"]);
    seen.ledger_overdue = true;
    assert_eq!(words(&status(&host, &seen, at(2))), ["False", "False", "True"]);
}

#[test]
fn a_configuration_that_a_replica_refuses_is_not_as_specified() {
    let mut seen = sight(2);
    seen.outside.replicas = Some(Arc::new(Replicas {
        answered: 2,
        reload: Some("host.yaml line 3: unknown field `new`".into()),
        ..Replicas::default()
    }));
    let refused = status(&host(), &seen, at(1));
    let ready = find(&refused, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", reason::CONFIG_REJECTED)
    );
    assert!(ready.message.contains("unknown field `new`"), "{}", ready.message);
    assert_eq!(find(&refused, "Stalled").status, "True");
    assert_eq!(
        find(&refused, "Available").status,
        "True",
        "it goes on with the one before"
    );
}

#[test]
fn every_reason_is_told_in_the_reference() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/conditions.md"))
        .expect("the page");
    let headings: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
    for type_ in kind::ALL {
        assert!(
            headings.iter().any(|heading| heading.contains(type_)),
            "docs/reference/conditions.md does not tell of {type_}"
        );
    }
    for word in reason::ALL {
        assert!(
            page.contains(&format!("`{word}`")),
            "docs/reference/conditions.md does not tell of {word}"
        );
    }
}

#[test]
fn a_pause_is_never_taken_for_a_spec_that_was_carried_out() {
    let paused = |ready| Sight {
        applied: false,
        paused: true,
        ..sight(ready)
    };
    let mut host = host();
    host.status = Some(status(&host, &sight(2), at(1)));
    let well = status(&host, &paused(2), at(2));
    assert_eq!(words(&well), ["True", "False", "False"], "nothing was asked for since");

    // The spec changes during the pause.
    host.status = Some(well);
    host.metadata.generation = Some(4);
    let behind = status(&host, &paused(2), at(3));
    assert_eq!(behind.observed_generation, Some(3));
    assert_eq!(words(&behind), ["False", "True", "False"]);
    assert_eq!(find(&behind, "Ready").reason, reason::PAUSED);
    assert_eq!(find(&behind, "Ready").observed_generation, Some(3));
    host.status = Some(behind);
    let still = status(&host, &paused(2), at(4));
    assert!(is_written(host.status.as_ref(), &still));
    let goes_on = status(&host, &sight(2), at(5));
    assert_eq!(goes_on.observed_generation, Some(4));
    assert_eq!(words(&goes_on), ["True", "False", "False"]);

    // What was in the way before the pause is not gone with it; a rollout may end during it.
    let mut stalled = sight(2);
    stalled.troubles.push(Trouble {
        reason: reason::FORBIDDEN,
        message: "may not".into(),
        needs_people: true,
    });
    host.status = Some(status(&host, &stalled, at(6)));
    assert_eq!(words(&status(&host, &paused(2), at(7)))[0], "False");
    host.status = Some(status(&host, &sight(1), at(8)));
    assert_eq!(words(&status(&host, &paused(2), at(9)))[0], "True");

    // One that is paused from the beginning is about no generation yet.
    host.status = None;
    let never = status(&host, &paused(0), at(10));
    assert_eq!(never.observed_generation, None);
    assert_eq!(words(&never)[0], "False");
}
