//! What goes on beside the children, so that nothing waits for it: DNS, licensed hosts, and what the replicas say. A look at a
//! resource takes the newest outcomes and begins new looks where they are due; one that ends has its resource looked at.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Api, Client};
use serde_json::json;

use super::events::Events;
use super::is_paused;
use super::queue::{Cause, Key as QueueKey, Queue};
use super::replicas::{self, Replicas};
use super::secrets::FromCluster;
use crate::api::OfficeKmsHost;
use crate::client::Gate;
use crate::dns::cluster::Zones;
use crate::dns::resource::{self as dns, FINALIZER};
use crate::dns::round::Limits;
use crate::dns::withdraw::Cleaned;
use crate::licensing::cluster::Hosts;
use crate::licensing::link::Ledgers;
use crate::licensing::resource as licensing;
use crate::looks::{Key, Looks, Seen as Look, Wake, about};
use crate::metrics::Metrics;
use crate::notice::Notice;
use crate::secrets::ReadSecrets;

/// The newest outcomes for a resource.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Of its zones.
    pub dns: Option<Arc<dns::Outcome>>,
    /// Of the clean-up of its zones.
    pub cleaned: Option<Arc<Cleaned>>,
    /// Of its licensed hosts.
    pub licensing: Option<Arc<licensing::Outcome>>,
    /// Of its replicas: how many answered, perhaps none.
    pub replicas: Option<Arc<Replicas>>,
    /// When a look is due again.
    pub again_in: Option<Duration>,
}

impl Seen {
    fn due(&mut self, again_in: Duration) {
        self.again_in = Some(self.again_in.map_or(again_in, |before| before.min(again_in)));
    }
}

/// All looks at the outside.
#[derive(Debug)]
pub struct Outside {
    zones: Zones,
    hosts: Hosts,
    cleaning: Looks<Cleaned>,
    replicas: Looks<Replicas>,
    every: Duration,
}

impl Outside {
    /// None yet. Outcomes wake `queue`; `every` is how often replicas are asked; what is written passes `gate`.
    #[must_use]
    pub fn new(
        client: &Client,
        ledgers: Ledgers,
        metrics: &Metrics,
        queue: &Queue,
        every: Duration,
        gate: &Gate,
    ) -> Self {
        let queue = queue.clone();
        let wake: Wake = Arc::new(move |key: &Key| {
            let key = QueueKey {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
            };
            queue.trigger(&key, Cause::Seen);
        });
        let limits = Limits {
            gate: gate.clone(),
            ..Limits::default()
        };
        Self {
            zones: Zones::new(client.clone(), limits, Arc::clone(&wake)),
            hosts: Hosts::new(
                client.clone(),
                ledgers,
                metrics.licensed_hosts().clone(),
                gate.clone(),
                Arc::clone(&wake),
            ),
            cleaning: Looks::new("clean-up", Arc::clone(&wake)),
            replicas: Looks::new("replicas", wake),
            every,
        }
    }

    /// The newest outcomes for a resource. Does not wait.
    #[must_use]
    pub fn look(&self, host: &OfficeKmsHost, service: Option<&Service>, client: &Client, events: &Events) -> Seen {
        let mut seen = Seen::default();
        let namespace = host.metadata.namespace.clone().unwrap_or_default();
        let secrets: Arc<dyn ReadSecrets> = Arc::new(FromCluster::new(client, &namespace));
        let tell = |fresh: bool, notices: &[Notice]| {
            for notice in notices.iter().filter(|_| fresh) {
                events.send(host, notice.clone());
            }
        };
        if host.metadata.deletion_timestamp.is_some() {
            if let Some(cleaned) = self.clean_up(host, secrets) {
                tell(cleaned.fresh, &cleaned.outcome.notices);
                seen.due(cleaned.again_in);
                seen.cleaned = Some(cleaned.outcome);
            }
            return seen;
        }
        if !is_paused(host) {
            if has_zones(host)
                && let Some(look) = self.zones.look(host, service, Arc::clone(&secrets))
            {
                tell(look.fresh, &look.outcome.notices);
                seen.due(look.again_in);
                seen.dns = Some(look.outcome);
            }
            if let Some(look) = self.hosts.look(host, secrets) {
                tell(look.fresh, &look.outcome.notices);
                seen.due(look.again_in);
                seen.licensing = Some(look.outcome);
            }
        }
        if let Some(look) = self.ask_replicas(host, client, &namespace) {
            seen.due(look.again_in);
            seen.replicas = Some(look.outcome);
        }
        seen
    }

    fn clean_up(&self, host: &OfficeKmsHost, secrets: Arc<dyn ReadSecrets>) -> Option<Look<Cleaned>> {
        let rows = host
            .status
            .iter()
            .flat_map(|status| &status.dns)
            .map(|row| &row.published_by);
        let subject = about(&[json!(rows.collect::<Vec<_>>()), json!(host.metadata.annotations)]);
        let (zones, cleaned) = (self.zones.clone(), host.clone());
        self.cleaning.ask(&Key::of(host), subject, move || {
            Box::pin(async move {
                let cleaned = zones.clean_up(&cleaned, &*secrets).await;
                let again_in = cleaned.again_in;
                (cleaned, again_in)
            })
        })
    }

    fn ask_replicas(&self, host: &OfficeKmsHost, client: &Client, namespace: &str) -> Option<Look<Replicas>> {
        let ready = host
            .status
            .as_ref()
            .and_then(|status| status.ready_replicas)
            .unwrap_or_default();
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
        let (asked, every) = (host.clone(), self.every);
        let hosts = json!(host.spec.licensed_hosts);
        self.replicas
            .ask(&Key::of(host), about(&[json!(ready), hosts]), move || {
                Box::pin(async move {
                    let replicas = match ready {
                        0 => Replicas::default(),
                        // None that answered: whatever is in the way, they could not be asked.
                        _ => replicas::ask(&asked, &slices).await.unwrap_or_default(),
                    };
                    (replicas, every)
                })
            })
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, host: &OfficeKmsHost) {
        let key = Key::of(host);
        self.zones.forget(&key);
        self.hosts.forget(&key);
        self.cleaning.forget(&key);
        self.replicas.forget(&key);
    }
}

/// Whether a resource has zones, or may have records outside.
#[must_use]
pub fn has_zones(host: &OfficeKmsHost) -> bool {
    let rows = host.status.as_ref().is_some_and(|status| !status.dns.is_empty());
    let held = host.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    host.spec.dns.is_some() || rows || held
}
