//! `kubectl officekms`: kmsctl under the name by which kubectl finds it, called by the real kubectl.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use system_tests::helm::Tools;
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::becomes;
use system_tests::{peer, program};
use tempfile::TempDir;

/// kubectl with the plugin, and the folder that it is in; or the line that says that this test did not run.
fn kubectl(test: &str) -> Result<Option<(Tools, TempDir)>> {
    match Tools::find() {
        Err(error) => {
            peer::skipped(test, &error.to_string());
            Ok(None)
        }
        Ok(tools) => {
            let folder = tempfile::tempdir()?;
            symlink(program::path("kmsctl")?, folder.path().join("kubectl-officekms"))?;
            Ok(Some((tools.with_plugins(folder.path()), folder)))
        }
    }
}

#[test]
fn kubectl_lists_it_and_runs_it_without_a_cluster() -> Result<()> {
    let Some((kubectl, _folder)) = kubectl("kubectl_lists_it_and_runs_it_without_a_cluster")? else {
        return Ok(());
    };
    let listed = kubectl.kubectl(["plugin", "list"])?;
    ensure!(listed.out.contains("kubectl-officekms"), "{listed:?}");
    ensure!(!listed.err.contains("warning"), "{listed:?}");
    let rendered = kubectl
        .kubectl(["officekms", "render", "-f", "docs/examples/demo.yaml"])?
        .ok()?;
    ensure!(rendered.contains("kind: Deployment"), "{rendered}");
    let refused = kubectl.kubectl(["officekms", "status", "kms"])?.refused()?;
    ensure!(refused.contains("no cluster can be asked"), "{refused}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_prints_is_taken_by_an_api_server_and_it_shows_what_is_there() -> Result<()> {
    let test = "what_it_prints_is_taken_by_an_api_server_and_it_shows_what_is_there";
    let Some((kubectl, folder)) = kubectl(test)? else {
        return Ok(());
    };
    if let Some(why) = ControlPlane::missing() {
        peer::skipped(test, &why);
        return Ok(());
    }
    let plane = ControlPlane::start().await?;
    let kubectl = kubectl.on(&plane.kubeconfig()?);
    let file = |name: &str, content: &str| -> Result<String> {
        let path = folder.path().join(name);
        fs::write(&path, content)?;
        path.into_os_string().into_string().ok().context("a path")
    };

    let crd = file("crd.yaml", &kubectl.kubectl(["officekms", "crd"])?.ok()?)?;
    kubectl.kubectl(["apply", "--server-side", "-f", &crd])?.ok()?;
    let established = [
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/officekmshosts.officekms.io",
    ];
    // kubectl itself fails while there are no conditions at all.
    becomes("the definition is established", async || {
        Ok(kubectl.kubectl(established)?.success)
    })
    .await?;

    for manifest in ["docs/examples/demo.yaml", "docs/examples/licensing.yaml"] {
        let rendered = kubectl.kubectl(["officekms", "render", "-f", manifest])?.ok()?;
        let rendered = file("rendered.yaml", &rendered)?;
        let taken = kubectl.kubectl(["apply", "--dry-run=server", "-f", &rendered])?.ok()?;
        ensure!(
            taken.contains("deployment.apps/kms created (server dry run)"),
            "{taken}"
        );
    }

    let misspelt = file(
        "misspelt.yaml",
        "apiVersion: officekms.io/v1alpha1\nkind: OfficeKmsHost\nmetadata: {name: kms}\n\
         spec: {rehearsal: {}, replica: 2}\n",
    )?;
    let refused = kubectl
        .kubectl(["apply", "--dry-run=server", "-f", &misspelt])?
        .refused()?;
    ensure!(refused.contains("spec.replica"), "{refused}");
    let render = kubectl.kubectl(["officekms", "render", "-f", &misspelt])?;
    ensure!(
        !render.success && render.out.contains("spec.replica: is no field"),
        "{render:?}"
    );

    kubectl.kubectl(["apply", "-f", "docs/examples/demo.yaml"])?.ok()?;
    let shown = kubectl.kubectl(["officekms", "status", "--all-namespaces", "-o", "json"])?;
    let shown: Value = serde_json::from_str(&shown.out).with_context(|| format!("{shown:?}"))?;
    let resources = shown["resources"].as_array().context("resources")?;
    let names: Vec<_> = resources
        .iter()
        .filter_map(|resource| resource["name"].as_str())
        .collect();
    assert_eq!(names, ["kms", "stand-in"], "{shown}");
    let status = json!({"status": {"licensedHosts": [{"name": "stand-in", "licensed": false,
        "products": [{"name": "OfficeLTSC2024", "step": "Activate"}]}]}});
    let status = status.to_string();
    let patch = [
        "patch",
        "okms/kms",
        "--subresource=status",
        "--type=merge",
        "-p",
        &status,
    ];
    kubectl.kubectl(patch)?.ok()?;
    let named = kubectl.kubectl(["officekms", "status", "kms"])?;
    for told in [
        "OfficeLTSC2024: Activate",
        "no replica of OfficeKmsHost default/kms runs",
    ] {
        ensure!(named.out.contains(told), "{told}: {named:?}");
    }
    let doctor = kubectl.kubectl(["officekms", "doctor", "kms"])?;
    ensure!(
        !doctor.success && doctor.out.contains("operator"),
        "nobody looks after it: {doctor:?}"
    );
    Ok(())
}
