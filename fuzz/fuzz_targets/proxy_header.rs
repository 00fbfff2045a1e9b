//! The PROXY header: a header is never longer than its bytes or the limit, and more bytes do not change what it was.
#![no_main]

use kms_host::serve::{MAX_HEADER, Preface, preface};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let first = data
        .iter()
        .enumerate()
        .map(|(length, _)| &data[..=length])
        .find_map(|bytes| match preface(bytes) {
            Preface::Incomplete => {
                assert!(bytes.len() < MAX_HEADER);
                None
            }
            found => Some(found),
        });
    match first {
        Some(found @ (Preface::Client { length, .. } | Preface::Local { length })) => {
            assert!(length <= data.len());
            assert_eq!(preface(data), found);
        }
        Some(found) => assert_eq!(preface(data), found),
        None => {}
    }
});
