//! The admin endpoint, on a port of its own: metrics, probes, status and a page for people. Read-only.
//!
//! | path | for |
//! |---|---|
//! | `/metrics` | Prometheus (OpenMetrics text) |
//! | `/healthz` | liveness: the process answers |
//! | `/readyz` | readiness: started and not draining. Never tied to licensed hosts: if all of them are away, other replicas fare no better |
//! | `/status` | JSON, see [`Status`] |
//! | `/events?after=CURSOR&limit=N` | JSON, see [`Events`]: events after a cursor, or the newest |
//! | `/explain/ADDRESS` | JSON: where a client of that address would go now, and why ([`Explanation`](crate::routing::Explanation)) |
//! | `/` | the page |

mod ledger;
mod page;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use ledger::LedgerView;
pub use status::{ConfigStatus, Connections, LedgerStatus, Observations, ReloadResult, Source, Status};

use crate::http;
use crate::ledger::{ObservationQueue, StoredEvent};
use crate::metrics::Now;

/// Serves the admin endpoint until `token` is cancelled.
pub async fn serve(listener: TcpListener, source: Arc<Source>, token: CancellationToken) {
    let app = Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/events", get(events))
        .route("/explain/{address}", get(explain))
        .with_state(source);
    http::serve(listener, app, http::Limits::default(), token).await;
}

async fn metrics(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let routing = source.relay.as_ref().map(|relay| relay.routing());
    let now = Now {
        connections: u64::try_from(source.admission.open()).unwrap_or(u64::MAX),
        sources: u64::try_from(source.admission.sources()).unwrap_or(u64::MAX),
        draining: source.is_draining(),
        routing,
        observations: source.queue.as_ref().map(ObservationQueue::stats),
    };
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], source.metrics.encode(now))
}

async fn readyz(State(source): State<Arc<Source>>) -> impl IntoResponse {
    if source.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if source.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn status(State(source): State<Arc<Source>>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "no-store")], Json(source.status().await))
}

/// Most events in one answer.
pub const MOST_EVENTS: usize = 1000;

/// What `/events` is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    after: Option<String>,
    #[serde(default = "some_events")]
    limit: usize,
}

fn some_events() -> usize {
    100
}

/// What `/events` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Events {
    /// Which ledger they are of, as [`Ledger::id`](crate::ledger::Ledger::id) has it. Replicas that share a ledger give the same.
    pub ledger: Uuid,
    /// Oldest first. The last one's cursor is where to go on.
    pub events: Vec<StoredEvent>,
}

async fn events(State(source): State<Arc<Source>>, Query(wanted): Query<Wanted>) -> axum::response::Response {
    match source
        .ledger
        .events(wanted.after.as_deref(), wanted.limit.min(MOST_EVENTS))
        .await
    {
        Ok(events) => {
            let ledger = source.ledger.id();
            ([(header::CACHE_CONTROL, "no-store")], Json(Events { ledger, events })).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error + "\n").into_response(),
    }
}

async fn explain(State(source): State<Arc<Source>>, Path(address): Path<String>) -> axum::response::Response {
    let Ok(address) = address.parse() else {
        return (StatusCode::BAD_REQUEST, "not an IP address\n").into_response();
    };
    match &source.relay {
        Some(relay) => Json(relay.explain(source.admission.source_of(address))).into_response(),
        None => (StatusCode::NOT_FOUND, "a rehearsal host routes no clients\n").into_response(),
    }
}

async fn page(State(source): State<Arc<Source>>) -> impl IntoResponse {
    let headers: [(HeaderName, String); 5] = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, page::content_security_policy()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, page::render(&source.status().await))
}
