//! The alerts: Prometheus' own tool says when they fire, and they speak of metrics that there are.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use kms_host::rehearsal::RehearsalMetrics;
use kms_operator::control::queue::Key;
use serde_json::Value;
use system_tests::helm::Tools;
use system_tests::http;
use system_tests::peer::{has, skipped};
use system_tests::replica::Replica;

fn of_the_project(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// Name and expression of each alert.
fn alerts() -> Vec<(String, String)> {
    let rules: Value = serde_saphyr::from_str(&of_the_project("charts/officekms/files/alerts.yaml")).unwrap();
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules = groups.flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| (word(&rule["alert"]), word(&rule["expr"]))).collect()
}

/// Title and expression of each query of the dashboard.
fn panels() -> Vec<(String, String)> {
    let dashboard: Value = serde_json::from_str(&of_the_project("charts/officekms/files/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let queries = panels.flat_map(|panel| {
        let targets = panel["targets"].as_array().into_iter().flatten();
        targets.map(|target| (word(&panel["title"]), word(&target["expr"])))
    });
    queries.collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// Names of metrics in an expression.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let names = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    names.filter(|name| name.starts_with("okms_"))
}

#[test]
fn alerts_fire_when_something_is_wrong_and_only_then() {
    if !has("promtool", "--version") {
        skipped(
            "alerts_fire_when_something_is_wrong_and_only_then",
            "no promtool (Debian's prometheus)",
        );
        return;
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/firing.yaml");
    let said = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    let firing = std::fs::read_to_string(file).unwrap();
    for (alert, _) in alerts() {
        assert!(firing.contains(&format!("\"{alert}\"")), "{alert} is never seen firing");
    }
}

#[test]
fn alerts_and_the_dashboard_speak_of_metrics_and_conditions_that_there_are() {
    let rehearsal = RehearsalMetrics::default();
    let host = kms_host::metrics::Metrics::with(|registry| rehearsal.register(registry));
    let _seen = host.host("kms01");
    let operator = kms_operator::metrics::Metrics::default();
    operator.condition(kms_operator::conditions::kind::READY, "True", 1);
    let key = Key {
        namespace: "office".to_owned(),
        name: "kms".to_owned(),
    };
    operator.unwell(vec![(key, kms_operator::conditions::kind::READY, String::new())]);
    operator.permission("list", "services", "office", false);
    operator.failed(kms_operator::conditions::reason::DEFECT);
    operator.reconciled("ready", std::time::Duration::ZERO);
    operator.wrote("Service", "apply");
    let now = kms_host::metrics::Now {
        routing: Some(nobody()),
        observations: Some(Default::default()),
        ..Default::default()
    };
    let served = host.encode(now) + &operator.encode(0, 0, 0);
    let known: BTreeSet<&str> = served
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let panels = panels();
    assert!(panels.len() > 10);
    for (alert, expression) in alerts().into_iter().chain(panels) {
        assert!(metrics(&expression).next().is_some(), "{alert}: {expression}");
        for metric in metrics(&expression) {
            let family = metric.strip_suffix("_total").unwrap_or(metric);
            let family = family.strip_suffix("_bucket").unwrap_or(family);
            assert!(known.contains(family), "{alert}: {metric} is no metric: {known:#?}");
        }
        if let Some((_, rest)) = expression.split_once("condition=\"") {
            let condition = rest.split('"').next().unwrap();
            assert!(
                kms_operator::conditions::kind::ALL.contains(&condition),
                "{alert}: {condition}"
            );
        }
    }
}

#[tokio::test]
async fn a_rehearsal_host_says_whether_its_ledger_can_be_read() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("key");
    std::fs::write(&file, [7; 32])?;
    let key = file.display();
    let replica = |ledger: &str| Replica::start(&format!("rehearsal: {{siteKeyFile: {key}}}\nledger: {ledger}\n"));
    let well = replica("{memory: {}}")?;
    well.metric_reaches("okms_ledger_up", 1.0).await?;
    // Nothing listens there.
    let away = replica(&format!("{{redis: {{addresses: ['127.0.0.1:1']}}, keyFile: {key}}}"))?;
    away.status_becomes("the ledger is away", |status| status["ledger"]["available"] == false)
        .await?;
    let (_, metrics) = http::get(away.admin, "/metrics").await?;
    assert!(metrics.lines().any(|line| line == "okms_ledger_up 0"), "{metrics}");
    Ok(())
}

/// A fleet without hosts: what is known of each host comes under metrics that are named even then.
fn nobody() -> kms_host::routing::RoutingStatus {
    serde_json::from_value(serde_json::json!({
        "policy": "countAware", "knowledge": "fresh", "distinctClients": 0, "requiredCount": 5,
        "activeSet": [], "clientsKnown": 0, "hosts": []
    }))
    .unwrap()
}

#[test]
fn each_metric_and_each_alert_is_told_of() {
    let pages = of_the_project("docs/reference/kms-host.md") + &of_the_project("docs/reference/kms-operator.md");
    let operations = of_the_project("docs/operations.md");
    for (alert, expression) in alerts() {
        assert!(
            operations.contains(&format!("`{alert}`")),
            "docs/operations.md: {alert}"
        );
        for metric in metrics(&expression) {
            assert!(pages.contains(&format!("`{metric}`")), "docs/reference: {metric}");
        }
    }
}

#[test]
fn the_chart_makes_a_prometheus_rule_of_them_but_for_those_that_are_not_wanted() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(error) => {
            skipped(
                "the_chart_makes_a_prometheus_rule_of_them_but_for_those_that_are_not_wanted",
                &error.to_string(),
            );
            return;
        }
    };
    let plain = tools.template("").unwrap();
    assert!(plain.of("PrometheusRule").is_empty() && plain.of("ConfigMap").is_empty());
    let values = "metrics: {prometheusRule: {enabled: true, labels: {release: p}, without: [OfficeKmsIdle]}}";
    let chart = tools.template(values).unwrap();
    let rule = chart.the("PrometheusRule").unwrap();
    assert_eq!(rule["metadata"]["labels"]["release"], "p");
    let groups = rule["spec"]["groups"].as_array().unwrap().iter();
    let names: Vec<String> = groups
        .flat_map(|group| group["rules"].as_array().unwrap())
        .map(|rule| rule["alert"].as_str().unwrap().to_owned())
        .collect();
    let wanted: Vec<String> = alerts()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "OfficeKmsIdle")
        .collect();
    assert_eq!(names, wanted);
    // Prometheus' own templates are left to Prometheus.
    assert!(rule.to_string().contains("{{ $labels.job }}"));
}

#[test]
fn the_chart_hands_the_dashboard_to_grafanas_sidecar() {
    let tools = match Tools::find() {
        Ok(tools) => tools,
        Err(error) => {
            skipped("the_chart_hands_the_dashboard_to_grafanas_sidecar", &error.to_string());
            return;
        }
    };
    let chart = tools.template("metrics: {dashboard: {enabled: true}}").unwrap();
    let map = chart.the("ConfigMap").unwrap();
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    let handed: Value = serde_json::from_str(map["data"]["officekms.json"].as_str().unwrap()).unwrap();
    let file: Value = serde_json::from_str(&of_the_project("charts/officekms/files/dashboard.json")).unwrap();
    assert_eq!(handed, file);
}
