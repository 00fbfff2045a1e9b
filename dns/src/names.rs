//! Names that were checked: a zone that clients look in, and a host that SRV records point at.

use std::fmt;
use std::str::FromStr;

use hickory_proto::rr::Name;
use serde::{Serialize, Serializer};
use thiserror::Error;

/// Labels in front of a zone under which KMS clients look (Microsoft, "Configuring DNS").
pub const SERVICE_LABELS: &str = "_vlmcs._tcp";

/// Why a text is no name.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum NameError {
    /// It is empty, or only the root.
    #[error("the name is empty; give a domain such as corp.example.com")]
    Empty,
    /// It is longer than DNS can carry.
    #[error("`{name}` is {length} characters long; a name here may have at most {limit}")]
    TooLong {
        /// What was given.
        name: String,
        /// Its length.
        length: usize,
        /// The longest allowed.
        limit: usize,
    },
    /// One of its labels is none.
    #[error("`{name}` is not a DNS name: {why}")]
    Label {
        /// What was given.
        name: String,
        /// What is wrong with the label.
        why: String,
    },
}

/// A domain in which clients look for the service. Lower case, without a final dot when printed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ZoneName(Name);

impl ZoneName {
    /// 253 less `_vlmcs._tcp.`, so that the service's name fits (RFC 1035, 2.3.4).
    const LIMIT: usize = 253 - SERVICE_LABELS.len() - 1;

    /// The name as DNS carries it.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.0
    }

    /// `_vlmcs._tcp.<zone>`.
    #[must_use]
    pub fn service(&self) -> Name {
        // Room for the labels was checked when the zone was made.
        let tcp = self.0.prepend_label("_tcp");
        tcp.and_then(|tcp| tcp.prepend_label("_vlmcs"))
            .unwrap_or_else(|_| self.0.clone())
    }

    /// Whether `name` is this zone's apex or below it.
    #[must_use]
    pub fn holds(&self, name: &Name) -> bool {
        self.0.zone_of(name)
    }
}

/// A host name: letters, digits and hyphens (RFC 1123, 2.1). Lower case, without a final dot when printed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(Name);

impl HostName {
    /// The name as DNS carries it.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.0
    }

    /// `<label>.<zone>`.
    ///
    /// # Errors
    /// When the label is none, or the whole is too long.
    pub fn within(label: &str, zone: &ZoneName) -> Result<Self, NameError> {
        format!("{label}.{zone}").parse()
    }
}

impl FromStr for ZoneName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        parse(text, Self::LIMIT, |byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
        })
        .map(Self)
    }
}

impl FromStr for HostName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        parse(text, 253, |byte| byte.is_ascii_alphanumeric() || byte == b'-').map(Self)
    }
}

fn parse(text: &str, limit: usize, allowed: impl Fn(u8) -> bool) -> Result<Name, NameError> {
    let bare = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let broken = |why: String| NameError::Label {
        name: text.to_owned(),
        why,
    };
    if bare.is_empty() {
        return Err(NameError::Empty);
    }
    if bare.len() > limit {
        return Err(NameError::TooLong {
            name: bare.clone(),
            length: bare.len(),
            limit,
        });
    }
    for label in bare.split('.') {
        if label.is_empty() {
            return Err(broken("it has an empty label".to_owned()));
        }
        if label.len() > 63 {
            return Err(broken(format!("the label `{label}` is longer than 63 characters")));
        }
        if let Some(other) = label.chars().find(|c| !u8::try_from(*c).is_ok_and(&allowed)) {
            return Err(broken(format!("`{other}` in the label `{label}` is not allowed")));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(broken(format!("the label `{label}` begins or ends with a hyphen")));
        }
    }
    Name::from_ascii(format!("{bare}.")).map_err(|error| broken(error.to_string()))
}

/// A name as people read it: without the final dot.
#[must_use]
pub fn plain(name: &Name) -> String {
    let text = name.to_ascii();
    text.strip_suffix('.')
        .filter(|bare| !bare.is_empty())
        .unwrap_or(&text)
        .to_owned()
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(&self.0))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(&self.0))
    }
}

impl Serialize for ZoneName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for HostName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zone_is_read_in_lower_case_with_or_without_a_final_dot() {
        for text in ["Corp.Example.COM", "corp.example.com."] {
            let zone: ZoneName = text.parse().unwrap();
            assert_eq!(zone.to_string(), "corp.example.com");
            assert_eq!(zone.service().to_ascii(), "_vlmcs._tcp.corp.example.com.");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "-a.b",
            "a-.b",
            "a b",
            "a.b!",
            "ü.example",
            "*.example",
            "a/b",
        ] {
            assert!(text.parse::<ZoneName>().is_err(), "{text}");
        }
        assert!("a_b.example".parse::<ZoneName>().is_ok());
        assert!("a_b.example".parse::<HostName>().is_err(), "hosts have no underscores");
    }

    #[test]
    fn the_longest_zone_still_has_room_for_the_service() {
        let label = "a".repeat(60);
        let zone = format!("{label}.{label}.{label}.{}", "b".repeat(241 - 183));
        assert_eq!(zone.len(), 241);
        let zone: ZoneName = zone.parse().unwrap();
        assert_eq!(zone.service().num_labels(), zone.name().num_labels() + 2);
        assert!(format!("c{zone}").parse::<ZoneName>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_what_it_takes_it_prints(text in "\\PC{0,80}") {
            if let Ok(host) = text.parse::<HostName>() {
                prop_assert_eq!(host.to_string().parse::<HostName>().unwrap(), host);
            }
        }
    }
}
