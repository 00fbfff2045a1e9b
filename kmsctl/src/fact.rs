//! `kmsctl fact`: tells the ledger what was read from a licensed host, where nothing else reads it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use kms_host::config;
use kms_host::ledger::{self, HostFact, Millis};

use crate::exit::Misuse;

/// Records what a licensed host shows (`slmgr.vbs /dlv`): its current count, its required count, whether its host key is
/// activated. It overrides what relays saw, until something newer is read. What is not given stays as it was recorded, if
/// that is no older than the configuration's `routing.factsFreshFor`.
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
    if args.count.is_none() && args.required_count.is_none() && args.licensed.is_none() {
        return Err(Misuse("nothing to record: give --count, --required-count or --licensed".to_owned()).into());
    }
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
    let now = Millis(jiff::Timestamp::now().as_millisecond());
    let recorded = opened.ledger.routes(now, now).await?.facts;
    let before = recorded.iter().find(|(host, _)| *host == args.host);
    let fact = merged(
        args,
        before.map(|(_, fact)| fact),
        config.routing.facts_fresh_for.get(),
        now,
    );
    opened.ledger.put_fact(&args.host, &fact).await?;
    Ok(())
}

/// What is given, over what was recorded `before`. What is too old is not vouched for anew.
fn merged(args: &Args, before: Option<&HostFact>, fresh_for: Duration, now: Millis) -> HostFact {
    let age = |fact: &HostFact| u64::try_from(now.0.saturating_sub(fact.read_at.0)).unwrap_or(0);
    let before = before.filter(|fact| u128::from(age(fact)) <= fresh_for.as_millis());
    HostFact {
        read_at: now,
        current_count: args.count.or(before.and_then(|fact| fact.current_count)),
        required_count: args.required_count.or(before.and_then(|fact| fact.required_count)),
        licensed: args.licensed.or(before.and_then(|fact| fact.licensed)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn what_is_not_given_stays_unless_it_is_old() {
        const NOW: Millis = Millis(1_000_000_000);
        let before = |age| HostFact {
            read_at: Millis(NOW.0 - age),
            current_count: Some(7),
            required_count: Some(5),
            licensed: Some(true),
        };
        let merged = |line: &str, before: Option<HostFact>| {
            let line = format!("fact kms-1 {line}");
            let args = Line::parse_from(line.split_whitespace()).args;
            let fact = merged(&args, before.as_ref(), Duration::from_secs(60), NOW);
            assert_eq!(fact.read_at, NOW);
            (fact.current_count, fact.required_count, fact.licensed)
        };
        assert_eq!(
            merged("--licensed false", Some(before(60_000))),
            (Some(7), Some(5), Some(false))
        );
        assert_eq!(merged("--count 8", Some(before(0))), (Some(8), Some(5), Some(true)));
        assert_eq!(merged("--count 8", Some(before(60_001))), (Some(8), None, None));
        assert_eq!(merged("--required-count 25", None), (None, Some(25), None));
    }
}
