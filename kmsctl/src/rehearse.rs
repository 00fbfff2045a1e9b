//! One rehearsal client's request, from the hosts that it found to what it concludes.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::client::{Machine, Outcome, ask};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::products::Product;
use kms_host::rpc::{
    ByteOrder, CallError, ConnectError, ConnectOptions, Connection, DataRepresentation, Reply, TransferSyntax, stub,
};
use kms_host::sealing;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpSocket;
use uuid::Uuid;

use crate::exit::Misuse;
use crate::target::Place;

/// Largest response body taken, in bytes: a rehearsal response is far smaller.
const LARGEST_BODY: usize = 4096;

/// Said of a connection that ends before its answer: hosts tell clients no reason.
const CLOSED: &str = "no answer; where the host closes connections, either its `clients.limits` are reached \
(`okms_refusals_total{reason=\"rate\"}` and the like count it) or no licensed host answers (see `kmsctl status`)";

/// What rehearsal clients of one site share.
#[derive(Debug)]
pub struct Rehearsal {
    key: SiteKey,
    product: Product,
    options: ConnectOptions,
}

/// How one client fared.
#[derive(Debug)]
pub struct Activation {
    /// Who answered.
    pub place: Place,
    /// What the client concludes.
    pub outcome: Outcome,
    /// From the first byte to the answer, connection and bind included.
    pub latency: Duration,
    /// Hosts that were tried before, each with what went wrong.
    pub passed_by: Vec<String>,
}

/// The machine of this name; its client machine ID is always the same.
///
/// # Errors
/// When the name cannot be a workstation's.
pub fn machine(name: &str) -> Result<Machine> {
    let workstation = WorkstationName::new(name).with_context(|| {
        let rule = "1 to 63 characters, no comma, no control characters";
        Misuse(format!("`{name}` is no workstation name: {rule}"))
    })?;
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Ok(Machine::new(
        workstation,
        uuid::Builder::from_custom_bytes(bytes).into_uuid(),
    ))
}

/// The CMID of the machine of this name.
///
/// # Errors
/// As for [`machine`].
pub fn cmid(name: &str) -> Result<Uuid> {
    machine(name).map(|machine| machine.cmid)
}

impl Rehearsal {
    /// Clients of `product` under the site key in a file; each step of a request may take `patience`.
    ///
    /// # Errors
    /// When the key cannot be read or the product is unknown.
    pub fn new(site_key_file: &Path, product: &str, patience: Duration) -> Result<Self> {
        let known: Vec<String> = Product::known().into_iter().map(|product| product.name).collect();
        let product = Product::named(product)
            .with_context(|| Misuse(format!("no product is called `{product}`: use {}", known.join(", "))))?;
        Ok(Self {
            key: SiteKey::read(site_key_file)?,
            product,
            options: ConnectOptions {
                connect_timeout: patience,
                bind_timeout: patience,
                call_timeout: patience,
                ..ConnectOptions::default()
            },
        })
    }

    /// N of the product.
    #[must_use]
    pub fn required(&self) -> u32 {
        self.product.required
    }

    /// Asks one place after the other until one answers, as a client goes from one SRV target to the next.
    ///
    /// # Errors
    /// When none answers; what went wrong at each is in the message.
    pub async fn activate(&self, machine: &Machine, places: &[Place], from: Option<IpAddr>) -> Result<Activation> {
        let mut passed_by = Vec::new();
        for place in places {
            let began = Instant::now();
            let asked = async { self.ask(machine, &mut self.open(place.address, from).await?).await };
            match asked.await {
                Ok(outcome) => {
                    return Ok(Activation {
                        place: place.clone(),
                        outcome,
                        latency: began.elapsed(),
                        passed_by,
                    });
                }
                Err(error) => passed_by.push(format!("{}: {error:#}", place.name)),
            }
        }
        bail!("no host answered {}: {}", machine.name, passed_by.join("; "))
    }

    /// Connects to a host and binds, from an address of this machine if one is given.
    ///
    /// # Errors
    /// When the host does not answer, or accepts no transfer syntax.
    pub async fn open(&self, server: SocketAddr, from: Option<IpAddr>) -> Result<Session> {
        let connected = match from {
            None => Connection::connect(server, &self.options).await,
            Some(from) => {
                let patience = self.options.connect_timeout;
                let stream = tokio::time::timeout(patience, connect_from(from, server)).await;
                let stream = stream.with_context(|| format!("cannot connect to {server} within {patience:?}"))??;
                Connection::over(stream, server, &self.options).await
            }
        };
        let connection = connected.map_err(|error| match error {
            ConnectError::Broken { .. } => anyhow::Error::new(error).context(CLOSED),
            error => error.into(),
        })?;
        let syntax = connection.syntax().context("the host accepts no transfer syntax")?;
        Ok(Session { connection, syntax })
    }

    /// Lets a machine ask over a connection.
    ///
    /// # Errors
    /// When the host answers with a fault, with something else, or not at all.
    pub async fn ask(&self, machine: &Machine, session: &mut Session) -> Result<Outcome> {
        let Session { connection, syntax } = session;
        let now = jiff::Timestamp::now().as_microsecond();
        let asked = ask(&self.key, machine, &self.product, now, &sealing::draw()?);
        let request = stub::encode_request(*syntax, ByteOrder::Little, &asked.body);
        let called = connection.call(0, DataRepresentation::LITTLE_ENDIAN, &request).await;
        let reply = called.map_err(|error| match error {
            CallError::Broken(_) => anyhow::Error::new(error).context(CLOSED),
            error => error.into(),
        })?;
        match reply {
            Reply::Stub(response, drep) => {
                let response = stub::decode_response(*syntax, drep.order(), &response, LARGEST_BODY)?;
                Ok(asked.conclude(&self.key, response.hresult, response.body.as_deref())?)
            }
            Reply::Fault(status) => bail!("the host answered with the fault {status}"),
        }
    }
}

/// A bound connection to a host.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    syntax: TransferSyntax,
}

impl Session {
    /// Whether another request can be made over it.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.connection.is_usable()
    }
}

/// A connection from an address of this machine, so that a host sees many clients where there is one machine.
async fn connect_from(from: IpAddr, server: SocketAddr) -> Result<tokio::net::TcpStream> {
    let socket = match from {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket
        .bind(SocketAddr::new(from, 0))
        .with_context(|| format!("{from} is no address of this machine"))?;
    socket
        .connect(server)
        .await
        .with_context(|| format!("cannot connect to {server}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_its_client_machine_id() {
        assert_eq!(cmid("pc01").unwrap(), cmid("pc01").unwrap());
        assert_ne!(cmid("pc01").unwrap(), cmid("pc02").unwrap());
        assert!(machine("pc,01").is_err());
        assert!(machine("").is_err());
    }

    #[test]
    fn an_unknown_product_is_refused_with_the_known_ones() {
        let error = Rehearsal::new(Path::new("site.key"), "Office97", Duration::from_secs(1)).unwrap_err();
        assert!(error.to_string().contains("OfficeLTSC2024"), "{error}");
    }
}
