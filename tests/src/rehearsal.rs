//! Rehearsal hosts of docs/examples/licensing.yaml with the configuration that the manifest gives them, managed over
//! WS-Management, on ports of their own; and clients of any rehearsal host.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kms_host::config::{HostConfig, LogFormat};
use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::client::{Machine, Outcome, ask};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::products::Product;
use kms_host::rpc::{ByteOrder, ConnectOptions, Connection, DataRepresentation, FaultStatus, Reply, stub};
use kms_host::run::{Listeners, run};
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::{Files, Place, host_config};
use kms_operator::secrets::Objects;
use secrecy::ExposeSecret as _;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const EXAMPLE: &str = include_str!("../../docs/examples/licensing.yaml");
const SITE: [u8; 32] = [9; 32];

/// The documents of the manifest by their names.
pub struct Manifest {
    /// Resources.
    pub hosts: BTreeMap<String, OfficeKmsHost>,
    /// Secrets.
    pub secrets: BTreeMap<String, Secret>,
}

impl Manifest {
    /// Reads it.
    pub fn read() -> Result<Self> {
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(EXAMPLE)?;
        let (mut hosts, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for document in documents {
            let text = |path| document.pointer(path).and_then(serde_json::Value::as_str);
            let name = text("/metadata/name").context("a name")?.to_owned();
            match text("/kind") {
                Some("Secret") => drop(secrets.insert(name, serde_json::from_value(document)?)),
                _ => drop(hosts.insert(name, serde_json::from_value(document)?)),
            }
        }
        Ok(Self { hosts, secrets })
    }

    /// Its Secrets, for who has no cluster.
    #[must_use]
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        self.secrets
            .values()
            .for_each(|secret| objects.add_secret(secret.clone()));
        objects
    }

    /// Changes a Secret.
    pub fn set(&mut self, secret: &str, key: &str, value: &str) -> Result<()> {
        let secret = self.secrets.get_mut(secret).context("a Secret")?;
        let data = secret.string_data.get_or_insert_default();
        data.insert(key.to_owned(), value.to_owned());
        Ok(())
    }
}

/// A rehearsal host of the manifest, on ports of its own.
pub struct Rehearsal {
    /// Where clients are served.
    pub clients: SocketAddr,
    /// Where it is managed.
    pub management: SocketAddr,
    _stop: DropGuard,
    _files: tempfile::TempDir,
}

impl Rehearsal {
    /// Starts the host that a resource of the manifest describes.
    pub fn start(manifest: &Manifest, name: &str) -> Result<Self> {
        let host = manifest.hosts.get(name).context("a resource")?;
        let folder = tempfile::tempdir()?;
        let files = Files::within(folder.path());
        std::fs::write(&files.site_key, SITE)?;
        let account = manifest.objects();
        let write = |file: &Path, key: &str| -> Result<()> {
            let value = account.secret_text("kms-account", key)?;
            Ok(std::fs::write(file, value.expose_secret())?)
        };
        write(&files.management_username, "username")?;
        write(&files.management_password, "password")?;
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let place = Place {
            files,
            listen: vec![any],
            admin: any,
            management: any,
            managed_ledger: String::new(),
            log: LogFormat::Text,
        };
        let config: HostConfig = host_config(host, &place);
        let listeners = Listeners::bind(&config)?;
        let clients = listeners.clients.first().context("a listener")?.local_addr()?;
        let management = listeners.management.as_ref().context("management")?.local_addr()?;
        let stop = CancellationToken::new();
        tokio::spawn(run(config, None, listeners, stop.clone()));
        Ok(Self {
            clients,
            management,
            _stop: stop.drop_guard(),
            _files: folder,
        })
    }

    /// Lets a client ask over the wire; its HRESULT and the count that it was told.
    pub async fn client(&self, number: u128) -> Result<(u32, Option<u32>)> {
        match ask_at(self.clients, &SiteKey::new(&SITE), number).await? {
            Told::Concluded(outcome) => Ok((outcome.hresult(), outcome.current_count())),
            Told::Fault(status) => anyhow::bail!("a fault: {status}"),
        }
    }
}

/// What a client was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// An answer, and what the client concludes from it.
    Concluded(Outcome),
    /// A fault instead of an answer.
    Fault(FaultStatus),
}

/// Lets client `number` of Office LTSC 2024 ask a rehearsal host over the wire, on a connection of its own.
///
/// # Errors
/// When the call is neither answered nor faulted, or the answer is none to what was asked.
pub async fn ask_at(host: SocketAddr, key: &SiteKey, number: u128) -> Result<Told> {
    let name = WorkstationName::new(&format!("pc{number}")).context("a name")?;
    let product = Product::named("OfficeLTSC2024").context("a product")?;
    let machine = Machine::new(name, Uuid::from_u128(number));
    let now = Timestamp::now().as_microsecond();
    let asked = ask(key, &machine, &product, now, &kms_host::sealing::draw()?);
    match call_at(host, &asked.body).await? {
        Ok(response) => {
            let outcome = asked.conclude(key, response.hresult, response.body.as_deref())?;
            Ok(Told::Concluded(outcome))
        }
        Err(fault) => Ok(Told::Fault(fault)),
    }
}

/// Sends a body, whatever it is, as the request of a KMS client; the response or the fault that it gets.
///
/// # Errors
/// When there is neither.
pub async fn call_at(host: SocketAddr, body: &[u8]) -> Result<Result<stub::Response, FaultStatus>> {
    let mut connection = Connection::connect(host, &ConnectOptions::default()).await?;
    let syntax = connection.syntax().context("a syntax")?;
    let request = stub::encode_request(syntax, ByteOrder::Little, body);
    match connection.call(0, DataRepresentation::LITTLE_ENDIAN, &request).await? {
        Reply::Stub(response, drep) => Ok(Ok(stub::decode_response(syntax, drep.order(), &response, 4096)?)),
        Reply::Fault(status) => Ok(Err(status)),
    }
}
