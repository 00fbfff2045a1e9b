//! The common header (C706 12.6.3.1, MS-RPCE 2.2.2.3).

use std::fmt;
use std::ops::BitOr;

use bytes::BytesMut;

use crate::rpc::reader::{ByteOrder, Writer};

/// The data representation label: integer, character and floating-point formats (C706 14.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataRepresentation(pub [u8; 4]);

impl DataRepresentation {
    /// Little-endian, ASCII, IEEE: what Windows sends.
    pub const LITTLE_ENDIAN: Self = Self([0x10, 0, 0, 0]);
    /// Big-endian, ASCII, IEEE.
    pub const BIG_ENDIAN: Self = Self([0; 4]);

    /// ASCII and IEEE in the given byte order.
    #[must_use]
    pub const fn of(order: ByteOrder) -> Self {
        match order {
            ByteOrder::Little => Self::LITTLE_ENDIAN,
            ByteOrder::Big => Self::BIG_ENDIAN,
        }
    }

    /// The order of integers. Only meaningful for a valid label.
    #[must_use]
    pub const fn order(self) -> ByteOrder {
        if self.0[0] & 0x10 == 0 {
            ByteOrder::Big
        } else {
            ByteOrder::Little
        }
    }

    /// Whether the integer format is one of the two that exist.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0[0] >> 4 <= 1
    }
}

/// Type of a PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PacketType {
    /// 0: a call, from the client.
    Request,
    /// 2: a call's result.
    Response,
    /// 3: a call's failure, or the end of the association.
    Fault,
    /// 11: opens an association.
    Bind,
    /// 12: accepts an association.
    BindAck,
    /// 13: refuses an association.
    BindNak,
    /// 14: proposes more contexts.
    AlterContext,
    /// 15: answers `AlterContext`.
    AlterContextResponse,
    /// 16: third leg of an authentication.
    Auth3,
    /// 17: the server asks the client to close.
    Shutdown,
    /// 18: the client asks to cancel a call.
    CoCancel,
    /// 19: the client no longer waits for a call.
    Orphaned,
    /// Any other number: connectionless PDUs, RTS, or nonsense.
    Other(u8),
}

impl PacketType {
    /// The type with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Request,
            2 => Self::Response,
            3 => Self::Fault,
            11 => Self::Bind,
            12 => Self::BindAck,
            13 => Self::BindNak,
            14 => Self::AlterContext,
            15 => Self::AlterContextResponse,
            16 => Self::Auth3,
            17 => Self::Shutdown,
            18 => Self::CoCancel,
            19 => Self::Orphaned,
            other => Self::Other(other),
        }
    }

    /// The type's number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Request => 0,
            Self::Response => 2,
            Self::Fault => 3,
            Self::Bind => 11,
            Self::BindAck => 12,
            Self::BindNak => 13,
            Self::AlterContext => 14,
            Self::AlterContextResponse => 15,
            Self::Auth3 => 16,
            Self::Shutdown => 17,
            Self::CoCancel => 18,
            Self::Orphaned => 19,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Fault => "fault",
            Self::Bind => "bind",
            Self::BindAck => "bind_ack",
            Self::BindNak => "bind_nak",
            Self::AlterContext => "alter_context",
            Self::AlterContextResponse => "alter_context_resp",
            Self::Auth3 => "auth3",
            Self::Shutdown => "shutdown",
            Self::CoCancel => "co_cancel",
            Self::Orphaned => "orphaned",
            Self::Other(number) => return write!(f, "PDU of type {number}"),
        })
    }
}

/// pfc_flags: bits of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// First fragment.
    pub const FIRST: Self = Self(0x01);
    /// Last fragment.
    pub const LAST: Self = Self(0x02);
    /// First and last: the whole of it.
    pub const WHOLE: Self = Self(0x03);
    /// The call was not executed, a client may repeat it.
    pub const DID_NOT_EXECUTE: Self = Self(0x20);
    /// An object UUID stands before the stub.
    pub const OBJECT: Self = Self(0x80);

    /// Whether all of `wanted` are set.
    #[must_use]
    pub const fn has(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The common header of every connection-oriented PDU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// rpc_vers, 5.
    pub major: u8,
    /// rpc_vers_minor, 0 or 1.
    pub minor: u8,
    /// PTYPE.
    pub kind: PacketType,
    /// pfc_flags.
    pub flags: Flags,
    /// packed_drep.
    pub drep: DataRepresentation,
    /// Length of the whole fragment with this header, in bytes.
    pub frag_length: u16,
    /// Length of the authentication value at the end, in bytes, without its eight-byte trailer head. 0: none.
    pub auth_length: u16,
    /// Which call the PDU belongs to.
    pub call_id: u32,
}

impl Header {
    /// Length of a header, in bytes.
    pub const LENGTH: usize = 16;

    /// Reads a header as it is, right or wrong. [`next_frame`](crate::rpc::next_frame) judges it.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LENGTH]) -> Self {
        let &[
            major,
            minor,
            kind,
            flags,
            d0,
            d1,
            d2,
            d3,
            f0,
            f1,
            a0,
            a1,
            c0,
            c1,
            c2,
            c3,
        ] = bytes;
        let drep = DataRepresentation([d0, d1, d2, d3]);
        let order = drep.order();
        Self {
            major,
            minor,
            kind: PacketType::from_number(kind),
            flags: Flags(flags),
            drep,
            frag_length: order.u16([f0, f1]),
            auth_length: order.u16([a0, a1]),
            call_id: order.u32([c0, c1, c2, c3]),
        }
    }

    /// Appends the header as it is: for a PDU without a body.
    pub fn encode(&self, out: &mut BytesMut) {
        self.write(&mut Writer::new(out, self.drep.order()));
    }

    fn write(&self, writer: &mut Writer<'_>) {
        writer.bytes(&[self.major, self.minor, self.kind.number(), self.flags.0]);
        writer.bytes(&self.drep.0);
        writer.u16(self.frag_length);
        writer.u16(self.auth_length);
        writer.u32(self.call_id);
    }

    /// A header to write: version 5.0, whole, not authenticated. The length is set by [`write_pdu`].
    pub(crate) const fn new(kind: PacketType, drep: DataRepresentation, call_id: u32) -> Self {
        Self {
            major: 5,
            minor: 0,
            kind,
            flags: Flags::WHOLE,
            drep,
            frag_length: 0,
            auth_length: 0,
            call_id,
        }
    }
}

/// Appends a PDU: the header with its true length, then what `body` writes. Alignment in `body` counts from the PDU's
/// start. Callers keep a PDU below 64 KiB; one that is not would state the largest length.
pub(crate) fn write_pdu(out: &mut BytesMut, header: &Header, body: impl FnOnce(&mut Writer<'_>)) {
    const FRAG_LENGTH: usize = 8;

    let mut writer = Writer::new(out, header.drep.order());
    writer.bytes(&[header.major, header.minor, header.kind.number(), header.flags.0]);
    writer.bytes(&header.drep.0);
    writer.u16(header.frag_length);
    writer.u16(header.auth_length);
    writer.u32(header.call_id);
    body(&mut writer);
    let length = u16::try_from(writer.position()).unwrap_or(u16::MAX);
    writer.set_u16(FRAG_LENGTH, length);
}
