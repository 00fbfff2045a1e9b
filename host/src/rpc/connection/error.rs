//! Why connecting or a call failed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

use crate::rpc::client::{BindOutcome, Misbehaviour};
use crate::rpc::pdu::{ContextResult, RejectReason};
use crate::rpc::syntax::TransferSyntax;

/// Why there is no bound association.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// TCP failed.
    #[error("connecting to {server} failed")]
    Connect {
        /// Whom we called.
        server: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// TCP did not connect in time.
    #[error("connecting to {server} took longer than {limit:?}")]
    ConnectTimeout {
        /// Whom we called.
        server: SocketAddr,
        /// The time that was given.
        limit: Duration,
    },
    /// The connection broke, or closed, before the bind was answered.
    #[error("{server} closed the connection before it answered the bind")]
    Broken {
        /// Whom we called.
        server: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The bind was not answered in time.
    #[error("{server} did not answer the bind within {limit:?}")]
    BindTimeout {
        /// Whom we called.
        server: SocketAddr,
        /// The time that was given.
        limit: Duration,
    },
    /// The server refuses the bind or breaks the protocol.
    #[error("binding to {server} failed")]
    Bind {
        /// Whom we called.
        server: SocketAddr,
        /// What the server did.
        #[source]
        source: Misbehaviour,
    },
    /// Each transfer syntax was rejected: the server has no such interface, or speaks another syntax.
    #[error("{server} accepts none of the proposed contexts")]
    Rejected {
        /// Whom we called.
        server: SocketAddr,
        /// The result of each context.
        outcome: Box<BindOutcome>,
    },
}

impl ConnectError {
    /// Whether the server has the interface, but none of the transfer syntaxes that were proposed.
    #[must_use]
    pub fn is_of_the_syntax(&self) -> bool {
        let of_the_syntax = ContextResult::ProviderRejection(RejectReason::TRANSFER_SYNTAXES_NOT_SUPPORTED);
        matches!(self, Self::Rejected { outcome, .. } if outcome.results.contains(&of_the_syntax))
    }

    /// A bounded label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::Broken { .. } => "reset",
            Self::BindTimeout { .. } => "bind_timeout",
            Self::Bind { .. } => "bind",
            Self::Rejected { .. } => "rejected",
        }
    }
}

/// Why a call has no reply. The connection cannot be used any more.
#[derive(Debug, Error)]
pub enum CallError {
    /// The connection broke or was closed before the reply was complete.
    #[error("the connection broke before the reply was complete")]
    Broken(#[source] io::Error),
    /// No complete reply in time.
    #[error("no reply within {0:?}")]
    Timeout(Duration),
    /// The server broke the protocol.
    #[error("the server broke the protocol")]
    Misbehaved(#[source] Misbehaviour),
    /// An earlier call failed or was abandoned.
    #[error("the connection was given up in an earlier call")]
    Unusable,
    /// No context was accepted for this transfer syntax.
    #[error("the server has not accepted {0}")]
    NotAccepted(TransferSyntax),
}

impl CallError {
    /// A bounded label for metrics.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Broken(_) => "reset",
            Self::Timeout(_) => "call_timeout",
            Self::Misbehaved(_) => "protocol",
            Self::Unusable => "unusable",
            Self::NotAccepted(_) => "not_accepted",
        }
    }
}
