//! Names of interfaces and transfer syntaxes, and what a server offers.

use std::fmt;
use std::ops::RangeInclusive;

use uuid::Uuid;

/// A presentation syntax identifier: a UUID and a version (C706 12.6.3.1, p_syntax_id_t). Names an interface or a
/// transfer syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SyntaxId {
    /// Which interface or transfer syntax.
    pub uuid: Uuid,
    /// Major version, the low half of the version word.
    pub major: u16,
    /// Minor version, the high half of the version word.
    pub minor: u16,
}

impl SyntaxId {
    /// The identifier that is sent where there is none to name, as for a rejected context.
    pub const NONE: Self = Self {
        uuid: Uuid::nil(),
        major: 0,
        minor: 0,
    };

    /// First eight bytes, as text order, of the UUIDs that carry bind-time features (MS-RPCE 3.3.1.5.3).
    const FEATURES_PREFIX: [u8; 8] = [0x6c, 0xb7, 0x1c, 0x2c, 0x98, 0x12, 0x45, 0x40];

    /// The pseudo transfer syntax that proposes `features` at bind time (MS-RPCE 2.2.2.14): the last eight bytes are the
    /// bit mask, least significant byte first whatever the data representation says.
    #[must_use]
    pub fn bind_time_features(features: u64) -> Self {
        let mut bytes = [0; 16];
        for (byte, value) in bytes
            .iter_mut()
            .zip(Self::FEATURES_PREFIX.into_iter().chain(features.to_le_bytes()))
        {
            *byte = value;
        }
        Self {
            uuid: Uuid::from_bytes(bytes),
            major: 1,
            minor: 0,
        }
    }

    /// The proposed features, if this is the pseudo transfer syntax of bind-time feature negotiation.
    #[must_use]
    pub fn as_bind_time_features(&self) -> Option<u64> {
        let (prefix, mask) = self.uuid.as_bytes().split_first_chunk::<8>()?;
        (self.major == 1 && self.minor == 0 && *prefix == Self::FEATURES_PREFIX)
            .then(|| mask.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for SyntaxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}.{}", self.uuid, self.major, self.minor)
    }
}

/// An RPC interface: UUID and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interface {
    /// The interface's UUID.
    pub uuid: Uuid,
    /// Major version: client and server must have the same.
    pub major: u16,
    /// Minor version: the server's must not be below the client's.
    pub minor: u16,
}

impl Interface {
    /// The KMS interface, 51c82175-844e-4750-b0d8-ec255555bc06 version 1.0.
    pub const KMS: Self = Self {
        uuid: Uuid::from_u128(0x51c8_2175_844e_4750_b0d8_ec25_5555_bc06),
        major: 1,
        minor: 0,
    };

    /// The identifier that a client names to bind to this interface.
    #[must_use]
    pub fn id(&self) -> SyntaxId {
        SyntaxId {
            uuid: self.uuid,
            major: self.major,
            minor: self.minor,
        }
    }

    /// Whether a server with this interface serves a client that asks for `wanted`: same UUID, same major version, and a
    /// minor version not above ours (C706 6.1.5.2).
    #[must_use]
    pub fn serves(&self, wanted: &SyntaxId) -> bool {
        self.uuid == wanted.uuid && self.major == wanted.major && wanted.minor <= self.minor
    }
}

/// How stub data is marshalled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransferSyntax {
    /// NDR 2.0 (C706 chapter 14).
    Ndr,
    /// NDR64 1.0 (MS-RPCE 2.2.5).
    Ndr64,
}

impl TransferSyntax {
    /// Every transfer syntax that we know, the one that Windows prefers first.
    pub const ALL: [Self; 2] = [Self::Ndr64, Self::Ndr];

    /// The identifier on the wire.
    #[must_use]
    pub const fn id(self) -> SyntaxId {
        match self {
            Self::Ndr => SyntaxId {
                uuid: Uuid::from_u128(0x8a88_5d04_1ceb_11c9_9fe8_0800_2b10_4860),
                major: 2,
                minor: 0,
            },
            Self::Ndr64 => SyntaxId {
                uuid: Uuid::from_u128(0x7171_0533_beba_4937_8319_b5db_ef9c_cc36),
                major: 1,
                minor: 0,
            },
        }
    }

    /// A short name for logs, metrics and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ndr => "ndr",
            Self::Ndr64 => "ndr64",
        }
    }
}

impl fmt::Display for TransferSyntax {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a server offers; one shared value for all its associations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The one interface that is served.
    pub interface: Interface,
    /// Its operation numbers.
    pub opnums: RangeInclusive<u16>,
    /// Transfer syntaxes that are spoken, the preferred one first. A relay names those that its licensed hosts speak.
    pub syntaxes: Vec<TransferSyntax>,
}

impl Offer {
    /// The KMS interface with its one operation, in every transfer syntax.
    #[must_use]
    pub fn kms() -> Self {
        Self {
            interface: Interface::KMS,
            opnums: 0..=0,
            syntaxes: TransferSyntax::ALL.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_the_uuid_that_windows_sends() {
        let sent = SyntaxId {
            uuid: "6cb71c2c-9812-4540-0300-000000000000".parse().unwrap(),
            major: 1,
            minor: 0,
        };
        assert_eq!(sent.as_bind_time_features(), Some(3));
        assert_eq!(SyntaxId::bind_time_features(3), sent);
        assert_eq!(TransferSyntax::Ndr.id().as_bind_time_features(), None);
        assert_eq!(SyntaxId { major: 2, ..sent }.as_bind_time_features(), None);
    }

    #[test]
    fn serves_a_client_of_the_same_major_and_no_higher_minor_version() {
        let ours = Interface {
            minor: 2,
            ..Interface::KMS
        };
        for (major, minor, served) in [(1, 0, true), (1, 2, true), (1, 3, false), (2, 0, false), (0, 0, false)] {
            assert_eq!(
                ours.serves(&SyntaxId {
                    uuid: ours.uuid,
                    major,
                    minor
                }),
                served,
                "{major}.{minor}"
            );
        }
        assert!(!ours.serves(&TransferSyntax::Ndr.id()));
    }
}
