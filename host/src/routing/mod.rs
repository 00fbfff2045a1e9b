//! Count-aware routing: which licensed host answers a client, so that every client activates however many hosts there
//! are.
//!
//! A licensed host activates nobody until it has seen N distinct clients within 30 days, and each host counts alone.
//! Clients that are spread over hosts therefore may never activate. The relays share a ledger of who was answered by
//! whom, and send clients only where enough clients go.
//!
//! ```text
//! ledger --(read in the background)--> view --(arc-swap)--> decide --> hosts to try, in order
//!                                                             ^ pure; health and the time are arguments
//! ```
//!
//! The data path reads the view and never waits for the ledger. The same inputs give the same order in every replica.

pub mod config;
pub mod decide;
pub mod explain;
pub mod fleet;
pub mod hash;
mod known;
pub mod reason;
pub mod simulate;
pub mod view;

pub use config::{MixedProductSets, Policy, RoutingConfig};
pub use decide::{Client, Decision, LastAnswer, Try, decide};
pub use explain::{Explanation, LastDecision, RoutingStatus, TriedHost};
pub use fleet::{DistinctClients, Fleet, Health, Host, HostSetup, Standing};
pub use reason::{ClientSource, CountSource, Ended, HostState, Knowledge, Place, Reason};
pub use view::{Snapshot, View, refresh};

#[cfg(test)]
mod properties;
