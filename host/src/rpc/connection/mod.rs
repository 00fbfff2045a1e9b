//! [`ClientAssociation`] on a TCP connection.

mod error;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use self::error::{CallError, ConnectError};
use super::association::Call;
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
        Self::over(stream, server, options).await
    }

    /// Binds over a TCP connection that the caller made: from an address of its choice, or behind a PROXY header.
    ///
    /// # Errors
    /// As for [`connect`](Self::connect).
    pub async fn over(stream: TcpStream, server: SocketAddr, options: &ConnectOptions) -> Result<Self, ConnectError> {
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
        self.exchange(self.call_timeout, |association, input| {
            association.outcome(proposal, input)
        })
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
        self.exchange(self.call_timeout, ClientAssociation::reply).await
    }

    /// Makes the call that a client made, as it made it, within this time.
    ///
    /// # Errors
    /// As for [`call_in`](Self::call_in).
    pub async fn forward(&mut self, call: &Call, within: Duration) -> Result<Reply, CallError> {
        self.output.clear();
        if !self.association.forward(call, &mut self.output) {
            return Err(CallError::NotAccepted(call.syntax));
        }
        self.exchange(within, ClientAssociation::reply).await
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
        within: Duration,
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
        let reply = timeout(within, exchange)
            .await
            .map_err(|_| CallError::Timeout(within))?;
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
