//! The records of a service as data: what may stand in a zone, and who published it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use hickory_proto::rr::rdata::{A, AAAA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use thiserror::Error;

use crate::names::{HostName, ZoneName, plain};

/// What our owner marks begin with.
const HERITAGE: &str = "heritage=officekms,owner=";
/// Longest character-string of a TXT record (RFC 1035, 3.3).
const STRING_LIMIT: usize = 255;

/// Who publishes: one cluster's resource, so that two publish into one zone side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerId(String);

/// What is wrong with desired records.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum RecordsError {
    /// The owner id cannot be written into a mark.
    #[error("`{0}` is no owner id; use 1 to 128 of the characters a-z, 0-9, '-', '.', '_' and '/'")]
    Owner(String),
    /// A port that nobody can listen on.
    #[error("port 0 cannot be published; give the Service's port, 1688 by default")]
    Port,
    /// A time to live that makes no sense.
    #[error("a time to live of {0} seconds cannot be published; use 1 to 604800")]
    Ttl(u32),
    /// Addresses for a target outside of the zone.
    #[error("`{target}` is not within `{apex}`, so that its addresses cannot be published there; leave them out")]
    ForeignTarget {
        /// The target.
        target: String,
        /// The zone that we may change.
        apex: String,
    },
    /// The clients' zone is not within the zone to be changed.
    #[error("`{zone}` is not within `{apex}`; set the zone apex that holds it")]
    OutsideApex {
        /// The clients' zone.
        zone: String,
        /// The zone that we may change.
        apex: String,
    },
    /// An address that no client can reach.
    #[error("{0} is no address that clients can reach")]
    Address(IpAddr),
    /// More records than an answer should hold.
    #[error("{count} records are too many for one zone; at most {limit} are published")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl FromStr for OwnerId {
    type Err = RecordsError;

    fn from_str(text: &str) -> Result<Self, RecordsError> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._/".contains(&byte);
        if text.is_empty() || text.len() > 128 || !text.bytes().all(fits) {
            return Err(RecordsError::Owner(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Data {
    /// Where the service is (RFC 2782).
    Srv {
        /// Lower ones are tried first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// TCP port.
        port: u16,
        /// Name of the host.
        target: Name,
    },
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
}

impl Data {
    /// An address record's data.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }

    /// The record's type.
    #[must_use]
    pub fn kind(&self) -> RecordType {
        match self {
            Self::Srv { .. } => RecordType::SRV,
            Self::A(_) => RecordType::A,
            Self::Aaaa(_) => RecordType::AAAA,
        }
    }

    /// The data that `record` carries, if it is of a type that a KMS client reads.
    #[must_use]
    pub fn read(data: &RData) -> Option<Self> {
        match data {
            RData::SRV(srv) => Some(Self::Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_lowercase(),
            }),
            RData::A(A(address)) => Some(Self::A(*address)),
            RData::AAAA(AAAA(address)) => Some(Self::Aaaa(*address)),
            _ => None,
        }
    }

    /// As DNS carries it.
    #[must_use]
    pub fn rdata(&self) -> RData {
        match self {
            Self::Srv {
                priority,
                weight,
                port,
                target,
            } => RData::SRV(SRV::new(*priority, *weight, *port, target.clone())),
            Self::A(address) => RData::A(A(*address)),
            Self::Aaaa(address) => RData::AAAA(AAAA(*address)),
        }
    }
}

/// As in a zone file: type and data.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Srv {
                priority,
                weight,
                port,
                target,
            } => write!(f, "SRV {priority} {weight} {port} {}.", plain(target)),
            Self::A(address) => write!(f, "A {address}"),
            Self::Aaaa(address) => write!(f, "AAAA {address}"),
        }
    }
}

/// A record's name and data, without its time to live.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The name at which it stands.
    pub name: Name,
    /// What it says.
    pub data: Data,
}

impl Entry {
    /// Reads a line of [`Desired::zone_file`]; `None` if it is none.
    #[must_use]
    pub fn read_line(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (name, data) = match words.as_slice() {
            [name, _, "IN", "SRV", priority, weight, port, target] => {
                let data = Data::Srv {
                    priority: priority.parse().ok()?,
                    weight: weight.parse().ok()?,
                    port: port.parse().ok()?,
                    target: Name::from_ascii(target).ok()?.to_lowercase(),
                };
                (name, data)
            }
            [name, _, "IN", "A", address] => (name, Data::A(address.parse().ok()?)),
            [name, _, "IN", "AAAA", address] => (name, Data::Aaaa(address.parse().ok()?)),
            _ => return None,
        };
        let name = Name::from_ascii(name).ok()?.to_lowercase();
        Some(Self { name, data })
    }

    /// The whole record.
    #[must_use]
    pub fn record(&self, ttl: u32) -> Record {
        Record::from_rdata(self.name.clone(), ttl, self.data.rdata())
    }
}

/// As in a zone file, without the time to live.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN {}", plain(&self.name), self.data)
    }
}

impl serde::Serialize for Entry {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A TXT record beside an entry that says who published it: `heritage=officekms,owner=<id>,record=<type and data>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark {
    /// Who published it.
    pub owner: String,
    /// The entry's name.
    pub name: Name,
    /// The entry's type and data, as in a zone file.
    pub record: String,
}

impl Mark {
    /// The mark of `owner` for `entry`.
    #[must_use]
    pub fn of(owner: &OwnerId, entry: &Entry) -> Self {
        Self {
            owner: owner.0.clone(),
            name: entry.name.clone(),
            record: entry.data.to_string(),
        }
    }

    /// Reads a TXT record; `None` if it is no mark of ours.
    #[must_use]
    pub fn read(name: &Name, txt: &TXT) -> Option<Self> {
        let text: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
        let text = String::from_utf8(text).ok()?;
        let (owner, record) = text.strip_prefix(HERITAGE)?.split_once(",record=")?;
        let owner: OwnerId = owner.parse().ok()?;
        Some(Self {
            owner: owner.0,
            name: name.to_lowercase(),
            record: record.to_owned(),
        })
    }

    /// Whether this mark speaks of `entry`.
    #[must_use]
    pub fn is_for(&self, entry: &Entry) -> bool {
        self.name == entry.name && self.record == entry.data.to_string()
    }

    /// As DNS carries it; long ones in several character-strings of one record.
    #[must_use]
    pub fn rdata(&self) -> RData {
        let text = self.text();
        RData::TXT(TXT::from_bytes(text.as_bytes().chunks(STRING_LIMIT).collect()))
    }

    /// The whole record.
    #[must_use]
    pub fn record(&self, ttl: u32) -> Record {
        Record::from_rdata(self.name.clone(), ttl, self.rdata())
    }

    /// The mark's text.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{HERITAGE}{},record={}", self.owner, self.record)
    }
}

/// What one owner wants to stand in one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// Domain that clients look in.
    pub zone: ZoneName,
    /// The zone to be changed: `zone`, or a larger one that holds it.
    pub apex: ZoneName,
    /// Who publishes.
    pub owner: OwnerId,
    /// Time to live in seconds.
    pub ttl: u32,
    /// The entries; none to withdraw.
    pub entries: BTreeSet<Entry>,
}

/// An endpoint to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the host.
    pub target: HostName,
    /// Addresses to publish at that name; none if it is somebody else's.
    pub addresses: BTreeSet<IpAddr>,
    /// TCP port.
    pub port: u16,
    /// Lower ones are tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
}

impl Desired {
    /// Most records that are published in one zone: all of them are in every client's answer.
    pub const LIMIT: usize = 64;

    /// Entries for `endpoints`; an empty list means that nothing shall be published.
    ///
    /// # Errors
    /// When something cannot be published; nothing is published by halves.
    pub fn new(
        zone: ZoneName,
        apex: ZoneName,
        owner: OwnerId,
        ttl: u32,
        endpoints: &[Endpoint],
    ) -> Result<Self, RecordsError> {
        if !(1..=604_800).contains(&ttl) {
            return Err(RecordsError::Ttl(ttl));
        }
        if !apex.holds(zone.name()) {
            return Err(RecordsError::OutsideApex {
                zone: zone.to_string(),
                apex: apex.to_string(),
            });
        }
        let mut entries = BTreeSet::new();
        for endpoint in endpoints {
            if endpoint.port == 0 {
                return Err(RecordsError::Port);
            }
            if !endpoint.addresses.is_empty() && !apex.holds(endpoint.target.name()) {
                return Err(RecordsError::ForeignTarget {
                    target: endpoint.target.to_string(),
                    apex: apex.to_string(),
                });
            }
            entries.insert(Entry {
                name: zone.service(),
                data: Data::Srv {
                    priority: endpoint.priority,
                    weight: endpoint.weight,
                    port: endpoint.port,
                    target: endpoint.target.name().clone(),
                },
            });
            for address in &endpoint.addresses {
                if address.is_unspecified() || address.is_multicast() {
                    return Err(RecordsError::Address(*address));
                }
                entries.insert(Entry {
                    name: endpoint.target.name().clone(),
                    data: Data::address(*address),
                });
            }
        }
        if entries.len() > Self::LIMIT {
            return Err(RecordsError::TooMany {
                count: entries.len(),
                limit: Self::LIMIT,
            });
        }
        Ok(Self {
            zone,
            apex,
            owner,
            ttl,
            entries,
        })
    }

    /// The same without entries: what is ours shall go.
    #[must_use]
    pub fn withdrawn(&self) -> Self {
        Self {
            entries: BTreeSet::new(),
            ..self.clone()
        }
    }

    /// Lines of a zone file, for people who enter them by hand.
    #[must_use]
    pub fn zone_file(&self) -> Vec<String> {
        self.entries
            .iter()
            .map(|entry| format!("{}. {} IN {}", plain(&entry.name), self.ttl, entry.data))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn desired(endpoint: Endpoint) -> Result<Desired, RecordsError> {
        let zone: ZoneName = "corp.example.com".parse().unwrap();
        Desired::new(zone.clone(), zone, "c1/ns/kms".parse().unwrap(), 300, &[endpoint])
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            target: "kms.corp.example.com".parse().unwrap(),
            addresses: ["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into(),
            port: 1688,
            priority: 0,
            weight: 100,
        }
    }

    #[test]
    fn an_endpoint_becomes_srv_and_address_records() {
        assert_eq!(
            desired(endpoint()).unwrap().zone_file(),
            [
                "_vlmcs._tcp.corp.example.com. 300 IN SRV 0 100 1688 kms.corp.example.com.",
                "kms.corp.example.com. 300 IN A 192.0.2.1",
                "kms.corp.example.com. 300 IN AAAA 2001:db8::1",
            ]
        );
    }

    #[test]
    fn what_cannot_be_published_is_refused() {
        let port = Endpoint { port: 0, ..endpoint() };
        assert_eq!(desired(port), Err(RecordsError::Port));
        let elsewhere = Endpoint {
            target: "kms.example.net".parse().unwrap(),
            ..endpoint()
        };
        assert!(matches!(
            desired(elsewhere.clone()),
            Err(RecordsError::ForeignTarget { .. })
        ));
        let named = Endpoint {
            addresses: BTreeSet::new(),
            ..elsewhere
        };
        assert!(desired(named).is_ok(), "another's name without addresses is fine");
        let unspecified = Endpoint {
            addresses: ["0.0.0.0".parse().unwrap()].into(),
            ..endpoint()
        };
        assert!(matches!(desired(unspecified), Err(RecordsError::Address(_))));
        let many = Endpoint {
            addresses: (0..64).map(|last| IpAddr::from([192, 0, 2, last])).collect(),
            ..endpoint()
        };
        assert!(matches!(desired(many), Err(RecordsError::TooMany { count: 65, .. })));
    }

    #[test]
    fn the_lines_of_a_zone_file_are_read_back() {
        let wanted = desired(endpoint()).unwrap();
        let read = wanted.zone_file().iter().map(|line| Entry::read_line(line)).collect();
        assert_eq!(Some(wanted.entries), read);
        for line in [
            "",
            "kms. 300 IN A",
            "kms. 300 IN A kms.",
            "kms. 300 IN SRV 0 0 99999 a.",
            "kms. 300 CH A 192.0.2.1",
        ] {
            assert_eq!(Entry::read_line(line), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_mark_is_read_back_whatever_its_length(
            owner in "[a-z0-9./_-]{1,128}",
            label in "[a-z]{1,63}",
            times in 1usize..4,
            priority: u16,
        ) {
            let target: HostName = vec![label; times].join(".").parse().unwrap();
            let entry = Entry {
                name: "corp.example.com".parse::<ZoneName>().unwrap().service(),
                data: Data::Srv { priority, weight: 1, port: 1688, target: target.name().clone() },
            };
            let mark = Mark::of(&owner.parse().unwrap(), &entry);
            let RData::TXT(txt) = mark.rdata() else { panic!("a TXT") };
            let read = Mark::read(&entry.name, &txt).unwrap();
            prop_assert!(read.is_for(&entry));
            prop_assert_eq!(read, mark);
        }

        #[test]
        fn no_txt_makes_reading_panic(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..4)) {
            let txt = TXT::from_bytes(parts.iter().map(Vec::as_slice).collect());
            let _ = Mark::read(&Name::root(), &txt);
        }
    }
}
