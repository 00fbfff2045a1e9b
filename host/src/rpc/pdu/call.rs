//! request, response and fault (C706 12.6.4.7, 12.6.4.9, 12.6.4.10), and the cutting of stubs into fragments.

use bytes::{Buf, Bytes, BytesMut};
use uuid::Uuid;

use super::{DataRepresentation, Flags, Header, Malformed, PacketType, write_pdu};
use crate::rpc::fault::FaultStatus;
use crate::rpc::reader::{ByteOrder, Reader};

/// What stands before the stub in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHead {
    /// The sender's hint of how many stub bytes are still to come, this fragment's included. 0: no hint.
    pub alloc_hint: u32,
    /// The presentation context.
    pub context_id: u16,
    /// The operation.
    pub opnum: u16,
    /// The object, where the header's flags announce one.
    pub object: Option<Uuid>,
}

impl RequestHead {
    /// Splits a request's body into head and stub; the stub shares the body's memory.
    ///
    /// # Errors
    /// [`Malformed`] when the body is shorter than the head.
    pub fn split(header: &Header, mut body: Bytes) -> Result<(Self, Bytes), Malformed> {
        let mut reader = Reader::new(&body, header.drep.order());
        let head = Self {
            alloc_hint: reader.u32()?,
            context_id: reader.u16()?,
            opnum: reader.u16()?,
            object: header.flags.has(Flags::OBJECT).then(|| reader.uuid()).transpose()?,
        };
        let length = reader.position();
        body.advance(length);
        Ok((head, body))
    }
}

/// What stands before the stub in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHead {
    /// The sender's hint of how many stub bytes are still to come, this fragment's included. 0: no hint.
    pub alloc_hint: u32,
    /// The presentation context.
    pub context_id: u16,
}

impl ResponseHead {
    /// Splits a response's body into head and stub; the stub shares the body's memory.
    ///
    /// # Errors
    /// [`Malformed`] when the body is shorter than the head.
    pub fn split(header: &Header, mut body: Bytes) -> Result<(Self, Bytes), Malformed> {
        let mut reader = Reader::new(&body, header.drep.order());
        let head = Self {
            alloc_hint: reader.u32()?,
            context_id: reader.u16()?,
        };
        // cancel_count and a reserved byte
        reader.take(2)?;
        let length = reader.position();
        body.advance(length);
        Ok((head, body))
    }
}

/// Body of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The presentation context of the call that failed.
    pub context_id: u16,
    /// What went wrong.
    pub status: FaultStatus,
}

impl Fault {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`] when the body ends before the status.
    pub fn decode(body: &[u8], order: ByteOrder) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, order);
        reader.u32()?;
        let context_id = reader.u16()?;
        reader.take(2)?;
        Ok(Self {
            context_id,
            status: FaultStatus(reader.u32()?),
        })
    }

    /// Appends the PDU that `header` heads.
    pub fn encode(&self, header: &Header, out: &mut BytesMut) {
        write_pdu(out, header, |writer| {
            writer.u32(0); // no stub follows, so no hint
            writer.u16(self.context_id);
            writer.u16(0);
            writer.u32(self.status.0);
            writer.u32(0);
        });
    }
}

/// A request or response that is written in as many fragments as its stub needs.
pub(crate) struct Fragmented<'a> {
    /// [`PacketType::Request`] or [`PacketType::Response`].
    pub(crate) kind: PacketType,
    /// rpc_vers_minor of the association.
    pub(crate) minor: u8,
    pub(crate) drep: DataRepresentation,
    pub(crate) call_id: u32,
    pub(crate) context_id: u16,
    /// The operation in a request; cancel count and a reserved byte, so 0, in a response.
    pub(crate) opnum: u16,
    pub(crate) object: Option<Uuid>,
    pub(crate) stub: &'a [u8],
    /// Largest fragment that the receiver takes, in bytes, at least [`MINIMUM_FRAGMENT`](crate::rpc::MINIMUM_FRAGMENT).
    pub(crate) max_fragment: u16,
}

impl Fragmented<'_> {
    /// Appends the fragments. Each but the last holds a multiple of eight stub bytes (C706 12.6.3.1), and the hint tells
    /// what is left.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        const HEAD: usize = 8;
        const UUID: usize = 16;

        let object = if self.object.is_some() {
            (Flags::OBJECT, UUID)
        } else {
            (Flags(0), 0)
        };
        let head = Header::LENGTH + HEAD + object.1;
        out.reserve(self.stub.len() + head);
        let mut left = self.stub.len();
        for (chunk, ends) in fragments(self.stub, usize::from(self.max_fragment).saturating_sub(head)) {
            let mut header = Header::new(self.kind, self.drep, self.call_id);
            header.minor = self.minor;
            header.flags = ends | object.0;
            write_pdu(out, &header, |writer| {
                writer.u32(u32::try_from(left).unwrap_or(u32::MAX));
                writer.u16(self.context_id);
                writer.u16(self.opnum);
                if let Some(object) = self.object {
                    writer.uuid(object);
                }
                writer.bytes(chunk);
            });
            left -= chunk.len();
        }
    }
}

/// Cuts a stub into chunks of at most `room` bytes, with the flags that say which is first and last. An empty stub is
/// one empty chunk.
fn fragments(stub: &[u8], room: usize) -> impl Iterator<Item = (&[u8], Flags)> {
    let size = (room & !7).max(8);
    let count = stub.len().div_ceil(size).max(1);
    (0..count).map(move |index| {
        let chunk = stub.chunks(size).nth(index).unwrap_or_default();
        let first = if index == 0 { Flags::FIRST } else { Flags(0) };
        let last = if index + 1 == count { Flags::LAST } else { Flags(0) };
        (chunk, first | last)
    })
}
