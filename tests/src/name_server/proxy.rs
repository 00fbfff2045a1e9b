//! A TCP proxy in front of a name server: it makes the server slow, or loses its answers to updates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// Operation code of an update (RFC 2136, 2.2).
const UPDATE: u8 = 5;

/// A running proxy. Dropped, it listens no more.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    conduct: Arc<Conduct>,
    listening: AbortHandle,
}

struct Conduct {
    server: SocketAddr,
    delay: Duration,
    loses_answers: AtomicBool,
    updates: AtomicUsize,
}

impl Proxy {
    /// Passes messages on to `server`; each answer comes back after `delay`.
    pub async fn start(server: SocketAddr, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let conduct = Arc::new(Conduct {
            server,
            delay,
            loses_answers: AtomicBool::new(false),
            updates: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&conduct);
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let conduct = Arc::clone(&shared);
                tokio::spawn(async move { conduct.pass_on(client).await });
            }
        });
        Ok(Self {
            address,
            conduct,
            listening: listening.abort_handle(),
        })
    }

    /// Whether answers to updates get lost from now on. The updates still take effect.
    pub fn lose_answers(&self, lose: bool) {
        self.conduct.loses_answers.store(lose, Ordering::SeqCst);
    }

    /// How many updates the server has answered.
    pub fn updates(&self) -> usize {
        self.conduct.updates.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Conduct {
    async fn pass_on(&self, mut client: TcpStream) -> Result<()> {
        let question = receive(&mut client).await?;
        let mut server = TcpStream::connect(self.server).await?;
        send(&mut server, &question).await?;
        let answer = receive(&mut server).await?;
        let update = question.get(2).is_some_and(|flags| flags >> 3 & 0xf == UPDATE);
        if update {
            self.updates.fetch_add(1, Ordering::SeqCst);
            if self.loses_answers.load(Ordering::SeqCst) {
                // The client waits in vain, until it goes away.
                client.read_u8().await?;
            }
        }
        sleep(self.delay).await;
        send(&mut client, &answer).await
    }
}

async fn receive(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn send(stream: &mut TcpStream, message: &[u8]) -> Result<()> {
    let mut framed = u16::try_from(message.len())?.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    Ok(stream.write_all(&framed).await?)
}
