//! The replicas of all resources, in this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use kms_host::config::{ADMIN_PORT, HostConfig, KMS_PORT, LogFormat};
use kms_host::keyfile::KEY_BYTES;
use kms_host::ledger::config::RedisConfig;
use kms_host::ledger::{self, Ledger, LedgerConfig, Opened};
use kms_host::run::{Listeners, run_on};
use kms_operator::api::{OfficeKmsHost, RehearsalSpec};
use kms_operator::build::{Files, Place, host_config};
use kms_operator::secrets::Objects;
use kube::ResourceExt as _;
use secrecy::ExposeSecret as _;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::write_private;
use crate::local::LocalReplica;
use crate::manifest::Manifest;

/// All replicas listen here.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Port of the first WS-Management of a rehearsal host.
const MANAGEMENT_PORT: u16 = 5985;

/// What runs.
pub(super) struct Running {
    /// Rehearsal hosts first, then relays.
    pub(super) replicas: Vec<Replica>,
    /// Resources whose replicas relay, with the addresses of this machine.
    pub(super) relaying: Vec<Relaying>,
    /// Site key of the rehearsal hosts, if there are any.
    pub(super) site_key: Option<PathBuf>,
    token: CancellationToken,
}

/// A resource whose replicas relay.
pub(super) struct Relaying {
    /// The resource, with the addresses of this machine.
    pub(super) host: OfficeKmsHost,
    /// What it refers to.
    pub(super) secrets: Objects,
    /// The ledger that its replicas share.
    pub(super) ledger: Arc<dyn Ledger>,
}

/// A running replica.
pub(super) struct Replica {
    /// Its resource.
    pub(super) resource: String,
    /// Its name.
    pub(super) name: String,
    /// Whether it relays.
    pub(super) relays: bool,
    /// Where it answers clients.
    pub(super) clients: SocketAddr,
    /// Its admin endpoint.
    pub(super) admin: SocketAddr,
    management: Option<SocketAddr>,
    running: JoinHandle<()>,
}

impl Replica {
    /// For other commands.
    pub(super) fn local(&self) -> LocalReplica {
        LocalReplica {
            name: self.name.clone(),
            resource: self.resource.clone(),
            relays: self.relays,
            clients: self.clients,
            admin: self.admin,
        }
    }
}

impl Running {
    /// Stops all replicas, relays first, and waits for them.
    pub(super) async fn stop(self) {
        self.token.cancel();
        for replica in self.replicas.into_iter().rev() {
            let _ = replica.running.await;
        }
    }

    /// Replicas of the resource of this name.
    pub(super) fn of(&self, resource: &str) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |replica| replica.resource == resource)
    }
}

/// Starts the replicas of all resources: rehearsal hosts first, because relays may have them for licensed hosts.
///
/// # Errors
/// The first that cannot be started. Those before it end with the process.
pub(super) async fn start(
    hosts: &[OfficeKmsHost],
    manifest: &Manifest,
    folder: &Path,
    redis: Option<&str>,
) -> Result<Running> {
    let mut running = Running {
        replicas: Vec::new(),
        relaying: Vec::new(),
        site_key: None,
        token: CancellationToken::new(),
    };
    let ledger_key = folder.join("ledger.key");
    write_private(&ledger_key, &random()?)?;
    let (rehearsal, relays): (Vec<_>, Vec<_>) = hosts.iter().partition(|host| host.spec.rehearsal.is_some());
    for host in rehearsal.into_iter().chain(relays) {
        let secrets = manifest.objects(&host.namespace().unwrap_or_default(), super::NAMESPACE);
        let files = files(host, &secrets, folder, &mut running)?;
        let opened = opened(host, redis, &ledger_key)?;
        let host = here(host, &running);
        for number in 0..host.spec.replicas {
            let replica = replica(&host, number, files.clone(), opened.clone(), &running)?;
            running.replicas.push(replica);
        }
        if host.spec.licensed_hosts.is_some() {
            running.relaying.push(Relaying {
                host,
                secrets,
                ledger: Arc::clone(&opened.ledger),
            });
        }
    }
    Ok(running)
}

/// Secrets of a resource as files: from the manifest, or new.
fn files(host: &OfficeKmsHost, secrets: &Objects, folder: &Path, running: &mut Running) -> Result<Files> {
    let folder = folder.join(host.name_any());
    super::private(&folder)?;
    let files = Files::within(&folder);
    let Some(rehearsal) = &host.spec.rehearsal else {
        return Ok(files);
    };
    let RehearsalSpec {
        site_key_secret,
        management_secret,
        ..
    } = rehearsal;
    match (site_key_secret, &running.site_key) {
        (Some(reference), _) => {
            let key = secrets.text(reference).context("spec.rehearsal.siteKeySecret")?;
            write_private(&files.site_key, key.expose_secret().as_bytes())?;
        }
        // One site, one key, unless the manifest says otherwise.
        (None, Some(first)) => {
            std::fs::copy(first, &files.site_key).context("the site key cannot be copied")?;
        }
        (None, None) => write_private(&files.site_key, &random()?)?,
    }
    running.site_key.get_or_insert_with(|| files.site_key.clone());
    if let Some(name) = management_secret {
        for (key, file) in [
            ("username", &files.management_username),
            ("password", &files.management_password),
        ] {
            let value = secrets
                .secret_text(&name.name, key)
                .with_context(|| format!("{}: spec.rehearsal.managementSecret", host.name_any()))?;
            write_private(file, value.expose_secret().as_bytes())?;
        }
    }
    Ok(files)
}

fn random() -> Result<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).context("the operating system gives no random bytes")?;
    Ok(key)
}

/// The ledger that a resource's replicas share.
fn opened(host: &OfficeKmsHost, redis: Option<&str>, key_file: &Path) -> Result<Opened> {
    let Some(address) = redis else {
        return Ok(ledger::open(&LedgerConfig::default())?);
    };
    let config = LedgerConfig {
        memory: None,
        redis: Some(RedisConfig {
            // A new key each time: what an earlier run left could not be read.
            key_prefix: format!("okms:{{up-{}/{}}}:", std::process::id(), host.name_any()),
            ..RedisConfig::standalone(address.to_owned())
        }),
        key_file: Some(key_file.to_owned()),
    };
    ledger::open(&config).with_context(|| format!("the ledger of {} cannot be opened on {address}", host.name_any()))
}

/// The resource with the addresses that its licensed hosts have on this machine.
fn here(host: &OfficeKmsHost, running: &Running) -> OfficeKmsHost {
    let mut host = host.clone();
    for licensed in host.spec.licensed_hosts.iter_mut().flatten() {
        let service = licensed.address.split('.').next().unwrap_or_default();
        let Some(replica) = running.of(service).next() else {
            continue;
        };
        licensed.address = replica.clients.ip().to_string();
        licensed.port = replica.clients.port().into();
        if let (Some(management), Some(at)) = (&mut licensed.management, replica.management) {
            management.address = Some(at.ip().to_string());
            management.port = Some(at.port().into());
        }
    }
    host
}

fn replica(host: &OfficeKmsHost, number: i32, files: Files, opened: Opened, running: &Running) -> Result<Replica> {
    let resource = host.name_any();
    let name = format!("{resource}-{number}");
    let relays = host.spec.licensed_hosts.is_some();
    // Relays have the ports that people know.
    let place = running.replicas.iter().filter(|other| other.relays == relays).count();
    let offset = u16::try_from(place)
        .unwrap_or(u16::MAX)
        .saturating_add(if relays { 0 } else { 100 });
    let at = |port: u16| SocketAddr::new(HERE, port.saturating_add(offset));
    let mut config = host_config(
        host,
        &Place {
            files,
            listen: vec![at(KMS_PORT)],
            admin: at(ADMIN_PORT),
            management: at(MANAGEMENT_PORT),
            managed_ledger: String::new(),
            log: LogFormat::Text,
        },
    );
    config.name.clone_from(&name);
    let listeners = bind(&mut config).with_context(|| format!("{name} cannot listen"))?;
    let (Some(first), Ok(admin)) = (listeners.clients.first(), listeners.admin.local_addr()) else {
        bail!("{name} listens nowhere");
    };
    let clients = first.local_addr()?;
    let management = listeners
        .management
        .as_ref()
        .and_then(|listener| listener.local_addr().ok());
    let (token, told) = (running.token.child_token(), name.clone());
    let running = tokio::spawn(async move {
        if let Err(error) = run_on(config, opened, None, listeners, token).await {
            eprintln!("error: {told} ended: {:#}", anyhow::Error::new(error));
        }
    });
    Ok(Replica {
        resource,
        name,
        relays,
        clients,
        admin,
        management,
        running,
    })
}

/// Binds the usual ports, or any where one of them is taken.
fn bind(config: &mut HostConfig) -> Result<Listeners> {
    if let Ok(listeners) = Listeners::bind(config) {
        return Ok(listeners);
    }
    let any = SocketAddr::new(HERE, 0);
    config.listen = vec![any];
    config.admin.listen = any;
    if let Some(management) = config
        .rehearsal
        .as_mut()
        .and_then(|rehearsal| rehearsal.management.as_mut())
    {
        management.listen = any;
    }
    Ok(Listeners::bind(config)?)
}
