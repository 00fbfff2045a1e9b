//! The rehearsal envelope and the messages in it. Nobody can forge a seal, so besides whole envelopes the messages are
//! read on their own, and a good envelope with one byte changed must not open.
//!
//! The first byte picks what is read, the next two which byte of an envelope is changed and how.
#![no_main]

use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::envelope::{open_request, open_response, seal_request, seal_response};
use kms_host::rehearsal::message::{Request, Response};
use libfuzzer_sys::fuzz_target;

/// A seed of the corpus: a good request message, after the bytes that choose what is done with it.
const REQUEST: &[u8] = include_bytes!("../corpus/rehearsal_envelope/request");

fuzz_target!(|data: &[u8]| {
    let Some((&[choice, at, change], message)) = data.split_first_chunk() else {
        return;
    };
    let key = SiteKey::new(&[7; 32]);
    let alter = |mut body: Vec<u8>| {
        let at = usize::from(at) % body.len();
        body[at] ^= change.max(1);
        body
    };
    match choice % 3 {
        0 => assert!(open_request(&key, &data[1..]).is_err()),
        1 => {
            let Ok(request) = Request::decode(message) else { return };
            assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
            let (body, binding) = seal_request(&key, &[3; 28], &request);
            assert_eq!(open_request(&key, &body), Ok((request, binding)));
            assert!(open_request(&key, &alter(body)).is_err());
        }
        _ => {
            let request = Request::decode(&REQUEST[3..]).expect("a good request");
            let (_, binding) = seal_request(&key, &[3; 28], &request);
            assert!(open_response(&key, &binding, message).is_err());
            let Ok(response) = Response::decode(message) else {
                return;
            };
            assert_eq!(Response::decode(&response.encode()).as_ref(), Ok(&response));
            let body = seal_response(&key, &[4; 28], &binding, &response);
            assert_eq!(open_response(&key, &binding, &body).as_ref(), Ok(&response));
            assert!(open_response(&key, &binding, &alter(body)).is_err());
        }
    }
});
