//! The operator as a process: endpoint, election, watches, workers, and their end.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use kube::{Api, Client, Config};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::children::Children;
use super::hosts::Hosts;
use super::queue::Queue;
use super::upgrade::Turns;
use super::{Context, Parts, permissions, reconcile, watch};
use crate::client::{self, Gate};
use crate::endpoint::{self, Health};
use crate::leader::{Elector, Timing};
use crate::metrics::Metrics;
use crate::settings::Settings;

/// How the process runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What children depend on.
    pub settings: Settings,
    /// Where the endpoint listens.
    pub listen: SocketAddr,
    /// The election; none when this is the only process there will ever be.
    pub election: Option<Election>,
    /// Resources that are looked at at the same time.
    pub workers: usize,
    /// A resource is looked at no less often.
    pub resync: Duration,
    /// How often replicas are asked for their status.
    pub replicas_every: Duration,
    /// How long the end may take.
    pub grace: Duration,
    /// Directory for secrets with which ledgers are opened; best on a volume in memory.
    pub scratch: PathBuf,
    /// Name of this process: the pod's.
    pub instance: String,
}

/// Where and how the leader is elected.
#[derive(Debug, Clone)]
pub struct Election {
    /// Namespace of the lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Times.
    pub timing: Timing,
}

/// Runs until `token` is cancelled.
///
/// # Errors
/// When the endpoint cannot listen, the API server's address or account is not usable, or the lease was lost: then the
/// process must end at once.
pub async fn run(config: Config, options: Options, token: CancellationToken) -> anyhow::Result<()> {
    let (metrics, health) = (Arc::new(Metrics::default()), Health::default());
    let (hosts, children, queue) = (
        Arc::new(Hosts::default()),
        Arc::new(Children::default()),
        Queue::default(),
    );
    let turns = Arc::new(Turns::new(usize::from(options.settings.upgrade_at_once)));
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {} for probes and metrics", options.listen))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "the endpoint listens");
    let encode: endpoint::Encode = {
        let (metrics, hosts, children, queue, turns) = (
            Arc::clone(&metrics),
            Arc::clone(&hosts),
            Arc::clone(&children),
            queue.clone(),
            Arc::clone(&turns),
        );
        // One at a time: what is shown of resources is put together anew each time.
        let one = Mutex::new(());
        Arc::new(move || {
            let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
            for (condition, status, count) in hosts.conditions() {
                metrics.condition(condition, status, count);
            }
            metrics.unwell(hosts.unwell());
            metrics.keep_older_images(turns.waiting());
            metrics.encode(queue.depth(), hosts.len(), children.len())
        })
    };
    // Not a child of `token`: probes and metrics are answered until the work has ended.
    let serving = CancellationToken::new();
    tokio::spawn(endpoint::serve(listener, health.clone(), encode, serving.clone()));
    let _until_the_end = serving.drop_guard();
    // It asks what this process may do, which changes nothing: it may ask before it leads.
    let asking = client::connect(&config, Gate::open(), Arc::clone(&metrics))
        .context("the API server cannot be reached as configured")?;
    tokio::spawn(permissions::watch(
        asking.clone(),
        options.settings.watch_namespaces.clone(),
        options.election.as_ref().map(|election| election.namespace.clone()),
        Arc::clone(&metrics),
    ));

    let gate = if options.election.is_some() {
        Gate::default()
    } else {
        Gate::open()
    };
    let elector = match &options.election {
        None => None,
        // The lease is what opens the gate: its own client has none.
        Some(election) => Some(elector(asking, election, &options, &gate, &metrics, &health)?),
    };
    if let Some(elector) = &elector {
        if elector.elected(&token).await.is_none() {
            return Ok(());
        }
    } else {
        health.leads();
        metrics.leads(true);
    }

    let client = client::connect(&config, gate.clone(), Arc::clone(&metrics))
        .context("the API server cannot be reached as configured")?;
    let context = Arc::new(Context::new(Parts {
        client,
        settings: options.settings.clone(),
        hosts,
        children,
        queue,
        turns,
        metrics: Arc::clone(&metrics),
        health: health.clone(),
        instance: options.instance.clone(),
        resync: options.resync,
        replicas_every: options.replicas_every,
        scratch: options.scratch.clone(),
        gate,
    }));
    let work = work(Arc::clone(&context), options.workers, token.clone(), options.grace);
    let kept = async {
        match &elector {
            Some(elector) => elector.keep(&token).await,
            None => loop {
                health.alive();
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(10)) => {}
                    () = token.cancelled() => return Ok(()),
                }
            },
        }
    };
    let working = tokio::spawn(work);
    tokio::select! {
        kept = kept => match kept {
            // The token was cancelled: what is at work ends within its grace.
            Ok(()) => {}
            Err(lost) => bail!(lost),
        },
        () = never() => {}
    }
    let begin = Instant::now();
    let in_time = timeout(options.grace, working).await.is_ok();
    tracing::info!(in_time, took = ?begin.elapsed(), "the work has ended");
    if let Some(elector) = &elector {
        elector.release().await;
    }
    Ok(())
}

async fn never() {
    std::future::pending::<()>().await;
}

fn elector(
    client: Client,
    election: &Election,
    options: &Options,
    gate: &Gate,
    metrics: &Arc<Metrics>,
    health: &Health,
) -> anyhow::Result<Elector> {
    if !election.timing.is_safe() {
        bail!(
            "the election's times are not safe: the renew deadline and {} s more must be shorter than the lease, and two retries must fit into it",
            client::UNACKNOWLEDGED.as_secs()
        );
    }
    Ok(Elector {
        leases: Api::namespaced(client, &election.namespace),
        namespace: election.namespace.clone(),
        name: election.name.clone(),
        identity: format!("{}_{}", options.instance, uuid::Uuid::new_v4()),
        timing: election.timing,
        gate: gate.clone(),
        metrics: Arc::clone(metrics),
        health: health.clone(),
    })
}

/// Watches and workers, until `token` is cancelled and what is at work has ended.
async fn work(context: Arc<Context>, workers: usize, token: CancellationToken, grace: Duration) {
    let watching = tokio::spawn(watch::watch(Arc::clone(&context)));
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(worker(Arc::clone(&context), token.clone()));
    }
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = async { token.cancelled().await; tokio::time::sleep(grace).await } => {}
    }
    // Watches only read, and have nothing to finish.
    watching.abort();
}

async fn worker(context: Arc<Context>, token: CancellationToken) {
    loop {
        let key = tokio::select! {
            biased;
            () = token.cancelled() => return,
            key = context.queue.next() => key,
        };
        context.metrics.worker(true);
        let begin = Instant::now();
        let span = tracing::info_span!(
            "reconcile",
            object.r#ref = %key,
            controller.name = "officekmshost",
            result = tracing::field::Empty
        );
        let (next, result) = reconcile(&context, &key).instrument(span.clone()).await;
        span.record("result", result);
        context.queue.done(&key, next, rand::random());
        context.metrics.reconciled(result, begin.elapsed());
        context.metrics.worker(false);
    }
}
