//! The association against a client of ours, against fixtures, and against whatever bytes there are.

mod binding;
mod calls;
mod properties;
mod violations;

use super::*;
use crate::rpc::BindOutcome;
use crate::rpc::client::{ClientAssociation, Proposal, Reply};
use crate::rpc::pdu::{ContextElement, ContextResult, NakReason, RejectReason};
use crate::rpc::syntax::{Interface, SyntaxId};
use crate::rpc::testdata::hex;

const GROUP: NonZeroU32 = NonZeroU32::new(0x1234).unwrap();
const LE: DataRepresentation = DataRepresentation::LITTLE_ENDIAN;
const BE: DataRepresentation = DataRepresentation::BIG_ENDIAN;
const NDR: TransferSyntax = TransferSyntax::Ndr;
const NDR64: TransferSyntax = TransferSyntax::Ndr64;

fn server() -> Association {
    server_with(Limits::default())
}

fn server_with(limits: Limits) -> Association {
    Association::new(Arc::new(Offer::kms()), limits, GROUP, 1688)
}

/// A client and a server, and the bytes between them.
struct Pair {
    client: ClientAssociation,
    server: Association,
    to_server: BytesMut,
    to_client: BytesMut,
}

impl Pair {
    fn new(server: Association) -> Self {
        let client = ClientAssociation::new(1 << 20);
        Self {
            client,
            server,
            to_server: BytesMut::new(),
            to_client: BytesMut::new(),
        }
    }

    /// Bound in one transfer syntax.
    fn bound(server: Association, syntax: TransferSyntax) -> Self {
        let mut pair = Self::new(server);
        pair.propose(&Proposal::one(Interface::KMS, syntax));
        pair
    }

    fn propose(&mut self, proposal: &Proposal) -> BindOutcome {
        self.client.propose(proposal, &mut self.to_server);
        assert_eq!(self.receive(), Ok(None));
        self.client.outcome(proposal, &mut self.to_client).unwrap().unwrap()
    }

    fn ask(&mut self, syntax: TransferSyntax, opnum: u16, drep: DataRepresentation, stub: &[u8]) {
        assert!(self.client.request(syntax, opnum, drep, stub, &mut self.to_server));
    }

    fn receive(&mut self) -> Result<Option<Call>, Violation> {
        self.server.receive(&mut self.to_server, &mut self.to_client)
    }

    fn reply(&mut self) -> Reply {
        self.client.reply(&mut self.to_client).unwrap().unwrap()
    }
}

/// A header of call 9.
fn header(kind: PacketType, drep: DataRepresentation) -> Header {
    Header::new(kind, drep, 9)
}

fn element(id: u16, abstract_syntax: SyntaxId, transfer_syntaxes: &[SyntaxId]) -> ContextElement {
    ContextElement {
        id,
        abstract_syntax,
        transfer_syntaxes: transfer_syntaxes.to_vec(),
    }
}

/// A bind or alter_context with these contexts.
fn proposing(kind: PacketType, contexts: Vec<ContextElement>) -> BytesMut {
    let bind = Bind {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 0,
        contexts,
    };
    let mut out = BytesMut::new();
    bind.encode(&header(kind, LE), &mut out);
    out
}

/// A bind to KMS in NDR on context 0.
fn plain_bind() -> BytesMut {
    proposing(PacketType::Bind, vec![element(0, Interface::KMS.id(), &[NDR.id()])])
}

/// One fragment of a request.
fn fragment(call_id: u32, flags: Flags, drep: DataRepresentation, head: RequestHead, stub: &[u8]) -> BytesMut {
    let header = Header {
        flags,
        ..Header::new(PacketType::Request, drep, call_id)
    };
    let mut out = BytesMut::new();
    crate::rpc::pdu::write_pdu(&mut out, &header, |writer| {
        writer.u32(head.alloc_hint);
        writer.u16(head.context_id);
        writer.u16(head.opnum);
        writer.bytes(stub);
    });
    out
}

const HEAD: RequestHead = RequestHead {
    alloc_hint: 0,
    context_id: 0,
    opnum: 0,
    object: None,
};

/// Everything that a server makes of some bytes.
#[derive(Debug, PartialEq)]
struct Made {
    calls: Vec<Call>,
    output: BytesMut,
    violation: Option<Violation>,
}

/// Feeds a server bytes in pieces; each call is answered with its own stub.
fn feed<'a>(server: &mut Association, pieces: impl IntoIterator<Item = &'a [u8]>) -> Made {
    let mut made = Made {
        calls: Vec::new(),
        output: BytesMut::new(),
        violation: None,
    };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match server.receive(&mut input, &mut made.output) {
                Ok(None) => break,
                Ok(Some(call)) => {
                    server.answer(&call, Answer::Stub(call.stub.clone()), &mut made.output);
                    made.calls.push(call);
                }
                Err(violation) => {
                    made.violation = Some(violation);
                    return made;
                }
            }
        }
    }
    made
}

#[test]
fn an_idle_association_is_small() {
    assert!(size_of::<Association>() <= 80, "{}", size_of::<Association>());
}
