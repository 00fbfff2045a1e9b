//! The `windowsDns` publisher: records of a Windows DNS server through the WMI provider `MicrosoftDNS`, over
//! WS-Management.
//!
//! For zones that take secure updates only (GSS-TSIG), where RFC 2136 with TSIG is refused. Sources: "MicrosoftDNS_SRVType
//! class", "MicrosoftDNS_AType class" and their methods `CreateInstanceFromPropertyData` and `Modify`.
//!
//! WMI knows no transaction. The prerequisites of a plan are looked at right before its changes; then records are added
//! and marks with them, before anything is removed. What is cut off in between is seen, and ended, by the next plan.

use std::net::{Ipv4Addr, Ipv6Addr};

use futures::future::BoxFuture;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use kms_dns::plan::{Change, Observed, Plan, Prerequisite, address_names};
use kms_dns::publisher::{PublishError, Publisher};
use kms_dns::records::Desired;
use wsman::client::{Client, Error};
use wsman::envelope::quoted;
use wsman::hresult::Hresult;
use wsman::names::{Class, InvalidName};
use wsman::value::{Instance, Value, WrongType};

/// Namespace of the provider, there where the DNS server role is.
const NAMESPACE: &str = "root/MicrosoftDNS";
/// Key properties of every record ("MicrosoftDNS_ResourceRecord class").
const KEYS: [&str; 6] = [
    "DnsServerName",
    "ContainerName",
    "DomainName",
    "OwnerName",
    "RecordClass",
    "RecordData",
];
/// Longest character-string of a TXT record (RFC 1035, 3.3).
const STRING_LIMIT: usize = 255;

/// Publishes through a Windows DNS server.
#[derive(Debug)]
pub struct WindowsDns {
    client: Client,
}

/// Why the server's records cannot be read or changed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Host(#[from] Error),
    #[error(transparent)]
    Value(#[from] WrongType),
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("{0}: it shows no MicrosoftDNS_Server: install the DNS server role there, or name the zone's DNS server")]
    NoServer(String),
    #[error("records of type {0} are not published here")]
    Type(RecordType),
}

impl From<Failure> for PublishError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Host(error) if error.locks_account() => Self::Denied(error.to_string()),
            // The provider and its namespace come with the role.
            Failure::Host(error) if error.hresult() == Some(Hresult::WBEM_INVALID_NAMESPACE) => {
                Self::Other(Failure::NoServer(error.to_string()).to_string())
            }
            other => Self::Other(other.to_string()),
        }
    }
}

/// A class of the provider, and the property that holds its data, beside the common ones.
struct Kind {
    record: RecordType,
    class: &'static str,
    data: &'static [&'static str],
}

/// The classes that matter.
const KINDS: [Kind; 5] = [
    Kind {
        record: RecordType::SRV,
        class: "MicrosoftDNS_SRVType",
        data: &["Priority", "Weight", "Port", "SRVDomainName"],
    },
    Kind {
        record: RecordType::A,
        class: "MicrosoftDNS_AType",
        data: &["IPAddress"],
    },
    Kind {
        record: RecordType::AAAA,
        class: "MicrosoftDNS_AAAAType",
        data: &["IPv6Address"],
    },
    Kind {
        record: RecordType::TXT,
        class: "MicrosoftDNS_TXTType",
        data: &["DescriptiveText"],
    },
    Kind {
        record: RecordType::CNAME,
        class: "MicrosoftDNS_CNAMEType",
        data: &["PrimaryName"],
    },
];

impl WindowsDns {
    /// A publisher through this server.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    async fn read(&self, zone: &Name, name: &Name, kinds: &[RecordType]) -> Result<Vec<Record>, Failure> {
        let mut records = Vec::new();
        for kind in KINDS.iter().filter(|kind| kinds.contains(&kind.record)) {
            for row in self.rows(kind, zone, name).await? {
                records.extend(record(kind, name, &row)?);
            }
        }
        Ok(records)
    }

    async fn rows(&self, kind: &Kind, zone: &Name, name: &Name) -> Result<Vec<Instance>, Failure> {
        let query = format!(
            "SELECT {}, TTL, {} FROM {} WHERE ContainerName = {} AND OwnerName = {}",
            KEYS.join(", "),
            kind.data.join(", "),
            kind.class,
            quoted(&text(zone)),
            quoted(&text(name)),
        );
        Ok(self.client.query_in(NAMESPACE, &query).await?)
    }

    /// Whether what the plan rests on still holds.
    async fn holds(&self, plan: &Plan) -> Result<bool, Failure> {
        for prerequisite in &plan.prerequisites {
            let (name, kind, wanted) = match prerequisite {
                Prerequisite::Exactly { name, kind, data } => (name, *kind, data.as_slice()),
                Prerequisite::Absent { name, kind } => (name, *kind, &[][..]),
            };
            let found = self.read(plan.apex.name(), name, &[kind]).await?;
            let same = |data: &RData| found.iter().any(|record| same_data(&record.data, data));
            if found.len() != wanted.len() || !wanted.iter().all(same) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn change(&self, plan: &Plan) -> Result<(), Failure> {
        let zone = plan.apex.name();
        let additions = plan.changes.iter().filter(|change| matches!(change, Change::Add(_)));
        for change in additions {
            self.add(zone, change.record()).await?;
        }
        for change in &plan.changes {
            if let Change::Remove(record) = change {
                self.remove(zone, record).await?;
            }
        }
        Ok(())
    }

    /// Creates a record, or sets the time to live of one that is there.
    async fn add(&self, zone: &Name, record: &Record) -> Result<(), Failure> {
        let kind = kind(record.record_type())?;
        let class = Class::new(NAMESPACE, kind.class)?;
        let data = values(&record.data).ok_or(Failure::Type(record.record_type()))?;
        let ttl = ("TTL", Value::from(record.ttl));
        if let Some(row) = self.find(kind, zone, record).await? {
            let selectors = keys(&row)?;
            let parameters: Vec<_> = std::iter::once(ttl).chain(data).collect();
            self.client
                .invoke(&class, &pairs(&selectors), "Modify", &parameters)
                .await?;
            return Ok(());
        }
        let parameters: Vec<_> = [
            ("DnsServerName", Value::from(self.server().await?)),
            ("ContainerName", text(zone).into()),
            ("OwnerName", text(&record.name).into()),
            // 1: IN.
            ("RecordClass", 1_u32.into()),
            ttl,
        ]
        .into_iter()
        .chain(data)
        .collect();
        // The method gives the new instance and has no ReturnValue to look at on some systems.
        self.client
            .call(&class, &[], "CreateInstanceFromPropertyData", &parameters)
            .await?;
        Ok(())
    }

    async fn remove(&self, zone: &Name, record: &Record) -> Result<(), Failure> {
        let kind = kind(record.record_type())?;
        if let Some(row) = self.find(kind, zone, record).await? {
            let class = Class::new(NAMESPACE, kind.class)?;
            self.client.delete(&class, &pairs(&keys(&row)?)).await?;
        }
        Ok(())
    }

    /// The row of exactly this record.
    async fn find(&self, kind: &Kind, zone: &Name, wanted: &Record) -> Result<Option<Instance>, Failure> {
        for row in self.rows(kind, zone, &wanted.name).await? {
            if record(kind, &wanted.name, &row)?.is_some_and(|found| same_data(&found.data, &wanted.data)) {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    async fn server(&self) -> Result<String, Failure> {
        let rows = self
            .client
            .query_in(NAMESPACE, "SELECT Name FROM MicrosoftDNS_Server")
            .await?;
        let name = rows.first().map(|row| row.text("Name")).transpose()?.flatten();
        name.map(str::to_owned)
            .ok_or_else(|| Failure::NoServer(self.client.host()))
    }
}

impl Publisher for WindowsDns {
    fn kind(&self) -> &'static str {
        "windowsDns"
    }

    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
        Box::pin(async move {
            let (zone, service) = (desired.apex.name(), desired.zone.service());
            let records = self.read(zone, &service, &[RecordType::SRV, RecordType::TXT]).await?;
            let mut observed = Observed { records };
            for name in address_names(desired, &observed) {
                let kinds = [RecordType::CNAME, RecordType::A, RecordType::AAAA, RecordType::TXT];
                observed.records.extend(self.read(zone, &name, &kinds).await?);
            }
            Ok(observed)
        })
    }

    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move {
            if !self.holds(plan).await? {
                return Err(PublishError::LostRace {
                    zone: plan.apex.to_string(),
                });
            }
            Ok(self.change(plan).await?)
        })
    }
}

fn kind(record: RecordType) -> Result<&'static Kind, Failure> {
    KINDS
        .iter()
        .find(|kind| kind.record == record)
        .ok_or(Failure::Type(record))
}

/// A row as a record; none when its data are not what its type says.
fn record(kind: &Kind, name: &Name, row: &Instance) -> Result<Option<Record>, WrongType> {
    let number = |property: &str| Ok::<_, WrongType>(row.u32(property)?.and_then(|n| u16::try_from(n).ok()));
    let first = match kind.data.first() {
        Some(property) if kind.record != RecordType::SRV => row.text(property)?,
        _ => None,
    };
    let data = match kind.record {
        RecordType::SRV => {
            let target = row.text("SRVDomainName")?.and_then(absolute);
            match (number("Priority")?, number("Weight")?, number("Port")?, target) {
                (Some(priority), Some(weight), Some(port), Some(target)) => {
                    Some(RData::SRV(SRV::new(priority, weight, port, target)))
                }
                _ => None,
            }
        }
        RecordType::A => first
            .and_then(|text| text.parse::<Ipv4Addr>().ok())
            .map(|address| RData::A(A(address))),
        RecordType::AAAA => first
            .and_then(|text| text.parse::<Ipv6Addr>().ok())
            .map(|address| RData::AAAA(AAAA(address))),
        RecordType::TXT => first.map(|text| RData::TXT(TXT::new(strings(text)))),
        _ => first.and_then(absolute).map(|target| RData::CNAME(CNAME(target))),
    };
    let ttl = row.u32("TTL")?.unwrap_or(0);
    Ok(data.map(|data| Record::from_rdata(name.clone(), ttl, data)))
}

/// A record's data as parameters, in the order of the methods' declarations.
fn values(data: &RData) -> Option<Vec<(&'static str, Value)>> {
    Some(match data {
        RData::SRV(srv) => vec![
            ("Priority", u32::from(srv.priority).into()),
            ("Weight", u32::from(srv.weight).into()),
            ("Port", u32::from(srv.port).into()),
            ("SRVDomainName", format!("{}.", text(&srv.target)).into()),
        ],
        RData::A(address) => vec![("IPAddress", address.0.to_string().into())],
        RData::AAAA(address) => vec![("IPv6Address", address.0.to_string().into())],
        RData::TXT(txt) => vec![("DescriptiveText", descriptive(&joined(txt)).into())],
        _ => return None,
    })
}

/// The same data; TXT by its text, however it is cut into strings, and names in any case.
fn same_data(left: &RData, right: &RData) -> bool {
    match (left, right) {
        (RData::TXT(left), RData::TXT(right)) => joined(left) == joined(right),
        (RData::SRV(left), RData::SRV(right)) => {
            (left.priority, left.weight, left.port) == (right.priority, right.weight, right.port)
                && left.target == right.target
        }
        (left, right) => left == right,
    }
}

fn joined(txt: &TXT) -> String {
    let bytes: Vec<u8> = txt.txt_data.iter().flat_map(|part| part.iter().copied()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Text as the DNS server takes it: several strings in quotes where one is too short.
fn descriptive(text: &str) -> String {
    if text.len() <= STRING_LIMIT || !text.is_ascii() {
        return text.to_owned();
    }
    let characters: Vec<char> = text.chars().collect();
    let parts = characters
        .chunks(STRING_LIMIT)
        .map(|part| format!("\"{}\"", part.iter().collect::<String>()));
    parts.collect::<Vec<_>>().join(" ")
}

/// Text as the DNS server shows it: bare, or one or several strings in quotes.
fn strings(shown: &str) -> Vec<String> {
    let shown = shown.trim();
    match shown.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.split("\" \"").map(str::to_owned).collect(),
        None => vec![shown.to_owned()],
    }
}

/// A name without its last dot, as the provider shows containers and owners.
fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text.trim()).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}

fn keys(row: &Instance) -> Result<Vec<(&'static str, String)>, WrongType> {
    KEYS.iter()
        .map(|key| Ok((*key, row.text(key)?.unwrap_or_default().to_owned())))
        .collect()
}

fn pairs<'a>(keys: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    keys.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[cfg(test)]
mod tests;
