//! A small HTTP server for scrapers, probes and people, that nobody can fill up.
//!
//! It takes few connections, so that it leaves the process' descriptors to others, and none of them stays without
//! asking. When all places are taken, whoever comes gets that of the oldest connection: one that is silent ends at once,
//! one that is being answered gets its answer first. So a scrape succeeds however many others hold connections open.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// How long accepting rests when the system has no descriptor or memory left for a connection.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at one time.
    pub connections: usize,
    /// How long a connection may take for the head of a request, and so between two requests.
    pub silent: Duration,
    /// How long a request that is being answered may go on when its connection is told to end.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            silent: Duration::from_secs(10),
            grace: Duration::from_secs(2),
        }
    }
}

/// Serves until `token` is cancelled; then requests that are being answered finish.
pub async fn serve(listener: TcpListener, app: Router, limits: Limits, token: CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut open: VecDeque<CancellationToken> = VecDeque::new();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = token.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection cannot be accepted");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_cancelled());
        if places.available_permits() == 0
            && let Some(oldest) = open.pop_front()
        {
            oldest.cancel();
        }
        // Never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break;
        };
        let end = token.child_token();
        open.push_back(end.clone());
        let app = app.clone();
        tasks.spawn(async move {
            connection(stream, app, limits, &end).await;
            end.cancel();
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection(stream: TcpStream, app: Router, limits: Limits, end: &CancellationToken) {
    let answering = AtomicBool::new(false);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        answering.store(true, Ordering::Relaxed);
        let (answer, answering) = (app.clone().oneshot(request), &answering);
        async move {
            let answer = answer.await;
            answering.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(match answer {
                Ok(answer) => answer,
                Err(never) => match never {},
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.silent)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = end.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let grace = if answering.load(Ordering::Relaxed) {
                limits.grace
            } else {
                Duration::ZERO
            };
            timeout(grace, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;

    /// When a slow request has come, and when it may be answered.
    #[derive(Default)]
    struct Slow {
        came: Notify,
        go: Notify,
    }

    /// A server of two places. `/slow` is answered when it is told to.
    async fn server(silent: Duration, slow: Arc<Slow>) -> (SocketAddr, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("address");
        let answer_slowly = move || {
            let slow = Arc::clone(&slow);
            async move {
                slow.came.notify_one();
                slow.go.notified().await;
                "slow\n"
            }
        };
        let app = Router::new()
            .route("/", get(|| async { "fine\n" }))
            .route("/slow", get(answer_slowly));
        let limits = Limits {
            connections: 2,
            silent,
            grace: Duration::from_secs(60),
        };
        let token = CancellationToken::new();
        tokio::spawn(serve(listener, app, limits, token.clone()));
        (address, token)
    }

    async fn connect(address: SocketAddr) -> TcpStream {
        TcpStream::connect(address).await.expect("connected")
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
    }

    /// Reads until the server has said this.
    async fn hears(stream: &mut TcpStream, end: &str) -> bool {
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) {
            if !matches!(stream.read_buf(&mut heard).await, Ok(1..)) {
                return false;
            }
        }
        true
    }

    /// Whether the server closes the connection, without another word.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
    }

    #[tokio::test]
    async fn who_is_silent_is_closed_before_and_after_a_request_and_within_one() {
        let (address, _token) = server(Duration::from_millis(200), Arc::default()).await;
        assert!(is_closed(&mut connect(address).await).await);
        let mut stream = connect(address).await;
        ask(&mut stream, "/").await;
        assert!(hears(&mut stream, "fine\n").await);
        assert!(is_closed(&mut stream).await);
        let mut stream = connect(address).await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
        assert!(!hears(&mut stream, "fine\n").await);
    }

    #[tokio::test]
    async fn when_all_places_are_taken_the_oldest_connection_makes_room() {
        let (address, _token) = server(Duration::from_secs(60), Arc::default()).await;
        let (mut silent, mut half) = (connect(address).await, connect(address).await);
        half.write_all(b"GET / HTTP/1.1\r\n").await.expect("sent");
        let mut newcomers = Vec::new();
        for oldest in [&mut silent, &mut half] {
            let mut stream = connect(address).await;
            ask(&mut stream, "/").await;
            assert!(hears(&mut stream, "fine\n").await);
            assert!(is_closed(oldest).await);
            newcomers.push(stream);
        }
    }

    #[tokio::test]
    async fn a_request_that_is_being_answered_gets_its_answer_before_its_connection_ends() {
        let told = Arc::new(Slow::default());
        let (address, token) = server(Duration::from_secs(60), Arc::clone(&told)).await;
        let (mut slow, mut silent) = (connect(address).await, connect(address).await);
        ask(&mut slow, "/slow").await;
        told.came.notified().await;
        // The first makes room for the third when its answer is out.
        let mut third = connect(address).await;
        ask(&mut third, "/").await;
        told.go.notify_one();
        assert!(hears(&mut slow, "slow\n").await);
        assert!(is_closed(&mut slow).await);
        assert!(hears(&mut third, "fine\n").await);
        token.cancel();
        assert!(is_closed(&mut silent).await);
        assert!(is_closed(&mut third).await);
    }
}
