//! A resource's life on the cluster that `KUBECONFIG` names, whatever it is; where it names none, on a control plane of the
//! test's own. Of the cluster nothing is touched but a namespace of the test's own and the definition, which is made and
//! removed again. A cluster that has the definition already is left alone.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kms_operator::api::OfficeKmsHost;
use kms_operator::settings::Settings;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, CustomResourceExt as _, ResourceExt as _};
use serde_json::{Value, json};
use system_tests::kubernetes::ControlPlane;
use system_tests::operator::{Operator, becomes, define};
use system_tests::peer::skipped;
use system_tests::story::resource;

const TEST: &str = "a_resource_lives_on_the_cluster_that_kubeconfig_names";

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_lives_on_the_cluster_that_kubeconfig_names() -> Result<()> {
    let own = match (std::env::var_os("KUBECONFIG"), ControlPlane::missing()) {
        (Some(_), _) => None,
        (None, None) => Some(ControlPlane::start().await?),
        (None, Some(why)) => {
            skipped(TEST, &why);
            return Ok(());
        }
    };
    let config = match &own {
        Some(plane) => plane.config.clone(),
        None => Config::infer().await.context("KUBECONFIG")?,
    };
    let client = Client::try_from(config.clone())?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = OfficeKmsHost::crd().name_any();
    let there = definitions
        .get_opt(&name)
        .await
        .context("the cluster that KUBECONFIG names does not answer: start it, or unset KUBECONFIG")?;
    if there.is_some() {
        let why = "the cluster that KUBECONFIG names has officekms already, which is left alone";
        skipped(TEST, why);
        return Ok(());
    }
    define(&client).await?;
    let told = in_a_namespace(config, &client, own.is_none()).await;
    definitions.delete(&name, &DeleteParams::default()).await?;
    becomes("the definition is gone", async || {
        Ok(definitions.get_opt(&name).await?.is_none())
    })
    .await?;
    told
}

/// The story in a namespace of its own, which goes with it.
async fn in_a_namespace(config: Config, client: &Client, collects: bool) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let named: Namespace = serde_json::from_value(json!({"metadata": {"generateName": "officekms-test-"}}))?;
    let namespace = namespaces.create(&PostParams::default(), &named).await?.name_any();
    let told = story(config, client, &namespace, collects).await;
    namespaces.delete(&namespace, &DeleteParams::default()).await?;
    told.with_context(|| format!("in the namespace {namespace}"))
}

/// `collects`: whether the cluster collects what has lost its owner.
async fn story(config: Config, client: &Client, namespace: &str, collects: bool) -> Result<()> {
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let settings = Settings {
        watch_namespaces: vec![namespace.to_owned()],
        ..Settings::default()
    };
    let operator = Operator::start_with(config, TEST, None, settings)?;

    // Children, and a status of this generation that says what is waited for, or that all is well.
    hosts
        .create(&PostParams::default(), &resource("kms", json!({}))?)
        .await?;
    operator
        .becomes("the resource is looked at", async || looked_at(&hosts).await)
        .await?;
    let host = hosts.get("kms").await?;
    let service = services.get("kms").await?;
    let owner = service.owner_references().first().map(|owner| &owner.uid);
    ensure!(owner == host.metadata.uid.as_ref(), "{service:?}");
    let template = template_of(&deployments).await?;

    // What is deleted or changed by hand is put back.
    services.delete("kms", &DeleteParams::default()).await?;
    let uid = service.metadata.uid;
    operator
        .becomes("the Service is back", async || {
            let back = services.get_opt("kms").await?;
            Ok(back.is_some_and(|back| back.metadata.uid != uid))
        })
        .await?;
    let change = Patch::Merge(json!({"data": {"host.yaml": "by hand"}}));
    configs.patch("kms-config", &PatchParams::default(), &change).await?;
    let says = async |what: &str| -> Result<bool> {
        let data = configs.get("kms-config").await?.data.unwrap_or_default();
        Ok(data.get("host.yaml").is_some_and(|text| text.contains(what)))
    };
    operator
        .becomes("the configuration is back", async || says("192.0.2.7").await)
        .await?;

    // Another list of hosts is taken over without a restart.
    let change = json!({"spec": {"licensedHosts": [{"name": "kms02", "address": "192.0.2.8"}]}});
    hosts
        .patch("kms", &PatchParams::default(), &Patch::Merge(&change))
        .await?;
    operator
        .becomes("the new host is in the configuration", async || says("192.0.2.8").await)
        .await?;
    operator
        .becomes("the change is looked at", async || looked_at(&hosts).await)
        .await?;
    ensure!(template_of(&deployments).await? == template, "the pods need no restart");

    hosts.delete("kms", &DeleteParams::default()).await?;
    operator
        .becomes("the resource is gone", async || {
            Ok(hosts.get_opt("kms").await?.is_none())
        })
        .await?;
    if collects {
        operator
            .becomes("its children are collected", async || {
                Ok(deployments.get_opt("kms").await?.is_none() && services.get_opt("kms").await?.is_none())
            })
            .await?;
    }
    operator.stop().await
}

/// Whether the status is of the present generation and judges it.
async fn looked_at(hosts: &Api<OfficeKmsHost>) -> Result<bool> {
    let host = hosts.get("kms").await?;
    let status = host.status.unwrap_or_default();
    let judged = status.conditions.iter().any(|condition| condition.type_ == "Ready");
    Ok(judged && status.observed_generation == host.metadata.generation)
}

/// What a change of restarts pods.
async fn template_of(deployments: &Api<Deployment>) -> Result<BTreeMap<String, Value>> {
    let deployment = deployments.get("kms").await?;
    let template = deployment.spec.context("a spec")?.template;
    Ok(serde_json::from_value(serde_json::to_value(template)?)?)
}
