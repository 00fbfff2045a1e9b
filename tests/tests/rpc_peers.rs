//! DCE/RPC with a peer that nobody here wrote: impacket calls us and is called.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result};
use kms_host::rpc::{ConnectOptions, Connection, DataRepresentation, Interface, Proposal, Reply, TransferSyntax};
use serde_json::{Value, json};
use system_tests::{peer, tripling};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// What the server answers to `body`, as the peer's script prints it.
fn expected(body: &[u8]) -> Value {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if body.is_empty() {
        return json!({"size": 0, "body": "", "hresult": 0x8007_000D_u32});
    }
    json!({"size": 3 * body.len(), "body": hex(&body.repeat(3)), "hresult": body.len()})
}

/// Runs a scenario of `impacket_client.py` against a server of ours; `None` where impacket cannot be had.
async fn impacket(test: &str, scenario: &str) -> Result<Option<Value>> {
    let Some(python) = peer::python_with("impacket") else {
        peer::skipped(test, "no Python that can import impacket");
        return Ok(None);
    };
    let server = tripling::start()?;
    peer::impacket(&python, server.address, scenario).await.map(Some)
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
