//! The page of the admin endpoint in a real browser.

use anyhow::Result;
use kms_host::rpc::{ConnectOptions, Connection, DataRepresentation};
use system_tests::replica::{Replica, eventually};
use system_tests::stand_in::{Does, StandIn};
use system_tests::{chromium, http};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Where whoever asks for anything is given this answer, whatever length its head has for it.
async fn page_of(answer: String) -> Result<String> {
    let head = answer
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
    let answer = head.collect::<Vec<_>>().join("\r\n");
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                if stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    drop(stream.write_all(answer.as_bytes()).await);
                }
            });
        }
    });
    Ok(url)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_hosts_requests_and_what_is_wrong_and_lets_nothing_in() -> Result<()> {
    let good = StandIn::start(Does::Answers(b"fine".to_vec()))?;
    let gone = StandIn::start(Does::Closes)?;
    let gone_item = gone.item("kms-gone");
    drop(gone);
    let yaml = format!(
        "name: '<b>relay</b>'\nrelay:\n  licensedHosts: [{gone_item}, {}]\n  health: {{probeInterval: 100ms, ejectFor: 60s}}\n",
        good.item("kms-good"),
    );
    let replica = Replica::start(&yaml)?;
    for _ in 0..3 {
        let mut connection = Connection::connect(replica.address, &ConnectOptions::default()).await?;
        connection
            .call(0, DataRepresentation::LITTLE_ENDIAN, b"request")
            .await?;
    }
    replica
        .status_becomes("the host is ejected", |status| {
            status["licensedHosts"][0]["health"] == "ejected"
        })
        .await?;

    let (head, body) = http::get(replica.admin, "/").await?;
    assert!(
        head.to_ascii_lowercase()
            .contains("content-security-policy: default-src 'none'; style-src 'sha256-"),
        "{head}"
    );
    assert!(!body.contains("<b>relay</b>") && body.contains("&lt;b&gt;relay&lt;/b&gt;"));
    assert!(
        body.contains("<h2>Ledger</h2>") && !body.contains("No client has been counted"),
        "the licensed hosts count, not the relay: {body}"
    );
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!body.contains(outside), "the page is self-contained, but has {outside}");
    }

    let (found, why) = http::get(replica.admin, "/explain/127.0.0.1").await?;
    assert!(
        found.starts_with("HTTP/1.1 200") && why.contains("\"order\""),
        "{found}\n{why}"
    );
    assert!(
        http::get(replica.admin, "/explain/nobody")
            .await?
            .0
            .starts_with("HTTP/1.1 400")
    );

    let Some(browser) = chromium::find() else {
        println!("SKIPPED the_page_shows_hosts_requests_and_what_is_wrong_and_lets_nothing_in: no Chromium here");
        return Ok(());
    };
    let directory = tempfile::tempdir()?;
    let picture = directory.path().join("page.png");
    let look = async |url: String| {
        let picture = picture.clone();
        tokio::task::spawn_blocking(move || chromium::look(browser, &url, &picture)).await?
    };
    // The same page with a style sheet that is not the one whose hash the policy has: what is in the picture afterwards
    // and what the browser says show that it would not be applied in silence.
    let altered = body.replacen("<style>", "<style>/**/", 1);
    let forbidden = look(page_of(format!("{head}\r\n\r\n{altered}")).await?).await?;
    assert!(
        matches!(&*forbidden.complaints, [only] if only.contains("Content Security Policy") && only.contains("style")),
        "{forbidden:?}"
    );
    let unstyled = std::fs::read(&picture)?;
    let seen = look(format!("http://{}/", replica.admin)).await?;
    assert_eq!(
        seen.complaints,
        Vec::<String>::new(),
        "the policy lets in what the page needs"
    );
    assert_ne!(std::fs::read(&picture)?, unstyled, "the style sheet makes a difference");
    let shown = seen.document;
    for expected in [
        "<h1>&lt;b&gt;relay&lt;/b&gt;</h1>",
        "<div class=\"num\" id=\"answered\">3</div>",
        "<strong>kms-good</strong>",
        "<span class=\"pill good\">well</span>",
        "<span class=\"pill bad\">ejected</span>",
        "Active set: <strong>",
        "distinct clients in 30 days",
        "<span class=\"pill good\" id=\"state\">ready</span>",
    ] {
        assert!(shown.contains(expected), "{expected} is missing in:\n{shown}");
    }
    assert!(
        std::fs::metadata(&picture)?.len() > 10_000,
        "the picture shows something"
    );
    if let Some(keep) = std::env::var_os("KEEP_PICTURE") {
        std::fs::copy(&picture, keep)?;
    }
    eventually("the look was no harm", async || replica.status().await.is_ok()).await
}
