//! A small authoritative server for one zone, for `kmsctl up` and for tests: UDP and TCP, records replaceable at run time.
//!
//! It answers SRV, A, AAAA, TXT, SOA and NS questions, and refuses what is not its zone's. It takes no updates and does no
//! transfers: production zones stay on the organisation's own servers.

mod answer;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use answer::Zone;

/// Most connections at a time; the next waits.
const CONNECTIONS: usize = 64;
/// How long a connection may be idle or a peer slow.
const IDLE: Duration = Duration::from_secs(10);
/// How often a free port for both protocols is looked for.
const PORT_TRIES: usize = 16;

/// Sockets of one address for both protocols.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Binds both protocols; with port 0, to the same free port.
    ///
    /// # Errors
    /// When the address is in use or not this machine's.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut tries = PORT_TRIES;
        loop {
            let tcp = TcpListener::bind(address).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                // The free port that TCP found may be taken for UDP.
                Err(_) if address.port() == 0 && tries > 0 => tries -= 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// A running server. Dropped, it stops without being waited for.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    zone: watch::Sender<Arc<Zone>>,
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Starts to serve `zone` on bound sockets, within the current runtime.
    ///
    /// # Errors
    /// When a socket does not say its address.
    pub fn start(sockets: Sockets, zone: Zone) -> io::Result<Self> {
        let address = sockets.udp.local_addr()?;
        let (sender, receiver) = watch::channel(Arc::new(zone));
        let server = Self {
            address,
            zone: sender,
            token: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let udp = serve_datagrams(sockets.udp, receiver.clone());
        server.spawn(udp);
        server.spawn(serve_streams(
            sockets.tcp,
            receiver,
            server.tasks.clone(),
            server.token.clone(),
        ));
        server.tasks.close();
        Ok(server)
    }

    /// Where it serves, by UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves other records from the next question on.
    pub fn replace(&self, zone: Zone) {
        self.zone.send_replace(Arc::new(zone));
    }

    /// Stops and waits until all is closed.
    pub async fn stop(self) {
        self.token.cancel();
        self.tasks.wait().await;
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            token.run_until_cancelled_owned(task).await;
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

async fn serve_datagrams(socket: UdpSocket, zone: watch::Receiver<Arc<Zone>>) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, peer)) => {
                let zone = Arc::clone(&zone.borrow());
                let question = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = zone.answer_datagram(question)
                    && let Err(error) = socket.send_to(&answer, peer).await
                {
                    tracing::debug!(client.addr = %peer, %error, "a DNS answer could not be sent");
                }
            }
            // A peer's ICMP refusal shows up here; it says nothing about the socket.
            Err(error) => {
                tracing::debug!(%error, "a DNS question could not be received");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_streams(
    listener: TcpListener,
    zone: watch::Receiver<Arc<Zone>>,
    tasks: TaskTracker,
    token: CancellationToken,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let zone = zone.clone();
                let token = token.clone();
                tasks.spawn(async move {
                    let served = token.run_until_cancelled_owned(serve_stream(stream, zone)).await;
                    if let Some(Err(error)) = served {
                        tracing::debug!(client.addr = %peer, %error, "a DNS connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_stream(mut stream: TcpStream, zone: watch::Receiver<Arc<Zone>>) -> io::Result<()> {
    loop {
        let exchange = async {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await?;
            let current = Arc::clone(&zone.borrow());
            let answer = current.answer_stream(&question);
            let Some((answer, length)) = answer.and_then(|a| u16::try_from(a.len()).ok().map(|length| (a, length)))
            else {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            };
            let mut framed = length.to_be_bytes().to_vec();
            framed.extend_from_slice(&answer);
            stream.write_all(&framed).await
        };
        match timeout(IDLE, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        }
    }
}
