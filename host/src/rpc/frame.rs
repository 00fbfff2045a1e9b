//! The framer: cuts a byte stream into PDUs, and refuses what cannot be one after its first sixteen bytes.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

use super::pdu::Header;

/// A whole PDU: its header and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The checked common header.
    pub header: Header,
    /// Everything after the header, an authentication trailer included. Shares the input's memory.
    pub body: Bytes,
}

/// What is wrong with a common header. The peer is at fault for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Flaw {
    /// Not DCE/RPC 5.0 or 5.1.
    #[error("the peer speaks RPC version {major}.{minor}, we speak 5.0 and 5.1")]
    Version {
        /// Major version from the header.
        major: u8,
        /// Minor version from the header.
        minor: u8,
    },
    /// The data representation's integer format is neither big- nor little-endian.
    #[error("the data representation 0x{0:02x} is neither big- nor little-endian")]
    Representation(u8),
    /// The fragment claims to be shorter than its own header, or than the trailer that it announces.
    #[error("a fragment of {length} bytes cannot hold its header and {auth} bytes of authentication")]
    TooShort {
        /// frag_length from the header, in bytes.
        length: u16,
        /// auth_length from the header, in bytes.
        auth: u16,
    },
    /// The fragment is longer than we receive.
    #[error("a fragment of {length} bytes is above the limit of {limit} bytes")]
    TooLong {
        /// frag_length from the header, in bytes.
        length: u16,
        /// The limit, in bytes.
        limit: u16,
        /// Whether the fragment announces an authentication trailer.
        authenticated: bool,
    },
}

/// A header that no PDU can have, with all of it that could be read, so that it can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{flaw}")]
pub struct BadFrame {
    /// The header as it came.
    pub header: Header,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// Takes the next PDU of at most `limit` bytes off `input`. `None`: more bytes are needed. Nothing is copied.
///
/// # Errors
/// [`BadFrame`] as soon as the first sixteen bytes rule out a PDU. `input` is left as it was; the stream cannot be
/// followed any further.
pub fn next_frame(input: &mut BytesMut, limit: u16) -> Result<Option<Frame>, BadFrame> {
    let Some(head) = input.first_chunk::<{ Header::LENGTH }>() else {
        return Ok(None);
    };
    let header = Header::decode(head);
    if let Some(flaw) = flaw(&header, limit) {
        return Err(BadFrame { header, flaw });
    }
    let length = usize::from(header.frag_length);
    if input.len() < length {
        return Ok(None);
    }
    let mut body = input.split_to(length).freeze();
    body.advance(Header::LENGTH);
    Ok(Some(Frame { header, body }))
}

fn flaw(header: &Header, limit: u16) -> Option<Flaw> {
    /// Authentication type, level, padding length, reserved byte and context id (C706 13.2.6.1).
    const TRAILER_HEAD: usize = 8;

    if header.major != 5 || header.minor > 1 {
        return Some(Flaw::Version {
            major: header.major,
            minor: header.minor,
        });
    }
    if !header.drep.is_valid() {
        return Some(Flaw::Representation(header.drep.0[0]));
    }
    let (length, auth) = (header.frag_length, header.auth_length);
    let trailer = if auth == 0 { 0 } else { TRAILER_HEAD + usize::from(auth) };
    if usize::from(length) < Header::LENGTH + trailer {
        return Some(Flaw::TooShort { length, auth });
    }
    (length > limit).then_some(Flaw::TooLong {
        length,
        limit,
        authenticated: auth != 0,
    })
}
