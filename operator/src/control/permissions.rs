//! What the operator may do, asked of the API server when it starts: each permission that it lacks is a line of its log and
//! a metric, before a resource needs it.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::Client;
use kube::api::{Api, PostParams};

use crate::metrics::Metrics;
use crate::rbac;

/// Questions at the same time.
const AT_A_TIME: usize = 4;
/// When to ask again while something is missing, or could not be asked.
const AGAIN: Duration = Duration::from_secs(60);
/// When to ask again when nothing was missing: somebody may take a permission away.
const LATER: Duration = Duration::from_secs(600);

/// A verb on a resource somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Permission {
    verb: String,
    group: String,
    resource: String,
    subresource: Option<String>,
    /// None: in every namespace.
    namespace: Option<String>,
}

impl Permission {
    /// `deployments.apps`, `officekmshosts.officekms.io/status`.
    fn resource(&self) -> String {
        let group = match self.group.as_str() {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let subresource = self.subresource.iter().map(|name| format!("/{name}"));
        format!("{}{group}{}", self.resource, subresource.collect::<String>())
    }
}

/// Asks again and again. Ends never. `watched` is empty for all namespaces; `own` is where the lease is, if there is one.
pub(super) async fn watch(client: Client, watched: Vec<String>, own: Option<String>, metrics: Arc<Metrics>) {
    let wanted = wanted(&watched, own);
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client);
    loop {
        let asked = wanted.iter().cloned().map(|permission| {
            let reviews = reviews.clone();
            async move {
                let answer = is_granted(&reviews, &permission).await;
                (permission, answer)
            }
        });
        let answers: Vec<_> = futures::stream::iter(asked).buffered(AT_A_TIME).collect().await;
        let mut done = true;
        for (permission, answer) in answers {
            let (verb, resource) = (permission.verb.as_str(), permission.resource());
            let namespace = permission.namespace.as_deref().unwrap_or("every namespace");
            match answer {
                Ok(granted) => {
                    done &= granted;
                    metrics.permission(verb, &resource, namespace, granted);
                    if !granted {
                        tracing::warn!(
                            verb,
                            resource,
                            namespace,
                            "the operator lacks a permission: add it to its Role or ClusterRole"
                        );
                    }
                }
                Err(error) => {
                    done = false;
                    tracing::debug!(verb, resource, namespace, %error, "a permission could not be asked for");
                }
            }
        }
        tokio::time::sleep(if done { LATER } else { AGAIN }).await;
    }
}

async fn is_granted(reviews: &Api<SelfSubjectAccessReview>, permission: &Permission) -> Result<bool, kube::Error> {
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(ResourceAttributes {
                verb: Some(permission.verb.clone()),
                group: Some(permission.group.clone()),
                resource: Some(permission.resource.clone()),
                subresource: permission.subresource.clone(),
                namespace: permission.namespace.clone(),
                ..ResourceAttributes::default()
            }),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let answer = reviews.create(&PostParams::default(), &review).await?;
    Ok(answer.status.is_some_and(|status| status.allowed))
}

/// Every permission of [`rbac`].
fn wanted(watched: &[String], own: Option<String>) -> Vec<Permission> {
    let scopes: Vec<Option<String>> = match watched {
        [] => vec![None],
        namespaces => namespaces.iter().cloned().map(Some).collect(),
    };
    let in_watched = rbac::in_watched_namespaces();
    let everywhere = scopes.into_iter().flat_map(|scope| each(&in_watched, scope));
    let here = own
        .into_iter()
        .flat_map(|own| each(&rbac::in_own_namespace(), Some(own)));
    everywhere.chain(here).collect()
}

fn each(rules: &[PolicyRule], namespace: Option<String>) -> Vec<Permission> {
    let mut all = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let (resource, subresource) = match resource.split_once('/') {
                    Some((resource, sub)) => (resource, Some(sub.to_owned())),
                    None => (resource.as_str(), None),
                };
                all.extend(rule.verbs.iter().map(|verb| Permission {
                    verb: verb.clone(),
                    group: group.clone(),
                    resource: resource.to_owned(),
                    subresource: subresource.clone(),
                    namespace: namespace.clone(),
                }));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_asked_for_in_every_watched_namespace_and_the_lease_s_at_home() {
        let shown = |wanted: Vec<Permission>| -> Vec<String> {
            let show = |permission: &Permission| {
                let namespace = permission.namespace.as_deref().unwrap_or("*");
                format!("{} {} {namespace}", permission.verb, permission.resource())
            };
            wanted.iter().map(show).collect()
        };
        let all = shown(wanted(&[], Some("kms".to_owned())));
        for line in [
            "patch officekmshosts.officekms.io/status *",
            "get secrets *",
            "delete deployments.apps *",
            "update leases.coordination.k8s.io kms",
        ] {
            assert!(all.iter().any(|shown| shown == line), "{line} in {all:#?}");
        }
        let some = shown(wanted(&["a".to_owned(), "b".to_owned()], None));
        let watches = some.iter().filter(|line| line.starts_with("watch services "));
        assert_eq!(watches.collect::<Vec<_>>(), ["watch services a", "watch services b"]);
        assert!(!some.iter().any(|line| line.ends_with('*') || line.contains("leases")));
    }
}
