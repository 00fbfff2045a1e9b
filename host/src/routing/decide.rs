//! Where a client goes: one pure function.
//!
//! ```text
//! fleet (counts, licence states) --+
//! health (this replica's) ---------+--> decide --> hosts to try, in order, each with its reason
//! client (hash, last answer) ------+
//! ```
//!
//! A host is *warm* once its count has reached N: whoever it answers is activated. The rules, first match first:
//!
//! 1. No counts are known, or the policy says so: the preference order.
//! 2. No eligible host is warm: all clients to the highest count.
//! 3. The client's own host, the first of the active set in its hash order, is warm: there.
//! 4. It is cold, and the client renews a licence: its last host was warm when it answered. There too. It loses nothing by
//!    a low count.
//! 5. Anyone else to a warm host; cold hosts come last.
//!
//! A client that asks again within a day of its last answer was probably not activated by it (a host that lost its
//! count, several applications behind one count): it goes to the next warm host instead of the same again.

use smallvec::SmallVec;

use super::config::Policy;
use super::fleet::{Fleet, Health, Standing};
use super::hash::Score;
use super::reason::{HostState, Knowledge, Place, Reason};
use crate::ledger::{Millis, Pseudonym};

/// A client that asks more than this after its last answer has been content with it: the activation interval of one
/// that is not activated is 2 hours, the renewal interval of one that is is 7 days.
const CONTENT_AFTER_MS: i64 = 24 * 3600 * 1000;

/// Requests that follow each other faster come from several products of one machine, not from a second try.
const SAME_VISIT_MS: i64 = 10 * 60 * 1000;

/// A client that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Who it is.
    pub pseudonym: Pseudonym,
    /// Its last answer, if it had one within 30 days.
    pub last: Option<LastAnswer>,
}

/// A client's last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastAnswer {
    /// Index of the host that gave it; none if the fleet no longer has it.
    pub host: Option<usize>,
    /// When.
    pub at: Millis,
    /// Whether that host was believed to be warm then.
    pub warm: bool,
    /// Requests within 24 hours of it.
    pub asks_today: u8,
}

/// Hosts to try, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Why the first is the first.
    pub reason: Reason,
    /// The hosts, first to last. None twice.
    pub order: SmallVec<[Try; 8]>,
}

/// A host to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Try {
    /// Index of the host.
    pub host: usize,
    /// Why it stands here.
    pub place: Place,
    /// Whether it is believed to be warm: then its answer is a licence.
    pub warm: bool,
}

/// What a client's history says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    FirstTime,
    SharedAddress,
    AskedToday { again: bool },
    LastAnswerCold,
    Renewal,
}

/// Decides where `client` goes at `now`.
pub fn decide(fleet: &Fleet, health: impl Fn(usize) -> Health, client: &Client, now: Millis) -> Decision {
    let standings = fleet.standings(health);
    decide_with(fleet, &standings, client, now)
}

/// [`decide`] with the standings at hand.
pub(super) fn decide_with(fleet: &Fleet, standings: &[Standing], client: &Client, now: Millis) -> Decision {
    let standing = |at: usize| standings.get(at).copied();
    let usable =
        |at: &usize| standing(*at).is_some_and(|standing| standing.eligible && standing.state != HostState::Reserve);
    let warm = |at: &usize| usable(at) && standing(*at).is_some_and(|standing| standing.warm);

    let mut order = Order {
        fleet,
        standings,
        decision: Decision {
            reason: Reason::NoHost,
            order: SmallVec::new(),
        },
    };
    if fleet.policy == Policy::Preference || fleet.knowledge == Knowledge::PreferenceOrder {
        order.all(fleet.eligible(standings).filter(usable), Place::Preference);
        return order.finish(Reason::PreferenceOrder);
    }
    if !fleet.by_preference.iter().any(warm) {
        order.all(fleet.by_count(standings).into_iter().filter(usable), Place::LowerCount);
        return order.finish(Reason::HighestCount);
    }

    let members = hash_order(fleet, standings, client.pseudonym);
    let active = || members.iter().copied().filter(usable);
    let outside = || {
        fleet
            .by_preference
            .iter()
            .copied()
            .filter(|at| usable(at) && !members.contains(at))
    };
    let kind = client.kind(fleet, now);

    if let Kind::AskedToday { again: true } = kind
        && let Some(next) = next_warm(client, active().chain(outside()).filter(warm))
    {
        order.push(next, Place::Chosen);
        order.warm_first(active(), outside(), warm);
        return order.finish(Reason::RetryElsewhere);
    }
    let reason = match (active().next(), kind) {
        (None, _) => Reason::Standby,
        (Some(own), _) if warm(&own) => {
            if members.first() == Some(&own) {
                Reason::Sticky
            } else {
                Reason::FailOver
            }
        }
        (_, Kind::Renewal) => Reason::WarmsUp,
        (_, Kind::FirstTime) => Reason::FirstTime,
        (_, Kind::SharedAddress) => Reason::SharedAddress,
        (_, Kind::AskedToday { .. }) => Reason::AskedToday,
        (_, Kind::LastAnswerCold) => Reason::LastAnswerCold,
    };
    if kind == Kind::Renewal {
        order.all(active(), Place::NextInHashOrder);
    }
    order.warm_first(active(), outside(), warm);
    order.finish(reason)
}

/// The active set in the client's hash order, ejected hosts too.
fn hash_order(fleet: &Fleet, standings: &[Standing], client: Pseudonym) -> SmallVec<[usize; 8]> {
    let members = standings
        .iter()
        .enumerate()
        .filter(|(_, standing)| standing.member)
        .map(|(at, _)| at);
    let mut order: SmallVec<[usize; 8]> = members.collect();
    if order.len() > 1 {
        let score = |at: &usize| {
            fleet
                .hosts
                .get(*at)
                .map(|host| Score::new(host.key, host.weight, client))
        };
        let mut scored: SmallVec<[(Option<Score>, usize); 8]> = order.iter().map(|at| (score(at), *at)).collect();
        scored.sort_unstable_by(|a, b| b.cmp(a));
        order = scored.into_iter().map(|(_, at)| at).collect();
    }
    order
}

/// The warm host after the one that answered last; none if there is no other.
fn next_warm(client: &Client, warm: impl Iterator<Item = usize>) -> Option<usize> {
    let last = client.last?.host?;
    let warm: SmallVec<[usize; 8]> = warm.collect();
    let at = warm.iter().position(|host| *host == last)?;
    warm.iter().cycle().nth(at + 1).copied().filter(|next| *next != last)
}

impl Client {
    fn kind(&self, fleet: &Fleet, now: Millis) -> Kind {
        let Some(last) = self.last else { return Kind::FirstTime };
        let ago = now.0.saturating_sub(last.at.0);
        if ago < CONTENT_AFTER_MS {
            return if last.asks_today > fleet.shared_address_asks {
                Kind::SharedAddress
            } else {
                Kind::AskedToday {
                    again: ago >= SAME_VISIT_MS,
                }
            };
        }
        // What that host is now does not matter. One that has become warm since told this client a count below N, and it
        // may have slept from then until now.
        if last.warm { Kind::Renewal } else { Kind::LastAnswerCold }
    }
}

/// Collects hosts to try, each once.
struct Order<'f> {
    fleet: &'f Fleet,
    standings: &'f [Standing],
    decision: Decision,
}

impl Order<'_> {
    fn push(&mut self, host: usize, place: Place) {
        let warm = self.standings.get(host).is_some_and(|standing| standing.warm)
            && self.fleet.knowledge != Knowledge::PreferenceOrder;
        let order = &mut self.decision.order;
        if !order.iter().any(|tried| tried.host == host) {
            let place = if order.is_empty() { Place::Chosen } else { place };
            order.push(Try { host, place, warm });
        }
    }

    fn all(&mut self, hosts: impl Iterator<Item = usize>, place: Place) {
        hosts.for_each(|host| self.push(host, place));
    }

    /// Warm hosts of the active set in hash order, warm ones outside it, then the cold ones likewise.
    fn warm_first(
        &mut self,
        active: impl Iterator<Item = usize> + Clone,
        outside: impl Iterator<Item = usize> + Clone,
        warm: impl Fn(&usize) -> bool,
    ) {
        self.all(active.clone().filter(&warm), Place::NextInHashOrder);
        self.all(outside.clone().filter(&warm), Place::WarmStandby);
        self.all(active, Place::Cold);
        self.all(outside, Place::Cold);
    }

    /// Adds the reserve.
    fn finish(mut self, reason: Reason) -> Decision {
        let (fleet, standings) = (self.fleet, self.standings);
        let reserve = |at: &usize| {
            standings
                .get(*at)
                .is_some_and(|standing| standing.state == HostState::Reserve)
        };
        let others = !self.decision.order.is_empty();
        self.all(fleet.by_preference.iter().copied().filter(reserve), Place::Reserve);
        self.decision.reason = match self.decision.order.is_empty() {
            true => Reason::NoHost,
            false if others => reason,
            false => Reason::Reserve,
        };
        self.decision
    }
}
