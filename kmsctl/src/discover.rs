//! `kmsctl discover ZONE`: what a client would do with a zone's records, and what is wrong with them.

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use kms_dns::discover::{Candidate, Discovery, ResolverSource, lookup};
use kms_dns::names::ZoneName;
use kms_dns::rfc2136::ServerAddress;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde::Serialize;

use crate::exit::Exit;
use crate::local::StateDir;
use crate::output::View;
use crate::target::local_server;

/// Shows the KMS hosts that clients of a zone find, in the order in which one client would try them.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Domain that clients look in, such as corp.example.com
    pub zone: ZoneName,
    /// Name server to ask instead of this machine's: address or name, with `:port` where it is not 53; may be repeated
    #[arg(long = "dns", visible_alias = "server", value_name = "SERVER")]
    pub servers: Vec<ServerAddress>,
    /// Chance for the order among targets of one priority; the same number gives the same order [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where `kmsctl up` left its addresses: its zones are looked up at its own name server
    #[command(flatten)]
    pub state: StateDir,
}

/// What was found.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The records and what is wrong with them.
    #[serde(flatten)]
    pub discovery: Discovery,
    /// The order in which one client would try the targets.
    pub order: Vec<Candidate>,
    /// The warnings in words.
    pub messages: Vec<String>,
}

/// Looks up.
///
/// # Errors
/// When no name server answers. Faults of the records are in the report.
pub async fn run(args: &Args) -> Result<Report> {
    let mut servers = Vec::new();
    for server in &args.servers {
        servers.extend(server.resolve().await?);
    }
    if servers.is_empty() {
        let zones = args.state.read()?.map(|local| local.zones).unwrap_or_default();
        servers.extend(local_server(&args.zone, &zones));
    }
    let source = match servers.as_slice() {
        [] => ResolverSource::System,
        _ => ResolverSource::Servers(servers),
    };
    let discovery = lookup(&args.zone, &source)
        .await
        .with_context(|| format!("the KMS hosts of {} could not be looked up", args.zone))?;
    let mut rng = match args.seed {
        Some(seed) => StdRng::seed_from_u64(seed),
        None => rand::make_rng(),
    };
    Ok(Report {
        order: discovery.order(&mut rng),
        messages: discovery.warnings.iter().map(ToString::to_string).collect(),
        discovery,
    })
}

impl Report {
    /// Whether a client finds a target with an address.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.discovery.is_usable()
    }

    /// How the command ends: "not yet" when a client of the zone finds nobody.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.is_usable() { Exit::Ok } else { Exit::NotYet }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} has {} SRV records",
            self.discovery.name,
            self.discovery.candidates.len()
        )?;
        if !self.order.is_empty() {
            writeln!(out, "\nA client would try, in this order:")?;
        }
        for (place, candidate) in (1..).zip(&self.order) {
            let addresses: Vec<String> = candidate.addresses.iter().map(ToString::to_string).collect();
            let addresses = if addresses.is_empty() {
                "no address".to_owned()
            } else {
                addresses.join(", ")
            };
            let owners = if candidate.owners.is_empty() {
                String::new()
            } else {
                format!(", published by {}", candidate.owners.join(", "))
            };
            writeln!(
                out,
                "{place:>3}. {}:{} ({addresses}), priority {}, weight {}{owners}",
                candidate.target, candidate.port, candidate.priority, candidate.weight
            )?;
        }
        for message in &self.messages {
            writeln!(out, "\nwarning: {message}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use kms_dns::records::{Desired, Endpoint};
    use kms_dns::server::{Server, Sockets, Zone};

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[tokio::test]
    async fn a_zone_is_shown_in_a_client_s_order_with_its_faults() {
        let zone: ZoneName = "corp.example.com".parse().unwrap();
        let endpoint = |host: &str, priority, addresses: &[&str]| Endpoint {
            target: format!("{host}.corp.example.com").parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            port: 1688,
            priority,
            weight: 100,
        };
        let endpoints = [endpoint("second", 10, &[]), endpoint("first", 0, &["127.0.0.1", "::1"])];
        let desired = Desired::new(zone.clone(), zone.clone(), "c1".parse().unwrap(), 60, &endpoints).unwrap();
        let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let server = Server::start(sockets, Zone::new(&zone, 60, 1, desired.entries, [])).unwrap();

        let server_argument = format!("--server={}", server.address());
        let line = Line::try_parse_from(["discover", "corp.example.com", &server_argument]).unwrap();
        let report = run(&line.args).await.unwrap();
        let mut text = Vec::new();
        report.view(&mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "_vlmcs._tcp.corp.example.com has 2 SRV records\n\n\
             A client would try, in this order:\n\
             \x20 1. first.corp.example.com:1688 (127.0.0.1, ::1), priority 0, weight 100\n\
             \x20 2. second.corp.example.com:1688 (no address), priority 10, weight 100\n\n\
             warning: second.corp.example.com has no address: publish A or AAAA records for it, or remove the SRV record\n\n\
             warning: clients come to second.corp.example.com only when first.corp.example.com does not answer, because its \
             priority number is higher\n"
        );
        assert_eq!(report.exit(), Exit::Ok);
        server.stop().await;

        let nobody = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let server = Server::start(nobody, Zone::new(&zone, 60, 1, [], [])).unwrap();
        let server_argument = format!("--server={}", server.address());
        let line = Line::try_parse_from(["discover", "corp.example.com", &server_argument]).unwrap();
        assert_eq!(run(&line.args).await.unwrap().exit(), Exit::NotYet);
    }

    #[test]
    fn what_is_no_zone_is_a_usage_error_that_says_why() {
        let error = Line::try_parse_from(["discover", "corp..example"]).unwrap_err();
        assert!(error.to_string().contains("empty label"), "{error}");
    }
}
