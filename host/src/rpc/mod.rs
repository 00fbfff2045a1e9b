//! Connection-oriented DCE/RPC over TCP (C706 chapter 12, MS-RPCE): just what a KMS endpoint needs, without I/O.
//!
//! ```text
//! server: bytes --frame--> Frame --pdu--> Association --> Call --(relay, rehearsal)--> Answer --> bytes
//! client: Proposal --> bytes --> BindOutcome;  stub --> bytes --> Reply     (connection: the same over a TcpStream)
//! ```
//!
//! [`Association`] is the server's side of one connection: it is fed bytes, answers binds and errors by itself and hands
//! out whole calls. [`client::ClientAssociation`] is its counterpart and [`Connection`] puts that on a socket. [`stub`]
//! knows the one KMS operation in NDR and NDR64; nothing else in here looks into a stub.
//!
//! Everything is read through a bounded reader; no length that a peer states is trusted before it is checked,
//! and nothing is allocated for bytes that have not arrived. An incomplete PDU is a state, not an error.

mod association;
pub mod client;
mod connection;
mod fault;
mod frame;
pub mod pdu;
mod reader;
pub mod stub;
mod syntax;
#[cfg(test)]
mod testdata;
mod violation;

pub use association::{Answer, Association, Call, Limits};
pub use client::{BindOutcome, Misbehaviour, Proposal, Reply};
pub use connection::{CallError, ConnectError, ConnectOptions, Connection};
pub use fault::FaultStatus;
pub use frame::{BadFrame, Flaw, Frame, next_frame};
pub use pdu::DataRepresentation;
pub use reader::ByteOrder;
pub use syntax::{Interface, Offer, SyntaxId, TransferSyntax};
pub use violation::{Blame, Refusal, Violation};

/// The fragment size that we offer, in bytes, as Windows does over TCP.
pub const OFFERED_FRAGMENT: u16 = 5840;

/// The fragment size that every implementation must be able to receive, in bytes (C706 12.6.3.1, MustRecvFragSize).
pub const MINIMUM_FRAGMENT: u16 = 1432;
