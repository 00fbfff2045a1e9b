//! One round over all zones of a resource: each on its own and at the same time, within a limit, so that a zone that fails
//! holds up no other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use kms_dns::discover::ResolverSource;
use kms_dns::manual::Manual;
use kms_dns::plan::{Observed, Options, Plan};
use kms_dns::publisher::{PublishError, Publisher, publish, standing, withdraw};
use kms_dns::records::Desired;
use kms_dns::rfc2136::{Rfc2136, ServerAddress};
use kms_dns::verify::{Authority, State, Verification, authorities, verify};
use kms_host::telemetry::chain;
use tokio::time::timeout;

use super::presence::Action;
use super::settings::{Zone, ZonePublisher};
use crate::client::Gate;

/// How a round goes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For one question or update.
    pub exchange: Duration,
    /// For all of one zone.
    pub zone: Duration,
    /// Who is asked for the zone's servers.
    pub resolver: ResolverSource,
    /// Open as long as this process may change anything.
    pub gate: Gate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            exchange: Duration::from_secs(5),
            zone: Duration::from_secs(30),
            resolver: ResolverSource::System,
            gate: Gate::open(),
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
    /// Those that stood before, as far as is known.
    pub stood: Desired,
    /// What to do with them.
    pub action: Action,
    /// Which targets do not answer, where others do.
    pub silent: Option<String>,
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
    /// Whether a change was asked for, even if nobody knows what came of it.
    pub attempted: bool,
    /// Whether it was done what was to be done, verified or not.
    pub carried_out: bool,
    /// The records, in zone-file form.
    pub records: Vec<String>,
    /// Others' SRV records under the name; none when nobody looked.
    pub foreign: Option<Vec<String>>,
    /// A bounded label of what failed.
    pub failure: Option<&'static str>,
    /// What is so, or what is wrong and what to do.
    pub message: String,
}

/// Does what is to be done in every zone.
pub async fn round(tasks: &[Task], limits: &Limits) -> Vec<Report> {
    join_all(tasks.iter().map(|task| async move {
        let mut report = blank(task);
        let attempted = AtomicBool::new(false);
        // What is known stays known when the time is over.
        if timeout(limits.zone, one(task, limits, &attempted, &mut report))
            .await
            .is_err()
        {
            report.failure = Some(if report.carried_out { "unverified" } else { "timeout" });
            let told = format!(
                "its servers took more than {} s; it is tried again",
                limits.zone.as_secs()
            );
            report.message = with_silence(task, &told);
        }
        report.attempted = attempted.into_inner();
        report
    }))
    .await
}

/// Takes every zone's records away; what became of each, in the order of `tasks`.
pub async fn clean_up(tasks: &[Task], limits: &Limits) -> Vec<Result<(), String>> {
    join_all(tasks.iter().map(|task| async move {
        let done = timeout(limits.zone, limits.gate.through(take_away(task, limits))).await;
        let done = done.map(|carried| carried.unwrap_or_else(|held| Err(held.to_string())));
        done.unwrap_or_else(|_| Err(format!("its servers took more than {} s", limits.zone.as_secs())))
            .map_err(|why| format!("{}: {why}", task.zone.name))
    }))
    .await
}

/// Removes what is ours in a zone by the publisher that its spec names. The object of `dnsEndpoint` is removed with the
/// resource that owns it, and what people entered is theirs.
async fn take_away(task: &Task, limits: &Limits) -> Result<(), String> {
    let gone = match &task.zone.publisher {
        ZonePublisher::Rfc2136 { servers, key, turn } => {
            let publisher = Rfc2136::new(servers.clone(), key.clone(), limits.exchange).with_turn(turn.clone());
            withdraw(&publisher, &task.desired).await
        }
        ZonePublisher::WindowsDns(publisher) => withdraw(publisher.as_ref(), &task.desired).await,
        ZonePublisher::DnsEndpoint { .. } | ZonePublisher::Manual => return Ok(()),
    };
    gone.map(|_| ()).map_err(|error| chain(&error))
}

fn blank(task: &Task) -> Report {
    // As long as nothing is done, what stood stands. People are shown what to enter.
    let by_hand = matches!(task.zone.publisher, ZonePublisher::Manual);
    let records = if by_hand || task.stood.entries.is_empty() {
        &task.desired
    } else {
        &task.stood
    };
    Report {
        zone: task.zone.name.to_string(),
        publisher: task.zone.publisher.kind(),
        records: records.zone_file(),
        ..Report::default()
    }
}

/// Publishes before anything is asked about the zone's servers: these may not answer, and what was published is to be known.
async fn one(task: &Task, limits: &Limits, attempted: &AtomicBool, report: &mut Report) {
    if let Action::Wait { why } = &task.action {
        report.failure = Some("waiting");
        report.message.clone_from(why);
        return;
    }
    let mut known = None;
    let acted = async {
        match &task.zone.publisher {
            ZonePublisher::Rfc2136 { servers, key, turn } => {
                let publisher = Rfc2136::new(servers.clone(), key.clone(), limits.exchange).with_turn(turn.clone());
                let noted = Noted {
                    inner: &publisher,
                    attempted,
                };
                act(&noted, task).await
            }
            ZonePublisher::WindowsDns(publisher) => {
                let noted = Noted {
                    inner: publisher.as_ref(),
                    attempted,
                };
                act(&noted, task).await
            }
            // People's zones are only looked at.
            ZonePublisher::Manual => {
                let servers = known.insert(servers(task, limits).await).clone();
                let publisher = Manual::new(servers.unwrap_or_default(), limits.exchange);
                act(&publisher, task).await
            }
            // Whoever has a cluster applies the object.
            ZonePublisher::DnsEndpoint { .. } => Ok(Done {
                expected: expected(task),
                foreign: None,
            }),
        }
    };
    let done = match limits.gate.through(acted).await {
        Ok(done) => done,
        Err(held) => {
            report.failure = Some("not_leading");
            report.message = held.to_string();
            return;
        }
    };
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            report.failure = Some(error.category());
            report.message = with_silence(task, &chain(&error));
            return;
        }
    };
    report.carried_out = true;
    report.foreign = done.foreign;
    report.records = match &task.action {
        Action::Withdraw { .. } => task.desired.zone_file(),
        _ => done.expected.zone_file(),
    };
    if let Action::Keep { why, .. } = &task.action
        && done.expected.entries.is_empty()
    {
        report.failure = Some("waiting");
        report.message = format!("none of our records stands, and none is published: {why}");
        return;
    }
    let servers = match known {
        Some(servers) => servers,
        None => servers(task, limits).await,
    };
    let told = match servers {
        Ok(servers) => {
            let verification = verify(&done.expected, &servers, limits.exchange).await;
            report.verified = verification.holds();
            if matches!(task.zone.publisher, ZonePublisher::DnsEndpoint { .. }) {
                report.foreign = foreign(&verification);
            }
            verification.to_string()
        }
        Err(why) => why,
    };
    report.message = with_silence(task, &told);
    report.failure = (!report.verified).then_some("unverified");
    match &task.action {
        Action::Publish { .. } if report.verified && task.silent.is_some() => report.failure = Some("silent"),
        Action::Keep { .. } | Action::Withdraw { .. } => {
            report.failure = Some("silent");
            // Records that are taken away are not published, however well they are verified to be gone.
            report.verified &= matches!(task.action, Action::Keep { .. });
        }
        Action::Publish { .. } | Action::Wait { .. } => {}
    }
}

/// What was done in a zone.
struct Done {
    /// What its servers are to hold.
    expected: Desired,
    /// Others' SRV records under the name, if somebody looked.
    foreign: Option<Vec<String>>,
}

async fn act(publisher: &dyn Publisher, task: &Task) -> Result<Done, PublishError> {
    let (expected, plan) = match &task.action {
        Action::Keep { .. } => standing(publisher, &task.stood).await?,
        Action::Publish { refresh } => {
            let options = Options {
                refresh: *refresh,
                ..task.zone.options.clone()
            };
            let published = publish(publisher, &task.desired, &options).await?;
            (task.desired.clone(), published.plan)
        }
        Action::Withdraw { .. } | Action::Wait { .. } => {
            (task.desired.withdrawn(), withdraw(publisher, &task.desired).await?.plan)
        }
    };
    let foreign = plan.bypasses().map(ToString::to_string).collect();
    Ok(Done {
        expected,
        foreign: Some(foreign),
    })
}

/// What a zone's servers are to hold once it is done what is to be done.
fn expected(task: &Task) -> Desired {
    match &task.action {
        Action::Publish { .. } => task.desired.clone(),
        Action::Keep { .. } => task.stood.clone(),
        Action::Withdraw { .. } | Action::Wait { .. } => task.desired.withdrawn(),
    }
}

/// Others' records, if a server of the zone could be read.
fn foreign(verification: &Verification) -> Option<Vec<String>> {
    let mut states = verification.servers.iter().map(|(_, state)| state);
    let read = states.any(|state| !matches!(state, State::Unknown { .. }));
    read.then(|| verification.foreign.iter().map(ToString::to_string).collect())
}

/// Notes that a change is asked for: from then on records may stand, whatever comes of it.
struct Noted<'a> {
    inner: &'a dyn Publisher,
    attempted: &'a AtomicBool,
}

impl Publisher for Noted<'_> {
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }

    fn observe<'a>(&'a self, desired: &'a Desired) -> BoxFuture<'a, Result<Observed, PublishError>> {
        self.inner.observe(desired)
    }

    fn apply<'a>(&'a self, plan: &'a Plan) -> BoxFuture<'a, Result<(), PublishError>> {
        self.attempted.store(true, Ordering::Relaxed);
        self.inner.apply(plan)
    }
}

/// What is told of a zone, with what does not answer in front.
fn with_silence(task: &Task, told: &str) -> String {
    match &task.action {
        Action::Keep { .. } | Action::Withdraw { .. } => format!("{}; {told}", task.action),
        Action::Publish { .. } | Action::Wait { .. } => match &task.silent {
            Some(silent) => format!("{silent}; {told}"),
            None => told.to_owned(),
        },
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

#[cfg(test)]
mod tests;
