//! Sealing small messages with AES-256-GCM under keys derived from one secret.
//!
//! Each message has its own key, HKDF-SHA256 (RFC 5869) expanded from the secret with the purpose and a random salt of
//! the message. So the number of messages that one secret may seal is not bounded by what random 96-bit nonces allow
//! under one key (2^32, NIST SP 800-38D section 8.3), and messages of different purposes never share a key.
//!
//! ```text
//! sealed = salt (16) | nonce (12) | ciphertext | tag (16)
//! ```

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::keyfile::KEY_BYTES;

/// Random bytes that one sealed message takes: its salt and its nonce.
pub const ENTROPY_BYTES: usize = SALT_BYTES + NONCE_BYTES;

/// Bytes by which a sealed message is longer than its plain text.
pub const OVERHEAD_BYTES: usize = ENTROPY_BYTES + 16;

const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// Fresh random bytes for one sealed message. Never use them twice.
pub type Entropy = [u8; ENTROPY_BYTES];

/// Draws [`Entropy`] from the operating system: an edge, for callers that do not pass randomness in.
pub fn draw() -> Result<Entropy, getrandom::Error> {
    let mut entropy = [0; ENTROPY_BYTES];
    getrandom::fill(&mut entropy)?;
    Ok(entropy)
}

/// A secret, ready to seal and open messages of any purpose.
#[derive(Clone)]
pub struct SealingKey(Hkdf<Sha256>);

impl SealingKey {
    /// Takes up the secret.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        Self(Hkdf::new(None, secret))
    }

    /// Seals `plain`; `bound` is not contained, but must be the same when the message is opened.
    pub fn seal(&self, purpose: &'static [u8], entropy: &Entropy, bound: &[u8], plain: &[u8]) -> Vec<u8> {
        let (salt, nonce) = halves(entropy);
        let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
        sealed.extend_from_slice(entropy);
        let payload = Payload { msg: plain, aad: bound };
        // AES-GCM refuses only plain texts beyond 64 GiB; the message would then be one that nobody can open.
        sealed.extend(
            self.cipher(purpose, &salt)
                .encrypt(&nonce.into(), payload)
                .unwrap_or_default(),
        );
        sealed
    }

    /// Opens a sealed message; none when it was sealed under another secret or purpose, bound to something else, or
    /// altered.
    pub fn open(&self, purpose: &'static [u8], bound: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (entropy, ciphertext) = sealed.split_first_chunk::<ENTROPY_BYTES>()?;
        let (salt, nonce) = halves(entropy);
        let payload = Payload {
            msg: ciphertext,
            aad: bound,
        };
        self.cipher(purpose, &salt)
            .decrypt(&nonce.into(), payload)
            .ok()
            .map(Zeroizing::new)
    }

    fn cipher(&self, purpose: &'static [u8], salt: &[u8; SALT_BYTES]) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        // HKDF-SHA256 refuses only outputs beyond 8160 bytes (RFC 5869 section 2.3); this one has 32.
        let expanded = self.0.expand_multi_info(&[purpose, salt], key.as_mut_slice());
        debug_assert!(expanded.is_ok());
        Aes256Gcm::new((&*key).into())
    }
}

fn halves(entropy: &Entropy) -> ([u8; SALT_BYTES], [u8; NONCE_BYTES]) {
    let mut salt = [0; SALT_BYTES];
    let mut nonce = [0; NONCE_BYTES];
    let mut bytes = entropy.iter().copied();
    salt.iter_mut()
        .chain(nonce.iter_mut())
        .zip(&mut bytes)
        .for_each(|(to, from)| *to = from);
    (salt, nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTROPY: Entropy = [3; ENTROPY_BYTES];

    #[test]
    fn opens_only_with_the_same_secret_purpose_and_binding() {
        let key = SealingKey::new(&[1; 32]);
        let sealed = key.seal(b"letters", &ENTROPY, b"to Ada", b"hello");
        assert_eq!(sealed.len(), 5 + OVERHEAD_BYTES);
        assert_eq!(key.open(b"letters", b"to Ada", &sealed).unwrap().as_slice(), b"hello");
        assert!(key.open(b"bills", b"to Ada", &sealed).is_none());
        assert!(key.open(b"letters", b"to Bob", &sealed).is_none());
        assert!(SealingKey::new(&[2; 32]).open(b"letters", b"to Ada", &sealed).is_none());
    }

    #[test]
    fn any_altered_or_missing_byte_is_noticed() {
        let key = SealingKey::new(&[1; 32]);
        let sealed = key.seal(b"letters", &ENTROPY, b"", b"hello");
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(key.open(b"letters", b"", &altered).is_none(), "byte {at}");
            assert!(key.open(b"letters", b"", &sealed[..at]).is_none(), "cut at {at}");
        }
    }
}
