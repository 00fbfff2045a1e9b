//! A small host of WMI classes and ways to reach it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wsman::client::{Client, Credentials, Endpoint, Limits, Scheme, Transport};
use wsman::hresult::Hresult;
use wsman::reply::Output;
use wsman::server::{self, Answer, Call, Identity, Provider, Query, Settings};
use wsman::tls::Trust;
use wsman::value::{Instance, Value};

pub(crate) const USER: &str = "CONTOSO\\kms-admin";
pub(crate) const PASSWORD: &str = "pa<&>word-4711";

/// A licensing service, one product and 120 events.
#[derive(Default)]
pub(crate) struct Sample {
    pub(crate) calls: Mutex<Vec<Call>>,
    pub(crate) questions: AtomicU32,
}

pub(crate) const PRODUCT: &str = "98ebfe73-2084-4c97-932c-c0cd1643bea7";

impl Provider for Sample {
    fn instances<'a>(&'a self, namespace: &'a str, query: &'a Query) -> Answer<'a, Vec<Instance>> {
        Box::pin(async move {
            self.questions.fetch_add(1, Ordering::Relaxed);
            match (namespace, query.class.as_str()) {
                ("root/cimv2", "SoftwareLicensingService") => Ok(vec![
                    Instance::new("SoftwareLicensingService").with("Version", "10.0.20348.2700"),
                ]),
                ("root/cimv2", "SoftwareLicensingProduct") => Ok(vec![
                    Instance::new("SoftwareLicensingProduct")
                        .with("ID", PRODUCT)
                        .with("Name", "Office 16, OfficeKMSHostVL_KMS_Host edition <&>")
                        .with("PartialProductKey", Value::Null)
                        .with("LicenseStatus", 0_u32)
                        .with(
                            "TrustedTime",
                            "2026-11-23T19:00:11Z".parse::<jiff::Timestamp>().unwrap(),
                        )
                        .with("LicenseIsAddon", false),
                ]),
                ("root/cimv2", "Win32_NTLogEvent") => Ok((1..=120_u32)
                    .map(|number| {
                        Instance::new("Win32_NTLogEvent")
                            .with("RecordNumber", number)
                            .with("InsertionStrings", vec!["0x0".to_owned(), format!("pc{number}")])
                    })
                    .collect()),
                _ => Err(Hresult::WBEM_INVALID_CLASS),
            }
        })
    }

    fn invoke<'a>(&'a self, call: &'a Call) -> Answer<'a, Output> {
        Box::pin(async move {
            self.calls.lock().unwrap().push(call.clone());
            match call.method.as_str() {
                "InstallProductKey" if call.parameters.text("ProductKey") == Ok(Some("bad")) => {
                    Err(Hresult::INVALID_PRODUCT_KEY)
                }
                "InstallProductKey" => Ok(Output::done()),
                "Halt" => Ok(Output::returning(Hresult::ACCESS_DENIED.0)),
                _ => Err(Hresult::WBEM_INVALID_METHOD),
            }
        })
    }
}

/// A running server.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) sample: Arc<Sample>,
    pub(crate) certificate_pem: Option<String>,
    pub(crate) certificate_der: Vec<u8>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::Authorities(self.certificate_pem.clone().unwrap().into_bytes())
    }

    pub(crate) fn client(&self, scheme: Scheme, password: &str) -> Client {
        let transport = match self.certificate_pem {
            Some(_) => Transport::Https(self.trust()),
            None => Transport::Http,
        };
        client(self.address, transport, scheme, password)
    }
}

pub(crate) fn credentials(password: &str) -> Credentials {
    Credentials {
        user: USER.into(),
        password: password.to_owned().into(),
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(10),
        ..Limits::default()
    }
}

pub(crate) fn client(address: SocketAddr, transport: Transport, scheme: Scheme, password: &str) -> Client {
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port: address.port(),
        transport,
        scheme,
    };
    Client::new(endpoint, credentials(password), limits()).unwrap()
}

pub(crate) async fn start(tls: bool) -> Running {
    start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls)
}

pub(crate) fn start_on(listener: TcpListener, tls: bool) -> Running {
    let address = listener.local_addr().unwrap();
    let (identity, certificate_pem, certificate_der) = if tls {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let identity = Identity::new(vec![made.cert.der().clone()], key).unwrap();
        (Some(identity), Some(made.cert.pem()), made.cert.der().to_vec())
    } else {
        (None, None, Vec::new())
    };
    let sample = Arc::new(Sample::default());
    let stop = CancellationToken::new();
    let settings = Settings {
        account: credentials(PASSWORD),
        identity,
        limits: server::Limits::default(),
    };
    let task = tokio::spawn(server::serve(listener, settings, sample.clone(), stop.clone()));
    Running {
        address,
        sample,
        certificate_pem,
        certificate_der,
        stop,
        task,
    }
}
