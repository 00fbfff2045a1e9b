//! Watches: of the resources, and of their children, mostly by metadata. Each restarts by itself, with back-off and jitter.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStream};
use kms_host::telemetry::chain;
use kube::Api;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event};

use super::facts::Facts;
use super::hosts;
use super::queue::{Cause, Key};
use super::{Context, unreadable};
use crate::api::OfficeKmsHost;
use crate::apply::{ApplyError, Verb};
use crate::build::common::MANAGED_BY;
use crate::kinds::{ChildKind, HOST, KINDS, Watched};

/// How a watch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    synced: bool,
    problem: Option<(&'static str, String)>,
}

/// How the watches are.
#[derive(Debug, Default)]
pub struct Watches(Mutex<BTreeMap<(String, String), State>>);

impl Watches {
    fn set(&self, kind: &ChildKind, scope: &str, change: impl FnOnce(&mut State)) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(states.entry((kind.kind.to_owned(), scope.to_owned())).or_default());
    }

    /// As if the watch of a kind had shown what there is.
    #[cfg(test)]
    pub(super) fn shown(&self, kind: &ChildKind) {
        self.set(kind, "", |state| state.synced = true);
    }

    /// Whether every watch has shown what there is, or said why it cannot.
    #[must_use]
    pub fn settled(&self) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !states.is_empty() && states.values().all(|state| state.synced || state.problem.is_some())
    }

    /// Whether what there is of a kind in `namespace` has been shown.
    #[must_use]
    pub fn shows(&self, kind: &str, namespace: &str) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .any(|((of, scope), state)| of == kind && (scope.is_empty() || scope == namespace) && state.synced)
    }

    /// Whether resources are seen, in one of the watched namespaces at least: that another was deleted, or its Role, is told by
    /// log and metric, and no reason to take the process for unfit.
    #[must_use]
    pub fn sees_hosts(&self) -> bool {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut of_hosts = states.iter().filter(|((kind, _), _)| kind == HOST.kind);
        of_hosts.any(|(_, state)| state.synced && state.problem.is_none())
    }

    /// What is wrong with the watches of the kinds that `matter` in `namespace`: reason and message.
    #[must_use]
    pub fn problems(&self, namespace: &str, matter: impl Fn(&str) -> bool) -> Vec<(&'static str, String)> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = states
            .iter()
            .filter(|((kind, scope), _)| matter(kind) && (scope.is_empty() || scope == namespace));
        here.filter_map(|(_, state)| state.problem.clone()).collect()
    }
}

/// Everything that is watched, as one task's work. Ends never.
pub async fn watch(context: Arc<Context>) {
    let scopes = match context.settings.watch_namespaces.as_slice() {
        [] => vec![String::new()],
        namespaces => namespaces.to_vec(),
    };
    let mut all = Vec::new();
    for scope in scopes {
        context.watches.set(&HOST, &scope, |_| {});
        all.push(tokio::spawn(watch_hosts(Arc::clone(&context), scope.clone())));
        for kind in KINDS.iter().filter(|kind| kind.watched != Watched::ByName) {
            context.watches.set(kind, &scope, |_| {});
            all.push(tokio::spawn(watch_kind(Arc::clone(&context), kind, scope.clone())));
        }
    }
    futures::future::join_all(all).await;
}

fn api(context: &Context, resource: &ApiResource, scope: &str) -> Api<DynamicObject> {
    match scope {
        "" => Api::all_with(context.client.clone(), resource),
        scope => Api::namespaced_with(context.client.clone(), scope, resource),
    }
}

async fn watch_hosts(context: Arc<Context>, scope: String) {
    let api = api(&context, &HOST.resource(), &scope);
    let mut listed: HashSet<Key> = HashSet::new();
    let stream = watcher::watcher(api, watcher::Config::default());
    let take = |object: DynamicObject, listed: &mut HashSet<Key>| {
        // One that this version cannot read must not take the others' watch with it.
        let read = serde_json::to_value(&object).and_then(serde_json::from_value::<OfficeKmsHost>);
        match read {
            Ok(host) => {
                let key = hosts::key(&host);
                listed.insert(key.clone());
                if let Some(cause) = context.hosts.put(host) {
                    context.queue.trigger(&key, cause);
                }
            }
            Err(error) => {
                context.metrics.failed(crate::conditions::reason::INVALID_SPEC);
                let key = Key {
                    namespace: object.metadata.namespace.clone().unwrap_or_default(),
                    name: object.metadata.name.clone().unwrap_or_default(),
                };
                tracing::error!(object.r#ref = %key, %error, "the resource cannot be read: is the CRD of another version installed?");
                // What was known of it is the past.
                context.hosts.remove(&key);
                context.queue.trigger(&key, Cause::Asked);
                tokio::spawn(unreadable::tell(Arc::clone(&context), key, object, chain(&error)));
            }
        }
    };
    let forget = |key: &Key| {
        context.hosts.remove(key);
        context.queue.trigger(key, Cause::Asked);
    };
    run(&context, &HOST, &scope, stream, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) | Event::Apply(object) => take(object, &mut listed),
        Event::Delete(object) => {
            let namespace = object.metadata.namespace.unwrap_or_default();
            forget(&Key {
                namespace,
                name: object.metadata.name.unwrap_or_default(),
            });
        }
        Event::InitDone => {
            for key in context.hosts.keys(&scope) {
                if !listed.contains(&key) {
                    forget(&key);
                }
            }
            listed = HashSet::new();
        }
    })
    .await;
}

async fn watch_kind(context: Arc<Context>, kind: &'static ChildKind, scope: String) {
    let api = api(&context, &kind.resource(), &scope);
    let config = watcher::Config::default().labels(&format!("app.kubernetes.io/managed-by={MANAGED_BY}"));
    let trigger = |key: Option<Key>| {
        if let Some(key) = key {
            context.queue.trigger(&key, Cause::Seen);
        }
    };
    if kind.watched == Watched::Whole {
        let stream = watcher::watcher(api, config);
        run(&context, kind, &scope, stream, |event| match event {
            Event::Init => context.children.listing_begins(kind, &scope),
            Event::InitApply(child) | Event::Apply(child) => {
                let facts = Facts::of(kind, &child.data);
                trigger(context.children.put(kind, &child.metadata, facts, &scope));
            }
            Event::Delete(child) => trigger(context.children.remove(kind, &child.metadata)),
            Event::InitDone => context
                .children
                .listing_ends(kind, &scope)
                .into_iter()
                .for_each(|key| trigger(Some(key))),
        })
        .await;
    } else {
        let api: Api<PartialObjectMeta<DynamicObject>> = match scope.as_str() {
            "" => Api::all_with(context.client.clone(), &kind.resource()),
            scope => Api::namespaced_with(context.client.clone(), scope, &kind.resource()),
        };
        let stream = watcher::watcher(api, config);
        run(&context, kind, &scope, stream, |event| match event {
            Event::Init => context.children.listing_begins(kind, &scope),
            Event::InitApply(child) | Event::Apply(child) => {
                trigger(context.children.put(kind, &child.metadata, Facts::None, &scope));
            }
            Event::Delete(child) => trigger(context.children.remove(kind, &child.metadata)),
            Event::InitDone => context
                .children
                .listing_ends(kind, &scope)
                .into_iter()
                .for_each(|key| trigger(Some(key))),
        })
        .await;
    }
}

/// Hands a watch's events to `take`, and keeps how it is.
async fn run<K>(
    context: &Context,
    kind: &'static ChildKind,
    scope: &str,
    stream: impl TryStream<Ok = Event<K>, Error = watcher::Error, Item = Result<Event<K>, watcher::Error>> + Send,
    mut take: impl FnMut(Event<K>),
) {
    let mut stream = std::pin::pin!(stream.default_backoff());
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                let done = matches!(event, Event::InitDone);
                take(event);
                context.watches.set(kind, scope, |state| {
                    state.synced |= done;
                    state.problem = None;
                });
                context.health.sees(context.watches.sees_hosts());
            }
            Err(error) => {
                context.metrics.watch_broke(kind.kind);
                broke(context, kind, scope, error);
            }
        }
    }
}

fn broke(context: &Context, kind: &'static ChildKind, scope: &str, error: watcher::Error) {
    let said = error.to_string();
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(status) => kube::Error::Api(status),
        watcher::Error::NoResourceVersion => return,
    };
    // An optional kind that the cluster does not have: there is nothing to see.
    if matches!(&error, kube::Error::Api(status) if status.code == 404)
        && kind.absent.is_some()
        && kind.kind != HOST.kind
    {
        context.watches.set(kind, scope, |state| state.synced = true);
        return;
    }
    let namespace = if scope.is_empty() { "every namespace" } else { scope };
    let problem = ApplyError::of(error, Verb::List, kind, namespace, "");
    let lasting = problem.needs_people();
    if lasting {
        tracing::error!(kind = kind.kind, namespace, error = %problem, "a kind cannot be watched");
    } else {
        tracing::warn!(kind = kind.kind, namespace, error = %said, "a watch broke and begins anew");
    }
    let before = context.watches.problems(scope, |_| true);
    context.watches.set(kind, scope, |state| {
        state.problem = lasting.then(|| (problem.reason(), problem.to_string()));
    });
    context.health.sees(context.watches.sees_hosts());
    if before != context.watches.problems(scope, |_| true) {
        for key in context.hosts.keys(scope) {
            context.queue.trigger(&key, Cause::Seen);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_fit_while_it_sees_one_of_its_namespaces() {
        let watches = Watches::default();
        assert!(!watches.sees_hosts(), "nothing is watched yet");
        watches.set(&HOST, "a", |state| state.synced = true);
        watches.set(&HOST, "gone", |state| {
            state.problem = Some(("Forbidden", "may not list".to_owned()));
        });
        assert!(watches.sees_hosts());
        watches.set(&HOST, "a", |state| {
            state.problem = Some(("Forbidden", "may not list".to_owned()));
        });
        assert!(!watches.sees_hosts());
    }
}
