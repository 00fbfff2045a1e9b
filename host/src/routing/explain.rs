//! Explains: what each host is to the fleet, and why a client goes where it goes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::Policy;
use super::decide::decide_with;
use super::fleet::Health;
use super::reason::{ClientSource, CountSource, Ended, HostState, Knowledge, Place, Reason};
use super::view::Snapshot;
use crate::ledger::{Millis, Pseudonym};

/// The fleet as routing sees it, for `/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingStatus {
    /// What decides.
    pub policy: Policy,
    /// How far the counts can be trusted.
    pub knowledge: Knowledge,
    /// Seconds since the ledger was read; none if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_seconds_ago: Option<u64>,
    /// D, distinct clients within 30 days.
    pub distinct_clients: u64,
    /// What D counts.
    #[serde(default = "addresses")]
    pub clients_from: ClientSource,
    /// N, the largest required count.
    pub required_count: u32,
    /// Hosts in the active set.
    pub active_set: Vec<String>,
    /// Clients whose last answer is known here.
    pub clients_known: usize,
    /// The hosts, in their configured order.
    pub hosts: Vec<HostStatus>,
}

/// A host as routing sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Its name.
    pub name: String,
    /// What it is to the fleet.
    pub state: HostState,
    /// The same in a sentence.
    pub because: String,
    /// Current count as believed, at most 2N.
    pub count: u32,
    /// Where the count comes from.
    pub count_from: CountSource,
    /// Share of the clients among active hosts.
    pub weight: u32,
}

/// Why a client goes where it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The client's pseudonym in the ledger.
    pub client: String,
    /// What is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_answer: Option<LastAnswerShown>,
    /// What became of its last request at this replica; none if that is not remembered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_decision: Option<LastDecision>,
    /// Why the first host is the first, if it asks now.
    pub reason: Reason,
    /// The same in a sentence.
    pub because: String,
    /// Hosts to try, first to last.
    pub order: Vec<Step>,
    /// The fleet.
    pub fleet: RoutingStatus,
}

/// A client's last answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastAnswerShown {
    /// Who gave it; none if the fleet no longer has that host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Seconds since.
    pub seconds_ago: u64,
    /// Whether that host was believed to be warm then.
    #[serde(default)]
    pub warm: bool,
    /// Requests within 24 hours of it.
    pub asks_today: u8,
}

/// What became of a client's last request at a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDecision {
    /// Seconds since.
    pub seconds_ago: u64,
    /// Why the first host was the first.
    pub reason: Reason,
    /// The same in a sentence.
    pub because: String,
    /// The hosts that were tried, first to last.
    pub tried: Vec<TriedHost>,
}

/// A host that was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TriedHost {
    /// Its name.
    pub host: String,
    /// How the request ended there.
    pub ended: Ended,
}

impl LastDecision {
    /// A decision of `at`, told at `now`.
    pub(crate) fn new(at: Millis, now: Millis, reason: Reason, tried: Vec<TriedHost>) -> Self {
        Self {
            seconds_ago: seconds(at, now),
            reason,
            because: reason.sentence().to_owned(),
            tried,
        }
    }
}

/// A host to try.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its name.
    pub host: String,
    /// Why it stands here.
    pub place: Place,
    /// The same in a sentence.
    pub because: String,
}

impl Snapshot {
    /// The fleet as routing sees it at `now`.
    pub fn status(&self, health: impl Fn(usize) -> Health, now: Millis) -> RoutingStatus {
        let fleet = &self.fleet;
        let standings = fleet.standings(health);
        let hosts = || fleet.hosts.iter().zip(&standings);
        let members = hosts().filter(|(_, standing)| standing.member);
        let shown = hosts().map(|(host, standing)| HostStatus {
            name: host.name.clone(),
            state: standing.state,
            because: standing.state.sentence().to_owned(),
            count: host.count,
            count_from: host.count_from,
            weight: host.weight,
        });
        RoutingStatus {
            policy: fleet.policy,
            knowledge: fleet.knowledge,
            read_seconds_ago: self.read_at.map(|read| seconds(read, now)),
            distinct_clients: fleet.distinct_clients,
            clients_from: fleet.clients_from,
            required_count: fleet.required,
            active_set: members.map(|(host, _)| host.name.clone()).collect(),
            clients_known: self.clients_known(),
            hosts: shown.collect(),
        }
    }

    /// Why the client with that pseudonym would go where it would go at `now`.
    pub fn explain(&self, health: impl Fn(usize) -> Health, pseudonym: Pseudonym, now: Millis) -> Explanation {
        let fleet = &self.fleet;
        let client = self.client(pseudonym);
        let decision = decide_with(fleet, &fleet.standings(&health), &client, now);
        let name = |at: usize| fleet.hosts.get(at).map(|host| host.name.clone());
        let steps = decision.order.iter().filter_map(|tried| {
            Some(Step {
                host: name(tried.host)?,
                place: tried.place,
                because: tried.place.sentence().to_owned(),
            })
        });
        Explanation {
            client: pseudonym.to_string(),
            last_answer: client.last.map(|last| LastAnswerShown {
                host: last.host.and_then(name),
                seconds_ago: seconds(last.at, now),
                warm: last.warm,
                asks_today: last.asks_today,
            }),
            last_decision: None,
            reason: decision.reason,
            because: decision.reason.sentence().to_owned(),
            order: steps.collect(),
            fleet: self.status(health, now),
        }
    }
}

/// What relays counted before they said what.
fn addresses() -> ClientSource {
    ClientSource::Addresses
}

fn seconds(from: Millis, to: Millis) -> u64 {
    u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0) / 1000
}

impl fmt::Display for RoutingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            distinct_clients,
            clients_from,
            required_count,
            knowledge,
            ..
        } = self;
        writeln!(
            f,
            "{}; {distinct_clients} distinct clients ({clients_from}) in 30 days, N = {required_count}",
            knowledge.sentence()
        )?;
        for host in &self.hosts {
            let HostStatus {
                name,
                state,
                because,
                count,
                count_from,
                ..
            } = host;
            writeln!(f, "  {name:<16} {state:<13} count {count:>3} ({count_from}): {because}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {}: ", self.client)?;
        match &self.last_answer {
            Some(last) => writeln!(
                f,
                "last answered by {}, {} then, {} ago, {} requests within 24 hours",
                last.host.as_deref().unwrap_or("a host that is gone"),
                if last.warm { "warm" } else { "cold" },
                age(last.seconds_ago),
                last.asks_today
            )?,
            None => writeln!(f, "not answered within 30 days")?,
        }
        if let Some(last) = &self.last_decision {
            writeln!(
                f,
                "its last request here, {} ago: {}",
                age(last.seconds_ago),
                last.reason
            )?;
            for TriedHost { host, ended } in &last.tried {
                writeln!(f, "  {host:<19} {ended}: {}", ended.sentence())?;
            }
        }
        writeln!(f, "now {}: {}", self.reason, self.because)?;
        for (at, step) in (1u32..).zip(&self.order) {
            writeln!(f, "  {at}. {:<16} {}: {}", step.host, step.place, step.because)?;
        }
        writeln!(f)?;
        self.fleet.fmt(f)
    }
}

/// A length of time in its two largest units.
fn age(seconds: u64) -> String {
    let duration = Duration::from_secs(seconds);
    match duration.as_secs() {
        s if s < 60 => format!("{s} s"),
        s if s < 3600 => format!("{} min", s / 60),
        s if s < 86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        s => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::config::LicensedHostConfig;
    use crate::ledger::{Answered, Ledger, MemoryLedger};
    use crate::routing::{RoutingConfig, view::View};

    #[test]
    fn an_explanation_reads_well_and_travels_as_json() {
        const NOW: Millis = Millis(40 * 86_400_000);
        let host = |name: &str, weight| LicensedHostConfig {
            name: name.to_owned(),
            address: "127.0.0.1".to_owned(),
            port: 1688,
            weight,
            products: vec![],
            facts: None,
        };
        let hosts = [host("kms-1", 1), host("kms-2", 1), host("kms-3", 1), host("kms-old", 0)];
        let view = View::new(&RoutingConfig::default(), &hosts, NOW);
        let ledger = MemoryLedger::new();
        let client = |n: u8| Pseudonym([n; 16]);
        let answered = (0..22).map(|n| Answered {
            client: client(n),
            host: "kms-1".into(),
            at: Millis(NOW.0 - (n as i64 + 1) * 7_300_000),
            warm: true,
        });
        ledger
            .answered(&answered.collect::<Vec<_>>())
            .now_or_never()
            .unwrap()
            .unwrap();
        let read = ledger.routes(Millis(0), NOW).now_or_never().unwrap().unwrap();
        view.absorb(read, Millis(0), NOW);
        let health = |at| {
            if at == 2 {
                Health::Ejected {
                    lasting: Duration::from_secs(60),
                }
            } else {
                Health::Well
            }
        };
        let now = Millis(NOW.0 + 4000);
        let new = view.load().explain(health, client(0xee), now);
        let tried = [("kms-3", Ended::Failed), ("kms-1", Ended::Answered)].map(|(host, ended)| TriedHost {
            host: host.to_owned(),
            ended,
        });
        let renewing = Explanation {
            last_decision: Some(LastDecision::new(NOW, now, Reason::FailOver, tried.to_vec())),
            ..view.load().explain(health, client(21), now)
        };
        insta::assert_snapshot!(format!("{new}\n{renewing}"));
        for explanation in [new, renewing] {
            let json = serde_json::to_string(&explanation).unwrap();
            assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
        }
    }
}
