//! The zones of a cluster's resources: [`super::resource`] in tasks of their own, and external-dns' objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, Preconditions,
};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::{Value, json};

use super::resource::{FINALIZER, Outcome, visit};
use super::round::Limits;
use super::session::Session;
use super::target::{ServiceFacts, facts};
use super::withdraw::{Cleaned, clean_up};
use crate::api::{DeletionPolicy, OfficeKmsHost};
use crate::apply::{FIELD_MANAGER, VERSION_OF_NONE};
use crate::build::common::{INSTANCE, MANAGED_BY};
use crate::looks::{Key, Looks, Seen, Wake, about};
use crate::secrets::ReadSecrets;

/// Label that tells external-dns' objects from other children.
const COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "dns");

/// Why external-dns' objects are not as they should be.
#[derive(Debug, thiserror::Error)]
enum EndpointError {
    #[error(
        "the DNSEndpoint {0} belongs to somebody else and is left as it is: remove it, or give this resource another name \
         (that of a deleted resource of this name goes by itself)"
    )]
    Taken(String),
    #[error("the kind DNSEndpoint is not there: install external-dns with its CRD")]
    NoKind,
    #[error("the DNSEndpoint cannot be applied: {0}")]
    Refused(kube::Error),
}

impl From<kube::Error> for EndpointError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 404 => Self::NoKind,
            other => Self::Refused(other),
        }
    }
}

/// A DNSEndpoint that is not as it should be, or all of a resource.
struct Failure {
    /// Its name; none when it concerns all.
    name: Option<String>,
    error: EndpointError,
}

impl Failure {
    fn of_all(error: kube::Error) -> Self {
        Self {
            name: None,
            error: error.into(),
        }
    }
}

/// The zones of all resources.
#[derive(Clone)]
pub struct Zones {
    client: Client,
    limits: Arc<Limits>,
    looks: Looks<Outcome>,
    sessions: Arc<Mutex<BTreeMap<Key, Arc<Session>>>>,
}

impl std::fmt::Debug for Zones {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zones").finish_non_exhaustive()
    }
}

impl Zones {
    /// No zones yet. `wake` is told when there is something new about a resource.
    #[must_use]
    pub fn new(client: Client, limits: Limits, wake: Wake) -> Self {
        Self {
            client,
            limits: Arc::new(limits),
            looks: Looks::new("zones", wake),
            sessions: Arc::default(),
        }
    }

    /// The newest outcome for a resource; begins a look where one is due. Does not wait.
    ///
    /// Its rows go to `status.dns`, and [`FINALIZER`] to the resource while `finalizer` says so, before the next
    /// reconciliation: only what is stored is published.
    pub fn look(
        &self,
        host: &OfficeKmsHost,
        service: Option<&Service>,
        secrets: Arc<dyn ReadSecrets>,
    ) -> Option<Seen<Outcome>> {
        let key = Key::of(host);
        let service = service.map(facts);
        let stored = host.status.iter().flat_map(|status| &status.dns);
        let places: Vec<_> = stored.map(|row| (&row.zone, &row.published_by)).collect();
        let finalized = host.finalizers().iter().any(|one| one == FINALIZER);
        let subject = about(&[
            json!(host.spec.dns),
            json!(places),
            json!(finalized),
            json!(
                service
                    .as_ref()
                    .map(|facts| (&facts.addresses, &facts.host_names, facts.port))
            ),
        ]);
        let (zones, host, session) = (self.clone(), host.clone(), self.session(&key));
        self.looks.ask(&key, subject, move || {
            Box::pin(async move {
                let outcome = zones.once(&host, service.as_ref(), &*secrets, &session).await;
                let again_in = outcome.again_in;
                (outcome, again_in)
            })
        })
    }

    /// Takes away what stands outside, for a resource that is being deleted. Waits at most [`Limits::zone`].
    pub async fn clean_up(&self, host: &OfficeKmsHost, secrets: &dyn ReadSecrets) -> Cleaned {
        let session = self.session(&Key::of(host));
        clean_up(host, secrets, &session, &self.limits, Timestamp::now()).await
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.looks.forget(key);
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    fn session(&self, key: &Key) -> Arc<Session> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sessions.entry(key.clone()).or_default())
    }

    async fn once(
        &self,
        host: &OfficeKmsHost,
        service: Option<&ServiceFacts>,
        secrets: &dyn ReadSecrets,
        session: &Session,
    ) -> Outcome {
        let mut outcome = visit(host, service, secrets, session, &self.limits, Timestamp::now()).await;
        for failure in self.endpoints(host, &outcome.endpoints, &outcome.kept_endpoints).await {
            let Failure { name, error } = failure;
            tracing::warn!(object.ref = %Key::of(host).name, name, error = %error, "a DNSEndpoint could not be applied");
            outcome.failed_endpoint(host, name.as_deref(), &error.to_string());
            outcome.again_in = outcome.again_in.min(Duration::from_secs(30));
        }
        outcome
    }

    /// Brings the DNSEndpoints of a resource to what is wanted; writes nothing when they are so. Those of the names in `kept`
    /// are left alone. One that fails holds up no other.
    async fn endpoints(&self, host: &OfficeKmsHost, wanted: &[Value], kept: &BTreeSet<String>) -> Vec<Failure> {
        let uses = host
            .spec
            .dns
            .iter()
            .flat_map(|dns| &dns.zones)
            .any(|zone| zone.dns_endpoint.is_some());
        let used = host.status.iter().flat_map(|status| &status.dns);
        let mut used = used.filter_map(|row| row.publisher.as_deref());
        if !uses && !used.any(|publisher| publisher == "dnsEndpoint") {
            return Vec::new();
        }
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("externaldns.k8s.io", "v1alpha1", "DNSEndpoint"));
        let namespace = host.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, &kind);
        let name = host.name_any();
        let ours = ListParams::default().labels(&format!("{INSTANCE}={name},{}={}", COMPONENT.0, COMPONENT.1));
        let live = match api.list(&ours).await {
            Ok(live) => live,
            Err(error) => return vec![Failure::of_all(error)],
        };
        let (mut keep, mut failures) = (kept.clone(), Vec::new());
        for object in wanted {
            let object = labelled(host, object);
            let text = object.pointer("/metadata/name").and_then(Value::as_str);
            let name = text.unwrap_or_default().to_owned();
            let there = live.items.iter().find(|live| live.name_any() == name);
            if let Err(error) = put(&api, host, &name, object, there).await {
                failures.push(Failure {
                    name: Some(name.clone()),
                    error,
                });
            }
            keep.insert(name);
        }
        let unwanted = |live: &&DynamicObject| !keep.contains(&live.name_any()) && is_ours(host, &live.metadata);
        for gone in live.items.iter().filter(unwanted) {
            let that_one = DeleteParams::default().preconditions(Preconditions {
                uid: gone.metadata.uid.clone(),
                resource_version: None,
            });
            match api.delete(&gone.name_any(), &that_one).await {
                Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
                Err(error) => failures.push(Failure::of_all(error)),
                Ok(_) => {}
            }
        }
        failures
    }
}

/// Brings one DNSEndpoint to what is wanted. `there` is what is known of it.
async fn put(
    api: &Api<DynamicObject>,
    host: &OfficeKmsHost,
    name: &str,
    mut object: Value,
    there: Option<&DynamicObject>,
) -> Result<(), EndpointError> {
    let labels = object.pointer("/metadata/labels").cloned().unwrap_or_default();
    let same = there.is_some_and(|live| {
        live.data.get("spec") == object.get("spec")
            && holds(&json!(live.metadata.labels), &labels)
            && owns(host, &live.metadata) == goes_with(host)
    });
    if same {
        return Ok(());
    }
    let there = match there {
        Some(live) => Some(live.metadata.clone()),
        None => api.get_metadata_opt(name).await?.map(|live| live.metadata),
    };
    if there.as_ref().is_some_and(|there| !is_ours(host, there)) {
        return Err(EndpointError::Taken(name.to_owned()));
    }
    // With the version that was seen: what somebody else makes at this moment is not taken over either.
    let version = there.and_then(|there| there.resource_version);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let version = version.unwrap_or_else(|| VERSION_OF_NONE.to_owned());
        metadata.insert("resourceVersion".to_owned(), json!(version));
    }
    let forced = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(name, &forced, &Patch::Apply(&object)).await?;
    Ok(())
}

/// The object with the labels of our children and, unless records are to stay, its owner.
fn labelled(host: &OfficeKmsHost, object: &Value) -> Value {
    let mut object = object.clone();
    let name = host.name_any();
    let own = [
        ("app.kubernetes.io/name", "kms-host"),
        (INSTANCE, name.as_str()),
        COMPONENT,
        ("app.kubernetes.io/managed-by", MANAGED_BY),
        ("app.kubernetes.io/part-of", "officekms"),
    ];
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.extend(own.map(|(label, value)| (label.to_owned(), json!(value))));
        }
        let owner = host.controller_owner_ref(&()).filter(|_| goes_with(host));
        metadata.insert(
            "ownerReferences".to_owned(),
            json!(owner.into_iter().collect::<Vec<_>>()),
        );
    }
    object
}

/// Whether records go with their resource.
fn goes_with(host: &OfficeKmsHost) -> bool {
    host.spec.deletion_policy == DeletionPolicy::Delete
}

/// Whether an object is one that the operator made for a resource of this name: it has this resource as its owner, or none,
/// since records stay, and our labels.
fn is_ours(host: &OfficeKmsHost, child: &ObjectMeta) -> bool {
    let ours = json!({
        COMPONENT.0: COMPONENT.1, INSTANCE: host.name_any(), "app.kubernetes.io/managed-by": MANAGED_BY,
    });
    let owners = child.owner_references.as_deref().unwrap_or_default();
    owns(host, child) || (owners.is_empty() && holds(&json!(child.labels), &ours))
}

fn owns(host: &OfficeKmsHost, child: &ObjectMeta) -> bool {
    let mut owners = child.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == host.metadata.uid.as_ref())
}

/// Whether `all` has what `some` has.
fn holds(all: &Value, some: &Value) -> bool {
    let (Some(all), Some(some)) = (all.as_object(), some.as_object()) else {
        return all == some;
    };
    some.iter().all(|(key, value)| all.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_has_the_user_s_labels_and_ours_and_an_owner() {
        let host: OfficeKmsHost = serde_saphyr::from_str(
            "{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {name: kms, namespace: office, uid: u1}, \
             spec: {rehearsal: {}}}",
        )
        .unwrap();
        let object = labelled(
            &host,
            &json!({"metadata": {"name": "kms-1", "labels": {"team": "a", INSTANCE: "b"}}}),
        );
        assert_eq!(object["metadata"]["labels"]["team"], "a");
        assert_eq!(
            object["metadata"]["labels"][INSTANCE], "kms",
            "ours go before the user's"
        );
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u1");
        let meta = |object: &Value| serde_json::from_value::<ObjectMeta>(object["metadata"].clone()).unwrap();
        assert!(is_ours(&host, &meta(&object)));
        let mut another = host.clone();
        another.metadata.uid = Some("u2".into());
        assert!(!is_ours(&another, &meta(&object)), "it has another owner");
        assert!(!is_ours(&host, &ObjectMeta::default()), "somebody made it by hand");
        let mut kept = host.clone();
        kept.spec.deletion_policy = DeletionPolicy::Retain;
        let retained = labelled(&kept, &object);
        assert_eq!(retained["metadata"]["ownerReferences"], json!([]));
        assert!(
            is_ours(&another, &meta(&retained)),
            "the next of its name takes it over"
        );
        assert!(holds(&json!({"a": 1, "b": 2}), &json!({"a": 1})));
        assert!(!holds(&json!({"a": 1}), &json!({"a": 2})));
    }
}
