//! The counting part: open connections in total and per source, and the rate per source.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::{Peer, Refusal, Rules};

/// Sources are spread over this many maps, so that connections seldom wait for each other.
const SHARDS: usize = 64;

/// Counts what is admitted. Rules may be replaced while it runs; connections that are open stay.
#[derive(Debug)]
pub struct Admission {
    live: ArcSwap<Live>,
    open: AtomicUsize,
    sources: [Mutex<HashMap<IpAddr, u32>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Live {
    rules: Rules,
    /// Holds the sources that asked since the last [`Admission::trim`]: as many as can connect within those seconds.
    rate: Arc<DefaultKeyedRateLimiter<IpAddr>>,
}

fn limiter(per_minute: u32) -> Arc<DefaultKeyedRateLimiter<IpAddr>> {
    let per_minute = NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN);
    Arc::new(RateLimiter::keyed(Quota::per_minute(per_minute)))
}

/// A place among all connections; given back when dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<Admission>);

/// A place among a source's connections; given back when dropped.
#[derive(Debug)]
pub struct SourceSlot {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    /// Nothing is open yet.
    pub fn new(rules: Rules) -> Self {
        let rate = limiter(rules.requests_per_minute);
        Self {
            live: ArcSwap::from_pointee(Live { rules, rate }),
            open: AtomicUsize::new(0),
            sources: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
        }
    }

    /// Replaces the rules. The rates start anew only if the permitted rate changed.
    pub fn replace(&self, rules: Rules) {
        let before = self.live.load();
        let rate = if before.rules.requests_per_minute == rules.requests_per_minute {
            Arc::clone(&before.rate)
        } else {
            limiter(rules.requests_per_minute)
        };
        self.live.store(Arc::new(Live { rules, rate }));
    }

    /// Takes a place among all connections, and says what the peer is. A peer that is a client itself is also looked up
    /// in the networks.
    pub fn connection(self: &Arc<Self>, peer: IpAddr) -> Result<(ConnectionSlot, Peer), Refusal> {
        let live = self.live.load();
        let kind = live.rules.peer(peer);
        if kind == Peer::Client {
            live.rules.permits(peer)?;
        }
        // Taken first and given back if there was no room, so that two at once cannot both take the last place.
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot(Arc::clone(self));
        if open >= live.rules.connections {
            return Err(Refusal::Connections);
        }
        Ok((slot, kind))
    }

    /// Looks up the networks for a client behind a load balancer.
    pub fn permits(&self, source: IpAddr) -> Result<(), Refusal> {
        self.live.load().rules.permits(source)
    }

    /// The source that an address is of.
    pub fn source_of(&self, address: IpAddr) -> IpAddr {
        self.live.load().rules.source(address)
    }

    /// Takes a place among a source's connections.
    pub fn source(self: &Arc<Self>, source: IpAddr) -> Result<SourceSlot, Refusal> {
        let live = self.live.load();
        let (source, limit) = (live.rules.source(source), live.rules.connections_per_source);
        let mut open = self.shard(source).lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(source).or_insert(0);
        if *count >= limit {
            return Err(Refusal::ConnectionsPerSource);
        }
        *count += 1;
        drop(open);
        Ok(SourceSlot {
            admission: Arc::clone(self),
            source,
        })
    }

    /// Whether a source may make a request now.
    pub fn request(&self, source: IpAddr) -> Result<(), Refusal> {
        let live = self.live.load();
        live.rate
            .check_key(&live.rules.source(source))
            .map_err(|_| Refusal::Rate)
    }

    /// Forgets sources whose rate is fully restored. Call it every few seconds.
    pub fn trim(&self) {
        self.live.load().rate.retain_recent();
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Sources connected now.
    pub fn sources(&self) -> usize {
        self.sources
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder of a division by SHARDS is below SHARDS"
    )]
    #[expect(clippy::cast_possible_truncation, reason = "any bits of the hash will do")]
    fn shard(&self, source: IpAddr) -> &Mutex<HashMap<IpAddr, u32>> {
        &self.sources[self.hasher.hash_one(source) as usize % SHARDS]
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut open = self
            .admission
            .shard(self.source)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = open.entry(self.source) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientsConfig;

    fn admission(connections: u32, per_source: u32, per_minute: u32) -> Arc<Admission> {
        Arc::new(Admission::new(rules(connections, per_source, per_minute)))
    }

    fn rules(connections: u32, per_source: u32, per_minute: u32) -> Rules {
        let mut clients = ClientsConfig::default();
        clients.limits.connections = connections;
        clients.limits.connections_per_source = per_source;
        clients.limits.requests_per_minute_per_source = per_minute;
        Rules::new(&clients)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn a_place_is_given_back_when_the_connection_ends() {
        let admission = admission(2, 1, 10);
        let first = admission.connection(ip(1)).expect("room");
        let second = admission.connection(ip(1)).expect("room");
        assert_eq!(admission.connection(ip(2)).map(|_| ()), Err(Refusal::Connections));
        assert_eq!(admission.open(), 2);
        drop(first);
        assert!(admission.connection(ip(2)).is_ok());
        drop(second);
        assert_eq!(admission.open(), 0);
    }

    #[test]
    fn one_source_cannot_take_the_places_of_others() {
        let admission = admission(100, 2, 10);
        let slots = [
            admission.source(ip(1)).expect("room"),
            admission.source(ip(1)).expect("room"),
        ];
        assert_eq!(admission.source(ip(1)).map(|_| ()), Err(Refusal::ConnectionsPerSource));
        assert!(admission.source(ip(2)).is_ok());
        drop(slots);
        assert_eq!(admission.sources(), 0, "sources that left are forgotten");
        assert!(admission.source(ip(1)).is_ok());
    }

    #[test]
    fn the_rate_holds_per_source_and_survives_a_reload_of_other_rules() {
        let admission = admission(100, 2, 3);
        for _ in 0..3 {
            assert_eq!(admission.request(ip(1)), Ok(()));
        }
        assert_eq!(admission.request(ip(1)), Err(Refusal::Rate));
        assert_eq!(admission.request(ip(2)), Ok(()));
        admission.replace(rules(50, 2, 3));
        assert_eq!(admission.request(ip(1)), Err(Refusal::Rate));
        admission.replace(rules(50, 2, 4));
        assert_eq!(admission.request(ip(1)), Ok(()));
    }

    #[test]
    fn who_changes_his_address_within_his_subnet_is_the_same_source() {
        let admission = admission(100, 1, 1);
        let of = |host: u16| IpAddr::from([0x2001, 0xdb8, 0, 7, 0, 0, 0, host]);
        let slot = admission.source(of(1)).expect("room");
        assert_eq!(admission.source(of(2)).map(|_| ()), Err(Refusal::ConnectionsPerSource));
        assert_eq!(admission.request(of(1)), Ok(()));
        assert_eq!(admission.request(of(2)), Err(Refusal::Rate));
        // The place is given back where it was taken, whatever the rules are by then.
        admission.replace(Rules::new(&ClientsConfig::default()));
        drop(slot);
        assert_eq!(admission.sources(), 0);
    }

    #[test]
    fn fewer_places_after_a_reload_do_not_break_the_count() {
        let admission = admission(2, 2, 3);
        let slots = [
            admission.connection(ip(1)).expect("room"),
            admission.connection(ip(1)).expect("room"),
        ];
        admission.replace(rules(1, 1, 3));
        assert_eq!(admission.connection(ip(1)).map(|_| ()), Err(Refusal::Connections));
        drop(slots);
        assert!(admission.connection(ip(1)).is_ok());
    }
}
