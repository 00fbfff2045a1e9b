//! `kms-host --config` between a client and a server that nobody here wrote: impacket asks Samba's endpoint mapper, directly
//! and through us, and gets the same bytes, also of a request in several fragments.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use system_tests::peer;
use system_tests::program::HostProcess;
use system_tests::samba::{self, Samba};
use tokio::process::Command;

const TEST: &str = "impacket_gets_the_same_bytes_from_samba_through_the_relay";

async fn calls(server: SocketAddr) -> Result<Value> {
    let python = peer::python_with("impacket").context("impacket")?;
    let output = Command::new(python)
        .arg(peer::script("endpoint_mapper.py"))
        .args([server.ip().to_string(), server.port().to_string()])
        .output()
        .await?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn impacket_gets_the_same_bytes_from_samba_through_the_relay() -> Result<()> {
    if peer::python_with("impacket").is_none() {
        peer::skipped(TEST, "no Python with impacket (PyPI) here");
        return Ok(());
    }
    if let Some(why) = samba::missing() {
        peer::skipped(TEST, why);
        return Ok(());
    }
    let samba = Samba::start().await?;
    let mapper = samba.endpoint_mapper;
    let mut relay = HostProcess::start(&format!(
        "relay:\n  licensedHosts: [{{name: samba, address: {}, port: {}}}]\n  \
         interface: {{uuid: e1af8308-5d1f-11c9-91a4-08002b14a0fa, major: 3, minor: 0, firstOpnum: 2, lastOpnum: 4, \
         syntaxes: [ndr]}}\n\
         clients: {{limits: {{maxRequestBytes: 65536}}}}\n",
        mapper.ip(),
        mapper.port(),
    ))
    .await?;
    let (direct, relayed) = (calls(mapper).await?, calls(relay.address).await?);
    assert_eq!(direct, relayed);
    let lookup = direct["lookup 500"].as_str().unwrap_or_default();
    assert!(
        lookup.len() > 2 * 4280,
        "the list comes in several fragments: {} bytes",
        lookup.len() / 2
    );
    assert_eq!(
        direct["fragments"], direct["map 12345778-1234-abcd-ef00-0123456789ab"],
        "Samba puts the fragments of a request together"
    );
    let bad = direct["bad stub"].as_str().unwrap_or_default();
    assert!(
        bad.contains("fault") || bad.contains("rpc_x_bad_stub_data"),
        "Samba refuses what it cannot read: {bad}"
    );
    let answered = relay
        .metric("okms_licensed_host_calls_total{host=\"samba\",result=\"answered\"}")
        .await?;
    let faults = relay
        .metric("okms_licensed_host_calls_total{host=\"samba\",result=\"fault\"}")
        .await?;
    assert_eq!((answered, faults), (11.0, 1.0));
    assert_eq!(relay.metric("okms_relay_retries_total").await?, 0.0);
    let status = relay.process.terminate().await?;
    assert!(status.success(), "{status}: {}", relay.log());
    Ok(())
}
