//! The operator's own endpoint. Read-only.
//!
//! | path | for |
//! |---|---|
//! | `/metrics` | Prometheus (OpenMetrics text) |
//! | `/healthz` | liveness: the election, or the wait for it, goes on |
//! | `/readyz` | readiness: the lease could be read or written lately, and a leader sees the resources |

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

/// How long the API server may leave the election without an answer before the process counts as cut off from it.
const CUT_OFF: Duration = Duration::from_secs(15);

/// How the process is, as probes see it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Health {
    start: Instant,
    alive: Arc<AtomicU64>,
    /// Seconds after `start` when the API server last answered the election; none without election.
    answered: Arc<AtomicU64>,
    leads: Arc<AtomicBool>,
    sees: Arc<AtomicBool>,
}

/// No answer yet, and none expected.
const NO_ELECTION: u64 = u64::MAX;

impl Default for Health {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            alive: Arc::default(),
            answered: Arc::new(AtomicU64::new(NO_ELECTION)),
            leads: Arc::default(),
            sees: Arc::default(),
        }
    }
}

impl Health {
    /// Notes that the election goes on.
    pub fn alive(&self) {
        self.alive.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Notes that the API server answered the election.
    pub fn answered(&self) {
        self.answered.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Notes that the process leads, and is to see the resources.
    pub fn leads(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }

    /// Says whether the resources are seen.
    pub fn sees(&self, sees: bool) {
        self.sees.store(sees, Ordering::Relaxed);
    }

    /// What the process lacks to do its work.
    fn lacks(&self, now: Instant) -> Option<&'static str> {
        let (answered, leads) = (
            self.answered.load(Ordering::Relaxed),
            self.leads.load(Ordering::Relaxed),
        );
        let passed = now.saturating_duration_since(self.start).as_secs();
        if leads && !self.sees.load(Ordering::Relaxed) {
            return Some("the resources cannot be watched");
        }
        match answered {
            NO_ELECTION if leads => None,
            NO_ELECTION => Some("the API server has not answered the election yet"),
            at if passed.saturating_sub(at) >= CUT_OFF.as_secs() => {
                Some("the API server does not answer the election any more")
            }
            _ => None,
        }
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
    match health.lacks(Instant::now()) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")),
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

    #[test]
    fn one_that_stands_by_is_ready_while_the_api_server_answers_and_a_leader_while_it_sees_the_resources() {
        let health = Health::default();
        let at = |seconds| health.start + Duration::from_secs(seconds);
        assert!(health.lacks(at(0)).is_some(), "nothing was asked yet");
        health.answered();
        assert_eq!(health.lacks(at(1)), None);
        assert!(health.lacks(at(16)).is_some_and(|what| what.contains("any more")));

        health.leads();
        assert!(health.lacks(at(1)).is_some_and(|what| what.contains("watched")));
        health.sees(true);
        assert_eq!(health.lacks(at(1)), None);
        assert!(health.lacks(at(16)).is_some(), "a leader that is cut off");
        health.sees(false);
        assert!(health.lacks(at(1)).is_some(), "it may go back");

        let alone = Health::default();
        alone.leads();
        alone.sees(true);
        assert_eq!(
            alone.lacks(alone.start + Duration::from_secs(3600)),
            None,
            "no election"
        );
    }
}
