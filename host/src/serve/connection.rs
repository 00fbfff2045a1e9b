//! One connection: bytes in, calls out, answers back, each step within its time.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tracing::Instrument as _;

use super::proxy::{self, Preface};
use super::{Client, LAST_CALL, Outcome, Patience, Server};
use crate::admission::{ConnectionSlot, Peer, Refusal, SourceSlot};
use crate::metrics::RequestResult;
use crate::rpc::{Answer, Association, Call, Limits, Violation};

/// Bytes of one read: a KMS client's bind or request fits.
const READ: usize = 2048;

/// Why a connection ends.
enum End {
    /// The client closed or lost it, it was idle for its time, or we drain.
    Quiet,
    /// The client is cut off.
    Refused(Refusal),
    /// The client broke the protocol; what it is told has been sent.
    Violation(Violation),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Quiet
    }
}

/// What a wait for the client is a wait for, and so what its end means.
#[derive(Clone, Copy)]
enum Phase {
    /// The first reply: its time runs from the connect and no byte extends it.
    Handshake,
    /// The next request.
    Idle,
    /// The rest of a request, until this time: a client that sends byte by byte gains nothing.
    Request(Instant),
}

impl Phase {
    /// Until when what is whole now must be answered: its time runs from its first byte to its answer's last.
    fn deadline(self, patience: &Patience) -> Instant {
        match self {
            Self::Request(deadline) => deadline,
            Self::Handshake | Self::Idle => Instant::now() + patience.request,
        }
    }
}

/// The socket, its buffers and its one timer.
struct Wire<'a, 's> {
    stream: &'a mut TcpStream,
    input: BytesMut,
    output: BytesMut,
    timer: Pin<&'a mut Sleep>,
    /// When the client has been idle for its time, if no request is under way.
    idle_until: Instant,
    drain: Pin<&'a mut WaitForCancellationFuture<'s>>,
    /// Whether the drain was noticed.
    drained: bool,
    /// Ends what a drain has waited for long enough.
    cut: &'s CancellationToken,
}

/// Serves one connection to its end.
pub(super) async fn run(
    mut stream: TcpStream,
    peer: IpAddr,
    port: u16,
    kind: Peer,
    server: Arc<Server>,
    slot: ConnectionSlot,
) {
    let patience = server.patience.load_full();
    let first = if kind == Peer::Client {
        patience.handshake
    } else {
        patience.proxy_header
    };
    let timer = std::pin::pin!(tokio::time::sleep(first));
    let drain = std::pin::pin!(server.drain.cancelled());
    let mut wire = Wire {
        stream: &mut stream,
        input: BytesMut::new(),
        output: BytesMut::new(),
        timer,
        idle_until: Instant::now() + first,
        drain,
        drained: false,
        cut: &server.cut,
    };
    let mut source = peer;
    match converse(&mut wire, &mut source, port, kind, &server, &patience).await {
        End::Quiet => {}
        End::Refused(refusal) => server.refused(refusal, source, None),
        End::Violation(violation) => server.refused(Refusal::Protocol, source, Some(&violation)),
    }
    drop(slot);
}

/// Returns how the connection ended.
async fn converse(
    wire: &mut Wire<'_, '_>,
    source: &mut IpAddr,
    port: u16,
    kind: Peer,
    server: &Arc<Server>,
    patience: &Patience,
) -> End {
    match admitted(wire, source, kind, server, patience).await {
        Ok(_slot) => serve(wire, *source, port, server, patience).await,
        Err(end) => end,
    }
}

/// Learns who the client is, and takes its place among its source's connections.
async fn admitted(
    wire: &mut Wire<'_, '_>,
    source: &mut IpAddr,
    kind: Peer,
    server: &Arc<Server>,
    patience: &Patience,
) -> Result<SourceSlot, End> {
    match kind {
        Peer::Client => {
            let slot = server.admission.source(*source)?;
            wire.fill(Phase::Handshake, false).await?;
            if proxy::preface(&wire.input) != Preface::Absent {
                return Err(End::Refused(Refusal::ProxyUntrusted));
            }
            Ok(slot)
        }
        Peer::Balancer { header_required } => {
            if let Some(client) = proxied(wire, *source, header_required).await? {
                *source = client;
                server.admission.permits(client)?;
            }
            wire.timer.as_mut().reset((Instant::now() + patience.handshake).into());
            Ok(server.admission.source(*source)?)
        }
    }
}

/// Reads the PROXY header: the client it names, or none for a connection of the load balancer's own. Without a header,
/// where it may be missing, the peer is a client like any other.
async fn proxied(wire: &mut Wire<'_, '_>, peer: IpAddr, required: bool) -> Result<Option<IpAddr>, End> {
    loop {
        match proxy::preface(&wire.input) {
            Preface::Incomplete => wire.fill(Phase::Handshake, false).await?,
            Preface::Client { source, length } => {
                wire.input.advance(length);
                return Ok(Some(source));
            }
            Preface::Local { length } => {
                wire.input.advance(length);
                return Ok(None);
            }
            Preface::Absent if required => return Err(End::Refused(Refusal::ProxyMissing)),
            Preface::Absent => return Ok(Some(peer)),
            Preface::Invalid => return Err(End::Refused(Refusal::ProxyInvalid)),
        }
    }
}

/// The association's life.
async fn serve(wire: &mut Wire<'_, '_>, source: IpAddr, port: u16, server: &Arc<Server>, patience: &Patience) -> End {
    let limits = Limits {
        request: patience.max_request_bytes,
        ..Limits::default()
    };
    let mut association = Association::new(server.offer.load_full(), limits, server.next_group(), port);
    let mut phase = Phase::Handshake;
    let mut answered = false;
    loop {
        let bound = association.is_bound();
        let received = association.receive(&mut wire.input, &mut wire.output);
        for _ in 0..association.take_answered() {
            if let Err(refusal) = server.admission.request(source) {
                return End::Refused(refusal);
            }
        }
        let step = match received {
            Ok(Some(call)) => {
                answered = true;
                let deadline = phase.deadline(patience);
                phase = Phase::Idle;
                let sent = answer(wire, &mut association, call, source, server, patience, deadline).await;
                wire.rest(patience, true);
                if wire.drained { Err(End::Quiet) } else { sent }
            }
            Ok(None) if !wire.output.is_empty() => {
                let deadline = phase.deadline(patience);
                phase = Phase::Idle;
                let sent = wire.flush(deadline).await;
                // Only a bind and calls give time: what else a client is answered does not keep it here.
                wire.rest(patience, !bound);
                sent
            }
            Ok(None) => {
                let filled = wire.fill(phase, answered).await;
                if let Phase::Idle = phase {
                    phase = Phase::Request(Instant::now() + patience.request);
                }
                filled
            }
            Err(violation) => {
                // What the client is told is a courtesy; that it cannot be told changes nothing.
                let _ = wire.flush(phase.deadline(patience)).await;
                Err(End::Violation(violation))
            }
        };
        if let Err(end) = step {
            return end;
        }
    }
}

/// Has one call answered and sends the answer.
async fn answer(
    wire: &mut Wire<'_, '_>,
    association: &mut Association,
    call: Call,
    source: IpAddr,
    server: &Arc<Server>,
    patience: &Patience,
    deadline: Instant,
) -> Result<(), End> {
    server.admission.request(source)?;
    let started = Instant::now();
    // Of no cost while nobody collects traces: no log line is about each request.
    let span = tracing::debug_span!("request", client.addr = %source, result = tracing::field::Empty);
    let client = Client {
        address: source,
        source: server.admission.source_of(source),
        deadline,
        time: patience.request,
    };
    let mut asked = server.service.call(&call, client).instrument(span);
    let outcome = tokio::select! {
        biased;
        outcome = &mut asked => outcome,
        () = server.cut.cancelled() => return Err(End::Quiet),
    };
    server.metrics.request_seconds.observe(started.elapsed().as_secs_f64());
    let result = match &outcome {
        Outcome::Answer(Answer::Stub(_) | Answer::StubIn(..)) => RequestResult::Answered,
        Outcome::Answer(Answer::Fault(_)) => RequestResult::Fault,
        Outcome::Close => RequestResult::Closed,
    };
    server.metrics.request(result);
    asked.span().record("result", tracing::field::debug(result));
    drop(asked);
    let Outcome::Answer(answer) = outcome else {
        return Err(End::Quiet);
    };
    association.answer(&call, answer, &mut wire.output);
    wire.flush(deadline).await
}

impl Wire<'_, '_> {
    /// Waits for bytes of the client and appends them to the input. Holds no buffer while nothing of a PDU is here.
    async fn fill(&mut self, phase: Phase, answered: bool) -> Result<(), End> {
        if let Phase::Request(deadline) = phase {
            let until = if self.drained {
                deadline.min(self.idle_until)
            } else {
                deadline
            };
            if self.timer.deadline() != until.into() {
                self.timer.as_mut().reset(until.into());
            }
        }
        loop {
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            tokio::select! {
                biased;
                read = read(self.stream, &mut self.input) => return match read {
                    Ok(0) | Err(_) => Err(End::Quiet),
                    Ok(_) => Ok(()),
                },
                () = self.timer.as_mut() => return Err(self.out_of_time(phase)),
                () = self.cut.cancelled(), if self.drained => return Err(End::Quiet),
                () = self.drain.as_mut(), if !self.drained => {
                    self.drained = true;
                    if let (Phase::Idle, true) = (phase, answered) {
                        return Err(End::Quiet);
                    }
                    // A client that has connected is about to ask.
                    let last_call = Instant::now() + LAST_CALL;
                    self.idle_until = self.idle_until.min(last_call);
                    if self.timer.deadline() > last_call.into() {
                        self.timer.as_mut().reset(last_call.into());
                    }
                }
            }
        }
    }

    fn out_of_time(&self, phase: Phase) -> End {
        match phase {
            _ if self.drained => End::Quiet,
            Phase::Handshake => End::Refused(Refusal::HandshakeTimeout),
            Phase::Idle => End::Quiet,
            Phase::Request(_) => End::Refused(Refusal::RequestTimeout),
        }
    }

    /// Lets the client be idle: for its whole time anew, or for what is left of it.
    fn rest(&mut self, patience: &Patience, anew: bool) {
        if anew {
            let time = if self.drained { LAST_CALL } else { patience.idle };
            self.idle_until = Instant::now() + time;
        }
        self.timer.as_mut().reset(self.idle_until.into());
    }

    /// Sends the output by `deadline`, usually in one system call, and gives its buffer back.
    async fn flush(&mut self, deadline: Instant) -> Result<(), End> {
        while !self.output.is_empty() {
            match self.stream.try_write(&self.output) {
                Ok(written) => self.output.advance(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.timer.as_mut().reset(deadline.into());
                    tokio::select! {
                        biased;
                        ready = self.stream.writable() => ready?,
                        () = self.timer.as_mut() => return Err(End::Refused(Refusal::RequestTimeout)),
                        () = self.cut.cancelled() => return Err(End::Quiet),
                    }
                }
                Err(_) => return Err(End::Quiet),
            }
        }
        self.output = BytesMut::new();
        Ok(())
    }
}

/// Appends what has come, and says how much it is; 0 at the end. The room for it is on the stack: a connection that waits
/// has none.
async fn read(stream: &mut TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|context| {
        let mut room = [MaybeUninit::uninit(); READ];
        let mut came = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(context, &mut came))?;
        input.extend_from_slice(came.filled());
        Poll::Ready(Ok(came.filled().len()))
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Admission, Rules};
    use crate::config::ClientsConfig;
    use crate::metrics::Metrics;
    use crate::rpc::Offer;

    struct Nobody;

    impl super::super::Service for Nobody {
        fn call<'a>(&'a self, _: &'a Call, _: Client) -> futures::future::BoxFuture<'a, Outcome> {
            Box::pin(async { Outcome::Close })
        }
    }

    /// Ten thousand idle connections are ten thousand of these futures.
    #[tokio::test]
    async fn an_idle_connection_is_small() {
        let clients = ClientsConfig::default();
        let admission = Arc::new(Admission::new(Rules::new(&clients)));
        let server = Server::new(
            Arc::new(Nobody),
            Arc::clone(&admission),
            Arc::new(Metrics::new()),
            Offer::kms(),
            Patience::new(&clients),
            CancellationToken::new(),
        );
        let listener = super::super::listen(([127, 0, 0, 1], 0).into(), false).expect("listens");
        let stream = TcpStream::connect(listener.local_addr().expect("address"))
            .await
            .expect("connected");
        let (slot, kind) = admission.connection([127, 0, 0, 1].into()).expect("room");
        let future = run(stream, [127, 0, 0, 1].into(), 1688, kind, Arc::new(server), slot);
        let size = std::mem::size_of_val(&future);
        assert!(size <= 1536, "{size} bytes");
    }
}
