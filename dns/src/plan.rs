//! Decides what to change in a zone: a pure function of what is wanted, what stands there and who we are.
//!
//! Only records that carry our mark are ever removed, and those whose target the user listed. Records of others stay in
//! their RRsets, because single records are added and removed, never whole sets (RFC 2136, 2.5). Every plan says under which
//! prerequisites it holds, so that a change by somebody else in between makes it fail as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hickory_proto::rr::{Name, RData, Record, RecordType};
use thiserror::Error;

use crate::names::{HostName, ZoneName, plain};
use crate::records::{Data, Desired, Entry, Mark};

/// Most records of one RRset that a plan deals with: each of them becomes a prerequisite.
pub const SET_LIMIT: usize = 256;

/// What stands at the names that matter: SRV, A, AAAA, TXT and CNAME records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// The records, as the server gave them.
    pub records: Vec<Record>,
}

impl Observed {
    /// Entries with the time to live that their set has.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<Entry, u32> {
        let read = self.records.iter().filter_map(|record| {
            let data = Data::read(&record.data)?;
            let name = record.name.to_lowercase();
            Some((Entry { name, data }, record.ttl))
        });
        read.collect()
    }

    /// Owner marks.
    #[must_use]
    pub fn marks(&self) -> BTreeSet<Mark> {
        let read = self.records.iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Mark::read(&record.name, txt),
            _ => None,
        });
        read.collect()
    }

    fn set(&self, name: &Name, kind: RecordType) -> impl Iterator<Item = &Record> {
        let here = move |record: &&Record| record.name == *name && record.record_type() == kind;
        self.records.iter().filter(here)
    }
}

/// Names whose address records matter: the wanted ones, and those that our own SRV records point at.
#[must_use]
pub fn address_names(desired: &Desired, at_service: &Observed) -> BTreeSet<Name> {
    let is_address = |entry: &&Entry| !matches!(entry.data, Data::Srv { .. });
    let wanted = desired
        .entries
        .iter()
        .filter(is_address)
        .map(|entry| entry.name.clone());
    let marks = at_service.marks();
    let owner = desired.owner.to_string();
    let entries = at_service.entries();
    let left = entries.keys().filter_map(|entry| match &entry.data {
        Data::Srv { target, .. } if desired.apex.holds(target) => marks
            .iter()
            .any(|mark| mark.owner == owner && mark.is_for(entry))
            .then(|| target.clone()),
        _ => None,
    });
    wanted.chain(left).collect()
}

/// What the user allowed and asked for beyond the records themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Targets of unmarked SRV records that may be removed. What is not listed is never touched.
    pub remove_foreign: BTreeSet<HostName>,
    /// Publish again what stands already, so that scavenging of dynamic records does not take it.
    pub refresh: bool,
}

/// What a change rests on (RFC 2136, 2.4).
#[derive(Debug, Clone, PartialEq)]
pub enum Prerequisite {
    /// The RRset holds exactly these data.
    Exactly {
        /// Its name.
        name: Name,
        /// Its type.
        kind: RecordType,
        /// Its data.
        data: Vec<RData>,
    },
    /// There is no such RRset.
    Absent {
        /// Its name.
        name: Name,
        /// Its type.
        kind: RecordType,
    },
}

/// A change to a single record.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Adds it, or sets its time to live.
    Add(Record),
    /// Removes it.
    Remove(Record),
}

impl Change {
    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        match self {
            Self::Add(record) | Self::Remove(record) => record,
        }
    }
}

/// Why an entry is dealt with as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is wanted and missing.
    Missing,
    /// It is wanted, there and ours.
    Published,
    /// It is wanted and ours, and is published again (other time to live, or the daily refresh).
    Refreshed,
    /// It is wanted, and somebody entered it by hand: it serves, and is not ours to remove.
    AlreadyThere,
    /// It is wanted, and another owner publishes the same: it is marked as ours too.
    Shared,
    /// It is ours and no longer wanted.
    Retired,
    /// It is no longer wanted, and stays because another owner publishes it too.
    Released,
    /// It is somebody's SRV record, and the user listed it for removal.
    Listed,
    /// It is an unmarked record of somebody else: kept and reported.
    Foreign,
    /// It is another owner's: kept.
    Neighbour,
}

/// In words that status, events and the command line share.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "added: it was missing",
            Self::Published => "kept: it is published",
            Self::Refreshed => "published again",
            Self::AlreadyThere => "kept: somebody entered the same record by hand",
            Self::Shared => "shared with another owner",
            Self::Retired => "removed: it is no longer wanted",
            Self::Released => "left to the other owner that publishes it too",
            Self::Listed => "removed: its target is listed for removal",
            Self::Foreign => "kept: it is somebody else's; clients may pass by through it",
            Self::Neighbour => "kept: another owner publishes it",
        })
    }
}

/// What to do, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The zone to be changed.
    pub apex: ZoneName,
    /// What the changes rest on.
    pub prerequisites: Vec<Prerequisite>,
    /// The changes; none if all is well.
    pub changes: Vec<Change>,
    /// Each entry that is wanted or there, and why it is dealt with so.
    pub decisions: BTreeMap<Entry, Reason>,
}

impl Plan {
    /// Entries that are dealt with for `reason`.
    pub fn because(&self, reason: Reason) -> impl Iterator<Item = &Entry> {
        let same = move |(_, because): &(&Entry, &Reason)| **because == reason;
        self.decisions.iter().filter(same).map(|(entry, _)| entry)
    }

    /// SRV records through which clients pass by us: unmarked ones of somebody else that stay.
    pub fn bypasses(&self) -> impl Iterator<Item = &Entry> {
        self.because(Reason::Foreign)
            .filter(|entry| matches!(entry.data, Data::Srv { .. }))
    }
}

/// Why there can be no plan.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum PlanError {
    /// A target that is to have addresses is an alias.
    #[error("{name} is an alias (CNAME) and cannot have addresses; remove the alias or choose another target")]
    Alias {
        /// The target.
        name: String,
    },
    /// A set that is too large to be changed safely.
    #[error("{name} has more than {SET_LIMIT} {kind} records; remove those that are not needed")]
    TooMany {
        /// Its name.
        name: String,
        /// Its type.
        kind: RecordType,
    },
}

/// Decides.
///
/// # Errors
/// When nothing can be published without breaking what is there.
pub fn plan(desired: &Desired, observed: &Observed, options: &Options) -> Result<Plan, PlanError> {
    let mut planner = Planner {
        desired,
        observed,
        entries: observed.entries(),
        marks: observed.marks(),
        owner: desired.owner.to_string(),
        changes: Vec::new(),
        decisions: BTreeMap::new(),
    };
    planner.wanted(options.refresh);
    planner.unwanted(&options.remove_foreign);
    planner.stray_marks();
    let prerequisites = planner.prerequisites()?;
    Ok(Plan {
        apex: desired.apex.clone(),
        prerequisites,
        changes: planner.changes,
        decisions: planner.decisions,
    })
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    entries: BTreeMap<Entry, u32>,
    marks: BTreeSet<Mark>,
    owner: String,
    changes: Vec<Change>,
    decisions: BTreeMap<Entry, Reason>,
}

impl Planner<'_> {
    fn wanted(&mut self, refresh: bool) {
        for entry in &self.desired.entries {
            let (ours, others) = self.owners(entry);
            let ttl = self.ttl(&entry.name, entry.data.kind());
            let mark = Mark::of(&self.desired.owner, entry);
            let reason = match self.entries.get(entry) {
                None => {
                    self.changes.push(Change::Add(entry.record(ttl)));
                    // A mark that outlived its entry serves again.
                    if !ours {
                        self.add_mark(&mark);
                    }
                    Reason::Missing
                }
                Some(seen) if ours && (refresh || *seen != ttl) => {
                    self.changes.push(Change::Add(entry.record(ttl)));
                    self.add_mark(&mark);
                    Reason::Refreshed
                }
                Some(_) if ours => Reason::Published,
                Some(_) if others => {
                    self.add_mark(&mark);
                    Reason::Shared
                }
                Some(_) => Reason::AlreadyThere,
            };
            self.decisions.insert(entry.clone(), reason);
        }
    }

    fn unwanted(&mut self, listed: &BTreeSet<HostName>) {
        let unwanted = self
            .entries
            .iter()
            .filter(|(entry, _)| !self.desired.entries.contains(*entry));
        for (entry, ttl) in unwanted {
            let reason = match (self.owners(entry), &entry.data) {
                ((true, false), _) => Reason::Retired,
                ((true, true), _) => Reason::Released,
                ((false, true), _) => Reason::Neighbour,
                ((false, false), Data::Srv { target, .. }) if listed.iter().any(|host| host.name() == target) => {
                    Reason::Listed
                }
                ((false, false), _) => Reason::Foreign,
            };
            if matches!(reason, Reason::Retired | Reason::Listed) {
                self.changes.push(Change::Remove(self.as_observed(entry, *ttl)));
            }
            if matches!(reason, Reason::Retired | Reason::Released) {
                let mark = Mark::of(&self.desired.owner, entry);
                self.changes.push(Change::Remove(mark.record(*ttl)));
            }
            self.decisions.insert(entry.clone(), reason);
        }
    }

    /// Our marks whose entry somebody took away and nobody wants.
    fn stray_marks(&mut self) {
        for mark in self.marks.iter().filter(|mark| mark.owner == self.owner) {
            let known = |entry: &Entry| mark.is_for(entry);
            if !self.entries.keys().any(known) && !self.desired.entries.iter().any(known) {
                self.changes.push(Change::Remove(mark.record(self.desired.ttl)));
            }
        }
    }

    /// The record as the server spells it: some compare the case of names when they remove.
    fn as_observed(&self, entry: &Entry, ttl: u32) -> Record {
        let mut set = self.observed.set(&entry.name, entry.data.kind());
        let same = set.find(|record| Data::read(&record.data).as_ref() == Some(&entry.data));
        same.map_or_else(|| entry.record(ttl), Clone::clone)
    }

    /// Whether `entry` is ours, and whether it is another owner's.
    fn owners(&self, entry: &Entry) -> (bool, bool) {
        let marks = || self.marks.iter().filter(|mark| mark.is_for(entry));
        (
            marks().any(|mark| mark.owner == self.owner),
            marks().any(|mark| mark.owner != self.owner),
        )
    }

    fn add_mark(&mut self, mark: &Mark) {
        let ttl = self.ttl(&mark.name, RecordType::TXT);
        self.changes.push(Change::Add(mark.record(ttl)));
    }

    /// All records of a set have one time to live (RFC 2181, 5.2). Where others have records, theirs stays as it is.
    fn ttl(&self, name: &Name, kind: RecordType) -> u32 {
        let others = |record: &&Record| match &record.data {
            RData::TXT(txt) => Mark::read(&record.name, txt).is_none_or(|mark| mark.owner != self.owner),
            data => Data::read(data).is_some_and(|data| {
                let name = record.name.to_lowercase();
                let (ours, others) = self.owners(&Entry { name, data });
                !ours || others
            }),
        };
        let theirs = self.observed.set(name, kind).find(others);
        theirs.map_or(self.desired.ttl, |record| record.ttl)
    }

    fn prerequisites(&self) -> Result<Vec<Prerequisite>, PlanError> {
        let mut sets: Vec<(&Name, RecordType)> = Vec::new();
        for change in &self.changes {
            let record = change.record();
            let kind = record.record_type();
            if !sets.contains(&(&record.name, kind)) {
                sets.push((&record.name, kind));
            }
            let adds_address = matches!(change, Change::Add(_)) && record.data.ip_addr().is_some();
            // A server ignores an address beside an alias without a word (RFC 2136, 3.4.2.2).
            if adds_address && !sets.contains(&(&record.name, RecordType::CNAME)) {
                sets.push((&record.name, RecordType::CNAME));
            }
        }
        let mut prerequisites = Vec::with_capacity(sets.len());
        for (name, kind) in sets {
            let data: Vec<RData> = self
                .observed
                .set(name, kind)
                .map(|record| record.data.clone())
                .collect();
            if kind == RecordType::CNAME && !data.is_empty() {
                return Err(PlanError::Alias { name: plain(name) });
            }
            if data.len() > SET_LIMIT {
                return Err(PlanError::TooMany {
                    name: plain(name),
                    kind,
                });
            }
            let name = name.clone();
            prerequisites.push(if data.is_empty() {
                Prerequisite::Absent { name, kind }
            } else {
                Prerequisite::Exactly { name, kind, data }
            });
        }
        Ok(prerequisites)
    }
}

#[cfg(test)]
mod tests;
