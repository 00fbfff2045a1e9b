//! DNS of a resource: which records its zones should have, whether they may be published now, and one round over all zones.
//!
//! ```text
//! spec, Secret ----> settings (checks, with field paths) --+
//! Service ---------> target (name and addresses) ----------+-> presence (grace) -> round -> condition, rows, events
//! status, probe ---> candidate (what stood, what answers) -+
//! ```
//!
//! All but [`probe`] and [`round`] is pure. What is asked of a zone's servers, and how records are owned, is kms-dns'.

mod candidate;
pub mod cluster;
pub mod condition;
pub mod input;
pub mod presence;
pub mod probe;
pub mod resource;
pub mod round;
pub mod session;
pub mod settings;
pub mod target;
pub mod withdraw;
