//! A zone of the spec on its way: what is known of it from before, and what is to be done there now.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kms_dns::names::plain;
use kms_dns::records::{Data, Desired, Entry, OwnerId};
use kms_host::rpc::ConnectOptions;

use super::input::{self, HeldBack};
use super::presence::{Memory, Probe, Silent, admit, decide};
use super::probe::probe;
use super::round::Task;
use super::settings::{Problem, Zone, ZonePublisher, check, owner};
use super::target::{ServiceFacts, Target, desired, target};
use crate::api::status::{PublishedBy, ZoneStatus};
use crate::api::{DnsSpec, OfficeKmsHost, ZoneSpec};
use crate::secrets::Objects;

/// What the zones of a resource share.
pub(super) struct Surroundings<'a> {
    /// The resource.
    pub host: &'a OfficeKmsHost,
    /// Its section on DNS.
    pub dns: &'a DnsSpec,
    /// `status.dns` as it is stored.
    pub stored: &'a [ZoneStatus],
    /// What its Service says.
    pub service: Option<&'a ServiceFacts>,
    /// What the zones refer to.
    pub objects: &'a Objects,
    /// Accounts that must not be tried.
    pub held: &'a HeldBack<'a>,
    /// The time.
    pub now: Timestamp,
}

/// A zone of the spec.
pub(super) struct Candidate<'a> {
    /// As the spec has it.
    pub spec: &'a ZoneSpec,
    /// What the stored status says of it; nothing that is about another publisher.
    pub before: ZoneStatus,
    /// Where its records stand, or are about to, outside of the cluster.
    pub place: Option<PublishedBy>,
    /// Places that are to be emptied.
    pub left: Vec<PublishedBy>,
    /// For the next time.
    pub memory: Memory,
    /// For the next time.
    pub silent: Silent,
    /// What is to be done, or what is wrong.
    pub checked: Result<Task, Vec<Problem>>,
    /// Whether this look only notes where records will stand.
    pub notes: bool,
}

impl<'a> Candidate<'a> {
    /// The zone at `index` of the spec; `duplicate` if it is there twice. Probes its targets.
    pub(super) async fn new(
        (index, spec): (usize, &'a ZoneSpec),
        duplicate: Option<Problem>,
        around: &Surroundings<'_>,
    ) -> Candidate<'a> {
        let id = input::owner(around.host);
        let place = input::place(spec, &id);
        let row = around.stored.iter().find(|row| row.zone == spec.name);
        let mut candidate = Self {
            spec,
            before: row.cloned().unwrap_or_default(),
            place,
            left: Vec::new(),
            memory: Memory::default(),
            silent: Silent::new(),
            checked: Err(Vec::new()),
            notes: false,
        };
        let checked = match (
            owner(&id),
            check(index, &input::zone(spec, around.objects, around.held)),
        ) {
            (Ok(owner), Ok(zone)) if duplicate.is_none() => Ok((owner, zone)),
            (owner, zone) => {
                let wrong = zone.err().into_iter().flatten();
                Err(owner.err().into_iter().chain(duplicate).chain(wrong).collect())
            }
        };
        candidate.checked = match checked {
            Ok((owner, zone)) => {
                candidate.leave();
                candidate.remember(&zone);
                Ok(candidate.task(zone, owner, around).await)
            }
            Err(wrong) => Err(wrong),
        };
        candidate
    }

    /// Tells places that are to be emptied from the one that is to be served.
    fn leave(&mut self) {
        let known = std::mem::take(&mut self.before.published_by).into_iter();
        let served = |old: &PublishedBy| {
            let place = self.place.as_ref();
            place.is_some_and(|place| input::same_place(&self.spec.name, old, place))
        };
        (self.before.published_by, self.left) = known.partition(served);
    }

    /// Takes from the stored status what is about this publisher at this place.
    fn remember(&mut self, zone: &Zone) {
        let same = match self.place {
            Some(_) => self.is_noted(),
            None => self.before.publisher.as_deref() == Some(zone.publisher.kind()),
        };
        if !same {
            self.before.refreshed_at = None;
            self.before.failing_since = None;
            self.before.silent.clear();
        }
        let at = |time: &Time| time.0;
        self.memory = Memory {
            // From when it was noted where they stand: an update whose answer was lost may have taken effect.
            published: same && (self.place.is_some() || self.before.refreshed_at.is_some()),
            failing_since: self.before.failing_since.as_ref().map(at),
            refreshed_at: self.before.refreshed_at.as_ref().map(at),
        };
        let silent = self.before.silent.iter();
        self.silent = silent.map(|row| (row.target.clone(), row.since.0)).collect();
    }

    /// Whether the stored status says where records will stand; inside of the cluster nothing needs to.
    pub(super) fn is_noted(&self) -> bool {
        self.place.is_none() || !self.before.published_by.is_empty()
    }

    /// What is to be done in the zone, from its targets and whether they answer.
    async fn task(&mut self, zone: Zone, owner: OwnerId, around: &Surroundings<'_>) -> Task {
        let name = around.host.metadata.name.as_deref().unwrap_or_default();
        let nothing = ServiceFacts {
            port: 1688,
            ..ServiceFacts::default()
        };
        let grace = SignedDuration::from_secs(around.dns.grace_period_seconds.into());
        let stood = self.stood();
        let (mut endpoints, mut told) = (Vec::new(), None);
        let probes = around.dns.probe && !matches!(zone.publisher, ZonePublisher::Manual);
        let mut found = match target(&zone, name, around.service.unwrap_or(&nothing)) {
            Target::Known(targets) if probes => {
                let probed = probe(&targets, &ConnectOptions::default()).await;
                let known = |target: &str| stands(&stood, target);
                let admitted = admit(&targets, &probed.failed, &known, &self.silent, grace, around.now);
                let verdict = probed.verdict();
                // Where none answers it is decided for all of them.
                endpoints = if verdict == Probe::Answered {
                    admitted.endpoints
                } else {
                    targets
                };
                (self.silent, told) = (admitted.silent, admitted.told);
                verdict
            }
            Target::Known(targets) => {
                endpoints = targets;
                self.silent.clear();
                Probe::Off
            }
            Target::Waiting(why) => Probe::NoTarget { why },
        };
        let desired = desired(&zone, &owner, &endpoints).unwrap_or_else(|error| {
            // What the spec says was checked, so it is the Service's addresses.
            found = Probe::NoTarget { why: error.to_string() };
            Desired {
                zone: zone.name.clone(),
                apex: zone.apex.clone(),
                owner: owner.clone(),
                ttl: zone.ttl,
                entries: BTreeSet::new(),
            }
        });
        let (action, kept) = decide(&found, self.memory, grace, around.now);
        self.memory = kept;
        let stood = Desired {
            entries: stood,
            ..desired.clone()
        };
        Task {
            zone,
            desired,
            stood,
            action,
            silent: told,
        }
    }

    /// Records that stand, as far as the status knows.
    fn stood(&self) -> BTreeSet<Entry> {
        let known = self.memory.published && self.memory.refreshed_at.is_some();
        let lines = self.before.records.iter().filter(|_| known);
        lines.filter_map(|line| Entry::read_line(line)).collect()
    }
}

/// Whether records of `target`, an address or a host name, are among `entries`.
fn stands(entries: &BTreeSet<Entry>, target: &str) -> bool {
    entries.iter().any(|entry| match &entry.data {
        Data::A(address) => address.to_string() == target,
        Data::Aaaa(address) => address.to_string() == target,
        Data::Srv { target: name, .. } => plain(name) == target,
    })
}
