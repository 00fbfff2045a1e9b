//! DCE/RPC as tshark reads it: a captured session, and every PDU that we form in both byte orders.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::BytesMut;
use kms_host::rpc::client::ClientAssociation;
use kms_host::rpc::pdu::{Bind, ContextElement, DataRepresentation, Flags, Header, PacketType};
use kms_host::rpc::{
    Answer, Association, ConnectOptions, Connection, Interface, Limits, Offer, Proposal, SyntaxId, TransferSyntax,
};
use system_tests::pcap::Conversation;
use system_tests::{pcap, peer, tripling};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

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
    let said = String::from_utf8_lossy(&output.stderr);
    // A capture that was ended in the middle of a packet is read up to there.
    ensure!(output.status.success() || said.contains("cut short"), "tshark: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What tshark finds malformed, or warns of, but for the refusal that a bind_nak is.
async fn remarks(capture: &Path, port: u16) -> Result<String> {
    const WARNING: u32 = 0x0060_0000;
    let filter = format!("(_ws.malformed || _ws.expert.severity >= {WARNING}) && !(dcerpc.pkt_type == 13)");
    tshark(capture, port, &filter, &["frame.number", "_ws.expert.message"]).await
}

/// Asserts that tshark reads at least so many packets with PDUs, and has no remarks on any.
async fn assert_well_formed(capture: &Path, port: u16, packets: usize) -> Result<()> {
    assert_eq!(remarks(capture, port).await?, "");
    let read = dissect(capture, port, &["frame.number"]).await?.len();
    assert!(read >= packets, "{read} packets are read of {packets}");
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
    let running = tripling::start()?;
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
        peer::impacket(&python, server, scenario).await?;
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
    assert_well_formed(&capture, server.port(), lines.len()).await?;
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
    let mut sessions = Vec::new();
    for drep in orders {
        sessions.extend([session(drep)?, refused(drep)?]);
    }
    let capture = tempfile::NamedTempFile::new()?;
    pcap::write(capture.path(), 1688, &sessions)?;
    // In each byte order the client sends eight PDUs, and five of them at least are answered; one bind is refused.
    assert_well_formed(capture.path(), 1688, 2 * (8 + 5 + 1)).await?;
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

#[tokio::test]
async fn tshark_remarks_on_a_broken_pdu() -> Result<()> {
    if !peer::has("tshark", "--version") {
        peer::skipped("tshark_remarks_on_a_broken_pdu", "tshark is not installed");
        return Ok(());
    }
    let mut conversation = Conversation::default();
    let mut sent = bind(
        PacketType::Bind,
        DataRepresentation::LITTLE_ENDIAN,
        1,
        &[TransferSyntax::Ndr.id()],
    );
    // More contexts are announced than follow.
    *sent.get_mut(24).context("a bind counts its contexts")? = 9;
    conversation.client(&sent);
    let capture = tempfile::NamedTempFile::new()?;
    pcap::write(capture.path(), 1688, &[conversation])?;
    assert_ne!(remarks(capture.path(), 1688).await?, "");
    Ok(())
}

/// A session in which the client sends everything in `drep`: bind, alter_context, fragmented and unknown calls,
/// cancellation, and a second bind that ends it.
fn session(drep: DataRepresentation) -> Result<Conversation> {
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
    ensure!(
        client.outcome(&windows, &mut ack)?.is_some(),
        "the bind is not answered"
    );
    exchange(bind(PacketType::AlterContext, drep, 2, &[TransferSyntax::Ndr.id()]));
    for (opnum, length) in [(0, 10), (0, 20_000), (9, 3)] {
        let mut request = BytesMut::new();
        assert!(client.request(TransferSyntax::Ndr64, opnum, drep, &vec![1; length], &mut request));
        exchange(request);
    }
    for kind in [PacketType::CoCancel, PacketType::Orphaned] {
        exchange(bare(kind, drep));
    }
    exchange(bare(PacketType::Shutdown, drep));
    Ok(conversation)
}

/// A session that is refused: a bind of another protocol version.
fn refused(drep: DataRepresentation) -> Result<Conversation> {
    let mut server = Association::new(Arc::new(Offer::kms()), Limits::default(), NonZeroU32::MIN, 1688);
    let mut sent = bind(PacketType::Bind, drep, 1, &[TransferSyntax::Ndr.id()]);
    *sent.get_mut(1).context("a PDU has a minor version")? = 7;
    let mut conversation = Conversation::default();
    // A dissector would not take the bind of another version for DCE/RPC, so only the answer is shown.
    let mut output = BytesMut::new();
    ensure!(
        server.receive(&mut sent, &mut output).is_err(),
        "version 5.7 is accepted"
    );
    conversation.server(&output);
    Ok(conversation)
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
