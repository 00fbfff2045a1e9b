//! Our client and our server over real sockets, in good and bad weather.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use crate::support::{PASSWORD, PRODUCT, Running, client, limits, start, start_on};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use wsman::client::{Client, Endpoint, EndpointError, Error, Kind, Limits, Scheme, Transport};
use wsman::hresult::Hresult;
use wsman::names::{CIMV2, Class};
use wsman::tls::{Fingerprint, Trust};
use wsman::value::Value;

const EVENTS: &str = "SELECT RecordNumber, InsertionStrings FROM Win32_NTLogEvent WHERE RecordNumber > 10";

async fn everything(client: &Client, server: &Running) {
    assert_eq!(client.identify().await.unwrap().vendor, "officekms");
    let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
    let product = client.get(&class, &[("ID", PRODUCT)]).await.unwrap();
    assert_eq!(
        product.text("Name").unwrap(),
        Some("Office 16, OfficeKMSHostVL_KMS_Host edition <&>")
    );
    assert_eq!(product.text("PartialProductKey").unwrap(), None);
    assert_eq!(product.boolean("LicenseIsAddon").unwrap(), Some(false));
    assert!(product.datetime("TrustedTime").unwrap().is_some());

    let events = client.query(EVENTS).await.unwrap();
    let numbers: Vec<_> = events
        .iter()
        .map(|event| event.u32("RecordNumber").unwrap().unwrap())
        .collect();
    assert_eq!(numbers, (11..=120).collect::<Vec<_>>());
    assert_eq!(events[0].strings("InsertionStrings").unwrap(), ["0x0", "pc11"]);

    let service = Class::new(CIMV2, "SoftwareLicensingService").unwrap();
    let key = [("ProductKey", Value::from("<good> & \"quoted\""))];
    client
        .invoke(&service, &[("Version", "10.0.20348.2700")], "InstallProductKey", &key)
        .await
        .unwrap();
    let call = server.sample.calls.lock().unwrap().pop().unwrap();
    assert_eq!(call.parameters.text("ProductKey").unwrap(), Some("<good> & \"quoted\""));
    assert_eq!(call.selectors, [("Version".to_owned(), "10.0.20348.2700".to_owned())]);

    let refused = client
        .invoke(&service, &[], "InstallProductKey", &[("ProductKey", "bad".into())])
        .await
        .unwrap_err();
    assert_eq!(refused.hresult(), Some(Hresult::INVALID_PRODUCT_KEY));
    assert!(
        refused.to_string().contains("0xC004F050 (the product key is invalid)"),
        "{refused}"
    );
    let returned = client.invoke(&service, &[], "Halt", &[]).await.unwrap_err();
    assert!(matches!(
        returned,
        Error::Returned {
            code: Hresult::ACCESS_DENIED,
            ..
        }
    ));
    let unknown = client.query("SELECT * FROM Nothing").await.unwrap_err();
    assert_eq!(unknown.hresult(), Some(Hresult::WBEM_INVALID_CLASS));
    let missing = client.get(&class, &[("ID", "x")]).await.unwrap_err();
    assert_eq!(missing.hresult(), Some(Hresult::WBEM_NOT_FOUND));
}

#[tokio::test]
async fn every_operation_works_over_https_with_basic_and_with_ntlm_and_over_sealed_http() {
    for (tls, scheme) in [(true, Scheme::Basic), (true, Scheme::Ntlm), (false, Scheme::Ntlm)] {
        let server = start(tls).await;
        everything(&server.client(scheme, PASSWORD), &server).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn basic_without_tls_is_refused_before_anything_is_sent() {
    let endpoint = Endpoint {
        host: "h".into(),
        port: 5985,
        transport: Transport::Http,
        scheme: Scheme::Basic,
    };
    let refused = Client::new(endpoint, crate::support::credentials("x"), limits()).unwrap_err();
    assert!(matches!(refused, EndpointError::BasicWithoutTls));
}

#[tokio::test]
async fn a_wrong_password_is_told_and_says_that_it_can_lock_the_account() {
    for (tls, scheme) in [(true, Scheme::Basic), (true, Scheme::Ntlm), (false, Scheme::Ntlm)] {
        let server = start(tls).await;
        let error = server.client(scheme, "guess").identify().await.unwrap_err();
        assert_eq!(error.kind(), Kind::AccessDenied, "{error}");
        assert!(error.locks_account());
        assert_eq!(server.sample.questions.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_certificate_is_trusted_by_authority_or_by_pin_and_by_nothing_else() {
    let server = start(true).await;
    let other = start(true).await;
    let reach = |trust| client(server.address, Transport::Https(trust), Scheme::Ntlm, PASSWORD);
    reach(Trust::Pinned(Fingerprint::of(&server.certificate_der)))
        .identify()
        .await
        .unwrap();
    for trust in [Trust::Pinned(Fingerprint::of(&other.certificate_der)), other.trust()] {
        let error = reach(trust).identify().await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotTrusted, "{error}");
    }
}

#[tokio::test]
async fn a_host_that_is_off_or_is_no_winrm_is_told_apart() {
    let off = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = client(off, Transport::Http, Scheme::Ntlm, PASSWORD)
        .identify()
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::Unreachable);

    for (answer, kind) in [
        (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], Kind::Broken),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", Kind::Garbage),
        (
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate !!\r\nContent-Length: 0\r\n\r\n",
            Kind::AccessDenied,
        ),
        (
            b"HTTP/1.1 401 No\r\nWWW-Authenticate: Negotiate TlRMTVNTUAACAAAA\r\nContent-Length: 0\r\n\r\n",
            Kind::Garbage,
        ),
        (b"", Kind::Broken),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
        });
        let error = client(address, Transport::Http, Scheme::Ntlm, PASSWORD)
            .identify()
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        host.await.unwrap();
    }
}

#[tokio::test]
async fn answers_have_a_limit_and_so_have_rows() {
    let server = start(true).await;
    let with = |limits| {
        let transport = Transport::Https(server.trust());
        let endpoint = Endpoint {
            host: "127.0.0.1".into(),
            port: server.address.port(),
            transport,
            scheme: Scheme::Basic,
        };
        Client::new(endpoint, crate::support::credentials(PASSWORD), limits).unwrap()
    };
    let error = with(Limits {
        max_answer: 512,
        ..limits()
    })
    .query(EVENTS)
    .await
    .unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: 512, .. }), "{error}");
    let few = with(Limits {
        max_rows: 60,
        ..limits()
    });
    assert!(matches!(
        few.query(EVENTS).await.unwrap_err(),
        Error::TooManyRows { limit: 60, .. }
    ));
    let (rows, complete) = few.query_up_to(CIMV2, EVENTS, 60).await.unwrap();
    assert!((60..=100).contains(&rows.len()) && !complete);
}

#[tokio::test]
async fn a_host_that_restarted_is_read_over_a_fresh_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = start_on(listener, false);
    let client = server.client(Scheme::Ntlm, PASSWORD);
    client.query(EVENTS).await.unwrap();
    server.stop().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    let server = start_on(socket.listen(16).unwrap(), false);
    client.query(EVENTS).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_method_whose_answer_is_lost_is_not_called_again() {
    let server = start(false).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let upstream = server.address;
    // Lets the two round trips of the logon and of the first query pass, then swallows every answer.
    let answers = Arc::new(Mutex::new(0));
    let seen = answers.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = proxy.accept().await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                let host = TcpStream::connect(upstream).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_host, mut to_host) = host.into_split();
                let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_host).await });
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(read @ 1..) = from_host.read(&mut buffer).await {
                    let count = {
                        let mut seen = seen.lock().unwrap();
                        *seen += 1;
                        *seen
                    };
                    if count > 2 {
                        break;
                    }
                    to_client.write_all(&buffer[..read]).await.unwrap();
                }
                up.abort();
            });
        }
    });
    let client = client(address, Transport::Http, Scheme::Ntlm, PASSWORD);
    client
        .query("SELECT Version FROM SoftwareLicensingService")
        .await
        .unwrap();
    let service = Class::new(CIMV2, "SoftwareLicensingService").unwrap();
    let lost = client
        .invoke(&service, &[], "InstallProductKey", &[("ProductKey", "k".into())])
        .await
        .unwrap_err();
    assert!(lost.outcome_unknown(), "{lost}");
    assert_eq!(server.sample.calls.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn nothing_readable_crosses_plain_http() {
    let server = start(false).await;
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let upstream = server.address;
    let wire = tokio::spawn(async move {
        let (client, _) = proxy.accept().await.unwrap();
        let host = TcpStream::connect(upstream).await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_host, mut to_host) = host.into_split();
        let pump = |mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf| async move {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 64 * 1024]);
            while let Ok(read @ 1..) = from.read(&mut buffer).await {
                all.extend_from_slice(&buffer[..read]);
                if to.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            all
        };
        let _ = (&mut from_client, &mut to_client, &mut from_host, &mut to_host);
        tokio::join!(pump(from_client, to_host), pump(from_host, to_client))
    });
    let client = client(address, Transport::Http, Scheme::Ntlm, PASSWORD);
    everything(&client, &server).await;
    drop(client);
    let (up, down) = wire.await.unwrap();
    for bytes in [&up, &down] {
        assert!(bytes.len() > 4000);
        let text = String::from_utf8_lossy(bytes);
        for secret in ["SoftwareLicensing", "Envelope", "pc11", PASSWORD] {
            assert!(!text.contains(secret), "{secret}");
        }
        assert!(text.contains("HTTP-SPNEGO-session-encrypted"));
    }
    server.stop().await;
}

#[tokio::test]
async fn the_server_refuses_plain_soap_over_http_and_hostile_bytes_over_https() {
    let server = start(false).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"POST /wsman HTTP/1.1\r\nHost: x\r\nAuthorization: Basic a21zLWFkbWluOng=\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(!answer.contains("Basic"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_host_that_says_nothing_is_given_up_and_a_method_cut_off_so_has_no_known_end() {
    // It takes connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port: address.port(),
        transport: Transport::Http,
        scheme: Scheme::Ntlm,
    };
    let short = Limits {
        timeout: std::time::Duration::from_millis(200),
        ..limits()
    };
    let client = Client::new(endpoint, crate::support::credentials(PASSWORD), short).unwrap();
    let read = client.identify().await.unwrap_err();
    assert_eq!(read.kind(), Kind::TimedOut, "{read}");
    assert!(!read.locks_account());
    let class = Class::new(CIMV2, "SoftwareLicensingService").unwrap();
    let called = client.invoke(&class, &[], "Activate", &[]).await.unwrap_err();
    assert!(called.outcome_unknown(), "{called}");
    holding.abort();
}
