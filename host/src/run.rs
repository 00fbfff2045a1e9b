//! A host replica from its start to its end.
//!
//! ```text
//! Listeners::bind --> run: ledger, relay | rehearsal, server, admin endpoint --> ready
//!                       reloads while it runs
//!     token cancelled: not ready --> accept no more --> requests in flight finish --> ledger written --> admin ends
//! ```

mod rehearsal;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, ConfigStatus, LedgerView, ReloadResult, Source};
use crate::admission::{Admission, Rules};
use crate::config::{HostConfig, LOOK_EVERY, Look, ReadError, RelayConfig, WatchedFile};
use crate::keyfile::KeyFileError;
use crate::ledger::{self, BatchLimits, Millis, ObservationQueue, Opened, QueueLimits};
use crate::metrics::Metrics;
use crate::rehearsal::management::{self, ManagementError};
use crate::rehearsal::{RehearsalHost, SiteKey};
use crate::relay::{self, Guide, Relay};
use crate::routing::{self, RoutingConfig, Snapshot, View};
use crate::rpc::Offer;
use crate::serve::{self, Drained, ListenError, Patience, Server, Service};
use rehearsal::{Rehearsal, watch_ledger};

/// How often sources whose rate is restored are forgotten.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// How long the ledger may take to be written and the admin endpoint to finish, once the last client is gone.
const ENDED_WITHIN: Duration = Duration::from_secs(8);

/// The sockets of a replica, bound before it runs: whoever starts it knows its addresses.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub clients: Vec<TcpListener>,
    /// For the admin endpoint.
    pub admin: TcpListener,
    /// For WS-Management of a rehearsal host, where configured.
    pub management: Option<TcpListener>,
}

impl Listeners {
    /// Binds the configured addresses. Must be called within the runtime.
    ///
    /// # Errors
    /// The first address that cannot be listened on.
    pub fn bind(config: &HostConfig) -> Result<Self, ListenError> {
        // With an IPv4 address beside it, an IPv6 wildcard must leave IPv4 alone.
        let v6_only = config.listen.iter().any(SocketAddr::is_ipv4);
        let clients = config
            .listen
            .iter()
            .map(|address| serve::listen(*address, v6_only))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            clients,
            admin: serve::listen(config.admin.listen, false)?,
            management: config
                .rehearsal
                .as_ref()
                .and_then(|rehearsal| rehearsal.management.as_ref())
                .map(|management| serve::listen(management.listen, false))
                .transpose()?,
        })
    }
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration was made without [`crate::config::load`] and breaks its rules.
    #[error("the configuration was not checked: read it with `config::load`")]
    NotChecked,
    /// The ledger cannot be opened.
    #[error("cannot open the ledger")]
    Ledger(#[from] ledger::OpenError),
    /// The site key cannot be read.
    #[error("cannot read the site key")]
    SiteKey(#[from] KeyFileError),
    /// The rehearsal host's management cannot be served.
    #[error("cannot serve the rehearsal host's management")]
    Management(#[from] ManagementError),
    /// Signals cannot be waited for.
    #[error("cannot wait for SIGHUP")]
    Signals(#[source] std::io::Error),
}

/// Runs a replica until `token` is cancelled and its clients are served.
///
/// `file` is the file that `config` came from; its changes are taken over while the replica runs.
///
/// # Errors
/// What is missing to start.
pub async fn run(
    config: HostConfig,
    file: Option<WatchedFile>,
    listeners: Listeners,
    token: CancellationToken,
) -> Result<Drained, RunError> {
    let opened = ledger::open(&config.ledger)?;
    run_on(config, opened, file, listeners, token).await
}

/// The same on a ledger that is already open: replicas in one process may share one in memory.
///
/// # Errors
/// What is missing to start.
pub async fn run_on(
    config: HostConfig,
    opened: Opened,
    file: Option<WatchedFile>,
    listeners: Listeners,
    token: CancellationToken,
) -> Result<Drained, RunError> {
    // Before anybody can see that clients are served: until it is heard, a SIGHUP ends the process.
    let hangups = signal(SignalKind::hangup()).map_err(RunError::Signals)?;
    let replica = Replica::start(config, opened, listeners, &token)?;
    let reloads = replica.reloads(file, hangups);
    tokio::select! {
        () = token.cancelled() => {}
        () = reloads => {}
    }
    Ok(replica.stop().await)
}

struct Replica {
    config: Arc<Mutex<HostConfig>>,
    source: Arc<Source>,
    server: Arc<Server>,
    /// Ends what runs beside the connections, once those have ended.
    beside: CancellationToken,
    tasks: TaskTracker,
}

impl Replica {
    fn start(
        config: HostConfig,
        opened: Opened,
        listeners: Listeners,
        token: &CancellationToken,
    ) -> Result<Self, RunError> {
        let rehearsal = match &config.rehearsal {
            None => None,
            Some(rehearsal) => {
                let key = SiteKey::read(&rehearsal.site_key_file)?;
                let config = rehearsal.validate().map_err(|_| RunError::NotChecked)?;
                Some(RehearsalHost::start(
                    config,
                    key,
                    opened.clone(),
                    BatchLimits::default(),
                ))
            }
        };
        let metrics = Arc::new(Metrics::with(|registry| {
            if let Some(rehearsal) = &rehearsal {
                rehearsal.metrics().register(registry);
            }
        }));
        metrics.config_generation.set(1);
        metrics.config_good.set(1);
        let admission = Arc::new(Admission::new(Rules::new(&config.clients)));
        let (tasks, beside) = (TaskTracker::new(), CancellationToken::new());
        let (relay, queue) = match &config.relay {
            Some(section) => {
                let (relay, queue) = relaying(section, &config.routing, &opened, &metrics, &tasks, &beside);
                (Some(relay), Some(queue))
            }
            None => (None, None),
        };
        let section = config
            .rehearsal
            .as_ref()
            .and_then(|rehearsal| rehearsal.management.as_ref());
        if let Some(rehearsal) = &rehearsal {
            let watching = watch_ledger(Arc::clone(&opened.ledger), rehearsal.metrics().clone());
            tasks.spawn(beside.clone().run_until_cancelled_owned(watching));
        }
        let managed = rehearsal.as_ref().and_then(RehearsalHost::management);
        if let (Some(section), Some(managed), Some(listener)) = (section, managed, listeners.management) {
            tasks.spawn(management::serve(
                section,
                Arc::clone(managed),
                listener,
                beside.clone(),
            )?);
        }
        let service: Arc<dyn Service> = match (relay.clone(), rehearsal) {
            (Some(relay), None) => relay,
            (None, Some(rehearsal)) => Arc::new(Rehearsal(rehearsal)),
            _ => return Err(RunError::NotChecked),
        };
        let server = Arc::new(Server::new(
            service,
            Arc::clone(&admission),
            Arc::clone(&metrics),
            offer(&config),
            Patience::new(&config.clients),
            token.child_token(),
        ));
        let source = Arc::new(Source {
            name: config.name.clone(),
            started: Instant::now(),
            metrics,
            admission: Arc::clone(&admission),
            relay: relay.clone(),
            ledger: LedgerView::new(opened.ledger),
            queue,
            config: Mutex::new(ConfigStatus {
                generation: 1,
                last_reload: None,
                needs_restart: Vec::new(),
            }),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        });
        tasks.spawn(admin::serve(listeners.admin, Arc::clone(&source), beside.clone()));
        if let Some(relay) = relay {
            tasks.spawn(relay::upkeep(relay, beside.clone()));
        }
        tasks.spawn(beside.clone().run_until_cancelled_owned(trim(admission)));
        for listener in listeners.clients {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(server.addr = %address, "serving clients");
            }
            tasks.spawn(serve::accept(listener, Arc::clone(&server)));
        }
        source.ready.store(true, Ordering::Relaxed);
        Ok(Self {
            config: Arc::new(Mutex::new(config)),
            source,
            server,
            beside,
            tasks,
        })
    }

    /// Takes over changes of the file for as long as it is polled. Without a file it does nothing.
    async fn reloads(&self, file: Option<WatchedFile>, mut hangups: Signal) {
        let Some(mut file) = file else {
            return std::future::pending().await;
        };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            let asked = tokio::select! {
                _ = looks.tick() => false,
                _ = hangups.recv() => true,
            };
            match file.look() {
                Look::Same if asked => self.unchanged(file.file()),
                Look::Same => {}
                Look::Good(new) => self.apply(*new),
                Look::Bad(error) => self.refuse(&error),
            }
        }
    }

    fn apply(&self, new: HostConfig) {
        let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let needs_restart = config.needs_restart(&new);
        let used = config.taking_over(new);
        self.source.admission.replace(Rules::new(&used.clients));
        if let (Some(relay), Some(section)) = (&self.source.relay, &used.relay) {
            relay.replace(section, &used.routing);
        }
        self.server.replace(offer(&used), Patience::new(&used.clients));
        *config = used;
        drop(config);
        self.source.metrics.reloaded(true);
        let generation = self.source.metrics.config_generation.inc() + 1;
        if needs_restart.is_empty() {
            tracing::info!(generation, "changed configuration in use");
        } else {
            let fields = needs_restart.join(", ");
            tracing::warn!(
                generation,
                fields,
                "changed configuration in use, but some fields wait for a restart"
            );
        }
        let mut status = self.source.config.lock().unwrap_or_else(PoisonError::into_inner);
        status.generation += 1;
        status.needs_restart = needs_restart.into_iter().map(str::to_owned).collect();
        status.last_reload = Some(self.result(None));
    }

    /// Answers who asked for a look at the file that brought nothing new.
    fn unchanged(&self, file: &Path) {
        let file = file.display();
        if self.source.metrics.config_good.get() == 1 {
            tracing::info!(%file, "configuration file is unchanged");
        } else {
            tracing::warn!(%file, "configuration file is unchanged and still refused");
        }
    }

    fn refuse(&self, error: &ReadError) {
        self.source.metrics.reloaded(false);
        let summary = match error {
            ReadError::Wrong(problems) => problems.summary(),
            ReadError::Unreadable { source, .. } => format!("{error}: {source}"),
        };
        tracing::error!(
            error = summary,
            "changed configuration refused; the one before stays in use"
        );
        let mut status = self.source.config.lock().unwrap_or_else(PoisonError::into_inner);
        status.last_reload = Some(self.result(Some(summary)));
    }

    fn result(&self, error: Option<String>) -> ReloadResult {
        ReloadResult {
            uptime_seconds: self.source.started.elapsed().as_secs(),
            applied: error.is_none(),
            error,
        }
    }

    async fn stop(self) -> Drained {
        self.source.draining.store(true, Ordering::Relaxed);
        let grace = self
            .config
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain_grace_period
            .get();
        tracing::info!(
            seconds = grace.as_secs(),
            "draining: no new clients, requests in flight finish"
        );
        let drained = self.server.drained(grace).await;
        match drained {
            Drained::Finished => tracing::info!("drained: every request in flight has finished"),
            Drained::Cut(connections) => {
                tracing::warn!(connections, "the grace period ended first; connections were cut");
            }
        }
        self.beside.cancel();
        self.tasks.close();
        // What runs beside the connections ends by itself; someone who never finishes asking the admin endpoint is left.
        if tokio::time::timeout(ENDED_WITHIN, self.tasks.wait()).await.is_err() {
            tracing::warn!("some background work did not end in time");
        }
        drained
    }
}

fn offer(config: &HostConfig) -> Offer {
    config
        .relay
        .as_ref()
        .map_or_else(Offer::kms, |relay| relay.interface.offer())
}

/// A relay, and what runs beside it: the writer of its observations, and routing's view of the ledger.
fn relaying(
    section: &RelayConfig,
    routing: &RoutingConfig,
    opened: &Opened,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    beside: &CancellationToken,
) -> (Arc<Relay>, ObservationQueue) {
    let ledger = || Arc::clone(&opened.ledger);
    let (queue, writer) = ObservationQueue::start(ledger(), QueueLimits::default(), beside.clone());
    tasks.spawn(writer);
    let view = Arc::new(View::new(routing, &section.licensed_hosts, wall_clock()));
    let seen = {
        let metrics = Arc::clone(metrics);
        move |snapshot: &Snapshot| {
            let clients = i64::try_from(snapshot.fleet.distinct_clients).unwrap_or(i64::MAX);
            metrics.distinct_clients.set(clients);
        }
    };
    tasks.spawn(routing::refresh(
        Arc::clone(&view),
        ledger(),
        wall_clock,
        seen,
        beside.clone(),
    ));
    let guide = Guide {
        view,
        queue: queue.clone(),
        key: opened.key.clone(),
    };
    (Arc::new(Relay::new(section, guide, Arc::clone(metrics))), queue)
}

/// The wall clock, where the edge needs it.
fn wall_clock() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}

async fn trim(admission: Arc<Admission>) {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        admission.trim();
    }
}
