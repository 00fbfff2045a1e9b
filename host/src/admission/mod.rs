//! Admission: who may connect, and how much each may ask for.
//!
//! ```text
//! accept --> connection() : room in total? peer's network allowed?
//!   | PROXY header (serve::proxy)
//!   +------> source()     : source's network allowed? room for this source?
//!              call, or anything else that is answered -----> request() : rate of this source
//! ```
//!
//! The rules are a pure decision ([`Rules`]); beside them stands as little state as counting needs: a total, a map of
//! the sources that are connected now (so never larger than the total) and the rate limiter's map, which a timer trims.

mod rules;
mod state;

pub use rules::{Peer, Rules};
pub use state::{Admission, ConnectionSlot, SourceSlot};

use std::fmt;

/// Why a client was refused or cut off. Each is a value of the metric label `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its network is denied.
    Denied,
    /// Its network is not among the allowed ones.
    NotAllowed,
    /// As many connections as possible are open.
    Connections,
    /// The source has as many connections open as one may have.
    ConnectionsPerSource,
    /// The source asked more often than one may.
    Rate,
    /// A PROXY header came from a network that is not trusted to send one.
    ProxyUntrusted,
    /// A trusted load balancer sent no PROXY header although one is required.
    ProxyMissing,
    /// The PROXY header cannot be read.
    ProxyInvalid,
    /// No bind, or no PROXY header, within its time.
    HandshakeTimeout,
    /// A request did not arrive, or was not taken, within its time.
    RequestTimeout,
    /// The client broke the RPC protocol.
    Protocol,
}

impl Refusal {
    /// Every refusal, in the order of the metric's documentation.
    pub const ALL: [Self; 11] = [
        Self::Denied,
        Self::NotAllowed,
        Self::Connections,
        Self::ConnectionsPerSource,
        Self::Rate,
        Self::ProxyUntrusted,
        Self::ProxyMissing,
        Self::ProxyInvalid,
        Self::HandshakeTimeout,
        Self::RequestTimeout,
        Self::Protocol,
    ];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NotAllowed => "not_allowed",
            Self::Connections => "connections",
            Self::ConnectionsPerSource => "connections_per_source",
            Self::Rate => "rate",
            Self::ProxyUntrusted => "proxy_untrusted",
            Self::ProxyMissing => "proxy_missing",
            Self::ProxyInvalid => "proxy_invalid",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::Protocol => "protocol",
        }
    }

    /// Position in [`Refusal::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// What happened and what to do, for the log.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Denied => "the client's network is in clients.deny",
            Self::NotAllowed => "the client's network is not in clients.allow",
            Self::Connections => "clients.limits.connections is reached",
            Self::ConnectionsPerSource => "clients.limits.connectionsPerSource is reached by one source",
            Self::Rate => "clients.limits.requestsPerMinutePerSource is reached by one source",
            Self::ProxyUntrusted => "a PROXY header came from a network that is not in clients.proxyProtocol.trusted",
            Self::ProxyMissing => {
                "a load balancer in clients.proxyProtocol.trusted sent no PROXY header: switch it on there, or set \
                 clients.proxyProtocol.required to false"
            }
            Self::ProxyInvalid => "a PROXY header cannot be read",
            Self::HandshakeTimeout => "no RPC bind arrived within clients.limits.handshakeTimeout",
            Self::RequestTimeout => "a request was not complete within clients.limits.requestTimeout",
            Self::Protocol => "the client broke the RPC protocol",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
