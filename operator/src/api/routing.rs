//! Routing: how requests find a licensed host.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Count-aware routing.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RoutingSpec {
    /// Accepts licensed hosts that serve unequal products behind one name. Without it only hosts with all products of the
    /// spec take clients: elsewhere a client would be told 0xC004F042 by luck.
    pub accept_unequal_hosts: bool,

    /// What a client gets when no licensed host can be reached: `Close` (default) ends the connection, upon which clients
    /// try the next SRV target; `Fault` answers with an RPC fault.
    pub no_host: NoHostAnswer,

    /// Fixed number of licensed hosts in the active set, in place of the number that the clients' count gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32))]
    pub active_hosts: Option<i32>,
}

/// Answer when no licensed host is eligible.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoHostAnswer {
    /// End the connection.
    #[default]
    Close,
    /// Answer with an RPC fault.
    Fault,
}
