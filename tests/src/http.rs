//! The least of HTTP that a test needs to look at an admin endpoint.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Gets `path`: the head (status line and headers) and the body.
pub async fn get(server: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = TcpStream::connect(server).await?;
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    Ok((head.to_owned(), body.to_owned()))
}

/// The value of a metric's sample, written as in the text (`okms_refusals_total{reason="rate"}`); 0 if absent.
pub async fn metric(admin: SocketAddr, sample: &str) -> Result<f64> {
    let (_, body) = get(admin, "/metrics").await?;
    let value = body
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Ok(value.map_or(Ok(0.0), str::parse)?)
}
