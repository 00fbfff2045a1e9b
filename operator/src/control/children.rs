//! What is known of children, kept small: no content but what our status is made of, so that thousands fit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde_json::Value;

use super::facts::Facts;
use super::queue::Key;
use crate::api::GROUP;
use crate::apply::{APPLIED_ANNOTATION, FIELD_MANAGER};
use crate::build::IMAGE_ANNOTATION;
use crate::fields;
use crate::kinds::ChildKind;

/// Who a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChildId<'a> {
    /// `Deployment`.
    pub kind: &'static str,
    /// Its name.
    pub name: &'a str,
}

/// What is kept of a child.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Child {
    /// Its UID.
    pub uid: String,
    /// Its resource version.
    pub version: String,
    /// The resource that controls it.
    pub owner: Option<Owner>,
    /// Hash of what was applied last.
    pub applied: Option<String>,
    /// The default image that it was made with, of a workload.
    pub made_with: Option<String>,
    /// What we own of it, as JSON.
    fields: Option<Box<str>>,
    /// Who changed it last, besides us.
    pub other: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its generation.
    pub generation: i64,
    /// What our status needs of its content: for kinds that are watched as a whole.
    pub facts: Facts,
}

/// The controller of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// UID of the controller.
    pub uid: String,
    /// Its name, when it is an `OfficeKmsHost`.
    pub name: Option<String>,
    /// `Kind/name`, for messages.
    pub shown: String,
}

impl Child {
    /// What is to be kept of an object.
    #[must_use]
    pub fn of(meta: &ObjectMeta, facts: Facts) -> Self {
        let entries = meta.managed_fields.as_deref().unwrap_or_default();
        let others = entries.iter().filter(|entry| {
            entry.manager.as_deref() != Some(FIELD_MANAGER) && entry.subresource.as_deref() != Some("status")
        });
        let other = others
            .max_by(|a, b| a.time.cmp(&b.time))
            .and_then(|entry| entry.manager.clone());
        let owned = fields::applied_by(entries, FIELD_MANAGER);
        let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name).cloned());
        Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            owner: controller(meta.owner_references.as_deref().unwrap_or_default()),
            applied: annotation(APPLIED_ANNOTATION),
            made_with: annotation(IMAGE_ANNOTATION),
            fields: owned.map(|fields| fields.to_string().into_boxed_str()),
            other,
            deleting: meta.deletion_timestamp.is_some(),
            generation: meta.generation.unwrap_or_default(),
            facts,
        }
    }

    /// What we own of it.
    #[must_use]
    pub fn owned(&self) -> Value {
        self.fields
            .as_deref()
            .and_then(|fields| serde_json::from_str(fields).ok())
            .unwrap_or_default()
    }
}

fn controller(references: &[OwnerReference]) -> Option<Owner> {
    let controller = references.iter().find(|reference| reference.controller == Some(true))?;
    let ours = controller.kind == "OfficeKmsHost" && controller.api_version.starts_with(&format!("{GROUP}/"));
    Some(Owner {
        uid: controller.uid.clone(),
        name: ours.then(|| controller.name.clone()),
        shown: format!("{}/{}", controller.kind, controller.name),
    })
}

#[derive(Debug, Clone)]
struct Kept {
    child: Child,
    /// Of which listing it is.
    listing: u64,
}

#[derive(Debug, Default)]
struct Inner {
    /// By namespace, then kind and name.
    children: HashMap<String, BTreeMap<(&'static str, String), Kept>>,
    /// Namespace, kind and name of what belongs to the resource with a UID, so that a look at one of many resources does not
    /// go through the children of all.
    owned: HashMap<String, BTreeSet<(String, &'static str, String)>>,
    listings: HashMap<(&'static str, String), u64>,
}

impl Inner {
    fn own(&mut self, owner: Option<String>, namespace: &str, kind: &'static str, name: &str) {
        if let Some(owner) = owner {
            let owned = self.owned.entry(owner).or_default();
            owned.insert((namespace.to_owned(), kind, name.to_owned()));
        }
    }

    fn disown(&mut self, child: &Child, namespace: &str, kind: &'static str, name: &str) {
        let Some(owner) = &child.owner else { return };
        let Some(owned) = self.owned.get_mut(&owner.uid) else {
            return;
        };
        owned.remove(&(namespace.to_owned(), kind, name.to_owned()));
        if owned.is_empty() {
            self.owned.remove(&owner.uid);
        }
    }
}

/// All children that are watched.
#[derive(Debug, Default)]
pub struct Children(Mutex<Inner>);

impl Children {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what is known of a child, unless something newer is known. Returns the resource to look at when it is news.
    pub fn put(&self, kind: &'static ChildKind, meta: &ObjectMeta, facts: Facts, scope: &str) -> Option<Key> {
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let child = Child::of(meta, facts);
        let owner = child.owner.as_ref().and_then(|owner| owner.name.clone());
        let mut inner = self.lock();
        let listing = inner
            .listings
            .get(&(kind.kind, scope.to_owned()))
            .copied()
            .unwrap_or_default();
        let kept = inner.children.entry(namespace.clone()).or_default();
        let before = kept.get_mut(&(kind.kind, name.clone()));
        if let Some(before) = before
            && before.child.uid == child.uid
            && !newer(&child.version, &before.child.version)
        {
            before.listing = listing;
            return None;
        }
        let owner_uid = child.owner.as_ref().map(|owner| owner.uid.clone());
        let before = kept.insert((kind.kind, name.clone()), Kept { child, listing });
        if let Some(before) = before {
            inner.disown(&before.child, &namespace, kind.kind, &name);
        }
        inner.own(owner_uid, &namespace, kind.kind, &name);
        Some(Key {
            namespace,
            name: owner?,
        })
    }

    /// Forgets a child. Returns the resource that it belonged to.
    pub fn remove(&self, kind: &'static ChildKind, meta: &ObjectMeta) -> Option<Key> {
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let mut inner = self.lock();
        let kept = inner.children.get_mut(&namespace)?;
        let gone = kept.get(&(kind.kind, name.clone()))?;
        if meta.uid.as_ref().is_some_and(|uid| *uid != gone.child.uid) {
            return None;
        }
        let gone = kept.remove(&(kind.kind, name.clone()))?;
        if kept.is_empty() {
            inner.children.remove(&namespace);
        }
        inner.disown(&gone.child, &namespace, kind.kind, &name);
        Some(Key {
            namespace,
            name: gone.child.owner?.name?,
        })
    }

    /// Begins to list a kind anew in a scope: a namespace, or everything when it is empty.
    pub fn listing_begins(&self, kind: &'static ChildKind, scope: &str) {
        *self.lock().listings.entry((kind.kind, scope.to_owned())).or_default() += 1;
    }

    /// Ends a listing: what it did not show is gone. Returns the resources that have lost children.
    pub fn listing_ends(&self, kind: &'static ChildKind, scope: &str) -> Vec<Key> {
        let mut inner = self.lock();
        let listing = inner
            .listings
            .get(&(kind.kind, scope.to_owned()))
            .copied()
            .unwrap_or_default();
        let mut gone = Vec::new();
        for (namespace, kept) in &mut inner.children {
            if !scope.is_empty() && namespace != scope {
                continue;
            }
            let unseen = kept.extract_if(.., |(of, _), kept| *of == kind.kind && kept.listing < listing);
            gone.extend(unseen.map(|((_, name), kept)| (namespace.clone(), name, kept.child)));
        }
        let mut lost = Vec::new();
        for (namespace, name, child) in gone {
            inner.disown(&child, &namespace, kind.kind, &name);
            if let Some(owner) = child.owner.and_then(|owner| owner.name) {
                lost.push(Key { namespace, name: owner });
            }
        }
        lost
    }

    /// A child.
    #[must_use]
    pub fn get(&self, namespace: &str, id: ChildId<'_>) -> Option<Child> {
        let inner = self.lock();
        let kept = inner.children.get(namespace)?;
        kept.get(&(id.kind, id.name.to_owned())).map(|kept| kept.child.clone())
    }

    /// The children of a resource: kind, name, and what is known.
    #[must_use]
    pub fn of(&self, namespace: &str, owner_uid: &str) -> Vec<(&'static str, String, Child)> {
        let inner = self.lock();
        let (Some(kept), Some(owned)) = (inner.children.get(namespace), inner.owned.get(owner_uid)) else {
            return Vec::new();
        };
        let here = owned.iter().filter(|(of, ..)| of == namespace);
        here.filter_map(|(_, kind, name)| {
            let kept = kept.get(&(*kind, name.clone()))?;
            Some((*kind, name.clone(), kept.child.clone()))
        })
        .collect()
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().children.values().map(BTreeMap::len).sum()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Whether one resource version is after another. They grow; what cannot be compared is taken for new.
fn newer(version: &str, than: &str) -> bool {
    match (version.parse::<u64>(), than.parse::<u64>()) {
        (Ok(version), Ok(than)) => version > than,
        _ => version != than,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::KINDS;

    fn meta(uid: &str, version: &str) -> ObjectMeta {
        serde_json::from_value(json!({
            "name": "kms", "namespace": "a", "uid": uid, "resourceVersion": version,
            "ownerReferences": [{"apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "name": "kms", "uid": "u", "controller": true}]
        }))
        .expect("metadata")
    }

    fn id() -> ChildId<'static> {
        ChildId {
            kind: KINDS[0].kind,
            name: "kms",
        }
    }

    #[test]
    fn an_old_answer_does_not_replace_a_newer_one() {
        let children = Children::default();
        assert!(children.put(&KINDS[0], &meta("1", "10"), Facts::None, "").is_some());
        assert!(children.put(&KINDS[0], &meta("1", "9"), Facts::None, "").is_none());
        assert_eq!(children.get("a", id()).expect("kept").version, "10");
        assert!(
            children.remove(&KINDS[0], &meta("0", "11")).is_none(),
            "another object of this name went"
        );
        assert!(
            children.put(&KINDS[0], &meta("2", "12"), Facts::None, "").is_some(),
            "made anew"
        );
        assert!(children.remove(&KINDS[0], &meta("2", "13")).is_some());
        assert!(children.is_empty());
    }

    #[test]
    fn a_resource_has_the_children_that_name_it_their_controller_now() {
        let owned = |children: &Children, owner| {
            let of = children.of("a", owner);
            of.into_iter().map(|(kind, name, _)| (kind, name)).collect::<Vec<_>>()
        };
        let kms = (KINDS[0].kind, "kms".to_owned());
        let children = Children::default();
        children.put(&KINDS[0], &meta("1", "10"), Facts::None, "");
        assert_eq!(owned(&children, "u"), std::slice::from_ref(&kms));
        assert!(
            children.of("b", "u").is_empty(),
            "children are in their owner's namespace"
        );
        let mut given_away = meta("1", "11");
        given_away.owner_references.as_mut().expect("an owner")[0].uid = "v".to_owned();
        children.put(&KINDS[0], &given_away, Facts::None, "");
        assert_eq!((owned(&children, "u"), owned(&children, "v")), (vec![], vec![kms]));
        children.remove(&KINDS[0], &given_away);
        assert!(owned(&children, "v").is_empty());
    }

    #[test]
    fn what_a_new_listing_does_not_show_is_gone() {
        let children = Children::default();
        children.put(&KINDS[0], &meta("1", "10"), Facts::None, "");
        children.listing_begins(&KINDS[0], "");
        children.put(&KINDS[0], &meta("1", "10"), Facts::None, "");
        assert!(children.listing_ends(&KINDS[0], "").is_empty());
        children.listing_begins(&KINDS[0], "other");
        assert!(
            children.listing_ends(&KINDS[0], "other").is_empty(),
            "another namespace says nothing of this one"
        );
        children.listing_begins(&KINDS[0], "");
        let lost = children.listing_ends(&KINDS[0], "");
        assert_eq!(
            lost,
            [Key {
                namespace: "a".into(),
                name: "kms".into()
            }]
        );
        assert!(children.is_empty());
    }
}
