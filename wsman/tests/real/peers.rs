//! Peers that nobody here wrote: pywinrm and pypsrp query our server, and our client logs on to a server that pyspnego
//! makes. They need Python with `tests/requirements.txt`, found by OFFICEKMS_PYTHON or in `.venv`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::support::{PASSWORD, PRODUCT, Running, USER, client, start};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use wsman::client::{Kind, Scheme, Transport};
use wsman::names::{CIMV2, Class};
use wsman::tls::{Fingerprint, Trust};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Python with the modules that a test needs; says by the test's name when there is none.
async fn python(test: &str, modules: &str) -> Option<PathBuf> {
    let python =
        std::env::var_os("OFFICEKMS_PYTHON").map_or_else(|| repository().join(".venv/bin/python"), PathBuf::from);
    let has = Command::new(&python)
        .args(["-c", &format!("import {modules}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await;
    if has.is_ok_and(|status| status.success()) {
        return Some(python);
    }
    println!("SKIPPED {test}: no Python with {modules} at {}", python.display());
    None
}

async fn ask(python: &Path, script: &str, server: &Running, scheme: &str, password: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, server.certificate_pem.clone().unwrap_or_default()).unwrap();
    let word = if server.certificate_pem.is_some() {
        "https"
    } else {
        "http"
    };
    let output = Command::new(python)
        .arg(repository().join("tests/peers").join(script))
        .args([
            word,
            &server.address.port().to_string(),
            scheme,
            USER,
            password,
            PRODUCT,
        ])
        .arg(&ca)
        .env("NO_PROXY", "*")
        .output()
        .await
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

async fn queries(test: &str, script: &str, modules: &str) {
    let Some(python) = python(test, modules).await else {
        return;
    };
    for (tls, scheme) in [(true, "basic"), (true, "ntlm"), (false, "ntlm")] {
        let server = start(tls).await;
        let (good, text) = ask(&python, script, &server, scheme, PASSWORD).await;
        assert!(good, "{scheme} tls={tls}: {text}");
        for expected in [
            "identify officekms",
            "name Office 16, OfficeKMSHostVL_KMS_Host edition <&>",
            "partial nil",
            "events 110 last pc120",
            "invoke 0",
            "3221549136",
        ] {
            assert!(
                text.contains(expected),
                "{scheme} tls={tls}: {expected:?} is not in {text}"
            );
        }
        let before = server.sample.calls.lock().unwrap().len();
        let (good, text) = ask(&python, script, &server, scheme, "guess").await;
        assert!(!good, "a wrong password passes: {text}");
        assert_eq!(server.sample.calls.lock().unwrap().len(), before);
        server.stop().await;
    }
}

#[tokio::test]
async fn pywinrm_queries_our_server() {
    queries(
        "pywinrm_queries_our_server",
        "pywinrm_client.py",
        "winrm, requests_ntlm",
    )
    .await;
}

#[tokio::test]
async fn pypsrp_queries_our_server() {
    queries("pypsrp_queries_our_server", "pypsrp_client.py", "pypsrp").await;
}

/// A WS-Management server made of Python's HTTP server and pyspnego. Gives its port, and the pin of its certificate.
async fn spnego_server(python: &Path, tls: bool) -> (Child, u16, Option<Fingerprint>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let pem = directory.path().join("server.pem");
    std::fs::write(&pem, format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem())).unwrap();
    let users = directory.path().join("users");
    let (domain, user) = USER.split_once('\\').unwrap();
    std::fs::write(&users, format!("{domain}:{user}:{PASSWORD}\n")).unwrap();
    let mut child = Command::new(python)
        .arg(repository().join("tests/peers/spnego_server.py"))
        .arg(repository().join("wsman/src/testdata"))
        .args(tls.then_some(&pem))
        .env("NTLM_USER_FILE", &users)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let port = lines
        .next_line()
        .await
        .unwrap()
        .expect("the server says its port")
        .trim()
        .parse()
        .unwrap();
    (child, port, tls.then(|| Fingerprint::of(made.cert.der())), directory)
}

#[tokio::test]
async fn our_client_logs_on_to_pyspnego_and_seals() {
    let Some(python) = python("our_client_logs_on_to_pyspnego_and_seals", "spnego, cryptography").await else {
        return;
    };
    for tls in [false, true] {
        let (mut child, port, pin, _directory) = spnego_server(&python, tls).await;
        let address = ([127, 0, 0, 1], port).into();
        let transport = pin.map_or(Transport::Http, |pin| Transport::Https(Trust::Pinned(pin)));
        let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
        let good = client(address, transport.clone(), Scheme::Ntlm, PASSWORD);
        // Several messages, so that the sequence numbers of sealing are used.
        for _ in 0..3 {
            let product = good.get(&class, &[("ID", PRODUCT)]).await.unwrap();
            assert_eq!(product.text("ID").unwrap(), Some(PRODUCT));
        }
        let refused = client(address, transport, Scheme::Ntlm, "guess")
            .get(&class, &[("ID", PRODUCT)])
            .await;
        assert_eq!(refused.unwrap_err().kind(), Kind::AccessDenied);
        child.kill().await.unwrap();
    }
}
