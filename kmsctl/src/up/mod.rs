//! `kmsctl up`: the OfficeKmsHost resources of a manifest on this machine, without Kubernetes.
//!
//! ```text
//! manifest --> replicas (rehearsal hosts first) --> DNS server with their SRV records --> six clients --> keep running
//! ```
//!
//! Replicas are those of kms-host, with the configuration that the operator would give them; only addresses and the
//! ledger differ. What is like a Service is missing: each replica has a port and an SRV record of its own.

mod licensing;
mod names;
mod replicas;
mod story;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kms_operator::api::OfficeKmsHost;
use kms_operator::validate;
use kube::ResourceExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::local::{Claim, Local, StateDir};
use crate::manifest::{self, Manifest};
use crate::output::table;
use licensing::Licensing;
use replicas::Running;

/// Namespace of resources that name none.
const NAMESPACE: &str = "default";

/// Runs the OfficeKmsHost resources of a manifest on this machine, without Kubernetes: their replicas, a DNS server with
/// their SRV records, and rehearsal clients that find them and ask to be activated.
///
/// A licensed host whose address is the name of a rehearsal resource in the same manifest is that resource. Ledgers are in
/// memory, shared by the replicas of a resource, unless --redis is given.
///
/// Exit code 2: the manifest is wrong, as for `kmsctl render`. With --once 0: the last clients were licensed; 3: they were not;
/// 1: something could not be started.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Manifest with one or more documents; `-` for standard input
    #[arg(long, short, value_name = "FILE")]
    filename: PathBuf,
    /// End after the clients have asked, instead of going on until interrupted
    #[arg(long)]
    once: bool,
    /// Rehearsal clients that ask [default: one more than the required count]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(0..=250))]
    clients: Option<u32>,
    /// Redis that holds the ledgers, as `HOST:PORT`
    #[arg(long, value_name = "HOST:PORT")]
    redis: Option<String>,
    #[command(flatten)]
    state: StateDir,
}

/// Runs until the clients have asked, or until interrupted.
///
/// # Errors
/// When a file is wrong or something cannot be started.
pub async fn run(args: &Args) -> Result<Exit> {
    let manifest = Manifest::parse(&manifest::read(&args.filename)?);
    let hosts = match checked(&manifest) {
        Ok(hosts) => hosts,
        Err(problems) => {
            for problem in problems {
                eprintln!("error: {}: {problem}", args.filename.display());
            }
            return Ok(Exit::Usage);
        }
    };
    let ended = ended_by_signal()?;
    // A run that ends by itself leaves nothing and disturbs no other.
    let (folder, _temporary) = if args.once {
        let folder = tempfile::tempdir().context("no temporary folder can be made")?;
        (folder.path().to_owned(), Some(folder))
    } else {
        let folder = args.state.path()?;
        private(&folder)?;
        (folder, None)
    };
    // Another one's keys must not be written anew.
    let claim = Claim::take(&folder)?;
    let running = replicas::start(&hosts, &manifest, &folder, args.redis.as_deref()).await?;
    let zones = names::serve(&hosts, &running).await?;
    let local = Local {
        pid: std::process::id(),
        zones: zones.iter().map(names::Served::local).collect(),
        site_key_file: running.site_key.clone(),
        replicas: running.replicas.iter().map(replicas::Replica::local).collect(),
    };
    let _record = if args.once { None } else { Some(claim.record(&local)?) };
    introduce(&local)?;

    let mut licensing = Licensing::of(&running);
    let exit = tokio::select! {
        exit = show(args, &mut licensing, &running, &local) => exit,
        () = ended.cancelled() => Ok(Exit::Ok),
    };
    if !args.once && !ended.is_cancelled() {
        if let Err(error) = &exit {
            eprintln!("error: {error:#}");
        }
        farewell(&local)?;
        tokio::select! {
            () = licensing.keep() => {}
            () = ended.cancelled() => {}
        }
    }
    running.stop().await;
    if args.once { exit } else { Ok(Exit::Ok) }
}

async fn show(args: &Args, licensing: &mut Licensing<'_>, running: &Running, local: &Local) -> Result<Exit> {
    licensing.reach_licensed().await?;
    let product = product(running);
    let exit = story::tell(product, args.clients, running, local).await?;
    licensing.dlv(product).await?;
    Ok(exit)
}

/// What clients ask for: the last product of the first resource that relays, or the usual one.
fn product(running: &Running) -> &str {
    let products = running
        .relaying
        .first()
        .and_then(|relaying| relaying.host.spec.products.as_ref());
    products
        .and_then(|products| products.last())
        .map_or("OfficeLTSC2024", |product| product.name.as_str())
}

/// The resources, each fit to run; or everything that is wrong.
fn checked(manifest: &Manifest) -> Result<Vec<OfficeKmsHost>, Vec<String>> {
    let mut problems = manifest.problems.clone();
    let mut hosts = manifest.hosts.clone();
    for host in &mut hosts {
        host.metadata.namespace.get_or_insert_with(|| NAMESPACE.to_owned());
        if let Err(found) = validate::check(host) {
            let name = host.name_any();
            problems.extend(found.0.iter().map(|problem| format!("{name}: {problem}")));
        }
    }
    if hosts.is_empty() && problems.is_empty() {
        problems.push("there is no OfficeKmsHost in it".to_owned());
    }
    if problems.is_empty() { Ok(hosts) } else { Err(problems) }
}

/// Cancelled by SIGINT and SIGTERM.
fn ended_by_signal() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signals = signal(kind).context("signals cannot be waited for")?;
        let token = token.clone();
        tokio::spawn(async move {
            signals.recv().await;
            token.cancel();
        });
    }
    Ok(token)
}

/// A folder for this user alone: it holds keys.
fn private(folder: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Writes a file for this user alone.
fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let open = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    open.and_then(|mut file| file.write_all(content))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn introduce(local: &Local) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut rows = table(["replica", "mode", "clients", "admin"]);
    for replica in &local.replicas {
        let mode = if replica.relays { "relay" } else { "rehearsal host" };
        rows.add_row([
            replica.name.clone(),
            mode.to_owned(),
            replica.clients.to_string(),
            format!("http://{}/", replica.admin),
        ]);
    }
    writeln!(out, "{rows}")?;
    for zone in &local.zones {
        writeln!(out, "DNS server for {} at {}", zone.name, zone.server)?;
    }
    writeln!(out)
}

fn farewell(local: &Local) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "\nRunning until interrupted (Ctrl-C). In another terminal:")?;
    writeln!(out, "  kmsctl status")?;
    writeln!(out, "  kmsctl events --follow")?;
    if let Some(zone) = local.zones.first() {
        writeln!(out, "  kmsctl discover {}", zone.name)?;
    }
    if local.site_key_file.is_some() {
        writeln!(out, "  kmsctl activate --count 3 --first 101")?;
    }
    if let Some(replica) = local.replicas.iter().find(|replica| replica.relays) {
        writeln!(out, "  kmsctl probe {}", replica.clients)?;
        writeln!(out, "  kmsctl explain-route 127.0.0.1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_of_a_manifest_is_told_before_anything_starts() {
        let text = "apiVersion: officekms.io/v1alpha1\nkind: OfficeKmsHost\nmetadata: {name: a}\n\
                    spec: {rehearsal: {}, clients: {allowedCidrs: [ten, eleven]}}\n";
        let problems = checked(&Manifest::parse(text)).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        let problems = checked(&Manifest::parse("kind: Secret\n")).unwrap_err();
        assert!(problems[0].contains("no OfficeKmsHost"), "{problems:?}");
    }
}
