//! The answer to a question about one zone: a pure function of the question's bytes.

use std::collections::BTreeSet;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{NS, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::exchange::DATAGRAM;
use crate::names::ZoneName;
use crate::records::{Data, Entry, Mark};

/// A zone's records as one server serves them.
#[derive(Debug, Clone)]
pub struct Zone {
    apex: Name,
    soa: Record,
    records: Vec<Record>,
}

impl Zone {
    /// A zone of `entries` and of the `marks` beside them; `serial` tells one version from the next.
    #[must_use]
    pub fn new(
        apex: &ZoneName,
        ttl: u32,
        serial: u32,
        entries: impl IntoIterator<Item = Entry>,
        marks: impl IntoIterator<Item = Mark>,
    ) -> Self {
        let apex = apex.name().clone();
        let prefixed = |label: &str| apex.prepend_label(label).unwrap_or_else(|_| apex.clone());
        let server = prefixed("ns");
        let soa = SOA::new(server.clone(), prefixed("hostmaster"), serial, 3600, 600, 86_400, ttl);
        let mut records = vec![Record::from_rdata(apex.clone(), ttl, RData::NS(NS(server)))];
        records.extend(entries.into_iter().map(|entry| entry.record(ttl)));
        records.extend(marks.into_iter().map(|mark| mark.record(ttl)));
        Self {
            soa: Record::from_rdata(apex.clone(), ttl, RData::SOA(soa)),
            apex,
            records,
        }
    }

    /// Answers a datagram; `None` to what deserves no answer. Truncated if it does not fit what the asker takes.
    #[must_use]
    pub fn answer_datagram(&self, question: &[u8]) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        let room = asked.edns.as_ref().map_or(512, |edns| edns.max_payload().min(DATAGRAM));
        let answer = self.answer(&asked)?;
        let bytes = answer.to_vec().ok()?;
        if bytes.len() <= usize::from(room) {
            return Some(bytes);
        }
        let mut truncated = answer;
        truncated.metadata.truncation = true;
        truncated.answers.clear();
        truncated.authorities.clear();
        truncated.additionals.clear();
        truncated.to_vec().ok()
    }

    /// Answers a message of a stream; `None` to what deserves no answer.
    #[must_use]
    pub fn answer_stream(&self, question: &[u8]) -> Option<Vec<u8>> {
        self.answer(&Message::from_vec(question).ok()?)?.to_vec().ok()
    }

    fn answer(&self, asked: &Message) -> Option<Message> {
        // An answer to an answer could go round for ever.
        if asked.message_type != MessageType::Query {
            return None;
        }
        let mut answer = Message::response(asked.id, asked.op_code);
        answer.metadata.recursion_desired = asked.recursion_desired;
        // Of several questions none is repeated: compressed in the question, their names may fill a far larger answer.
        if let [query] = asked.queries.as_slice() {
            answer.add_query(query.clone());
        }
        if asked.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM);
            answer.set_edns(edns);
        }
        answer.metadata.response_code = self.fill(asked, &mut answer);
        Some(answer)
    }

    fn fill(&self, asked: &Message, answer: &mut Message) -> ResponseCode {
        if asked.op_code != OpCode::Query {
            return ResponseCode::NotImp;
        }
        let [query] = asked.queries.as_slice() else {
            return ResponseCode::FormErr;
        };
        let (name, kind) = (query.name(), query.query_type());
        let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
        if transfer || query.query_class() != DNSClass::IN || !self.apex.zone_of(name) {
            return ResponseCode::Refused;
        }
        answer.metadata.authoritative = true;
        let all = || self.records.iter().chain(std::iter::once(&self.soa));
        let here = |record: &&Record| record.name == *name && (kind == RecordType::ANY || record.record_type() == kind);
        answer.answers = all().filter(here).cloned().collect();
        if answer.answers.is_empty() {
            answer.authorities.push(self.soa.clone());
            // A name above another exists without records (RFC 8020).
            let exists = all().any(|record| name.zone_of(&record.name));
            return if exists {
                ResponseCode::NoError
            } else {
                ResponseCode::NXDomain
            };
        }
        let targets: BTreeSet<Name> = answer
            .answers
            .iter()
            .filter_map(|record| match Data::read(&record.data) {
                Some(Data::Srv { target, .. }) => Some(target),
                _ => None,
            })
            .collect();
        let address = |record: &&Record| record.data.ip_addr().is_some() && targets.contains(&record.name);
        answer.additionals = self.records.iter().filter(address).cloned().collect();
        ResponseCode::NoError
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::exchange::question;
    use crate::records::{Desired, Endpoint};

    fn zone(addresses: u8) -> Zone {
        let apex: ZoneName = "corp.example.com".parse().unwrap();
        let endpoint = Endpoint {
            target: "kms.corp.example.com".parse().unwrap(),
            addresses: (0..addresses).map(|last| [192, 0, 2, last].into()).collect(),
            port: 1688,
            priority: 0,
            weight: 0,
        };
        let desired = Desired::new(apex.clone(), apex.clone(), "c1".parse().unwrap(), 60, &[endpoint]).unwrap();
        Zone::new(&apex, 60, 1, desired.entries, [])
    }

    fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
        let asked = question(&Name::from_ascii(name).unwrap(), kind, false);
        Message::from_vec(&zone.answer_stream(&asked.to_vec().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn many_questions_get_a_small_answer() {
        let name: Name = format!("{0}.{0}.{0}.corp.example.com", "a".repeat(60)).parse().unwrap();
        let mut asked = question(&name, RecordType::SRV, false);
        for _ in 0..58 {
            asked.add_query(asked.queries[0].clone());
        }
        let bytes = asked.to_vec().unwrap();
        let answer = zone(1).answer_datagram(&bytes).unwrap();
        let read = Message::from_vec(&answer).unwrap();
        assert_eq!((read.response_code, read.queries.len()), (ResponseCode::FormErr, 0));
        assert!(answer.len() < 100, "{} bytes", answer.len());
    }

    #[test]
    fn the_service_is_answered_with_its_target_s_addresses() {
        let answer = ask(&zone(2), "_VLMCS._tcp.corp.example.com.", RecordType::SRV);
        assert!(answer.authoritative);
        assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 2));
    }

    #[test]
    fn what_is_not_there_is_denied_and_what_is_not_ours_refused() {
        let zone = zone(1);
        let code = |name, kind| ask(&zone, name, kind).response_code;
        assert_eq!(code("nobody.corp.example.com.", RecordType::A), ResponseCode::NXDomain);
        assert_eq!(code("_tcp.corp.example.com.", RecordType::SRV), ResponseCode::NoError);
        assert_eq!(code("kms.corp.example.com.", RecordType::AAAA), ResponseCode::NoError);
        assert_eq!(code("example.com.", RecordType::A), ResponseCode::Refused);
        assert_eq!(code("corp.example.com.", RecordType::AXFR), ResponseCode::Refused);
        assert_eq!(ask(&zone, "corp.example.com.", RecordType::SOA).answers.len(), 1);
        assert_eq!(ask(&zone, "corp.example.com.", RecordType::NS).answers.len(), 1);
    }

    #[test]
    fn a_datagram_that_would_be_too_large_is_truncated() {
        let zone = zone(60);
        let mut asked = question(
            &Name::from_ascii("kms.corp.example.com.").unwrap(),
            RecordType::A,
            false,
        );
        asked.edns = None;
        let bytes = zone.answer_datagram(&asked.to_vec().unwrap()).unwrap();
        assert!(bytes.len() <= 512);
        assert!(Message::from_vec(&bytes).unwrap().truncation);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let zone = zone(1);
            let _ = zone.answer_datagram(&bytes);
            let _ = zone.answer_stream(&bytes);
        }
    }
}
