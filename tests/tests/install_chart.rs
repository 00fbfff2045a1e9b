//! The chart, as Helm renders it: what is created under which values, and which values are refused.

use std::collections::{BTreeMap, BTreeSet};

use clap::{CommandFactory as _, Parser as _};
use kms_operator::cli::Cli;
use serde_json::{Value, json};
use system_tests::helm::{Manifests, Tools, workspace};
use system_tests::peer::skipped;

/// Helm, or the line that says that this test did not run.
fn helm(test: &str) -> Option<Tools> {
    Tools::find().map_err(|error| skipped(test, &error.to_string())).ok()
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let Some(tools) = helm("helm_finds_nothing_to_complain_about") else {
        return;
    };
    tools
        .helm(["lint", "charts/officekms", "--strict"])
        .unwrap()
        .ok()
        .unwrap();
    for values in [
        "watchNamespaces: [one, two]",
        "replicas: 1",
        "metrics: {serviceMonitor: {enabled: true}}",
    ] {
        let values = tools.values(values).unwrap();
        tools
            .helm(["lint", "charts/officekms", "--strict", "--values", &values])
            .unwrap()
            .ok()
            .unwrap();
    }
}

#[test]
fn by_default_the_chart_installs_what_install_yaml_does() {
    let Some(tools) = helm("by_default_the_chart_installs_what_install_yaml_does") else {
        return;
    };
    let (chart, kubectl) = (
        tools.template("").unwrap(),
        Manifests::file("deploy/install.yaml").unwrap(),
    );
    let objects = |manifests: &Manifests| -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = manifests.0.iter();
        all.map(|one| (text(&one["kind"]), text(&one["metadata"]["name"])))
            .collect()
    };
    let (mut helms, mut kubectls) = (objects(&chart), objects(&kubectl));
    let hook = ("Pod".to_owned(), "officekms-operator-test".to_owned());
    assert!(helms.remove(&hook), "the hook of `helm test`");
    let namespace = ("Namespace".to_owned(), "officekms-system".to_owned());
    assert!(kubectls.remove(&namespace), "Helm makes it on its own");
    assert_eq!(helms, kubectls);
    for kind in ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"] {
        let (one, other) = (chart.the(kind).unwrap(), kubectl.the(kind).unwrap());
        assert_eq!(one["metadata"]["name"], other["metadata"]["name"], "{kind}");
        let mut one = one["spec"].clone();
        let mut other = other["spec"].clone();
        for spec in [&mut one, &mut other] {
            // Labels of Helm's own are the one difference there may be.
            if let Some(template) = spec.pointer_mut("/template") {
                template["metadata"] = Value::Null;
            }
        }
        assert_eq!(one, other, "{kind}");
    }
    for (kind, name) in [
        ("ClusterRole", "officekms-operator"),
        ("ClusterRole", "officekms-view"),
        ("ClusterRole", "officekms-edit"),
        ("Role", "officekms-operator-leader"),
    ] {
        let rules = |manifests: &Manifests| manifests.named(kind, name).unwrap()["rules"].clone();
        assert_eq!(rules(&chart), rules(&kubectl), "{kind}");
        let roles = |manifests: &Manifests| -> Vec<String> {
            let labels = manifests.named(kind, name).unwrap()["metadata"]["labels"].clone();
            let labels: BTreeMap<String, Value> = serde_json::from_value(labels).unwrap();
            let aggregate = |name: &String| name.starts_with("rbac.authorization.k8s.io/");
            labels.into_keys().filter(aggregate).collect()
        };
        assert_eq!(roles(&chart), roles(&kubectl), "{name}");
        if name == "officekms-view" || name == "officekms-edit" {
            continue;
        }
        let binding = format!("{kind}Binding");
        let subjects = |manifests: &Manifests| manifests.named(&binding, name).unwrap()["subjects"].clone();
        assert_eq!(subjects(&chart), subjects(&kubectl), "{binding}");
    }
}

#[test]
fn labels_of_the_values_are_added_to_the_chart_s_own_and_replace_none() {
    let Some(tools) = helm("labels_of_the_values_are_added_to_the_chart_s_own_and_replace_none") else {
        return;
    };
    let values = "commonLabels: {app.kubernetes.io/part-of: platform, team: common, site: a}\n\
                  podLabels: {app.kubernetes.io/name: other, team: pods}\n";
    // A key that stands twice is refused by who reads it: here, and by Kustomize.
    let manifests = tools.template(values).unwrap();
    for one in &manifests.0 {
        assert_eq!(
            one["metadata"]["labels"]["app.kubernetes.io/part-of"], "officekms",
            "{one}"
        );
    }
    let deployment = manifests.0.iter().find(|one| one["kind"] == "Deployment").unwrap();
    let labels = [
        &deployment["metadata"]["labels"],
        &deployment["spec"]["template"]["metadata"]["labels"],
    ];
    for (labels, team) in labels.into_iter().zip(["common", "pods"]) {
        assert_eq!(labels["app.kubernetes.io/name"], "kms-operator");
        assert_eq!((&labels["team"], &labels["site"]), (&json!(team), &json!("a")));
    }
}

#[test]
fn the_definition_comes_with_the_release_and_stays_after_it() {
    let Some(tools) = helm("the_definition_comes_with_the_release_and_stays_after_it") else {
        return;
    };
    let stored = Manifests::file("crds/officekms.io_officekmshosts.yaml").unwrap();
    let kind = "CustomResourceDefinition";
    let chart = tools.template("").unwrap();
    let definition = chart.the(kind).unwrap();
    assert!(
        definition["spec"] == stored.the(kind).unwrap()["spec"],
        "the chart's definition is another"
    );
    assert_eq!(definition["metadata"]["name"], "officekmshosts.officekms.io");
    assert_eq!(definition["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert!(definition["metadata"]["namespace"].is_null());

    let passing = tools.template("crds: {keep: false}").unwrap();
    assert!(passing.the(kind).unwrap()["metadata"]["annotations"].is_null());
    assert!(tools.template("crds: {enabled: false}").unwrap().of(kind).is_empty());
}

#[test]
fn watched_namespaces_get_roles_and_nothing_cluster_wide_is_granted() {
    let Some(tools) = helm("watched_namespaces_get_roles_and_nothing_cluster_wide_is_granted") else {
        return;
    };
    let chart = tools.template("watchNamespaces: [one, two]").unwrap();
    assert!(chart.of("ClusterRole").is_empty() && chart.of("ClusterRoleBinding").is_empty());
    let everywhere = tools.template("").unwrap();
    let rules = &everywhere.named("ClusterRole", "officekms-operator").unwrap()["rules"];
    let roles = chart.of("Role");
    let places: BTreeSet<&str> = roles
        .iter()
        .filter_map(|role| role["metadata"]["namespace"].as_str())
        .collect();
    assert_eq!(places, BTreeSet::from(["officekms-system", "one", "two"]));
    for role in roles
        .iter()
        .filter(|role| role["metadata"]["name"] == "officekms-operator")
    {
        assert_eq!(&role["rules"], rules);
    }
    for binding in chart.of("RoleBinding") {
        let subject =
            json!([{"kind": "ServiceAccount", "name": "officekms-operator", "namespace": "officekms-system"}]);
        assert_eq!(binding["subjects"], subject);
    }
    let told = json!({"name": "OKMS_WATCH_NAMESPACES", "value": "one,two"});
    assert!(chart.container().unwrap()["env"].as_array().unwrap().contains(&told));
}

#[test]
fn one_replica_gets_neither_a_budget_nor_a_spread() {
    let Some(tools) = helm("one_replica_gets_neither_a_budget_nor_a_spread") else {
        return;
    };
    let spread = |manifests: &Manifests| {
        manifests.the("Deployment").unwrap()["spec"]["template"]["spec"]["topologySpreadConstraints"].clone()
    };
    let alone = tools.template("replicas: 1").unwrap();
    assert!(alone.of("PodDisruptionBudget").is_empty() && spread(&alone).is_null());
    let three = tools.template("replicas: 3").unwrap();
    assert_eq!(three.the("PodDisruptionBudget").unwrap()["spec"]["maxUnavailable"], 1);
    assert_eq!(spread(&three).as_array().unwrap().len(), 2);
    assert!(spread(&tools.template("topologySpreadConstraints: []").unwrap()).is_null());
    assert!(
        tools
            .template("podDisruptionBudget: {enabled: false}")
            .unwrap()
            .of("PodDisruptionBudget")
            .is_empty()
    );
}

#[test]
fn pods_meet_pod_security_restricted_and_leave_the_user_to_the_image() {
    let Some(tools) = helm("pods_meet_pod_security_restricted_and_leave_the_user_to_the_image") else {
        return;
    };
    let chart = tools.template("").unwrap();
    let pod = &chart.the("Deployment").unwrap()["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"],
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    let own =
        json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    assert_eq!(chart.container().unwrap()["securityContext"], own);
    assert!(pod["hostNetwork"].is_null());
    // Secrets that a library takes only as files are kept in memory.
    assert_eq!(
        pod["volumes"],
        json!([{"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}])
    );
}

#[test]
fn images_follow_a_global_registry_and_a_digest_wins_over_a_tag() {
    let Some(tools) = helm("images_follow_a_global_registry_and_a_digest_wins_over_a_tag") else {
        return;
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let values = format!(
        "global: {{imageRegistry: registry.example.com:5000, imagePullSecrets: [one], other: {{charts: read this}}}}\n\
         image: {{digest: '{digest}', tag: ignored}}\nimagePullSecrets: [{{name: two}}, {{name: one}}]\n\
         hostImage: {{tag: 0.2.0}}\noperandImagePullSecrets: [pull-a, pull-b]\n"
    );
    let chart = tools.template(&values).unwrap();
    let operator = chart.container().unwrap();
    assert_eq!(
        operator["image"],
        format!("registry.example.com:5000/officekms/kms-operator@{digest}")
    );
    let told = |name: &str| {
        let environment = operator["env"].as_array().unwrap();
        environment
            .iter()
            .find(|one| one["name"] == name)
            .map(|one| one["value"].clone())
    };
    assert_eq!(
        told("OKMS_HOST_IMAGE"),
        Some(json!("registry.example.com:5000/officekms/kms-host:0.2.0"))
    );
    assert_eq!(
        told("OKMS_REDIS_IMAGE"),
        Some(json!("registry.example.com:5000/valkey/valkey:8.1"))
    );
    assert_eq!(told("OKMS_IMAGE_PULL_SECRETS"), Some(json!("pull-a,pull-b")));
    let pod = &chart.the("Deployment").unwrap()["spec"]["template"]["spec"];
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "one"}, {"name": "two"}]));
}

#[test]
fn what_a_platform_team_sets_reaches_the_pods() {
    let Some(tools) = helm("what_a_platform_team_sets_reaches_the_pods") else {
        return;
    };
    let values = "
commonLabels: {team: platform}
commonAnnotations: {owner: platform@example.com}
priorityClassName: system-cluster-critical
nodeSelector: {pool: infra}
tolerations: [{key: infra, operator: Exists}]
affinity: {nodeAffinity: {}}
podLabels: {mesh: 'off'}
podAnnotations: {note: here}
extraArgs: [--leader-election=false]
extraEnv: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /ca}]
resources: {limits: {memory: 512Mi}, requests: {cpu: 1}}
serviceAccount: {create: false, name: mine}
metrics: {serviceMonitor: {enabled: true, interval: 1m, labels: {release: prometheus}}}
networkPolicy: {from: [{namespaceSelector: {matchLabels: {name: monitoring}}}], egress: []}
namespaceOverride: elsewhere
extraObjects:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: '{{ .Release.Name }}-extra'}}
  - |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: as-text}
";
    let chart = tools.template(values).unwrap();
    let deployment = chart.the("Deployment").unwrap();
    let (template, own) = (&deployment["spec"]["template"], chart.container().unwrap());
    let pod = &template["spec"];
    assert_eq!(template["metadata"]["labels"]["team"], "platform");
    assert_eq!(template["metadata"]["labels"]["mesh"], "off");
    assert_eq!(
        template["metadata"]["annotations"],
        json!({"note": "here", "owner": "platform@example.com"})
    );
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    assert_eq!(pod["nodeSelector"], json!({"pool": "infra"}));
    assert_eq!(pod["tolerations"][0]["key"], "infra");
    assert_eq!(pod["serviceAccountName"], "mine");
    assert_eq!(pod["volumes"][1]["name"], "ca");
    assert_eq!(own["args"], json!(["run", "--leader-election=false"]));
    assert_eq!(own["env"].as_array().unwrap().last().unwrap()["name"], "HTTPS_PROXY");
    understood(own);
    assert_eq!(own["volumeMounts"][1]["mountPath"], "/ca");
    assert_eq!(own["resources"]["limits"]["memory"], "512Mi");
    assert!(chart.of("ServiceAccount").is_empty());
    let monitor = chart.the("ServiceMonitor").unwrap();
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["spec"]["endpoints"][0]["interval"], "1m");
    let policy = &chart.the("NetworkPolicy").unwrap()["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let from = &policy["ingress"][0]["from"];
    assert_eq!(from[0]["namespaceSelector"]["matchLabels"]["name"], "monitoring");
    // `helm test` still reaches the operator.
    let tester = &chart.the("Pod").unwrap()["metadata"]["labels"];
    let let_in = from[1]["podSelector"]["matchLabels"].as_object().unwrap();
    assert!(!let_in.is_empty() && let_in.iter().all(|(name, value)| &tester[name] == value));
    assert!(from[1]["namespaceSelector"].is_null());
    chart.named("ConfigMap", "officekms-extra").unwrap();
    chart.named("ConfigMap", "as-text").unwrap();
    for manifest in &chart.0 {
        let (kind, metadata) = (&manifest["kind"], &manifest["metadata"]);
        if kind != "ConfigMap" {
            assert_eq!(metadata["labels"]["team"], "platform", "{kind}");
            assert_eq!(metadata["annotations"]["owner"], "platform@example.com", "{kind}");
        }
        let outside = [
            "ClusterRole",
            "ClusterRoleBinding",
            "CustomResourceDefinition",
            "ConfigMap",
        ];
        if !outside.iter().any(|one| kind == one) {
            assert_eq!(metadata["namespace"], "elsewhere", "{kind}");
        }
    }
}

/// The operator's container is told nothing that the operator does not know.
fn understood(container: &Value) {
    let command = Cli::command();
    let read: BTreeSet<_> = command.get_arguments().filter_map(clap::Arg::get_env).collect();
    let arguments = container["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap());
    Cli::try_parse_from(["kms-operator"].into_iter().chain(arguments)).unwrap();
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        let known = read.contains(std::ffi::OsStr::new(name)) || name == "HTTPS_PROXY";
        assert!(known, "nothing reads {name}");
    }
}

#[test]
fn what_the_operator_is_told_is_what_it_reads() {
    let Some(tools) = helm("what_the_operator_is_told_is_what_it_reads") else {
        return;
    };
    let values = "
watchNamespaces: [one]
operandImagePullSecrets: [pull]
tracing: {otlpEndpoint: 'http://collector:4318'}
upgradeAtOnce: 3
";
    let chart = tools.template(values).unwrap();
    let own = chart.container().unwrap();
    understood(own);
    for told in [
        json!({"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}),
        json!({"name": "OKMS_UPGRADE_AT_ONCE", "value": "3"}),
        json!({"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}),
    ] {
        assert!(own["env"].as_array().unwrap().contains(&told), "{told}");
    }
    // The hook asks with a command that the image has.
    let tester = &chart.the("Pod").unwrap()["spec"]["containers"][0];
    let arguments = tester["args"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap());
    Cli::try_parse_from(["kms-operator"].into_iter().chain(arguments)).unwrap();
}

#[test]
fn wrong_values_are_refused_with_the_place_of_the_mistake() {
    let Some(tools) = helm("wrong_values_are_refused_with_the_place_of_the_mistake") else {
        return;
    };
    let cases = [
        ("replicas: two", "/replicas"),
        ("replicas: -1", "/replicas"),
        ("image: {digest: 'sha256:12'}", "/image/digest"),
        ("image: {pullPolicy: Sometimes}", "/image/pullPolicy"),
        ("watchNamespaces: [A_b]", "/watchNamespaces/0"),
        ("watchNamespaces: [a, a]", "/watchNamespaces"),
        ("crds: {enabeld: true}", "enabeld"),
        ("nonsense: 1", "nonsense"),
        ("log: {format: xml}", "/log/format"),
        ("tracing: {otlpEndpoint: 'collector:4317'}", "/tracing/otlpEndpoint"),
        ("upgradeAtOnce: -1", "/upgradeAtOnce"),
        (
            "metrics: {serviceMonitor: {interval: 30}}",
            "/metrics/serviceMonitor/interval",
        ),
        (
            "serviceAccount: {create: false}",
            "serviceAccount.name: name the service account that exists",
        ),
    ];
    for (values, place) in cases {
        let said = tools
            .try_template(values)
            .unwrap()
            .refused()
            .unwrap_or_else(|error| panic!("{values}: {error}"));
        assert!(said.contains(place), "{values}: {said}");
    }
}

#[test]
fn the_chart_can_be_a_part_of_another_and_switched_there() {
    let Some(tools) = helm("the_chart_can_be_a_part_of_another_and_switched_there") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let chart = "apiVersion: v2\nname: platform\nversion: 1.0.0\n\
                 dependencies: [{name: officekms, version: 0.1.0, condition: officekms.enabled}]\n";
    std::fs::write(folder.path().join("Chart.yaml"), chart).unwrap();
    let values = "global: {site: here}\nofficekms: {enabled: true, replicas: 1}\n";
    std::fs::write(folder.path().join("values.yaml"), values).unwrap();
    let parts = folder.path().join("charts");
    std::fs::create_dir(&parts).unwrap();
    tools
        .helm(["package", "charts/officekms", "--destination", parts.to_str().unwrap()])
        .unwrap()
        .ok()
        .unwrap();
    let umbrella = folder.path().to_str().unwrap();
    let rendered = tools.helm(["template", "platform", umbrella]).unwrap().ok().unwrap();
    let rendered = Manifests::read(&rendered).unwrap();
    assert_eq!(
        rendered.the("Deployment").unwrap()["metadata"]["name"],
        "platform-officekms-operator"
    );
    let off = ["template", "platform", umbrella, "--set", "officekms.enabled=false"];
    assert!(
        Manifests::read(&tools.helm(off).unwrap().ok().unwrap())
            .unwrap()
            .0
            .is_empty()
    );
}

#[test]
fn rendering_twice_gives_the_same_and_asks_no_cluster() {
    let Some(tools) = helm("rendering_twice_gives_the_same_and_asks_no_cluster") else {
        return;
    };
    assert_eq!(tools.template("").unwrap(), tools.template("").unwrap());
    let templates = std::fs::read_dir(workspace().join("charts/officekms/templates")).unwrap();
    for template in templates
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
    {
        let text = std::fs::read_to_string(&template).unwrap();
        for word in [
            "lookup ",
            "randAlpha",
            "randNumeric",
            "randBytes",
            "randInt",
            "genCA",
            "genSelfSigned",
            "uuidv4",
            "now ",
        ] {
            assert!(!text.contains(word), "{}: {word}", template.display());
        }
    }
}

#[test]
fn the_readme_lists_every_value() {
    let values = &Manifests::file("charts/officekms/values.yaml").unwrap().0[0];
    let readme = std::fs::read_to_string(workspace().join("charts/officekms/README.md")).unwrap();
    for name in values.as_object().unwrap().keys() {
        let listed = ["`", "."].iter().any(|end| readme.contains(&format!("`{name}{end}")));
        assert!(listed, "charts/officekms/README.md does not list {name}");
    }
    let schema = std::fs::read_to_string(workspace().join("charts/officekms/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let known: BTreeSet<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let enabled = "enabled".to_owned(); // read by umbrella charts alone
    let expected: BTreeSet<&String> = values.as_object().unwrap().keys().chain([&enabled]).collect();
    assert_eq!(known, expected);
}
