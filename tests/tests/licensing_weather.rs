//! Bad weather between the operator and a licensed host: each kind has its reason, says what to do, and is told once.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use kms_host::rehearsal::management::ManagementConfig;
use kms_operator::api::OfficeKmsHost;
use kms_operator::licensing::resource::{Outcome, Session, Shared, visit};
use kms_operator::licensing::store::InMemory;
use kms_operator::secrets::Objects;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use wsman::client::Credentials;
use wsman::hresult::Hresult;
use wsman::reply::Output;
use wsman::server::{self, Answer, Call, Provider, Query, Settings};
use wsman::value::Instance;

/// A host that answers everything with one code.
struct Refusing(Hresult);

impl Provider for Refusing {
    fn instances<'a>(&'a self, _: &'a str, _: &'a Query) -> Answer<'a, Vec<Instance>> {
        Box::pin(async { Err(self.0) })
    }

    fn invoke<'a>(&'a self, _: &'a Call) -> Answer<'a, Output> {
        Box::pin(async { Err(self.0) })
    }
}

/// Something that listens until it is dropped.
struct Listening {
    port: u16,
    _stop: DropGuard,
}

async fn refusing(code: u32) -> Result<Listening> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let settings = Settings {
        account: Credentials {
            user: "admin".into(),
            password: "drill".to_owned().into(),
        },
        identity: None,
        limits: server::Limits::default(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(server::serve(
        listener,
        settings,
        Arc::new(Refusing(Hresult(code))),
        stop.clone(),
    ));
    Ok(Listening {
        port,
        _stop: stop.drop_guard(),
    })
}

/// Reads a request, says this, and closes.
async fn saying(answer: &'static [u8]) -> Result<Listening> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if connection.read(&mut request).await.is_ok() {
                drop(connection.write_all(answer).await);
            }
        }
    }));
    Ok(Listening {
        port,
        _stop: stop.drop_guard(),
    })
}

/// A host with a certificate that nobody signed.
async fn unsigned(folder: &std::path::Path) -> Result<Listening> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()])?;
    let path = |name: &str| folder.join(name);
    std::fs::write(path("password"), "drill")?;
    std::fs::write(path("certificate"), made.cert.pem())?;
    std::fs::write(path("key"), made.signing_key.serialize_pem())?;
    let section = json!({
        "listen": "127.0.0.1:0", "username": "admin", "passwordFile": path("password"),
        "certificateFile": path("certificate"), "keyFile": path("key"),
    });
    let config: ManagementConfig = serde_json::from_value(section)?;
    let host = kms_host::rehearsal::RehearsalConfig::new("/key".into());
    let ledger = Arc::new(kms_host::ledger::MemoryLedger::default());
    let problems = |_| anyhow::anyhow!("a configuration");
    let management =
        kms_host::rehearsal::management::Management::new(&config, &host.validate().map_err(problems)?, ledger);
    let listener = TcpListener::bind(config.listen).await?;
    let port = listener.local_addr()?.port();
    let stop = CancellationToken::new();
    let serving = kms_host::rehearsal::management::serve(&config, Arc::new(management), listener, stop.clone())?;
    tokio::spawn(serving);
    Ok(Listening {
        port,
        _stop: stop.drop_guard(),
    })
}

/// Looks at a resource with one licensed host, twice.
async fn looked(management: &Value) -> Result<(Outcome, Vec<&'static str>)> {
    let mut settings = json!({"mode": "Manage", "transport": "Http", "credentialsSecret": {"name": "account"}});
    for (key, value) in management.as_object().context("an object")? {
        settings[key] = value.clone();
    }
    let mut host: OfficeKmsHost = serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": "kms"},
        "spec": {
            "licensedHosts": [{"name": "kms01", "address": "127.0.0.1", "management": settings}],
            "products": [{"name": "Office2016"}],
        },
    }))?;
    let mut secrets = Objects::default();
    secrets.add_secret(serde_json::from_value(
        json!({"metadata": {"name": "account"}, "stringData": {"username": "admin", "password": "drill"}}),
    )?);
    let (session, store) = (Session::default(), InMemory::default());
    let mut now = Timestamp::now();
    let mut told = Vec::new();
    let mut last = Outcome::default();
    for _ in 0..2 {
        last = visit(&host, &secrets, &session, &store, &Shared::OutOfReach, now).await;
        told.extend(last.notices.iter().map(|notice| notice.reason));
        host.status
            .get_or_insert_default()
            .licensed_hosts
            .clone_from(&last.rows);
        now += last.again_in;
    }
    Ok((last, told))
}

#[tokio::test]
async fn each_kind_of_bad_weather_has_its_reason_and_says_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let off = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let (unsigned, garbage, broken) = (
        unsigned(folder.path()).await?,
        saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await?,
        saying(b"").await?,
    );
    let (busy, stopped, denied) = (
        refusing(0x8033_8029).await?,
        refusing(0x8007_0422).await?,
        refusing(0x8007_0005).await?,
    );
    let pinned = json!({"port": unsigned.port, "transport": "Https", "certificateSha256": "0".repeat(64)});
    let at = |listening: &Listening| json!({"port": listening.port});
    for (management, reason, advice) in [
        (json!({"port": off}), "HostUnreachable", "winrm quickconfig"),
        (pinned, "CertificateNotTrusted", "pin the certificate by its SHA-256"),
        (at(&garbage), "UnreadableAnswer", "is this WinRM?"),
        (at(&broken), "ConnectionBroken", "does its WinRM service stay up"),
        (at(&busy), "HostTimedOut", "the host is busy"),
        (
            at(&stopped),
            "HostRefused",
            "set the service Software Protection (sppsvc) to start",
        ),
        (at(&denied), "AccessDenied", "Administrators group"),
        (
            json!({"port": 1, "address": "-"}),
            "EndpointInvalid",
            "neither a host name nor an address",
        ),
    ] {
        let (outcome, told) = looked(&management).await?;
        let verdict = outcome.conditions.iter().find(|(kind, _)| *kind == "HostsLicensed");
        let (_, verdict) = verdict.context("a condition")?;
        assert_eq!((verdict.status, verdict.reason), (None, reason), "{verdict:?}");
        ensure!(verdict.message.contains(advice), "{reason}: {}", verdict.message);
        assert_eq!(told, [reason], "told once");
        let row = outcome.rows.first().context("a row")?;
        assert_eq!(row.licensed, None, "{reason}");
        ensure!(
            row.message.as_ref().is_some_and(|message| message.contains(advice)),
            "{row:?}"
        );
    }
    Ok(())
}
