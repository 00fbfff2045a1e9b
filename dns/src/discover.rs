//! What a KMS client finds: the SRV records of a zone, the order in which it tries them, and what is wrong with them.
//!
//! Windows clients since 7 and Server 2008 R2 honour priority and weight as RFC 2782 says, try another target when one does
//! not answer, and keep the one that did ("Volume Activation Client", Microsoft). The order is a pure function of the
//! records and a source of randomness.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::future::{join, join_all};
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rand::{Rng, RngExt as _};
use serde::Serialize;
use thiserror::Error;

use crate::exchange::{self, ExchangeError};
use crate::names::{ZoneName, plain};
use crate::records::{Data, Entry, Mark};

/// The port of KMS.
pub const KMS_PORT: u16 = 1688;
/// How long one name server may take for one question.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most targets that are looked at; an answer with more is warned of.
const TARGETS: usize = 32;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolverSource {
    /// The name servers of this machine.
    System,
    /// These, in order, until one answers.
    Servers(Vec<SocketAddr>),
}

/// Why nothing could be learnt. That there are no records is no error but a warning.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// There is nobody to ask.
    #[error("this machine's name servers cannot be read; name one yourself")]
    System(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is nobody to ask.
    #[error("there is no name server to ask; name one")]
    NoServer,
    /// The last of the servers did not answer.
    #[error("no name server answered about {name}")]
    Silent {
        /// What was asked.
        name: String,
        /// What the last one did.
        #[source]
        source: ExchangeError,
    },
    /// The last of the servers answered with an error.
    #[error("{server} answered {code} about {name}; ask a server that serves or resolves that zone")]
    Refused {
        /// Who answered.
        server: SocketAddr,
        /// What was asked.
        name: String,
        /// Its response code.
        code: String,
    },
}

/// A target that a client may try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Host name, without a final dot.
    pub target: String,
    /// Its addresses, IPv6 after IPv4; empty if it has none.
    pub addresses: Vec<IpAddr>,
    /// TCP port.
    pub port: u16,
    /// Lower ones are tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
    /// Who published the record, where a mark says so.
    pub owners: Vec<String>,
}

impl Candidate {
    /// Where to connect to, in order.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses
            .iter()
            .map(|address| SocketAddr::new(*address, self.port))
    }
}

/// Something wrong with the records, said so that it can be put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "reason")]
pub enum Warning {
    /// There is no record.
    NoRecords {
        /// The name that clients ask for.
        name: String,
    },
    /// A target that clients cannot turn into an address.
    NoAddress {
        /// The target.
        target: String,
    },
    /// A target's addresses could not be asked for.
    Unresolved {
        /// The target.
        target: String,
        /// What happened.
        why: String,
    },
    /// A port other than that of KMS.
    OtherPort {
        /// The target.
        target: String,
        /// Its port.
        port: u16,
    },
    /// A target that is another name's alias, which RFC 2782 forbids.
    AliasTarget {
        /// The target.
        target: String,
    },
    /// A target of `.`: "decidedly not available" (RFC 2782).
    NotAvailable,
    /// Several publishers, of which one may not know of the other.
    SeveralOwners {
        /// Who they are; `unmarked` for records without a mark.
        owners: Vec<String>,
    },
    /// Priorities keep clients from some targets while others answer.
    PriorityExcludes {
        /// Targets that get no client.
        excluded: Vec<String>,
        /// Targets that get them all.
        preferred: Vec<String>,
    },
    /// A weight of zero beside greater ones: hardly any client comes.
    WeightZero {
        /// The target.
        target: String,
    },
    /// More records than are looked at.
    TooMany {
        /// How many there are.
        count: usize,
        /// How many are looked at.
        limit: usize,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecords { name } => write!(f, "there is no SRV record at {name}: clients find no KMS host here"),
            Self::NoAddress { target } => {
                write!(
                    f,
                    "{target} has no address: publish A or AAAA records for it, or remove the SRV record"
                )
            }
            Self::Unresolved { target, why } => write!(f, "the addresses of {target} could not be asked for: {why}"),
            Self::OtherPort { target, port } => write!(
                f,
                "{target} is published with port {port} instead of {KMS_PORT}: see that it listens there and firewalls let it through"
            ),
            Self::AliasTarget { target } => {
                write!(
                    f,
                    "{target} is an alias (CNAME): an SRV record must point at a name with addresses (RFC 2782)"
                )
            }
            Self::NotAvailable => f.write_str("an SRV record points at `.`, which says that there is no KMS here"),
            Self::SeveralOwners { owners } => write!(
                f,
                "records of several publishers ({}) stand side by side: clients spread over all of them",
                owners.join(", ")
            ),
            Self::PriorityExcludes { excluded, preferred } => write!(
                f,
                "clients come to {} only when {} does not answer, because its priority number is higher",
                excluded.join(", "),
                preferred.join(", ")
            ),
            Self::WeightZero { target } => write!(
                f,
                "{target} has weight 0 beside targets of greater weight: hardly any client chooses it"
            ),
            Self::TooMany { count, limit } => {
                write!(f, "there are {count} SRV records; only the first {limit} are looked at")
            }
        }
    }
}

/// What a client finds in a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// The zone.
    pub zone: ZoneName,
    /// The name that was asked for.
    pub name: String,
    /// The targets by priority, then name.
    pub candidates: Vec<Candidate>,
    /// What is wrong.
    pub warnings: Vec<Warning>,
}

impl Discovery {
    /// The order in which one client tries the targets: by priority, and within one by weighted chance (RFC 2782).
    pub fn order<R: Rng + ?Sized>(&self, rng: &mut R) -> Vec<Candidate> {
        let mut groups: BTreeMap<u16, Vec<&Candidate>> = BTreeMap::new();
        for candidate in &self.candidates {
            groups.entry(candidate.priority).or_default().push(candidate);
        }
        let mut order = Vec::with_capacity(self.candidates.len());
        for mut group in groups.into_values() {
            // Those of weight 0 come first, so that they have a small chance and not none.
            group.sort_by_key(|candidate| candidate.weight);
            while !group.is_empty() {
                let total: u32 = group.iter().map(|candidate| u32::from(candidate.weight)).sum();
                // Without weights the choice is even.
                let chosen = if total == 0 {
                    rng.random_range(0..group.len())
                } else {
                    by_weight(&group, rng.random_range(0..=total))
                };
                order.push(group.remove(chosen).clone());
            }
        }
        order
    }

    /// Whether there is a target with an address.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.candidates.iter().any(|candidate| !candidate.addresses.is_empty())
    }
}

/// The first whose running sum of weights reaches `mark`.
fn by_weight(group: &[&Candidate], mark: u32) -> usize {
    let mut sum = 0;
    let reached = group.iter().position(|candidate| {
        sum += u32::from(candidate.weight);
        sum >= mark
    });
    reached.unwrap_or(0)
}

/// Looks a zone's records up as a client does.
///
/// # Errors
/// When no server answers. That there are no records is a [`Warning`].
pub async fn lookup(zone: &ZoneName, source: &ResolverSource) -> Result<Discovery, DiscoverError> {
    let servers = servers(source)?;
    let service = zone.service();
    let (srv, txt) = join(
        ask(&servers, &service, RecordType::SRV),
        ask(&servers, &service, RecordType::TXT),
    )
    .await;
    let srv = srv?;
    // Marks tell who published; without them a client still finds its way.
    let marks: Vec<Mark> = txt.map(|txt| marks(&txt)).unwrap_or_default();
    // An alias at the service's name leads to records at another.
    let entries: BTreeSet<Entry> = entries(&srv)
        .into_iter()
        .filter(|entry| matches!(entry.data, Data::Srv { .. }))
        .collect();
    let targets: BTreeSet<Name> = entries.iter().take(TARGETS).filter_map(target).collect();
    let found = join_all(targets.into_iter().map(|target| {
        let servers = &servers;
        async move {
            let found = addresses(servers, &target).await;
            (target, found)
        }
    }));
    let found: BTreeMap<Name, Addresses> = found.await.into_iter().collect();
    Ok(judge(zone.clone(), &entries, &marks, &found))
}

/// What was found out of a target.
#[derive(Debug, Clone, Default)]
struct Addresses {
    addresses: BTreeSet<IpAddr>,
    alias: bool,
    failure: Option<String>,
}

/// Draws the conclusions; no I/O.
fn judge(zone: ZoneName, entries: &BTreeSet<Entry>, marks: &[Mark], found: &BTreeMap<Name, Addresses>) -> Discovery {
    let name = plain(&zone.service());
    let mut warnings = Vec::new();
    let mut candidates = Vec::new();
    if entries.is_empty() {
        warnings.push(Warning::NoRecords { name: name.clone() });
    }
    if entries.len() > TARGETS {
        warnings.push(Warning::TooMany {
            count: entries.len(),
            limit: TARGETS,
        });
    }
    let mut seen = BTreeSet::new();
    for entry in entries.iter().take(TARGETS) {
        let Data::Srv {
            priority,
            weight,
            port,
            target,
        } = &entry.data
        else {
            continue;
        };
        if target.is_root() {
            warnings.push(Warning::NotAvailable);
            continue;
        }
        let known = found.get(target).cloned().unwrap_or_default();
        let text = plain(target);
        if seen.insert(target) {
            warnings.extend(target_warnings(&text, &known));
        }
        if *port != KMS_PORT {
            warnings.push(Warning::OtherPort {
                target: text.clone(),
                port: *port,
            });
        }
        let owners = marks.iter().filter(|mark| mark.is_for(entry));
        candidates.push(Candidate {
            target: text,
            addresses: known.addresses.into_iter().collect(),
            port: *port,
            priority: *priority,
            weight: *weight,
            owners: owners.map(|mark| mark.owner.clone()).collect(),
        });
    }
    candidates.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
    warnings.extend(owner_warning(&candidates));
    warnings.extend(priority_warning(&candidates));
    for candidate in &candidates {
        let heavier = |other: &Candidate| other.priority == candidate.priority && other.weight > 0;
        if candidate.weight == 0 && candidates.iter().any(heavier) {
            warnings.push(Warning::WeightZero {
                target: candidate.target.clone(),
            });
        }
    }
    Discovery {
        zone,
        name,
        candidates,
        warnings,
    }
}

fn target_warnings(target: &str, known: &Addresses) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let target = target.to_owned();
    if known.alias {
        warnings.push(Warning::AliasTarget { target: target.clone() });
    }
    match &known.failure {
        _ if !known.addresses.is_empty() => {}
        Some(why) => warnings.push(Warning::Unresolved {
            target,
            why: why.clone(),
        }),
        None => warnings.push(Warning::NoAddress { target }),
    }
    warnings
}

fn owner_warning(candidates: &[Candidate]) -> Option<Warning> {
    let owners: BTreeSet<&str> = candidates
        .iter()
        .flat_map(|candidate| {
            let unmarked = candidate.owners.is_empty().then_some("unmarked");
            candidate.owners.iter().map(String::as_str).chain(unmarked)
        })
        .collect();
    (owners.len() > 1).then(|| Warning::SeveralOwners {
        owners: owners.into_iter().map(str::to_owned).collect(),
    })
}

fn priority_warning(candidates: &[Candidate]) -> Option<Warning> {
    let best = candidates.first()?.priority;
    let (preferred, excluded): (Vec<_>, Vec<_>) = candidates.iter().partition(|candidate| candidate.priority == best);
    let names = |candidates: Vec<&Candidate>| {
        let names: BTreeSet<String> = candidates
            .into_iter()
            .map(|candidate| candidate.target.clone())
            .collect();
        names.into_iter().collect::<Vec<_>>()
    };
    (!excluded.is_empty()).then(|| Warning::PriorityExcludes {
        excluded: names(excluded),
        preferred: names(preferred),
    })
}

fn target(entry: &Entry) -> Option<Name> {
    match &entry.data {
        Data::Srv { target, .. } if !target.is_root() => Some(target.clone()),
        _ => None,
    }
}

/// Entries in the answer section.
#[must_use]
pub fn entries(message: &Message) -> BTreeSet<Entry> {
    let read = message.answers.iter().filter_map(|record| {
        Data::read(&record.data).map(|data| Entry {
            name: record.name.to_lowercase(),
            data,
        })
    });
    read.collect()
}

/// Owner marks in the answer section.
pub(crate) fn marks(message: &Message) -> Vec<Mark> {
    let read = message.answers.iter().filter_map(|record| match &record.data {
        RData::TXT(txt) => Mark::read(&record.name, txt),
        _ => None,
    });
    read.collect()
}

async fn addresses(servers: &[SocketAddr], target: &Name) -> Addresses {
    let (v4, v6) = join(
        ask(servers, target, RecordType::A),
        ask(servers, target, RecordType::AAAA),
    )
    .await;
    let mut known = Addresses::default();
    for answer in [v4, v6] {
        match answer {
            Ok(answer) => {
                known.alias |= answer
                    .answers
                    .iter()
                    .any(|record| record.record_type() == RecordType::CNAME && record.name == *target);
                known
                    .addresses
                    .extend(answer.answers.iter().filter_map(|record| record.data.ip_addr()));
            }
            Err(error) => known.failure = Some(chain(&error)),
        }
    }
    known
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Asks one server after the other until one knows.
pub(crate) async fn ask(servers: &[SocketAddr], name: &Name, kind: RecordType) -> Result<Message, DiscoverError> {
    let mut last = DiscoverError::NoServer;
    for server in servers {
        match exchange::query(*server, name, kind, true, PATIENCE).await {
            Ok(answer) if matches!(answer.response_code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                return Ok(answer);
            }
            Ok(answer) => {
                last = DiscoverError::Refused {
                    server: *server,
                    name: plain(name),
                    code: answer.response_code.to_string(),
                };
            }
            Err(source) => {
                last = DiscoverError::Silent {
                    name: plain(name),
                    source,
                };
            }
        }
    }
    Err(last)
}

/// The servers' addresses.
pub(crate) fn servers(source: &ResolverSource) -> Result<Vec<SocketAddr>, DiscoverError> {
    match source {
        ResolverSource::Servers(servers) => Ok(servers.clone()),
        ResolverSource::System => {
            let (config, _) = hickory_resolver::system_conf::read_system_conf()
                .map_err(|error| DiscoverError::System(Box::new(error)))?;
            let mut servers = Vec::new();
            for server in &config.name_servers {
                let port = server.connections.first().map_or(53, |connection| connection.port);
                let address = SocketAddr::new(server.ip, port);
                if !servers.contains(&address) {
                    servers.push(address);
                }
            }
            Ok(servers)
        }
    }
}

#[cfg(test)]
mod tests;
