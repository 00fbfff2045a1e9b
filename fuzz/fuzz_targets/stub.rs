//! Stubs of the KMS operation in each transfer syntax and byte order: bodies are bounded, and what unmarshals comes back
//! when it is marshalled again.
//!
//! The first byte picks transfer syntax, byte order and direction.
#![no_main]

use bytes::Bytes;
use kms_host::rpc::stub::{decode_request, decode_response, encode_request, encode_response};
use kms_host::rpc::{ByteOrder, TransferSyntax};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 256;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, stub)) = data.split_first() else {
        return;
    };
    let syntax = if choice & 1 == 0 {
        TransferSyntax::Ndr
    } else {
        TransferSyntax::Ndr64
    };
    let order = if choice & 2 == 0 {
        ByteOrder::Little
    } else {
        ByteOrder::Big
    };
    let stub = Bytes::copy_from_slice(stub);
    if choice & 4 == 0 {
        if let Ok(body) = decode_request(syntax, order, &stub, LIMIT) {
            assert!(body.len() <= LIMIT);
            let again = encode_request(syntax, order, &body);
            assert_eq!(decode_request(syntax, order, &again, LIMIT), Ok(body));
        }
    } else if let Ok(response) = decode_response(syntax, order, &stub, LIMIT) {
        assert!(response.body.as_ref().is_none_or(|body| body.len() <= LIMIT));
        let again = encode_response(syntax, order, response.body.as_deref(), response.hresult);
        assert_eq!(decode_response(syntax, order, &again, LIMIT), Ok(response));
    }
});
