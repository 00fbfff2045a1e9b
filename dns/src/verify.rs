//! Asks every authoritative server of a zone whether it holds what was published: what a publisher's server took is of use
//! only once each server that clients' resolvers may ask has it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde::Serialize;
use thiserror::Error;

use crate::discover::{self, DiscoverError, ResolverSource, chain};
use crate::exchange::{self, ExchangeError};
use crate::names::{ZoneName, plain};
use crate::plan::{Observed, address_names};
use crate::records::{Data, Desired, Entry};

/// Most servers of one zone that are asked.
const SERVERS: usize = 16;

/// An authoritative server of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Its name, or its address where it was given so.
    pub name: String,
    /// Where it may be asked; the first that answers is enough.
    pub addresses: Vec<SocketAddr>,
}

impl From<SocketAddr> for Authority {
    fn from(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            addresses: vec![address],
        }
    }
}

/// Why the servers of a zone are not known.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The zone's servers could not be asked for.
    #[error("the authoritative servers of {zone} could not be looked up")]
    Lookup {
        /// The zone.
        zone: ZoneName,
        /// Why.
        #[source]
        source: DiscoverError,
    },
    /// It has none.
    #[error("{zone} has no NS records; it is no zone's apex, or it is not delegated")]
    NoServers {
        /// The zone.
        zone: ZoneName,
    },
}

/// Why a server could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// It has no address.
    #[error("its name has no address")]
    NoAddress,
    /// It did not answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// It answered with an error.
    #[error("it answered {0}")]
    Code(ResponseCode),
    /// It does not serve the zone.
    #[error("it is not authoritative for the zone")]
    NotAuthoritative,
}

/// What one server holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// All that was published, and nothing of ours besides.
    Holds,
    /// Something else.
    Differs {
        /// What it lacks.
        missing: BTreeSet<Entry>,
        /// What it still holds of ours.
        stale: BTreeSet<Entry>,
    },
    /// Nobody knows.
    Unknown {
        /// Why.
        why: String,
    },
}

/// What every server of a zone holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// The zone that clients look in.
    pub zone: ZoneName,
    /// Each server by name.
    pub servers: Vec<(String, State)>,
    /// SRV records at the service's name that nobody marked and that lead elsewhere than what was published.
    pub foreign: BTreeSet<Entry>,
}

impl Verification {
    /// Whether every server holds what was published; a zone without servers holds nothing.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.servers.is_empty() && self.servers.iter().all(|(_, state)| *state == State::Holds)
    }
}

/// Which server lacks what, in words for a condition.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.servers.is_empty() {
            return write!(f, "no server of {} could be asked", self.zone);
        }
        if self.holds() {
            let count = self.servers.len();
            return write!(
                f,
                "every authoritative server of {} ({count}) holds the records",
                self.zone
            );
        }
        let mut first = true;
        for (name, state) in &self.servers {
            if *state == State::Holds {
                continue;
            }
            if !first {
                f.write_str("; ")?;
            }
            first = false;
            match state {
                State::Holds => {}
                State::Unknown { why } => write!(f, "{name}: {why}")?,
                State::Differs { missing, stale } => {
                    write!(f, "{name}")?;
                    for (verb, entries) in [("lacks", missing), ("still has", stale)] {
                        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
                        if !entries.is_empty() {
                            write!(f, " {verb} {}", entries.join(", "))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// Looks the authoritative servers of `apex` up.
///
/// # Errors
/// When nobody says who they are.
pub async fn authorities(apex: &ZoneName, source: &ResolverSource) -> Result<Vec<Authority>, VerifyError> {
    let failed = |source| VerifyError::Lookup {
        zone: apex.clone(),
        source,
    };
    let resolvers = discover::servers(source).map_err(failed)?;
    let answer = discover::ask(&resolvers, apex.name(), RecordType::NS)
        .await
        .map_err(failed)?;
    let names: BTreeSet<Name> = answer
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::NS(server) if record.name == *apex.name() => Some(server.0.to_lowercase()),
            _ => None,
        })
        .take(SERVERS)
        .collect();
    if names.is_empty() {
        return Err(VerifyError::NoServers { zone: apex.clone() });
    }
    let authorities = names.into_iter().map(|name| {
        let resolvers = &resolvers;
        async move {
            let mut addresses = Vec::new();
            for kind in [RecordType::A, RecordType::AAAA] {
                // A server without an address is reported as such when it is asked.
                let answer = discover::ask(resolvers, &name, kind).await;
                let found = answer.map(|answer| answer.answers).unwrap_or_default();
                let found = found.iter().filter_map(|record| record.data.ip_addr());
                addresses.extend(found.map(|address| SocketAddr::new(address, 53)));
            }
            Authority {
                name: plain(&name),
                addresses,
            }
        }
    });
    Ok(join_all(authorities).await)
}

/// Asks each of `servers`, at the same time and each question within `patience`.
pub async fn verify(desired: &Desired, servers: &[Authority], patience: Duration) -> Verification {
    let looks = servers.iter().take(SERVERS).map(|server| async move {
        match read(desired, server, patience).await {
            Ok(observed) => (judge(desired, &observed), foreign(desired, &observed)),
            Err(error) => (State::Unknown { why: chain(&error) }, BTreeSet::new()),
        }
    });
    let mut verification = Verification {
        zone: desired.zone.clone(),
        servers: Vec::new(),
        foreign: BTreeSet::new(),
    };
    for (server, (state, foreign)) in servers.iter().zip(join_all(looks).await) {
        verification.servers.push((server.name.clone(), state));
        verification.foreign.extend(foreign);
    }
    verification
}

/// Others' records through which clients get elsewhere; no I/O.
fn foreign(desired: &Desired, observed: &Observed) -> BTreeSet<Entry> {
    let target = |entry: &Entry| match &entry.data {
        Data::Srv { target, .. } => Some(target.clone()),
        _ => None,
    };
    let ours: BTreeSet<Name> = desired.entries.iter().filter_map(target).collect();
    let marks = observed.marks();
    let leads_elsewhere = |entry: &Entry| {
        target(entry).is_some_and(|target| !ours.contains(&target)) && !marks.iter().any(|mark| mark.is_for(entry))
    };
    observed.entries().into_keys().filter(leads_elsewhere).collect()
}

/// Compares; no I/O.
fn judge(desired: &Desired, observed: &Observed) -> State {
    let entries = observed.entries();
    let marks = observed.marks();
    let owner = desired.owner.to_string();
    let missing: BTreeSet<Entry> = desired
        .entries
        .iter()
        .filter(|entry| !entries.contains_key(*entry))
        .cloned()
        .collect();
    let left_behind = |entry: &&Entry| {
        let mut marks = marks.iter().filter(|mark| mark.is_for(entry)).peekable();
        !desired.entries.contains(*entry) && marks.peek().is_some() && marks.all(|mark| mark.owner == owner)
    };
    let stale: BTreeSet<Entry> = entries.keys().filter(left_behind).cloned().collect();
    if missing.is_empty() && stale.is_empty() {
        State::Holds
    } else {
        State::Differs { missing, stale }
    }
}

/// Reads what one server holds at the names that matter.
pub(crate) async fn read(desired: &Desired, server: &Authority, patience: Duration) -> Result<Observed, ReadError> {
    let mut last = ReadError::NoAddress;
    for address in &server.addresses {
        match read_at(desired, *address, patience).await {
            Ok(observed) => return Ok(observed),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn read_at(desired: &Desired, server: SocketAddr, patience: Duration) -> Result<Observed, ReadError> {
    let service = desired.zone.service();
    let mut observed = Observed::default();
    for kind in [RecordType::SRV, RecordType::TXT] {
        observed
            .records
            .extend(records(server, &service, kind, patience).await?);
    }
    for name in address_names(desired, &observed) {
        for kind in [RecordType::CNAME, RecordType::A, RecordType::AAAA, RecordType::TXT] {
            observed.records.extend(records(server, &name, kind, patience).await?);
        }
    }
    Ok(observed)
}

async fn records(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
    patience: Duration,
) -> Result<Vec<Record>, ReadError> {
    let answer = exchange::query(server, name, kind, false, patience).await?;
    match answer.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if answer.authoritative => {}
        ResponseCode::NoError | ResponseCode::NXDomain => return Err(ReadError::NotAuthoritative),
        code => return Err(ReadError::Code(code)),
    }
    let here = |record: &Record| record.name == *name && record.record_type() == kind;
    Ok(answer.answers.into_iter().filter(here).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Endpoint, Mark};

    fn desired(host: &str) -> Desired {
        let zone: ZoneName = "corp.example.com".parse().unwrap();
        let endpoint = Endpoint {
            target: format!("{host}.corp.example.com").parse().unwrap(),
            addresses: ["192.0.2.1".parse().unwrap()].into(),
            port: 1688,
            priority: 0,
            weight: 0,
        };
        Desired::new(zone.clone(), zone, "c1".parse().unwrap(), 60, &[endpoint]).unwrap()
    }

    fn holding(desired: &Desired) -> Observed {
        let entries = desired.entries.iter().map(|entry| entry.record(60));
        let marks = desired
            .entries
            .iter()
            .map(|entry| Mark::of(&desired.owner, entry).record(60));
        Observed {
            records: entries.chain(marks).collect(),
        }
    }

    #[test]
    fn a_server_that_is_behind_is_told_what_it_lacks_and_what_it_should_not_have() {
        let (old, new) = (desired("old"), desired("new"));
        assert_eq!(judge(&new, &holding(&new)), State::Holds);
        let State::Differs { missing, stale } = judge(&new, &holding(&old)) else {
            panic!("differs")
        };
        assert_eq!((&missing, &stale), (&new.entries, &old.entries));
        let verification = Verification {
            zone: new.zone.clone(),
            servers: vec![
                ("ns1".into(), State::Holds),
                ("ns2".into(), State::Differs { missing, stale }),
            ],
            foreign: BTreeSet::new(),
        };
        assert!(!verification.holds());
        let text = verification.to_string();
        assert!(
            text.starts_with("ns2 lacks _vlmcs._tcp.corp.example.com. IN SRV 0 0 1688 new.corp"),
            "{text}"
        );
        assert!(text.contains("still has") && !text.contains("ns1"), "{text}");
    }

    #[test]
    fn others_records_are_not_stale() {
        let mut other = desired("other");
        other.owner = "c2".parse().unwrap();
        let mut both = holding(&other);
        both.records.extend(holding(&desired("new")).records);
        assert_eq!(judge(&desired("new"), &both), State::Holds);
        assert_eq!(
            foreign(&desired("new"), &both),
            BTreeSet::new(),
            "another owner's lead to replicas too"
        );
    }

    #[test]
    fn foreign_is_what_nobody_marked_and_leads_elsewhere() {
        let (ours, theirs) = (desired("kms"), desired("dc1"));
        let unmarked: Vec<Record> = ours
            .entries
            .iter()
            .chain(&theirs.entries)
            .map(|entry| entry.record(60))
            .collect();
        let found = foreign(&ours, &Observed { records: unmarked });
        assert_eq!(
            found.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["_vlmcs._tcp.corp.example.com. IN SRV 0 0 1688 dc1.corp.example.com."]
        );
    }
}
