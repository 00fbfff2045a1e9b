//! A host replica in this process, on ports of its own, and a look at its admin endpoint.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kms_host::config::{HostConfig, WatchedFile, load};
use kms_host::run::{Listeners, RunError, run};
use kms_host::serve::Drained;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http;

/// A running replica. Dropped, it stops without being waited for.
pub struct Replica {
    /// Where clients are served.
    pub address: SocketAddr,
    /// The admin endpoint.
    pub admin: SocketAddr,
    token: CancellationToken,
    running: JoinHandle<Result<Drained, RunError>>,
}

impl Replica {
    /// Starts a replica from the text of a configuration; `listen` and `admin` are put in front of it.
    pub fn start(yaml: &str) -> Result<Self> {
        let config = load(&with_ports(yaml), Path::new("test.yaml"))?;
        Self::run(config, None)
    }

    /// Starts a replica from a file, which it then watches. The file must give `listen` and `admin`; see [`with_ports`].
    pub fn start_from(file: &Path) -> Result<Self> {
        let (config, file) = WatchedFile::open(file)?;
        Self::run(config, Some(file))
    }

    fn run(config: HostConfig, file: Option<WatchedFile>) -> Result<Self> {
        let listeners = Listeners::bind(&config)?;
        let address = listeners.clients.first().context("a listener")?.local_addr()?;
        let admin = listeners.admin.local_addr()?;
        let token = CancellationToken::new();
        let running = tokio::spawn(run(config, file, listeners, token.clone()));
        Ok(Self {
            address,
            admin,
            token,
            running,
        })
    }

    /// Tells the replica to stop, as SIGTERM does.
    pub fn tell_to_stop(&self) {
        self.token.cancel();
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Result<Drained> {
        Ok((&mut self.running).await??)
    }

    /// The JSON status.
    pub async fn status(&self) -> Result<serde_json::Value> {
        let (_, body) = http::get(self.admin, "/status").await?;
        Ok(serde_json::from_str(&body)?)
    }

    /// The value of a metric's sample, as [`http::metric`].
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        http::metric(self.admin, sample).await
    }

    /// Waits until a metric's sample has at least `least`.
    pub async fn metric_reaches(&self, sample: &str, least: f64) -> Result<()> {
        eventually(sample, async || {
            self.metric(sample).await.is_ok_and(|value| value >= least)
        })
        .await
    }

    /// Waits until the status fulfils a condition.
    pub async fn status_becomes(&self, what: &str, fulfils: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        eventually(what, async || self.status().await.is_ok_and(|status| fulfils(&status))).await
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// Any free ports of this machine for a configuration.
pub fn with_ports(yaml: &str) -> String {
    format!("listen: ['127.0.0.1:0']\nadmin: {{listen: '127.0.0.1:0'}}\n{yaml}")
}

/// Waits for a condition, up to a minute: a busy machine may take long.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    for _ in 0..1200 {
        if condition().await {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    anyhow::bail!("waited a minute in vain for: {what}")
}
