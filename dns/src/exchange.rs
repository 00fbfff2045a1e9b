//! One question, one answer: DNS over UDP and TCP, with a bound on time and size.
//!
//! Queries go by UDP and are repeated by TCP where the answer was truncated (RFC 1035, 4.2; RFC 7766). Updates and signed
//! messages go by TCP only.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Datagram size that survives without fragments (DNS flag day 2020).
pub const DATAGRAM: u16 = 1232;
/// How often a datagram is sent within the limit.
const TRIES: u32 = 3;

/// Why no answer came.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// Nothing came in time.
    #[error("{server} did not answer within {} ms; see that it runs and that nothing between drops DNS", limit.as_millis())]
    Timeout {
        /// Who was asked.
        server: SocketAddr,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection failed.
    #[error("{server} cannot be reached; see that it runs and that nothing between refuses DNS")]
    Io {
        /// Who was asked.
        server: SocketAddr,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The answer is none.
    #[error("{server} answered with what is no DNS message for this question: {why}")]
    Malformed {
        /// Who was asked.
        server: SocketAddr,
        /// What is wrong.
        why: String,
    },
}

/// Asks `server` for records. `recursion` asks a resolver to look further; leave it off for authoritative servers.
///
/// # Errors
/// When no answer comes within `limit`, or what comes is none. A response code other than success is an answer.
pub async fn query(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    recursion: bool,
    limit: Duration,
) -> Result<Message, ExchangeError> {
    let message = question(name, kind, recursion);
    let bytes = encode(server, &message)?;
    let run = async {
        let answer = by_datagram(server, &message, &bytes, limit / TRIES).await?;
        if answer.metadata.truncation {
            return decode(server, &message, &by_stream(server, &bytes).await?);
        }
        Ok(answer)
    };
    timeout(limit, run)
        .await
        .unwrap_or(Err(ExchangeError::Timeout { server, limit }))
}

/// A query with EDNS. `recursion` as for [`query`].
#[must_use]
pub fn question(name: &Name, kind: RecordType, recursion: bool) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = recursion;
    message.add_query(Query::query(name.clone(), kind));
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM);
    message.set_edns(edns);
    message
}

/// Sends a whole message by TCP and returns the whole answer, as bytes for who verifies signatures.
///
/// # Errors
/// When no answer comes within `limit`.
pub(crate) async fn stream(server: SocketAddr, bytes: &[u8], limit: Duration) -> Result<Vec<u8>, ExchangeError> {
    timeout(limit, by_stream(server, bytes))
        .await
        .unwrap_or(Err(ExchangeError::Timeout { server, limit }))
}

/// The message's bytes.
pub(crate) fn encode(server: SocketAddr, message: &Message) -> Result<Vec<u8>, ExchangeError> {
    message.to_vec().map_err(|error| malformed(server, &error))
}

/// Reads what `server` answered to `asked`.
///
/// # Errors
/// When it is no DNS message, or answers something else.
pub fn decode(server: SocketAddr, asked: &Message, bytes: &[u8]) -> Result<Message, ExchangeError> {
    let answer = Message::from_vec(bytes).map_err(|error| malformed(server, &error))?;
    if answers(asked, &answer) {
        Ok(answer)
    } else {
        Err(malformed(server, &"it answers another question"))
    }
}

fn answers(asked: &Message, answer: &Message) -> bool {
    let same_question = answer.queries == asked.queries
        // Servers may leave the question out of an error or of an answer to an update.
        || (answer.queries.is_empty() && (asked.op_code == OpCode::Update || answer.answers.is_empty()));
    answer.id == asked.id && answer.message_type == MessageType::Response && same_question
}

fn malformed(server: SocketAddr, why: &dyn std::fmt::Display) -> ExchangeError {
    ExchangeError::Malformed {
        server,
        why: why.to_string(),
    }
}

async fn by_datagram(
    server: SocketAddr,
    asked: &Message,
    bytes: &[u8],
    patience: Duration,
) -> Result<Message, ExchangeError> {
    let failed = |source| ExchangeError::Io { server, source };
    let local: SocketAddr = if server.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    // A fresh port for every question, so that answers are hard to forge (RFC 5452).
    let socket = UdpSocket::bind(local).await.map_err(failed)?;
    socket.connect(server).await.map_err(failed)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        socket.send(bytes).await.map_err(failed)?;
        let wait = async {
            loop {
                let length = socket.recv(&mut buffer).await.map_err(failed)?;
                // What does not fit is somebody else's datagram: wait on.
                if let Ok(answer) = decode(server, asked, buffer.get(..length).unwrap_or_default()) {
                    return Ok(answer);
                }
            }
        };
        if let Ok(answer) = timeout(patience, wait).await {
            return answer;
        }
    }
}

async fn by_stream(server: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>, ExchangeError> {
    let failed = |source| ExchangeError::Io { server, source };
    let length = u16::try_from(bytes.len()).map_err(|_| malformed(server, &"the message exceeds 64 KiB"))?;
    let mut framed = Vec::with_capacity(bytes.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(bytes);
    let mut stream = TcpStream::connect(server).await.map_err(failed)?;
    stream.write_all(&framed).await.map_err(failed)?;
    let length = stream.read_u16().await.map_err(failed)?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(failed)?;
    Ok(answer)
}
