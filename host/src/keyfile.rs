//! Secrets of 32 bytes in files: the site key of rehearsal hosts and the ledger key.
//!
//! A file holds the key raw (exactly 32 bytes), in hex (64 digits) or in base64 (standard or URL alphabet, with or
//! without padding); white space around the two text forms is ignored. Nothing of the content appears in errors.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use secrecy::SecretBox;
use zeroize::Zeroizing;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// No text form of a key is longer; a longer file is not a key file and is not read whole.
const LONGEST_FILE: u16 = 256;

/// Why a key could not be had from a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("key file {path} cannot be read: check that it exists and that this user may read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The file's content is no key.
    #[error(
        "key file {path} holds no key: it must hold 32 bytes, raw, in hex or in base64; \
         make one with `openssl rand -base64 32`"
    )]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the key in the file at `path`.
pub fn read(path: &Path) -> Result<SecretBox<[u8; KEY_BYTES]>, KeyFileError> {
    let mut content = Zeroizing::new(Vec::with_capacity(LONGEST_FILE.into()));
    std::fs::File::open(path)
        .and_then(|file| file.take(LONGEST_FILE.into()).read_to_end(&mut content))
        .map_err(|source| KeyFileError::Read {
            path: path.to_owned(),
            source,
        })?;
    parse(&content).ok_or_else(|| KeyFileError::NotAKey { path: path.to_owned() })
}

/// The key that a key file with this content holds, if it holds one.
pub fn parse(content: &[u8]) -> Option<SecretBox<[u8; KEY_BYTES]>> {
    if let Ok(raw) = <[u8; KEY_BYTES]>::try_from(content) {
        return Some(SecretBox::new(Box::new(raw)));
    }
    let text = content.trim_ascii();
    let decoded = Zeroizing::new(from_hex(text).or_else(|| from_base64(text))?);
    let key = <[u8; KEY_BYTES]>::try_from(decoded.as_slice()).ok()?;
    Some(SecretBox::new(Box::new(key)))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() != 2 * KEY_BYTES {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    text.chunks_exact(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        })
        .collect()
}

fn from_base64(text: &[u8]) -> Option<Vec<u8>> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|alphabet| GeneralPurpose::new(alphabet, config).decode(text).ok())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    const KEY: [u8; 32] = *b"\x00\x01\x02\xff.-~ 0123456789abcdefghijklm\n";

    fn bytes(content: &[u8]) -> Option<[u8; 32]> {
        parse(content).map(|key| *key.expose_secret())
    }

    #[test]
    fn a_key_reads_the_same_raw_in_hex_and_in_base64() {
        let hex: String = KEY.iter().map(|byte| format!("{byte:02X}")).collect();
        let padded = base64::engine::general_purpose::STANDARD.encode(KEY);
        let bare = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(KEY);
        assert_eq!(bytes(&KEY), Some(KEY));
        assert_eq!(bytes(hex.as_bytes()), Some(KEY));
        assert_eq!(bytes(format!(" {hex}\r\n").as_bytes()), Some(KEY));
        assert_eq!(bytes(format!("{padded}\n").as_bytes()), Some(KEY));
        assert_eq!(bytes(bare.as_bytes()), Some(KEY));
    }

    #[test]
    fn anything_else_is_no_key() {
        for content in [&b""[..], b"secret", &[7; 31], &[7; 33], b"zz", &[b'0'; 63]] {
            assert_eq!(bytes(content), None, "{content:?}");
        }
    }

    #[test]
    fn errors_name_the_file_and_never_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        assert!(matches!(read(&path), Err(KeyFileError::Read { .. })));
        std::fs::write(&path, "hunter2").unwrap();
        let error = read(&path).err().unwrap();
        assert!(format!("{error} {error:?}").contains("site.key"));
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
