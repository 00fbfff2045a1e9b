//! What deletion leaves behind.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What deletion does to what outlives the pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeletionPolicy {
    /// Remove DNS records, the managed ledger's volume and generated keys.
    #[default]
    Delete,
    /// Keep them.
    Retain,
}
