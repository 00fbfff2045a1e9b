//! The client of the API server, and the gate in front of it.
//!
//! Nothing is written by a process that may no longer lead: every request that changes something passes a [`Gate`], which
//! is open only as long as the lease is surely ours. A process that was frozen finds it shut when it wakes. What was
//! written into a connection that is cut is given up by the kernel after [`UNACKNOWLEDGED`], so that it cannot arrive when
//! the lease may be another's. What is written elsewhere, in DNS and on licensed hosts, passes the same gate.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, poll_fn};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, Layer, Service, ServiceBuilder};

use crate::metrics::Metrics;

/// How long the kernel keeps what the API server does not acknowledge.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
/// For a connection to come about.
const CONNECT: Duration = Duration::from_secs(4);
/// For the answer to a request that is no watch.
const ANSWER: Duration = Duration::from_secs(20);

/// Lets writes pass until a moment that moves on with each renewal of the lease. Clones are the same gate.
#[derive(Debug, Clone)]
pub struct Gate {
    start: Instant,
    /// Milliseconds after `start` until which it is open.
    until: Arc<AtomicU64>,
}

impl Default for Gate {
    /// A gate that is shut.
    fn default() -> Self {
        Self {
            start: Instant::now(),
            until: Arc::default(),
        }
    }
}

impl Gate {
    /// A gate that is never shut: for processes that need not lead.
    #[must_use]
    pub fn open() -> Self {
        let gate = Self::default();
        gate.until.store(u64::MAX, Ordering::SeqCst);
        gate
    }

    /// Open until `moment` and not longer.
    pub fn open_until(&self, moment: Instant) {
        let millis = moment.saturating_duration_since(self.start).as_millis();
        self.until
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Shuts it for good or until [`Gate::open_until`].
    pub fn shut(&self) {
        self.until.store(0, Ordering::SeqCst);
    }

    /// How long it is open from `now` on.
    #[must_use]
    pub fn left(&self, now: Instant) -> Duration {
        let until = self.until.load(Ordering::SeqCst);
        let passed = now.saturating_duration_since(self.start).as_millis();
        Duration::from_millis(until.saturating_sub(u64::try_from(passed).unwrap_or(u64::MAX)))
    }

    /// Carries out `write` as long as it is open, which each renewal of the lease prolongs. It is asked before each step of
    /// the write, so that a process that wakes in the middle of one does not go on with it.
    ///
    /// # Errors
    /// When it is shut, or is shut before the write is done.
    pub async fn through<T>(&self, write: impl Future<Output = T>) -> Result<T, NotLeading> {
        let mut write = pin!(write);
        let mut step = async || {
            poll_fn(|context| match self.left(Instant::now()).is_zero() {
                true => Poll::Ready(Err(NotLeading)),
                false => write.as_mut().poll(context).map(Ok),
            })
            .await
        };
        loop {
            match tokio::time::timeout(self.left(Instant::now()), step()).await {
                Ok(done) => return done,
                // It may have been renewed meanwhile; if not, the next step says so.
                Err(_) => continue,
            }
        }
    }
}

/// A write that was held back.
#[derive(Debug, thiserror::Error)]
#[error("this process does not lead any more: nothing is written")]
pub struct NotLeading;

/// An answer that did not come.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
pub struct NoAnswer(Duration);

/// A client whose writes pass `gate`. It does not try again by itself: each caller has its own back-off.
///
/// # Errors
/// When the configuration has no usable address, certificates or account.
pub fn connect(config: &Config, gate: Gate, metrics: Arc<Metrics>) -> Result<Client, kube::Error> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(Duration::from_secs(15)));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(Guarded { gate, metrics })
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace.clone()).build())
}

#[derive(Debug, Clone)]
struct Guarded {
    gate: Gate,
    metrics: Arc<Metrics>,
}

impl<S> Layer<S> for Guarded {
    type Service = GuardedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        GuardedService {
            guarded: self.clone(),
            inner,
        }
    }
}

#[derive(Debug, Clone)]
struct GuardedService<S> {
    guarded: Guarded,
    inner: S,
}

impl<S, B> Service<http::Request<Body>> for GuardedService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = http::Response<B>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let metrics = Arc::clone(&self.guarded.metrics);
        let reads = request.method() == http::Method::GET;
        let watches = reads
            && request
                .uri()
                .query()
                .is_some_and(|query| query.split('&').any(|part| part == "watch=true"));
        let verb = match *request.method() {
            _ if watches => "watch",
            http::Method::GET => "get",
            http::Method::POST => "create",
            http::Method::PATCH => "patch",
            http::Method::PUT => "update",
            http::Method::DELETE => "delete",
            _ => "other",
        };
        let gate = self.guarded.gate.clone();
        if !reads && gate.left(Instant::now()).is_zero() {
            metrics.requested(verb, "held_back");
            return Box::pin(async { Err(NotLeading.into()) });
        }
        let answer = tokio::time::timeout(ANSWER, self.inner.call(request));
        Box::pin(async move {
            let answer = match reads {
                true => answer.await,
                false => match gate.through(answer).await {
                    Ok(answer) => answer,
                    Err(shut) => Ok(Err(shut.into())),
                },
            };
            let answer = answer.unwrap_or_else(|_| Err(NoAnswer(ANSWER).into()));
            match &answer {
                Ok(answer) => metrics.requested(verb, answer.status().as_str()),
                Err(_) => metrics.requested(verb, "error"),
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_shut_at_first_and_after_its_moment() {
        let gate = Gate::default();
        let now = Instant::now();
        assert_eq!(gate.left(now), Duration::ZERO);
        gate.open_until(now + Duration::from_secs(10));
        assert!(gate.left(now) > Duration::from_secs(9));
        assert_eq!(gate.left(now + Duration::from_secs(10)), Duration::ZERO);
        gate.shut();
        assert_eq!(gate.left(now), Duration::ZERO);
        assert!(Gate::open().left(now) > Duration::from_secs(1 << 40));
    }

    #[tokio::test]
    async fn a_write_goes_on_while_its_gate_is_renewed_and_no_step_further_once_it_is_shut() {
        let gate = Gate::default();
        assert!(gate.through(async {}).await.is_err(), "it is shut at first");
        gate.open_until(Instant::now() + Duration::from_secs(3600));
        let (next, mut steps) = tokio::sync::mpsc::channel::<()>(2);
        let (said, mut done) = tokio::sync::mpsc::channel::<u32>(2);
        let through = gate.clone();
        let write = tokio::spawn(async move {
            through
                .through(async move {
                    for step in 1..=2 {
                        steps.recv().await;
                        said.send(step).await.expect("room");
                    }
                })
                .await
        });
        next.send(()).await.expect("room");
        assert_eq!(done.recv().await, Some(1));
        gate.shut();
        next.send(()).await.expect("room");
        assert!(write.await.expect("no panic").is_err());
        assert_eq!(done.recv().await, None, "the second step was not taken");

        // Shut for a moment that passes before the write is done, and prolonged before it has passed.
        gate.open_until(Instant::now() + Duration::from_millis(50));
        let prolonged = gate.clone();
        let write = gate.through(async {
            prolonged.open_until(Instant::now() + Duration::from_secs(3600));
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
        assert!(write.await.is_ok());
    }

    #[tokio::test]
    async fn what_is_read_passes_a_shut_gate_and_what_is_written_does_not() {
        let seen = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&seen);
        let inner = tower::service_fn(move |_request: http::Request<Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, BoxError>(http::Response::new(())) }
        });
        let gate = Gate::default();
        let guarded = Guarded {
            gate: gate.clone(),
            metrics: Arc::default(),
        };
        let mut service = guarded.layer(inner);
        let request = |method: &str| {
            let request = http::Request::builder().method(method).uri("http://server/api");
            request.body(Body::empty()).expect("a request")
        };
        assert!(service.call(request("GET")).await.is_ok());
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            assert!(
                service
                    .call(request(method))
                    .await
                    .is_err_and(|error| error.is::<NotLeading>())
            );
        }
        assert_eq!(seen.load(Ordering::SeqCst), 1);
        gate.open_until(Instant::now() + Duration::from_secs(5));
        assert!(service.call(request("PATCH")).await.is_ok());
    }
}
