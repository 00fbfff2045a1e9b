//! Captures and hand-made PDUs for tests: hexadecimal with comments, one file each in `testdata/`.

use bytes::BytesMut;

/// The bytes that hexadecimal digits spell; spaces do not count, nor does what follows a `#` in a line.
pub(super) fn hex(text: &str) -> BytesMut {
    let code = text.lines().filter_map(|line| line.split('#').next());
    let digits: Vec<u8> = code
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}
