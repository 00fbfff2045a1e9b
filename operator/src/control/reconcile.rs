//! The way of one resource: read, validate, build, apply, prune, status.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::children::ChildId;
use super::facts::Facts;
use super::outside::{Seen, has_zones};
use super::queue::{Cause, Key, Next};
use super::secrets::FromCluster;
use super::upgrade::{self, Made};
use super::upkeep::Memory;
use super::{Context, is_paused};
use crate::api::{OfficeKmsHost, OfficeKmsHostStatus};
use crate::apply::{ApplyError, Done, FIELD_MANAGER, Verb, Wish};
use crate::build::{self, Inputs, names, references};
use crate::conditions::reason;
use crate::dns::resource::FINALIZER;
use crate::kinds::{ChildKind, KINDS};
use crate::secrets::Objects;
use crate::settings::Settings;
use crate::status::{self, Running, Sight, Trouble};
use crate::validate;

/// While a resource is on its way, it is looked at so often even if nothing is seen.
const ON_ITS_WAY: Duration = Duration::from_secs(30);
/// What is seen within this time of a look is one look more, not many.
const TOGETHER: Duration = Duration::from_millis(250);

/// Looks at a resource, and says when to look again and how it went.
pub async fn reconcile(context: &Arc<Context>, key: &Key) -> (Next, &'static str) {
    let Some(host) = context.hosts.get(key) else {
        if let Some(gone) = context
            .memory(|memory| memory.remove(key))
            .and_then(|memory| memory.host)
        {
            context.outside.forget(&gone);
        }
        context.next_turn(key);
        return (Next::Forget, "gone");
    };
    let before = context.memory(|all| all.entry(key.clone()).or_default().host.replace(Arc::clone(&host)));
    if let Some(before) = before.filter(|before| before.metadata.uid != host.metadata.uid) {
        context.outside.forget(&before);
    }
    let service = match context
        .children
        .get(
            &key.namespace,
            ChildId {
                kind: "Service",
                name: &key.name,
            },
        )
        .map(|child| child.facts)
    {
        Some(Facts::Service(service)) => Some(service.object),
        _ => None,
    };
    let seen = context
        .outside
        .look(&host, service.as_deref(), &context.client, &context.events);
    let paused = is_paused(&host);
    let due = seen.again_in;
    let mut work = Work {
        context,
        key,
        host: &host,
        troubles: Vec::new(),
        settled: true,
        older: false,
    };
    if host.metadata.deletion_timestamp.is_some() {
        return work.end(seen, paused).await;
    }
    if paused {
        work.settled = false;
    } else {
        work.carry_out(&seen).await;
    }
    let fight = work.memory(|memory| memory.fight(Instant::now()));
    if let Some((what, _)) = &fight {
        let message = format!(
            "somebody changes what the operator applies again and again: {what}; stop it, or pause this resource"
        );
        work.trouble(reason::CONTESTED, message, false);
    }
    let retry = work.troubles.iter().any(|trouble| trouble.reason != reason::CONTESTED);
    let written = work.write_status(seen, paused).await;
    for trouble in &work.troubles {
        context.metrics.failed(trouble.reason);
    }
    match written {
        Err(error) => {
            tracing::warn!(%error, object.r#ref = %key, "the status could not be written");
            context.metrics.failed(error.reason());
            (Next::Retry, "failed")
        }
        Ok(_) if retry => {
            let first = work.troubles.first();
            tracing::warn!(
                object.r#ref = %key,
                reason = first.map(|trouble| trouble.reason),
                error = first.map(|trouble| trouble.message.as_str()),
                "the resource is not as its spec says; it is tried again"
            );
            (
                Next::Retry,
                if work.troubles.iter().any(|trouble| trouble.needs_people) {
                    "stalled"
                } else {
                    "failed"
                },
            )
        }
        Ok(status) => {
            let hold = fight.map_or(TOGETHER, |(_, hold)| hold);
            let ready = status.conditions.iter().any(is_ready);
            if (ready || paused) && !work.older {
                context.next_turn(key);
            }
            let result = match (paused, ready) {
                (true, _) => "paused",
                (false, true) => "ready",
                (false, false) => "progressing",
            };
            let wait = if ready || paused {
                context.resync.mul_f64(0.8 + rand::random::<f64>() / 5.0)
            } else {
                ON_ITS_WAY.max(hold)
            };
            let again = due.map_or(wait, |due| due.max(TOGETHER).min(wait));
            (Next::After { again, hold }, result)
        }
    }
}

impl Context {
    fn memory<T>(&self, with: impl FnOnce(&mut std::collections::HashMap<Key, Memory>) -> T) -> T {
        with(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A resource needs no turn to take over new images, or no longer: the next one is looked at.
    fn next_turn(&self, key: &Key) {
        if let Some(next) = self.turns.leave(key) {
            self.queue.trigger(&next, Cause::Seen);
        }
    }
}

/// A look at one resource.
struct Work<'a> {
    context: &'a Arc<Context>,
    key: &'a Key,
    host: &'a OfficeKmsHost,
    troubles: Vec<Trouble>,
    /// Whether every child is as it should be.
    settled: bool,
    /// Whether it keeps default images that are older than the operator's.
    older: bool,
}

impl<'a> Work<'a> {
    fn memory<T>(&self, with: impl FnOnce(&mut Memory) -> T) -> T {
        self.context
            .memory(|all| with(all.entry(self.key.clone()).or_default()))
    }

    fn trouble(&mut self, reason: &'static str, message: String, needs_people: bool) {
        self.settled &= !needs_people;
        self.troubles.push(Trouble {
            reason,
            message,
            needs_people,
        });
    }

    fn failed(&mut self, error: &ApplyError) {
        self.settled = false;
        self.trouble(error.reason(), chain(error), error.needs_people());
    }

    fn uid(&self) -> String {
        self.host.metadata.uid.clone().unwrap_or_default()
    }

    fn generation(&self) -> i64 {
        self.host.metadata.generation.unwrap_or_default()
    }

    /// Makes the children as the spec says.
    async fn carry_out(&mut self, seen: &Seen) {
        for (reason, message) in self.context.watches.problems(&self.key.namespace) {
            self.trouble(reason, message, true);
        }
        if let Err(problem) = validate::check(self.host) {
            self.settled = false;
            self.trouble(reason::INVALID_SPEC, problem.to_string(), true);
            return;
        }
        let settings = match self.settings().await {
            Ok(settings) => settings,
            Err(error) => return self.failed(&error),
        };
        let inputs = self.inputs().await;
        let built = build::children(self.host, &settings, inputs.as_ref().unwrap_or(&Inputs::unread()));
        let objects = match built {
            Ok(objects) => objects,
            Err(error) => return self.trouble(reason::DEFECT, chain(&error), true),
        };
        let mut wanted = BTreeSet::new();
        for object in &objects {
            let wish = match Wish::new(object) {
                Ok(wish) => wish,
                Err(error) => {
                    self.failed(&error);
                    continue;
                }
            };
            wanted.insert((wish.kind.kind, wish.name.clone()));
            // Without what they refer to, pods could not start: what runs is better left alone.
            if inputs.is_none() && matches!(wish.kind.kind, "Deployment" | "StatefulSet") {
                self.settled = false;
                continue;
            }
            match self
                .context
                .applier
                .apply(&self.key.namespace, &wish, &self.uid(), self.context.watches.settled())
                .await
            {
                Ok(Done::Waits) => self.settled = false,
                Ok(Done::Repaired { by }) => {
                    let by = by.map_or(String::new(), |by| {
                        format!(", which the field manager {by:?} changed last")
                    });
                    let what = format!("{} {}{by}", wish.kind.kind, wish.name);
                    tracing::info!(object.r#ref = %self.key, what, "a child was put back as it should be");
                    self.memory(|memory| memory.repaired(what, Instant::now()));
                }
                Ok(_) => {}
                Err(error) => {
                    let ends = matches!(error, ApplyError::NamespaceEnds { .. });
                    self.failed(&error);
                    if ends {
                        return;
                    }
                }
            }
        }
        if self.context.watches.settled() {
            self.prune(&wanted).await;
        } else {
            self.settled = false;
        }
        self.set_finalizer(seen).await;
    }

    /// What the operator was told, with the default images that are this resource's for now.
    async fn settings(&mut self) -> Result<Cow<'a, Settings>, ApplyError> {
        let context = self.context;
        let spec = &self.host.spec;
        let mut made = Made::default();
        if spec.pod.as_ref().is_none_or(|pod| pod.image.is_none()) {
            made.host = self.made_with("Deployment", &self.key.name).await?;
        }
        let ledger = spec.ledger.as_ref().and_then(|ledger| ledger.managed.as_ref());
        if references::is_managed(self.host) && ledger.is_none_or(|ledger| ledger.image.is_none()) {
            made.redis = self.made_with("StatefulSet", &names::redis(self.host)).await?;
        }
        Ok(match upgrade::kept(&context.settings, made) {
            Some(older) if !context.turns.take(self.key, self.is_ready()) => {
                self.older = true;
                Cow::Owned(older)
            }
            _ => Cow::Borrowed(&context.settings),
        })
    }

    /// Whether the last look found it so.
    fn is_ready(&self) -> bool {
        let status = self.host.status.as_ref();
        status.is_some_and(|status| status.conditions.iter().any(is_ready))
    }

    /// The default image that a workload was made with. Before the watch has shown what there is, the API server is asked.
    async fn made_with(&self, kind: &'static str, name: &str) -> Result<Option<String>, ApplyError> {
        let namespace = &self.key.namespace;
        let known = self.context.children.get(namespace, ChildId { kind, name });
        if known.is_some() || self.context.watches.shows(kind, namespace) {
            return Ok(known.and_then(|child| child.made_with));
        }
        let Some(kind) = KINDS.iter().find(|known| known.kind == kind) else {
            return Ok(None);
        };
        let there = self.context.applier.look_up(namespace, kind, name).await?;
        Ok(there.and_then(|child| child.made_with))
    }

    /// What the spec refers to, with keys made that nobody gave. None when something is missing.
    async fn inputs(&mut self) -> Option<Inputs> {
        let generation = self.generation();
        if let Some(inputs) = self.memory(|memory| memory.inputs(generation, Instant::now())) {
            return Some(inputs);
        }
        let secrets = FromCluster::new(&self.context.client, &self.key.namespace);
        let names = references::names(self.host);
        let mut objects = Objects::read(&secrets, &names).await;
        let missing = build::secrets::missing(self.host, &objects);
        if !missing.is_empty() {
            for wanted in &missing {
                if let Err(error) = self.generate(wanted).await {
                    self.failed(&error);
                }
            }
            objects = Objects::read(&secrets, &names).await;
        }
        match Inputs::resolve(self.host, &objects) {
            Ok(inputs) => {
                self.memory(|memory| memory.keep(generation, Instant::now(), inputs.clone()));
                Some(inputs)
            }
            Err(problems) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                self.settled = false;
                self.trouble(reason::MISSING_REFERENCE, told.join("; "), true);
                None
            }
        }
    }

    /// Creates a Secret that nobody gave. One that came into being meanwhile is left as it is.
    async fn generate(&self, wanted: &build::secrets::Wanted) -> Result<(), ApplyError> {
        let mut fill = |buffer: &mut [u8]| getrandom::fill(buffer);
        let secret = build::secrets::generate(self.host, wanted, &mut fill).map_err(|error| ApplyError::Refused {
            kind: "Secret",
            name: wanted.name.clone(),
            said: error.to_string(),
        })?;
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        match api
            .create(
                &PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                },
                &secret,
            )
            .await
        {
            Ok(_) => {
                self.context.metrics.wrote("Secret", "create");
                tracing::info!(object.r#ref = %self.key, secret = %wanted.name, "keys that nobody gave were generated, once");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(()),
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Create,
                secret_kind(),
                &self.key.namespace,
                &wanted.name,
            )),
        }
    }

    /// Removes children that the spec does not want any more.
    async fn prune(&mut self, wanted: &BTreeSet<(&'static str, String)>) {
        for (kind, name, child) in self.context.children.of(&self.key.namespace, &self.uid()) {
            if child.deleting || wanted.contains(&(kind, name.clone())) {
                continue;
            }
            let Some(kind) = KINDS.iter().find(|known| known.kind == kind) else {
                continue;
            };
            if let Err(error) = self
                .context
                .applier
                .remove(&self.key.namespace, kind, &name, &child.uid)
                .await
            {
                self.failed(&error);
            }
        }
    }

    /// Holds the resource back from deletion as long as something of it is outside of the cluster.
    async fn set_finalizer(&mut self, seen: &Seen) {
        let there = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|name| name == FINALIZER);
        let wanted = match &seen.dns {
            Some(outcome) => outcome.finalizer,
            // Not looked at yet: as it is.
            None if has_zones(self.host) => there,
            None => false,
        };
        if there == wanted {
            return;
        }
        if let Err(error) = self.patch_finalizer(wanted).await {
            self.failed(&error);
        }
    }

    async fn patch_finalizer(&self, wanted: bool) -> Result<(), ApplyError> {
        let others = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .filter(|name| *name != FINALIZER);
        let finalizers: Vec<&str> = others.map(String::as_str).chain(wanted.then_some(FINALIZER)).collect();
        // With the version that this was decided on: somebody else's finalizer is never lost.
        let patch = json!({"metadata": {"resourceVersion": self.host.resource_version(), "finalizers": finalizers}});
        let api: Api<OfficeKmsHost> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        match api
            .patch(&self.key.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(host) => {
                self.context.metrics.wrote("OfficeKmsHost", "patch");
                self.context.hosts.put(host);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Patch,
                host_kind(),
                &self.key.namespace,
                &self.key.name,
            )),
        }
    }

    /// A resource that is being deleted: children go with it by their owner references, outside state by its task.
    async fn end(&mut self, seen: Seen, paused: bool) -> (Next, &'static str) {
        let ours = self
            .host
            .metadata
            .finalizers
            .iter()
            .flatten()
            .any(|name| name == FINALIZER);
        if !ours {
            return (
                Next::After {
                    again: self.context.resync,
                    hold: TOGETHER,
                },
                "gone",
            );
        }
        if seen.cleaned.as_ref().is_some_and(|cleaned| cleaned.done) {
            return match self.patch_finalizer(false).await {
                Ok(()) => (
                    Next::After {
                        again: self.context.resync,
                        hold: TOGETHER,
                    },
                    "gone",
                ),
                Err(error) => {
                    tracing::warn!(%error, object.r#ref = %self.key, "the finalizer could not be removed");
                    (Next::Retry, "failed")
                }
            };
        }
        match self.write_status(seen, paused).await {
            Ok(_) => (
                Next::After {
                    again: ON_ITS_WAY,
                    hold: TOGETHER,
                },
                "progressing",
            ),
            Err(error) => {
                tracing::warn!(%error, object.r#ref = %self.key, "the status could not be written");
                (Next::Retry, "failed")
            }
        }
    }

    fn running(&self, kind: &'static str, name: &str) -> Option<Running> {
        let child = self.context.children.get(&self.key.namespace, ChildId { kind, name })?;
        let ours = child
            .owner
            .as_ref()
            .is_some_and(|owner| Some(&owner.uid) == self.host.metadata.uid.as_ref());
        match child.facts {
            Facts::Workload(workload) if ours => Some(Running {
                generation: child.generation,
                workload,
            }),
            _ => None,
        }
    }

    /// Writes the status if it differs.
    async fn write_status(&mut self, outside: Seen, paused: bool) -> Result<OfficeKmsHostStatus, ApplyError> {
        let service = self.context.children.get(
            &self.key.namespace,
            ChildId {
                kind: "Service",
                name: &self.key.name,
            },
        );
        self.troubles.sort_by_key(|trouble| !trouble.needs_people);
        let managed_ledger = references::is_managed(self.host);
        let sight = Sight {
            troubles: self.troubles.clone(),
            applied: self.settled,
            deployment: self.running("Deployment", &self.key.name),
            ledger: if managed_ledger {
                self.running("StatefulSet", &names::redis(self.host))
            } else {
                None
            },
            managed_ledger,
            service: service.and_then(|child| match child.facts {
                Facts::Service(service) => Some(service),
                _ => None,
            }),
            outside,
            paused,
        };
        let wanted = status::status(self.host, &sight, Timestamp::now());
        if status::is_written(self.host.status.as_ref(), &wanted) {
            return Ok(wanted);
        }
        let patch = json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
            "metadata": {"name": self.key.name, "namespace": self.key.namespace, "uid": self.host.metadata.uid},
            "status": wanted,
        });
        let api: Api<OfficeKmsHost> = Api::namespaced(self.context.client.clone(), &self.key.namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&self.key.name, &params, &Patch::Apply(&patch)).await {
            Ok(host) => {
                self.context.metrics.wrote("OfficeKmsHost", "status");
                for notice in status::notices(self.host.status.as_ref(), &wanted) {
                    self.context.events.send(&host, notice);
                }
                self.context.hosts.put(host);
                Ok(wanted)
            }
            // It went, or another of its name came: the watch tells.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(wanted),
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Patch,
                host_status_kind(),
                &self.key.namespace,
                &self.key.name,
            )),
        }
    }
}

fn secret_kind() -> &'static ChildKind {
    static SECRET: ChildKind = ChildKind {
        group: "",
        version: "v1",
        kind: "Secret",
        plural: "secrets",
        watched: crate::kinds::Watched::ByName,
        absent: None,
    };
    &SECRET
}

fn host_kind() -> &'static ChildKind {
    static HOST: ChildKind = ChildKind {
        group: crate::api::GROUP,
        version: "v1alpha1",
        kind: "OfficeKmsHost",
        plural: "officekmshosts",
        watched: crate::kinds::Watched::Whole,
        absent: None,
    };
    &HOST
}

fn host_status_kind() -> &'static ChildKind {
    static STATUS: ChildKind = ChildKind {
        group: crate::api::GROUP,
        version: "v1alpha1",
        kind: "OfficeKmsHost",
        plural: "officekmshosts/status",
        watched: crate::kinds::Watched::Whole,
        absent: None,
    };
    &STATUS
}

fn is_ready(condition: &Condition) -> bool {
    condition.type_ == "Ready" && condition.status == "True"
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
