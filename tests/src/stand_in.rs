//! A stand-in for a licensed host that does as the test tells it, on our own RPC server.
//!
//! For what a real server cannot be made to do at will: die before its answer, hang, be too busy.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;
use kms_host::admission::{Admission, Rules};
use kms_host::config::ClientsConfig;
use kms_host::metrics::Metrics;
use kms_host::rpc::{Answer, Call, FaultStatus, Offer};
use kms_host::serve::{self, Client, Outcome, Patience, Server, Service};
use tokio_util::sync::CancellationToken;

/// What the stand-in does with a call.
#[derive(Debug, Clone)]
pub enum Does {
    /// Answers with this stub.
    Answers(Vec<u8>),
    /// Answers with a fault.
    Faults(FaultStatus),
    /// Closes the connection without an answer.
    Closes,
    /// Does not answer.
    Hangs,
    /// Answers with this stub after a time.
    AnswersAfter(Duration, Vec<u8>),
}

/// A running stand-in. Dropped, it accepts no more.
pub struct StandIn {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
    metrics: Arc<Metrics>,
    token: CancellationToken,
}

struct State {
    does: Mutex<Does>,
    calls: Mutex<Vec<Call>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl StandIn {
    /// Starts a stand-in that does `does`.
    pub fn start(does: Does) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), does)
    }

    /// Starts a stand-in on a port, such as that of one that was dropped.
    pub fn start_at(address: SocketAddr, does: Does) -> Result<Self> {
        Self::start_offering(Offer::kms(), address, does)
    }

    /// Starts a stand-in that offers clients something else than a KMS host.
    pub fn start_offering(offer: Offer, address: SocketAddr, does: Does) -> Result<Self> {
        let listener = serve::listen(address, false)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            does: Mutex::new(does),
            calls: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let token = CancellationToken::new();
        let (clients, metrics) = (ClientsConfig::default(), Arc::new(Metrics::new()));
        let server = Server::new(
            Arc::clone(&state) as Arc<dyn Service>,
            Arc::new(Admission::new(Rules::new(&clients))),
            Arc::clone(&metrics),
            offer,
            Patience::new(&clients),
            token.clone(),
        );
        tokio::spawn(serve::accept(listener, Arc::new(server)));
        Ok(Self {
            address,
            state,
            metrics,
            token,
        })
    }

    /// What it does from now on.
    pub fn now(&self, does: Does) {
        *self.state.does.lock().unwrap_or_else(PoisonError::into_inner) = does;
    }

    /// The calls that it got.
    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many of them ran at one time at most.
    pub fn most_at_once(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> u64 {
        self.metrics.connections.get()
    }

    /// A `licensedHosts` item of a configuration.
    pub fn item(&self, name: &str) -> String {
        item(name, self.address)
    }
}

/// A `licensedHosts` item of a configuration.
pub fn item(name: &str, address: SocketAddr) -> String {
    format!("{{name: {name}, address: {}, port: {}}}", address.ip(), address.port())
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl Service for State {
    fn call<'a>(&'a self, call: &'a Call, client: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(call.clone());
            let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(running, Ordering::SeqCst);
            let does = self.does.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let outcome = match does {
                Does::Answers(stub) => Outcome::Answer(Answer::Stub(stub.into())),
                Does::Faults(status) => Outcome::Answer(Answer::Fault(status)),
                Does::Closes => Outcome::Close,
                Does::Hangs => {
                    tokio::time::sleep_until(client.deadline.into()).await;
                    Outcome::Close
                }
                Does::AnswersAfter(time, stub) => {
                    tokio::time::sleep(time).await;
                    Outcome::Answer(Answer::Stub(stub.into()))
                }
            };
            self.running.fetch_sub(1, Ordering::SeqCst);
            outcome
        })
    }
}
