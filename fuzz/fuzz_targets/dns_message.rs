//! DNS messages: questions to our own server, and answers to our questions with records and owner marks in them. Answers
//! from our server can be read, and are not larger than what the asker takes.
//!
//! The first byte picks the direction.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use hickory_proto::op::Message;
use hickory_proto::rr::{RData, RecordType};
use kms_dns::discover::entries;
use kms_dns::exchange::{DATAGRAM, decode, question};
use kms_dns::names::ZoneName;
use kms_dns::records::{Data, Entry, Mark};
use kms_dns::server::Zone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, message)) = data.split_first() else {
        return;
    };
    let Ok(apex) = "corp.example.com".parse::<ZoneName>() else {
        return;
    };
    if choice & 1 == 0 {
        answers(&apex, message);
    } else {
        reads(&apex, message);
    }
});

fn answers(apex: &ZoneName, asked: &[u8]) {
    let address = |last| Entry {
        name: apex.name().clone(),
        data: Data::A(Ipv4Addr::new(192, 0, 2, last)),
    };
    let zone = Zone::new(apex, 60, 1, (0..=255).map(address), []);
    let Some(answer) = zone.answer_datagram(asked) else {
        return;
    };
    assert!(answer.len() <= usize::from(DATAGRAM).max(2 * asked.len()));
    assert_eq!(asked.get(..2), answer.get(..2), "it answers that question");
    assert!(Message::from_vec(&answer).is_ok());
}

fn reads(apex: &ZoneName, bytes: &[u8]) {
    let mut asked = question(&apex.service(), RecordType::SRV, false);
    asked.metadata.id = 1;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
    let Ok(answer) = decode(server, &asked, bytes) else {
        return;
    };
    assert_eq!(answer.id, 1);
    for entry in entries(&answer) {
        assert!(!entry.to_string().is_empty());
    }
    for record in &answer.answers {
        if let RData::TXT(txt) = &record.data
            && let Some(mark) = Mark::read(&record.name, txt)
        {
            let RData::TXT(again) = mark.rdata() else { unreachable!() };
            assert_eq!(Mark::read(&mark.name, &again), Some(mark));
        }
    }
}
