//! The server's side of an association: whole input and input in pieces give the same calls, answers and end, and
//! neither what it sends nor what it holds outgrows what it was sent.
//!
//! The first byte says how large the pieces are.
#![no_main]

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::BytesMut;
use kms_host::rpc::{Answer, Association, Call, Limits, Offer, Violation};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&size, session)) = data.split_first() else {
        return;
    };
    let whole = feed([session]);
    let pieces = feed(session.chunks(usize::from(size).max(1)));
    assert_eq!(whole, pieces);
    assert!(whole.output.len() <= 64 + 2 * session.len());
});

#[derive(Debug, PartialEq)]
struct Made {
    calls: Vec<Call>,
    output: BytesMut,
    violation: Option<Violation>,
}

fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Made {
    let limits = Limits {
        request: 256,
        ..Limits::default()
    };
    let mut server = Association::new(Arc::new(Offer::kms()), limits, NonZeroU32::MIN, 1688);
    let mut made = Made {
        calls: Vec::new(),
        output: BytesMut::new(),
        violation: None,
    };
    let mut input = BytesMut::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match server.receive(&mut input, &mut made.output) {
                Ok(None) => break,
                Ok(Some(call)) => {
                    assert!(call.stub.len() <= 256 && call.opnum == 0);
                    server.answer(&call, Answer::Stub(call.stub.clone()), &mut made.output);
                    made.calls.push(call);
                }
                Err(violation) => {
                    assert_ne!(violation, Violation::Ended);
                    made.violation = Some(violation);
                    return made;
                }
            }
        }
    }
    made
}
