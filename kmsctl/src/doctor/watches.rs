//! Which namespaces an operator serves, read from its Deployment.

use k8s_openapi::api::core::v1::Container;

/// The operator's own flag and variable, as [`kms_operator::settings::Settings`] has them.
const FLAG: &str = "--watch-namespace";
const VARIABLE: &str = "OKMS_WATCH_NAMESPACES";

/// The namespaces that the operator in one of these containers is told to watch; none: all. A variable that is set from a
/// ConfigMap is not followed: who may see the Deployment need not be allowed to read that.
pub(super) fn watches(containers: &[Container]) -> Vec<String> {
    containers
        .iter()
        .map(told)
        .find(|watched| !watched.is_empty())
        .unwrap_or_default()
}

/// As clap does it, a flag replaces the variable.
fn told(container: &Container) -> Vec<String> {
    let by_flags = flags(container);
    if !by_flags.is_empty() {
        return by_flags;
    }
    let variables = container.env.iter().flatten();
    let mut values = variables
        .filter(|variable| variable.name == VARIABLE)
        .filter_map(|variable| variable.value.as_deref());
    // Of a variable that is given twice, the last is the one that counts.
    values.next_back().map(split).unwrap_or_default()
}

fn flags(container: &Container) -> Vec<String> {
    let (mut watched, mut is_value) = (Vec::new(), false);
    let words = container
        .command
        .iter()
        .flatten()
        .chain(container.args.iter().flatten());
    for word in words {
        if is_value {
            watched.extend(split(word));
            is_value = false;
        } else if let Some(rest) = word.strip_prefix(FLAG) {
            match rest.strip_prefix('=') {
                Some(value) => watched.extend(split(value)),
                None => is_value = rest.is_empty(),
            }
        }
    }
    watched
}

fn split(names: &str) -> Vec<String> {
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use kms_operator::manifests::{Install, manifests};
    use serde_json::{Value, json};

    use super::*;

    fn of(containers: Value) -> Vec<String> {
        let containers: Vec<Container> = serde_json::from_value(containers).unwrap();
        watches(&containers)
    }

    #[test]
    fn namespaces_are_read_as_the_operator_reads_them() {
        let env = json!([{"name": VARIABLE, "value": "a,b"}, {"name": "OTHER", "value": "c"}]);
        assert_eq!(
            of(json!([{"name": "proxy"}, {"name": "kms-operator", "env": env}])),
            ["a", "b"]
        );
        assert!(of(json!([{"name": "kms-operator", "args": ["run"]}])).is_empty());
        let args = json!([
            "run",
            "--workers",
            "3",
            "--watch-namespace",
            "c",
            "--watch-namespace=d,e",
            "--watch-namespaces"
        ]);
        assert_eq!(
            of(json!([{"name": "kms-operator", "args": args, "env": env}])),
            ["c", "d", "e"],
            "a flag replaces the variable"
        );
        let from = json!([{"name": VARIABLE, "valueFrom": {"configMapKeyRef": {"name": "n", "key": "k"}}}]);
        assert!(of(json!([{"name": "kms-operator", "env": from}])).is_empty());
    }

    #[test]
    fn what_the_installation_sets_is_understood() {
        let mut install = Install::default();
        install.settings.watch_namespaces = vec!["one".into(), "two".into()];
        let manifests = manifests(&install);
        let deployment = manifests.iter().find(|one| one["kind"] == "Deployment").unwrap();
        let containers = deployment["spec"]["template"]["spec"]["containers"].clone();
        assert_eq!(of(containers), ["one", "two"]);
    }
}
