//! One round over all zones of a resource: each on its own and at the same time, within a limit, so that a zone that fails
//! holds up no other.

use std::time::Duration;

use futures::future::join_all;
use kms_dns::discover::ResolverSource;
use kms_dns::manual::Manual;
use kms_dns::plan::{Options, Reason};
use kms_dns::publisher::{Published, Publisher, publish, withdraw};
use kms_dns::records::Desired;
use kms_dns::rfc2136::{Rfc2136, ServerAddress};
use kms_dns::verify::{Authority, authorities, verify};
use tokio::time::timeout;

use super::presence::Action;
use super::settings::{Zone, ZonePublisher};

/// How a round goes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For one question or update.
    pub exchange: Duration,
    /// For all of one zone.
    pub zone: Duration,
    /// Who is asked for the zone's servers.
    pub resolver: ResolverSource,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(5),
            zone: Duration::from_secs(30),
            resolver: ResolverSource::System,
        }
    }
}

/// A zone and what is to be done there.
#[derive(Debug, Clone)]
pub struct Task {
    /// The zone.
    pub zone: Zone,
    /// Its records.
    pub desired: Desired,
    /// What to do with them.
    pub action: Action,
}

/// What became of a zone, as status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The zone's name.
    pub zone: String,
    /// Its publisher.
    pub publisher: &'static str,
    /// Whether every authoritative server holds the records.
    pub verified: bool,
    /// Whether our records stand, as far as we know.
    pub published: bool,
    /// Whether anything was changed.
    pub changed: bool,
    /// The records, in zone-file form.
    pub records: Vec<String>,
    /// Others' SRV records under the name.
    pub foreign: Vec<String>,
    /// A bounded label of what failed.
    pub failure: Option<&'static str>,
    /// What is so, or what is wrong and what to do.
    pub message: String,
}

/// Does what is to be done in every zone.
pub async fn round(tasks: &[Task], limits: &Limits) -> Vec<Report> {
    join_all(tasks.iter().map(|task| async move {
        match timeout(limits.zone, one(task, limits)).await {
            Ok(report) => report,
            Err(_) => Report {
                failure: Some("timeout"),
                message: format!(
                    "its servers took more than {} s; it is tried again",
                    limits.zone.as_secs()
                ),
                ..blank(task)
            },
        }
    }))
    .await
}

/// Takes every zone's records away; what became of each, in the order of `tasks`.
pub async fn clean_up(tasks: &[Task], limits: &Limits) -> Vec<Result<(), String>> {
    join_all(tasks.iter().map(|task| async move {
        let done = timeout(limits.zone, take_away(task, limits)).await;
        done.unwrap_or_else(|_| Err(format!("its servers took more than {} s", limits.zone.as_secs())))
            .map_err(|why| format!("{}: {why}", task.zone.name))
    }))
    .await
}

/// Removes what is ours in a zone by the publisher that its spec names. The object of `dnsEndpoint` is removed with the
/// resource that owns it, and what people entered is theirs.
async fn take_away(task: &Task, limits: &Limits) -> Result<(), String> {
    match &task.zone.publisher {
        ZonePublisher::Rfc2136 { servers, key } => {
            let publisher = Rfc2136::new(servers.clone(), key.clone(), limits.exchange);
            let gone = withdraw(&publisher, &task.desired).await;
            gone.map(|_| ()).map_err(|error| chain(&error))
        }
        ZonePublisher::WindowsDns(publisher) => {
            let gone = withdraw(publisher.as_ref(), &task.desired).await;
            gone.map(|_| ()).map_err(|error| chain(&error))
        }
        ZonePublisher::DnsEndpoint { .. } | ZonePublisher::Manual => Ok(()),
    }
}

fn blank(task: &Task) -> Report {
    Report {
        zone: task.zone.name.to_string(),
        publisher: task.zone.publisher.kind(),
        records: task.desired.zone_file(),
        ..Report::default()
    }
}

async fn one(task: &Task, limits: &Limits) -> Report {
    let mut report = blank(task);
    if let Action::Wait { why } = &task.action {
        report.failure = Some("waiting");
        report.message = why.clone();
        return report;
    }
    let servers = servers(task, limits).await;
    let outcome = match (&task.zone.publisher, &task.action) {
        (ZonePublisher::Rfc2136 { servers, key }, action) => {
            let publisher = Rfc2136::new(servers.clone(), key.clone(), limits.exchange);
            act(&publisher, task, action).await
        }
        (ZonePublisher::WindowsDns(publisher), action) => act(publisher.as_ref(), task, action).await,
        (ZonePublisher::Manual, _) => {
            let publisher = Manual::new(servers.clone().unwrap_or_default(), limits.exchange);
            act(&publisher, task, &Action::Publish { refresh: false }).await
        }
        (ZonePublisher::DnsEndpoint { .. }, _) => Ok(None),
    };
    match outcome {
        Ok(Some(published)) => {
            report.changed = !published.plan.changes.is_empty() && publisher_changes(task);
            report.foreign = published.plan.bypasses().map(ToString::to_string).collect();
            let refused = published.plan.because(Reason::Listed).count();
            tracing::debug!(
                zone = report.zone,
                removed = refused,
                "the zone's records were looked at"
            );
        }
        Ok(None) => {}
        Err(error) => {
            report.failure = Some(error.category());
            report.message = chain(&error);
            return report;
        }
    }
    let expected = if matches!(task.action, Action::Withdraw { .. }) {
        task.desired.withdrawn()
    } else {
        task.desired.clone()
    };
    report.published = !expected.entries.is_empty();
    match servers {
        Ok(servers) => {
            let verification = verify(&expected, &servers, limits.exchange).await;
            report.verified = verification.holds();
            report.failure = (!report.verified).then_some("unverified");
            report.message = verification.to_string();
        }
        Err(why) => {
            report.failure = Some("unverified");
            report.message = why;
        }
    }
    if let Action::Keep { .. } | Action::Withdraw { .. } = &task.action {
        report.failure = Some("silent");
        // Records that are taken away are not published, however well they are verified to be gone.
        report.verified &= matches!(task.action, Action::Keep { .. });
        report.message = format!("{}; {}", task.action, report.message);
    }
    report
}

/// People's zones are only looked at.
fn publisher_changes(task: &Task) -> bool {
    !matches!(task.zone.publisher, ZonePublisher::Manual)
}

async fn act(
    publisher: &dyn Publisher,
    task: &Task,
    action: &Action,
) -> Result<Option<Published>, kms_dns::publisher::PublishError> {
    match action {
        Action::Publish { refresh } => {
            let options = Options {
                refresh: *refresh,
                ..task.zone.options.clone()
            };
            publish(publisher, &task.desired, &options).await.map(Some)
        }
        Action::Withdraw { .. } => withdraw(publisher, &task.desired).await.map(Some),
        Action::Keep { .. } | Action::Wait { .. } => Ok(None),
    }
}

/// The servers that the spec names, or the zone's authoritative ones; where nobody says who these are, those that take the
/// updates.
async fn servers(task: &Task, limits: &Limits) -> Result<Vec<Authority>, String> {
    if !task.zone.verify_servers.is_empty() {
        return addresses(&task.zone.verify_servers).await;
    }
    let failure = match authorities(&task.zone.apex, &limits.resolver).await {
        Ok(servers) => return Ok(servers),
        Err(error) => chain(&error),
    };
    let ZonePublisher::Rfc2136 { servers, .. } = &task.zone.publisher else {
        return Err(failure);
    };
    addresses(servers).await.map_err(|_| failure)
}

async fn addresses(servers: &[ServerAddress]) -> Result<Vec<Authority>, String> {
    let resolved = join_all(servers.iter().map(ServerAddress::resolve)).await;
    let mut known = Vec::new();
    for found in resolved {
        known.extend(found.map_err(|error| chain(&error))?.into_iter().map(Authority::from));
    }
    Ok(known)
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
