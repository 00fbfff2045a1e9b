//! The client's side of an association, without I/O: a relay's to a licensed host, a rehearsal client's, a probe's.

#[cfg(test)]
mod tests;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::association::Call;
use super::fault::FaultStatus;
use super::frame::{Flaw, Frame, next_frame};
use super::pdu::{
    Bind, BindAck, BindNak, ContextElement, ContextResult, DataRepresentation, Fault, Flags, Fragmented, Header,
    NakReason, PacketType, ResponseHead,
};
use super::syntax::{Interface, SyntaxId, TransferSyntax};
use super::{MINIMUM_FRAGMENT, OFFERED_FRAGMENT};

/// What a client proposes in a bind or alter_context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The interface to bind to.
    pub interface: Interface,
    /// Transfer syntaxes, each in a context of its own whose id is its position. A server accepts at most one of them.
    pub syntaxes: Vec<TransferSyntax>,
    /// Bind-time features, proposed in one more context (MS-RPCE 3.3.1.5.3), or `None` to propose none.
    pub features: Option<u64>,
}

impl Proposal {
    /// The three contexts of one bind that Windows clients send: NDR, NDR64 and bind-time features.
    #[must_use]
    pub fn like_windows(interface: Interface) -> Self {
        Self {
            interface,
            syntaxes: vec![TransferSyntax::Ndr, TransferSyntax::Ndr64],
            features: Some(0b11),
        }
    }

    /// One transfer syntax and no features: what a pooled association needs.
    #[must_use]
    pub fn one(interface: Interface, syntax: TransferSyntax) -> Self {
        Self {
            interface,
            syntaxes: vec![syntax],
            features: None,
        }
    }

    fn contexts(&self, first_id: u16) -> Vec<ContextElement> {
        let features = self.features.map(SyntaxId::bind_time_features);
        let syntaxes = self.syntaxes.iter().map(|syntax| syntax.id()).chain(features);
        let element = |(id, syntax)| ContextElement {
            id,
            abstract_syntax: self.interface.id(),
            transfer_syntaxes: vec![syntax],
        };
        (first_id..).zip(syntaxes).map(element).collect()
    }
}

/// What a server made of a [`Proposal`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindOutcome {
    /// The transfer syntaxes that were accepted.
    pub syntaxes: Vec<TransferSyntax>,
    /// The bind-time features that were accepted, if the server knows of any.
    pub features: Option<u16>,
    /// Result of each proposed context, in their order.
    pub results: Vec<ContextResult>,
    /// Largest fragment that we may send, in bytes.
    pub max_xmit_frag: u16,
    /// Largest fragment that the server sends, in bytes.
    pub max_recv_frag: u16,
    /// The association group.
    pub assoc_group_id: u32,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The response stub, and the data representation that it is in.
    Stub(Bytes, DataRepresentation),
    /// The server's fault.
    Fault(FaultStatus),
}

/// How a server broke the protocol, or turned us away. The server is at fault for each; the association is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Misbehaviour {
    /// The common header is no PDU's.
    #[error("the header is broken: {0}")]
    Frame(Flaw),
    /// A body that ends before what it announces.
    #[error("the body of a {0} is malformed")]
    Malformed(PacketType),
    /// A PDU that does not answer what was sent.
    #[error("a {0} came as the answer")]
    Unexpected(PacketType),
    /// An answer to another call.
    #[error("the answer is for call {got}, not for call {asked}")]
    OtherCall {
        /// The call that was asked.
        asked: u32,
        /// The call that was answered.
        got: u32,
    },
    /// The server did not answer each proposed context, or accepted what was not proposed.
    #[error("the results do not match the contexts that were proposed")]
    Results,
    /// A fragment out of order.
    #[error("a fragment of the response is out of order")]
    Fragment,
    /// The reassembled response is larger than allowed.
    #[error("the response is larger than the limit of {0} bytes")]
    TooLarge(usize),
    /// Authentication that we did not ask for.
    #[error("the answer carries authentication that was not asked for")]
    Authentication,
    /// A bind_nak.
    #[error("the server refuses to bind, reason {}", .0.0)]
    Refused(NakReason),
    /// A fault in answer to a bind or alter_context.
    #[error("the server answers the bind with a fault, {0}")]
    BindFault(FaultStatus),
    /// A shutdown PDU: the server wants the connection closed.
    #[error("the server asks to close the connection")]
    Shutdown,
}

#[derive(Debug, Clone, Copy)]
struct Context {
    id: u16,
    syntax: TransferSyntax,
}

/// The client's side of one connection: one call at a time.
#[derive(Debug)]
pub struct ClientAssociation {
    contexts: Vec<Context>,
    next_context: u16,
    call_id: u32,
    max_xmit: u16,
    max_response: usize,
    stub: Option<BytesMut>,
}

impl ClientAssociation {
    /// An association that is not bound yet and takes responses of at most `max_response` bytes.
    #[must_use]
    pub fn new(max_response: usize) -> Self {
        Self {
            contexts: Vec::new(),
            next_context: 0,
            call_id: 0,
            max_xmit: MINIMUM_FRAGMENT,
            max_response,
            stub: None,
        }
    }

    /// Transfer syntaxes that calls can be made in.
    pub fn syntaxes(&self) -> impl Iterator<Item = TransferSyntax> {
        self.contexts.iter().map(|context| context.syntax)
    }

    /// Appends a bind, or an alter_context where a bind has been sent before.
    pub fn propose(&mut self, proposal: &Proposal, output: &mut BytesMut) {
        let kind = if self.call_id == 0 {
            PacketType::Bind
        } else {
            PacketType::AlterContext
        };
        let contexts = proposal.contexts(self.next_context);
        let bind = Bind {
            max_xmit_frag: OFFERED_FRAGMENT,
            max_recv_frag: OFFERED_FRAGMENT,
            assoc_group_id: 0,
            contexts,
        };
        self.call_id = self.call_id.wrapping_add(1).max(1);
        bind.encode(
            &Header::new(kind, DataRepresentation::LITTLE_ENDIAN, self.call_id),
            output,
        );
    }

    /// Reads the answer to `proposal`, the last one that was sent. `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Misbehaviour`] when the server refuses as a whole or breaks the protocol. A rejected context is no error.
    pub fn outcome(&mut self, proposal: &Proposal, input: &mut BytesMut) -> Result<Option<BindOutcome>, Misbehaviour> {
        let Some(Frame { header, body }) = self.frame(input)? else {
            return Ok(None);
        };
        let (kind, order) = (header.kind, header.drep.order());
        let malformed = |_| Misbehaviour::Malformed(kind);
        let ack = match kind {
            PacketType::BindAck | PacketType::AlterContextResponse => {
                BindAck::decode(&body, order).map_err(malformed)?
            }
            PacketType::BindNak => {
                return Err(Misbehaviour::Refused(
                    BindNak::decode(&body, order).map_err(malformed)?.reason,
                ));
            }
            PacketType::Fault => {
                return Err(Misbehaviour::BindFault(
                    Fault::decode(&body, order).map_err(malformed)?.status,
                ));
            }
            _ => return Err(Misbehaviour::Unexpected(kind)),
        };
        let proposed = proposal.contexts(self.next_context);
        if ack.results.len() != proposed.len() {
            return Err(Misbehaviour::Results);
        }
        let mut syntaxes = Vec::new();
        let mut features = None;
        for (element, result) in proposed.iter().zip(&ack.results) {
            match *result {
                ContextResult::Accepted(id) if element.transfer_syntaxes.contains(&id) => {
                    let syntax = TransferSyntax::ALL.into_iter().find(|syntax| syntax.id() == id);
                    let syntax = syntax.ok_or(Misbehaviour::Results)?;
                    self.contexts.push(Context { id: element.id, syntax });
                    syntaxes.push(syntax);
                }
                ContextResult::Accepted(_) => return Err(Misbehaviour::Results),
                ContextResult::Features(bits) => features = Some(bits),
                ContextResult::UserRejection(_) | ContextResult::ProviderRejection(_) => {}
            }
        }
        self.next_context = self
            .next_context
            .saturating_add(u16::try_from(proposed.len()).unwrap_or(u16::MAX));
        if kind == PacketType::BindAck {
            // What the server receives bounds what we send; it must take the minimum whatever it says.
            self.max_xmit = ack.max_recv_frag.clamp(MINIMUM_FRAGMENT, OFFERED_FRAGMENT);
        }
        Ok(Some(BindOutcome {
            syntaxes,
            features,
            results: ack.results,
            max_xmit_frag: self.max_xmit,
            max_recv_frag: ack.max_xmit_frag,
            assoc_group_id: ack.assoc_group_id,
        }))
    }

    /// Appends a request, fragmented to what the server takes. `false`: no context was accepted for `syntax`, and nothing
    /// is sent.
    #[must_use]
    pub fn request(
        &mut self,
        syntax: TransferSyntax,
        opnum: u16,
        drep: DataRepresentation,
        stub: &[u8],
        output: &mut BytesMut,
    ) -> bool {
        self.send(syntax, opnum, drep, None, stub, output)
    }

    /// The same with a call of someone else's: its operation, object and stub are sent as they are.
    #[must_use]
    pub fn forward(&mut self, call: &Call, output: &mut BytesMut) -> bool {
        self.send(call.syntax, call.opnum, call.drep, call.object, &call.stub, output)
    }

    fn send(
        &mut self,
        syntax: TransferSyntax,
        opnum: u16,
        drep: DataRepresentation,
        object: Option<Uuid>,
        stub: &[u8],
        output: &mut BytesMut,
    ) -> bool {
        let Some(context) = self.contexts.iter().find(|context| context.syntax == syntax) else {
            return false;
        };
        self.call_id = self.call_id.wrapping_add(1).max(1);
        self.stub = None;
        Fragmented {
            kind: PacketType::Request,
            minor: 0,
            drep,
            call_id: self.call_id,
            context_id: context.id,
            opnum,
            object,
            stub,
            max_fragment: self.max_xmit,
        }
        .encode(output);
        true
    }

    /// Reads the answer to the last request. `None`: more bytes are needed.
    ///
    /// # Errors
    /// [`Misbehaviour`] when the server breaks the protocol. A fault is no error.
    pub fn reply(&mut self, input: &mut BytesMut) -> Result<Option<Reply>, Misbehaviour> {
        while let Some(Frame { header, body }) = self.frame(input)? {
            match header.kind {
                PacketType::Response => {
                    let split = ResponseHead::split(&header, body);
                    let (_, fragment) = split.map_err(|_| Misbehaviour::Malformed(header.kind))?;
                    if let Some(stub) = self.collect(header.flags, fragment)? {
                        return Ok(Some(Reply::Stub(stub, header.drep)));
                    }
                }
                PacketType::Fault => {
                    let fault = Fault::decode(&body, header.drep.order());
                    let fault = fault.map_err(|_| Misbehaviour::Malformed(header.kind))?;
                    return Ok(Some(Reply::Fault(fault.status)));
                }
                kind => return Err(Misbehaviour::Unexpected(kind)),
            }
        }
        Ok(None)
    }

    /// The next PDU, if it is a well-formed answer to the last thing sent.
    fn frame(&self, input: &mut BytesMut) -> Result<Option<Frame>, Misbehaviour> {
        let frame = next_frame(input, u16::MAX).map_err(|bad| Misbehaviour::Frame(bad.flaw))?;
        if let Some(Frame { header, .. }) = &frame {
            if header.kind == PacketType::Shutdown {
                return Err(Misbehaviour::Shutdown);
            }
            if header.auth_length != 0 {
                return Err(Misbehaviour::Authentication);
            }
            if header.call_id != self.call_id {
                return Err(Misbehaviour::OtherCall {
                    asked: self.call_id,
                    got: header.call_id,
                });
            }
        }
        Ok(frame)
    }

    fn collect(&mut self, flags: Flags, fragment: Bytes) -> Result<Option<Bytes>, Misbehaviour> {
        if flags.has(Flags::FIRST) == self.stub.is_some() {
            return Err(Misbehaviour::Fragment);
        }
        let held = self.stub.as_ref().map_or(0, BytesMut::len);
        if held + fragment.len() > self.max_response {
            return Err(Misbehaviour::TooLarge(self.max_response));
        }
        if flags.has(Flags::WHOLE) {
            return Ok(Some(fragment));
        }
        let stub = self.stub.get_or_insert_default();
        stub.extend_from_slice(&fragment);
        Ok(if flags.has(Flags::LAST) {
            self.stub.take().map(BytesMut::freeze)
        } else {
            None
        })
    }
}
