//! Licensed hosts, from licence pack to "Licensed": what the operator reads from each, what it decides, what it does.
//!
//! ```text
//! observe (WMI over WS-Management) -> HostFacts --+
//! wanted products, settings, journal, time -------+-> plan (pure) -> one step -> execute -> journal
//! 12290 events after a cursor -> events (pure) -> ledger, duplicate CMIDs
//! ```
//!
//! [`plan`] decides without I/O; [`visit`] is the edge: it reads a host, lets `plan` decide, carries out at most one
//! step in `mode: Manage`, writes the journal before and after it, and reports. [`round`] visits all hosts of a resource
//! and hands what it learnt to the ledger; [`conditions`] sums it up. An activation that Microsoft's service
//! refused is never tried again by itself, because a host key can be activated only a few times. No key and no
//! confirmation ID reaches a message, an error or the journal.

pub mod claims;
pub mod cluster;
pub mod conditions;
pub mod events;
pub mod execute;
pub mod facts;
pub mod input;
pub mod journal;
pub mod link;
pub mod metrics;
pub mod observe;
pub mod patience;
pub mod phone;
pub mod plan;
pub mod products;
pub mod resource;
pub mod restart;
pub mod round;
pub mod settings;
pub mod status;
pub mod store;
pub mod support;
pub mod visit;
