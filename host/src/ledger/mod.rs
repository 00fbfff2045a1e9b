//! The ledger: the shared record of clients, counts, totals and events.
//!
//! Two implementations with one behaviour: [`memory`] for a replica alone, Redis for several. Everything here is
//! stored under pseudonyms and seals: who reads the store learns no machine names. All calls take batches, because one
//! round trip for many clients is what keeps a replica fast.

mod asks;
mod batcher;
pub mod config;
pub mod counting;
mod key;
pub mod memory;
mod open;
mod queue;
mod redis;
mod time;

use std::fmt;

pub use self::redis::count_script;
pub use batcher::{BatchLimits, Busy, CountBatcher};
pub use config::LedgerConfig;
pub use key::LedgerKey;
pub use memory::MemoryLedger;
pub(crate) use open::file_problems;
pub use open::{OpenError, Opened, open};
pub use queue::{ObservationQueue, QueueLimits, QueueStats};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Milliseconds since the Unix epoch. Time is an argument everywhere; nothing in the ledger reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Millis(pub i64);

/// A client under its pseudonym: the first 16 bytes of HMAC-SHA256 over its identity (CMID, or source address in relay
/// mode) with the ledger key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pseudonym(pub [u8; 16]);

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Name of a licensed host as the configuration gives it.
pub type HostName = String;

/// An activation request that a rehearsal host wants counted.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// Application ID: each application has its own client table.
    pub application: Uuid,
    /// The client that asked.
    pub client: Pseudonym,
    /// N, the count that the client requires.
    pub required: u32,
    /// When the replica received the request.
    pub at: Millis,
    /// The client's own request time in microseconds since the epoch. A request that is not newer than the last one
    /// counted for this client is a replay.
    pub request_time_micros: i64,
    /// The event to append, and whose licence status the totals count, if the request is counted.
    pub event: Event,
}

/// What the ledger says to a [`Sighting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Counted; the current count now, at most 2N.
    Counted {
        /// Distinct clients of the application in 30 days, capped at twice the largest N seen.
        count: u32,
    },
    /// The client's last request, which was counted, sent again within a minute: the answer to it was lost. Nothing
    /// changed; it is to be answered as it was then.
    SentAgain {
        /// The current count now.
        count: u32,
    },
    /// Not newer than what was counted before: a replayed request. Nothing changed but the total of failed requests.
    Replayed,
}

/// KMS event 12290, in Microsoft's field order ("KMS Events Logged in the Windows Event Log", Table 11), and who
/// answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When the host handled the request.
    pub at: Millis,
    /// The host that answered: a licensed host's name, or the rehearsal host's own.
    pub host: HostName,
    /// HRESULT of the answer; 0 is success.
    pub hresult: u32,
    /// N, the count that the client requires.
    pub required: u32,
    /// The client's machine name.
    pub client_name: String,
    /// The client machine ID.
    pub cmid: Uuid,
    /// The client's clock, as text: licensed hosts print it in their own locale.
    pub client_time: String,
    /// Whether the client says that it is a virtual machine.
    pub virtual_machine: bool,
    /// Licence status 0..=6 (0 unlicensed, 1 licensed, 2 initial grace, 3 out of tolerance, 4 non-genuine grace,
    /// 5 notification, 6 extended grace).
    pub license_status: u32,
    /// Minutes until that status expires.
    pub minutes_to_expiration: u32,
    /// Activation ID (SKU) of the client's product.
    pub activation_id: Uuid,
}

/// A stored event and its position in the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredEvent {
    /// Position: a cursor for [`Ledger::events`]. Opaque; later events have later cursors.
    pub cursor: String,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

/// Cumulative request totals of one application, as `SoftwareLicensingProduct` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Valid requests.
    pub total: u64,
    /// Requests that were refused.
    pub failed: u64,
    /// Valid requests by the client's licence status 0..=6.
    pub by_status: [u64; 7],
}

/// A relay's observation: this licensed host answered this client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The client, by source address.
    pub client: Pseudonym,
    /// The licensed host that answered.
    pub host: HostName,
    /// When the answer arrived.
    pub at: Millis,
    /// Whether the host was believed to be warm when it was asked: then the client holds a licence since.
    pub warm: bool,
}

/// What the operator (or the configuration file, or `kmsctl`) read from a licensed host. It overrides what relays saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HostFact {
    /// When it was read; also accepted as RFC 3339 text, as people write it.
    #[serde(deserialize_with = "time::deserialize")]
    pub read_at: Millis,
    /// Current count that the host shows; none when it shows 4294967295.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_count: Option<u32>,
    /// Largest required count N of the products that it hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_count: Option<u32>,
    /// Whether its host key is activated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licensed: Option<bool>,
}

/// A client's last answer, as [`Ledger::routes`] reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The client.
    pub client: Pseudonym,
    /// Who answered it last.
    pub host: HostName,
    /// When.
    pub at: Millis,
    /// Whether that host was believed to be warm then; not, where the record does not tell.
    pub warm: bool,
    /// Requests that this client made within the last 24 hours, saturating at 255: an address that asks more often
    /// than one client would is shared (NAT).
    pub asks_today: u8,
}

/// Everything that routing needs, in one read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoutesRead {
    /// Clients whose last answer is at or after the time asked for (all of the last 30 days when asked from 0), oldest
    /// first, and no more than asked for.
    pub changed: Vec<Route>,
    /// Distinct clients within 30 days, as relays know them: by source address.
    pub distinct_clients: u64,
    /// Distinct machines within 30 days, by the client machine IDs in events that were read from licensed hosts; 0 where
    /// none are read.
    pub distinct_machines: u64,
    /// Distinct clients in 30 days by licensed host that answered them last.
    pub clients_by_host: Vec<(HostName, u64)>,
    /// Facts read from licensed hosts.
    pub facts: Vec<(HostName, HostFact)>,
}

/// Current count and totals of one application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApplicationCount {
    /// Application ID.
    pub application: Uuid,
    /// Distinct clients in 30 days, capped at twice `largest_required`.
    pub current_count: u32,
    /// The largest N that any client of this application required.
    pub largest_required: u32,
    /// Request totals.
    pub totals: Totals,
}

/// Why the ledger could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store did not answer, or answered that it cannot now. Try again later.
    #[error("the ledger's store at {store} is unavailable")]
    Unavailable {
        /// Address of the store, without credentials.
        store: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refused our user or password, or forbids a command.
    #[error("the ledger's store at {store} refuses access: check the ACL user, its password and its rights")]
    Refused {
        /// Address of the store, without credentials.
        store: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store will not do what it was asked, however often it is asked: something else lies under our keys.
    #[error("the ledger's store at {store} rejects what it was asked: does something else use the same key prefix?")]
    Rejected {
        /// Address of the store, without credentials.
        store: String,
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What is stored cannot be read with this ledger key: another key sealed it, or it was altered.
    #[error("a ledger entry cannot be opened with this ledger key")]
    Sealed,
}

/// The shared record. Object safe: replicas hold `Arc<dyn Ledger>`.
pub trait Ledger: Send + Sync + 'static {
    /// Which ledger it is, opaque: the same for all who share it, another for each ledger. One in memory that is begun anew
    /// is another one; cursors are of one ledger.
    fn id(&self) -> Uuid;

    /// Counts requests of rehearsal clients, in order and atomically each, and says what each is to be told.
    fn count<'a>(&'a self, batch: &'a [Sighting]) -> BoxFuture<'a, Result<Vec<Verdict>, LedgerError>>;

    /// Adds to the totals of failed requests, and appends the events of refused requests.
    fn refused<'a>(&'a self, batch: &'a [(Uuid, Event)]) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Writes what a relay observed. Writing the same observation twice changes nothing but `asks_today`.
    fn answered<'a>(&'a self, batch: &'a [Answered]) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Stores a fact about a licensed host, replacing the one before.
    fn put_fact<'a>(&'a self, host: &'a str, fact: &'a HostFact) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Appends events that were read from licensed hosts, and notes the machines whose requests succeeded.
    fn append_events<'a>(&'a self, events: &'a [Event]) -> BoxFuture<'a, Result<(), LedgerError>>;

    /// Reads what routing needs; `since` bounds `changed`, and so does `most`: of more, the newest are read.
    fn newest_routes(&self, since: Millis, now: Millis, most: usize) -> BoxFuture<'_, Result<RoutesRead, LedgerError>>;

    /// The same, however many changed.
    fn routes(&self, since: Millis, now: Millis) -> BoxFuture<'_, Result<RoutesRead, LedgerError>> {
        self.newest_routes(since, now, usize::MAX)
    }

    /// Counts and totals of every application.
    fn counts(&self, now: Millis) -> BoxFuture<'_, Result<Vec<ApplicationCount>, LedgerError>>;

    /// Events after `after` (from the oldest kept when none), at most `limit`, oldest first.
    fn events<'a>(
        &'a self,
        after: Option<&'a str>,
        limit: usize,
    ) -> BoxFuture<'a, Result<Vec<StoredEvent>, LedgerError>>;

    /// The newest `limit` events, newest first.
    fn recent_events(&self, limit: usize) -> BoxFuture<'_, Result<Vec<StoredEvent>, LedgerError>>;

    /// Whether the store answers now.
    fn ping(&self) -> BoxFuture<'_, Result<(), LedgerError>>;
}
