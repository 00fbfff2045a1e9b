//! Binds to the KMS interface of a target, as a client would before it asks.

use std::net::{IpAddr, SocketAddr};

use futures::future::join_all;
use kms_dns::records::Endpoint;
use kms_host::rpc::{ConnectOptions, Connection};

use super::presence::Probe;

/// Probes `endpoints`: one address that answers is enough for a client. A name without published addresses is looked up.
pub async fn probe(endpoints: &[Endpoint], options: &ConnectOptions) -> Probe {
    let mut targets: Vec<SocketAddr> = Vec::new();
    for endpoint in endpoints {
        let published = endpoint
            .addresses
            .iter()
            .map(|address: &IpAddr| SocketAddr::new(*address, endpoint.port));
        targets.extend(published);
        if endpoint.addresses.is_empty()
            && let Ok(found) = tokio::net::lookup_host((endpoint.target.to_string(), endpoint.port)).await
        {
            targets.extend(found);
        }
    }
    if targets.is_empty() {
        return Probe::Failed {
            why: "the target's name has no address".to_owned(),
        };
    }
    let attempts = join_all(targets.iter().map(|target| Connection::connect(*target, options))).await;
    let mut whys = Vec::new();
    for (target, attempt) in targets.iter().zip(attempts) {
        match attempt {
            Ok(_) => return Probe::Answered,
            Err(error) => whys.push(format!("{target}: {error}")),
        }
    }
    Probe::Failed {
        why: format!("no KMS host answers at {}", whys.join("; ")),
    }
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
        let Probe::Failed { why } = probe(&[endpoint], &ConnectOptions::default()).await else {
            panic!("nobody listens")
        };
        assert!(why.contains(&address.to_string()), "{why}");
    }
}
