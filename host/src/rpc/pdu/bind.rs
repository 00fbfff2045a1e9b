//! bind and alter_context, and their answers (C706 12.6.4.1 to 12.6.4.5).

use bytes::BytesMut;

use super::{Header, Malformed, write_pdu};
use crate::rpc::reader::{ByteOrder, Reader, Writer};
use crate::rpc::syntax::SyntaxId;

/// One proposed presentation context (p_cont_elem_t).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextElement {
    /// The id that requests will name.
    pub id: u16,
    /// The interface that the client wants.
    pub abstract_syntax: SyntaxId,
    /// The transfer syntaxes that the client can use, at most 255.
    pub transfer_syntaxes: Vec<SyntaxId>,
}

/// Body of a bind or an alter_context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// Largest fragment that the client sends, in bytes.
    pub max_xmit_frag: u16,
    /// Largest fragment that the client receives, in bytes.
    pub max_recv_frag: u16,
    /// Association group to join, or 0 for a new one.
    pub assoc_group_id: u32,
    /// Proposed contexts, at most 255.
    pub contexts: Vec<ContextElement>,
}

impl Bind {
    /// Reads a body. What follows the last context (an authentication trailer) is left alone.
    ///
    /// # Errors
    /// [`Malformed`] when the body ends before the contexts that it counts.
    pub fn decode(body: &[u8], order: ByteOrder) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, order);
        let (max_xmit_frag, max_recv_frag) = (reader.u16()?, reader.u16()?);
        let assoc_group_id = reader.u32()?;
        let count = reader.u8()?;
        reader.take(3)?;
        let mut contexts = Vec::new();
        for _ in 0..count {
            let id = reader.u16()?;
            let syntaxes = reader.u8()?;
            reader.take(1)?;
            let abstract_syntax = read_syntax(&mut reader)?;
            let transfer_syntaxes = (0..syntaxes)
                .map(|_| read_syntax(&mut reader))
                .collect::<Result<_, _>>()?;
            contexts.push(ContextElement {
                id,
                abstract_syntax,
                transfer_syntaxes,
            });
        }
        Ok(Self {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            contexts,
        })
    }

    /// Appends the PDU that `header` heads.
    pub fn encode(&self, header: &Header, out: &mut BytesMut) {
        write_pdu(out, header, |writer| {
            writer.u16(self.max_xmit_frag);
            writer.u16(self.max_recv_frag);
            writer.u32(self.assoc_group_id);
            writer.bytes(&[count(self.contexts.len()), 0, 0, 0]);
            for context in self.contexts.iter().take(255) {
                writer.u16(context.id);
                writer.bytes(&[count(context.transfer_syntaxes.len()), 0]);
                write_syntax(writer, &context.abstract_syntax);
                for syntax in context.transfer_syntaxes.iter().take(255) {
                    write_syntax(writer, syntax);
                }
            }
        });
    }
}

/// Why a provider rejects a context (p_provider_reason_t).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectReason(pub u16);

impl RejectReason {
    /// The interface, or its version, is not served.
    pub const ABSTRACT_SYNTAX_NOT_SUPPORTED: Self = Self(1);
    /// None of the transfer syntaxes is taken.
    pub const TRANSFER_SYNTAXES_NOT_SUPPORTED: Self = Self(2);
    /// The association has as many contexts as it may.
    pub const LOCAL_LIMIT_EXCEEDED: Self = Self(3);
}

/// What became of one proposed context: an element of p_result_list_t.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextResult {
    /// Result 0: accepted with this transfer syntax.
    Accepted(SyntaxId),
    /// Result 1: rejected by the user.
    UserRejection(RejectReason),
    /// Result 2: rejected by the provider.
    ProviderRejection(RejectReason),
    /// Result 3: negotiate_ack with the accepted bind-time features (MS-RPCE 2.2.2.4).
    Features(u16),
}

/// Body of a bind_ack or an alter_context_resp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindAck {
    /// Largest fragment that the server sends, in bytes.
    pub max_xmit_frag: u16,
    /// Largest fragment that the server receives, in bytes.
    pub max_recv_frag: u16,
    /// The association group.
    pub assoc_group_id: u32,
    /// Secondary address: the port as text, without its terminating zero. Empty in an alter_context_resp.
    pub secondary_address: Vec<u8>,
    /// One result for each proposed context, in their order.
    pub results: Vec<ContextResult>,
}

impl BindAck {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Malformed`] when the body ends early or a result is none of the four.
    pub fn decode(body: &[u8], order: ByteOrder) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, order);
        let (max_xmit_frag, max_recv_frag) = (reader.u16()?, reader.u16()?);
        let assoc_group_id = reader.u32()?;
        let length = reader.u16()?;
        let address = reader.take(usize::from(length))?;
        let secondary_address = address.strip_suffix(&[0]).unwrap_or(address).to_vec();
        // The header's sixteen bytes do not change the alignment to four.
        reader.align(4)?;
        let count = reader.u8()?;
        reader.take(3)?;
        let results = (0..count)
            .map(|_| {
                let (result, reason) = (reader.u16()?, reader.u16()?);
                let syntax = read_syntax(&mut reader)?;
                Ok(match result {
                    0 => ContextResult::Accepted(syntax),
                    1 => ContextResult::UserRejection(RejectReason(reason)),
                    2 => ContextResult::ProviderRejection(RejectReason(reason)),
                    3 => ContextResult::Features(reason),
                    _ => return Err(Malformed),
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            max_xmit_frag,
            max_recv_frag,
            assoc_group_id,
            secondary_address,
            results,
        })
    }

    /// Appends the PDU that `header` heads.
    pub fn encode(&self, header: &Header, out: &mut BytesMut) {
        write_pdu(out, header, |writer| {
            writer.u16(self.max_xmit_frag);
            writer.u16(self.max_recv_frag);
            writer.u32(self.assoc_group_id);
            match u16::try_from(self.secondary_address.len() + 1) {
                Ok(length) if length > 1 => {
                    writer.u16(length);
                    writer.bytes(&self.secondary_address);
                    writer.u8(0);
                }
                _ => writer.u16(0),
            }
            writer.align(4);
            writer.bytes(&[count(self.results.len()), 0, 0, 0]);
            for result in self.results.iter().take(255) {
                let (number, reason, syntax) = match *result {
                    ContextResult::Accepted(syntax) => (0, 0, syntax),
                    ContextResult::UserRejection(RejectReason(reason)) => (1, reason, SyntaxId::NONE),
                    ContextResult::ProviderRejection(RejectReason(reason)) => (2, reason, SyntaxId::NONE),
                    ContextResult::Features(bits) => (3, bits, SyntaxId::NONE),
                };
                writer.u16(number);
                writer.u16(reason);
                write_syntax(writer, &syntax);
            }
        });
    }
}

/// Why a bind is refused as a whole (p_reject_reason_t, MS-RPCE 2.2.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NakReason(pub u16);

impl NakReason {
    /// No reason is given.
    pub const NOT_SPECIFIED: Self = Self(0);
    /// The server is short of something for a while.
    pub const TEMPORARY_CONGESTION: Self = Self(1);
    /// A limit of the server is exceeded.
    pub const LOCAL_LIMIT_EXCEEDED: Self = Self(2);
    /// The server speaks another version; the bind_nak lists which.
    pub const PROTOCOL_VERSION_NOT_SUPPORTED: Self = Self(4);
    /// The server does not know the authentication that the client wants.
    pub const AUTHENTICATION_TYPE_NOT_RECOGNIZED: Self = Self(8);
}

/// Body of a bind_nak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindNak {
    /// Why.
    pub reason: NakReason,
    /// Versions that the server speaks, major and minor.
    pub versions: Vec<(u8, u8)>,
}

impl BindNak {
    /// A refusal by us: we speak 5.0 and 5.1.
    #[must_use]
    pub fn new(reason: NakReason) -> Self {
        Self {
            reason,
            versions: vec![(5, 0), (5, 1)],
        }
    }

    /// Reads a body. Old servers leave the versions out.
    ///
    /// # Errors
    /// [`Malformed`] when there is no reason in it.
    pub fn decode(body: &[u8], order: ByteOrder) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body, order);
        let reason = NakReason(reader.u16()?);
        let count = reader.u8().unwrap_or(0);
        let versions = (0..count)
            .map_while(|_| Some((reader.u8().ok()?, reader.u8().ok()?)))
            .collect();
        Ok(Self { reason, versions })
    }

    /// Appends the PDU that `header` heads.
    pub fn encode(&self, header: &Header, out: &mut BytesMut) {
        write_pdu(out, header, |writer| {
            writer.u16(self.reason.0);
            writer.u8(count(self.versions.len()));
            for (major, minor) in self.versions.iter().take(255) {
                writer.bytes(&[*major, *minor]);
            }
        });
    }
}

fn read_syntax(reader: &mut Reader<'_>) -> Result<SyntaxId, Malformed> {
    let uuid = reader.uuid()?;
    let version = reader.u32()?.to_be_bytes();
    let [minor_high, minor_low, major_high, major_low] = version;
    Ok(SyntaxId {
        uuid,
        major: u16::from_be_bytes([major_high, major_low]),
        minor: u16::from_be_bytes([minor_high, minor_low]),
    })
}

fn write_syntax(writer: &mut Writer<'_>, syntax: &SyntaxId) {
    writer.uuid(syntax.uuid);
    writer.u32(u32::from(syntax.minor) << 16 | u32::from(syntax.major));
}

/// A count that the wire holds in one byte; what is above is not written either.
fn count(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}
