//! Publishing by dynamic update (RFC 2136), signed with TSIG, over TCP: BIND, Knot, PowerDNS.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::tsig::TsigError;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use thiserror::Error;

use crate::exchange;
use crate::names::ZoneName;
use crate::plan::{Change, Observed, Plan, Prerequisite, address_names};
use crate::publisher::{PublishError, Publisher};
use crate::records::Desired;
use crate::tsig::Key;

/// Tells the time for signatures.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// A server as users write it: an address or a name, and a port where it is not 53.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerAddress {
    host: String,
    port: u16,
}

/// A text that is no server.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("`{0}` is no server; write an IP address or a DNS name, with `:port` where it is not 53")]
pub struct ServerAddressError(String);

impl FromStr for ServerAddress {
    type Err = ServerAddressError;

    fn from_str(text: &str) -> Result<Self, ServerAddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(SocketAddr::new(address, 53).into());
        }
        let wrong = || ServerAddressError(text.to_owned());
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, 53),
        };
        if port == 0 || host.parse::<ZoneName>().is_err() {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl From<SocketAddr> for ServerAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl ServerAddress {
    /// Its addresses, looked up if it is a name.
    ///
    /// # Errors
    /// When it has none.
    pub async fn resolve(&self) -> Result<Vec<SocketAddr>, PublishError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found: Vec<SocketAddr> = found.map(Iterator::collect).unwrap_or_default();
        if found.is_empty() {
            let name = self.host.clone();
            return Err(PublishError::NoAddress { name });
        }
        Ok(found)
    }
}

/// Which of several servers is asked first: the one that answered last, or the one behind those that did not. A dead one is
/// so not waited for at every question, and not at every round by who keeps this between rounds.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicUsize>);

/// Publishes by dynamic update.
pub struct Rfc2136 {
    servers: Vec<ServerAddress>,
    turn: Turn,
    key: Key,
    patience: Duration,
    clock: Clock,
}

impl Rfc2136 {
    /// Updates the first of `servers` that can be reached, each within `patience`.
    #[must_use]
    pub fn new(servers: Vec<ServerAddress>, key: Key, patience: Duration) -> Self {
        Self {
            servers,
            turn: Turn::default(),
            key,
            patience,
            clock: Arc::new(SystemTime::now),
        }
    }

    /// Signs with the time of `clock` instead of the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Begins with the server whose turn it is.
    #[must_use]
    pub fn with_turn(mut self, turn: Turn) -> Self {
        self.turn = turn;
        self
    }

    /// Sends to one server after the other until one answers.
    async fn send(&self, zone: &ZoneName, message: &Message) -> Result<(SocketAddr, Message), PublishError> {
        let mut last = PublishError::NoAddress {
            name: "(none given)".to_owned(),
        };
        let turn = &self.turn.0;
        let first = turn.load(Ordering::Relaxed);
        let places = self.servers.iter().enumerate();
        for (place, server) in places.clone().skip(first).chain(places.take(first)) {
            // Whoever gives up while this one is waited for begins with the next.
            turn.store(place.saturating_add(1), Ordering::Relaxed);
            let addresses = match server.resolve().await {
                Ok(addresses) => addresses,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            for address in addresses {
                match self.exchange(address, zone, message.clone()).await {
                    Err(error @ PublishError::Unreachable(_)) => last = error,
                    other => {
                        turn.store(place, Ordering::Relaxed);
                        return other.map(|answer| (address, answer));
                    }
                }
            }
        }
        Err(last)
    }

    async fn exchange(
        &self,
        server: SocketAddr,
        zone: &ZoneName,
        mut message: Message,
    ) -> Result<Message, PublishError> {
        let now = (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let unsigned = |why: String| PublishError::Unsigned {
            server,
            key: self.key.name(),
            why,
        };
        let signed = message.finalize(self.key.signer(), now);
        let verifier = signed.map_err(|error| unsigned(error.to_string()))?;
        let bytes = exchange::encode(server, &message).map_err(PublishError::Unreachable)?;
        let answer = exchange::stream(server, &bytes, self.patience).await;
        let bytes = answer.map_err(PublishError::Unreachable)?;
        let answer = exchange::decode(server, &message, &bytes).map_err(PublishError::Unreachable)?;
        if let Some(error) = self.judge(server, zone, now, &answer) {
            return Err(error);
        }
        let mut verifier = verifier.ok_or_else(|| unsigned("it could not be verified".to_owned()))?;
        verifier.verify(&bytes).map_err(|error| unsigned(error.to_string()))?;
        Ok(answer)
    }

    /// What an answer complains of.
    fn judge(&self, server: SocketAddr, zone: &ZoneName, now: u64, answer: &Message) -> Option<PublishError> {
        let key = self.key.name();
        let zone = zone.to_string();
        let signature = answer.signature.as_ref().map(|record| &record.data);
        match signature.and_then(|signature| signature.error) {
            Some(TsigError::BadKey) => {
                let algorithm = self.key.algorithm().as_str();
                return Some(PublishError::BadKey { server, key, algorithm });
            }
            Some(TsigError::BadSig | TsigError::BadTrunc) => return Some(PublishError::BadSignature { server, key }),
            Some(TsigError::BadTime) => {
                let skew = signature.map_or(0, |signature| skew(now, signature.time, &signature.other));
                return Some(PublishError::BadTime { server, skew });
            }
            Some(TsigError::Unknown(_)) | None => {}
        }
        match answer.response_code {
            ResponseCode::NoError if answer.truncation => Some(PublishError::Truncated { server }),
            ResponseCode::NoError => None,
            ResponseCode::NXDomain if answer.op_code == OpCode::Query => None,
            ResponseCode::YXDomain | ResponseCode::YXRRSet | ResponseCode::NXDomain | ResponseCode::NXRRSet => {
                Some(PublishError::LostRace { zone })
            }
            ResponseCode::NotAuth => Some(PublishError::NotAuth { server, zone, key }),
            ResponseCode::Refused => Some(PublishError::Refused { server, zone }),
            ResponseCode::NotZone => Some(PublishError::NotZone { server, zone }),
            code => Some(PublishError::Failed { server, zone, code }),
        }
    }

    async fn read(&self, desired: &Desired, name: &Name, kinds: &[RecordType]) -> Result<Vec<Record>, PublishError> {
        let mut records = Vec::new();
        for kind in kinds {
            let question = exchange::question(name, *kind, false);
            let (server, answer) = self.send(&desired.apex, &question).await?;
            if !answer.authoritative {
                let zone = desired.apex.to_string();
                return Err(PublishError::NotPrimary { server, zone });
            }
            let here = |record: &Record| record.name == *name && record.record_type() == *kind;
            records.extend(answer.answers.into_iter().filter(here));
        }
        Ok(records)
    }
}

impl Publisher for Rfc2136 {
    fn kind(&self) -> &'static str {
        "rfc2136"
    }

    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
        Box::pin(async move {
            let service = desired.zone.service();
            let mut observed = Observed {
                records: self
                    .read(desired, &service, &[RecordType::SRV, RecordType::TXT])
                    .await?,
            };
            for name in address_names(desired, &observed) {
                // An alias is looked for first: it would answer for the other types as well.
                let kinds = [RecordType::CNAME, RecordType::A, RecordType::AAAA, RecordType::TXT];
                observed.records.extend(self.read(desired, &name, &kinds).await?);
            }
            Ok(observed)
        })
    }

    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
        Box::pin(async move { self.send(&plan.apex, &update(plan)).await.map(|_| ()) })
    }
}

/// The server's time less ours: it is in the other data of a BADTIME answer (RFC 8945, 5.2.3).
fn skew(now: u64, signed: u64, other: &[u8]) -> i64 {
    let theirs = match other {
        [] => signed,
        bytes => bytes.iter().take(6).fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    };
    i64::try_from(theirs).unwrap_or(i64::MAX) - i64::try_from(now).unwrap_or(i64::MAX)
}

/// A plan as a message: zone, prerequisites and updates in the places of question, answers and authorities (RFC 2136, 2).
fn update(plan: &Plan) -> Message {
    let mut message = Message::query();
    message.metadata.message_type = MessageType::Query;
    message.metadata.op_code = OpCode::Update;
    message.add_query(Query::query(plan.apex.name().clone(), RecordType::SOA));
    for prerequisite in &plan.prerequisites {
        match prerequisite {
            Prerequisite::Absent { name, kind } => {
                let mut record = Record::update0(name.clone(), 0, *kind);
                record.dns_class = DNSClass::NONE;
                message.add_answer(record);
            }
            Prerequisite::Exactly { name, data, .. } => {
                message.add_answers(
                    data.iter()
                        .map(|data: &RData| Record::from_rdata(name.clone(), 0, data.clone())),
                );
            }
        }
    }
    for change in &plan.changes {
        message.add_authority(match change {
            Change::Add(record) => record.clone(),
            Change::Remove(record) => {
                let mut record = Record::from_rdata(record.name.clone(), 0, record.data.clone());
                record.dns_class = DNSClass::NONE;
                record
            }
        });
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_users_write_them() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", 53),
            ("192.0.2.1:5353", "192.0.2.1", 5353),
            ("2001:db8::1", "2001:db8::1", 53),
            ("[2001:db8::1]", "2001:db8::1", 53),
            ("[2001:db8::1]:54", "2001:db8::1", 54),
            ("ns1.example.com", "ns1.example.com", 53),
            ("ns1.example.com:54", "ns1.example.com", 54),
        ] {
            let read: ServerAddress = text.parse().unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
        }
        for text in ["", ":53", "ns1:", "ns1:0", "ns1:99999", "[::1", "a b"] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_clock_s_difference_is_read_from_what_the_server_says() {
        assert_eq!(skew(1000, 1000, &[0, 0, 0, 0, 0, 10]), -990);
        assert_eq!(skew(1000, 4000, &[]), 3000);
    }
}
