//! [`ClientAssociation`] on a TCP connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{BindOutcome, ClientAssociation, Misbehaviour, Proposal, Reply};
use super::pdu::DataRepresentation;
use super::syntax::{Interface, TransferSyntax};

/// How to connect and bind, and how long each step may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectOptions {
    /// What to bind to.
    pub proposal: Proposal,
    /// Time for the TCP connection.
    pub connect_timeout: Duration,
    /// Time from connection to bind_ack.
    pub bind_timeout: Duration,
    /// Time for one call, from its first byte sent to its last byte received.
    pub call_timeout: Duration,
    /// Largest response stub in bytes.
    pub max_response: usize,
}

impl Default for ConnectOptions {
    /// A bind to the KMS interface like that of a Windows client.
    fn default() -> Self {
        Self {
            proposal: Proposal::like_windows(Interface::KMS),
            connect_timeout: Duration::from_secs(3),
            bind_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(10),
            max_response: 64 * 1024,
        }
    }
}

/// Why there is no bound association.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("connecting to {server} failed")]
    Connect {
        /// Whom we called.
        server: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// TCP did not connect in time.
    #[error("connecting to {server} took longer than {limit:?}")]
    ConnectTimeout {
        /// Whom we called.
        server: SocketAddr,
        /// The time that was given.
        limit: Duration,
    },
    /// The connection broke, or closed, before the bind was answered.
    #[error("{server} closed the connection before it answered the bind")]
    Broken {
        /// Whom we called.
        server: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The bind was not answered in time.
    #[error("{server} did not answer the bind within {limit:?}")]
    BindTimeout {
        /// Whom we called.
        server: SocketAddr,
        /// The time that was given.
        limit: Duration,
    },
    /// The server refuses the bind or breaks the protocol.
    #[error("binding to {server} failed")]
    Bind {
        /// Whom we called.
        server: SocketAddr,
        /// What the server did.
        #[source]
        source: Misbehaviour,
    },
    /// Each transfer syntax was rejected: the server has no such interface, or speaks another syntax.
    #[error("{server} accepts none of the proposed contexts")]
    Rejected {
        /// Whom we called.
        server: SocketAddr,
        /// The result of each context.
        outcome: Box<BindOutcome>,
    },
}

impl ConnectError {
    /// A bounded label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Broken { .. } => "reset",
            Self::BindTimeout { .. } => "bind_timeout",
            Self::Bind { .. } => "bind",
            Self::Rejected { .. } => "rejected",
        }
    }
}

/// Why a call has no reply. The connection cannot be used any more.
#[derive(Debug, Error)]
pub enum CallError {
    /// The connection broke or was closed before the reply was complete.
    #[error("the connection broke before the reply was complete")]
    Broken(#[source] io::Error),
    /// No complete reply in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The server broke the protocol.
    #[error("the server broke the protocol")]
    Misbehaved(#[source] Misbehaviour),
    /// An earlier call failed or was abandoned.
    #[error("the connection was given up in an earlier call")]
    Unusable,
    /// No context was accepted for this transfer syntax.
    #[error("the server has not accepted {0}")]
    NotAccepted(TransferSyntax),
}

impl CallError {
    /// A bounded label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Broken(_) => "reset",
            Self::Timeout(_) => "call_timeout",
            Self::Misbehaved(_) => "protocol",
            Self::Unusable => "unusable",
            Self::NotAccepted(_) => "not_accepted",
        }
    }
}

enum ReadError {
    Io(io::Error),
    Misbehaved(Misbehaviour),
}

/// A bound association with a server. Calls are made one after the other; a call that fails, or whose future is dropped,
/// makes the connection unusable.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    server: SocketAddr,
    association: ClientAssociation,
    outcome: BindOutcome,
    input: BytesMut,
    output: BytesMut,
    call_timeout: Duration,
    usable: bool,
}

impl Connection {
    /// Connects and binds.
    ///
    /// # Errors
    /// [`ConnectError`] names the step that failed. Where no transfer syntax is accepted there is no connection.
    pub async fn connect(server: SocketAddr, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let limit = options.connect_timeout;
        let stream = timeout(limit, TcpStream::connect(server))
            .await
            .map_err(|_| ConnectError::ConnectTimeout { server, limit })?
            .map_err(|source| ConnectError::Connect { server, source })?;
        let limit = options.bind_timeout;
        timeout(limit, Self::bind(stream, server, options))
            .await
            .map_err(|_| ConnectError::BindTimeout { server, limit })?
    }

    async fn bind(mut stream: TcpStream, server: SocketAddr, options: &ConnectOptions) -> Result<Self, ConnectError> {
        let broken = |source| ConnectError::Broken { server, source };
        // A request is one small write; waiting for more would only add latency.
        stream.set_nodelay(true).map_err(broken)?;
        let mut association = ClientAssociation::new(options.max_response);
        let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
        association.propose(&options.proposal, &mut output);
        stream.write_all(&output).await.map_err(broken)?;
        let outcome = read_until(&mut stream, &mut input, |input| {
            association.outcome(&options.proposal, input)
        })
        .await
        .map_err(|error| match error {
            ReadError::Io(source) => ConnectError::Broken { server, source },
            ReadError::Misbehaved(source) => ConnectError::Bind { server, source },
        })?;
        if outcome.syntaxes.is_empty() {
            return Err(ConnectError::Rejected {
                server,
                outcome: Box::new(outcome),
            });
        }
        output.clear();
        let call_timeout = options.call_timeout;
        Ok(Self {
            stream,
            server,
            association,
            outcome,
            input,
            output,
            call_timeout,
            usable: true,
        })
    }

    /// What the server made of the bind.
    #[must_use]
    pub fn offered(&self) -> &BindOutcome {
        &self.outcome
    }

    /// The server's address.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Our own address on this connection.
    ///
    /// # Errors
    /// When the system no longer knows the socket's address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The transfer syntax that [`call`](Self::call) uses: the first that was accepted.
    #[must_use]
    pub fn syntax(&self) -> Option<TransferSyntax> {
        self.association.syntaxes().next()
    }

    /// Proposes more contexts with an alter_context.
    ///
    /// # Errors
    /// As for [`call`](Self::call). A rejected context is no error.
    pub async fn alter_context(&mut self, proposal: &Proposal) -> Result<BindOutcome, CallError> {
        self.output.clear();
        self.association.propose(proposal, &mut self.output);
        self.exchange(|association, input| association.outcome(proposal, input))
            .await
    }

    /// Makes a call in the bound transfer syntax. `stub` is sent as it is, labelled with `drep`.
    ///
    /// # Errors
    /// [`CallError`] when there is no whole reply. A fault is a [`Reply`].
    pub async fn call(&mut self, opnum: u16, drep: DataRepresentation, stub: &[u8]) -> Result<Reply, CallError> {
        let syntax = self.syntax().ok_or(CallError::Unusable)?;
        self.call_in(syntax, opnum, drep, stub).await
    }

    /// Makes a call in one of several accepted transfer syntaxes.
    ///
    /// # Errors
    /// As for [`call`](Self::call), or [`CallError::NotAccepted`], after which the connection is as good as before.
    pub async fn call_in(
        &mut self,
        syntax: TransferSyntax,
        opnum: u16,
        drep: DataRepresentation,
        stub: &[u8],
    ) -> Result<Reply, CallError> {
        self.output.clear();
        if !self.association.request(syntax, opnum, drep, stub, &mut self.output) {
            return Err(CallError::NotAccepted(syntax));
        }
        self.exchange(|association, input| association.reply(input)).await
    }

    /// Whether the connection can carry another call: the last one ended well, and the server has neither closed it nor
    /// sent anything unasked. Asked before a pooled connection is used again.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let quiet =
            || matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.usable && self.input.is_empty() && quiet()
    }

    async fn exchange<T>(
        &mut self,
        mut answer: impl FnMut(&mut ClientAssociation, &mut BytesMut) -> Result<Option<T>, Misbehaviour>,
    ) -> Result<T, CallError> {
        // Set again by success alone: an abandoned call leaves its reply in the stream.
        if !std::mem::take(&mut self.usable) {
            return Err(CallError::Unusable);
        }
        let (stream, input, association) = (&mut self.stream, &mut self.input, &mut self.association);
        let output = &self.output;
        let exchange = async {
            stream.write_all(output).await.map_err(ReadError::Io)?;
            read_until(stream, input, |input| answer(association, input)).await
        };
        let reply = timeout(self.call_timeout, exchange)
            .await
            .map_err(|_| CallError::Timeout(self.call_timeout))?;
        let reply = reply.map_err(|error| match error {
            ReadError::Io(source) => CallError::Broken(source),
            ReadError::Misbehaved(source) => CallError::Misbehaved(source),
        })?;
        self.usable = true;
        Ok(reply)
    }
}

/// Reads until `parse` has what it wants.
async fn read_until<T>(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    mut parse: impl FnMut(&mut BytesMut) -> Result<Option<T>, Misbehaviour>,
) -> Result<T, ReadError> {
    /// A KMS answer with its headers fits in one read of this many bytes.
    const CHUNK: usize = 2048;

    loop {
        if let Some(parsed) = parse(input).map_err(ReadError::Misbehaved)? {
            return Ok(parsed);
        }
        input.reserve(CHUNK);
        if stream.read_buf(input).await.map_err(ReadError::Io)? == 0 {
            return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use bytes::Bytes;
    use tokio::net::TcpListener;

    use super::*;
    use crate::rpc::{Answer, Association, FaultStatus, Limits, Offer};

    const LE: DataRepresentation = DataRepresentation::LITTLE_ENDIAN;

    /// A server of one connection. A stub of `fault` gets a fault, `hang` no answer, `close` the connection's end,
    /// `twice` two answers, and any other stub itself.
    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
            let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
            loop {
                if let Some(call) = server.receive(&mut input, &mut output).unwrap() {
                    let echo = Answer::Stub(call.stub.clone());
                    match &call.stub[..] {
                        b"close" => return,
                        b"hang" => {}
                        b"fault" => server.answer(&call, Answer::Fault(FaultStatus::SERVER_TOO_BUSY), &mut output),
                        b"twice" => (0..2).for_each(|_| server.answer(&call, echo.clone(), &mut output)),
                        _ => server.answer(&call, echo, &mut output),
                    }
                }
                stream.write_all(&output).await.unwrap();
                output.clear();
                if stream.read_buf(&mut input).await.unwrap() == 0 {
                    return;
                }
            }
        });
        address
    }

    async fn connected() -> Connection {
        let options = ConnectOptions {
            call_timeout: Duration::from_millis(200),
            ..ConnectOptions::default()
        };
        Connection::connect(server().await, &options).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_is_bound_once_and_called_often() {
        let mut connection = connected().await;
        assert_eq!(connection.offered().features, Some(0b10));
        assert_eq!(connection.syntax(), Some(TransferSyntax::Ndr64));
        for length in [0, 5, 4000] {
            let stub = Bytes::from(vec![1; length]);
            assert_eq!(connection.call(0, LE, &stub).await.unwrap(), Reply::Stub(stub, LE));
            assert!(connection.is_usable());
        }
        let busy = connection.call(0, LE, b"fault").await.unwrap();
        assert_eq!(busy, Reply::Fault(FaultStatus::SERVER_TOO_BUSY));
        assert!(connection.is_usable());
    }

    #[tokio::test]
    async fn alter_context_adds_a_transfer_syntax() {
        let mut connection = connected().await;
        let ndr = TransferSyntax::Ndr;
        assert!(matches!(
            connection.call_in(ndr, 0, LE, b"x").await,
            Err(CallError::NotAccepted(_))
        ));
        let outcome = connection
            .alter_context(&Proposal::one(Interface::KMS, ndr))
            .await
            .unwrap();
        assert_eq!(outcome.syntaxes, [ndr]);
        assert_eq!(
            connection.call_in(ndr, 0, LE, b"x").await.unwrap(),
            Reply::Stub(Bytes::from_static(b"x"), LE)
        );
    }

    #[tokio::test]
    async fn a_call_that_times_out_makes_the_connection_unusable() {
        let mut connection = connected().await;
        assert!(matches!(
            connection.call(0, LE, b"hang").await,
            Err(CallError::Timeout(_))
        ));
        assert!(!connection.is_usable());
        assert!(matches!(connection.call(0, LE, b"x").await, Err(CallError::Unusable)));
    }

    #[tokio::test]
    async fn an_abandoned_call_makes_the_connection_unusable() {
        let mut connection = connected().await;
        let abandoned = timeout(Duration::from_millis(1), connection.call(0, LE, b"hang"));
        assert!(abandoned.await.is_err());
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn a_closed_connection_is_an_error_and_is_noticed_before_the_next_call() {
        let mut connection = connected().await;
        assert!(matches!(
            connection.call(0, LE, b"close").await,
            Err(CallError::Broken(_))
        ));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ConnectOptions::default();
        let connect = Connection::connect(listener.local_addr().unwrap(), &options);
        let accept = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
            let (mut input, mut output) = (BytesMut::new(), BytesMut::new());
            while output.is_empty() {
                stream.read_buf(&mut input).await.unwrap();
                server.receive(&mut input, &mut output).unwrap();
            }
            stream.write_all(&output).await.unwrap();
            stream
        };
        let (connection, stream) = tokio::join!(connect, accept);
        let connection = connection.unwrap();
        assert!(connection.is_usable());
        drop(stream);
        connection.stream.readable().await.unwrap();
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_asked_for_makes_the_connection_unusable() {
        let mut connection = connected().await;
        assert!(matches!(connection.call(0, LE, b"twice").await, Ok(Reply::Stub(..))));
        if connection.input.is_empty() {
            connection.stream.readable().await.unwrap();
        }
        assert!(!connection.is_usable());
    }

    #[tokio::test]
    async fn each_step_of_connecting_can_fail() {
        let category = |result: Result<Connection, ConnectError>| result.unwrap_err().category();
        let patience = Duration::from_millis(50);
        let options = ConnectOptions {
            bind_timeout: patience,
            ..ConnectOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(category(Connection::connect(address, &options).await), "bind_timeout");
        let close = async { drop(listener.accept().await.unwrap()) };
        drop(listener.accept().await.unwrap());
        let (result, ()) = tokio::join!(Connection::connect(address, &options), close);
        assert_eq!(category(result), "reset");
        drop(listener);
        assert_eq!(category(Connection::connect(address, &options).await), "connect");
        let other = Interface {
            minor: 9,
            ..Interface::KMS
        };
        let options = ConnectOptions {
            proposal: Proposal::like_windows(other),
            ..ConnectOptions::default()
        };
        assert_eq!(
            category(Connection::connect(server().await, &options).await),
            "rejected"
        );
    }
}
