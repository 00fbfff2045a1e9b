//! DNS for KMS endpoints: what clients would find, what we publish, and whether it is true.
//!
//! Clients of a Key Management Service ask for `_vlmcs._tcp.<domain>` SRV records. This crate knows nothing of Kubernetes:
//!
//! ```text
//! records (what there should be) ─┐
//!                                 ├─> plan (changes, what is kept and why) ─> publisher ─> verify
//! publisher::observe (what is) ───┘
//!
//! discover: what a client would do       server: an authoritative server for one machine
//! ```
//!
//! It never changes a record that it did not publish, unless the user listed that record's target.

pub mod discover;
pub mod dns_endpoint;
pub mod exchange;
pub mod manual;
pub mod names;
pub mod plan;
pub mod publisher;
pub mod records;
pub mod rfc2136;
pub mod server;
pub mod tsig;
pub mod verify;
