//! The operator's own endpoint. Read-only.
//!
//! | path | for |
//! |---|---|
//! | `/metrics` | Prometheus (OpenMetrics text) |
//! | `/healthz` | liveness: the election, or the wait for it, goes on |
//! | `/readyz` | readiness: the API server answers, and a leader sees the resources. One that stands by is ready |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use kms_host::http;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long the election may be silent before the process counts as stuck.
const STUCK: Duration = Duration::from_secs(60);

/// How the process is, as probes see it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Health {
    start: Instant,
    alive: Arc<AtomicU64>,
    ready: Arc<AtomicBool>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            alive: Arc::default(),
            ready: Arc::default(),
        }
    }
}

impl Health {
    /// Notes that the election goes on.
    pub fn alive(&self) {
        self.alive.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Says whether the process does its work.
    pub fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
    }

    fn is_alive(&self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.start).as_secs();
        passed.saturating_sub(self.alive.load(Ordering::Relaxed)) < STUCK.as_secs()
    }
}

/// What `/metrics` shows now.
pub type Encode = Arc<dyn Fn() -> String + Send + Sync>;

/// Serves the endpoint until `token` is cancelled.
pub async fn serve(listener: TcpListener, health: Health, encode: Encode, token: CancellationToken) {
    let app = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state((health, encode));
    http::serve(listener, app, http::Limits::default(), token).await;
}

async fn metrics(State((_, encode)): State<(Health, Encode)>) -> impl IntoResponse {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], encode())
}

async fn healthz(State((health, _)): State<(Health, Encode)>) -> impl IntoResponse {
    match health.is_alive(Instant::now()) {
        true => (StatusCode::OK, "ok\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the election is stuck\n"),
    }
}

async fn readyz(State((health, _)): State<(Health, Encode)>) -> impl IntoResponse {
    match health.ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready\n"),
        false => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server does not answer, or the resources cannot be watched\n",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_election_is_not_alive() {
        let health = Health::default();
        health.alive();
        let now = health.start;
        assert!(health.is_alive(now + Duration::from_secs(59)));
        assert!(!health.is_alive(now + Duration::from_secs(61)));
    }
}
