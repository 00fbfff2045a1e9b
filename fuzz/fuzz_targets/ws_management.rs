//! WS-Management: the XML reader, every reader of a host's answer, queries, sealed bodies and date-times.
//!
//! The first byte picks what is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wsman::server::Query;
use wsman::{fault, reply, sealing, value, xml};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    let text = std::str::from_utf8(rest);
    match (choice % 4, text) {
        (0, _) => {
            if let Ok(root) = xml::parse(rest) {
                let _ = fault::Fault::decode(&root);
            }
            let _ = (reply::identity(rest), reply::instance(rest), reply::page(rest));
            let _ = (reply::output(rest, "Activate"), reply::acknowledged(rest));
        }
        (1, Ok(text)) => drop(Query::parse(text)),
        (2, Ok(text)) => drop(value::parse_datetime(text)),
        _ => {
            if let Ok(sealed) = sealing::unwrap(rest) {
                assert_eq!(sealed.data.len(), sealed.plain_length);
                let again = sealing::wrap(sealed.signature, sealed.data);
                assert!(sealing::unwrap(&again).is_ok());
            }
        }
    }
});
