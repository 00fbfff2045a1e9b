//! Rehearsal hosts stand in for licensed hosts behind a relay: the whole data plane in one process.

use std::fs;
use std::net::SocketAddr;
use std::slice;

use anyhow::{Context as _, Result};
use kms_host::admin::Events;
use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::client::{Machine, Outcome, ask};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::products::Product;
use kms_host::rpc::{ByteOrder, ConnectOptions, Connection, DataRepresentation, Reply, stub};
use kms_host::sealing;
use system_tests::replica::Replica;
use system_tests::{chromium, http};
use uuid::Uuid;

const NOW_MICROS: fn() -> i64 = || {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_micros()).unwrap_or(i64::MAX)
};

async fn activate(server: SocketAddr, key: &SiteKey, name: &str) -> Result<Outcome> {
    let name = WorkstationName::new(name).context("a name")?;
    let machine = Machine::new(name, Uuid::new_v4());
    let product = Product::named("OfficeLTSC2024").context("a product")?;
    let asked = ask(key, &machine, &product, NOW_MICROS(), &sealing::draw()?);
    let mut connection = Connection::connect(server, &ConnectOptions::default()).await?;
    let syntax = connection.syntax().context("a syntax")?;
    let request = stub::encode_request(syntax, ByteOrder::Little, &asked.body);
    match connection.call(0, DataRepresentation::LITTLE_ENDIAN, &request).await? {
        Reply::Stub(response, drep) => {
            let response = stub::decode_response(syntax, drep.order(), &response, 4096)?;
            Ok(asked.conclude(key, response.hresult, response.body.as_deref())?)
        }
        Reply::Fault(status) => anyhow::bail!("a fault: {status}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fifth_client_is_licensed_through_the_relay_and_all_is_recorded_and_shown() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let key_file = directory.path().join("site.key");
    fs::write(&key_file, [7; 32])?;
    let key = SiteKey::read(&key_file)?;
    let host = Replica::start(&format!(
        "name: drill-host\nrehearsal: {{siteKeyFile: {}}}\n",
        key_file.display()
    ))?;
    let item = format!(
        "{{name: kms-a, address: {}, port: {}}}",
        host.address.ip(),
        host.address.port()
    );
    let relay = Replica::start(&format!("name: relay-0\nrelay: {{licensedHosts: [{item}]}}\n"))?;
    for count in 1..=6u32 {
        let outcome = activate(relay.address, &key, &format!("pc{count:02}.example.com")).await?;
        assert_eq!(outcome.current_count(), Some(count));
        assert_eq!(matches!(outcome, Outcome::Licensed(_)), count >= 5, "{outcome:?}");
    }
    relay
        .status_becomes("observations are written", |status| {
            status["ledger"]["observations"]["written"] == 6
        })
        .await?;
    assert_eq!(relay.metric("okms_answers_total{code=\"0x00000000\"}").await?, 6.0);
    let status = host.status().await?;
    assert_eq!(status["mode"], "rehearsal");
    assert_eq!(status["ledger"]["counts"][0]["currentCount"], 6, "{status}");
    assert_eq!(
        status["ledger"]["recentEvents"][0]["clientName"], "pc06.example.com",
        "{status}"
    );

    // Events can be followed: the newest, and those after a cursor.
    let (_, newest) = http::get(host.admin, "/events?limit=2").await?;
    let newest: Events = serde_json::from_str(&newest)?;
    let [fifth, sixth] = newest.events.as_slice() else {
        anyhow::bail!("two events were asked for: {newest:?}");
    };
    assert_eq!(fifth.event.client_name, "pc05.example.com");
    let (_, later) = http::get(host.admin, &format!("/events?after={}", fifth.cursor)).await?;
    assert_eq!(serde_json::from_str::<Events>(&later)?.events, slice::from_ref(sixth));
    let (head, _) = http::get(host.admin, "/events?newest=2").await?;
    assert!(head.contains(" 400 "), "{head}");

    // The relay may read the version words, so it must not take a rehearsal body for a Microsoft one.
    assert_eq!(
        relay.metric("okms_request_versions_total{version=\"other\"}").await?,
        6.0
    );

    let Some(browser) = chromium::find() else {
        println!(
            "SKIPPED the look of the_fifth_client_is_licensed_through_the_relay_and_all_is_recorded_and_shown: no Chromium"
        );
        return Ok(());
    };
    let picture = directory.path().join("page.png");
    let url = format!("http://{}/", host.admin);
    let look = picture.clone();
    let shown = tokio::task::spawn_blocking(move || chromium::look(browser, &url, &look))
        .await??
        .document;
    for expected in ["<td>Office</td>", "pc06.example.com", "0x00000000", "initial grace"] {
        assert!(shown.contains(expected), "{expected} is missing in:\n{shown}");
    }
    if let Some(keep) = std::env::var_os("KEEP_PICTURE") {
        fs::copy(&picture, keep)?;
    }
    Ok(())
}
