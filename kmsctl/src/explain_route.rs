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

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    /// What is fetched from a replica that answers so.
    async fn fetched(answer: &'static str) -> (String, anyhow::Result<String>) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = format!("http://{}", listener.local_addr().unwrap());
        let replica = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let args = Line::parse_from(["explain-route", "2001:db8::7", "--admin", &admin]).args;
        let fetched = fetch(&args).await;
        (replica.await.unwrap(), fetched)
    }

    #[tokio::test]
    async fn the_relay_is_asked_for_the_address_and_its_refusal_is_shown() {
        let (request, text) = fetched("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").await;
        assert!(request.starts_with("GET /explain/2001:db8::7 HTTP/1.1"), "{request}");
        assert_eq!(text.unwrap(), "{}");
        let refusal =
            "HTTP/1.1 404 Not Found\r\ncontent-length: 30\r\nconnection: close\r\n\r\na rehearsal host routes nobody";
        let error = fetched(refusal).await.1.unwrap_err().to_string();
        assert!(
            error.ends_with("answered 404 Not Found: a rehearsal host routes nobody"),
            "{error}"
        );
    }
}
