//! The rehearsal envelope: how rehearsal messages travel in the body of a KMS call.
//!
//! ```text
//! "OKR1" | version 1 | direction 1 or 2 | 0 0 | salt (16) | nonce (12) | sealed message | tag (16)
//! ```
//!
//! The message is sealed with AES-256-GCM under a key that HKDF-SHA256 derives from the site key, the direction and the
//! salt (see [`crate::sealing`]); the eight bytes in front are bound to it. A response is bound to the salt and nonce of
//! its request too, so it answers that one request and no other. Every envelope of one direction has the same length.
//!
//! A Microsoft client's body begins with its version words, minor then major; `OKR1` there would be version 12626.

use std::{fmt, path::Path};

use secrecy::ExposeSecret;

use super::message::{MessageError, REQUEST_BYTES, RESPONSE_BYTES, Request, Response};
use crate::{
    keyfile::{self, KEY_BYTES, KeyFileError},
    sealing::{ENTROPY_BYTES, Entropy, OVERHEAD_BYTES, SealingKey},
};

/// Length of every request body.
pub const REQUEST_ENVELOPE_BYTES: usize = HEAD_BYTES + OVERHEAD_BYTES + REQUEST_BYTES;

/// Length of every response body.
pub const RESPONSE_ENVELOPE_BYTES: usize = HEAD_BYTES + OVERHEAD_BYTES + RESPONSE_BYTES;

const HEAD_BYTES: usize = 8;
const REQUEST_HEAD: [u8; HEAD_BYTES] = *b"OKR1\x01\x01\0\0";
const RESPONSE_HEAD: [u8; HEAD_BYTES] = *b"OKR1\x01\x02\0\0";
const MAGIC: &[u8] = b"OKR1";

const REQUEST: &[u8] = b"officekms rehearsal request 1";
const RESPONSE: &[u8] = b"officekms rehearsal response 1";

/// The secret that a site's rehearsal hosts and clients share.
#[derive(Clone)]
pub struct SiteKey(SealingKey);

impl SiteKey {
    /// Takes up a secret.
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        Self(SealingKey::new(secret))
    }

    /// Reads the secret from a file (see [`keyfile`]).
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        Ok(Self::new(keyfile::read(path)?.expose_secret()))
    }
}

impl fmt::Debug for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SiteKey([REDACTED])")
    }
}

/// What ties a response to its request: the request's salt and nonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding(Entropy);

/// Why a body is no envelope of ours. Each is the peer's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It does not begin with `OKR1`.
    #[error("the body is no rehearsal envelope")]
    NotAnEnvelope,
    /// Another version or direction, or another length than that has.
    #[error("the rehearsal envelope has an unknown version, the wrong direction or the wrong length")]
    Shape,
    /// Sealed under another site key, altered, or (a response) bound to another request.
    #[error("the rehearsal envelope cannot be opened with this site key")]
    Forged,
    /// Sealed rightly, but what is inside is no message.
    #[error("the rehearsal envelope holds no message")]
    Message(#[from] MessageError),
}

/// Seals a request.
pub fn seal_request(key: &SiteKey, entropy: &Entropy, request: &Request) -> (Vec<u8>, Binding) {
    let sealed = key.0.seal(REQUEST, entropy, &REQUEST_HEAD, &request.encode());
    ([&REQUEST_HEAD[..], &sealed].concat(), Binding(*entropy))
}

/// Opens a request.
pub fn open_request(key: &SiteKey, body: &[u8]) -> Result<(Request, Binding), EnvelopeError> {
    let sealed = beheaded(body, &REQUEST_HEAD, REQUEST_ENVELOPE_BYTES)?;
    let entropy = sealed.first_chunk::<ENTROPY_BYTES>().ok_or(EnvelopeError::Shape)?;
    let plain = key
        .0
        .open(REQUEST, &REQUEST_HEAD, sealed)
        .ok_or(EnvelopeError::Forged)?;
    Ok((Request::decode(&plain)?, Binding(*entropy)))
}

/// Seals the response to the request of `binding`.
pub fn seal_response(key: &SiteKey, entropy: &Entropy, binding: &Binding, response: &Response) -> Vec<u8> {
    let sealed = key.0.seal(RESPONSE, entropy, &bound(binding), &response.encode());
    [&RESPONSE_HEAD[..], &sealed].concat()
}

/// Opens the response to the request of `binding`.
pub fn open_response(key: &SiteKey, binding: &Binding, body: &[u8]) -> Result<Response, EnvelopeError> {
    let sealed = beheaded(body, &RESPONSE_HEAD, RESPONSE_ENVELOPE_BYTES)?;
    let plain = key
        .0
        .open(RESPONSE, &bound(binding), sealed)
        .ok_or(EnvelopeError::Forged)?;
    Ok(Response::decode(&plain)?)
}

/// Whether a body is what a Microsoft client sends: version words 4 to 6 in front (minor u16, major u16,
/// little-endian). Nothing more of it is looked at.
pub fn is_microsoft(body: &[u8]) -> bool {
    matches!(body, [_, _, 4..=6, 0, ..])
}

fn beheaded<'a>(body: &'a [u8], head: &[u8; HEAD_BYTES], length: usize) -> Result<&'a [u8], EnvelopeError> {
    if !body.starts_with(MAGIC) {
        return Err(EnvelopeError::NotAnEnvelope);
    }
    let sealed = body.strip_prefix(head).ok_or(EnvelopeError::Shape)?;
    if body.len() == length {
        Ok(sealed)
    } else {
        Err(EnvelopeError::Shape)
    }
}

fn bound(binding: &Binding) -> Vec<u8> {
    [&RESPONSE_HEAD[..], &binding.0].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{
        super::message::{HostId, tests::request},
        *,
    };

    fn key() -> SiteKey {
        SiteKey::new(&[7; 32])
    }

    fn response() -> Response {
        Response {
            host_id: HostId::new("rehearsal-0").unwrap(),
            cmid: Uuid::from_u128(3),
            client_time_micros: 4,
            current_count: 5,
            activation_interval_minutes: 120,
            renewal_interval_minutes: 10080,
        }
    }

    proptest! {
        #[test]
        fn requests_open_under_their_own_key(request in request(), entropy: [u8; ENTROPY_BYTES]) {
            let (body, binding) = seal_request(&key(), &entropy, &request);
            prop_assert_eq!(body.len(), REQUEST_ENVELOPE_BYTES);
            prop_assert!(!is_microsoft(&body));
            prop_assert_eq!(open_request(&key(), &body), Ok((request, binding)));
            prop_assert_eq!(open_request(&SiteKey::new(&[8; 32]), &body), Err(EnvelopeError::Forged));
        }

        #[test]
        fn no_altered_or_longer_or_shorter_request_opens(request in request(), at: prop::sample::Index, flip in 1u8..) {
            let (mut body, _) = seal_request(&key(), &[1; ENTROPY_BYTES], &request);
            let at = at.index(body.len());
            prop_assert!(open_request(&key(), &body[..at]).is_err());
            body[at] ^= flip;
            prop_assert!(open_request(&key(), &body).is_err());
            body[at] ^= flip;
            body.push(0);
            prop_assert_eq!(open_request(&key(), &body), Err(EnvelopeError::Shape));
        }

        #[test]
        fn any_bytes_are_refused_without_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(open_request(&key(), &body).is_err());
            prop_assert!(open_response(&key(), &Binding([0; ENTROPY_BYTES]), &body).is_err());
        }
    }

    #[test]
    fn a_response_answers_one_request_only() {
        let (mine, others) = (Binding([1; ENTROPY_BYTES]), Binding([2; ENTROPY_BYTES]));
        let body = seal_response(&key(), &[3; ENTROPY_BYTES], &mine, &response());
        assert_eq!(body.len(), RESPONSE_ENVELOPE_BYTES);
        assert_eq!(open_response(&key(), &mine, &body), Ok(response()));
        assert_eq!(open_response(&key(), &others, &body), Err(EnvelopeError::Forged));
    }

    #[test]
    fn a_response_is_no_request_nor_the_other_way_round() {
        let binding = Binding([1; ENTROPY_BYTES]);
        let mut body = seal_response(&key(), &[3; ENTROPY_BYTES], &binding, &response());
        assert_eq!(open_request(&key(), &body), Err(EnvelopeError::Shape));
        body[5] = 1;
        body.resize(REQUEST_ENVELOPE_BYTES, 0);
        assert_eq!(open_request(&key(), &body), Err(EnvelopeError::Forged));
    }

    #[test]
    fn version_words_tell_a_microsoft_client() {
        for (body, microsoft) in [
            (&[0u8, 0, 4, 0][..], true),
            (&[0, 0, 5, 0, 9, 9], true),
            (&[0, 0, 6, 0], true),
            (&[1, 0, 6, 0], true),
            (&[0, 0, 3, 0], false),
            (&[0, 0, 7, 0], false),
            (&[0, 0, 6, 1], false),
            (&[0, 0, 6], false),
            (b"OKR1\x01\x01\0\0", false),
        ] {
            assert_eq!(is_microsoft(body), microsoft, "{body:?}");
        }
    }
}
