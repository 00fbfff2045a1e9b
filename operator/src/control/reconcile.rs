//! The way of one resource: read, validate, build, apply, prune, status.

mod end;
mod inputs;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kms_host::telemetry::chain;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

use super::children::ChildId;
use super::facts::Facts;
use super::outside::Seen;
use super::queue::{Cause, Key, Next};
use super::upgrade::{self, Made};
use super::upkeep::Memory;
use super::{Context, is_paused};
use crate::api::{OfficeKmsHost, OfficeKmsHostStatus};
use crate::apply::{ApplyError, Done, FIELD_MANAGER, Verb, Wish};
use crate::build::{self, Inputs, names, references};
use crate::conditions::reason;
use crate::kinds::{ChildKind, HOST_STATUS};
use crate::settings::Settings;
use crate::status::{self, Running, Sight, Trouble};
use crate::validate;

/// While a resource is on its way, it is looked at so often even if nothing is seen.
const ON_ITS_WAY: Duration = Duration::from_secs(30);
/// What is missing and may be on its way is looked for so often.
const MAY_COME: Duration = Duration::from_secs(5);
/// While the watches have not shown what there is, it is looked so often whether they have.
const UNSEEN: Duration = Duration::from_secs(1);
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
        context.memory(|all| all.insert(key.clone(), Memory::of(Arc::clone(&host))));
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
        again: false,
        changed: false,
        made: Vec::new(),
        keys: None,
    };
    if host.metadata.deletion_timestamp.is_some() {
        return work.end(seen, paused).await;
    }
    let settled = context.watches.settled();
    if work.memory(|memory| memory.waits_for_watches(settled, Instant::now())) {
        let soon = Next::After {
            again: UNSEEN,
            hold: TOGETHER,
        };
        return (soon, "progressing");
    }
    if paused {
        work.settled = false;
    } else {
        work.carry_out(&seen).await;
    }
    work.notice_lies();
    let fight = work.memory(|memory| memory.fight(Instant::now()));
    if let Some((what, _)) = &fight {
        let message = format!(
            "somebody changes what the operator applies again and again: {what}; stop it, or pause this resource"
        );
        work.trouble(reason::CONTESTED, message, false);
    }
    if work.lets_settle() {
        let soon = Next::After {
            again: TOGETHER,
            hold: TOGETHER,
        };
        return (soon, "progressing");
    }
    let retry = work.troubles.iter().any(|trouble| trouble.reason != reason::CONTESTED);
    let written = work.write_status(seen, paused).await;
    for trouble in &work.troubles {
        context.metrics.failed(trouble.reason);
    }
    match written {
        Err(error) => {
            tracing::warn!(error = chain(&error), object.r#ref = %key, "the status could not be written");
            context.metrics.failed(error.reason());
            (Next::Retry, "failed")
        }
        Ok(_) if work.again && !retry => (Next::Retry, "conflict"),
        Ok(_) if work.only_waits() => (
            Next::After {
                again: MAY_COME,
                hold: TOGETHER,
            },
            "progressing",
        ),
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
    /// Somebody else was faster with an object: what is in the way is over at once.
    again: bool,
    /// A child was made or changed.
    changed: bool,
    /// Secrets that were generated in this look.
    made: Vec<String>,
    /// The Secret with generated keys, if it was seen in this look.
    keys: Option<String>,
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

    /// Whether nothing is in the way but what may be on its way.
    fn only_waits(&self) -> bool {
        let waits = |trouble: &Trouble| trouble.reason == reason::MISSING_REFERENCE && !trouble.needs_people;
        !self.troubles.is_empty() && self.troubles.iter().all(waits)
    }

    fn failed(&mut self, error: &ApplyError) {
        self.settled = false;
        if let ApplyError::Conflict { .. } = error {
            tracing::debug!(object.r#ref = %self.key, %error, "somebody else was faster");
            self.context.metrics.failed(error.reason());
            self.again = true;
            return;
        }
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
        self.settle_owners().await;
        let built = build::children(self.host, &settings, inputs.as_ref().unwrap_or(&Inputs::unread()));
        let objects = match built {
            Ok(objects) => objects,
            Err(error) => return self.trouble(reason::DEFECT, chain(&error), true),
        };
        let kinds: BTreeSet<_> = objects
            .iter()
            .filter_map(|object| object.types.as_ref().map(|types| types.kind.as_str()))
            .collect();
        // A kind that nobody asks for may well be out of sight: a cluster without monitoring need not permit it.
        let unseen = self
            .context
            .watches
            .problems(&self.key.namespace, |kind| kinds.contains(kind));
        for (reason, message) in unseen {
            self.trouble(reason, message, true);
        }
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
                Ok(done) => self.changed |= matches!(done, Done::Created | Done::Updated),
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
        let Some(kind) = ChildKind::named(kind) else {
            return Ok(None);
        };
        let there = self.context.applier.look_up(namespace, kind, name).await?;
        Ok(there.and_then(|child| child.made_with))
    }

    /// Removes children that the spec does not want any more.
    async fn prune(&mut self, wanted: &BTreeSet<(&'static str, String)>) {
        for (kind, name, child) in self.context.children.of(&self.key.namespace, &self.uid()) {
            if child.deleting || wanted.contains(&(kind, name.clone())) {
                continue;
            }
            let Some(kind) = ChildKind::named(kind) else {
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

    /// Whether the status waits for the next look, since what was just made or changed is about to say how it is: a status
    /// that costs the API server as much as all children and holds for a moment is not written.
    fn lets_settle(&self) -> bool {
        let changed = self.changed && self.troubles.is_empty() && !self.again;
        self.memory(|memory| memory.lets_settle(changed))
    }

    /// Counts a status that is not as this process left it among what somebody changes.
    fn notice_lies(&mut self) {
        self.memory(|memory| {
            let stored = self.host.status.as_ref();
            if memory.said().is_some_and(|said| !status::is_written(stored, said)) {
                memory.repaired("the status of this resource".to_owned(), Instant::now());
            }
        });
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
        let mut sight = Sight {
            troubles: self.troubles.clone(),
            applied: self.settled,
            deployment: self.running("Deployment", &self.key.name),
            ledger: if managed_ledger {
                self.running("StatefulSet", &names::redis(self.host))
            } else {
                None
            },
            managed_ledger,
            ledger_overdue: false,
            service: service.and_then(|child| match child.facts {
                Facts::Service(service) => Some(service),
                _ => None,
            }),
            outside,
            paused,
            keys: self.keys.clone(),
        };
        let overdue = self.memory(|memory| memory.ledger_is_overdue(sight.ledger_is_ready(), Instant::now()));
        // Whom people were called to once is not on its way again because the operator has restarted.
        sight.ledger_overdue = overdue || status::is_stalled(self.host, reason::LEDGER_NOT_READY);
        let wanted = status::status(self.host, &sight, Timestamp::now());
        if status::is_written(self.host.status.as_ref(), &wanted) {
            self.memory(|memory| memory.say(wanted.clone()));
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
                self.memory(|memory| memory.say(wanted.clone()));
                Ok(wanted)
            }
            // It went: the watch tells.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(wanted),
            // Another of its name came, and the watch tells; or somebody else wrote at the same moment, and what is stored
            // may not be what was seen.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.context.metrics.failed(reason::CONTESTED);
                self.again = true;
                Ok(wanted)
            }
            Err(error) => Err(ApplyError::of(
                error,
                Verb::Patch,
                &HOST_STATUS,
                &self.key.namespace,
                &self.key.name,
            )),
        }
    }
}

fn is_ready(condition: &Condition) -> bool {
    condition.type_ == "Ready" && condition.status == "True"
}
