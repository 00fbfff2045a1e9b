//! `kmsctl probe`: whether a KMS endpoint answers, and how. Harmless for a licensed host: it binds and asks nothing.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use kms_host::rpc::{ConnectError, ConnectOptions, Connection, Interface, Proposal, TransferSyntax};
use serde::Serialize;
use tokio::net::TcpStream;

use crate::exit::Exit;
use crate::output::{View, duration, table};
use crate::target::{Hosts, named};

/// Connects and binds as a Windows client would, and asks nothing: a probe counts for no client and leaves no event.
///
/// Exit code 0: all answer; 4: one rejects the KMS interface; 1: one does not answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Hosts: names or addresses, `HOST:PORT` where the port is not 1688
    #[arg(required = true, value_name = "HOST[:PORT]")]
    hosts: Vec<String>,
    /// Probes of each address
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Seconds that each step may take
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// What was found at every address.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// A row per address.
    pub endpoints: Vec<Endpoint>,
}

/// What was found at one address.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// As the user wrote it.
    pub host: String,
    /// Its address; none when the name has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// What it is good for.
    pub verdict: Verdict,
    /// Milliseconds for the TCP connection, the median of all probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_millis: Option<f64>,
    /// Milliseconds from the bind to its acknowledgement, the median of all probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_millis: Option<f64>,
    /// Transfer syntaxes that it accepts, each when proposed alone.
    pub syntaxes: Vec<&'static str>,
    /// The one that it chose from what a Windows client proposes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<&'static str>,
    /// Largest fragment that it takes, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_fragment: Option<u16>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What an endpoint is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It takes activation requests.
    Answers,
    /// It speaks DCE/RPC but has no KMS interface.
    RejectsInterface,
    /// It does not answer, or not as a KMS host does.
    Fails,
}

/// Probes all addresses of all hosts.
///
/// # Errors
/// Never for a host: what went wrong there is in the report.
pub async fn run(args: &Args) -> Result<Report> {
    let mut endpoints = Vec::new();
    for host in &args.hosts {
        match named(host).await {
            Ok(Hosts::Named { addresses, .. }) => {
                for address in addresses {
                    endpoints.push(endpoint(host, address, args).await);
                }
            }
            Ok(Hosts::Zone { .. }) => {}
            Err(error) => endpoints.push(Endpoint::failed(host, None, Verdict::Fails, format!("{error:#}"))),
        }
    }
    Ok(Report { endpoints })
}

async fn endpoint(host: &str, address: SocketAddr, args: &Args) -> Endpoint {
    let patience = Duration::from_secs(args.timeout);
    let (mut connects, mut binds) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..args.count {
        match probe(address, patience).await {
            Ok((connect, bind, connection)) => {
                connects.push(connect);
                binds.push(bind);
                last = Some(connection);
            }
            Err(error) => {
                let verdict = match error {
                    ConnectError::Rejected { .. } => Verdict::RejectsInterface,
                    _ => Verdict::Fails,
                };
                return Endpoint::failed(host, Some(address), verdict, format!("{:#}", anyhow::Error::new(error)));
            }
        }
    }
    let mut syntaxes = Vec::new();
    for syntax in TransferSyntax::ALL {
        let options = options(Proposal::one(Interface::KMS, syntax), patience);
        if Connection::connect(address, &options).await.is_ok() {
            syntaxes.push(syntax.name());
        }
    }
    Endpoint {
        host: host.to_owned(),
        address: Some(address),
        verdict: Verdict::Answers,
        connect_millis: median(connects),
        bind_millis: median(binds),
        syntaxes,
        chosen: last.as_ref().and_then(Connection::syntax).map(TransferSyntax::name),
        max_fragment: last.as_ref().map(|connection| connection.offered().max_xmit_frag),
        error: None,
    }
}

fn options(proposal: Proposal, patience: Duration) -> ConnectOptions {
    ConnectOptions {
        proposal,
        connect_timeout: patience,
        bind_timeout: patience,
        ..ConnectOptions::default()
    }
}

async fn probe(address: SocketAddr, patience: Duration) -> Result<(Duration, Duration, Connection), ConnectError> {
    let options = options(Proposal::like_windows(Interface::KMS), patience);
    let began = Instant::now();
    let stream = tokio::time::timeout(patience, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::ConnectTimeout {
            server: address,
            limit: patience,
        })?
        .map_err(|source| ConnectError::Connect {
            server: address,
            source,
        })?;
    let connected = Instant::now();
    let connection = Connection::over(stream, address, &options).await?;
    Ok((connected - began, connected.elapsed(), connection))
}

fn median(mut values: Vec<Duration>) -> Option<f64> {
    values.sort_unstable();
    values.get(values.len() / 2).map(|value| value.as_secs_f64() * 1e3)
}

impl Endpoint {
    fn failed(host: &str, address: Option<SocketAddr>, verdict: Verdict, error: String) -> Self {
        Self {
            host: host.to_owned(),
            address,
            verdict,
            connect_millis: None,
            bind_millis: None,
            syntaxes: Vec::new(),
            chosen: None,
            max_fragment: None,
            error: Some(error),
        }
    }
}

impl Report {
    /// The exit code that tells the worst of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.endpoints.iter().fold(Exit::Ok, |exit, endpoint| {
            exit.worst(match endpoint.verdict {
                Verdict::Answers => Exit::Ok,
                Verdict::RejectsInterface => Exit::Refused,
                Verdict::Fails => Exit::Failed,
            })
        })
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(["address", "verdict", "connect", "bind", "syntaxes", "fragment"]);
        let millis = |value: Option<f64>| value.map(|millis| duration(Duration::from_secs_f64(millis / 1e3)));
        for endpoint in &self.endpoints {
            let verdict = match endpoint.verdict {
                Verdict::Answers => "answers",
                Verdict::RejectsInterface => "is no KMS host",
                Verdict::Fails => "fails",
            };
            rows.add_row([
                endpoint
                    .address
                    .map_or_else(|| endpoint.host.clone(), |address| address.to_string()),
                verdict.to_owned(),
                millis(endpoint.connect_millis).unwrap_or_default(),
                millis(endpoint.bind_millis).unwrap_or_default(),
                endpoint.syntaxes.join(", "),
                endpoint.max_fragment.map(|bytes| bytes.to_string()).unwrap_or_default(),
            ]);
        }
        writeln!(out, "{rows}")?;
        for error in self.endpoints.iter().filter_map(|endpoint| endpoint.error.as_ref()) {
            writeln!(out, "\nerror: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_probes_is_shown() {
        let millis = |values: &[u64]| median(values.iter().map(|value| Duration::from_millis(*value)).collect());
        assert_eq!(millis(&[9, 1, 5]), Some(5.0));
        assert_eq!(millis(&[]), None);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_fails_with_its_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let args = Args {
            hosts: vec![host.clone()],
            count: 1,
            timeout: 5,
        };
        let report = run(&args).await.unwrap();
        assert_eq!(report.exit(), Exit::Failed);
        let error = report.endpoints[0].error.as_deref().unwrap();
        assert!(error.contains(&host), "{error}");
    }
}
