//! The Lua scripts: one for each operation, so that each is atomic and takes one round trip.

use redis::Script;

use crate::ledger::{
    counting::{CLOCK_TOLERANCE_MS, ENTRY_LIFE_MS, GUARDED_CLIENTS, SENT_AGAIN_WITHIN_MS},
    memory::EVENTS_KEPT,
};

/// Clients whose routes are kept, at most; who was seen longest ago goes first.
pub(super) const ROUTES_KEPT: usize = 1_000_000;

/// All scripts, hashed once. They are called by hash; a server that does not know one is given it then.
#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) count: Script,
    pub(super) refused: Script,
    pub(super) counts: Script,
    pub(super) answered: Script,
    pub(super) routes: Script,
    pub(super) changed: Script,
}

/// The counting script as Redis is given it: for benches that call the same script by other means, and for who wants
/// to read what runs in his Redis.
pub fn count_script() -> String {
    whole(include_str!("count.lua"))
}

/// The numbers of the rule have one home, the Rust code; the scripts see them as constants.
fn whole(body: &str) -> String {
    format!(
        "local ENTRY_LIFE_MS, CLOCK_TOLERANCE_MS = {ENTRY_LIFE_MS}, {CLOCK_TOLERANCE_MS}\n\
         local SENT_AGAIN_WITHIN_MS = {SENT_AGAIN_WITHIN_MS}\n\
         local GUARDED_CLIENTS, EVENTS_KEPT, ROUTES_KEPT = {GUARDED_CLIENTS}, {EVENTS_KEPT}, {ROUTES_KEPT}\n{body}"
    )
}

impl Scripts {
    pub(super) fn new() -> Self {
        let script = |body: &str| Script::new(&whole(body));
        let on_records = |body: &str| script(&format!("{}{body}", include_str!("record.lua")));
        Self {
            count: Script::new(&count_script()),
            refused: script(include_str!("refused.lua")),
            counts: script(include_str!("counts.lua")),
            answered: on_records(include_str!("answered.lua")),
            routes: on_records(include_str!("routes.lua")),
            changed: script(include_str!("changed.lua")),
        }
    }
}
