//! The ledger key: pseudonyms for clients, seals for events.

use std::{fmt, net::IpAddr, path::Path, sync::Arc};

use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha2::Sha256;
use uuid::Uuid;

use super::{Event, LedgerError, Pseudonym};
use crate::{
    keyfile::{self, KEY_BYTES, KeyFileError},
    sealing::{Entropy, SealingKey},
};

const EVENT: &[u8] = b"officekms ledger event 1";

/// The secret under which a ledger's store holds clients and events. All replicas of one resource share it.
#[derive(Clone)]
pub struct LedgerKey(Arc<Keys>);

struct Keys {
    pseudonyms: Hmac<Sha256>,
    seals: SealingKey,
}

impl LedgerKey {
    /// Takes up a secret.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        // HMAC fills a shorter key up with zeros to one block (RFC 2104 section 2), so this is HMAC under the secret.
        let mut block = zeroize::Zeroizing::new([0; 64]);
        block.iter_mut().zip(secret).for_each(|(to, from)| *to = *from);
        let pseudonyms = <Hmac<Sha256> as KeyInit>::new((&*block).into());
        Self(Arc::new(Keys {
            pseudonyms,
            seals: SealingKey::new(secret),
        }))
    }

    /// Reads the secret from a file (see [`keyfile`]).
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::new(keyfile::read(path)?.expose_secret()))
    }

    /// A secret that nobody else has: for a ledger in memory, whose content dies with the process.
    pub fn ephemeral() -> Result<Self, getrandom::Error> {
        let mut secret = zeroize::Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(secret.as_mut_slice())?;
        Ok(Self::new(&secret))
    }

    /// The pseudonym of a client that gave its client machine ID.
    pub fn machine(&self, cmid: &Uuid) -> Pseudonym {
        self.pseudonym(b"cmid", cmid.as_bytes())
    }

    /// The pseudonym of a client of which only the source is known (see [`crate::serve::Client::source`]). An IPv4 address is
    /// the same client whether it arrived as such or mapped into IPv6.
    pub fn address(&self, address: IpAddr) -> Pseudonym {
        match address.to_canonical() {
            IpAddr::V4(address) => self.pseudonym(b"ipv4", &address.octets()),
            IpAddr::V6(address) => self.pseudonym(b"ipv6", &address.octets()),
        }
    }

    /// The ID of the ledger under this key in a store that is described so.
    pub(super) fn ledger(&self, store: &str) -> Uuid {
        Uuid::from_bytes(self.pseudonym(b"ldgr", store.as_bytes()).0)
    }

    /// `kind` has the same length for all kinds, so that no two (kind, identity) pairs give the same input.
    fn pseudonym(&self, kind: &[u8; 4], identity: &[u8]) -> Pseudonym {
        let mut mac = self.0.pseudonyms.clone();
        mac.update(kind);
        mac.update(identity);
        let tag = mac.finalize().into_bytes();
        let mut pseudonym = [0; 16];
        pseudonym.iter_mut().zip(tag.iter()).for_each(|(to, from)| *to = *from);
        Pseudonym(pseudonym)
    }

    /// Seals an event for the store.
    pub(crate) fn seal(&self, event: &Event, entropy: &Entropy) -> Vec<u8> {
        // An event has no map with keys that are not text, the only thing that JSON refuses here.
        let plain = serde_json::to_vec(event).unwrap_or_default();
        self.0.seals.seal(EVENT, entropy, &[], &plain)
    }

    /// Opens an event from the store.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Event, LedgerError> {
        let plain = self.0.seals.open(EVENT, &[], sealed).ok_or(LedgerError::Sealed)?;
        serde_json::from_slice(&plain).map_err(|_| LedgerError::Sealed)
    }
}

impl fmt::Debug for LedgerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LedgerKey([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Millis;

    #[test]
    fn a_pseudonym_is_hmac_sha256_cut_to_16_bytes() {
        // Computed apart: printf 'cmid' + 16 bytes of 0x11 | openssl dgst -sha256 -mac HMAC -macopt hexkey:0707...
        let key = LedgerKey::new(&[7; 32]);
        assert_eq!(
            key.machine(&Uuid::from_bytes([0x11; 16])).to_string(),
            "df1f79ccc1e6ab6b6a4b1b167e47ed04"
        );
    }

    #[test]
    fn one_identity_has_one_pseudonym_under_one_key() {
        let key = LedgerKey::new(&[7; 32]);
        let v4 = key.address("192.0.2.7".parse().unwrap());
        assert_eq!(v4, key.address("::ffff:192.0.2.7".parse().unwrap()));
        assert_ne!(v4, key.address("192.0.2.8".parse().unwrap()));
        assert_ne!(v4, LedgerKey::new(&[8; 32]).address("192.0.2.7".parse().unwrap()));
        let sixteen = [9; 16];
        assert_ne!(
            key.machine(&Uuid::from_bytes(sixteen)),
            key.address(IpAddr::from(sixteen))
        );
    }

    #[test]
    fn an_event_opens_under_its_own_key_only() {
        let event = Event {
            at: Millis(5),
            host: "rehearsal".into(),
            hresult: 0,
            required: 5,
            client_name: "pc01.contoso.com".into(),
            cmid: Uuid::from_u128(1),
            client_time: "2026/1/14 2:30".into(),
            virtual_machine: false,
            license_status: 2,
            minutes_to_expiration: 40123,
            activation_id: Uuid::from_u128(2),
        };
        let key = LedgerKey::new(&[7; 32]);
        let sealed = key.seal(&event, &[1; crate::sealing::ENTROPY_BYTES]);
        assert_eq!(key.open(&sealed).unwrap(), event);
        assert!(matches!(
            LedgerKey::new(&[8; 32]).open(&sealed),
            Err(LedgerError::Sealed)
        ));
        assert!(!sealed.windows(4).any(|part| part == b"pc01"));
    }
}
