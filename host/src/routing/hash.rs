//! Weighted rendezvous hashing in whole numbers.
//!
//! Every replica, of any version and on any processor, must send a client to the same host, so everything here is fixed:
//! SipHash-2-4 (Aumasson, Bernstein: "SipHash: a fast short-input PRF") and a logarithm by repeated squaring. No
//! floating point: the last digit of a library's logarithm is nobody's promise.

use std::cmp::Ordering;

use sha2::{Digest, Sha256};

use crate::ledger::Pseudonym;

/// What a host's hashes are keyed with: the first 16 bytes of SHA-256 over a fixed text and the host's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HashKey(u64, u64);

impl HashKey {
    /// The key of the host of that name. Only the name counts: a host that moves to another address keeps its clients.
    pub fn of(name: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(b"officekms rendezvous 1\0")
            .chain_update(name.as_bytes())
            .finalize();
        let word = |at: usize| {
            let bytes = digest.iter().skip(at).take(8);
            bytes.rev().fold(0, |word, byte| (word << 8) | u64::from(*byte))
        };
        Self(word(0), word(8))
    }
}

/// How strongly a client belongs to a host: weight / -log2(u), u being the hash of both as a number between 0 and 1
/// (Schindelhauer, Schomaker: "Weighted Distributed Hash Tables"). Of n hosts each gets its weight's share of the
/// clients, and a host that comes or goes moves only the clients that it wins or had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Score {
    weight: u32,
    hash: u64,
    key: HashKey,
}

impl Score {
    /// The score of `client` at the host with `key` and `weight`.
    pub fn new(key: HashKey, weight: u32, client: Pseudonym) -> Self {
        Self {
            weight,
            hash: siphash24(key, client),
            key,
        }
    }
}

impl Ord for Score {
    /// The greater score is where the client belongs.
    fn cmp(&self, other: &Self) -> Ordering {
        let weighted = if self.weight == other.weight {
            // The logarithm grows with the hash: no need to take it.
            Ordering::Equal
        } else {
            // weight / depth compared without dividing; 32 + 39 bits at most.
            let mine = u128::from(self.weight) * u128::from(depth(other.hash));
            mine.cmp(&(u128::from(other.weight) * u128::from(depth(self.hash))))
        };
        weighted
            .then_with(|| self.hash.cmp(&other.hash))
            .then_with(|| self.key.cmp(&other.key))
    }
}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// -log2((hash | 1) / 2^64) with 32 binary places, rounded up; at least 1.
fn depth(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    let whole = u64::from(63 - zeros);
    // The mantissa lies in [1, 2), as 2^63 times itself. Each squaring brings out one more binary place.
    let mut mantissa = hash << zeros;
    let mut places: u64 = 0;
    for _ in 0..32 {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let bit = u64::from(square >> 64 != 0);
        places = (places << 1) | bit;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a square of [1, 2), halved if it reached 2, fits 64 bits"
        )]
        {
            mantissa = (square >> bit) as u64;
        }
    }
    (64 << 32) - ((whole << 32) | places)
}

fn siphash24(HashKey(k0, k1): HashKey, Pseudonym(client): Pseudonym) -> u64 {
    let value = u128::from_le_bytes(client);
    let [low, high] = [value & u128::from(u64::MAX), value >> 64].map(|half| u64::try_from(half).unwrap_or_default());
    let mut sip = Sip {
        v0: k0 ^ 0x736f_6d65_7073_6575,
        v1: k1 ^ 0x646f_7261_6e64_6f6d,
        v2: k0 ^ 0x6c79_6765_6e65_7261,
        v3: k1 ^ 0x7465_6462_7974_6573,
    };
    // Two words of message, then a word that holds the length (16) in its top byte.
    for word in [low, high, 16 << 56] {
        sip.v3 ^= word;
        sip.round();
        sip.round();
        sip.v0 ^= word;
    }
    sip.v2 ^= 0xff;
    (0..4).for_each(|_| sip.round());
    sip.v0 ^ sip.v1 ^ sip.v2 ^ sip.v3
}

struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl Sip {
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn siphash_is_the_published_function() {
        // Test vector of the reference implementation: key 00..0f, message 00..0f.
        let word = |first: u8| u64::from_le_bytes(std::array::from_fn(|at| first + u8::try_from(at).unwrap()));
        let message = Pseudonym(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(siphash24(HashKey(word(0), word(8)), message), 0x3f2a_cc7f_57c2_9bdb);
    }

    /// A change of these values would move every client of every fleet at the upgrade.
    #[test]
    fn the_hash_never_changes() {
        let client = Pseudonym(*b"0123456789abcdef");
        let score = Score::new(HashKey::of("kms-1"), 1, client);
        assert_eq!(score.key, HashKey(1_244_054_815_533_466_971, 8_093_345_437_033_619_748));
        assert_eq!(depth(score.hash), 1_233_822_320);
    }

    proptest! {
        #[test]
        fn the_logarithm_is_the_logarithm(hash: u64) {
            let exact = 64.0 - ((hash | 1) as f64).log2();
            let ours = depth(hash) as f64 / f64::from(u32::MAX);
            prop_assert!((exact - ours).abs() < 1e-6, "{exact} {ours}");
            prop_assert!(depth(hash) >= 1);
        }
    }

    proptest! {
        /// Hosts of one weight are ordered by their hashes, as their logarithms would order them.
        #[test]
        fn a_greater_hash_is_never_deeper(a: u64, b: u64) {
            prop_assert!(depth(a.max(b)) <= depth(a.min(b)));
        }

        /// Whatever the weights, of three hosts no one is before another that is before it.
        #[test]
        fn scores_are_an_order(hashes: [u64; 3], weights in prop::array::uniform3(1u32..4)) {
            let score = |at: usize| Score { weight: weights[at], hash: hashes[at], key: HashKey(0, 0) };
            let (a, b, c) = (score(0), score(1), score(2));
            let circle = |x: &Score, y: &Score, z: &Score| x < y && y < z && z < x;
            prop_assert!(!circle(&a, &b, &c));
            prop_assert!(!circle(&c, &b, &a));
            prop_assert_eq!(a.cmp(&b), b.cmp(&a).reverse());
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let hosts = [("a", 1), ("b", 2), ("c", 5)].map(|(name, weight)| (HashKey::of(name), weight));
        let mut won = [0u32; 3];
        for n in 0..8000u128 {
            let client = Pseudonym(n.to_le_bytes());
            let best = (0..3)
                .max_by_key(|at| Score::new(hosts[*at].0, hosts[*at].1, client))
                .unwrap();
            won[best] += 1;
        }
        for (won, share) in won.into_iter().zip([1000u32, 2000, 5000]) {
            assert!(won.abs_diff(share) < 150, "{won} of {share}");
        }
    }
}
