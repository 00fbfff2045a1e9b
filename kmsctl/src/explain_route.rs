//! `kmsctl explain-route`: why a client goes where it goes.

use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use kms_host::routing::Explanation;

/// How long a replica may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows where a client would go now, and why, as one relay sees it: what every licensed host is to the fleet, in which
/// order they would be asked, and the reason of each.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The client's address, as the relay sees it.
    client: IpAddr,
    /// Admin endpoint of a relay.
    #[arg(
        long,
        env = "OKMS_ADMIN",
        default_value = "http://127.0.0.1:9688",
        value_name = "URL"
    )]
    admin: reqwest::Url,
    /// Prints the relay's JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the relay does not answer, or has nothing to explain.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let text = fetch(args).await?;
    let explanation: Explanation = serde_json::from_str(&text)
        .with_context(|| format!("{} does not answer as a relay of this version does", args.admin))?;
    let shown = if args.json {
        serde_json::to_string_pretty(&explanation)? + "\n"
    } else {
        explanation.to_string()
    };
    match io::stdout().lock().write_all(shown.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("cannot write the result"),
        _ => Ok(()),
    }
}

async fn fetch(args: &Args) -> anyhow::Result<String> {
    let url = args
        .admin
        .join(&format!("/explain/{}", args.client))
        .context("the admin endpoint is no base for a path")?;
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
    let answer = client
        .get(url)
        .send()
        .await
        .with_context(|| format!("cannot reach a relay's admin endpoint at {}", args.admin))?;
    let (status, text) = (answer.status(), answer.text().await?);
    if !status.is_success() {
        bail!("{} answered {status}: {}", args.admin, text.trim());
    }
    Ok(text)
}
