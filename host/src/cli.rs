//! The command line of `kms-host`.
//!
//! Exit codes: 0 it ended because it was told to, 1 it could not run, 2 the configuration or the command line is wrong.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{HostConfig, LogFormat, WatchedFile};
use crate::otlp::Collector;
use crate::run::{Listeners, run};
use crate::serve::raise_open_files;
use crate::telemetry;

/// A KMS endpoint: a relay to licensed KMS hosts, or a rehearsal host for drills.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    /// The configuration file. Its changes are taken over while it runs.
    #[arg(long, env = "KMS_HOST_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Check the configuration file and the files that it names (keys, passwords, certificates), print every problem, and
    /// end.
    #[arg(long)]
    check: bool,
    /// The replica's name in status and logs; wins over the file's `name`, which replicas on Kubernetes share.
    #[arg(long, env = "KMS_HOST_NAME", value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Form of the log's lines; wins over the file's `log.format`.
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    #[command(flatten)]
    collector: Collector,
}

fn name(text: &str) -> Result<String, &'static str> {
    match text.len() {
        1..=253 => Ok(text.to_owned()),
        _ => Err("a name has 1 to 253 characters"),
    }
}

const RUN_FAILED: u8 = 1;
const CONFIG_WRONG: u8 = 2;

/// Files for licensed hosts, the ledger, the admin endpoint and the runtime.
const FILES_BESIDE_CONNECTIONS: u64 = 256;

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let (mut config, file) = match WatchedFile::open_as(&args.config, args.name) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(CONFIG_WRONG);
        }
    };
    if args.check {
        let unusable = config.file_problems();
        if !unusable.is_empty() {
            for problem in unusable {
                eprintln!("{}: {problem}", args.config.display());
            }
            return ExitCode::from(CONFIG_WRONG);
        }
        println!("{}: good", args.config.display());
        return ExitCode::SUCCESS;
    }
    if let Some(format) = args.log_format {
        config.log.format = format;
    }
    let traces = match args.collector.open("kms-host", &config.name) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("{:#}", anyhow::Error::from(error));
            return ExitCode::from(CONFIG_WRONG);
        }
    };
    telemetry::init(&config.log, traces.as_ref());
    let ended = serve(config, file);
    if let Some(traces) = traces {
        traces.flush();
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(RUN_FAILED)
        }
    }
}

#[tokio::main]
async fn serve(config: HostConfig, file: WatchedFile) -> anyhow::Result<()> {
    let token = CancellationToken::new();
    tokio::spawn(cancel_when_told(token.clone())?);
    let (files, wanted) = (raise_open_files(), u64::from(config.clients.limits.connections));
    if files < wanted.saturating_add(FILES_BESIDE_CONNECTIONS) {
        tracing::warn!(
            files,
            wanted,
            "fewer open files are permitted than clients.limits.connections needs"
        );
    }
    let listeners = Listeners::bind(&config)?;
    run(config, Some(file), listeners, token).await?;
    Ok(())
}

/// A second signal ends the process at once, as does the system's default.
fn cancel_when_told(token: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut told = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(async move {
        told().await;
        token.cancel();
        told().await;
        tracing::warn!("told twice: ending at once");
        std::process::exit(i32::from(RUN_FAILED));
    })
}
