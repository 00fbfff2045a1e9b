//! Encoding and decoding of PDUs (C706 12.6.3 and 12.6.4, MS-RPCE 2.2.2), each in either byte order.

mod bind;
mod call;
mod header;

pub use bind::{Bind, BindAck, BindNak, ContextElement, ContextResult, NakReason, RejectReason};
pub(crate) use call::Fragmented;
pub use call::{Fault, RequestHead, ResponseHead};
pub(crate) use header::write_pdu;
pub use header::{DataRepresentation, Flags, Header, PacketType};

/// A PDU's body does not hold what its type and its own counts require.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body of the PDU ends before what it announces")]
pub struct Malformed;

impl From<super::reader::Truncated> for Malformed {
    fn from(_: super::reader::Truncated) -> Self {
        Self
    }
}
