use std::collections::BTreeSet;

use kube::ResourceExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{examples, host};
use super::*;
use crate::secrets::Objects;

fn built(host: &OfficeKmsHost) -> Vec<Value> {
    let children = children(host, &Settings::default(), &Inputs::unread()).expect("children");
    children
        .iter()
        .map(|child| serde_json::to_value(child).expect("a child is JSON"))
        .collect()
}

fn of_kind<'a>(children: &'a [Value], kind: &str) -> Option<&'a Value> {
    children.iter().find(|child| child["kind"] == kind)
}

fn relay(sections: Value) -> OfficeKmsHost {
    let mut spec = json!({"replicas": 2, "licensedHosts": [{"name": "a", "address": "kms-a.example"}]});
    for (section, value) in sections.as_object().expect("sections") {
        spec[section] = value.clone();
    }
    host(spec)
}

/// Whole children, as they are applied. A change here is a change on every cluster: does it restart pods?
#[test]
fn the_children_of_the_examples() {
    let settings = Settings {
        host_image: "registry.example/kms-host:1".to_owned(),
        ..Settings::default()
    };
    for (name, host) in examples() {
        let children = children(&host, &settings, &Inputs::unread()).expect("children");
        let text = serde_saphyr::to_string_multiple(&children).expect("children are YAML");
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn with_everything_asked_for_there_is_one_child_of_each_kind_in_order() {
    let host = relay(json!({
        "autoscaling": {"minReplicas": 2, "maxReplicas": 5},
        "monitoring": {"serviceMonitor": {"labels": {"release": "prometheus"}}, "otlpEndpoint": "http://collector:4318"},
        "service": {"type": "NodePort", "nodePort": 31688, "annotations": {"a": "b"}},
        "pod": {"labels": {"team": "licensing", "app.kubernetes.io/name": "mine"}, "annotations": {"x": "y"}},
    }));
    let children = children(&host, &Settings::default(), &Inputs::unread()).expect("children");
    insta::assert_snapshot!("everything", serde_saphyr::to_string_multiple(&children).expect("YAML"));
}

#[test]
fn every_child_is_the_resources_own_and_labelled() {
    for (name, host) in examples() {
        let mut seen = BTreeSet::new();
        for child in children(&host, &Settings::default(), &Inputs::unread()).expect("children") {
            let types = child.types.clone().expect("a type");
            assert!(
                seen.insert((types.kind.clone(), child.name_any())),
                "{name}: {types:?} is there twice"
            );
            assert_eq!(child.namespace(), host.namespace(), "{name}");
            let owner = &child.owner_references()[0];
            assert_eq!((owner.controller, owner.block_owner_deletion), (Some(true), Some(true)));
            assert_eq!(owner.uid, host.uid().expect("a UID"));
            for label in ["name", "instance", "managed-by", "component", "part-of"] {
                assert!(
                    child.labels().contains_key(&format!("app.kubernetes.io/{label}")),
                    "{name}: {types:?} {label}"
                );
            }
            assert!(types.kind != "Secret", "Secrets are created once and never applied");
        }
    }
}

#[test]
fn an_autoscaler_has_the_replicas_to_itself() {
    let children = built(&relay(json!({"autoscaling": {"maxReplicas": 4}})));
    let deployment = of_kind(&children, "Deployment").expect("a Deployment");
    assert!(deployment["spec"].get("replicas").is_none());
    assert_eq!(
        of_kind(&children, "HorizontalPodAutoscaler").expect("an autoscaler")["spec"]["minReplicas"],
        2
    );
    let children = built(&relay(json!({"replicas": 0})));
    assert_eq!(
        of_kind(&children, "Deployment").expect("a Deployment")["spec"]["replicas"],
        0
    );
    assert!(of_kind(&children, "HorizontalPodAutoscaler").is_none());
}

#[test]
fn only_above_one_replica_is_there_a_disruption_budget() {
    let has = |sections: Value| of_kind(&built(&relay(sections)), "PodDisruptionBudget").is_some();
    assert!(!has(json!({"replicas": 0})));
    assert!(!has(json!({"replicas": 1})));
    assert!(has(json!({"replicas": 2})));
    assert!(has(
        json!({"replicas": 1, "autoscaling": {"minReplicas": 1, "maxReplicas": 2}})
    ));
    assert!(!has(json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 1}})));
}

#[test]
fn the_network_policy_can_be_refused() {
    let count = |sections: Value| {
        built(&relay(sections))
            .iter()
            .filter(|child| child["kind"] == "NetworkPolicy")
            .count()
    };
    assert_eq!(count(json!({})), 2, "the replicas' and the managed ledger's");
    assert_eq!(count(json!({"pod": {"networkPolicy": false}})), 1);
}

#[test]
fn the_admin_port_is_for_operators_and_the_namespaces_that_are_named() {
    let from = |monitoring: Value| {
        let memory = json!({"replicas": 1, "ledger": {"memory": {}}, "monitoring": monitoring});
        let children = built(&relay(memory));
        let policy = of_kind(&children, "NetworkPolicy").expect("a policy");
        let mut rules = policy["spec"]["ingress"].as_array().expect("rules").iter();
        let admin = rules.find(|rule| rule["ports"][0]["port"] == "admin");
        admin.expect("a rule")["from"].clone()
    };
    assert_eq!(from(json!({})), json!([{"namespaceSelector": {}}]), "every pod's");
    let operators =
        json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "kms-operator"}}});
    let named = json!({"namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring"]}]}});
    assert_eq!(from(json!({"namespaces": ["monitoring"]})), json!([operators, named]));
}

#[test]
fn pods_meet_pod_security_restricted() {
    for (name, host) in examples().into_iter().chain([("managed".to_owned(), relay(json!({})))]) {
        for child in built(&host) {
            let Some(pod) = child.pointer("/spec/template/spec") else {
                continue;
            };
            assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(
                pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
                "{name}"
            );
            for container in pod["containers"].as_array().expect("containers") {
                let security = &container["securityContext"];
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}");
            }
            if child["kind"] == "Deployment" {
                assert!(
                    pod["securityContext"].get("runAsUser").is_none(),
                    "{name}: the image says which user"
                );
            }
        }
    }
}

#[test]
fn openshift_may_choose_the_user_of_the_managed_ledger() {
    let settings = Settings {
        redis_user: 0,
        ..Settings::default()
    };
    let set = redis::stateful_set(&relay(json!({})), &settings, &Inputs::unread());
    let security = set
        .spec
        .and_then(|spec| spec.template.spec)
        .and_then(|pod| pod.security_context)
        .expect("security");
    assert_eq!(
        (security.run_as_user, security.fs_group, security.run_as_non_root),
        (None, None, Some(true))
    );
}

/// The pod template, whose change restarts pods.
fn template(host: &OfficeKmsHost, inputs: &Inputs) -> Value {
    let children = children(host, &Settings::default(), inputs).expect("children");
    let deployment = children
        .iter()
        .find(|child| child.types.as_ref().is_some_and(|types| types.kind == "Deployment"));
    deployment.expect("a Deployment").data["spec"]["template"].clone()
}

#[test]
fn what_kms_host_takes_over_while_it_runs_restarts_no_pod() {
    let before = template(&relay(json!({})), &Inputs::unread());
    for reloaded in [
        json!({"licensedHosts": [{"name": "b", "address": "kms-b.example"}]}),
        json!({"clients": {"allowedCidrs": ["10.0.0.0/8"], "limits": {"connections": 5}}}),
        json!({"routing": {"activeHosts": 1, "noHost": "Fault"}}),
        json!({"products": [{"name": "Windows"}]}),
        json!({"replicas": 7}),
        json!({"service": {"port": 1689}}),
        json!({"deletionPolicy": "Retain"}),
    ] {
        assert_eq!(
            template(&relay(reloaded.clone()), &Inputs::unread()),
            before,
            "{reloaded}"
        );
    }
    for restarted in [
        json!({"ledger": {"redis": {"addresses": ["redis:6379"]}}}),
        json!({"pod": {"image": "registry.example/kms-host:2"}}),
        json!({"pod": {"terminationGracePeriodSeconds": 60}}),
    ] {
        assert_ne!(
            template(&relay(restarted.clone()), &Inputs::unread()),
            before,
            "{restarted}"
        );
    }
}

/// Both lists name what needs a restart: `HostConfig::needs_restart` of kms-host and the digest here.
#[test]
fn the_digest_changes_exactly_when_kms_host_needs_a_restart() {
    let config = |sections: Value| {
        let host = relay(sections);
        host_config(&host, &Place::pod(&host))
    };
    let before = config(json!({}));
    let rehearsing = host(json!({"replicas": 1, "rehearsal": {}}));
    let mut cases = [
        config(json!({"licensedHosts": [{"name": "b", "address": "kms-b.example"}]})),
        config(json!({"clients": {"limits": {"connections": 5}}})),
        config(json!({"ledger": {"redis": {"addresses": ["redis:6379"]}}})),
        host_config(&rehearsing, &Place::pod(&rehearsing)),
        before.clone(),
    ];
    cases[4].log.filter = "debug".to_owned();
    let digest = |config: &kms_host::config::HostConfig| Written::new(config).expect("a configuration").restart_digest;
    for (at, after) in cases.iter().enumerate() {
        let restarts = !before.needs_restart(after).is_empty();
        assert_eq!(digest(&before) != digest(after), restarts, "case {at}");
    }
}

fn objects(values: &[(&str, &str, &str)]) -> Objects {
    crate::secrets::tests::secrets(values)
}

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

#[test]
fn a_new_key_restarts_pods_and_a_new_password_does_not() {
    let host = relay(json!({"ledger": {
        "keySecret": {"name": "keys", "key": "ledger"},
        "redis": {"addresses": ["redis:6379"], "passwordSecret": {"name": "redis", "key": "password"}},
    }}));
    let resolved = |key: &str, password: &str| {
        let objects = objects(&[("keys", "ledger", key), ("redis", "password", password)]);
        template(&host, &Inputs::resolve(&host, &objects).expect("inputs"))
    };
    let before = resolved(KEY, "a");
    assert_eq!(resolved(KEY, "b"), before);
    assert_ne!(resolved(&KEY.replace("00", "ff"), "a"), before);
    assert!(!before.to_string().contains(KEY));
}

#[test]
fn every_reference_that_leads_nowhere_is_named() {
    let host = relay(json!({"ledger": {
        "keySecret": {"name": "keys", "key": "ledger"},
        "redis": {
            "addresses": ["redis:6379"], "passwordSecret": {"name": "redis", "key": "password"},
            "tls": {"caBundle": {"configMap": "ca"}},
        },
    }}));
    let problems =
        Inputs::resolve(&host, &objects(&[("keys", "ledger", "short"), ("redis", "pass", "x")])).expect_err("problems");
    let text = crate::validate::Problems(problems).to_string();
    let expected = [
        "spec.ledger.keySecret: the key `ledger` of the Secret `keys` is no key: it must hold 32 bytes, raw, in hex or in base64; make one with `openssl rand -base64 32`",
        "spec.ledger.redis.passwordSecret: the Secret `redis` has no key `password`: add it",
        "spec.ledger.redis.tls.caBundle: there is no ConfigMap `ca` in this namespace: create it",
    ];
    assert_eq!(text, expected.join("; "));
}

#[test]
fn what_is_mounted_is_what_the_configuration_names() {
    let hosts = [
        relay(json!({})),
        host(json!({"replicas": 1, "rehearsal": {"managementSecret": {"name": "m"}}, "ledger": {"memory": {}}})),
        relay(json!({"ledger": {"redis": {
            "mode": "Sentinel", "addresses": ["s:26379"], "passwordSecret": {"name": "r", "key": "p"},
            "sentinel": {"masterName": "m", "passwordSecret": {"name": "s", "key": "p"}},
            "tls": {"caBundle": {"configMap": "ca"}},
        }}})),
    ];
    for host in hosts {
        let config = serde_json::to_string(&host_config(&host, &Place::pod(&host))).expect("JSON");
        let mounted = references::mounted(&host);
        assert_eq!(config.matches(SECRETS_DIRECTORY).count(), mounted.len());
        for reference in mounted {
            assert!(
                config.contains(&format!("{SECRETS_DIRECTORY}/{}", reference.file)),
                "{reference:?}"
            );
        }
    }
}

/// Secrets of a namespace in which those of `names` were looked for in vain.
async fn looked_for(host: &OfficeKmsHost, existing: &Objects) -> Objects {
    Objects::read(existing, &references::names(host)).await
}

#[tokio::test]
async fn keys_are_generated_once_and_only_where_the_user_gives_none() {
    let host = host(json!({"replicas": 1, "rehearsal": {}}));
    let mut cluster = Objects::default();
    let wanted = secrets::missing(&host, &looked_for(&host, &cluster).await);
    let shown: Vec<_> = wanted
        .iter()
        .map(|wanted| (wanted.name.as_str(), wanted.keys.as_slice()))
        .collect();
    assert_eq!(
        shown,
        [
            ("kms-keys", &["ledger-key", "site-key"][..]),
            ("kms-redis", &["password"][..])
        ]
    );
    for wanted in &wanted {
        cluster.add_secret(secrets::generate(&host, wanted, &mut getrandom::fill).expect("random bytes"));
    }
    let read = looked_for(&host, &cluster).await;
    assert_eq!(secrets::missing(&host, &read), []);
    Inputs::resolve(&host, &read).expect("generated keys are good ones");
    let given = relay(json!({"ledger": {"keySecret": {"name": "mine", "key": "k"}, "redis": {"addresses": ["r:1"]}}}));
    assert_eq!(
        secrets::missing(&given, &looked_for(&given, &Objects::default()).await),
        []
    );
}

#[tokio::test]
async fn a_secret_that_exists_is_never_made_anew_even_if_a_key_is_gone() {
    let host = relay(json!({}));
    let cluster = objects(&[("kms-keys", "other", "x"), ("kms-redis", "password", "p")]);
    let read = looked_for(&host, &cluster).await;
    assert_eq!(secrets::missing(&host, &read), []);
    let problems = Inputs::resolve(&host, &read).expect_err("the ledger key is gone");
    assert_eq!(
        problems[0].message,
        "the Secret `kms-keys` has no key `ledger-key`: add it"
    );
}

#[test]
fn a_secret_that_was_not_looked_for_is_not_made() {
    assert_eq!(secrets::missing(&relay(json!({})), &Objects::default()), []);
}

#[test]
fn the_users_secret_is_the_users_even_under_our_name() {
    let host = host(json!({"replicas": 1, "rehearsal": {"siteKeySecret": {"name": "kms-keys", "key": "mine"}}}));
    assert!(secrets::generated(&host).iter().all(|wanted| wanted.name != "kms-keys"));
}

#[test]
fn generated_secrets_differ_and_stay_where_the_policy_says_so() {
    let mut host = relay(json!({}));
    let wanted = &secrets::generated(&host)[1];
    let mut next = 0;
    let mut fill = |bytes: &mut [u8]| {
        next += 1;
        bytes.fill(next);
        Ok(())
    };
    let first = secrets::generate(&host, wanted, &mut fill).expect("a Secret");
    let text = |secret: &k8s_openapi::api::core::v1::Secret, key: &str| {
        String::from_utf8(secret.data.as_ref().expect("data")[key].0.clone()).expect("text")
    };
    assert_eq!(text(&first, "password"), "01".repeat(32));
    assert_eq!(text(&first, "auth.conf"), format!("requirepass {}\n", "01".repeat(32)));
    assert!(first.metadata.owner_references.is_some());
    host.spec.deletion_policy = crate::api::DeletionPolicy::Retain;
    let second = secrets::generate(&host, wanted, &mut fill).expect("a Secret");
    assert_ne!(text(&first, "password"), text(&second, "password"));
    assert_eq!(second.metadata.owner_references, None);
    let mut none = |_: &mut [u8]| Err(getrandom::Error::UNSUPPORTED);
    secrets::generate(&host, wanted, &mut none).expect_err("no random bytes, no Secret");
}

proptest! {
    #[test]
    fn the_same_resource_gives_the_same_children(replicas in 0..100, annotations in prop::collection::btree_map("[a-z]{1,8}", "[a-z]{0,8}", 0..8)) {
        let host = relay(json!({"replicas": replicas, "service": {"annotations": annotations}}));
        prop_assert_eq!(built(&host), built(&host.clone()));
    }
}
