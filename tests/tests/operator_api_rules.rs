//! The API on a real API server: each rule of the CRD refuses what it is there to refuse, the defaults are those of the
//! code, and the server takes the children that are built, under Pod Security `restricted`, and needs no write to take them
//! again.

mod cases;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::{self, Inputs};
use kms_operator::settings::Settings;
use kmsctl::manifest::Manifest;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::cel::Validator;
use kube::{Api, Client, CustomResourceExt as _, ResourceExt as _};
use serde_json::{Value, json};
use system_tests::kubernetes::ControlPlane;
use system_tests::peer;
use system_tests::replica::eventually;

use cases::{allowed_changes, bad_names, cases, forbidden_changes, relay};

/// A control plane with our CRD, or the reason why there is none.
async fn cluster(test: &str) -> Result<Option<(ControlPlane, Client)>> {
    if let Some(why) = ControlPlane::missing() {
        peer::skipped(test, &why);
        return Ok(None);
    }
    let plane = ControlPlane::start().await?;
    let client = plane.client()?;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    definitions
        .create(&PostParams::default(), &OfficeKmsHost::crd())
        .await?;
    let hosts: Api<OfficeKmsHost> = Api::namespaced(client.clone(), "default");
    eventually("the API server serves OfficeKmsHost", async || {
        hosts.list(&Default::default()).await.is_ok()
    })
    .await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    eventually("the default namespace is there", async || {
        namespaces.get("default").await.is_ok()
    })
    .await?;
    Ok(Some((plane, client)))
}

/// The rules of a schema as `(path, message)`.
fn rules(schema: &Value, path: &str, found: &mut BTreeSet<(String, String)>) {
    for rule in schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let message = rule.get("message").and_then(Value::as_str).unwrap_or_default();
        found.insert((path.to_owned(), message.to_owned()));
    }
    for (name, field) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        rules(field, &format!("{path}.{name}"), found);
    }
    if let Some(items) = schema.get("items") {
        rules(items, &format!("{path}[]"), found);
    }
}

fn resource(name: &str, spec: &Value) -> Result<DynamicObject> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": name}, "spec": spec,
    }))?)
}

fn as_yaml_writes_it(client: &Client) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), "default", &OfficeKmsHost::api_resource())
}

/// What the API server says when it refuses.
fn refusal<T>(answer: kube::Result<T>) -> Result<String> {
    match answer {
        Ok(_) => bail!("it was taken"),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(status.message),
        Err(error) => Err(error).context("it was not judged at all"),
    }
}

/// The rules of the definition as `(path, message)`, and those that were seen to refuse something.
struct Rules {
    all: BTreeSet<(String, String)>,
    broken: BTreeSet<(String, String)>,
}

impl Rules {
    /// None has refused anything yet.
    fn of(schema: &Value) -> Self {
        let mut all = BTreeSet::new();
        rules(schema, "", &mut all);
        // The operator alone writes the status; the same types are judged under spec.
        all.retain(|(path, _)| !path.starts_with(".status"));
        assert!(all.len() >= 26, "the schema is walked: {all:?}");
        let broken = BTreeSet::new();
        Self { all, broken }
    }

    /// The rule at this path whose message has this piece has refused something, and no other has: so `message` says.
    fn refused(&mut self, path: &str, piece: &str, message: &str) -> Result<()> {
        let rule = self.all.iter().find(|(at, text)| at == path && text.contains(piece));
        let rule = rule.with_context(|| format!("there is a rule `{piece}` at {path}"))?;
        assert!(message.contains(&rule.1), "{rule:?}: {message}");
        let others = self
            .all
            .iter()
            .filter(|(_, text)| !text.is_empty() && *text != rule.1 && message.contains(text.as_str()));
        assert_eq!(
            others.collect::<Vec<_>>(),
            Vec::<&(String, String)>::new(),
            "only {rule:?} is broken"
        );
        self.broken.insert(rule.clone());
        Ok(())
    }

    /// Each was seen.
    fn all_refused(&self) {
        let never: Vec<_> = self.all.difference(&self.broken).collect();
        assert!(never.is_empty(), "rules without a case: {never:#?}");
    }
}

fn schema() -> Result<Value> {
    let mut definition = serde_json::to_value(OfficeKmsHost::crd())?;
    Ok(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
}

#[tokio::test]
async fn every_rule_of_the_definition_refuses_what_it_is_there_for() -> Result<()> {
    let Some((_plane, client)) = cluster("every_rule_of_the_definition_refuses_what_it_is_there_for").await? else {
        return Ok(());
    };
    let hosts = as_yaml_writes_it(&client);
    let mut rules = Rules::of(&schema()?);
    let create = async |name: &str, spec: &Value| -> Result<_> {
        Ok(hosts.create(&PostParams::default(), &resource(name, spec)?).await)
    };
    for (path, piece, spec) in cases() {
        let message = refusal(create("kms", &spec).await?).with_context(|| format!("{path} {piece}: {spec}"))?;
        rules.refused(path, piece, &message)?;
    }
    for (name, piece) in bad_names() {
        rules.refused("", piece, &refusal(create(&name, &relay(&json!({}))).await?)?)?;
    }
    let change = async |name: &str, (before, after): (Value, Value)| -> Result<_> {
        create(name, &relay(&json!({"ledger": before}))).await??;
        let mut changed = hosts.get(name).await?;
        changed.data["spec"]["ledger"] = after;
        Ok(hosts.replace(name, &PostParams::default(), &changed).await)
    };
    for (number, pair) in forbidden_changes().into_iter().enumerate() {
        let answer = change(&format!("forbidden-{number}"), pair).await?;
        rules.refused(".spec", "can't be changed", &refusal(answer)?)?;
    }
    for (number, pair) in allowed_changes().into_iter().enumerate() {
        change(&format!("allowed-{number}"), pair).await??;
    }
    rules.all_refused();
    Ok(())
}

/// The same by an interpreter of the rules, for machines without an API server.
#[test]
fn every_rule_of_the_definition_refuses_without_an_api_server_too() -> Result<()> {
    let schema = schema()?;
    let (mut rules, judge) = (Rules::of(&schema), Validator::new());
    let refusal = |new: &DynamicObject, old: Option<&DynamicObject>| -> Result<String> {
        let old = old.map(serde_json::to_value).transpose()?;
        match judge.validate(&schema, &serde_json::to_value(new)?, old.as_ref()) {
            Ok(()) => bail!("it was taken"),
            Err(errors) => Ok(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    };
    for (path, piece, spec) in cases() {
        let message = refusal(&resource("kms", &spec)?, None).with_context(|| format!("{path} {piece}: {spec}"))?;
        rules.refused(path, piece, &message)?;
    }
    for (name, piece) in bad_names() {
        rules.refused("", piece, &refusal(&resource(&name, &relay(&json!({})))?, None)?)?;
    }
    // As the API server stores it.
    let with = |mut ledger: Value| {
        if let Some(storage) = ledger.pointer_mut("/managed/storage").and_then(Value::as_object_mut) {
            storage.entry("size").or_insert(json!("1Gi"));
        }
        let more = if ledger.is_null() {
            json!({})
        } else {
            json!({"ledger": ledger})
        };
        resource("kept", &relay(&more))
    };
    for (before, after) in forbidden_changes() {
        let told = refusal(&with(after)?, Some(&with(before)?))?;
        rules.refused(".spec", "can't be changed", &told)?;
    }
    for (before, after) in allowed_changes() {
        refusal(&with(after)?, Some(&with(before)?)).expect_err("what may change is taken");
    }
    rules.all_refused();
    let good = serde_json::to_value(with(Value::Null)?)?;
    assert_eq!(
        judge.validate(&schema, &good, Some(&good)),
        Ok(()),
        "what is good is taken"
    );
    Ok(())
}

/// What is wrong with a resource to who reads it from a file.
fn offline(resource: &DynamicObject) -> Result<Vec<String>> {
    Ok(Manifest::parse(&serde_json::to_string(resource)?).problems)
}

#[tokio::test]
async fn bounds_hold_and_defaults_are_those_of_the_code() -> Result<()> {
    let Some((_plane, client)) = cluster("bounds_hold_and_defaults_are_those_of_the_code").await? else {
        return Ok(());
    };
    let hosts = as_yaml_writes_it(&client);
    let twice = json!([{"name": "a", "address": "a.example"}, {"name": "a", "address": "b.example"}]);
    for wrong in [
        relay(&json!({"replicas": -1})),
        relay(&json!({"replicas": 101})),
        relay(&json!({"licensedHosts": []})),
        relay(&json!({"licensedHosts": twice})),
        relay(&json!({"licensedHosts": [{"name": "A", "address": "a.example"}]})),
        relay(&json!({"licensedHosts": [{"name": "a", "address": "a.example", "port": 0}]})),
        relay(&json!({"products": [{"name": "Office97"}]})),
        relay(&json!({"clients": {"allowedCidrs": ["everyone"]}})),
        relay(&json!({"clients": {"limits": {"connections": 0}}})),
        relay(&json!({"ledger": {"redis": {"addresses": ["redis"]}}})),
        relay(&json!({"routing": {"activeHosts": 0}})),
        json!({"rehearsal": {"activationIntervalMinutes": 14}}),
    ] {
        let answer = hosts.create(&PostParams::default(), &resource("kms", &wrong)?).await;
        refusal(answer).with_context(|| wrong.to_string())?;
        assert!(
            !offline(&resource("kms", &wrong)?)?.is_empty(),
            "without a server: {wrong}"
        );
    }
    // What a template leaves empty is as if it were not there.
    let nulls = relay(&json!({
        "licensedHosts": [{"name": "a", "address": "a.example", "port": null, "management": null}],
        "service": {"type": null}, "dns": null, "clients": {"allowedCidrs": null},
    }));
    let nulls = resource("nulls", &nulls)?;
    hosts.create(&PostParams::default(), &nulls).await?;
    assert_eq!(offline(&nulls)?, Vec::<String>::new(), "without a server");
    let spec = json!({
        "licensedHosts": [{"name": "a", "address": "a.example", "management": {"credentialsSecret": {"name": "s"}}}],
        "products": [{"name": "Office2019"}], "clients": {"limits": {}}, "service": {}, "ledger": {"managed": {}},
        "dns": {"zones": [{"name": "corp.example", "manual": {}}]}, "routing": {}, "pod": {},
        "monitoring": {"serviceMonitor": {}}, "autoscaling": {"maxReplicas": 3},
    });
    let stored = hosts.create(&PostParams::default(), &resource("kms", &spec)?).await?;
    let ours = resource("kms", &spec)?;
    assert_eq!(offline(&ours)?, Vec::<String>::new(), "without a server");
    let ours: OfficeKmsHost = serde_json::from_value(serde_json::to_value(ours)?)?;
    let theirs: OfficeKmsHost = serde_json::from_value(serde_json::to_value(&stored)?)?;
    assert_eq!(
        theirs.spec, ours.spec,
        "the API server fills in what the code takes as the default"
    );
    Ok(())
}

/// Kinds that the cluster has only with its add-ons.
async fn stub(client: &Client, group: &str, version: &str, kind: &str, plural: &str) -> Result<()> {
    let definition: CustomResourceDefinition = serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": version, "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    }))?;
    Api::<CustomResourceDefinition>::all(client.clone())
        .create(&PostParams::default(), &definition)
        .await?;
    Ok(())
}

fn of_child(client: &Client, child: &DynamicObject) -> Result<Api<DynamicObject>> {
    let types = child.types.clone().context("a child has a type")?;
    let gvk = kube::core::GroupVersionKind::try_from(&types)?;
    Ok(Api::namespaced_with(
        client.clone(),
        "default",
        &ApiResource::from_gvk(&gvk),
    ))
}

#[tokio::test]
async fn the_api_server_takes_every_child_and_taking_it_again_is_no_write() -> Result<()> {
    let Some((_plane, client)) = cluster("the_api_server_takes_every_child_and_taking_it_again_is_no_write").await?
    else {
        return Ok(());
    };
    stub(
        &client,
        "monitoring.coreos.com",
        "v1",
        "ServiceMonitor",
        "servicemonitors",
    )
    .await?;
    let specs = BTreeMap::from([
        ("plain", relay(&json!({"replicas": 2}))),
        (
            "everything",
            relay(&json!({
                "autoscaling": {"maxReplicas": 4}, "deletionPolicy": "Retain",
                "monitoring": {"serviceMonitor": {"labels": {"release": "prometheus"}}},
                "service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"], "class": "example.com/internal"},
                "clients": {"allowedCidrs": ["10.0.0.0/8"], "proxyProtocol": {"trustedCidrs": ["10.1.0.0/24"]}},
                "ledger": {"managed": {"storage": {"size": "2Gi", "storageClassName": "fast"}}},
                "pod": {
                    "imagePullSecrets": [{"name": "registry"}], "nodeSelector": {"a": "b"}, "labels": {"team": "x"},
                    "tolerations": [{"key": "a", "operator": "Exists"}], "annotations": {"a": "b"},
                },
            })),
        ),
        (
            "drill",
            json!({"replicas": 1, "rehearsal": {"managementSecret": {"name": "m"}}, "ledger": {"memory": {}}}),
        ),
        (
            "sentinel",
            relay(&json!({"ledger": {"redis": {
                "mode": "Sentinel", "addresses": ["s:26379"], "sentinel": {"masterName": "m"},
                "passwordSecret": {"name": "r", "key": "p"}, "tls": {"caBundle": {"configMap": "ca"}},
            }}})),
        ),
    ]);
    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    let hosts = as_yaml_writes_it(&client);
    for (name, spec) in specs {
        let stored = hosts.create(&PostParams::default(), &resource(name, &spec)?).await?;
        let host: OfficeKmsHost = serde_json::from_value(serde_json::to_value(&stored)?)?;
        kms_operator::validate::check(&host).map_err(|problems| anyhow::anyhow!("{name}: {problems}"))?;
        for child in build::children(&host, &Settings::default(), &Inputs::unread())? {
            let (api, what) = (
                of_child(&client, &child)?,
                format!("{name}: {:?} {}", child.types, child.name_any()),
            );
            let patch = Patch::Apply(&child);
            let mut first = None;
            eventually("the kind is served", async || {
                first = match api.patch(&child.name_any(), &strict, &patch).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => None,
                    answer => Some(answer),
                };
                first.is_some()
            })
            .await?;
            let first = first.context("an answer")?.with_context(|| what.clone())?;
            let again = api.patch(&child.name_any(), &strict, &patch).await?;
            assert_eq!(
                again.resource_version(),
                first.resource_version(),
                "{what} is applied without a write"
            );
            assert_eq!(
                again.owner_references().first().map(|owner| &owner.uid),
                host.uid().as_ref(),
                "{what}"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn pods_are_admitted_where_pod_security_restricted_is_enforced() -> Result<()> {
    let Some((_plane, client)) = cluster("pods_are_admitted_where_pod_security_restricted_is_enforced").await? else {
        return Ok(());
    };
    let namespace: Namespace = serde_json::from_value(json!({
        "metadata": {"name": "restricted", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }))?;
    Api::<Namespace>::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "restricted");
    let mut host: OfficeKmsHost =
        serde_json::from_value(serde_json::to_value(resource("kms", &relay(&json!({"replicas": 2})))?)?)?;
    host.metadata.namespace = Some("restricted".to_owned());
    let mut admitted = 0;
    for child in build::children(&host, &Settings::default(), &Inputs::unread())? {
        let Some(template) = child.data.pointer("/spec/template") else {
            continue;
        };
        let mut pod: Pod = serde_json::from_value(template.clone())?;
        pod.metadata.name = Some(format!("pod-{}", child.name_any()));
        // The StatefulSet's controller adds the volume of the claim.
        for volume in child
            .data
            .pointer("/spec/volumeClaimTemplates")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = volume.pointer("/metadata/name").cloned();
            let claim = serde_json::from_value(json!({"name": name, "persistentVolumeClaim": {"claimName": "data"}}))?;
            pod.spec
                .as_mut()
                .context("a pod has a spec")?
                .volumes
                .get_or_insert_default()
                .push(claim);
        }
        let mut privileged = pod.clone();
        pods.create(&PostParams::default(), &pod)
            .await
            .with_context(|| child.name_any())?;
        admitted += 1;
        // The namespace does refuse what is not restricted.
        privileged.metadata.name = Some(format!("privileged-{}", child.name_any()));
        for container in privileged.spec.iter_mut().flat_map(|spec| &mut spec.containers) {
            container.security_context = None;
        }
        match pods.create(&PostParams::default(), &privileged).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {}
            other => bail!("it must be refused: {other:?}"),
        }
    }
    assert_eq!(admitted, 2, "a replica and the managed ledger");
    Ok(())
}
