//! The relay: answers each call with what a licensed host answers.
//!
//! The bodies are opaque. A call's stub is carried to a licensed host over a connection that is already bound, and its
//! response stub comes back byte for byte; the relay only looks at the two version words in front of a request and at
//! the return code behind a response, for its metrics.
//!
//! ```text
//! Call --> routing::decide (who) --> LicensedHost::call (pool, one attempt) --> Reply
//!             ^  next host while no host has answered and the client's time allows
//! ```
//!
//! A return code is an answer and is never asked for twice; a request is never at two hosts at once.

mod decisions;
mod fleet;
mod health;
mod host;
mod patience;
mod peek;
mod pool;
mod reach;
mod upkeep;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use smallvec::SmallVec;
use tracing::Instrument as _;

pub use health::{Eligibility, Failure, Health};
pub use host::{LastFailure, LicensedHostStatus};
pub use upkeep::upkeep;

use crate::config::{RelayConfig, WhenNoHost};
use crate::ledger::{Answered, LedgerKey, Millis, ObservationQueue, Pseudonym};
use crate::metrics::Metrics;
use crate::routing::{Ended, Explanation, Reason, RoutingConfig, RoutingStatus, View};
use crate::rpc::{Answer, Call, FaultStatus, Reply};
use crate::serve::{Client, Outcome, Service};
use crate::telemetry::Quiet;
use decisions::{Decisions, Tried};
use fleet::Fleet;
use host::{Attempt, LicensedHost};
use patience::Patience;

/// The relay service.
#[derive(Debug)]
pub struct Relay {
    fleet: ArcSwap<Fleet>,
    guide: Guide,
    decisions: Decisions,
    metrics: Arc<Metrics>,
    quiet: Quiet,
}

/// Where clients go, and who is told where they went. Neither waits for the ledger.
#[derive(Debug)]
pub struct Guide {
    /// What is known of the licensed hosts' counts and of clients' last answers.
    pub view: Arc<View>,
    /// Takes observations while the ledger's store is slow or away.
    pub queue: ObservationQueue,
    /// Turns addresses into pseudonyms.
    pub key: LedgerKey,
}

impl Relay {
    /// A relay to the configured hosts. Nothing is connected yet.
    pub fn new(config: &RelayConfig, guide: Guide, metrics: Arc<Metrics>) -> Self {
        let fleet = Fleet::new(config, None, &metrics);
        Self {
            fleet: ArcSwap::from_pointee(fleet),
            guide,
            decisions: Decisions::default(),
            metrics,
            quiet: Quiet::default(),
        }
    }

    /// Takes over a changed configuration. Hosts that did not change keep their connections and their health; those
    /// that are only called in another way keep their health.
    pub fn replace(&self, config: &RelayConfig, routing: &RoutingConfig) {
        self.guide.view.replace(routing, &config.licensed_hosts, wall_clock());
        let before = self.fleet.load_full();
        let fleet = Fleet::new(config, Some(&before), &self.metrics);
        for gone in before.names().filter(|name| !fleet.names().any(|kept| kept == *name)) {
            self.metrics.forget_host(gone);
        }
        self.fleet.store(Arc::new(fleet));
    }

    /// The licensed hosts' states.
    pub fn status(&self, now: Instant) -> Vec<LicensedHostStatus> {
        self.fleet.load().hosts().map(|host| host.status(now)).collect()
    }

    async fn relay(&self, call: &Call, client: Client) -> Outcome {
        let fleet = self.fleet.load_full();
        if fleet.kms
            && let Some(version) = peek::request_version(call)
        {
            self.metrics.version(version);
        }
        let client_is = self.guide.key.address(client.source);
        let patience = Patience::new(client.time, client.deadline);
        let (reason, order) = self.order(&fleet, client_is);
        let mut tried = Tried::new();
        let has_failed = |tried: &Tried| tried.iter().any(|(_, ended)| *ended == Ended::Failed);
        for (host, warm) in order {
            let now = Instant::now();
            if now >= client.deadline {
                break;
            }
            if !host.begin(now) {
                tried.push((Arc::clone(&host.name), Ended::PassedBy));
                continue;
            }
            if has_failed(&tried) {
                self.metrics.retries.inc();
            }
            let span = tracing::debug_span!("attempt", host = %host.config.name);
            let attempt = host.call(call, patience).instrument(span).await;
            let ended = match attempt {
                Attempt::Reply(_) => Ended::Answered,
                Attempt::Failed => Ended::Failed,
            };
            tried.push((Arc::clone(&host.name), ended));
            if let Attempt::Reply(reply) = attempt {
                let at = wall_clock();
                self.decisions.note(client_is, at, reason, tried);
                if counts(&fleet, &reply) {
                    let host = host.config.name.clone();
                    self.guide.queue.offer(Answered {
                        client: client_is,
                        host,
                        at,
                        warm,
                    });
                }
                return Outcome::Answer(self.answer(&fleet, reply));
            }
        }
        let failed = has_failed(&tried);
        self.decisions.note(client_is, wall_clock(), reason, tried);
        self.no_host(fleet.when_no_host, failed)
    }

    /// The hosts to try for a client, first to last, and whether each is believed to be warm; why the first is the first.
    fn order<'f>(&self, fleet: &'f Fleet, client: Pseudonym) -> (Reason, SmallVec<[(&'f LicensedHost, bool); 8]>) {
        let snapshot = self.guide.view.load();
        let decision = snapshot.decide(fleet.healths(&snapshot.fleet), client, wall_clock());
        self.metrics.routed(decision.reason);
        tracing::debug!(%client, reason = decision.reason.as_str(), "{}", decision.reason.sentence());
        let hosts = decision
            .order
            .iter()
            .filter_map(|tried| Some((fleet.host(&snapshot.fleet, tried.host)?, tried.warm)));
        (decision.reason, hosts.collect())
    }

    /// The fleet as routing sees it.
    pub fn routing(&self) -> RoutingStatus {
        let (fleet, snapshot) = (self.fleet.load(), self.guide.view.load());
        snapshot.status(fleet.healths(&snapshot.fleet), wall_clock())
    }

    /// Why a client of this source would go where it would go now, and what became of its last request here.
    pub fn explain(&self, source: IpAddr) -> Explanation {
        let (fleet, snapshot) = (self.fleet.load(), self.guide.view.load());
        let client = self.guide.key.address(source);
        let now = wall_clock();
        Explanation {
            last_decision: self.decisions.last(client, now),
            ..snapshot.explain(fleet.healths(&snapshot.fleet), client, now)
        }
    }

    fn answer(&self, fleet: &Fleet, reply: Reply) -> Answer {
        match reply {
            Reply::Stub(stub, drep) => {
                if fleet.kms
                    && let Some(code) = peek::return_code(&stub, drep)
                {
                    self.metrics.answered(code);
                }
                Answer::StubIn(drep, stub)
            }
            Reply::Fault(status) => Answer::Fault(status),
        }
    }

    fn no_host(&self, when: WhenNoHost, tried: bool) -> Outcome {
        self.metrics.no_host.inc();
        if let Some(held_back) = self.quiet.pass(Instant::now()) {
            let what = if tried {
                "no licensed host answered"
            } else {
                "no licensed host is eligible"
            };
            tracing::error!(held_back, "{what}: clients are turned away");
        }
        match when {
            WhenNoHost::Close => Outcome::Close,
            WhenNoHost::Fault => Outcome::Answer(Answer::Fault(FaultStatus::WIN32_SERVER_UNAVAILABLE)),
        }
    }
}

/// Whether the host has counted the client: it has unless it answered with an error, as for a product without a key.
fn counts(fleet: &Fleet, reply: &Reply) -> bool {
    match reply {
        Reply::Stub(stub, drep) => !fleet.kms || peek::return_code(stub, *drep) == Some(0),
        Reply::Fault(_) => false,
    }
}

/// The wall clock, where the edge needs it.
fn wall_clock() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

impl Service for Relay {
    fn call<'a>(&'a self, call: &'a Call, client: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(self.relay(call, client))
    }
}
