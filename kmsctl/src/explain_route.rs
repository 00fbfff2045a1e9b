//! `kmsctl explain-route`: why a client goes where it goes.

use std::io::{self, Write};
use std::net::IpAddr;

use anyhow::{Result, bail};
use futures::future::join_all;
use kms_host::routing::Explanation;
use serde::Serialize;

use crate::admin::Replicas;
use crate::output::View;

/// Shows what became of a client's last request, and where it would go now, and why: what every licensed host is to the
/// fleet, in which order they would be asked, and the reason of each. All relays are asked; the one that served the client
/// last explains.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The client's address, as the relay sees it
    client: IpAddr,
    #[command(flatten)]
    replicas: Replicas,
}

/// Why a client goes where it goes, and who says so.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// The relay that explains.
    pub replica: String,
    /// What it says.
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// Asks all relays.
///
/// # Errors
/// When no relay answers, or there is none.
pub async fn run(args: &Args) -> Result<Explained> {
    let path = format!("/explain/{}", args.client);
    let admins = args.replicas.some().await?;
    let asked = join_all(admins.iter().map(|admin| admin.get::<Explanation>(&path))).await;
    let (mut explained, mut errors) = (Vec::new(), Vec::new());
    for (admin, answer) in admins.iter().zip(asked) {
        match answer {
            Ok(explanation) => explained.push(Explained {
                replica: admin.to_string(),
                explanation,
            }),
            Err(error) => errors.push(format!("{error:#}")),
        }
    }
    match served_last(explained) {
        Some(explained) => Ok(explained),
        None => bail!("no relay explained the route of {}: {}", args.client, errors.join("; ")),
    }
}

/// The one that served the client last; any, if none remembers it, as all decide alike.
fn served_last(explained: Vec<Explained>) -> Option<Explained> {
    let seconds_ago = |explained: &Explained| {
        let last = explained.explanation.last_decision.as_ref();
        last.map_or(u64::MAX, |last| last.seconds_ago)
    };
    explained.into_iter().min_by_key(seconds_ago)
}

impl View for Explained {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{} says:\n{}", self.replica, self.explanation)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_relay_that_served_the_client_last_explains() {
        let explained = |replica: &str, seconds_ago: Option<u64>| {
            let last = seconds_ago
                .map(|seconds| json!({"secondsAgo": seconds, "reason": "sticky", "because": "", "tried": []}));
            let explanation = json!({
                "client": "", "lastDecision": last, "reason": "sticky", "because": "", "order": [],
                "fleet": {"policy": "countAware", "knowledge": "fresh", "distinctClients": 1, "requiredCount": 5,
                    "activeSet": [], "clientsKnown": 1, "hosts": []}
            });
            Explained {
                replica: replica.to_owned(),
                explanation: serde_json::from_value(explanation).unwrap(),
            }
        };
        let of = |all: &[(&str, Option<u64>)]| {
            let all = all.iter().map(|(replica, ago)| explained(replica, *ago)).collect();
            served_last(all).map(|explained| explained.replica)
        };
        assert_eq!(
            of(&[("a", None), ("b", Some(90)), ("c", Some(7))]).as_deref(),
            Some("c")
        );
        assert_eq!(of(&[("a", None), ("b", None)]).as_deref(), Some("a"));
        assert_eq!(of(&[]), None);
    }
}
