//! What a client did wrong, who is at fault, and the one mapping from that to the PDU that is sent back.

use thiserror::Error;

use super::fault::FaultStatus;
use super::frame::Flaw;
use super::pdu::{NakReason, PacketType};

/// Who is at fault when an association ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The peer broke the protocol.
    PeerMisbehaved,
    /// The peer kept to the protocol but needs what we do not offer.
    PeerIncompatible,
    /// Our own caller used the association after its end.
    Caller,
}

/// Why an association cannot go on. The answer to send before closing is already in the output buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    /// The common header is no PDU's.
    #[error("the header is broken: {0}")]
    Frame(Flaw),
    /// The body ends before what its counts announce, or announces what cannot be.
    #[error("the body of a {0} is malformed")]
    Malformed(PacketType),
    /// Something other than a bind opened the association.
    #[error("a {0} came before any bind")]
    BeforeBind(PacketType),
    /// A connection is bound once; more contexts come by alter_context.
    #[error("a second bind came on a bound association")]
    SecondBind,
    /// A PDU that a client does not send on this transport.
    #[error("a client may not send a {0}")]
    Unexpected(PacketType),
    /// A bind or alter_context that proposes nothing.
    #[error("no presentation context, or one without a transfer syntax, was proposed")]
    NothingProposed,
    /// Bind-time features may be proposed once (MS-RPCE 3.3.1.5.3).
    #[error("bind-time features were proposed twice")]
    FeaturesTwice,
    /// A context id was used again with another meaning.
    #[error("context {0} was proposed again with another transfer syntax")]
    ContextRedefined(u16),
    /// The client wants to authenticate; KMS is anonymous.
    #[error("a {0} carries authentication, but this interface is anonymous")]
    Authentication(PacketType),
    /// A fragment that does not continue the call that is being received.
    #[error("a fragment of call {0} is out of order, or interleaved with another call")]
    Fragment(u32),
    /// A call larger than we receive.
    #[error("the request is larger than the limit of {limit} bytes")]
    RequestTooLarge {
        /// The limit on a reassembled request, in bytes.
        limit: u32,
    },
    /// Bytes were fed to an association that had ended.
    #[error("the association has ended")]
    Ended,
}

/// The PDU that ends an association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A bind_nak with this reason.
    Nak(NakReason),
    /// A fault with this status.
    Fault(FaultStatus),
    /// Nothing is sent.
    Silent,
}

impl Violation {
    /// Who is at fault.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        match self {
            Self::Frame(Flaw::Version { .. }) | Self::Authentication(_) | Self::RequestTooLarge { .. } => {
                Blame::PeerIncompatible
            }
            Self::Ended => Blame::Caller,
            _ => Blame::PeerMisbehaved,
        }
    }

    /// A bounded label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Frame(Flaw::Version { .. }) => "rpc_version",
            Self::Frame(_) => "broken_header",
            Self::Malformed(_) | Self::NothingProposed | Self::FeaturesTwice | Self::ContextRedefined(_) => "malformed",
            Self::BeforeBind(_) | Self::SecondBind | Self::Unexpected(_) | Self::Ended => "out_of_state",
            Self::Authentication(_) => "authentication",
            Self::Fragment(_) => "fragment_order",
            Self::RequestTooLarge { .. } => "request_too_large",
        }
    }

    /// What is sent back for this violation by a PDU of type `kind`, before the connection is closed. A bind is refused
    /// with a bind_nak, everything else with a fault (C706 12.6.4.5, 12.6.4.7).
    #[must_use]
    pub const fn refusal(&self, kind: PacketType) -> Refusal {
        if let Self::Ended = self {
            return Refusal::Silent;
        }
        if let PacketType::Bind = kind {
            return Refusal::Nak(match self {
                Self::Frame(Flaw::Version { .. }) => NakReason::PROTOCOL_VERSION_NOT_SUPPORTED,
                Self::Authentication(_)
                | Self::Frame(Flaw::TooLong {
                    authenticated: true, ..
                }) => NakReason::AUTHENTICATION_TYPE_NOT_RECOGNIZED,
                Self::Frame(Flaw::TooLong { .. }) => NakReason::LOCAL_LIMIT_EXCEEDED,
                _ => NakReason::NOT_SPECIFIED,
            });
        }
        Refusal::Fault(match self {
            // As Windows answers above an interface's MaxRpcSize, and authentication that no bind established.
            Self::RequestTooLarge { .. } | Self::Authentication(_) => FaultStatus::ACCESS_DENIED,
            _ => FaultStatus::PROTO_ERROR,
        })
    }
}
