//! Zones as the spec has them, checked: what is wrong is said with the field's path, and nothing is published by halves.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use kms_dns::names::{HostName, ZoneName};
use kms_dns::plan::Options;
use kms_dns::records::{Desired, OwnerId, RecordsError};
use kms_dns::rfc2136::{ServerAddress, Turn};
use kms_dns::tsig::{Algorithm, Key, KeyError};
use secrecy::SecretString;

use crate::dns_windows::WindowsDns;
use crate::reach;
use crate::secrets::ValueError;

/// A zone before it is checked.
#[derive(Debug, Clone)]
pub struct ZoneInput {
    /// Domain that clients look in.
    pub name: String,
    /// Name that SRV records point at, where the spec fixes it.
    pub target: Option<String>,
    /// Addresses for it, where the spec fixes them.
    pub addresses: Vec<String>,
    /// Time to live in seconds.
    pub ttl: i32,
    /// Priority of the SRV record.
    pub priority: i32,
    /// Weight of the SRV record.
    pub weight: i32,
    /// Targets of others' SRV records that may be removed.
    pub remove_foreign: Vec<String>,
    /// Servers to verify with, where they are not to be looked up.
    pub verify_servers: Vec<String>,
    /// Who publishes.
    pub publisher: PublisherInput,
}

/// A publisher before it is checked.
#[derive(Debug, Clone)]
pub enum PublisherInput {
    /// Dynamic update.
    Rfc2136 {
        /// Servers that take updates.
        servers: Vec<String>,
        /// Zone apex, where it is not the zone's name.
        zone: Option<String>,
        /// Name of the TSIG key.
        key_name: String,
        /// Its algorithm.
        algorithm: String,
        /// Its secret, as the Secret holds it.
        secret: Result<SecretString, ValueError>,
    },
    /// A Windows DNS server; who holds the credentials made the publisher, or knows what is missing.
    WindowsDns {
        /// Zone apex, where it is not the zone's name.
        zone: Option<String>,
        /// The publisher.
        publisher: Result<Arc<WindowsDns>, Vec<reach::Problem>>,
    },
    /// external-dns.
    DnsEndpoint {
        /// Labels of the object.
        labels: BTreeMap<String, String>,
    },
    /// People.
    Manual,
}

/// A zone that can be published.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Domain that clients look in.
    pub name: ZoneName,
    /// The zone to be changed.
    pub apex: ZoneName,
    /// Name that SRV records point at, where it is fixed.
    pub target: Option<HostName>,
    /// Addresses for it, where they are fixed.
    pub addresses: BTreeSet<IpAddr>,
    /// Time to live in seconds.
    pub ttl: u32,
    /// Priority of the SRV record.
    pub priority: u16,
    /// Weight of the SRV record.
    pub weight: u16,
    /// What the user allowed beyond our own records.
    pub options: Options,
    /// Servers to verify with; none: those of the NS records.
    pub verify_servers: Vec<ServerAddress>,
    /// Who publishes.
    pub publisher: ZonePublisher,
}

/// A publisher that can be used.
#[derive(Debug, Clone)]
pub enum ZonePublisher {
    /// Dynamic update.
    Rfc2136 {
        /// Servers that take updates.
        servers: Vec<ServerAddress>,
        /// The key that signs them.
        key: Key,
        /// Which of the servers is asked first.
        turn: Turn,
    },
    /// A Windows DNS server.
    WindowsDns(Arc<WindowsDns>),
    /// external-dns.
    DnsEndpoint {
        /// Labels of the object.
        labels: BTreeMap<String, String>,
    },
    /// People.
    Manual,
}

impl ZonePublisher {
    /// Its name in the spec and in status.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rfc2136 { .. } => "rfc2136",
            Self::WindowsDns(_) => "windowsDns",
            Self::DnsEndpoint { .. } => "dnsEndpoint",
            Self::Manual => "manual",
        }
    }
}

/// Something to be corrected, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.dns.zones[0].name`.
    pub path: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Reads what our records are marked with.
///
/// # Errors
/// When it cannot be written into a mark.
pub fn owner(text: &str) -> Result<OwnerId, Problem> {
    text.parse().map_err(|error: RecordsError| Problem {
        path: "spec.dns.owner".to_owned(),
        message: error.to_string(),
    })
}

/// Zones of the same name, as DNS knows no capitals: each would take away what the other publishes. By place in
/// `spec.dns.zones`.
#[must_use]
pub fn duplicates(names: &[&str]) -> BTreeMap<usize, Problem> {
    let same = |left: &str, right: &str| {
        left.trim_end_matches('.')
            .eq_ignore_ascii_case(right.trim_end_matches('.'))
    };
    let mut problems = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        let mut others = names.iter().enumerate().filter(|(at, _)| *at != index);
        if let Some((other, _)) = others.find(|(_, other)| same(name, other)) {
            let problem = Problem {
                path: format!("spec.dns.zones[{index}].name"),
                message: format!(
                    "`{name}` is spec.dns.zones[{other}] too, as DNS knows no capitals; remove one of them"
                ),
            };
            problems.insert(index, problem);
        }
    }
    problems
}

/// Checks the zone at `index` of `spec.dns.zones`.
///
/// # Errors
/// Every problem at once.
pub fn check(index: usize, input: &ZoneInput) -> Result<Zone, Vec<Problem>> {
    let mut checks = Checks {
        base: format!("spec.dns.zones[{index}]"),
        problems: Vec::new(),
    };
    let name = checks.read::<ZoneName>("name", &input.name);
    let target = input
        .target
        .as_ref()
        .and_then(|text| checks.read::<HostName>("target", text));
    let addresses: Vec<Option<IpAddr>> = (0..)
        .zip(&input.addresses)
        .map(|(at, text)| checks.read::<IpAddr>(&format!("addresses[{at}]"), text))
        .collect();
    let remove_foreign: Vec<Option<HostName>> = (0..)
        .zip(&input.remove_foreign)
        .map(|(at, text)| checks.read::<HostName>(&format!("removeForeign[{at}]"), text))
        .collect();
    let verify_servers: Vec<Option<ServerAddress>> = (0..)
        .zip(&input.verify_servers)
        .map(|(at, text)| checks.read::<ServerAddress>(&format!("verifyServers[{at}]"), text))
        .collect();
    let ttl = checks.number("ttl", input.ttl);
    if ttl == Some(0) {
        checks.problem("ttl", "0 is out of range".to_owned());
    }
    let priority = checks.number("priority", input.priority);
    let weight = checks.number("weight", input.weight);
    let (apex_field, apex) = match &input.publisher {
        PublisherInput::Rfc2136 { zone, .. } => ("rfc2136.zone", zone.as_ref()),
        PublisherInput::WindowsDns { zone, .. } => ("windowsDns.zone", zone.as_ref()),
        PublisherInput::DnsEndpoint { .. } | PublisherInput::Manual => ("name", None),
    };
    let apex = match apex {
        Some(apex) => checks.read::<ZoneName>(apex_field, apex),
        None => name.clone(),
    };
    checks.addresses(input, target.as_ref(), apex.as_ref(), &addresses);
    if let (Some(name), Some(apex)) = (&name, &apex)
        && !apex.holds(name.name())
    {
        checks.problem(
            apex_field,
            format!("`{name}` is not within `{apex}`; give the apex of the zone that holds it"),
        );
    }
    let publisher = checks.publisher(&input.publisher);
    match (name, apex, ttl, priority, weight, publisher) {
        (Some(name), Some(apex), Some(ttl), Some(priority), Some(weight), Some(publisher))
            if checks.problems.is_empty() =>
        {
            Ok(Zone {
                name,
                apex,
                target,
                addresses: addresses.into_iter().flatten().collect(),
                ttl,
                priority,
                weight,
                options: Options {
                    remove_foreign: remove_foreign.into_iter().flatten().collect(),
                    refresh: false,
                },
                verify_servers: verify_servers.into_iter().flatten().collect(),
                publisher,
            })
        }
        _ => Err(checks.problems),
    }
}

struct Checks {
    base: String,
    problems: Vec<Problem>,
}

impl Checks {
    fn problem(&mut self, field: &str, message: String) {
        self.problems.push(Problem {
            path: format!("{}.{field}", self.base),
            message,
        });
    }

    fn read<T: std::str::FromStr<Err: fmt::Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problem(field, format!("`{text}` cannot be used: {error}"));
                None
            }
        }
    }

    fn number<T: TryFrom<i32>>(&mut self, field: &str, number: i32) -> Option<T> {
        let read = T::try_from(number).ok();
        if read.is_none() {
            self.problem(field, format!("{number} is out of range"));
        }
        read
    }

    /// Addresses that stand nowhere, or where we may not write.
    fn addresses(
        &mut self,
        input: &ZoneInput,
        target: Option<&HostName>,
        apex: Option<&ZoneName>,
        addresses: &[Option<IpAddr>],
    ) {
        for (at, address) in (0..).zip(addresses) {
            if address.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
                let text = input.addresses.get(at).map_or("", String::as_str);
                self.problem(
                    &format!("addresses[{at}]"),
                    format!("`{text}` is no address that clients can reach"),
                );
            }
        }
        // One of the records is the SRV record.
        let most = Desired::LIMIT.saturating_sub(1);
        if addresses.len() > most {
            let told = format!("{} addresses are too many; give at most {most}", addresses.len());
            self.problem("addresses", told);
        }
        if let (Some(target), Some(apex)) = (target, apex)
            && !addresses.is_empty()
            && !apex.holds(target.name())
        {
            self.problem(
                "addresses",
                format!(
                    "`{target}` is not within `{apex}`, so that its addresses cannot be published there; leave them out"
                ),
            );
        }
    }

    fn publisher(&mut self, input: &PublisherInput) -> Option<ZonePublisher> {
        let (servers, key_name, algorithm, secret) = match input {
            PublisherInput::Rfc2136 {
                servers,
                key_name,
                algorithm,
                secret,
                ..
            } => (servers, key_name, algorithm, secret),
            PublisherInput::WindowsDns { publisher, .. } => {
                return match publisher {
                    Ok(publisher) => Some(ZonePublisher::WindowsDns(Arc::clone(publisher))),
                    Err(problems) => {
                        for problem in problems {
                            self.problem(&format!("windowsDns.{}", problem.field), problem.message.clone());
                        }
                        None
                    }
                };
            }
            PublisherInput::DnsEndpoint { labels } => {
                return Some(ZonePublisher::DnsEndpoint { labels: labels.clone() });
            }
            PublisherInput::Manual => return Some(ZonePublisher::Manual),
        };
        let servers: Vec<Option<ServerAddress>> = (0..)
            .zip(servers)
            .map(|(at, text)| self.read::<ServerAddress>(&format!("rfc2136.servers[{at}]"), text))
            .collect();
        let algorithm = self.read::<Algorithm>("rfc2136.tsig.algorithm", algorithm);
        let secret = match secret {
            Ok(secret) => Some(secret),
            Err(error) => {
                let field = match error {
                    ValueError::NoObject { .. } | ValueError::Unreadable(_) => "rfc2136.tsig.secret.name",
                    ValueError::NoKey { .. } | ValueError::NotText { .. } | ValueError::TooLarge { .. } => {
                        "rfc2136.tsig.secret.key"
                    }
                };
                self.problem(field, error.to_string());
                None
            }
        };
        let (algorithm, secret) = (algorithm?, secret?);
        match Key::new(key_name, algorithm, secret) {
            Ok(key) => Some(ZonePublisher::Rfc2136 {
                servers: servers.into_iter().flatten().collect(),
                key,
                turn: Turn::default(),
            }),
            Err(error) => {
                let field = match error {
                    KeyError::Name(_) => "rfc2136.tsig.keyName",
                    KeyError::Algorithm(_) => "rfc2136.tsig.algorithm",
                    KeyError::Empty | KeyError::Base64 => "rfc2136.tsig.secret",
                };
                self.problem(field, error.to_string());
                None
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn input() -> ZoneInput {
        ZoneInput {
            name: "corp.example.com".into(),
            target: None,
            addresses: Vec::new(),
            ttl: 3600,
            priority: 0,
            weight: 100,
            remove_foreign: Vec::new(),
            verify_servers: Vec::new(),
            publisher: PublisherInput::Manual,
        }
    }

    pub(crate) fn rfc2136(server: &str, secret: &str) -> PublisherInput {
        PublisherInput::Rfc2136 {
            servers: vec![server.into()],
            zone: None,
            key_name: "officekms".into(),
            algorithm: "HmacSha256".into(),
            secret: Ok(SecretString::from(secret)),
        }
    }

    fn paths(change: impl FnOnce(&mut ZoneInput)) -> Vec<String> {
        let mut input = input();
        change(&mut input);
        let problems = check(2, &input).err().unwrap_or_default();
        problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn a_sound_zone_is_taken() {
        assert_eq!(paths(|_| {}), [""; 0]);
        assert_eq!(paths(|zone| zone.publisher = rfc2136("192.0.2.1", "c2VjcmV0")), [""; 0]);
    }

    #[test]
    fn each_bad_input_is_named_by_its_field() {
        let at = |field: &str| format!("spec.dns.zones[2].{field}");
        assert_eq!(paths(|zone| zone.name = "no..name".into()), [at("name")]);
        for ttl in [-1, 0] {
            assert_eq!(paths(|zone| zone.ttl = ttl), [at("ttl")]);
        }
        assert_eq!(
            paths(|zone| zone.addresses = vec!["192.0.2.1".into(), "192.0.2".into()]),
            [at("addresses[1]")]
        );
        for nowhere in ["0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            let paths = paths(|zone| zone.addresses = vec!["192.0.2.1".into(), nowhere.into()]);
            assert_eq!(paths, [at("addresses[1]")], "{nowhere}");
        }
        let many = |zone: &mut ZoneInput| zone.addresses = (0..64).map(|last| format!("192.0.2.{last}")).collect();
        assert_eq!(paths(many), [at("addresses")]);
        let elsewhere = |zone: &mut ZoneInput| {
            zone.target = Some("kms.example.net".into());
            zone.addresses = vec!["192.0.2.1".into()];
        };
        assert_eq!(paths(elsewhere), [at("addresses")]);
        assert_eq!(
            paths(|zone| zone.remove_foreign = vec!["a b".into()]),
            [at("removeForeign[0]")]
        );
        assert_eq!(
            paths(|zone| zone.publisher = rfc2136("192.0.2.1", "no base64!")),
            [at("rfc2136.tsig.secret")]
        );
        assert_eq!(
            paths(|zone| zone.publisher = rfc2136("192.0.2.1", "")),
            [at("rfc2136.tsig.secret")]
        );
        assert_eq!(
            paths(|zone| zone.verify_servers = vec!["ns1:x".into()]),
            [at("verifyServers[0]")]
        );
        let problem = reach::Problem {
            field: "credentialsSecret",
            message: "is missing".into(),
        };
        let windows = PublisherInput::WindowsDns {
            zone: None,
            publisher: Err(vec![problem]),
        };
        assert_eq!(
            paths(|zone| zone.publisher = windows),
            [at("windowsDns.credentialsSecret")]
        );
        assert_eq!(
            paths(|zone| zone.publisher = rfc2136("ns1:x", "c2VjcmV0")),
            [at("rfc2136.servers[0]")]
        );
        let tsig =
            |secret: Result<SecretString, ValueError>, algorithm: &str, apex: Option<&str>| PublisherInput::Rfc2136 {
                servers: vec!["192.0.2.1".into()],
                zone: apex.map(str::to_owned),
                key_name: "k".into(),
                algorithm: algorithm.into(),
                secret,
            };
        let no_key = Err(ValueError::NoKey {
            kind: "Secret",
            name: "s".into(),
            key: "k".into(),
        });
        assert_eq!(
            paths(|zone| zone.publisher = tsig(no_key, "HmacSha256", None)),
            [at("rfc2136.tsig.secret.key")]
        );
        let none = Err(ValueError::NoObject {
            kind: "Secret",
            name: "s".into(),
        });
        assert_eq!(
            paths(|zone| zone.publisher = tsig(none, "HmacSha256", None)),
            [at("rfc2136.tsig.secret.name")]
        );
        let good = || Ok(SecretString::from("c2VjcmV0"));
        assert_eq!(
            paths(|zone| zone.publisher = tsig(good(), "hmac-md5", None)),
            [at("rfc2136.tsig.algorithm")]
        );
        assert_eq!(
            paths(|zone| zone.publisher = tsig(good(), "HmacSha256", Some("example.net"))),
            [at("rfc2136.zone")]
        );
    }

    #[test]
    fn zones_of_one_name_are_told_each_of_the_other() {
        let found = duplicates(&["a.example", "b.example", "A.Example"]);
        let told: Vec<String> = found.values().map(ToString::to_string).collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&0, &2]);
        assert!(
            told[0].starts_with("spec.dns.zones[0].name: `a.example` is spec.dns.zones[2]"),
            "{told:?}"
        );
        assert!(told[1].contains("is spec.dns.zones[0] too"), "{told:?}");
    }

    #[test]
    fn an_owner_that_no_mark_can_hold_is_named_by_its_field() {
        assert!(owner("c1/office/kms").is_ok());
        assert_eq!(owner("Cluster 1").unwrap_err().path, "spec.dns.owner");
    }

    #[test]
    fn all_problems_are_told_at_once_and_none_shows_the_secret() {
        let mut input = input();
        input.name = "-".into();
        input.weight = 70_000;
        input.publisher = rfc2136("192.0.2.1", "hunter2 is no base64");
        let problems = check(0, &input).unwrap_err();
        assert_eq!(problems.len(), 3);
        assert!(
            problems.iter().all(|problem| !problem.to_string().contains("hunter2")),
            "{problems:?}"
        );
    }
}
