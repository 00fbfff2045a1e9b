//! HAProxy in front of a replica, as people run it: whom the replica admits, counts and limits is the client that HAProxy's
//! PROXY header names.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::BytesMut;
use kms_host::rpc::client::ClientAssociation;
use kms_host::rpc::{ConnectOptions, Connection, DataRepresentation, Interface, Proposal, Reply, TransferSyntax};
use system_tests::haproxy::HaProxy;
use system_tests::peer;
use system_tests::replica::{Replica, eventually};
use system_tests::stand_in::{Does, StandIn};
use tokio::net::TcpSocket;

/// A replica that trusts HAProxy, and the host behind it.
fn replica(limits: &str) -> Result<(Replica, StandIn)> {
    let host = StandIn::start(Does::Answers(b"fine".to_vec()))?;
    let yaml = format!(
        "relay: {{licensedHosts: [{}]}}\n\
         clients: {{deny: [127.9.0.66/32], limits: {limits}, proxyProtocol: {{trusted: [127.0.0.1/32]}}}}\n",
        host.item("a")
    );
    Ok((Replica::start(&yaml)?, host))
}

/// A bound connection of the client of this number, each of which has an address of its own.
async fn client(number: u8, haproxy: &HaProxy) -> Result<Connection> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 9, 0, number], 0)))?;
    let stream = socket.connect(haproxy.address).await?;
    Ok(Connection::over(stream, haproxy.address, &ConnectOptions::default()).await?)
}

async fn asks(connection: &mut Connection) -> bool {
    let called = connection.call(0, DataRepresentation::LITTLE_ENDIAN, b"request").await;
    matches!(called, Ok(Reply::Stub(stub, _)) if stub == b"fine"[..])
}

async fn refused(replica: &Replica, reason: &str) -> Result<f64> {
    replica
        .metric(&format!("okms_refusals_total{{reason=\"{reason}\"}}"))
        .await
}

#[tokio::test]
async fn clients_are_whom_its_headers_of_both_versions_name() -> Result<()> {
    if let Some(why) = HaProxy::missing() {
        peer::skipped("clients_are_whom_its_headers_of_both_versions_name", &why);
        return Ok(());
    }
    for option in ["send-proxy", "send-proxy-v2"] {
        let (replica, _host) = replica("{connectionsPerSource: 1, requestsPerMinutePerSource: 2}")?;
        let haproxy = HaProxy::start(replica.address, option, "").await?;
        let [mut one, mut two] = [client(1, &haproxy).await?, client(2, &haproxy).await?];
        let status = replica.status().await?;
        assert_eq!(status["connections"]["sources"], 2, "{option}: {status}");
        assert_eq!(status["connections"]["open"], 2, "{option}: {status}");

        assert!(
            client(1, &haproxy).await.is_err(),
            "{option}: one connection for each client"
        );
        assert_eq!(refused(&replica, "connections_per_source").await?, 1.0, "{option}");
        assert!(client(66, &haproxy).await.is_err(), "{option}: a denied client");
        assert_eq!(refused(&replica, "denied").await?, 1.0, "{option}");
        assert!(asks(&mut one).await && asks(&mut one).await, "{option}");
        assert!(!asks(&mut one).await, "{option}: the third request within a minute");
        assert_eq!(refused(&replica, "rate").await?, 1.0, "{option}");
        assert!(asks(&mut two).await, "{option}: another client has a rate of its own");
    }
    Ok(())
}

#[tokio::test]
async fn its_health_checks_are_served_and_are_no_clients() -> Result<()> {
    if let Some(why) = HaProxy::missing() {
        peer::skipped("its_health_checks_are_served_and_are_no_clients", &why);
        return Ok(());
    }
    let mut bind = BytesMut::new();
    ClientAssociation::new(4096).propose(&Proposal::one(Interface::KMS, TransferSyntax::Ndr), &mut bind);
    let bind: String = bind.iter().map(|byte| format!("{byte:02x}")).collect();
    // A bind is to be acknowledged (C706, 12.6.4.4: version 5.0, type 12).
    let binds = format!("  option tcp-check\n  tcp-check send-binary {bind}\n  tcp-check expect binary 05000c\n");
    for (option, backend, found) in [
        ("send-proxy check inter 100ms", "", "L4OK"),
        ("send-proxy-v2 check inter 100ms", "", "L4OK"),
        ("send-proxy check check-send-proxy inter 100ms", binds.as_str(), "L7OK"),
        (
            "send-proxy-v2 check check-send-proxy inter 100ms",
            binds.as_str(),
            "L7OK",
        ),
    ] {
        let (replica, _host) = replica("{}")?;
        let haproxy = HaProxy::start(replica.address, option, backend).await?;
        eventually(found, async || haproxy.check().await.is_ok_and(|check| check == found)).await?;
        assert!(asks(&mut client(1, &haproxy).await?).await, "{option}");
        for reason in ["proxy_missing", "proxy_invalid", "proxy_untrusted", "denied"] {
            assert_eq!(refused(&replica, reason).await?, 0.0, "{option}: {reason}");
        }
    }
    Ok(())
}
