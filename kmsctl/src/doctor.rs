//! `kmsctl doctor`: why a resource is not Ready, and what to do about it.
//!
//! ```text
//! gather (reads the cluster, changes nothing) --> Facts --> diagnose (pure) --> findings, the worst first
//! ```

mod diagnose;
mod facts;
mod findings;
mod gather;
mod pods;
mod watches;

use std::io::{self, Write};

use anyhow::Result;
use kube::Client;
use serde::Serialize;

use crate::cluster;
use crate::exit::Exit;
use crate::output::View;

/// Says why resources are not Ready, and what to do: looks at the CRD, the operator and its permissions, the spec and what
/// it refers to, the children and their pods, the ledger, the licensed hosts and DNS. It changes nothing.
///
/// Exit code 0: nothing is wrong; 3: something is, or is not yet; 1: the cluster cannot be asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The resource [default: every one of the namespace]
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Namespace of the resource [default: that of the kubeconfig's context]
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Resources of all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, value_name = "CONTEXT")]
    context: Option<String>,
    /// Shows what is as it should be too
    #[arg(short, long)]
    verbose: bool,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Somebody must do something.
    Wrong,
    /// It may still become what it should be.
    NotYet,
    /// It could not be found out.
    Unknown,
    /// As it should be.
    Good,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Wrong => "WRONG",
            Self::NotYet => "not yet",
            Self::Unknown => "unknown",
            Self::Good => "ok",
        }
    }
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How it is.
    pub state: State,
    /// What it is about, such as `licensing/kms: Deployment`.
    pub about: String,
    /// What was found.
    pub what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// Everything that was found, the worst first.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
    #[serde(skip)]
    verbose: bool,
}

impl Report {
    fn new(mut findings: Vec<Finding>, verbose: bool) -> Self {
        findings.sort_by_key(|finding| finding.state);
        Self { findings, verbose }
    }

    /// How the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let ill = |finding: &Finding| matches!(finding.state, State::Wrong | State::NotYet);
        if self.findings.iter().any(ill) {
            Exit::NotYet
        } else {
            Exit::Ok
        }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        let (good, ill): (Vec<_>, Vec<_>) = self.findings.iter().partition(|finding| finding.state == State::Good);
        let shown = ill.iter().chain(if self.verbose { good.as_slice() } else { &[] });
        for Finding {
            state,
            about,
            what,
            advice,
        } in shown
        {
            writeln!(out, "{:<8} {about}: {what}", state.word())?;
            if let Some(advice) = advice {
                writeln!(out, "         -> {advice}")?;
            }
        }
        match (ill.len(), good.len()) {
            (0, good) => writeln!(out, "{good} checks, nothing is wrong"),
            (ill, good) => writeln!(out, "{} checks, {ill} of them not as they should be", ill + good),
        }
    }
}

/// Runs the command.
///
/// # Errors
/// When the cluster cannot be asked at all.
pub async fn run(args: &Args) -> Result<Report> {
    let (client, default) = cluster::connect(args.context.as_deref()).await?;
    let namespace = (!args.all_namespaces).then(|| args.namespace.clone().unwrap_or(default));
    let mut report = examine(&client, namespace.as_deref(), args.name.as_deref()).await?;
    report.verbose = args.verbose;
    Ok(report)
}

/// Examines the resources of `namespace` (none: of all), or the one of this name.
///
/// # Errors
/// When the cluster cannot be asked at all.
pub async fn examine(client: &Client, namespace: Option<&str>, name: Option<&str>) -> Result<Report> {
    let facts = gather::gather(client, namespace, name).await?;
    Ok(Report::new(diagnose::diagnose(&facts), false))
}

#[cfg(test)]
mod tests;
