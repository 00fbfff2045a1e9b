//! `kmsctl fact`: tells the ledger what was read from a licensed host, where nothing else reads it.

use std::path::PathBuf;

use anyhow::{Context, bail};
use kms_host::config;
use kms_host::ledger::{self, HostFact, Millis};

use crate::exit::Misuse;

/// Records what a licensed host shows (`slmgr.vbs /dlv`): its current count, its required count, whether its host key is
/// activated. It overrides what relays saw, until something newer is read.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The licensed host's name in the configuration.
    host: String,
    /// Configuration file of a relay that shares the ledger.
    #[arg(long, value_name = "FILE", default_value = "/etc/officekms/host.yaml")]
    config: PathBuf,
    /// Current count that it shows; leave it out if it shows 4294967295.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=1000))]
    count: Option<u32>,
    /// Largest required count N of its products.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    required_count: Option<u32>,
    /// Whether its host key is activated.
    #[arg(long)]
    licensed: Option<bool>,
}

/// Runs the command.
///
/// # Errors
/// When there is nothing to record, the host is unknown, or the ledger cannot be written.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let fact = fact(args)?;
    let text =
        std::fs::read_to_string(&args.config).with_context(|| format!("cannot read {}", args.config.display()))?;
    let config = config::load(&text, &args.config)?;
    let hosts = config.relay.iter().flat_map(|relay| &relay.licensed_hosts);
    let names: Vec<&str> = hosts.map(|host| host.name.as_str()).collect();
    if !names.contains(&args.host.as_str()) {
        bail!(
            "{} knows no licensed host `{}`, only {}",
            args.config.display(),
            args.host,
            names.join(", ")
        );
    }
    if config.ledger.redis.is_none() {
        bail!(
            "the ledger of {} is in a replica's memory: write `facts` in the file instead",
            args.config.display()
        );
    }
    let opened = ledger::open(&config.ledger)?;
    opened.ledger.put_fact(&args.host, &fact).await?;
    Ok(())
}

fn fact(args: &Args) -> anyhow::Result<HostFact> {
    if args.count.is_none() && args.required_count.is_none() && args.licensed.is_none() {
        return Err(Misuse("nothing to record: give --count, --required-count or --licensed".to_owned()).into());
    }
    Ok(HostFact {
        read_at: Millis(jiff::Timestamp::now().as_millisecond()),
        current_count: args.count,
        required_count: args.required_count,
        licensed: args.licensed,
    })
}
