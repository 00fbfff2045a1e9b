//! The server's side of an association: a state machine from bytes to calls, and from answers to bytes.
//!
//! ```text
//! Unbound --bind--> Bound --alter_context, request*--> Bound
//!    any --violation, answered by a fault or bind_nak--> Ended
//! ```
//!
//! It serves one interface, anonymously. Concurrent multiplexing is not offered: calls are taken one after the other, and
//! what a client sends ahead stays in its input buffer. An association holds no buffer of its own until a call comes in
//! several fragments, so an idle one costs less than a hundred bytes.

mod negotiate;
mod reassembly;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use uuid::Uuid;

use self::negotiate::Context;
use self::reassembly::{Collected, Reassembly};
use super::fault::FaultStatus;
use super::frame::{Frame, next_frame};
use super::pdu::{
    Bind, BindAck, BindNak, ContextResult, DataRepresentation, Fault, Flags, Fragmented, Header, PacketType,
    RequestHead,
};
use super::syntax::{Offer, TransferSyntax};
use super::violation::{Refusal, Violation};
use super::{MINIMUM_FRAGMENT, OFFERED_FRAGMENT};

/// Bounds on what one association may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest PDU in bytes. Not below [`OFFERED_FRAGMENT`], which clients are told they may send.
    pub pdu: u16,
    /// Largest reassembled request stub in bytes. KMS requests are below 1 KiB.
    pub request: u32,
    /// Accepted presentation contexts.
    pub contexts: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pdu: OFFERED_FRAGMENT,
            request: 4096,
            contexts: 16,
        }
    }
}

/// A whole request of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The client's number for this call.
    pub call_id: u32,
    /// The presentation context that it came on.
    pub context_id: u16,
    /// The operation, within the offer's range.
    pub opnum: u16,
    /// How the stub is marshalled.
    pub syntax: TransferSyntax,
    /// The stub's data representation.
    pub drep: DataRepresentation,
    /// The object that the call is for, where the client named one.
    pub object: Option<Uuid>,
    /// The reassembled stub. A call in one fragment shares the input's memory.
    pub stub: Bytes,
}

/// What a call is answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A response stub in the caller's data representation.
    Stub(Bytes),
    /// A response stub in another one: receiver makes right (C706 14.1), and a relayed answer is not rewritten.
    StubIn(DataRepresentation, Bytes),
    /// A fault; the association goes on.
    Fault(FaultStatus),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unbound,
    Bound,
    Ended,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Association {
    offer: Arc<Offer>,
    contexts: Vec<Context>,
    incoming: Option<Box<Reassembly>>,
    limits: Limits,
    group: NonZeroU32,
    port: u16,
    /// Largest fragment that the client receives, in bytes.
    max_xmit: u16,
    /// Largest fragment that the client sends, in bytes.
    max_recv: u16,
    /// The client's minor version, which we answer in.
    minor: u8,
    phase: Phase,
    /// See [`take_answered`](Self::take_answered).
    answered: u32,
}

impl Association {
    /// An association that waits for a bind. `group` is the association group that a client gets that asks for a new one;
    /// `port` is told as the secondary address.
    #[must_use]
    pub fn new(offer: Arc<Offer>, limits: Limits, group: NonZeroU32, port: u16) -> Self {
        Self {
            offer,
            contexts: Vec::new(),
            incoming: None,
            limits,
            group,
            port,
            max_xmit: MINIMUM_FRAGMENT,
            max_recv: MINIMUM_FRAGMENT,
            minor: 0,
            phase: Phase::Unbound,
            answered: 0,
        }
    }

    /// Whether a bind has been accepted and the association has not ended.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.phase == Phase::Bound
    }

    /// Whether nothing of a call has arrived that is not whole yet.
    #[must_use]
    pub fn is_between_calls(&self) -> bool {
        self.incoming.is_none()
    }

    /// How many PDUs were answered without a call since this was last asked, the bind not among them: alter_contexts and
    /// requests that got a fault. Each is work like a call, and to be counted as one.
    pub fn take_answered(&mut self) -> u32 {
        std::mem::take(&mut self.answered)
    }

    /// Takes whole PDUs off `input` until one completes a call, appending to `output` what they are answered with by
    /// themselves (bind_ack, alter_context_resp, faults that do not end the association). `None`: more bytes are needed.
    /// After a call, answer it, then call again: there may be more in `input`.
    ///
    /// # Errors
    /// A [`Violation`] ends the association. The PDU to send before closing is in `output` already.
    pub fn receive(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<Option<Call>, Violation> {
        if self.phase == Phase::Ended {
            return Err(Violation::Ended);
        }
        loop {
            let (header, step) = match next_frame(input, self.limits.pdu) {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => (frame.header, self.step(frame, output)),
                Err(bad) => (bad.header, Err(Violation::Frame(bad.flaw))),
            };
            match step {
                Ok(None) => {}
                Ok(call) => return Ok(call),
                Err(violation) => {
                    self.end(&header, violation, output);
                    return Err(violation);
                }
            }
        }
    }

    /// Appends the answer to `call`, in fragments of the negotiated size.
    pub fn answer(&mut self, call: &Call, answer: Answer, output: &mut BytesMut) {
        let (drep, stub) = match answer {
            Answer::Stub(stub) => (DataRepresentation::of(call.drep.order()), stub),
            Answer::StubIn(drep, stub) => (drep, stub),
            Answer::Fault(status) => {
                return self.fault(call.drep, call.call_id, call.context_id, status, Flags(0), output);
            }
        };
        Fragmented {
            kind: PacketType::Response,
            minor: self.minor,
            drep,
            call_id: call.call_id,
            context_id: call.context_id,
            opnum: 0,
            object: None,
            stub: &stub,
            max_fragment: self.max_xmit,
        }
        .encode(output);
    }

    fn step(&mut self, frame: Frame, output: &mut BytesMut) -> Result<Option<Call>, Violation> {
        let kind = frame.header.kind;
        match (self.phase, kind) {
            (Phase::Unbound, PacketType::Bind) => self.bind(&frame, output).map(|()| None),
            (Phase::Unbound, _) => Err(Violation::BeforeBind(kind)),
            (_, PacketType::Bind) => Err(Violation::SecondBind),
            (_, PacketType::AlterContext) => self.alter_context(&frame, output).map(|()| None),
            (_, PacketType::Request) => self.request(frame, output),
            // Calls are answered in turn, so there is none to cancel that has not been answered or is not being received.
            (_, PacketType::CoCancel) => Ok(None),
            (_, PacketType::Orphaned) => {
                self.incoming
                    .take_if(|incoming| incoming.call_id() == frame.header.call_id);
                Ok(None)
            }
            _ => Err(Violation::Unexpected(kind)),
        }
    }

    fn bind(&mut self, frame: &Frame, output: &mut BytesMut) -> Result<(), Violation> {
        let header = &frame.header;
        let bind = self.proposal(frame)?;
        // Both directions are clamped to what we offer and what everyone must take, and cut to a multiple of eight.
        let clamp = |size: u16| size.clamp(MINIMUM_FRAGMENT, OFFERED_FRAGMENT) & !7;
        let results = negotiate::bind(&self.offer, self.limits.contexts, &mut self.contexts, &bind.contexts)?;
        self.max_xmit = clamp(bind.max_recv_frag);
        self.max_recv = clamp(bind.max_xmit_frag);
        self.minor = header.minor;
        // There is no state that a group would share, so joining one by its id always works.
        self.group = NonZeroU32::new(bind.assoc_group_id).unwrap_or(self.group);
        self.phase = Phase::Bound;
        let ack = BindAck {
            secondary_address: self.port.to_string().into_bytes(),
            ..self.ack(results)
        };
        ack.encode(&self.reply(PacketType::BindAck, header), output);
        Ok(())
    }

    fn alter_context(&mut self, frame: &Frame, output: &mut BytesMut) -> Result<(), Violation> {
        let alter = self.proposal(frame)?;
        let results = negotiate::alter_context(&self.offer, self.limits.contexts, &mut self.contexts, &alter.contexts)?;
        self.answered = self.answered.saturating_add(1);
        // Fragment sizes and group were negotiated by the bind.
        self.ack(results)
            .encode(&self.reply(PacketType::AlterContextResponse, &frame.header), output);
        Ok(())
    }

    fn ack(&self, results: Vec<ContextResult>) -> BindAck {
        BindAck {
            max_xmit_frag: self.max_xmit,
            max_recv_frag: self.max_recv,
            assoc_group_id: self.group.get(),
            secondary_address: Vec::new(),
            results,
        }
    }

    /// The body of a bind or alter_context, which may not be fragmented.
    fn proposal(&self, frame: &Frame) -> Result<Bind, Violation> {
        let header = &frame.header;
        if header.auth_length != 0 {
            return Err(Violation::Authentication(header.kind));
        }
        if !header.flags.has(Flags::WHOLE) || self.incoming.is_some() {
            return Err(Violation::Fragment(header.call_id));
        }
        Bind::decode(&frame.body, header.drep.order()).map_err(|_| Violation::Malformed(header.kind))
    }

    fn request(&mut self, frame: Frame, output: &mut BytesMut) -> Result<Option<Call>, Violation> {
        let Frame { header, body } = frame;
        if header.auth_length != 0 {
            return Err(Violation::Authentication(header.kind));
        }
        let (head, stub) = RequestHead::split(&header, body).map_err(|_| Violation::Malformed(header.kind))?;
        let refusal = match self.contexts.iter().find(|context| context.id == head.context_id) {
            None => FaultStatus::UNKNOWN_IF,
            Some(_) if !self.offer.opnums.contains(&head.opnum) => FaultStatus::OP_RNG_ERROR,
            Some(context) => {
                let collected = reassembly::collect(&mut self.incoming, &header, head, stub, self.limits.request)?;
                return Ok(collected.map(|Collected { head, stub }| Call {
                    call_id: header.call_id,
                    context_id: head.context_id,
                    opnum: head.opnum,
                    syntax: context.syntax,
                    drep: header.drep,
                    object: head.object,
                    stub,
                }));
            }
        };
        if reassembly::discard(&mut self.incoming, &header)? {
            self.answered = self.answered.saturating_add(1);
            self.fault(
                header.drep,
                header.call_id,
                head.context_id,
                refusal,
                Flags::DID_NOT_EXECUTE,
                output,
            );
        }
        Ok(None)
    }

    fn reply(&self, kind: PacketType, to: &Header) -> Header {
        Header {
            minor: self.minor,
            ..Header::new(kind, DataRepresentation::of(to.drep.order()), to.call_id)
        }
    }

    fn fault(
        &self,
        drep: DataRepresentation,
        call_id: u32,
        context_id: u16,
        status: FaultStatus,
        flags: Flags,
        output: &mut BytesMut,
    ) {
        let mut header = Header::new(PacketType::Fault, DataRepresentation::of(drep.order()), call_id);
        header.minor = self.minor;
        header.flags = header.flags | flags;
        Fault { context_id, status }.encode(&header, output);
    }

    /// Appends the refusal of `violation` and forgets everything that the association held.
    fn end(&mut self, header: &Header, violation: Violation, output: &mut BytesMut) {
        match violation.refusal(header.kind) {
            Refusal::Nak(reason) => BindNak::new(reason).encode(&self.reply(PacketType::BindNak, header), output),
            Refusal::Fault(status) => {
                self.fault(header.drep, header.call_id, 0, status, Flags::DID_NOT_EXECUTE, output);
            }
            Refusal::Silent => {}
        }
        self.phase = Phase::Ended;
        self.contexts = Vec::new();
        self.incoming = None;
    }
}
