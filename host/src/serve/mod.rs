//! Serving clients: accepts connections, keeps their time-outs and limits, and hands whole calls to a [`Service`].
//!
//! ```text
//! accept --> admission --> [PROXY header] --> rpc::Association <--> Service (relay | rehearsal)
//! ```
//!
//! A connection costs one task. It owns no buffer while it waits, one timer at most, and no lock: ten thousand idle
//! connections are a few tens of megabytes. On drain nothing more is accepted, idle connections are closed, requests in
//! flight finish.

mod accept;
mod connection;
mod listen;
mod proxy;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accept::accept;
pub use listen::{ListenError, listen, raise_open_files};
pub use proxy::{MAX_HEADER, Preface, preface};

use crate::admission::{Admission, Refusal};
use crate::config::ClientsConfig;
use crate::metrics::Metrics;
use crate::rpc::{Answer, Call, Offer};
use crate::telemetry::Quiet;

/// Who asks, and until when an answer is of use.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The client's address; behind a load balancer, the one that its PROXY header names.
    pub address: IpAddr,
    /// The source that the address is of: what limits and routing take for one client.
    pub source: IpAddr,
    /// When the client's request times out.
    pub deadline: Instant,
    /// How long the request may take in all. A client that sends it slowly has less than this left when it is whole.
    pub time: Duration,
}

/// What a client gets.
#[derive(Debug)]
pub enum Outcome {
    /// A response or a fault.
    Answer(Answer),
    /// The connection is closed without an answer.
    Close,
}

/// What answers calls: the relay or the rehearsal host.
pub trait Service: Send + Sync + 'static {
    /// Answers one call. Must end by `client.deadline`.
    fn call<'a>(&'a self, call: &'a Call, client: Client) -> BoxFuture<'a, Outcome>;
}

/// How long a drain waits for a client that has connected but not yet asked.
const LAST_CALL: Duration = Duration::from_secs(2);

/// Time-outs and sizes of connections that are accepted from now on.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    handshake: Duration,
    idle: Duration,
    request: Duration,
    proxy_header: Duration,
    max_request_bytes: u32,
}

impl Patience {
    /// As configured.
    pub fn new(clients: &ClientsConfig) -> Self {
        let limits = &clients.limits;
        let handshake = limits.handshake_timeout.get();
        Self {
            handshake,
            idle: limits.idle_timeout.get(),
            request: limits.request_timeout.get(),
            proxy_header: clients
                .proxy_protocol
                .as_ref()
                .map_or(handshake, |proxy| proxy.header_timeout.get()),
            max_request_bytes: limits.max_request_bytes,
        }
    }
}

/// What all connections share.
pub struct Server {
    service: Arc<dyn Service>,
    admission: Arc<Admission>,
    metrics: Arc<Metrics>,
    offer: ArcSwap<Offer>,
    patience: ArcSwap<Patience>,
    groups: AtomicU32,
    connections: TaskTracker,
    drain: CancellationToken,
    cut: CancellationToken,
    quiet: [Quiet; Refusal::ALL.len()],
    accept_quiet: Quiet,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("open", &self.admission.open())
            .finish_non_exhaustive()
    }
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Finished,
    /// The grace period ended first; so many connections were cut.
    Cut(usize),
}

impl Server {
    /// A server that accepts nothing yet. `drain` ends it; see [`Server::drained`].
    pub fn new(
        service: Arc<dyn Service>,
        admission: Arc<Admission>,
        metrics: Arc<Metrics>,
        offer: Offer,
        patience: Patience,
        drain: CancellationToken,
    ) -> Self {
        Self {
            service,
            admission,
            metrics,
            offer: ArcSwap::from_pointee(offer),
            patience: ArcSwap::from_pointee(patience),
            groups: AtomicU32::new(1),
            connections: TaskTracker::new(),
            drain,
            cut: CancellationToken::new(),
            quiet: std::array::from_fn(|_| Quiet::default()),
            accept_quiet: Quiet::default(),
        }
    }

    /// Takes over changed time-outs and what is offered, for connections accepted from now on.
    pub fn replace(&self, offer: Offer, patience: Patience) {
        self.offer.store(Arc::new(offer));
        self.patience.store(Arc::new(patience));
    }

    /// Waits until all connections have ended, at most `grace`; then cuts those that are left. Call it after the token
    /// given to [`Server::new`] was cancelled.
    pub async fn drained(&self, grace: Duration) -> Drained {
        self.connections.close();
        if tokio::time::timeout(grace, self.connections.wait()).await.is_ok() {
            return Drained::Finished;
        }
        let left = self.connections.len();
        self.cut.cancel();
        self.connections.wait().await;
        Drained::Cut(left)
    }

    /// Counts a refusal and, not more than every ten seconds for each reason, logs it.
    fn refused(&self, refusal: Refusal, source: IpAddr, detail: Option<&dyn std::error::Error>) {
        self.metrics.refused(refusal);
        let Some(held_back) = self
            .quiet
            .get(refusal.index())
            .and_then(|quiet| quiet.pass(Instant::now()))
        else {
            return;
        };
        tracing::warn!(
            client.addr = %source,
            reason = refusal.label(),
            error = detail.map(tracing::field::display),
            held_back,
            "client refused: {}",
            refusal.explanation(),
        );
    }

    /// An association group identifier, never 0 (C706 12.6.3.1, assoc_group_id).
    fn next_group(&self) -> std::num::NonZeroU32 {
        let group = self.groups.fetch_add(1, Ordering::Relaxed);
        std::num::NonZeroU32::new(group).unwrap_or(std::num::NonZeroU32::MIN)
    }
}
