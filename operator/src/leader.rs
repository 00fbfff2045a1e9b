//! Leader election on a Lease, fail-stop.
//!
//! A candidate takes a lease that its holder has not renewed for the whole lease duration *as the candidate itself saw it*,
//! so that clocks of two nodes are never compared. A leader counts from the moment before it asked for the renewal: after
//! the renew deadline it may not write, and the process ends. Since the deadline and the time for which the kernel keeps
//! what was sent are together shorter than the lease, its last write is over before another can hold the lease.
//!
//! ```text
//! leader    ask renew ---------------- deadline (gate shuts, exit) -- unacknowledged data given up --|
//! candidate      saw renewal ------------------------- lease duration -------------------------------| may take it
//! ```

mod decide;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use decide::{Record, Seen, Step, Timing, decide};

use crate::client::Gate;
use crate::endpoint::Health;
use crate::metrics::Metrics;

/// The lease was lost or could not be renewed in time.
#[derive(Debug, thiserror::Error)]
#[error("the lease {namespace}/{name} could not be kept: {why}; this process stops so that another may lead")]
pub struct Lost {
    namespace: String,
    name: String,
    why: String,
}

/// Takes part in an election.
#[derive(Clone)]
pub struct Elector {
    /// Leases of the operator's namespace, through a client without gate.
    pub leases: Api<Lease>,
    /// The namespace, for messages.
    pub namespace: String,
    /// The lease's name.
    pub name: String,
    /// Who this process is. No two processes ever have the same.
    pub identity: String,
    /// Times.
    pub timing: Timing,
    /// What it opens.
    pub gate: Gate,
    /// Where it says whether it leads.
    pub metrics: Arc<Metrics>,
    /// Where it says that the election goes on.
    pub health: Health,
}

impl Elector {
    /// Waits until this process leads; the gate is open then. None when `token` was cancelled before.
    pub async fn elected(&self, token: &CancellationToken) -> Option<()> {
        let mut seen = Seen::default();
        loop {
            self.health.alive();
            match self.attempt(&mut seen).await {
                Ok(true) => {
                    self.health.leads();
                    self.metrics.leads(true);
                    tracing::info!(lease = %self.name, identity = %self.identity, "this process leads");
                    return Some(());
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, lease = %self.name, "the lease cannot be read or taken; it is tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry) => {}
                () = token.cancelled() => return None,
            }
        }
    }

    /// Keeps the lease. Returns when it is lost, or when `token` was cancelled.
    ///
    /// # Errors
    /// When it is lost: nothing may be written any more, and the gate is shut.
    pub async fn keep(&self, token: &CancellationToken) -> Result<(), Lost> {
        let mut seen = Seen::default();
        let mut why = "it was not renewed".to_owned();
        loop {
            let left = self.gate.left(Instant::now());
            tokio::select! {
                () = tokio::time::sleep(self.timing.retry.min(left)) => {}
                () = token.cancelled() => return Ok(()),
            }
            // A process that was frozen wakes here, and does not ask for what may be another's.
            if self.gate.left(Instant::now()).is_zero() {
                return Err(self.lost(why));
            }
            self.health.alive();
            match self.attempt(&mut seen).await {
                Ok(true) => {}
                Ok(false) => return Err(self.lost("another process holds it".to_owned())),
                Err(error) => {
                    why = error.to_string();
                    tracing::warn!(%error, lease = %self.name, "the lease could not be renewed; it is tried again");
                }
            }
        }
    }

    /// Gives the lease back, so that another need not wait for its end. Nothing may be written afterwards.
    pub async fn release(&self) {
        self.gate.shut();
        self.metrics.leads(false);
        let give_back = async {
            let mut lease = self.leases.get(&self.name).await?;
            let Some(spec) = lease
                .spec
                .as_mut()
                .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
            else {
                return Ok(());
            };
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            self.leases
                .replace(&self.name, &PostParams::default(), &lease)
                .await
                .map(drop)
        };
        match timeout(self.timing.retry, give_back).await {
            Ok(Ok(())) => tracing::info!(lease = %self.name, "the lease was given back"),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = %self.name, "the lease could not be given back; it runs out");
            }
            Err(_) => tracing::warn!(lease = %self.name, "the lease could not be given back in time; it runs out"),
        }
    }

    fn lost(&self, why: String) -> Lost {
        self.gate.shut();
        self.metrics.leads(false);
        Lost {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            why,
        }
    }

    /// Reads the lease and takes or renews it if it may. Whether this process leads.
    async fn attempt(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let asked = Instant::now();
        // An attempt that takes longer than the deadline would prove nothing.
        let leads = match timeout(self.timing.renew_deadline.min(ATTEMPT), self.step(seen, asked)).await {
            Ok(result) => result?,
            Err(_) => return Err(kube::Error::Service("the API server did not answer in time".into())),
        };
        self.health.answered();
        Ok(leads)
    }

    async fn step(&self, seen: &mut Seen, asked: Instant) -> Result<bool, kube::Error> {
        let lease = self.leases.get_opt(&self.name).await?;
        let record = lease.as_ref().map(record).unwrap_or_default();
        seen.update(&record, Instant::now());
        let step = decide(&record, &self.identity, seen.unchanged_for(Instant::now()));
        if step == Step::Wait {
            return Ok(false);
        }
        let fresh = self.fresh(lease, &record, step);
        let written = match &fresh.metadata.resource_version {
            None => self.leases.create(&PostParams::default(), &fresh).await,
            // With its resource version: if somebody was faster, this fails.
            Some(_) => self.leases.replace(&self.name, &PostParams::default(), &fresh).await,
        };
        match written {
            Ok(_) => {
                self.gate.open_until(asked + self.timing.renew_deadline);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 && step == Step::Take => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fresh(&self, lease: Option<Lease>, record: &Record, step: Step) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = lease.unwrap_or_default();
        lease.metadata.name = Some(self.name.clone());
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(i32::try_from(self.timing.lease.as_secs()).unwrap_or(i32::MAX));
        if step == Step::Take {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(record.transitions.saturating_add(1));
        }
        spec.renew_time = Some(now);
        lease
    }
}

/// Longest that one attempt may take, so that there is a second one before the deadline.
const ATTEMPT: Duration = Duration::from_secs(4);

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(
            spec.lease_duration_seconds
                .and_then(|s| u64::try_from(s).ok())
                .unwrap_or(0),
        ),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}
