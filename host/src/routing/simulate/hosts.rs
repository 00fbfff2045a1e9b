//! Simulated licensed hosts.

use std::collections::BTreeMap;

use super::{Scenario, SrvTarget};
use crate::ledger::counting::ClientTable;
use crate::ledger::{Millis, Pseudonym};

/// Licensed hosts: those of the beginning, and one that joins.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) hosts: Vec<SimHost>,
    required: u32,
}

/// A licensed host. It counts as [`ClientTable`] does.
#[derive(Debug)]
pub(super) struct SimHost {
    pub(super) name: String,
    /// From when on it is there.
    pub(super) from: Millis,
    /// When it dies.
    pub(super) until: Option<Millis>,
    /// How its SRV record ranks it.
    pub(super) srv: SrvTarget,
    table: ClientTable,
}

impl Hosts {
    pub(super) fn new(scenario: &Scenario, dies_at: Option<Millis>, joins_at: Option<Millis>) -> Self {
        let mut ranks = scenario.srv.iter().copied();
        let mut host = |number: u32, from, until| SimHost {
            name: format!("kms-{number}"),
            from,
            until,
            srv: ranks.next().unwrap_or_default(),
            table: ClientTable::default(),
        };
        let first = (1..=scenario.hosts).map(|number| host(number, Millis(0), dies_at.filter(|_| number == 1)));
        let mut hosts: Vec<SimHost> = first.collect();
        hosts.extend(joins_at.map(|at| host(scenario.hosts + 1, at, None)));
        Self {
            hosts,
            required: scenario.required,
        }
    }

    /// Hosts that are listed at `now`: dead ones too, nobody removes their records.
    pub(super) fn listed(&self, now: Millis) -> impl Iterator<Item = usize> {
        self.hosts
            .iter()
            .enumerate()
            .filter(move |(_, host)| host.from <= now)
            .map(|(at, _)| at)
    }

    /// Hosts that answer at `now`.
    pub(super) fn alive(&self, now: Millis) -> impl Iterator<Item = usize> {
        self.listed(now).filter(move |at| self.answers(*at, now))
    }

    /// Whether a host answers.
    pub(super) fn answers(&self, at: usize, now: Millis) -> bool {
        self.hosts
            .get(at)
            .is_some_and(|host| host.from <= now && host.until.is_none_or(|until| now < until))
    }

    /// The count that each host shows which answers at `now`.
    pub(super) fn counts(&self, now: Millis) -> BTreeMap<String, u32> {
        let shown = self.alive(now).filter_map(|at| self.hosts.get(at));
        shown
            .map(|host| (host.name.clone(), host.table.current_count(now)))
            .collect()
    }

    /// The host's answer: its count with this request.
    pub(super) fn ask(&mut self, at: usize, cmid: Pseudonym, now: Millis) -> u32 {
        self.hosts
            .get_mut(at)
            .map_or(0, |host| host.table.count(cmid, self.required, now))
    }
}
