//! The command line: commands, their formats and how they end.

use std::io;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::exit::Exit;
use crate::output::{Format, View, print};
use crate::{
    activate, crd, discover, dlv, doctor, events, explain_route, fact, load, phone, probe, render, simulate, status, up,
};

/// Runs, asks and explains KMS endpoints for volume-licensed Office.
///
/// Works on this machine (`kmsctl up`), on host replicas anywhere and on a cluster; installed as `kubectl-officekms` it is
/// `kubectl officekms`.
#[derive(Debug, Parser)]
#[command(name = "kmsctl", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 it is so; 1 it could not be done or found out; 2 wrong command line or file; \
3 not yet (too few clients counted, not ready, no licensed host or \
ledger in reach); 4 refused.";

// No doc comment: it would stand over the commands' own help.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Output {
    /// Format of the result
    #[arg(short = 'o', long = "output", value_enum, default_value_t)]
    format: Format,
}

// A command with a result. No doc comment: it would stand over the commands' own help.
#[derive(Debug, Clone, clap::Args)]
struct With<A: clap::Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(Box<up::Args>),
    Activate(With<activate::Args>),
    Load(With<load::Args>),
    Probe(With<probe::Args>),
    Discover(With<discover::Args>),
    Status(With<status::Args>),
    Events(With<events::Args>),
    ExplainRoute(With<explain_route::Args>),
    Fact(fact::Args),
    Simulate(simulate::Args),
    Dlv(With<dlv::Args>),
    Phone(phone::Args),
    Doctor(With<doctor::Args>),
    Render(With<render::Args>),
    Crd(crd::Args),
    /// Prints the shell's completion script: `source <(kmsctl completion bash)`
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Parses the command line, runs the command and tells how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let filter = EnvFilter::try_from_env("OFFICEKMS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(false)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: this system gives no threads: {error}");
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(run(command)).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Exit::of(&error)
    });
    exit.into()
}

async fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Up(args) => up::run(&args).await,
        Command::Activate(With { args, output }) => {
            let report = activate::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Load(With { args, output }) => {
            let report = load::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Probe(With { args, output }) => {
            let report = probe::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Discover(With { args, output }) => {
            let report = discover::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Status(With { args, output }) => {
            let report = status::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Events(With { args, output }) => events::run(&args, output.format).await.map(|()| Exit::Ok),
        Command::ExplainRoute(With { args, output }) => shown(output, &explain_route::run(&args).await?, Exit::Ok),
        Command::Fact(args) => fact::run(&args).await.map(|()| Exit::Ok),
        Command::Simulate(args) => simulate::run(&args).map(|()| Exit::Ok),
        Command::Dlv(With { args, output }) => {
            let report = dlv::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Phone(args) => phone::run(&args).await.map(|()| Exit::Ok),
        Command::Doctor(With { args, output }) => {
            let report = doctor::run(&args).await?;
            shown(output, &report, report.exit())
        }
        Command::Render(With { args, output }) => {
            let report = render::run(&args)?;
            shown(output, &report, report.exit())
        }
        Command::Crd(args) => crd::run(&args).map(|()| Exit::Ok),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kmsctl", &mut io::stdout());
            Ok(Exit::Ok)
        }
    }
}

fn shown(output: Output, report: &impl View, exit: Exit) -> Result<Exit> {
    print(output.format, report)?;
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn each_command_says_what_it_does_in_words_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(
                !about.is_empty() && seen.insert(about.clone()),
                "{}: {about:?}",
                command.get_name()
            );
        }
    }

    #[test]
    fn every_shell_gets_a_completion_of_every_command() {
        use clap::ValueEnum as _;
        for shell in clap_complete::Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "kmsctl", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("explain-route"), "{shell}");
        }
    }
}
