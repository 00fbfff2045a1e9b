//! The framer, and every decoder of a PDU's body: what is decoded is bounded by the input and comes back when it is
//! encoded again.
#![no_main]

use bytes::BytesMut;
use kms_host::rpc::next_frame;
use kms_host::rpc::pdu::{Bind, BindAck, BindNak, Fault, Header, PacketType, RequestHead, ResponseHead};
use libfuzzer_sys::fuzz_target;

const LIMIT: u16 = 5840;

fuzz_target!(|data: &[u8]| {
    let mut input = BytesMut::from(data);
    loop {
        let before = input.len();
        match next_frame(&mut input, LIMIT) {
            Ok(Some(frame)) => {
                let length = usize::from(frame.header.frag_length);
                assert!(frame.header.frag_length <= LIMIT);
                assert_eq!(before - input.len(), length);
                assert_eq!(frame.body.len(), length - Header::LENGTH);
                body(&frame.header, &frame.body);
            }
            Ok(None) => {
                assert!(before == input.len() && before < usize::from(LIMIT));
                return;
            }
            Err(_) => return assert_eq!(before, input.len()),
        }
    }
});

fn body(header: &Header, body: &bytes::Bytes) {
    let order = header.drep.order();
    // The body that the PDU has after it is written again.
    let again = |encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        out.split_off(Header::LENGTH)
    };
    match header.kind {
        PacketType::Bind | PacketType::AlterContext => {
            if let Ok(bind) = Bind::decode(body, order) {
                let again = again(&|out| bind.encode(header, out));
                assert_eq!(Bind::decode(&again, order), Ok(bind));
            }
        }
        PacketType::BindAck | PacketType::AlterContextResponse => {
            if let Ok(ack) = BindAck::decode(body, order) {
                let again = again(&|out| ack.encode(header, out));
                assert_eq!(BindAck::decode(&again, order), Ok(ack));
            }
        }
        PacketType::BindNak => {
            if let Ok(nak) = BindNak::decode(body, order) {
                let again = again(&|out| nak.encode(header, out));
                assert_eq!(BindNak::decode(&again, order), Ok(nak));
            }
        }
        PacketType::Fault => {
            if let Ok(fault) = Fault::decode(body, order) {
                let again = again(&|out| fault.encode(header, out));
                assert_eq!(Fault::decode(&again, order), Ok(fault));
            }
        }
        PacketType::Request => {
            if let Ok((_, stub)) = RequestHead::split(header, body.clone()) {
                assert!(stub.len() + 8 <= body.len());
            }
        }
        PacketType::Response => {
            if let Ok((_, stub)) = ResponseHead::split(header, body.clone()) {
                assert_eq!(stub.len() + 8, body.len());
            }
        }
        _ => {}
    }
}
