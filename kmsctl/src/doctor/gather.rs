//! Reads the facts. A thing that can't be read is a fact too.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::{Context as _, Result};
use futures::future::join_all;
use futures::{StreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::{names, references};
use kms_operator::rbac;
use kms_operator::secrets::Objects;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::facts::{Facts, Operator, Permission, Read, Resource, namespaces};
use super::watches::watches;
use crate::cluster::{InNamespace, why};

/// Label of operators.
const OPERATORS: &str = "app.kubernetes.io/name=kms-operator";

/// Questions to the API server at a time.
const AT_A_TIME: usize = 8;

/// Resources that are looked at.
const MOST_RESOURCES: u32 = 500;

/// Reads everything about the resources of `namespace` (or of all), or the one called `name`.
pub(super) async fn gather(client: &Client, namespace: Option<&str>, name: Option<&str>) -> Result<Facts> {
    client
        .apiserver_version()
        .await
        .context("the API server cannot be asked")?;
    let served = served(client).await;
    let operators = operators(client).await;
    let resources = match &served {
        Ok(None) => Ok(Vec::new()),
        _ => resources(client, namespace, name).await,
    };
    let namespaces = namespaces(namespace, &resources);
    let permissions = permissions(client, operators.as_deref().unwrap_or_default(), &namespaces).await;
    Ok(Facts {
        served,
        operators,
        permissions,
        resources,
        asked: (name.map(str::to_owned), namespace.map(str::to_owned)),
    })
}

async fn served(client: &Client) -> Read<Option<Vec<String>>> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = format!("{}.{}", OfficeKmsHost::plural(&()), OfficeKmsHost::group(&()));
    let found = definitions.get_opt(&name).await.map_err(|error| why(&error))?;
    Ok(found.map(|definition| {
        let versions = definition.spec.versions.iter();
        versions
            .filter(|version| version.served)
            .map(|version| version.name.clone())
            .collect()
    }))
}

async fn operators(client: &Client) -> Read<Vec<Operator>> {
    let deployments: Api<Deployment> = Api::all(client.clone());
    let found = deployments
        .list(&ListParams::default().labels(OPERATORS))
        .await
        .map_err(|error| why(&error))?;
    let operator = |deployment: Deployment| {
        let spec = deployment.spec.as_ref();
        let pod = spec.and_then(|spec| spec.template.spec.as_ref());
        Operator {
            namespace: deployment.namespace().unwrap_or_default(),
            name: deployment.name_any(),
            service_account: pod
                .and_then(|pod| pod.service_account_name.clone())
                .unwrap_or_else(|| "default".to_owned()),
            watches: watches(pod.map_or(&[], |pod| &pod.containers)),
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            ready: deployment
                .status
                .as_ref()
                .and_then(|status| status.ready_replicas)
                .unwrap_or(0),
        }
    };
    Ok(found.items.into_iter().map(operator).collect())
}

/// Asks for each operator and namespace whether it may do what the code does.
async fn permissions(client: &Client, operators: &[Operator], namespaces: &BTreeSet<String>) -> Vec<Permission> {
    let mut questions = Vec::new();
    for operator in operators {
        // What it may do elsewhere is not its business.
        for namespace in namespaces.iter().filter(|namespace| operator.serves(namespace)) {
            for rule in rbac::in_watched_namespaces() {
                let groups = rule.api_groups.unwrap_or_default();
                let resources = rule.resources.unwrap_or_default();
                for (group, resource) in groups
                    .iter()
                    .flat_map(|group| resources.iter().map(move |name| (group, name)))
                {
                    questions.extend(rule.verbs.iter().map(|verb| Permission {
                        account: format!("{}/{}", operator.namespace, operator.service_account),
                        namespace: namespace.clone(),
                        verb: verb.clone(),
                        group: group.clone(),
                        resource: resource.clone(),
                        allowed: Ok(false),
                    }));
                }
            }
        }
    }
    let ask = |question: Permission| async move {
        let allowed = is_allowed(client, &question).await;
        Permission { allowed, ..question }
    };
    stream::iter(questions).map(ask).buffered(AT_A_TIME).collect().await
}

async fn is_allowed(client: &Client, question: &Permission) -> Read<bool> {
    let (resource, subresource) = match question.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (question.resource.as_str(), None),
    };
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{}", question.account.replace('/', ":"))),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(question.namespace.clone()),
                verb: Some(question.verb.clone()),
                group: Some(question.group.clone()),
                resource: Some(resource.to_owned()),
                subresource,
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let answer = reviews
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| why(&error))?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

async fn resources(client: &Client, namespace: Option<&str>, name: Option<&str>) -> Read<Vec<Resource>> {
    let api: Api<OfficeKmsHost> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let hosts = match name {
        Some(name) => api
            .get_opt(name)
            .await
            .map_err(|error| why(&error))?
            .into_iter()
            .collect(),
        None => {
            api.list(&ListParams::default().limit(MOST_RESOURCES))
                .await
                .map_err(|error| why(&error))?
                .items
        }
    };
    Ok(join_all(hosts.into_iter().map(|host| resource(client, host))).await)
}

async fn resource(client: &Client, host: OfficeKmsHost) -> Resource {
    let (namespace, name) = (host.namespace().unwrap_or_default(), host.name_any());
    let reader = InNamespace::new(client, &namespace);
    let (names, redis) = (references::names(&host), names::redis(&host));
    let instance = format!("app.kubernetes.io/instance={name},app.kubernetes.io/part-of=officekms");
    let ledger = format!("app.kubernetes.io/instance={name},app.kubernetes.io/component=ledger");
    let (objects, deployment, stateful_set, service, pods, claims) = futures::join!(
        Objects::read(&reader, &names),
        one::<Deployment>(client, &namespace, &name),
        one::<StatefulSet>(client, &namespace, &redis),
        one::<Service>(client, &namespace, &name),
        all::<Pod>(client, &namespace, &instance),
        all::<PersistentVolumeClaim>(client, &namespace, &ledger),
    );
    Resource {
        host,
        objects,
        deployment,
        stateful_set,
        service,
        pods,
        claims,
    }
}

async fn one<K>(client: &Client, namespace: &str, name: &str) -> Read<Option<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    api.get_opt(name).await.map_err(|error| why(&error))
}

async fn all<K>(client: &Client, namespace: &str, labels: &str) -> Read<Vec<K>>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = api
        .list(&ListParams::default().labels(labels))
        .await
        .map_err(|error| why(&error))?;
    Ok(found.items)
}
