//! A TCP forwarder that can lose its memory, as a firewall between two machines does.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running forwarder. Dropped, it accepts no more.
pub struct Forwarder {
    /// Where it listens.
    pub address: SocketAddr,
    forgotten: Arc<Mutex<CancellationToken>>,
    _running: DropGuard,
}

impl Forwarder {
    /// Forwards to `server` all that comes.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let forgotten = Arc::new(Mutex::new(CancellationToken::new()));
        let running = CancellationToken::new();
        let current = Arc::clone(&forgotten);
        tokio::spawn(running.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let forgotten = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(forward(client, server, forgotten));
            }
        }));
        Ok(Self {
            address,
            forgotten,
            _running: running.drop_guard(),
        })
    }

    /// From now on nothing is carried over the connections that there are, and nobody is told. New ones are carried.
    pub fn forget(&self) {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *forgotten).cancel();
    }
}

async fn forward(mut client: TcpStream, server: SocketAddr, forgotten: CancellationToken) {
    let Ok(mut server) = TcpStream::connect(server).await else {
        return;
    };
    let carrying = tokio::io::copy_bidirectional(&mut client, &mut server);
    if forgotten.run_until_cancelled(carrying).await.is_none() {
        // Neither side is told: both sockets stay open.
        std::future::pending::<()>().await;
    }
}
