//! The key that signs updates (TSIG, RFC 8945).

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::rdata::tsig;
use hickory_proto::rr::{Name, TSigner};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;

use crate::names::plain;

/// Seconds by which clocks may differ (RFC 8945, 10).
const FUDGE: u16 = 300;

/// MACs that are offered. Older ones are not safe any more (RFC 8945, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// hmac-sha256.
    #[default]
    HmacSha256,
    /// hmac-sha384.
    HmacSha384,
    /// hmac-sha512.
    HmacSha512,
}

impl Algorithm {
    /// The name that servers use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
        }
    }
}

impl FromStr for Algorithm {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let folded = text.to_ascii_lowercase().replace('-', "");
        match folded.as_str() {
            "hmacsha256" => Ok(Self::HmacSha256),
            "hmacsha384" => Ok(Self::HmacSha384),
            "hmacsha512" => Ok(Self::HmacSha512),
            _ => Err(KeyError::Algorithm(text.to_owned())),
        }
    }
}

/// Why there is no key. The secret is in none of these.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The name is none.
    #[error("`{0}` is no name of a key; use the name that the server knows it by")]
    Name(String),
    /// The algorithm is not offered.
    #[error("the algorithm `{0}` is not offered; use hmac-sha256, hmac-sha384 or hmac-sha512")]
    Algorithm(String),
    /// The secret is empty.
    #[error("the secret is empty; put the key's base64 there, as `tsig-keygen` prints it")]
    Empty,
    /// The secret is no base64.
    #[error("the secret is not base64; copy it as `tsig-keygen` prints it, without quotes")]
    Base64,
}

/// A key, ready to sign.
#[derive(Clone)]
pub struct Key {
    signer: TSigner,
    algorithm: Algorithm,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Key");
        shown.field("name", &self.name()).field("algorithm", &self.algorithm);
        shown.finish_non_exhaustive()
    }
}

impl Key {
    /// A key of its name and its secret in base64. Space around the secret is ignored: files end with a new line.
    ///
    /// # Errors
    /// When one of them is none.
    pub fn new(name: &str, algorithm: Algorithm, secret: &SecretString) -> Result<Self, KeyError> {
        let no_name = || KeyError::Name(name.to_owned());
        if name.trim_matches('.').is_empty() {
            return Err(no_name());
        }
        let parsed = Name::from_ascii(name).map_err(|_| no_name())?.to_lowercase();
        let secret = secret.expose_secret().trim();
        if secret.is_empty() {
            return Err(KeyError::Empty);
        }
        let secret = STANDARD.decode(secret).map_err(|_| KeyError::Base64)?;
        let mac = match algorithm {
            Algorithm::HmacSha256 => tsig::TsigAlgorithm::HmacSha256,
            Algorithm::HmacSha384 => tsig::TsigAlgorithm::HmacSha384,
            Algorithm::HmacSha512 => tsig::TsigAlgorithm::HmacSha512,
        };
        let signer = TSigner::new(secret, mac, parsed, FUDGE).map_err(|_| no_name())?;
        Ok(Self { signer, algorithm })
    }

    /// Its name, as the server knows it.
    #[must_use]
    pub fn name(&self) -> String {
        plain(self.signer.signer_name())
    }

    /// Its algorithm.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(crate) fn signer(&self) -> &TSigner {
        &self.signer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str) -> Result<Key, KeyError> {
        Key::new(name, Algorithm::HmacSha256, &SecretString::from(secret))
    }

    #[test]
    fn a_key_is_read_as_files_have_it_and_never_shown() {
        let key = key("officekms.", "c2VjcmV0\n").unwrap();
        assert_eq!(key.name(), "officekms");
        assert_eq!(
            format!("{key:?}"),
            r#"Key { name: "officekms", algorithm: HmacSha256, .. }"#
        );
    }

    #[test]
    fn bad_input_is_told_apart() {
        assert_eq!(key("k", "").unwrap_err(), KeyError::Empty);
        assert_eq!(key("k", "not base64!").unwrap_err(), KeyError::Base64);
        assert!(matches!(key("", "c2VjcmV0").unwrap_err(), KeyError::Name(_)));
        assert_eq!(
            "hmac-md5".parse::<Algorithm>(),
            Err(KeyError::Algorithm("hmac-md5".into()))
        );
        assert_eq!("HmacSha512".parse::<Algorithm>(), Ok(Algorithm::HmacSha512));
    }
}
