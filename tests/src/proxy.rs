//! A way between a client and a server that the test can close: a network that is cut, as both of its ends see it.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A running proxy. Dropped, it ends with every connection through it.
pub struct Proxy {
    /// Where clients connect.
    pub address: SocketAddr,
    open: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Starts one in front of `server`. It is open.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (open, is_open) = watch::channel(true);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connect(client, server, is_open.clone()));
            }
        });
        Ok(Self {
            address,
            open,
            _accepting: AbortOnDropHandle::new(accepting),
        })
    }

    /// Carries nothing any more. What is sent is lost, and neither end is told.
    pub fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Carries new connections again. Those that lost something are closed.
    pub fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn connect(client: TcpStream, server: SocketAddr, mut open: watch::Receiver<bool>) {
    if open.wait_for(|open| *open).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    tokio::join!(
        carry(from_client, to_server, open.clone()),
        carry(from_server, to_client, open)
    );
}

/// One direction of a connection, until it ends or the proxy is gone.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut open: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = open.changed() => Ok(0),
        };
        if !*open.borrow() {
            let _mended = open.wait_for(|open| *open).await;
            return;
        }
        let Some(bytes) = read.ok().filter(|read| *read > 0).and_then(|read| buffer.get(..read)) else {
            return;
        };
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
