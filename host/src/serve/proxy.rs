//! The PROXY protocol header, versions 1 and 2 ("The PROXY protocol", HAProxy, sections 2.1 and 2.2).
//!
//! A pure decision over the first bytes of a connection. Who may send a header is decided by admission.

use std::net::IpAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};

/// Bytes of the longest header that is read. Version 1 has at most 107; version 2 has 16, the addresses and whatever
/// extensions the load balancer adds.
pub const MAX_HEADER: usize = 2048;

/// Bytes of the longest header of version 1, its line end included ("The PROXY protocol", section 2.1).
const MAX_HEADER_V1: usize = 107;

/// First bytes of version 2.
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Bytes of version 2 before the addresses: signature, version and command, family, length.
const FIXED_V2: usize = 16;

/// Version 2 and the command LOCAL ("The PROXY protocol", section 2.2).
const LOCAL_V2: u8 = 0x20;

/// First bytes of version 1.
const SIGNATURE_V1: &[u8] = b"PROXY ";

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// Too few bytes to tell.
    Incomplete,
    /// No PROXY header.
    Absent,
    /// A header of `length` bytes that names the client.
    Client {
        /// The client's address.
        source: IpAddr,
        /// Bytes of the header.
        length: usize,
    },
    /// A header of `length` bytes for a connection of the load balancer's own, such as a health check.
    Local {
        /// Bytes of the header.
        length: usize,
    },
    /// The beginning of a header, but not a valid one.
    Invalid,
}

/// Reads the header at the beginning of `bytes`.
pub fn preface(bytes: &[u8]) -> Preface {
    if bytes.is_empty() {
        return Preface::Incomplete;
    }
    let begins = |signature: &[u8]| bytes.iter().zip(signature).all(|(a, b)| a == b);
    if !begins(SIGNATURE_V1) && !begins(SIGNATURE_V2) {
        return Preface::Absent;
    }
    if let Some(local) = local_v2(bytes) {
        return local;
    }
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    match ProxyHeader::parse(bytes, config) {
        // The parser takes a longer one if all of it is there at once; what a header is must not depend on that.
        Ok((_, length)) if begins(SIGNATURE_V1) && length > MAX_HEADER_V1 => Preface::Invalid,
        Ok((header, length)) => match header.proxied_address() {
            Some(address) => Preface::Client {
                source: address.source.ip().to_canonical(),
                length,
            },
            None => Preface::Local { length },
        },
        Err(Error::BufferTooShort) if bytes.len() < MAX_HEADER => Preface::Incomplete,
        Err(_) => Preface::Invalid,
    }
}

/// What a header of version 2 with the command LOCAL is; none where it is another header. Its length counts and nothing
/// else: a receiver "must accept this connection as valid and must use the real connection endpoints and discard the
/// protocol block including the family which is ignored" ("The PROXY protocol", section 2.2). The parser looks at both.
fn local_v2(bytes: &[u8]) -> Option<Preface> {
    let ([LOCAL_V2, _family, high, low], _) = bytes.strip_prefix(SIGNATURE_V2)?.split_first_chunk()? else {
        return None;
    };
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([*high, *low]));
    Some(if length > MAX_HEADER {
        Preface::Invalid
    } else if bytes.len() < length {
        Preface::Incomplete
    } else {
        Preface::Local { length }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn header(v2: bool) -> Vec<u8> {
        let address = ProxiedAddress::stream(
            "192.0.2.7:50000".parse().expect("address"),
            "198.51.100.1:1688".parse().expect("address"),
        );
        let header = ProxyHeader::with_address(address);
        let mut bytes = Vec::new();
        if v2 {
            header.encode_v2(&mut bytes)
        } else {
            header.encode_v1(&mut bytes)
        }
        .expect("encoded");
        bytes
    }

    #[test]
    fn a_version_1_header_that_is_too_long_is_invalid_however_it_arrives() {
        for padding in [91, 92, 93, 200] {
            let bytes = format!("PROXY UNKNOWN{}\r\n", "x".repeat(padding)).into_bytes();
            let mut first = (1..=bytes.len()).map(|end| preface(&bytes[..end]));
            let in_pieces = first.find(|found| *found != Preface::Incomplete);
            assert_eq!(in_pieces, Some(preface(&bytes)), "{} bytes", bytes.len());
            assert_eq!(
                preface(&bytes) == Preface::Invalid,
                bytes.len() > MAX_HEADER_V1,
                "{} bytes",
                bytes.len()
            );
        }
    }

    #[test]
    fn names_the_client_in_both_versions_once_the_header_is_whole() {
        for v2 in [false, true] {
            let bytes = header(v2);
            for end in 0..bytes.len() {
                assert_eq!(
                    preface(&bytes[..end]),
                    Preface::Incomplete,
                    "version 2: {v2}, {end} bytes"
                );
            }
            let source = "192.0.2.7".parse().expect("address");
            let mut more = bytes.clone();
            more.extend_from_slice(&[5, 0, 11]);
            assert_eq!(
                preface(&more),
                Preface::Client {
                    source,
                    length: bytes.len()
                }
            );
        }
    }

    #[test]
    fn an_rpc_bind_is_no_header() {
        assert_eq!(preface(&[5, 0, 11, 3, 16]), Preface::Absent);
    }

    #[test]
    fn a_health_check_of_the_balancer_is_local() {
        let mut bytes = Vec::new();
        ProxyHeader::with_local().encode_v2(&mut bytes).expect("encoded");
        assert_eq!(preface(&bytes), Preface::Local { length: bytes.len() });
        assert_eq!(preface(b"PROXY UNKNOWN\r\n"), Preface::Local { length: 15 });
    }

    #[test]
    fn of_a_local_header_only_the_length_counts_whatever_family_it_names() {
        // Unknown families, families with too few bytes for their addresses, IPv4 addresses that are not to be used.
        for (family, block) in [
            (0x00, 0),
            (0x00, 5),
            (0x11, 0),
            (0x11, 12),
            (0x21, 3),
            (0x31, 7),
            (0x55, 0),
            (0xff, 40),
        ] {
            let mut bytes = SIGNATURE_V2.to_vec();
            bytes.extend_from_slice(&[0x20, family, 0, block]);
            bytes.resize(bytes.len() + usize::from(block), 0xAB);
            let length = bytes.len();
            for end in 0..length {
                assert_eq!(
                    preface(&bytes[..end]),
                    Preface::Incomplete,
                    "family {family:#x}, {end} bytes"
                );
            }
            bytes.extend_from_slice(&[5, 0, 11]);
            assert_eq!(preface(&bytes), Preface::Local { length }, "family {family:#x}");
            // The same with the command PROXY is held to what it says.
            bytes[12] = 0x21;
            bytes.extend_from_slice(&[0; 64]);
            let valid = matches!((family, block), (0x00, _) | (0x11, 12));
            assert_eq!(preface(&bytes) != Preface::Invalid, valid, "family {family:#x}");
        }
        let mut too_long = SIGNATURE_V2.to_vec();
        too_long.extend_from_slice(&[0x20, 0, 0xff, 0xff]);
        assert_eq!(preface(&too_long), Preface::Invalid);
    }

    #[test]
    fn a_header_that_never_ends_is_refused() {
        let mut bytes = b"PROXY TCP4 1.2.3.4 ".to_vec();
        bytes.resize(200, b'1');
        assert_eq!(preface(&bytes), Preface::Invalid);
        let mut bytes = SIGNATURE_V2.to_vec();
        bytes.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        bytes.resize(MAX_HEADER, 0);
        assert_eq!(preface(&bytes), Preface::Invalid);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(start in 0usize..3, tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = [&[][..], SIGNATURE_V1, SIGNATURE_V2][start].to_vec();
            bytes.extend(tail);
            if let Preface::Client { length, .. } | Preface::Local { length } = preface(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
