//! A new operator brings new default images, and restarts no pod unless the administrator says so: on a real API server.
//! No kubelet runs, so the test says of Deployments how far they are.

use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kms_operator::api::OfficeKmsHost;
use kms_operator::settings::Settings;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::{Operator, becomes, cluster};

/// An operator of this version.
fn operator(plane: &ControlPlane, version: u16, at_once: u16) -> Result<Operator> {
    let settings = Settings {
        host_image: format!("registry.example.com/kms-host:{version}"),
        upgrade_at_once: at_once,
        ..Settings::default()
    };
    Operator::start_with(plane.config.clone(), &format!("version-{version}"), None, settings)
}

struct Site {
    hosts: Api<OfficeKmsHost>,
    deployments: Api<Deployment>,
}

impl Site {
    fn of(plane: &ControlPlane) -> Result<Self> {
        let client = plane.client()?;
        Ok(Self {
            hosts: Api::default_namespaced(client.clone()),
            deployments: Api::default_namespaced(client),
        })
    }

    async fn create(&self, name: &str) -> Result<()> {
        let host = serde_json::from_value(json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": name},
            "spec": {"replicas": 1, "ledger": {"memory": {}}, "licensedHosts": [{"name": "kms01", "address": "192.0.2.7"}]}
        }))?;
        self.hosts.create(&PostParams::default(), &host).await?;
        Ok(())
    }

    /// The version that the pods of a resource are to have.
    async fn version(&self, name: &str) -> Result<String> {
        let deployment = serde_json::to_value(self.deployments.get(name).await?)?;
        let image = deployment.pointer("/spec/template/spec/containers/0/image");
        let image = image.and_then(|image| image.as_str()).context("an image")?;
        Ok(image.rsplit(':').next().unwrap_or_default().to_owned())
    }

    async fn has(&self, name: &str, version: &str) -> Result<()> {
        becomes(&format!("{name} has version {version}"), async || {
            Ok(self.version(name).await? == version)
        })
        .await
    }

    /// Has the Deployment look as if its pods ran, and waits until the operator has seen it.
    async fn runs(&self, name: &str) -> Result<()> {
        let deployment = self.deployments.get(name).await?;
        let generation = deployment.metadata.generation;
        let status = json!({"status": {
            "observedGeneration": generation, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1
        }});
        self.deployments
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await?;
        becomes(&format!("{name} is ready"), async || {
            let status = self.hosts.get(name).await?.status.unwrap_or_default();
            let ready = status.conditions.iter().find(|one| one.type_ == "Ready");
            Ok(ready.is_some_and(|ready| ready.status == "True"))
        })
        .await
    }
}

/// Where in the log of changes the first one of this kind is, from `begin` on.
fn first(plane: &ControlPlane, begin: usize, change: &str) -> Option<usize> {
    let writes = plane.writes();
    (begin..writes.len()).find(|&at| {
        writes
            .get(at)
            .is_some_and(|line| line.split('?').next() == Some(change))
    })
}

fn change(name: &str) -> String {
    format!("patch /apis/apps/v1/namespaces/default/deployments/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_of_the_operator_restarts_no_host_pod_unless_it_is_told_to() -> Result<()> {
    let Some(plane) = cluster("an_upgrade_of_the_operator_restarts_no_host_pod_unless_it_is_told_to").await? else {
        return Ok(());
    };
    let site = Site::of(&plane)?;
    let running = operator(&plane, 1, 0)?;
    for name in ["one", "two"] {
        site.create(name).await?;
        site.has(name, "1").await?;
        site.runs(name).await?;
    }
    running.stop().await?;

    // The next version: what is new gets its image, what runs is not touched.
    let begin = plane.writes().len();
    let running = operator(&plane, 2, 0)?;
    site.create("three").await?;
    site.has("three", "2").await?;
    site.runs("three").await?;
    // Each is looked at once a second: until the third's replicas were changed and put back, all were.
    let scale = json!({"spec": {"replicas": 5}});
    site.deployments
        .patch("three", &PatchParams::default(), &Patch::Merge(&scale))
        .await?;
    becomes("the change of three is put back", async || {
        let deployment = site.deployments.get("three").await?;
        Ok(deployment.spec.and_then(|spec| spec.replicas) == Some(1))
    })
    .await?;
    site.runs("three").await?;
    for name in ["one", "two"] {
        assert_eq!(site.version(name).await?, "1");
        assert_eq!(first(&plane, begin, &change(name)), None, "{name} was written");
    }
    running.stop().await?;

    // Told to upgrade one at a time: the second follows when the first is ready.
    let begin = plane.writes().len();
    let running = operator(&plane, 2, 1)?;
    let mut order = Vec::new();
    becomes("one of them has the new version", async || {
        for (name, other) in [("one", "two"), ("two", "one")] {
            if site.version(name).await? == "2" {
                order = vec![name, other];
                return Ok(true);
            }
        }
        Ok(false)
    })
    .await?;
    for name in &order {
        site.has(name, "2").await?;
        site.runs(name).await?;
    }
    let (early, late) = (order[0], order[1]);
    let ready = first(&plane, begin, &format!("{}/status", change(early))).context("it was said to run")?;
    let next = first(&plane, begin, &change(late)).context("the second was changed")?;
    assert!(
        ready < next,
        "{late} was changed before {early} was ready: {:#?}",
        plane.writes()
    );
    assert_eq!(site.version("three").await?, "2");
    running.stop().await
}
