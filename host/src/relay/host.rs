//! One licensed host: its connections, its health and one attempt at a call.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout_at;

use super::health::{Eligibility, Failure, Health};
use super::patience::{Patience, Share};
use super::pool::Pool;
use super::reach;
use crate::config::{LicensedHostConfig, RelayConfig};
use crate::metrics::{CallResult, HostMetrics};
use crate::rpc::{
    Call, CallError, ConnectError, ConnectOptions, Connection, Misbehaviour, Proposal, Reply, TransferSyntax,
};
use crate::telemetry::{Quiet, chain};

/// How an attempt at one host ended.
#[derive(Debug)]
pub(super) enum Attempt {
    /// The host replied: this is the answer, whatever it says.
    Reply(Reply),
    /// The host did not answer; another may be asked.
    Failed,
}

/// A licensed host as the relay uses it. Lives on across reloads that do not change it.
#[derive(Debug)]
pub(super) struct LicensedHost {
    /// Its name, to be shared by what remembers it.
    pub(super) name: Arc<str>,
    pub(super) config: LicensedHostConfig,
    options: RelayConfig,
    pools: [Pool<Connection>; 2],
    room: Semaphore,
    metrics: HostMetrics,
    standing: Arc<Standing>,
}

/// What is known of a licensed host. Lives on across reloads that only change how the host is called: calls that are
/// still under way then report to the same.
#[derive(Debug, Default)]
struct Standing {
    health: Mutex<Health>,
    /// Whether `health` has anything to say; while it does not, calls do not look into it.
    troubled: AtomicBool,
    /// Moving average of the answers' latency in microseconds, for the status.
    latency_micros: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<(Instant, String)>>,
    quiet: Quiet,
}

/// A licensed host's state for the status.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LicensedHostStatus {
    /// Its name.
    pub name: String,
    /// Address and port as configured.
    pub address: String,
    /// `well`, `trial` or `ejected`.
    pub health: String,
    /// Failures in a row.
    pub failures: u32,
    /// Seconds until an ejected host is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ejected_for_seconds: Option<u64>,
    /// Moving average of its answers' latency, in milliseconds; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_millis: Option<f64>,
    /// Calls that it answered since the start.
    pub answered: u64,
    /// Calls and probes that failed since the start.
    pub failed: u64,
    /// Idle connections kept to it.
    pub idle_connections: usize,
    /// What went wrong last, and how many seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
}

impl LicensedHostStatus {
    /// Whether it does not answer: it is out of use, or has failed within `lately` and is to be tried.
    #[must_use]
    pub fn is_silent(&self, lately: Duration) -> bool {
        let failed = |failure: &LastFailure| Duration::from_secs(failure.seconds_ago) <= lately;
        match self.health.as_str() {
            "ejected" => true,
            "trial" => self.last_failure.as_ref().is_some_and(failed),
            _ => false,
        }
    }
}

/// What went wrong last.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// Seconds ago.
    pub seconds_ago: u64,
    /// The error.
    pub error: String,
}

impl LicensedHost {
    pub(super) fn new(config: LicensedHostConfig, options: &RelayConfig, metrics: HostMetrics) -> Self {
        metrics.up.set(1);
        Self::with(config, options, metrics, Arc::default())
    }

    fn with(config: LicensedHostConfig, options: &RelayConfig, metrics: HostMetrics, standing: Arc<Standing>) -> Self {
        Self {
            name: config.name.as_str().into(),
            config,
            pools: Default::default(),
            room: Semaphore::new(usize::try_from(options.pool.max_connections).unwrap_or(1)),
            options: options.clone(),
            metrics,
            standing,
        }
    }

    /// Whether a configuration means this host, so that what is known of it may be kept. Another interface is another
    /// service: what is known of the one says nothing of the other.
    pub(super) fn is_meant(&self, config: &LicensedHostConfig, options: &RelayConfig) -> bool {
        self.config.name == config.name
            && self.config.address == config.address
            && self.config.port == config.port
            && self.options.interface == options.interface
    }

    /// Whether the host is called as `options` say, so that its connections may be kept.
    pub(super) fn is_called_by(&self, options: &RelayConfig) -> bool {
        self.options.timeouts == options.timeouts
            && self.options.pool == options.pool
            && self.options.health == options.health
    }

    /// The same host, called as `options` say: without connections yet, but as well or ill as it is.
    pub(super) fn called_by(&self, config: LicensedHostConfig, options: &RelayConfig) -> Self {
        Self::with(config, options, self.metrics.clone(), Arc::clone(&self.standing))
    }

    /// Whether the host may be called now; takes the trial of an ejected one.
    pub(super) fn begin(&self, now: Instant) -> bool {
        !self.standing.troubled.load(Ordering::Relaxed) || self.health().begin(now)
    }

    /// Since when the host is ejected, if it is and not even a trial is due.
    pub(super) fn ejected_since(&self, now: Instant) -> Option<Instant> {
        if !self.standing.troubled.load(Ordering::Relaxed) {
            return None;
        }
        let health = self.health();
        match health.eligibility(now) {
            Eligibility::Ejected { .. } => health.ejected_since(),
            Eligibility::Well | Eligibility::Trial => None,
        }
    }

    /// Calls the host: on a connection that is kept, else on a new one. A kept connection that turns out to have been
    /// closed meanwhile is no failure of the host, so the call is made again on a new one.
    pub(super) async fn call(&self, call: &Call, patience: Patience) -> Attempt {
        let Some(_room) = self.room(patience).await else {
            return self.undecided(CallResult::Full, "all connections to it are in use");
        };
        let call_timeout = self.options.timeouts.call.get();
        let pool = self.pool(call.syntax);
        if let Some(connection) = std::iter::from_fn(|| pool.take()).find(Connection::is_usable) {
            let share = patience.share(call_timeout, Instant::now());
            match self.call_on(connection, call, share).await {
                Ok(reply) => return self.replied(reply),
                Err(error) => {
                    // What closed or silenced this one, as a restart or a firewall does, may have done so to the others.
                    pool.clear();
                    if !is_of_the_connection(&error) {
                        return self.unanswered(&error, share);
                    }
                }
            }
        }
        let share = patience.share(self.options.timeouts.connect.get(), Instant::now());
        let connection = match Box::pin(self.connect(call.syntax, share)).await {
            Ok(connection) => connection,
            Err(Unreached::InTime) if !share.full => {
                return self.undecided(CallResult::Connect, "too little of the client's time was left");
            }
            Err(error) => return self.failure(CallResult::Connect, &error.to_string()),
        };
        let share = patience.share(call_timeout, Instant::now());
        match self.call_on(connection, call, share).await {
            Ok(reply) => self.replied(reply),
            Err(error) => self.unanswered(&error, share),
        }
    }

    /// Room for one more connection; waited for no longer than for an answer.
    async fn room(&self, patience: Patience) -> Option<SemaphorePermit<'_>> {
        if let Ok(room) = self.room.try_acquire() {
            return Some(room);
        }
        let share = patience.share(self.options.timeouts.call.get(), Instant::now());
        timeout_at(share.until.into(), self.room.acquire()).await.ok()?.ok()
    }

    async fn call_on(&self, mut connection: Connection, call: &Call, share: Share) -> Result<Reply, CallError> {
        let reply = connection.forward(call, share.length()).await?;
        let now = Instant::now();
        self.took(now.saturating_duration_since(share.from));
        let most = usize::try_from(self.options.pool.max_connections).unwrap_or(1);
        self.pool(call.syntax).give_back(connection, now, most);
        Ok(reply)
    }

    fn unanswered(&self, error: &CallError, share: Share) -> Attempt {
        match error {
            CallError::Timeout(_) if !share.full => {
                self.undecided(CallResult::Timeout, "too little of the client's time was left")
            }
            CallError::Timeout(_) => self.failure(CallResult::Timeout, &chain(error)),
            _ => self.failure(CallResult::Broken, &chain(error)),
        }
    }

    /// Ends an attempt that our own limits ended: that says nothing of the host.
    fn undecided(&self, result: CallResult, why: &str) -> Attempt {
        self.metrics.called(result);
        tracing::debug!(
            server.name = self.config.name,
            why,
            "licensed host was not asked to the end"
        );
        if self.standing.troubled.load(Ordering::Relaxed) {
            self.health().undecided();
        }
        Attempt::Failed
    }

    fn replied(&self, reply: Reply) -> Attempt {
        if let Reply::Fault(status) = &reply {
            if status.is_of_the_server() {
                return self.failure(CallResult::Busy, &format!("it answered with the fault {status}"));
            }
            self.metrics.called(CallResult::Fault);
        } else {
            self.metrics.called(CallResult::Answered);
        }
        self.standing.answered.fetch_add(1, Ordering::Relaxed);
        if self.standing.troubled.load(Ordering::Relaxed) {
            self.readmit(Health::succeeded);
        }
        Attempt::Reply(reply)
    }

    /// Takes in a success; `readmits` says whether it ends an ejection.
    fn readmit(&self, readmits: impl FnOnce(&mut Health) -> bool) {
        let mut health = self.health();
        let readmitted = readmits(&mut health);
        if health.failures() == 0 {
            self.standing.troubled.store(false, Ordering::Relaxed);
            self.metrics.up.set(1);
        }
        drop(health);
        if readmitted {
            tracing::info!(
                server.name = self.config.name,
                "licensed host answers again and is back in use"
            );
        }
    }

    fn failure(&self, result: CallResult, error: &str) -> Attempt {
        self.metrics.called(result);
        let failure = if let CallResult::Connect = result {
            Failure::Reach
        } else {
            Failure::Answer
        };
        self.failed_now(failure, error, Instant::now());
        Attempt::Failed
    }

    fn failed_now(&self, failure: Failure, error: &str, now: Instant) {
        self.standing.failed.fetch_add(1, Ordering::Relaxed);
        *self
            .standing
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((now, error.to_owned()));
        let mut health = self.health();
        self.standing.troubled.store(true, Ordering::Relaxed);
        let ejected = health.failed(failure, now, &self.options.health);
        let failures = health.failures();
        drop(health);
        if let Some(until) = ejected {
            self.metrics.up.set(0);
            let seconds = until.saturating_duration_since(now).as_secs_f64();
            tracing::warn!(
                server.name = self.config.name,
                failures,
                seconds,
                error,
                "licensed host taken out of use"
            );
        } else if let Some(held_back) = self.standing.quiet.pass(now) {
            tracing::warn!(
                server.name = self.config.name,
                failures,
                held_back,
                error,
                "licensed host did not answer"
            );
        }
    }

    /// A new connection, bound with `syntax`. A DNS name is looked up each time.
    async fn connect(&self, syntax: TransferSyntax, share: Share) -> Result<Connection, Unreached> {
        let connecting = async {
            let target = (self.config.address.as_str(), self.config.port);
            let addresses = match self.config.address.parse() {
                Ok(ip) => vec![SocketAddr::new(ip, self.config.port)],
                Err(_) => tokio::net::lookup_host(target)
                    .await
                    .map_err(Unreached::LookedUp)?
                    .take(8)
                    .collect(),
            };
            let options = ConnectOptions {
                proposal: Proposal::one(self.options.interface.interface(), syntax),
                connect_timeout: share.length(),
                bind_timeout: share.length(),
                call_timeout: self.options.timeouts.call.get(),
                ..ConnectOptions::default()
            };
            reach::first(&addresses, |address| Connection::connect(address, &options))
                .await
                .map_err(|error| error.map_or(Unreached::NoAddress, |error| Unreached::told(syntax, &error)))
        };
        timeout_at(share.until.into(), connecting)
            .await
            .unwrap_or(Err(Unreached::InTime))
    }

    /// Connects and binds, which costs the host no count. The connection is kept if none is: the next request is faster.
    pub(super) async fn probe(&self) {
        let Some(&syntax) = self.options.interface.offer().syntaxes.first() else {
            return;
        };
        let (now, time) = (Instant::now(), self.options.timeouts.connect.get());
        let probed = self
            .connect(syntax, Patience::new(time, now + time).share(time, now))
            .await;
        let now = Instant::now();
        match probed {
            Ok(connection) => {
                let pool = self.pool(syntax);
                if pool.len() == 0 {
                    pool.give_back(connection, now, 1);
                }
                if self.standing.troubled.load(Ordering::Relaxed) {
                    self.readmit(Health::probed);
                }
            }
            Err(error) => self.failed_now(Failure::Reach, &error.to_string(), now),
        }
    }

    /// How often the host is probed; zero for never.
    pub(super) fn probe_interval(&self) -> Duration {
        self.options.health.probe_interval.get()
    }

    /// Closes connections that were not used for the configured time.
    pub(super) fn trim(&self, now: Instant) {
        for pool in &self.pools {
            pool.trim(now, self.options.pool.idle_timeout.get());
        }
    }

    pub(super) fn status(&self, now: Instant) -> LicensedHostStatus {
        let health = self.health().clone();
        let (name, ejected_for) = match health.eligibility(now) {
            Eligibility::Well => ("well", None),
            Eligibility::Trial => ("trial", Some(Duration::ZERO)),
            Eligibility::Ejected { until } => ("ejected", Some(until.saturating_duration_since(now))),
        };
        let latency = self.standing.latency_micros.load(Ordering::Relaxed);
        let last_failure = self
            .standing
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        LicensedHostStatus {
            name: self.config.name.clone(),
            address: format!("{}:{}", self.config.address, self.config.port),
            health: name.to_owned(),
            failures: health.failures(),
            ejected_for_seconds: ejected_for.map(|time| time.as_secs()),
            latency_millis: (latency > 0).then(|| Duration::from_micros(latency).as_secs_f64() * 1000.0),
            answered: self.standing.answered.load(Ordering::Relaxed),
            failed: self.standing.failed.load(Ordering::Relaxed),
            idle_connections: self.pools.iter().map(Pool::len).sum(),
            last_failure: last_failure.map(|(at, error)| LastFailure {
                seconds_ago: now.saturating_duration_since(at).as_secs(),
                error,
            }),
        }
    }

    fn took(&self, latency: Duration) {
        self.metrics.seconds.observe(latency.as_secs_f64());
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1);
        // An eighth of the difference each time; a lost update among several at once does not matter.
        let before = self.standing.latency_micros.load(Ordering::Relaxed);
        let after = if before == 0 {
            micros
        } else {
            before - before / 8 + micros / 8
        };
        self.standing.latency_micros.store(after.max(1), Ordering::Relaxed);
    }

    fn pool(&self, syntax: TransferSyntax) -> &Pool<Connection> {
        let [ndr, ndr64] = &self.pools;
        match syntax {
            TransferSyntax::Ndr => ndr,
            TransferSyntax::Ndr64 => ndr64,
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.standing.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no bound connection.
#[derive(Debug, thiserror::Error)]
enum Unreached {
    #[error("it did not connect and bind in time")]
    InTime,
    #[error("cannot look up its address: {0}")]
    LookedUp(std::io::Error),
    #[error("its name has no address")]
    NoAddress,
    #[error("{0}")]
    Told(String),
}

impl Unreached {
    /// What the host told, and what to do where that is ours to know.
    fn told(syntax: TransferSyntax, error: &ConnectError) -> Self {
        let mut text = chain(error);
        if syntax == TransferSyntax::Ndr64 && error.is_of_the_syntax() {
            text.push_str("; it does not speak NDR64: set relay.interface.syntaxes to [ndr]");
        }
        Self::Told(text)
    }
}

/// Whether a kept connection had ended before the call came to the host: closed, or about to be (C706 12.6.4.11, the
/// shutdown PDU).
fn is_of_the_connection(error: &CallError) -> bool {
    matches!(
        error,
        CallError::Broken(_) | CallError::Misbehaved(Misbehaviour::Shutdown)
    )
}
