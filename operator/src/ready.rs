//! Asks a running operator whether it is ready, as `helm test` does: its image holds no other program that could.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Most bytes of an answer that are read.
const LARGEST: u64 = 16 * 1024;
/// Time for one question.
const ONE: Duration = Duration::from_secs(5);
/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an operator is not taken for ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// Nothing answers there.
    #[error("no operator answers at {address}: look at its pods and their log")]
    Silent {
        /// Host and port.
        address: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// It answers that it is not ready.
    #[error("the operator at {address} is not ready: {answer}")]
    Not {
        /// Host and port.
        address: String,
        /// What it said.
        answer: String,
    },
}

/// Asks the operator at `address` (`host:port` of its metrics) until it is ready, for `patience` at most.
///
/// # Errors
/// With the last answer, when time is up.
pub async fn wait(address: &str, patience: Duration) -> Result<(), NotReady> {
    let end = Instant::now() + patience;
    loop {
        let asked = timeout(ONE, ask(address)).await;
        let why = match asked {
            Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 ") => {
                return Ok(());
            }
            Ok(Ok(answer)) => NotReady::Not {
                address: address.to_owned(),
                answer: answer.split("\r\n\r\n").nth(1).unwrap_or(&answer).trim().to_owned(),
            },
            Ok(Err(source)) => NotReady::Silent {
                address: address.to_owned(),
                source,
            },
            Err(elapsed) => NotReady::Silent {
                address: address.to_owned(),
                source: elapsed.into(),
            },
        };
        if Instant::now() + PAUSE >= end {
            return Err(why);
        }
        sleep(PAUSE).await;
    }
}

/// One question, in HTTP 1.0: the answer ends with the connection.
async fn ask(address: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection
        .write_all(format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    connection.take(LARGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// An operator that becomes ready after this many questions.
    async fn operator(unready: usize) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let answer = get(move || async move {
            let ready = asked.fetch_add(1, Ordering::Relaxed) >= unready;
            if ready {
                (StatusCode::OK, "ready")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "no lease yet")
            }
        });
        tokio::spawn(async { axum::serve(listener, Router::new().route("/readyz", answer)).await });
        address
    }

    #[tokio::test]
    async fn it_is_asked_until_it_is_ready() {
        wait(&operator(2).await, Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn what_it_lacks_is_said() {
        let error = wait(&operator(usize::MAX).await, Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().ends_with("is not ready: no lease yet"), "{error}");
    }

    #[tokio::test]
    async fn nobody_there_is_an_error_that_names_the_address() {
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let error = wait(&free, Duration::ZERO).await.unwrap_err();
        assert!(
            matches!(&error, NotReady::Silent { address, .. } if *address == free),
            "{error}"
        );
    }
}
