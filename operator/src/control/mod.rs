//! Everything that acts: one resource from what it says to what stands for it.
//!
//! ```text
//! watches --> hosts, children (kept small) --> queue --> workers: reconcile
//!                                                ^          |  read Secrets by name, validate, build (pure), apply, prune
//!             outside: dns, licensing, replicas -+          |  status (pure), written when it differs; Events on transitions
//! ```
//!
//! A look at a resource sends nothing when nothing differs. What takes time outside of the cluster runs in tasks of its own
//! ([`outside`]) and only leaves its outcomes. Secrets are not watched, since that takes the permission to read them all:
//! one that is missing is looked for with the back-off of its resource (at most every two minutes), one that changed is
//! seen at the next look, at the latest after [`Context::resync`].

pub mod children;
pub mod events;
pub mod facts;
pub mod hosts;
pub mod outside;
mod permissions;
pub mod queue;
mod reconcile;
pub mod replicas;
pub mod run;
pub mod secrets;
mod unreadable;
pub mod upgrade;
mod upkeep;
pub mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Client;

pub use reconcile::reconcile;

use crate::api::{OfficeKmsHost, PAUSED_ANNOTATION};
use crate::apply::Applier;
use crate::client::Gate;
use crate::endpoint::Health;
use crate::licensing::link::Ledgers;
use crate::metrics::Metrics;
use crate::settings::Settings;
use children::Children;
use events::Events;
use hosts::Hosts;
use outside::Outside;
use queue::{Key, Queue};
use upgrade::Turns;
use watch::Watches;

/// What all workers share.
pub struct Context {
    /// The API server; writes pass the gate of the election.
    pub client: Client,
    /// What the operator was told.
    pub settings: Settings,
    /// The resources.
    pub hosts: Arc<Hosts>,
    /// Their children.
    pub children: Arc<Children>,
    /// Who is next.
    pub queue: Queue,
    /// How the watches are.
    pub watches: Watches,
    /// What goes on outside.
    pub outside: Outside,
    /// Applies children.
    pub applier: Applier,
    /// Whose turn it is to take over new default images.
    pub turns: Arc<Turns>,
    /// Where Events go.
    pub events: Events,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What probes see.
    pub health: Health,
    /// A resource is looked at no less often.
    pub resync: Duration,
    memory: Mutex<HashMap<Key, upkeep::Memory>>,
}

/// What a context is made of.
pub struct Parts {
    /// The API server; writes pass the gate of the election.
    pub client: Client,
    /// What the operator was told.
    pub settings: Settings,
    /// The resources.
    pub hosts: Arc<Hosts>,
    /// Their children.
    pub children: Arc<Children>,
    /// Who is next.
    pub queue: Queue,
    /// Whose turn it is to take over new default images.
    pub turns: Arc<Turns>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What probes see.
    pub health: Health,
    /// Who writes Events.
    pub instance: String,
    /// A resource is looked at no less often.
    pub resync: Duration,
    /// How often replicas are asked for their status.
    pub replicas_every: Duration,
    /// Directory for secrets with which ledgers are opened.
    pub scratch: PathBuf,
    /// The gate of the election, for what is written outside of the cluster.
    pub gate: Gate,
}

impl Context {
    /// Puts it together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let applier = Applier {
            client: parts.client.clone(),
            children: Arc::clone(&parts.children),
            metrics: Arc::clone(&parts.metrics),
            by_namespace: !parts.settings.watch_namespaces.is_empty(),
        };
        let ledgers = Ledgers::new(&parts.scratch);
        let outside = Outside::new(
            &parts.client,
            ledgers,
            &parts.metrics,
            &parts.queue,
            parts.replicas_every,
            &parts.gate,
        );
        Self {
            events: Events::start(parts.client.clone(), parts.instance, Arc::clone(&parts.metrics)),
            client: parts.client,
            settings: parts.settings,
            hosts: parts.hosts,
            children: parts.children,
            queue: parts.queue,
            watches: Watches::default(),
            outside,
            applier,
            turns: parts.turns,
            metrics: parts.metrics,
            health: parts.health,
            resync: parts.resync,
            memory: Mutex::default(),
        }
    }
}

/// Whether the resource's annotation stops all changes.
#[must_use]
pub fn is_paused(host: &OfficeKmsHost) -> bool {
    let annotations = host.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(PAUSED_ANNOTATION))
        .is_some_and(|value| value == "true")
}
