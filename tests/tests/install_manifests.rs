//! `deploy/` as kubectl reads it, Argo CD's health check as Lua runs it, and the GitOps examples of the documentation.

use anyhow::{Context as _, Result};
use serde_json::Value;
use system_tests::helm::{Manifests, Tools, workspace};
use system_tests::lua;
use system_tests::peer::skipped;

fn tools(test: &str) -> Option<Tools> {
    Tools::find().map_err(|error| skipped(test, &error.to_string())).ok()
}

#[test]
fn the_base_is_install_yaml() {
    let Some(tools) = tools("the_base_is_install_yaml") else {
        return;
    };
    let built = Manifests::read(&tools.kubectl(["kustomize", "deploy"]).unwrap().ok().unwrap()).unwrap();
    let stored = Manifests::file("deploy/install.yaml").unwrap();
    assert_eq!(built.0.len(), stored.0.len());
    for manifest in &stored.0 {
        assert!(built.0.contains(manifest), "{} was changed", manifest["kind"]);
    }
}

#[test]
fn the_overlay_moves_everything_to_its_namespace_and_registry() {
    let Some(tools) = tools("the_overlay_moves_everything_to_its_namespace_and_registry") else {
        return;
    };
    let text = tools
        .kubectl(["kustomize", "docs/examples/kustomize"])
        .unwrap()
        .ok()
        .unwrap();
    assert!(!text.contains("officekms-system") && !text.contains("ghcr.io"));
    let built = Manifests::read(&text).unwrap();
    assert_eq!(built.the("Namespace").unwrap()["metadata"]["name"], "kms-system");
    let pod = &built.the("Deployment").unwrap()["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let image = container["image"].as_str().unwrap();
    assert!(
        image.starts_with("registry.example.com/officekms/kms-operator@sha256:"),
        "{image}"
    );
    assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    assert_eq!(container["args"][0], "run", "the patch is merged into the container");
    for binding in built
        .of("ClusterRoleBinding")
        .into_iter()
        .chain(built.of("RoleBinding"))
    {
        assert_eq!(binding["subjects"][0]["namespace"], "kms-system");
    }
}

#[test]
fn argo_cd_sees_what_the_conditions_say() {
    let Some(lua) = lua::find() else {
        return skipped(
            "argo_cd_sees_what_the_conditions_say",
            "no Lua is installed: apt-get install lua5.4",
        );
    };
    let check = workspace().join("deploy/argocd/health.lua");
    let fixtures = workspace().join("tests/fixtures/argocd");
    let mut seen = std::collections::BTreeSet::new();
    for fixture in std::fs::read_dir(fixtures).unwrap().map(|entry| entry.unwrap().path()) {
        let case = Manifests::read(&std::fs::read_to_string(&fixture).unwrap())
            .unwrap()
            .0
            .remove(0);
        let object: kms_operator::api::OfficeKmsHost = serde_json::from_value(case["object"].clone()).unwrap();
        assert!(object.metadata.generation.is_some());
        let (status, message) = lua::health(lua, &check, &case["object"]).unwrap();
        let expected = &case["expect"];
        assert_eq!(
            (&expected["status"], &expected["message"]),
            (&status.clone().into(), &message.into()),
            "{}",
            fixture.display()
        );
        seen.insert(status);
    }
    assert_eq!(
        seen.into_iter().collect::<Vec<_>>(),
        ["Degraded", "Healthy", "Progressing", "Suspended"]
    );
}

/// YAML in fenced blocks of a page.
fn examples(page: &str) -> Result<Vec<Manifests>> {
    let text = std::fs::read_to_string(workspace().join(page))?;
    let blocks = text
        .split(
            "```yaml
",
        )
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    blocks
        .map(|block| Manifests::read(block).with_context(|| format!("{page}: {block}")))
        .collect()
}

#[test]
fn the_gitops_examples_are_yaml_whose_values_the_chart_takes() {
    let Some(tools) = tools("the_gitops_examples_are_yaml_whose_values_the_chart_takes") else {
        return;
    };
    let (mut releases, mut checks) = (0, 0);
    let mut kinds = Vec::new();
    for manifest in examples("docs/gitops.md")
        .unwrap()
        .into_iter()
        .flat_map(|block| block.0)
    {
        kinds.push(manifest["kind"].as_str().unwrap_or_default().to_owned());
        let check = &manifest["data"]["resource.customizations.health.officekms.io_OfficeKmsHost"];
        if let Some(check) = check.as_str() {
            let file = std::fs::read_to_string(workspace().join("deploy/argocd/health.lua")).unwrap();
            assert_eq!(
                check.trim_end(),
                file.trim_end(),
                "docs/gitops.md has another health check"
            );
            checks += 1;
        }
        let values = match kinds.last().map(String::as_str) {
            Some("HelmRelease") => &manifest["spec"]["values"],
            Some("Application") => &manifest["spec"]["source"]["helm"]["valuesObject"],
            Some("OfficeKmsHost") => {
                let _: kms_operator::api::OfficeKmsHost = serde_json::from_value(manifest).unwrap();
                continue;
            }
            _ => &Value::Null,
        };
        if !values.is_null() {
            tools.template(&values.to_string()).unwrap();
            releases += 1;
        }
    }
    assert_eq!((releases, checks), (2, 1), "{kinds:?}");
    for kind in [
        "HelmRelease",
        "Kustomization",
        "Application",
        "ConfigMap",
        "OfficeKmsHost",
    ] {
        assert!(kinds.iter().any(|one| one == kind), "no example of {kind}");
    }
}

#[test]
fn examples_of_the_installation_guide_are_values_that_the_chart_takes() {
    let Some(tools) = tools("examples_of_the_installation_guide_are_values_that_the_chart_takes") else {
        return;
    };
    let mut values = 0;
    for block in examples("docs/install.md").unwrap() {
        if block.0[0]["apiVersion"].is_null() {
            tools.template(&block.0[0].to_string()).unwrap();
            values += 1;
        }
    }
    assert!(values >= 2, "{values}");
}
