//! The rehearsal host: answers rehearsal clients with the whole counting behaviour of a KMS host.
//!
//! It stands in for licensed hosts in staging, CI and drills, under the site's own key and in an envelope of its own
//! (`OKR1`). It activates nothing of Microsoft's: what a Microsoft client sends is refused without a look inside, and
//! nothing here forms a message that such a client would accept.
//!
//! ```text
//! body --envelope--> request --products, clock--> sighting --ledger--> count --envelope--> body
//!   \ Microsoft's, forged, stale, replayed, unknown product: refused with the HRESULT of a KMS host
//! ```

pub mod client;
pub mod config;
pub mod envelope;
mod host;
pub mod management;
pub mod message;
mod metrics;
pub mod products;
mod refusals;

pub use config::RehearsalConfig;
pub use envelope::SiteKey;
pub use host::{CLOCK_SKEW, Handled, INVALID_DATA, NOT_ACTIVATED, Reason, RehearsalHost, S_OK, UNKNOWN_PRODUCT};
pub use metrics::RehearsalMetrics;
