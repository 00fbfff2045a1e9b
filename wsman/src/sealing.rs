//! NTLM message sealing over plain HTTP: the MIME wrapping of sealed SOAP (MS-WSMV 2.2.9.1).
//!
//! Pure bytes: the sealing itself is given by [`crate::ntlm`].

/// Content type of a sealed message under the Negotiate scheme.
pub const CONTENT_TYPE: &str =
    "multipart/encrypted;protocol=\"application/HTTP-SPNEGO-session-encrypted\";boundary=\"Encrypted Boundary\"";

const PROTOCOL: &str = "application/HTTP-SPNEGO-session-encrypted";
const BOUNDARY: &[u8] = b"--Encrypted Boundary";
const OCTETS: &[u8] = b"\tContent-Type: application/octet-stream\r\n";

/// Why sealed MIME cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed message is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// The two halves of a sealed message, and how long the plain text is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The NTLM message signature, 16 bytes.
    pub signature: &'a [u8],
    /// The sealed bytes.
    pub data: &'a [u8],
    /// Length of the plain text.
    pub plain_length: usize,
}

/// Whether this Content-Type says sealed.
pub fn is_sealed(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase();
    lower.starts_with("multipart/encrypted") && lower.contains("http-spnego-session-encrypted")
}

/// Wraps a signature and sealed bytes.
pub fn wrap(signature: &[u8], data: &[u8]) -> Vec<u8> {
    let head = format!(
        "--Encrypted Boundary\r\n\tContent-Type: {PROTOCOL}\r\n\
         \tOriginalContent: type=application/soap+xml;charset=UTF-8;Length={}\r\n--Encrypted Boundary\r\n",
        data.len()
    );
    let mut out = Vec::with_capacity(head.len() + data.len() + 128);
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(OCTETS);
    out.extend_from_slice(&u32::try_from(signature.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(signature);
    out.extend_from_slice(data);
    out.extend_from_slice(BOUNDARY);
    out.extend_from_slice(b"--\r\n");
    out
}

/// Finds signature and sealed bytes.
///
/// # Errors
/// When the MIME parts, the length word or the said length do not fit.
pub fn unwrap(body: &[u8]) -> Result<Sealed<'_>, Malformed> {
    let rest = body
        .strip_prefix(BOUNDARY)
        .and_then(|rest| rest.strip_prefix(b"\r\n"))
        .ok_or(Malformed("boundary"))?;
    let end = find(rest, BOUNDARY).ok_or(Malformed("second boundary"))?;
    let (head, rest) = rest.split_at_checked(end).ok_or(Malformed("second boundary"))?;
    let head = std::str::from_utf8(head).map_err(|_| Malformed("part headers"))?;
    if !head.contains(PROTOCOL) {
        return Err(Malformed("protocol"));
    }
    let plain_length = head
        .split(';')
        .find_map(|item| item.trim().strip_prefix("Length="))
        .and_then(|length| length.trim().parse().ok())
        .ok_or(Malformed("plain length"))?;
    let rest = rest
        .strip_prefix(BOUNDARY)
        .and_then(|rest| rest.strip_prefix(b"\r\n"))
        .ok_or(Malformed("boundary"))?;
    let rest = rest.strip_prefix(OCTETS).ok_or(Malformed("octet part"))?;
    // The sealed bytes may hold anything, so the closing boundary is taken from the end.
    let rest = rest.strip_suffix(b"\r\n").unwrap_or(rest);
    let rest = rest
        .strip_suffix(b"--")
        .and_then(|rest| rest.strip_suffix(BOUNDARY))
        .ok_or(Malformed("closing boundary"))?;
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(Malformed("signature length"))?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Malformed("signature length"))?;
    let (signature, data) = rest.split_at_checked(length).ok_or(Malformed("signature length"))?;
    if data.len() != plain_length {
        return Err(Malformed("plain length differs from the sealed length"));
    }
    Ok(Sealed {
        signature,
        data,
        plain_length,
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let wrapped = wrap(&[7; 16], &data);
            prop_assert_eq!(unwrap(&wrapped), Ok(Sealed { signature: &[7; 16], data: &data, plain_length: data.len() }));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..300, flip in any::<usize>()) {
            let _ = unwrap(&bytes);
            let mut wrapped = wrap(&[1; 16], &bytes);
            let at = flip % wrapped.len();
            wrapped[at] ^= 0x55;
            wrapped.truncate(cut);
            let _ = unwrap(&wrapped);
        }
    }

    #[test]
    fn a_boundary_inside_sealed_bytes_does_no_harm() {
        let data = b"x--Encrypted Boundary--\r\ny";
        assert_eq!(unwrap(&wrap(&[0; 16], data)).unwrap().data, data);
    }
}
