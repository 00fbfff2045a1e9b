//! Why an operation on a host failed, in words that say what to do.

use std::time::Duration;

use crate::fault::Fault;
use crate::hresult::Hresult;
use crate::names::InvalidName;
use crate::ntlm::NtlmError;
use crate::reply::ReplyError;
use crate::sealing::Malformed;

/// Why an operation failed. Host is `HOST:PORT` throughout.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("{host} cannot be reached: is it up, is WinRM on (`winrm quickconfig`), is its firewall open?")]
    Unreachable {
        /// The host.
        host: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// Its certificate is not trusted.
    #[error("the certificate of {host} is not trusted: give its CA bundle, or pin the certificate by its SHA-256")]
    NotTrusted {
        /// The host.
        host: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// TLS fails for another reason.
    #[error("{host} does not speak TLS that we accept: is this the HTTPS port (5986)?")]
    Tls {
        /// The host.
        host: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// User or password is wrong, or the scheme is off.
    #[error(
        "{host} refuses user {user}: check user and password, and that the host allows {scheme}; not tried again \
         until they change, so as not to lock the account"
    )]
    Unauthorized {
        /// The host.
        host: String,
        /// The user.
        user: String,
        /// `Basic` or `NTLM`.
        scheme: &'static str,
    },
    /// No answer in time.
    #[error(
        "{host} gave no answer to {operation} within {after:?}: is it overloaded, does a firewall drop what it says?"
    )]
    TimedOut {
        /// The host.
        host: String,
        /// The operation.
        operation: &'static str,
        /// How long it was given.
        after: Duration,
    },
    /// The connection broke while an operation was under way; whether it took effect is unknown.
    #[error(
        "the connection to {host} broke during {operation}: does its WinRM service stay up, what stands in between?"
    )]
    Broken {
        /// The host.
        host: String,
        /// The operation.
        operation: &'static str,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// More bytes than we accept.
    #[error("{host} answers more than {limit} bytes to {operation}: is this WinRM?")]
    TooLarge {
        /// The host.
        host: String,
        /// The operation.
        operation: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// HTTP, but not WS-Management.
    #[error("{host} answers HTTP status {status}, not WS-Management: is this WinRM?")]
    NotWsMan {
        /// The host.
        host: String,
        /// The status.
        status: u16,
    },
    /// An answer without sealing where sealing is the only protection.
    #[error("{host} answers in plain text over HTTP: refused; use HTTPS, or turn message sealing on")]
    Unsealed {
        /// The host.
        host: String,
    },
    /// Sealed MIME that we cannot read.
    #[error("{host} answers a sealed message that cannot be read")]
    Sealing {
        /// The host.
        host: String,
        /// What is wrong with it.
        #[source]
        source: Malformed,
    },
    /// The NTLM exchange.
    #[error("NTLM with {host} failed")]
    Ntlm {
        /// The host.
        host: String,
        /// What happened.
        #[source]
        source: NtlmError,
    },
    /// A fault of the host.
    #[error("{host} refuses {operation}: {fault}")]
    Fault {
        /// The host.
        host: String,
        /// The operation.
        operation: String,
        /// The fault.
        fault: Box<Fault>,
    },
    /// A method's ReturnValue.
    #[error("{host} refuses {operation}: {code}: {}", code.advice())]
    Returned {
        /// The host.
        host: String,
        /// The method.
        operation: String,
        /// The value as a code.
        code: Hresult,
    },
    /// Garbage.
    #[error("{host} answers what is not WS-Management to {operation}: is this WinRM, does a proxy stand in between?")]
    Garbage {
        /// The host.
        host: String,
        /// The operation.
        operation: &'static str,
        /// What is wrong with it.
        #[source]
        source: ReplyError,
    },
    /// A query that does not end.
    #[error("{host} answers more than {limit} rows to a query")]
    TooManyRows {
        /// The host.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// A name of ours.
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Kinds of [`Error`], a bounded label for metrics and condition reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Off, or in no reach.
    Unreachable,
    /// Certificate.
    NotTrusted,
    /// User, password or rights.
    AccessDenied,
    /// Time-out.
    TimedOut,
    /// Broke in between.
    Broken,
    /// Not WS-Management, or not readable.
    Garbage,
    /// The host answered a fault or an error code.
    Refused,
}

impl Kind {
    /// The word for labels and condition reasons.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "HostUnreachable",
            Self::NotTrusted => "CertificateNotTrusted",
            Self::AccessDenied => "AccessDenied",
            Self::TimedOut => "HostTimedOut",
            Self::Broken => "ConnectionBroken",
            Self::Garbage => "UnreadableAnswer",
            Self::Refused => "HostRefused",
        }
    }
}

impl Error {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Unreachable { .. } => Kind::Unreachable,
            Self::NotTrusted { .. } => Kind::NotTrusted,
            Self::Unauthorized { .. } => Kind::AccessDenied,
            Self::Fault { fault, .. } if fault.access_denied() => Kind::AccessDenied,
            Self::Returned {
                code: Hresult::ACCESS_DENIED,
                ..
            } => Kind::AccessDenied,
            Self::Fault { fault, .. } if fault.timed_out() => Kind::TimedOut,
            Self::TimedOut { .. } => Kind::TimedOut,
            Self::Broken { .. } => Kind::Broken,
            Self::Fault { .. } | Self::Returned { .. } => Kind::Refused,
            Self::Tls { .. }
            | Self::TooLarge { .. }
            | Self::NotWsMan { .. }
            | Self::Unsealed { .. }
            | Self::Sealing { .. }
            | Self::Ntlm { .. }
            | Self::Garbage { .. }
            | Self::TooManyRows { .. }
            | Self::Name(_) => Kind::Garbage,
        }
    }

    /// The Windows code, where the host gave one.
    pub fn hresult(&self) -> Option<Hresult> {
        match self {
            Self::Fault { fault, .. } => fault.hresult,
            Self::Returned { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether trying the same again soon can harm: a wrong password locks the account after a few tries.
    pub fn locks_account(&self) -> bool {
        matches!(self, Self::Unauthorized { .. })
    }

    /// Whether the operation may have taken effect although it failed: nobody knows.
    pub fn outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::TimedOut { .. }
                | Self::Broken { .. }
                | Self::TooLarge { .. }
                | Self::Sealing { .. }
                | Self::Garbage { .. }
        )
    }
}
