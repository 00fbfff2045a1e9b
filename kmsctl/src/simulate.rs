//! `kmsctl simulate`: clients activated over time under four routings, simulated.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use kms_host::routing::simulate::{self, Arrivals, DAY, Grid, Outcome, PolicyName, SrvTarget};

/// Simulates fleets: clients that behave as Microsoft documents, hosts that count as KMS hosts do, and four ways to
/// bring the one to the other. A host dies on day 3, a new one joins on day 10. The same seed gives the same result.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Numbers of clients.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 8, 20, 60, 500], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: Vec<u32>,
    /// Numbers of licensed hosts.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3, 5], value_parser = clap::value_parser!(u32).range(1..=64))]
    hosts: Vec<u32>,
    /// Required counts N.
    #[arg(long, value_delimiter = ',', default_values_t = [5, 25], value_parser = clap::value_parser!(u32).range(1..=1000))]
    required: Vec<u32>,
    /// Routings to compare; all unless given.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<PolicyName>,
    /// Half of the clients come one by one until day 20, instead of all within the first hour.
    #[arg(long)]
    rolling: bool,
    /// Ranks of the hosts in the SRV record that `dns-random` follows, in the hosts' order; those beyond have 0:0.
    #[arg(long, value_delimiter = ',', value_name = "PRIORITY:WEIGHT")]
    srv: Vec<SrvTarget>,
    /// Clients whose first request was in vain are switched off for so many days, instead of asking again after two hours.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=30))]
    sleep: Option<u32>,
    /// Another seed gives other arrivals and other choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What to print.
    #[arg(long, short, value_enum, default_value_t = Print::Table)]
    output: Print,
    /// Draws the outcomes into this file too.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Forms of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Print {
    /// A row for each simulation.
    Table,
    /// A row for each fleet: shares after 24 hours and 40 days.
    Summary,
    /// Everything.
    Json,
}

/// Runs the command.
///
/// # Errors
/// When a result cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let outcomes = simulate::grid(&grid(args));
    if let Some(file) = &args.svg {
        fs::write(file, simulate::svg(&outcomes)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match io::stdout().lock().write_all(print(args.output, &outcomes)?.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the result"),
        _ => Ok(()),
    }
}

fn grid(args: &Args) -> Grid {
    let Args {
        clients,
        hosts,
        required,
        policy,
        rolling,
        srv,
        sleep,
        seed,
        ..
    } = args.clone();
    let policies = if policy.is_empty() {
        PolicyName::ALL.to_vec()
    } else {
        policy
    };
    let arrivals = if rolling { Arrivals::Rolling } else { Arrivals::AtOnce };
    Grid {
        policies,
        clients,
        hosts,
        required,
        arrivals,
        srv,
        sleeps: sleep.map(|days| DAY * days),
        seed,
        ..Grid::default()
    }
}

fn print(form: Print, outcomes: &[Outcome]) -> anyhow::Result<String> {
    Ok(match form {
        Print::Table => simulate::table(outcomes),
        Print::Summary => simulate::summary(outcomes),
        Print::Json => serde_json::to_string_pretty(outcomes)? + "\n",
    })
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
    fn the_defaults_are_the_whole_grid_and_each_form_shows_it() {
        assert_eq!(grid(&Line::parse_from(["simulate"]).args), Grid::default());
        let line = [
            "simulate",
            "--clients=5",
            "--hosts=2",
            "--required=5",
            "--policy=count-aware,dns-random",
        ];
        let outcomes = simulate::grid(&grid(&Line::parse_from(line).args));
        assert_eq!(print(Print::Table, &outcomes).unwrap().lines().count(), 4);
        assert_eq!(print(Print::Summary, &outcomes).unwrap().lines().count(), 3);
        let json: serde_json::Value = serde_json::from_str(&print(Print::Json, &outcomes).unwrap()).unwrap();
        assert_eq!(json[0]["scenario"]["policy"], "countAware");
    }
}
