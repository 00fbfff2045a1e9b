//! Admission: networks, limits, rates, time-outs and PROXY headers, each refusal under its own label.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use bytes::BytesMut;
use kms_host::rpc::client::ClientAssociation;
use kms_host::rpc::{
    CallError, ConnectOptions, Connection, DataRepresentation, FaultStatus, Interface, Proposal, Reply, TransferSyntax,
};
use proxy_header::{ProxiedAddress, ProxyHeader};
use system_tests::http;
use system_tests::replica::Replica;
use system_tests::stand_in::{Does, StandIn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// A replica with this `clients` section in front of a stand-in that answers.
fn replica(clients: &str) -> Result<(Replica, StandIn)> {
    let host = StandIn::start(Does::Answers(b"fine".to_vec()))?;
    let yaml = format!("relay: {{licensedHosts: [{}]}}\nclients: {clients}\n", host.item("a"));
    Ok((Replica::start(&yaml)?, host))
}

fn refusals(reason: &str) -> String {
    format!("okms_refusals_total{{reason=\"{reason}\"}}")
}

/// The bytes of a bind to the KMS interface.
fn bind() -> BytesMut {
    let mut bytes = BytesMut::new();
    ClientAssociation::new(4096).propose(&Proposal::one(Interface::KMS, TransferSyntax::Ndr), &mut bytes);
    bytes
}

/// Connects from an address of this machine's loopback network.
async fn connect_from(source: [u8; 4], replica: &Replica) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((source, 0)))?;
    Ok(socket.connect(replica.address).await?)
}

/// Whether the server answers a bind on this connection. Otherwise it has closed it.
async fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 16];
    stream.write_all(&bind()).await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && answer[2] == 12
}

/// Waits until the server closes the connection.
async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 64]).await, Ok(0) | Err(_))
}

async fn ask(replica: &Replica) -> Result<Reply> {
    let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    Ok(connection
        .call(0, DataRepresentation::LITTLE_ENDIAN, b"request")
        .await?)
}

#[tokio::test]
async fn denied_and_not_allowed_networks_are_refused_and_others_are_served() -> Result<()> {
    let (replica, _host) = replica("{allow: [127.0.0.0/16], deny: [127.0.0.66/32]}")?;
    for (source, reason) in [([127, 0, 0, 66], "denied"), ([127, 1, 0, 1], "not_allowed")] {
        let mut stream = connect_from(source, &replica).await?;
        assert!(is_closed(&mut stream).await, "{reason}");
        assert_eq!(replica.metric(&refusals(reason)).await?, 1.0);
    }
    assert!(is_served(&mut connect_from([127, 0, 0, 1], &replica).await?).await);
    Ok(())
}

#[tokio::test]
async fn connections_are_limited_in_total_and_per_source_and_places_are_given_back() -> Result<()> {
    let (replica, _host) = replica("{limits: {connections: 3, connectionsPerSource: 2}}")?;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = connect_from([127, 0, 0, 5], &replica).await?;
        assert!(is_served(&mut stream).await);
        held.push(stream);
    }
    assert!(is_closed(&mut connect_from([127, 0, 0, 5], &replica).await?).await);
    assert_eq!(replica.metric(&refusals("connections_per_source")).await?, 1.0);
    let mut third = connect_from([127, 0, 0, 6], &replica).await?;
    assert!(is_served(&mut third).await, "another source has places of its own");
    assert!(is_closed(&mut connect_from([127, 0, 0, 7], &replica).await?).await);
    assert_eq!(replica.metric(&refusals("connections")).await?, 1.0);
    drop((held, third));
    replica
        .status_becomes("all places are free", |status| status["connections"]["open"] == 0)
        .await?;
    assert!(is_served(&mut connect_from([127, 0, 0, 5], &replica).await?).await);
    Ok(())
}

#[tokio::test]
async fn one_source_that_asks_too_often_is_refused_and_others_are_not() -> Result<()> {
    let (replica, host) = replica("{limits: {requestsPerMinutePerSource: 3}}")?;
    for _ in 0..3 {
        assert!(matches!(ask(&replica).await?, Reply::Stub(..)));
    }
    assert!(ask(&replica).await.is_err(), "the fourth within a minute");
    assert_eq!(replica.metric(&refusals("rate")).await?, 1.0);
    assert_eq!(host.calls().len(), 3, "it did not reach the licensed host");
    assert!(is_served(&mut connect_from([127, 0, 0, 9], &replica).await?).await);
    Ok(())
}

#[tokio::test]
async fn what_is_answered_without_a_licensed_host_counts_as_a_request_too() -> Result<()> {
    let (replica, host) = replica("{limits: {requestsPerMinutePerSource: 3}}")?;
    let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    connection
        .alter_context(&Proposal::one(Interface::KMS, TransferSyntax::Ndr))
        .await?;
    for _ in 0..2 {
        let reply = connection
            .call(7, DataRepresentation::LITTLE_ENDIAN, b"request")
            .await?;
        assert!(matches!(reply, Reply::Fault(FaultStatus::OP_RNG_ERROR)), "{reply:?}");
    }
    let fourth = connection.call(7, DataRepresentation::LITTLE_ENDIAN, b"request").await;
    assert!(fourth.is_err(), "the fourth within a minute");
    assert_eq!(replica.metric(&refusals("rate")).await?, 1.0);
    assert_eq!(host.calls().len(), 0);
    Ok(())
}

#[tokio::test]
async fn a_client_that_makes_no_call_is_idle_whatever_else_it_asks_for() -> Result<()> {
    let (replica, _host) = replica("{limits: {idleTimeout: 1s}}")?;
    let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    let proposal = Proposal::one(Interface::KMS, TransferSyntax::Ndr);
    for asked in 0..20 {
        if let Err(error) = connection.alter_context(&proposal).await {
            assert!(asked >= 2, "it has its time, but {error} after {asked}");
            assert!(matches!(error, CallError::Broken(_)), "{error}");
            assert_eq!(replica.metric(&refusals("rate")).await?, 0.0, "it was idle");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("alter_contexts kept the connection")
}

#[tokio::test]
async fn the_time_of_a_request_runs_from_its_first_byte_to_the_last_of_its_answer() -> Result<()> {
    let (replica, host) = replica("{limits: {requestTimeout: 2s}}")?;
    let part = Duration::from_millis(1200);
    host.now(Does::AnswersAfter(part, b"slow".to_vec()));
    for (pause, in_time) in [(Duration::ZERO, true), (part, false)] {
        let (mut client, mut bytes) = (ClientAssociation::new(4096), BytesMut::new());
        let proposal = Proposal::one(Interface::KMS, TransferSyntax::Ndr);
        client.propose(&proposal, &mut bytes);
        let mut stream = TcpStream::connect(replica.address).await?;
        stream.write_all_buf(&mut bytes).await?;
        while client.outcome(&proposal, &mut bytes)?.is_none() {
            anyhow::ensure!(stream.read_buf(&mut bytes).await? != 0, "closed");
        }
        let mut request = BytesMut::new();
        let drep = DataRepresentation::LITTLE_ENDIAN;
        assert!(client.request(TransferSyntax::Ndr, 0, drep, b"request", &mut request));
        let mut rest = request.split_off(10);
        stream.write_all_buf(&mut request).await?;
        tokio::time::sleep(pause).await;
        stream.write_all_buf(&mut rest).await?;
        let answered = stream.read_buf(&mut bytes).await.is_ok_and(|read| read != 0);
        assert_eq!(answered, in_time, "a pause of {pause:?}");
    }
    Ok(())
}

#[tokio::test]
async fn silent_connections_to_the_admin_endpoint_keep_nobody_out() -> Result<()> {
    let (replica, _host) = replica("{}")?;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(TcpStream::connect(replica.admin).await?);
    }
    assert_eq!(replica.metric("okms_draining").await?, 0.0, "a scrape succeeds");
    assert!(matches!(ask(&replica).await?, Reply::Stub(..)), "a client is served");
    for stream in &mut silent {
        assert!(is_closed(stream).await);
    }
    Ok(())
}

#[tokio::test]
async fn slow_clients_are_cut_off_without_hurting_others() -> Result<()> {
    let limits = "{handshakeTimeout: 400ms, requestTimeout: 400ms, idleTimeout: 60s, connectionsPerSource: 300}";
    let (replica, _host) = replica(&format!("{{limits: {limits}}}"))?;
    // One kind sends a bind byte by byte, the other binds and then sends a request byte by byte: each byte in time for
    // any time-out between bytes.
    let mut slow = Vec::new();
    for n in 0..100 {
        let mut stream = TcpStream::connect(replica.address).await?;
        let bound = n % 2 == 0;
        if bound {
            assert!(is_served(&mut stream).await);
        }
        slow.push(tokio::spawn(async move {
            let drip = if bound {
                [5u8, 0, 0, 3].repeat(20)
            } else {
                bind().to_vec()
            };
            for byte in drip {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    for _ in 0..50 {
        assert!(matches!(ask(&replica).await?, Reply::Stub(..)));
    }
    replica.metric_reaches(&refusals("handshake_timeout"), 50.0).await?;
    replica.metric_reaches(&refusals("request_timeout"), 50.0).await?;
    for task in slow {
        task.await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_without_a_request_for_its_idle_time_is_closed_and_that_is_no_refusal() -> Result<()> {
    let (replica, _host) = replica("{limits: {idleTimeout: 300ms}}")?;
    let mut stream = TcpStream::connect(replica.address).await?;
    assert!(is_served(&mut stream).await);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await?;
    assert_eq!(replica.metric(&refusals("request_timeout")).await?, 0.0);
    assert_eq!(replica.metric(&refusals("handshake_timeout")).await?, 0.0);
    Ok(())
}

#[tokio::test]
async fn a_broken_pdu_and_a_request_that_is_too_large_end_the_connection() -> Result<()> {
    let (replica, host) = replica("{limits: {maxRequestBytes: 64}}")?;
    let mut stream = TcpStream::connect(replica.address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await??;
    assert_ne!(answer.get(2), Some(&12), "nothing is acknowledged: {answer:?}");
    assert_eq!(replica.metric(&refusals("protocol")).await?, 1.0);
    let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
    let reply = connection.call(0, DataRepresentation::LITTLE_ENDIAN, &[0; 65]).await;
    assert!(!matches!(reply, Ok(Reply::Stub(..))), "{reply:?}");
    assert_eq!(replica.metric(&refusals("protocol")).await?, 2.0);
    assert_eq!(host.calls().len(), 0);
    Ok(())
}

fn header(source: &str, v2: bool) -> Vec<u8> {
    let source = SocketAddr::new(source.parse().expect("address"), 50_000);
    let destination = match source {
        SocketAddr::V4(_) => ([198, 51, 100, 1], 1688).into(),
        SocketAddr::V6(_) => ([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1], 1688).into(),
    };
    let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
    let mut bytes = Vec::new();
    if v2 {
        header.encode_v2(&mut bytes)
    } else {
        header.encode_v1(&mut bytes)
    }
    .expect("encoded");
    bytes
}

#[tokio::test]
async fn behind_a_trusted_balancer_the_client_is_whom_the_header_names() -> Result<()> {
    let clients =
        "{allow: [192.0.2.0/24], limits: {connectionsPerSource: 1}, proxyProtocol: {trusted: [127.0.0.1/32]}}";
    let (replica, _host) = replica(clients)?;
    for v2 in [false, true] {
        let mut stream = TcpStream::connect(replica.address).await?;
        let header = header("192.0.2.7", v2);
        // The header may arrive in pieces, and with the bind behind it.
        let (first, second) = header.split_at(9);
        stream.write_all(first).await?;
        stream.flush().await?;
        tokio::task::yield_now().await;
        stream.write_all(second).await?;
        assert!(is_served(&mut stream).await, "version 2: {v2}");
        let mut same = TcpStream::connect(replica.address).await?;
        same.write_all(&header).await?;
        assert!(
            !is_served(&mut same).await,
            "the limit holds for the client, not for the balancer"
        );
        let mut other = TcpStream::connect(replica.address).await?;
        other.write_all(&self::header("192.0.2.8", v2)).await?;
        assert!(is_served(&mut other).await);
        let mut stranger = TcpStream::connect(replica.address).await?;
        stranger.write_all(&self::header("203.0.113.5", v2)).await?;
        assert!(!is_served(&mut stranger).await, "the networks hold for the client");
        drop((stream, other));
        replica
            .status_becomes("places are free", |status| status["connections"]["open"] == 0)
            .await?;
    }
    assert_eq!(replica.metric(&refusals("connections_per_source")).await?, 2.0);
    assert_eq!(replica.metric(&refusals("not_allowed")).await?, 2.0);
    Ok(())
}

#[tokio::test]
async fn proxy_headers_are_refused_from_elsewhere_and_demanded_from_balancers() -> Result<()> {
    let clients = "{proxyProtocol: {trusted: [127.0.0.2/32], headerTimeout: 300ms}}";
    let (replica, _host) = replica(clients)?;
    for v2 in [false, true] {
        let mut stream = connect_from([127, 0, 0, 3], &replica).await?;
        stream.write_all(&header("192.0.2.7", v2)).await?;
        assert!(!is_served(&mut stream).await, "not a trusted network");
    }
    assert_eq!(replica.metric(&refusals("proxy_untrusted")).await?, 2.0);
    assert!(
        is_served(&mut connect_from([127, 0, 0, 3], &replica).await?).await,
        "without a header it is a client"
    );

    assert!(
        !is_served(&mut connect_from([127, 0, 0, 2], &replica).await?).await,
        "a balancer without a header"
    );
    assert_eq!(replica.metric(&refusals("proxy_missing")).await?, 1.0);
    let mut invalid = connect_from([127, 0, 0, 2], &replica).await?;
    invalid
        .write_all(b"PROXY TCP4 192.0.2.300 198.51.100.1 1 2\r\n")
        .await?;
    assert!(is_closed(&mut invalid).await);
    assert_eq!(replica.metric(&refusals("proxy_invalid")).await?, 1.0);
    let mut silent = connect_from([127, 0, 0, 2], &replica).await?;
    silent.write_all(b"PROXY").await?;
    assert!(is_closed(&mut silent).await);
    assert_eq!(replica.metric(&refusals("handshake_timeout")).await?, 1.0);

    let mut check = connect_from([127, 0, 0, 2], &replica).await?;
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local)?;
    check.write_all(&local).await?;
    assert!(is_served(&mut check).await, "the balancer's own health check");
    let mut odd = connect_from([127, 0, 0, 2], &replica).await?;
    let (signature_and_command, _) = local.split_at(13);
    odd.write_all(&[signature_and_command, &[0x55, 0, 3, 1, 2, 3]].concat())
        .await?;
    assert!(
        is_served(&mut odd).await,
        "the family of a LOCAL header is of no account"
    );
    Ok(())
}

#[tokio::test]
async fn a_balancer_may_do_without_a_header_where_that_is_configured() -> Result<()> {
    let (replica, _host) = replica("{proxyProtocol: {trusted: [127.0.0.1/32], required: false}}")?;
    let mut plain = TcpStream::connect(replica.address).await?;
    assert!(is_served(&mut plain).await);
    let mut stream = TcpStream::connect(replica.address).await?;
    stream.write_all(&header("192.0.2.7", true)).await?;
    assert!(is_served(&mut stream).await);
    let status = replica.status().await?;
    assert_eq!(status["connections"]["sources"], 2, "127.0.0.1 and 192.0.2.7: {status}");
    Ok(())
}

#[tokio::test]
async fn without_a_header_a_peer_in_a_balancers_network_is_held_to_the_networks_like_any_client() -> Result<()> {
    let clients = "{allow: [192.0.2.0/24], proxyProtocol: {trusted: [127.0.0.1/32], required: false}}";
    let (replica, _host) = replica(clients)?;
    let mut plain = TcpStream::connect(replica.address).await?;
    assert!(!is_served(&mut plain).await, "it is no balancer, and not allowed");
    assert_eq!(replica.metric(&refusals("not_allowed")).await?, 1.0);
    let mut stream = TcpStream::connect(replica.address).await?;
    stream.write_all(&header("192.0.2.7", true)).await?;
    assert!(is_served(&mut stream).await);
    let mut check = TcpStream::connect(replica.address).await?;
    check.write_all(b"PROXY UNKNOWN\r\n").await?;
    assert!(is_served(&mut check).await, "the balancer's own health check");
    Ok(())
}

#[tokio::test]
async fn ipv6_addresses_of_one_source_are_one_client_to_routing_too() -> Result<()> {
    // A stub that ends with return code 0: an answer that counts.
    let host = StandIn::start(Does::Answers(vec![0; 8]))?;
    let replica = Replica::start(&format!(
        "relay: {{licensedHosts: [{}]}}\nrouting: {{refreshInterval: 50ms}}\n\
         clients: {{proxyProtocol: {{trusted: [127.0.0.1/32]}}}}\n",
        host.item("a")
    ))?;
    // The machine of the first two has a new temporary address; the third is in another network.
    for address in ["2001:db8:0:1::a", "2001:db8:0:1:89ab::b", "2001:db8:0:2::a"] {
        let mut stream = TcpStream::connect(replica.address).await?;
        stream.write_all(&header(address, true)).await?;
        let mut connection = Connection::over(stream, replica.address, &ConnectOptions::default()).await?;
        let reply = connection
            .call(0, DataRepresentation::LITTLE_ENDIAN, b"request")
            .await?;
        assert!(matches!(reply, Reply::Stub(..)), "{reply:?}");
    }
    // Observations are written in their order: with the third one all are there.
    replica
        .status_becomes("the third request is read from the ledger", |status| {
            status["routing"]["distinctClients"] == 2
        })
        .await?;
    for (address, known) in [("2001:db8:0:1::c", true), ("2001:db8:0:3::a", false)] {
        let (_, explained) = http::get(replica.admin, &format!("/explain/{address}")).await?;
        assert_eq!(explained.contains("\"lastDecision\""), known, "{address}: {explained}");
    }
    Ok(())
}
