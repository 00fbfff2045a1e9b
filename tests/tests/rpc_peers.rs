//! DCE/RPC with peers that nobody here wrote: impacket calls us and is called, tshark reads what is said.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use futures::future::BoxFuture;
use kms_host::admission::{Admission, Rules};
use kms_host::config::ClientsConfig;
use kms_host::metrics::Metrics;
use kms_host::rpc::client::ClientAssociation;
use kms_host::rpc::pdu::{Bind, ContextElement, DataRepresentation, Flags, Header, PacketType};
use kms_host::rpc::{
    Answer, Association, Call, ConnectOptions, Connection, Interface, Limits, Offer, Proposal, Reply, SyntaxId,
    TransferSyntax, stub,
};
use kms_host::serve::{self, Client, Outcome, Patience, Server, Service};
use serde_json::{Value, json};
use system_tests::pcap::Conversation;
use system_tests::{pcap, peer};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest body that the test server takes, and largest request with it.
const BODY: usize = 8192;

/// A running server, until it is dropped.
struct Started {
    address: SocketAddr,
    _running: DropGuard,
}

/// What serves our connections, with an operation that answers its request body three times over, and the body's length
/// as HRESULT.
fn start_server() -> Result<Started> {
    let listener = serve::listen(SocketAddr::from(([127, 0, 0, 1], 0)), false)?;
    let address = listener.local_addr()?;
    let mut clients = ClientsConfig::default();
    clients.limits.max_request_bytes = 2 * BODY as u32;
    let token = CancellationToken::new();
    let server = Server::new(
        Arc::new(Tripler),
        Arc::new(Admission::new(Rules::new(&clients))),
        Arc::new(Metrics::new()),
        Offer::kms(),
        Patience::new(&clients),
        token.clone(),
    );
    tokio::spawn(serve::accept(listener, Arc::new(server)));
    Ok(Started {
        address,
        _running: token.drop_guard(),
    })
}

struct Tripler;

impl Service for Tripler {
    fn call<'a>(&'a self, call: &'a Call, _: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { Outcome::Answer(answer(call)) })
    }
}

fn answer(call: &Call) -> Answer {
    let order = call.drep.order();
    match stub::decode_request(call.syntax, order, &call.stub, BODY) {
        Err(error) => Answer::Fault(error.fault()),
        Ok(body) if body.is_empty() => Answer::Stub(stub::encode_response(call.syntax, order, None, 0x8007_000D)),
        Ok(body) => {
            let hresult = u32::try_from(body.len()).unwrap_or(u32::MAX);
            Answer::Stub(stub::encode_response(
                call.syntax,
                order,
                Some(&body.repeat(3)),
                hresult,
            ))
        }
    }
}

/// What the server answers to `body`, as the peer's script prints it.
fn expected(body: &[u8]) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if body.is_empty() {
        return json!({"size": 0, "body": "", "hresult": 0x8007_000D_u32});
    }
    json!({"size": 3 * body.len(), "body": hex(&body.repeat(3)), "hresult": body.len()})
}

/// Runs a scenario of `impacket_client.py` against the test server; `None` where impacket cannot be had.
async fn impacket(test: &str, scenario: &str) -> Result<Option<Value>> {
    let Some(python) = peer::python_with("impacket") else {
        peer::skipped(test, "no Python that can import impacket");
        return Ok(None);
    };
    let server = start_server()?;
    impacket_against(&python, server.address, scenario).await.map(Some)
}

async fn impacket_against(python: &Path, server: SocketAddr, scenario: &str) -> Result<Value> {
    let output = Command::new(python)
        .arg(peer::script("impacket_client.py"))
        .args([&server.port().to_string(), scenario])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{scenario}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("the script's answer is not JSON")
}

#[tokio::test]
async fn impacket_calls_over_ndr_and_over_ndr64() -> Result<()> {
    for scenario in ["ndr", "ndr64"] {
        let Some(seen) = impacket("impacket_calls_over_ndr_and_over_ndr64", scenario).await? else {
            return Ok(());
        };
        assert_eq!(
            seen,
            json!([expected(b"one"), expected(b"four"), expected(b"")]),
            "{scenario}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn impacket_alters_context_and_calls_on_both() -> Result<()> {
    let Some(seen) = impacket("impacket_alters_context_and_calls_on_both", "alter").await? else {
        return Ok(());
    };
    assert_eq!(seen["second"], expected(b"on the second"));
    assert_eq!(seen["first"], expected(b"on the first"));
    assert!(
        seen["refused"]
            .as_str()
            .unwrap()
            .contains("abstract_syntax_not_supported"),
        "{seen}"
    );
    Ok(())
}

#[tokio::test]
async fn impacket_sends_and_receives_fragments() -> Result<()> {
    let Some(seen) = impacket("impacket_sends_and_receives_fragments", "fragmented").await? else {
        return Ok(());
    };
    let body: Vec<u8> = (0..=255).collect::<Vec<u8>>().repeat(10);
    assert_eq!(seen, json!([expected(&body), expected(&body)]));
    Ok(())
}

#[tokio::test]
async fn impacket_finds_our_interface_among_unknown_ones() -> Result<()> {
    let Some(seen) = impacket("impacket_finds_our_interface_among_unknown_ones", "bogus").await? else {
        return Ok(());
    };
    assert_eq!(seen, expected(b"found"));
    Ok(())
}

#[tokio::test]
async fn impacket_negotiates_features_in_a_bind_like_that_of_windows() -> Result<()> {
    let test = "impacket_negotiates_features_in_a_bind_like_that_of_windows";
    let Some(seen) = impacket(test, "windows_like").await? else {
        return Ok(());
    };
    // NDR is rejected in favour of NDR64; of the features, keeping the connection on orphaned calls is accepted.
    assert_eq!(seen["results"], json!([[2, 2], [0, 0], [3, 2]]));
    assert_eq!(seen["sizes"], json!([4280, 4280]));
    assert_eq!(seen["answer"], expected(b"as windows"));
    Ok(())
}

#[tokio::test]
async fn impacket_is_told_why_it_is_refused() -> Result<()> {
    let Some(seen) = impacket("impacket_is_told_why_it_is_refused", "refusals").await? else {
        return Ok(());
    };
    for (what, told) in [
        ("interface", "abstract_syntax_not_supported"),
        ("authentication", "Authentication type not recognized"),
        ("operation", "nca_s_op_rng_error"),
        ("context", "nca_s_unk_if"),
    ] {
        assert!(seen[what].as_str().unwrap_or_default().contains(told), "{what}: {seen}");
    }
    assert_eq!(seen["afterwards"], expected(b"still here"));
    Ok(())
}

#[tokio::test]
async fn impacket_names_an_object() -> Result<()> {
    let Some(seen) = impacket("impacket_names_an_object", "with_object").await? else {
        return Ok(());
    };
    assert_eq!(seen, expected(b"object"));
    Ok(())
}

#[tokio::test]
async fn our_client_calls_an_impacket_server() -> Result<()> {
    let Some(python) = peer::python_with("impacket") else {
        peer::skipped(
            "our_client_calls_an_impacket_server",
            "no Python that can import impacket",
        );
        return Ok(());
    };
    let script = peer::script("impacket_server.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdout = child.stdout.take().context("the server has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let port: u16 = lines.next_line().await?.context("the server says no port")?.parse()?;
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let proposal = Proposal::one(Interface::KMS, TransferSyntax::Ndr);
    let options = ConnectOptions {
        proposal,
        ..ConnectOptions::default()
    };
    let mut connection = Connection::connect(server, &options).await?;
    for stub in [&b"abc"[..], b"", &[7; 3000]] {
        let reply = connection.call(0, DataRepresentation::LITTLE_ENDIAN, stub).await?;
        let reversed = stub.iter().rev().copied().collect();
        assert_eq!(reply, Reply::Stub(reversed, DataRepresentation::LITTLE_ENDIAN));
    }
    assert!(connection.is_usable());
    let fault = connection.call(5, DataRepresentation::LITTLE_ENDIAN, b"").await?;
    assert!(matches!(fault, Reply::Fault(_)), "{fault:?}");
    Ok(())
}

/// What tshark says of a capture: one line of these fields for each DCE/RPC PDU.
async fn dissect(capture: &Path, port: u16, fields: &[&str]) -> Result<Vec<String>> {
    let output = tshark(capture, port, "dcerpc", fields).await?;
    Ok(output.lines().map(str::to_owned).collect())
}

async fn tshark(capture: &Path, port: u16, filter: &str, fields: &[&str]) -> Result<String> {
    let output = Command::new("tshark")
        .args(["-r".as_ref(), capture])
        .args(["-d", &format!("tcp.port=={port},dcerpc"), "-Y", filter, "-T", "fields"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .output()
        .await?;
    Ok(String::from_utf8(output.stdout)?)
}

/// Asserts that no packet is malformed, and that tshark warns of nothing but the refusal that a bind_nak is.
async fn assert_well_formed(capture: &Path, port: u16) -> Result<()> {
    const WARNING: u32 = 0x0060_0000;
    let filter = format!("(_ws.malformed || _ws.expert.severity >= {WARNING}) && !(dcerpc.pkt_type == 13)");
    let remarks = tshark(capture, port, &filter, &["frame.number", "_ws.expert.message"]).await?;
    assert_eq!(remarks, "");
    Ok(())
}

/// Numbers of the PDU types in a dissection whose first field is `dcerpc.pkt_type`; a frame may hold several.
fn types(lines: &[String]) -> BTreeSet<u8> {
    let first = lines.iter().filter_map(|line| line.split('\t').next());
    first
        .flat_map(|field| field.split(','))
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[tokio::test]
async fn tshark_dissects_a_captured_session_with_no_malformed_packet() -> Result<()> {
    let test = "tshark_dissects_a_captured_session_with_no_malformed_packet";
    let Some(python) = peer::python_with("impacket") else {
        peer::skipped(test, "no Python that can import impacket");
        return Ok(());
    };
    let running = start_server()?;
    let server = running.address;
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("session.pcapng");
    let filter = format!("tcp port {}", server.port());
    let dumpcap = Command::new("dumpcap")
        .args(["-q", "-i", "lo", "-f", &filter, "-w"])
        .arg(&capture)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let Ok(mut dumpcap) = dumpcap else {
        peer::skipped(test, "dumpcap is not installed");
        return Ok(());
    };
    let mut remarks = BufReader::new(dumpcap.stderr.take().context("dumpcap has no stderr")?).lines();
    loop {
        match remarks.next_line().await? {
            Some(line) if line.starts_with("File:") => break,
            Some(_) => {}
            None => {
                peer::skipped(test, "dumpcap may not capture on lo");
                return Ok(());
            }
        }
    }
    for scenario in ["windows_like", "ndr", "ndr64", "alter", "fragmented", "refusals"] {
        impacket_against(&python, server, scenario).await?;
    }
    // The capture is whole when a last connection, made for this alone, has been written to it.
    let last = Connection::connect(server, &ConnectOptions::default()).await?;
    let marker = format!("{}", last.local_addr()?.port());
    drop(last);
    let written = async {
        loop {
            let lines = dissect(&capture, server.port(), &["dcerpc.pkt_type", "tcp.dstport"]).await?;
            if lines.iter().any(|line| *line == format!("12\t{marker}")) {
                return anyhow::Ok(lines);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let lines = tokio::time::timeout(Duration::from_secs(60), written)
        .await
        .context("the capture stays short")??;
    dumpcap.kill().await?;
    assert_well_formed(&capture, server.port()).await?;
    // request, response, fault, bind, bind_ack, bind_nak, alter_context, alter_context_resp
    assert_eq!(types(&lines), BTreeSet::from([0, 2, 3, 11, 12, 13, 14, 15]));
    Ok(())
}

#[tokio::test]
async fn tshark_dissects_every_pdu_that_we_form_in_both_byte_orders() -> Result<()> {
    if !peer::has("tshark", "--version") {
        peer::skipped(
            "tshark_dissects_every_pdu_that_we_form_in_both_byte_orders",
            "tshark is not installed",
        );
        return Ok(());
    }
    let orders = [DataRepresentation::LITTLE_ENDIAN, DataRepresentation::BIG_ENDIAN];
    let sessions: Vec<_> = orders
        .into_iter()
        .flat_map(|drep| [session(drep), refused(drep)])
        .collect();
    let capture = tempfile::NamedTempFile::new()?;
    pcap::write(capture.path(), 1688, &sessions)?;
    assert_well_formed(capture.path(), 1688).await?;
    let fields = [
        "dcerpc.pkt_type",
        "dcerpc.cn_ack_result",
        "dcerpc.cn_status",
        "dcerpc.cn_sec_addr",
    ];
    let lines = dissect(capture.path(), 1688, &fields).await?;
    assert_eq!(types(&lines), BTreeSet::from([0, 2, 3, 11, 12, 13, 14, 15, 17, 18, 19]));
    // Each byte order shows the same: three results of a bind, the port, and the faults' statuses.
    for shown in [
        "12\t2,0,3\t\t1688",
        "15\t0\t\t",
        "3\t\t0x1c010002\t",
        "3\t\t0x1c01000b\t",
    ] {
        assert_eq!(
            lines.iter().filter(|line| line.trim_end() == shown.trim_end()).count(),
            2,
            "{shown}: {lines:#?}"
        );
    }
    Ok(())
}

/// A session in which the client sends everything in `drep`: bind, alter_context, fragmented and unknown calls,
/// cancellation, and a second bind that ends it.
fn session(drep: DataRepresentation) -> Conversation {
    let limits = Limits {
        request: 1 << 16,
        ..Limits::default()
    };
    let mut server = Association::new(Arc::new(Offer::kms()), limits, NonZeroU32::MIN, 1688);
    let mut client = ClientAssociation::new(1 << 20);
    let mut conversation = Conversation::default();
    let mut exchange = |mut sent: BytesMut| {
        conversation.client(&sent);
        let mut output = BytesMut::new();
        while let Ok(Some(call)) = server.receive(&mut sent, &mut output) {
            server.answer(&call, Answer::Stub(call.stub.repeat(2).into()), &mut output);
        }
        if !output.is_empty() {
            conversation.server(&output);
        }
        output
    };

    // The client binds in little-endian; the same bind in big-endian must be answered the same way.
    let windows = Proposal::like_windows(Interface::KMS);
    let mut own = BytesMut::new();
    client.propose(&windows, &mut own);
    let contexts = [
        TransferSyntax::Ndr.id(),
        TransferSyntax::Ndr64.id(),
        SyntaxId::bind_time_features(3),
    ];
    let mut ack = exchange(bind(PacketType::Bind, drep, 1, &contexts));
    assert!(client.outcome(&windows, &mut ack).unwrap().is_some());
    exchange(bind(PacketType::AlterContext, drep, 2, &contexts[..1]));
    for (opnum, length) in [(0, 10), (0, 20_000), (9, 3)] {
        let mut request = BytesMut::new();
        assert!(client.request(TransferSyntax::Ndr64, opnum, drep, &vec![1; length], &mut request));
        exchange(request);
    }
    for kind in [PacketType::CoCancel, PacketType::Orphaned] {
        exchange(bare(kind, drep));
    }
    exchange(bare(PacketType::Shutdown, drep));
    conversation
}

/// A session that is refused: a bind of another protocol version.
fn refused(drep: DataRepresentation) -> Conversation {
    let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
    let mut sent = bind(PacketType::Bind, drep, 1, &[TransferSyntax::Ndr.id()]);
    sent[1] = 7;
    let mut conversation = Conversation::default();
    // A dissector would not take the bind of another version for DCE/RPC, so only the answer is shown.
    let mut output = BytesMut::new();
    server.receive(&mut sent, &mut output).unwrap_err();
    conversation.server(&output);
    conversation
}

fn header(kind: PacketType, drep: DataRepresentation, call_id: u32) -> Header {
    Header {
        major: 5,
        minor: 0,
        kind,
        flags: Flags::WHOLE,
        drep,
        frag_length: 16,
        auth_length: 0,
        call_id,
    }
}

fn bind(kind: PacketType, drep: DataRepresentation, call_id: u32, syntaxes: &[SyntaxId]) -> BytesMut {
    let element = |(id, syntax): (u16, &SyntaxId)| ContextElement {
        // An alter_context adds to the three contexts of the bind.
        id: if kind == PacketType::Bind { id } else { id + 3 },
        abstract_syntax: Interface::KMS.id(),
        transfer_syntaxes: vec![*syntax],
    };
    let contexts = (0..).zip(syntaxes).map(element).collect();
    let body = Bind {
        max_xmit_frag: 5840,
        max_recv_frag: 5840,
        assoc_group_id: 0,
        contexts,
    };
    let mut out = BytesMut::new();
    body.encode(&header(kind, drep, call_id), &mut out);
    out
}

/// A PDU that is a header and nothing else.
fn bare(kind: PacketType, drep: DataRepresentation) -> BytesMut {
    let mut out = BytesMut::new();
    header(kind, drep, 4).encode(&mut out);
    out
}
