//! `kmsctl explain-route`: why a client goes where it goes.

use std::io::{self, Write};
use std::net::IpAddr;

use anyhow::{Result, bail};
use kms_host::routing::Explanation;

use crate::admin::Replicas;
use crate::output::View;

/// Shows where a client would go now, and why, as one relay sees it: what every licensed host is to the fleet, in which
/// order they would be asked, and the reason of each.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The client's address, as the relay sees it
    client: IpAddr,
    #[command(flatten)]
    replicas: Replicas,
}

/// Asks the first relay that answers; all decide alike.
///
/// # Errors
/// When no relay answers, or there is none.
pub async fn run(args: &Args) -> Result<Explanation> {
    let mut errors = Vec::new();
    for admin in args.replicas.some().await? {
        match admin.get(&format!("/explain/{}", args.client)).await {
            Ok(explanation) => return Ok(explanation),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    bail!("no relay explained the route of {}: {}", args.client, errors.join("; "))
}

impl View for Explanation {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{self}")
    }
}
