//! Binds to the KMS interface of each target, as a client would before it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use futures::future::join_all;
use kms_dns::names::HostName;
use kms_dns::records::Endpoint;
use kms_host::rpc::{ConnectOptions, Connection};

use super::presence::Probe;

/// What was found: how many targets answer, and why the others do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probed {
    /// How many answer.
    pub answered: usize,
    /// The others, by address, or by host name where the addresses are somebody else's.
    pub failed: BTreeMap<String, String>,
}

impl Probed {
    /// Of all targets together: one that answers is enough for clients.
    #[must_use]
    pub fn verdict(&self) -> Probe {
        if self.answered > 0 {
            return Probe::Answered;
        }
        let whys: Vec<&str> = self.failed.values().map(String::as_str).collect();
        Probe::Failed { why: whys.join("; ") }
    }
}

/// Probes every address of `endpoints`, at the same time. A name without published addresses is looked up, and answers when
/// one of its addresses does.
pub async fn probe(endpoints: &[Endpoint], options: &ConnectOptions) -> Probed {
    let mut targets = BTreeMap::new();
    for endpoint in endpoints {
        for address in &endpoint.addresses {
            let socket = SocketAddr::new(*address, endpoint.port);
            targets.insert(address.to_string(), vec![socket]);
        }
    }
    let names: BTreeSet<(&HostName, u16)> = endpoints
        .iter()
        .filter(|endpoint| endpoint.addresses.is_empty())
        .map(|endpoint| (&endpoint.target, endpoint.port))
        .collect();
    let found = join_all(names.iter().map(|(name, port)| look_up(name, *port))).await;
    targets.extend(names.iter().map(|(name, _)| name.to_string()).zip(found));
    let attempts = join_all(targets.values().map(|sockets| bind(sockets, options))).await;
    let mut probed = Probed::default();
    for (target, attempt) in targets.into_keys().zip(attempts) {
        match attempt {
            Ok(()) => probed.answered += 1,
            Err(why) => {
                probed.failed.insert(target, why);
            }
        }
    }
    probed
}

async fn look_up(name: &HostName, port: u16) -> Vec<SocketAddr> {
    let found = tokio::net::lookup_host((name.to_string(), port)).await;
    found.map(Iterator::collect).unwrap_or_default()
}

async fn bind(sockets: &[SocketAddr], options: &ConnectOptions) -> Result<(), String> {
    if sockets.is_empty() {
        return Err("the target's name has no address".to_owned());
    }
    let attempts = join_all(sockets.iter().map(|socket| Connection::connect(*socket, options))).await;
    let mut whys = Vec::new();
    for (socket, attempt) in sockets.iter().zip(attempts) {
        match attempt {
            Ok(_) => return Ok(()),
            Err(error) => whys.push(format!("{socket}: {error}")),
        }
    }
    Err(format!("no KMS host answers at {}", whys.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_port_is_no_kms_host() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let endpoint = Endpoint {
            target: "kms.corp.example.com".parse().unwrap(),
            addresses: [address.ip()].into(),
            port: address.port(),
            priority: 0,
            weight: 0,
        };
        let probed = probe(&[endpoint], &ConnectOptions::default()).await;
        let Probe::Failed { why } = probed.verdict() else {
            panic!("nobody listens")
        };
        assert!(why.contains(&address.to_string()), "{why}");
        assert!(probed.failed.contains_key("127.0.0.1"), "{probed:?}");
    }
}
