//! The command line of kms-operator.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use kms_host::config::{LogConfig, LogFormat};
use kms_host::otlp::Collector;
use kube::Config;
use tokio_util::sync::CancellationToken;

use crate::control::run::{Election, Options, run};
use crate::leader::Timing;
use crate::manifests::Install;
use crate::settings::Settings;

/// Turns each OfficeKmsHost into running, shared, exposed host replicas.
#[derive(Debug, Parser)]
#[command(name = "kms-operator", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator (what happens without a command, too).
    Run(Box<RunArgs>),
    /// Print the CustomResourceDefinition.
    Crd,
    /// Print the manifests that install the operator.
    Manifests(Box<Install>),
    /// Ask a running operator until it is ready, as `helm test` does.
    Ready(ReadyArgs),
}

#[derive(Debug, Args)]
struct ReadyArgs {
    /// Where its metrics are.
    #[arg(value_name = "HOST:PORT")]
    address: String,

    /// Seconds after which it is not.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience_seconds: u64,
}

/// How the operator runs.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    settings: Settings,

    /// Address of the endpoint with /metrics, /healthz and /readyz.
    #[arg(long, env = "OKMS_LISTEN", value_name = "ADDRESS:PORT", default_value = "[::]:8080")]
    listen: SocketAddr,

    /// Whether a leader is elected. Off only where there is never more than one process.
    #[arg(long, env = "OKMS_LEADER_ELECTION", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    leader_election: bool,

    /// Namespace of the lease. Default: the namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    lease_namespace: Option<String>,

    /// Name of the lease.
    #[arg(long, env = "OKMS_LEASE_NAME", value_name = "NAME", default_value = "kms-operator")]
    lease_name: String,

    /// Seconds after which a lease that is not renewed can be taken.
    #[arg(long, env = "OKMS_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 15)]
    lease_seconds: u64,

    /// Seconds after asking for a renewal for which a leader acts. With 4 s more, shorter than the lease.
    #[arg(
        long,
        env = "OKMS_RENEW_DEADLINE_SECONDS",
        value_name = "SECONDS",
        default_value_t = 10
    )]
    renew_deadline_seconds: u64,

    /// Seconds between attempts to take or renew the lease.
    #[arg(long, env = "OKMS_LEASE_RETRY_SECONDS", value_name = "SECONDS", default_value_t = 2)]
    lease_retry_seconds: u64,

    /// Resources that are looked at at the same time.
    #[arg(long, env = "OKMS_WORKERS", value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,

    /// Seconds after which a resource is looked at even if nothing was seen to change. It is how soon a changed Secret is
    /// noticed.
    #[arg(long, env = "OKMS_RESYNC_SECONDS", value_name = "SECONDS", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    resync_seconds: u64,

    /// Seconds between two readings of the replicas' status.
    #[arg(long, env = "OKMS_REPLICA_STATUS_SECONDS", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    replica_status_seconds: u64,

    /// Seconds that the end may take after SIGTERM.
    #[arg(long, env = "OKMS_GRACE_SECONDS", value_name = "SECONDS", default_value_t = 15)]
    grace_seconds: u64,

    /// Directory for the secrets with which the operator opens ledgers. Best a volume in memory.
    #[arg(
        long,
        env = "OKMS_SCRATCH_DIRECTORY",
        value_name = "DIRECTORY",
        default_value = "/tmp/kms-operator"
    )]
    scratch_directory: PathBuf,

    /// Name of this process, for the lease and Events. Default: the host name, which is the pod's.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    instance: Option<String>,

    /// What is logged: a level, or targets with levels as in RUST_LOG.
    #[arg(
        long,
        env = "OKMS_LOG",
        value_name = "FILTER",
        default_value = "info,kube_runtime=warn"
    )]
    log: String,

    /// Form of the log's lines.
    #[arg(long, env = "OKMS_LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    log_format: LogForm,

    #[command(flatten)]
    collector: Collector,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogForm {
    /// For people.
    Text,
    /// For collectors.
    Json,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Crd) => print(crate::crd::yaml()),
        Some(Command::Manifests(install)) => print(crate::manifests::yaml(&install)),
        Some(Command::Ready(asked)) => ready(&asked),
        Some(Command::Run(args)) => operate(*args),
        None => operate(cli.run),
    }
}

fn print(yaml: Result<String, serde_saphyr::SerializeError>) -> ExitCode {
    match yaml {
        Ok(yaml) => {
            print!("{yaml}");
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error.into()),
    }
}

fn ready(asked: &ReadyArgs) -> ExitCode {
    let patience = Duration::from_secs(asked.patience_seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime
        .map_err(anyhow::Error::from)
        .and_then(|runtime| Ok(runtime.block_on(crate::ready::wait(&asked.address, patience))?));
    match answer {
        Ok(()) => {
            println!("the operator at {} is ready", asked.address);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("kms-operator: {error:#}");
    ExitCode::FAILURE
}

fn operate(args: RunArgs) -> ExitCode {
    let format = match args.log_format {
        LogForm::Text => LogFormat::Text,
        LogForm::Json => LogFormat::Json,
    };
    let instance = match args.instance() {
        Ok(instance) => instance,
        Err(error) => return failed(&error),
    };
    let traces = match args.collector.open("kms-operator", &instance) {
        Ok(traces) => traces,
        Err(error) => return failed(&error.into()),
    };
    let log = LogConfig {
        filter: args.log.clone(),
        format,
    };
    kms_host::telemetry::init(&log, traces.as_ref());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(async {
        let config = Config::infer()
            .await
            .context("no cluster is known: run in a pod, or set KUBECONFIG")?;
        let options = args.options(&config, instance);
        run(config, options, stop_on_signal()?).await
    });
    // What is still in flight must not go on: the lease may be another's soon.
    runtime.shutdown_background();
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the operator ends");
            ExitCode::FAILURE
        }
    };
    if let Some(traces) = traces {
        traces.flush();
    }
    code
}

impl RunArgs {
    /// The name of this process.
    fn instance(&self) -> anyhow::Result<String> {
        match &self.instance {
            Some(instance) => Ok(instance.clone()),
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .map(|name| name.trim().to_owned())
                .context("this process has no name: set POD_NAME"),
        }
    }

    fn options(self, config: &Config, instance: String) -> Options {
        let election = self.leader_election.then(|| Election {
            namespace: self.lease_namespace.unwrap_or_else(|| config.default_namespace.clone()),
            name: self.lease_name,
            timing: Timing {
                lease: Duration::from_secs(self.lease_seconds),
                renew_deadline: Duration::from_secs(self.renew_deadline_seconds),
                retry: Duration::from_secs(self.lease_retry_seconds),
            },
        });
        Options {
            settings: self.settings,
            listen: self.listen,
            election,
            workers: usize::from(self.workers),
            resync: Duration::from_secs(self.resync_seconds),
            replicas_every: Duration::from_secs(self.replica_status_seconds),
            grace: Duration::from_secs(self.grace_seconds),
            scratch: self.scratch_directory,
            instance,
        }
    }
}

/// A token that SIGTERM and SIGINT cancel.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let stop = token.clone();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("the operator was told to stop");
        stop.cancel();
    });
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory as _;

    use super::*;

    /// Flags and variables of the operator, as they are.
    fn known() -> Vec<(String, String)> {
        let command = Cli::command();
        let named = |arg: &clap::Arg| {
            let environment = arg.get_env().map(|name| name.to_string_lossy().into_owned());
            Some((format!("--{}", arg.get_long()?), environment.unwrap_or_default()))
        };
        command.get_arguments().filter_map(named).collect()
    }

    #[test]
    fn the_reference_lists_every_flag_with_its_variable_and_no_other() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/kms-operator.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let row = |line: &str| {
            let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            let (flag, variable) = (cells.nth(1)?, cells.next()?);
            let named = flag
                .strip_prefix("--")?
                .starts_with(|letter: char| letter.is_ascii_lowercase());
            named.then_some((flag, variable))
        };
        let mut listed: Vec<_> = page.lines().filter_map(row).collect();
        let mut known = known();
        listed.sort();
        known.sort();
        assert_eq!(listed, known);
    }

    #[test]
    fn the_installation_sets_no_variable_that_nothing_reads() {
        let mut install = Install::default();
        install.settings.watch_namespaces = vec!["one".into()];
        install.settings.image_pull_secrets = vec!["pull".into()];
        let manifests = crate::manifests::manifests(&install);
        let deployment = manifests.iter().find(|one| one["kind"] == "Deployment").expect("it");
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let known = known();
        for variable in container["env"].as_array().expect("variables") {
            let name = variable["name"].as_str().expect("a name");
            assert!(known.iter().any(|(_, read)| read == name), "nothing reads {name}");
        }
        let namespace = known.iter().find(|(flag, _)| flag == "--lease-namespace");
        assert_eq!(namespace.expect("the flag").1, "POD_NAMESPACE");
    }

    #[test]
    fn the_command_line_is_sound_and_its_default_is_to_run() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["kms-operator", "--workers", "3"]).expect("flags without a command");
        assert!(cli.command.is_none());
        assert_eq!(cli.run.workers, 3);
        let cli = Cli::try_parse_from(["kms-operator", "run", "--workers", "4"]).expect("flags with the command");
        let Some(Command::Run(args)) = cli.command else {
            panic!("it runs")
        };
        assert_eq!(args.workers, 4);
    }
}
