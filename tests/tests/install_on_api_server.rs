//! Real Helm and kubectl against a real API server, which refuses what a template alone does not show. No kubelet runs, so
//! nothing is waited for.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::helm::{Manifests, Tools, workspace};
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::becomes;
use system_tests::peer::skipped;

const SYSTEM: &str = "officekms-system";

struct Site {
    tools: Tools,
    _plane: ControlPlane,
}

impl Site {
    async fn begin(test: &str) -> Result<Option<Self>> {
        if let Some(why) = ControlPlane::missing() {
            skipped(test, &why);
            return Ok(None);
        }
        let tools = match Tools::find() {
            Ok(tools) => tools,
            Err(error) => {
                skipped(test, &error.to_string());
                return Ok(None);
            }
        };
        let plane = ControlPlane::start().await?;
        Ok(Some(Self {
            tools: tools.on(&plane.kubeconfig()?),
            _plane: plane,
        }))
    }

    fn kubectl(&self, arguments: &str) -> Result<String> {
        let said = self.tools.kubectl(arguments.split_whitespace())?;
        said.ok().with_context(|| format!("kubectl {arguments}"))
    }

    fn helm(&self, arguments: &str) -> Result<String> {
        let namespace = ["--namespace", SYSTEM].into_iter();
        let said = self.tools.helm(namespace.chain(arguments.split_whitespace()))?;
        said.ok().with_context(|| format!("helm {arguments}"))
    }

    /// One object; null where there is none.
    fn get(&self, what: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {what} --ignore-not-found --output=json"))?;
        Ok(if text.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text)?
        })
    }

    fn deployment(&self) -> Result<Value> {
        self.get(&format!("-n {SYSTEM} deployment/officekms-operator"))
    }

    /// Every object of ours, of every kind that the server has, as `kind/name` by namespace.
    fn ours(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let kinds = self.kubectl("api-resources --verbs=list --output=name")?;
        let kinds: Vec<&str> = kinds.lines().filter(|kind| !kind.starts_with("events")).collect();
        let list = self.kubectl(&format!(
            "get {} --all-namespaces --ignore-not-found -l app.kubernetes.io/part-of=officekms --output=json",
            kinds.join(",")
        ))?;
        let list: Value = if list.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&list)?
        };
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for item in list["items"].as_array().into_iter().flatten() {
            let text = |pointer| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            // The control plane makes a slice for each Service, where its controller runs.
            if text("/kind") != "EndpointSlice" {
                let name = format!("{}/{}", text("/kind"), text("/metadata/name"));
                found
                    .entry(text("/metadata/namespace").to_owned())
                    .or_default()
                    .push(name);
            }
        }
        Ok(found)
    }

    /// Waits until the resource is served, after its definition came.
    async fn served(&self) -> Result<()> {
        becomes("the resource is served", async || {
            Ok(self.tools.kubectl(["get", "officekmshosts"])?.success)
        })
        .await
    }
}

#[tokio::test]
async fn helm_installs_upgrades_rolls_back_and_uninstalls() -> Result<()> {
    let Some(site) = Site::begin("helm_installs_upgrades_rolls_back_and_uninstalls").await? else {
        return Ok(());
    };
    site.helm("install officekms charts/officekms --create-namespace")?;
    site.served().await?;
    let environment = |name: &str| -> Result<String> {
        let deployment = site.deployment()?;
        let all = deployment
            .pointer("/spec/template/spec/containers/0/env")
            .context("variables")?;
        let found = all.as_array().into_iter().flatten().find(|one| one["name"] == name);
        Ok(found
            .and_then(|one| one["value"].as_str())
            .unwrap_or_default()
            .to_owned())
    };
    assert_eq!(site.deployment()?["spec"]["replicas"], 2);
    let installed = site.ours()?;

    site.kubectl("create namespace kms")?;
    site.kubectl("-n kms apply --server-side -f docs/examples/manifests/rehearsal.yaml")?;
    site.helm("upgrade officekms charts/officekms --set replicas=3 --set upgradeAtOnce=2 --set hostImage.tag=9.9.9")?;
    assert_eq!(site.deployment()?["spec"]["replicas"], 3);
    assert_eq!(environment("OKMS_UPGRADE_AT_ONCE")?, "2");
    assert!(environment("OKMS_HOST_IMAGE")?.ends_with(":9.9.9"));
    // To one replica: the budget goes.
    site.helm("upgrade officekms charts/officekms --set replicas=1")?;
    assert!(
        site.get(&format!("-n {SYSTEM} poddisruptionbudget/officekms-operator"))?
            .is_null()
    );
    site.helm("rollback officekms 1")?;
    assert_eq!(site.deployment()?["spec"]["replicas"], 2);
    assert_eq!(environment("OKMS_UPGRADE_AT_ONCE")?, "0");
    assert_eq!(site.ours()?, installed, "a rollback brings back what there was");

    // The definition stays, and with it every resource.
    let definition = "customresourcedefinition/officekmshosts.officekms.io";
    site.helm("uninstall officekms")?;
    let kept = site.ours()?;
    let kept: Vec<&String> = kept.values().flatten().collect();
    assert_eq!(kept, ["CustomResourceDefinition/officekmshosts.officekms.io"]);
    assert!(!site.get("-n kms officekmshost/rehearsal")?.is_null());

    // It is taken over by the next installation, and goes with it where that is wanted.
    site.helm("install officekms charts/officekms --set crds.keep=false")?;
    assert!(!site.get("-n kms officekmshost/rehearsal")?.is_null());
    site.helm("uninstall officekms")?;
    becomes("the definition is gone", async || Ok(site.get(definition)?.is_null())).await?;
    ensure!(site.ours()?.is_empty(), "left behind: {:?}", site.ours()?);
    Ok(())
}

#[tokio::test]
async fn a_release_for_some_namespaces_grants_nothing_elsewhere() -> Result<()> {
    let Some(site) = Site::begin("a_release_for_some_namespaces_grants_nothing_elsewhere").await? else {
        return Ok(());
    };
    for namespace in ["one", "two"] {
        site.kubectl(&format!("create namespace {namespace}"))?;
    }
    site.helm("install officekms charts/officekms --create-namespace --set watchNamespaces={one,two}")?;
    let may = |verb: &str, what: &str, namespace: &str| -> Result<bool> {
        let account = format!("--as=system:serviceaccount:{SYSTEM}:officekms-operator");
        let said = site
            .tools
            .kubectl(["auth", "can-i", verb, what, "-n", namespace, &account])?;
        Ok(said.out.trim() == "yes")
    };
    for namespace in ["one", "two"] {
        assert!(may("patch", "officekmshosts/status", namespace)? && may("create", "deployments.apps", namespace)?);
        assert!(may("get", "secrets", namespace)? && !may("list", "secrets", namespace)?);
    }
    assert!(!may("get", "officekmshosts", "default")? && !may("get", "secrets", SYSTEM)?);
    assert!(
        may("update", "leases.coordination.k8s.io", SYSTEM)? && !may("update", "leases.coordination.k8s.io", "one")?
    );
    assert!(site.get("clusterrole/officekms-operator")?.is_null());
    Ok(())
}

#[tokio::test]
async fn kubectl_applies_the_file_from_the_client_from_the_server_and_as_a_base() -> Result<()> {
    let Some(site) = Site::begin("kubectl_applies_the_file_from_the_client_from_the_server_and_as_a_base").await?
    else {
        return Ok(());
    };
    let file = "deploy/install.yaml";
    // From the client, an object must fit into its own annotation.
    site.kubectl(&format!("apply -f {file}"))?;
    site.served().await?;
    let again = site.kubectl(&format!("apply -f {file}"))?;
    // kubectl sends a budget's selector each time, as its patch strategy is to replace it.
    let sent = |line: &&str| !line.ends_with(" unchanged") && !line.starts_with("poddisruptionbudget");
    let changed: Vec<&str> = again.lines().filter(sent).collect();
    assert!(changed.is_empty(), "applied twice, it differs: {changed:?}");
    // From the server, over what the client applied.
    site.kubectl(&format!("apply --server-side --force-conflicts -f {file}"))?;
    let objects = site.ours()?;
    site.kubectl("apply --server-side -k deploy")?;
    assert_eq!(site.ours()?, objects);
    // The definition is that of `crds`, without labels.
    assert_eq!(Manifests::file(file)?.0.len() - 1, objects.values().flatten().count());

    // People read and write resources through the cluster's own roles.
    let roles = site.get("clusterrole/officekms-edit")?;
    assert_eq!(
        roles["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
        "true"
    );

    site.kubectl(&format!("delete --wait=false -f {file}"))?;
    becomes("the definition is gone", async || {
        Ok(site
            .get("customresourcedefinition/officekmshosts.officekms.io")?
            .is_null())
    })
    .await
}

#[tokio::test]
async fn the_api_server_takes_every_example() -> Result<()> {
    let Some(site) = Site::begin("the_api_server_takes_every_example").await? else {
        return Ok(());
    };
    site.kubectl("apply --server-side -f crds/officekms.io_officekmshosts.yaml")?;
    site.served().await?;
    let examples = workspace().join("docs/examples");
    let mut taken = 0;
    for folder in [examples.clone(), examples.join("manifests")] {
        for entry in std::fs::read_dir(folder)? {
            let file = entry?.path();
            let manifests = file.extension().is_some_and(|extension| extension == "yaml")
                && std::fs::read_to_string(&file)?.contains("kind: OfficeKmsHost");
            if !manifests {
                continue;
            }
            for manifest in Manifests::read(&std::fs::read_to_string(&file)?)?.0 {
                let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str);
                if let Some(namespace) = namespace.filter(|_| manifest["kind"] != "Namespace") {
                    let make = site.tools.kubectl(["create", "namespace", namespace])?;
                    ensure!(make.success || make.err.contains("AlreadyExists"), "{}", make.err);
                }
            }
            site.kubectl(&format!("apply --server-side --dry-run=server -f {}", file.display()))?;
            taken += 1;
        }
    }
    assert!(taken >= 4, "{taken}");
    Ok(())
}
