//! `kmsctl load`: many rehearsal requests, and how fast they are answered.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::iter;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use ipnet::{IpNet, Ipv4Net};
use kms_host::rehearsal::client::{Machine, Outcome};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::exit::{Exit, Misuse};
use crate::output::{View, duration, table};
use crate::rehearse::{Rehearsal, Session, machine};
use crate::target::Target;

/// Longest latency that is told apart, in microseconds: a minute.
const LONGEST: u64 = 60_000_000;

/// Machines that ask while no other number is given: at any speed that one generator reaches, none of them asks a host as
/// often as to be refused.
const MACHINES: u32 = 1000;

/// Addresses of the machines towards hosts on loopback, where every address is this machine's.
const LOOPBACK_SOURCES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 1, 0, 0), 16);

/// Sends rehearsal requests as fast as they are answered, or at a rate, and measures. Needs the site key; it is for
/// rehearsal hosts, alone or behind relays.
///
/// Exit code 0: every request was answered and none was refused; 4: some were refused; 1: some were not answered.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Connections at the same time
    #[arg(long, short, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Seconds to go on
    #[arg(long, short, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seconds before that which are not measured
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=3600))]
    warm_up: u64,
    /// Requests in a second over all connections [default: as many as are answered]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Keep each connection for all its requests, instead of a new one for each. All of these come from one address then
    #[arg(long)]
    keep_open: bool,
    /// Machines that ask, at least one for each connection [default: 1000, or as many as there are connections]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    machines: Option<u32>,
    /// Network of addresses of this machine, of which each machine that asks has its own; or `system`: all have the one that
    /// the system chooses. Hosts limit what comes from one address
    /// [default: 127.1.0.0/16 towards hosts on loopback, else system]
    #[arg(long, value_name = "CIDR")]
    sources: Option<Sources>,
    /// Product to ask for
    #[arg(long, default_value = "OfficeLTSC2024", value_name = "NAME")]
    product: String,
    /// File with the site key of the rehearsal hosts [default: that of `kmsctl up` here]
    #[arg(long, env = "OFFICEKMS_SITE_KEY_FILE", value_name = "FILE")]
    site_key_file: Option<PathBuf>,
    /// Seconds that each step of a request may take
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Requests that were answered.
    pub answered: u64,
    /// Of these, told that the client is licensed.
    pub licensed: u64,
    /// Of these, refused, by HRESULT such as `0xC004F042`. That too few clients are counted yet is no refusal.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Requests without an answer, by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// Answers in a second.
    pub requests_per_second: f64,
    /// From the connection's first byte (or the request's, on a kept connection) to the answer. With a rate, a request that
    /// had to wait for the answer to an earlier one is counted from the time when it was due.
    pub latency: Latency,
    /// Each second on its own.
    pub timeline: Vec<Second>,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// Half of all are at most this.
    pub p50_micros: u64,
    /// Nine of ten.
    pub p90_micros: u64,
    /// 99 of 100.
    pub p99_micros: u64,
    /// 999 of 1000.
    pub p999_micros: u64,
    /// The longest.
    pub max_micros: u64,
}

/// One second.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Second {
    /// Answers that came in it.
    pub answered: u64,
    /// Requests that failed in it.
    pub failed: u64,
    /// 99 of 100 of its answers took at most this, in microseconds.
    pub p99_micros: u64,
}

/// Where requests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sources {
    /// The address that the system chooses.
    System,
    /// Addresses of this network, which must be this machine's.
    Network(IpNet),
}

impl FromStr for Sources {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(network) => Ok(Self::Network(network)),
            Err(_) if text == "system" => Ok(Self::System),
            Err(_) => Err("neither a network such as 127.1.0.0/16 nor `system`"),
        }
    }
}

impl Sources {
    /// What is usual towards these servers.
    fn towards(servers: &[SocketAddr]) -> Self {
        let is_here = |server: &SocketAddr| server.is_ipv4() && server.ip().is_loopback();
        if servers.iter().all(is_here) {
            Self::Network(LOOPBACK_SOURCES.into())
        } else {
            Self::System
        }
    }

    /// Whether requests from here can go to this server.
    fn reach(self, server: SocketAddr) -> bool {
        match self {
            Self::System => true,
            Self::Network(network) => network.addr().is_ipv4() == server.is_ipv4(),
        }
    }

    /// The address of each machine, again from the first when there are no more.
    fn addresses(self) -> Box<dyn Iterator<Item = Option<IpAddr>>> {
        match self {
            Self::System => Box::new(iter::repeat(None)),
            Self::Network(network) => Box::new(network.hosts().cycle().map(Some)),
        }
    }
}

/// What one connection's worker saw.
struct Seen {
    seconds: Vec<(Histogram<u64>, u64)>,
    licensed: u64,
    refused: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

/// When to ask.
#[derive(Clone)]
struct Schedule {
    begin: Instant,
    end: Instant,
    rate: Option<u32>,
    turn: Arc<AtomicU64>,
}

impl Schedule {
    /// Waits for the next request's turn, and says when it was due. `None`: it is over.
    async fn next(&self) -> Option<Instant> {
        let mut due = Instant::now();
        if let Some(rate) = self.rate {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let at = self.begin + Duration::from_secs_f64(turn as f64 / f64::from(rate));
            if at > due {
                tokio::time::sleep_until(at.min(self.end).into()).await;
                // That a timer is late is not the host's doing.
                due = Instant::now();
            } else {
                due = at;
            }
        }
        (Instant::now() < self.end).then_some(due)
    }
}

/// Runs the load.
///
/// # Errors
/// When the hosts or the site key cannot be had. Requests that fail are in the report.
pub async fn run(args: &Args) -> Result<Report> {
    let connections = u32::from(args.connections);
    let machines = args.machines.unwrap_or(MACHINES.max(connections));
    if machines < connections {
        let message =
            format!("--machines {machines}: fewer than the {connections} --connections, each of which needs one");
        return Err(Misuse(message).into());
    }
    let key = args.target.site_key(args.site_key_file.as_deref())?;
    let patience = Duration::from_secs(args.timeout);
    let rehearsal = Arc::new(Rehearsal::new(&key, &args.product, patience)?);
    let places = args.target.hosts().await?.places(&mut rand::rng()).await?;
    let mut servers: Vec<SocketAddr> = places.iter().map(|place| place.address).collect();
    let sources = args.sources.unwrap_or_else(|| Sources::towards(&servers));
    servers.retain(|server| sources.reach(*server));
    if servers.is_empty() {
        return Err(Misuse("--sources: no address of the hosts is of the same family".to_owned()).into());
    }
    let machines = (1..=machines)
        .zip(sources.addresses())
        .map(|(number, from)| Ok((machine(&format!("load{number:06}"))?, from)))
        .collect::<Result<Vec<_>>>()?;

    let begin = Instant::now();
    let measured = begin + Duration::from_secs(args.warm_up);
    let schedule = Schedule {
        begin,
        end: measured + Duration::from_secs(args.seconds),
        rate: args.rate,
        turn: Arc::default(),
    };
    let bar = progress(args.warm_up + args.seconds);
    let mut workers = JoinSet::new();
    let count = usize::from(args.connections);
    for worker in 0..count {
        // Each machine belongs to one worker: its clock must go forward from request to request.
        let own: Vec<(Machine, Option<IpAddr>)> = machines.iter().skip(worker).step_by(count).cloned().collect();
        let (rehearsal, schedule) = (Arc::clone(&rehearsal), schedule.clone());
        if let Some(server) = servers.get(worker % servers.len()).copied() {
            workers.spawn(work(
                rehearsal,
                server,
                own,
                schedule,
                measured,
                args.seconds,
                args.keep_open,
            ));
        }
    }
    let mut all = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tokio::select! {
            seen = workers.join_next() => match seen {
                Some(seen) => all.push(seen.context("a worker broke")??),
                None => break,
            },
            _ = tick.tick() => bar.set_position(begin.elapsed().as_secs()),
        }
    }
    bar.finish_and_clear();
    Report::of(all, args.seconds)
}

fn progress(seconds: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos}/{len} s {wide_bar}").unwrap_or(ProgressStyle::default_bar());
    ProgressBar::new(seconds).with_style(style)
}

async fn work(
    rehearsal: Arc<Rehearsal>,
    server: SocketAddr,
    machines: Vec<(Machine, Option<IpAddr>)>,
    schedule: Schedule,
    measured: Instant,
    seconds: u64,
    keep_open: bool,
) -> Result<Seen> {
    let mut seen = Seen {
        seconds: Vec::new(),
        licensed: 0,
        refused: BTreeMap::new(),
        errors: BTreeMap::new(),
    };
    for _ in 0..seconds {
        seen.seconds.push((Histogram::new_with_max(LONGEST, 3)?, 0));
    }
    let mut session: Option<Session> = None;
    for (machine, from) in machines.iter().cycle() {
        let Some(began) = schedule.next().await else { break };
        let kept = session.take().filter(Session::is_usable);
        let asked = async {
            let mut session = match kept {
                Some(session) => session,
                None => rehearsal.open(server, *from).await?,
            };
            let outcome = rehearsal.ask(machine, &mut session).await?;
            Ok::<_, anyhow::Error>((session, outcome))
        };
        let result = asked.await;
        let Some(since) = began.checked_duration_since(measured) else {
            session = result.ok().map(|(session, _)| session).filter(|_| keep_open);
            continue;
        };
        let second = usize::try_from(since.as_secs())
            .ok()
            .and_then(|second| seen.seconds.get_mut(second));
        let Some((latencies, failed)) = second else { break };
        match result {
            Ok((used, outcome)) => {
                latencies.saturating_record(u64::try_from(began.elapsed().as_micros()).unwrap_or(LONGEST));
                match outcome {
                    Outcome::Licensed(_) => seen.licensed += 1,
                    Outcome::NotEnoughClients { .. } => {}
                    Outcome::Refused { hresult } => {
                        *seen.refused.entry(format!("0x{hresult:08X}")).or_default() += 1;
                    }
                }
                session = Some(used).filter(|_| keep_open);
            }
            Err(error) => {
                *failed += 1;
                *seen.errors.entry(format!("{error:#}")).or_default() += 1;
            }
        }
    }
    Ok(seen)
}

impl Report {
    fn of(all: Vec<Seen>, seconds: u64) -> Result<Self> {
        let mut whole = Histogram::<u64>::new_with_max(LONGEST, 3)?;
        let (mut licensed, mut refused, mut errors) = (0, BTreeMap::new(), BTreeMap::new());
        let mut timeline: Vec<(Histogram<u64>, u64)> = Vec::new();
        for seen in all {
            licensed += seen.licensed;
            for (all, of_one) in [(&mut refused, seen.refused), (&mut errors, seen.errors)] {
                for (what, count) in of_one {
                    *all.entry(what).or_default() += count;
                }
            }
            timeline.resize(
                timeline.len().max(seen.seconds.len()),
                (Histogram::new_with_max(LONGEST, 3)?, 0),
            );
            for ((sum, failed), (latencies, failures)) in timeline.iter_mut().zip(seen.seconds) {
                whole.add(&latencies)?;
                sum.add(&latencies)?;
                *failed += failures;
            }
        }
        Ok(Self {
            answered: whole.len(),
            licensed,
            refused,
            errors,
            requests_per_second: whole.len() as f64 / seconds.max(1) as f64,
            latency: Latency {
                p50_micros: whole.value_at_quantile(0.5),
                p90_micros: whole.value_at_quantile(0.9),
                p99_micros: whole.value_at_quantile(0.99),
                p999_micros: whole.value_at_quantile(0.999),
                max_micros: whole.max(),
            },
            timeline: timeline
                .into_iter()
                .map(|(latencies, failed)| Second {
                    answered: latencies.len(),
                    failed,
                    p99_micros: latencies.value_at_quantile(0.99),
                })
                .collect(),
        })
    }

    /// The exit code: whether every request was answered, and none refused.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if !self.errors.is_empty() || self.answered == 0 {
            Exit::Failed
        } else if self.refused.is_empty() {
            Exit::Ok
        } else {
            Exit::Refused
        }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        let micros = |value| duration(Duration::from_micros(value));
        let mut rows = table([
            "requests/s",
            "answered",
            "licensed",
            "refused",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "max",
        ]);
        rows.add_row([
            format!("{:.0}", self.requests_per_second),
            self.answered.to_string(),
            self.licensed.to_string(),
            self.refused.values().sum::<u64>().to_string(),
            micros(self.latency.p50_micros),
            micros(self.latency.p90_micros),
            micros(self.latency.p99_micros),
            micros(self.latency.p999_micros),
            micros(self.latency.max_micros),
        ]);
        writeln!(out, "{rows}")?;
        for (hresult, count) in &self.refused {
            writeln!(out, "\n{count} times: refused with {hresult}")?;
        }
        for (error, count) in &self.errors {
            writeln!(out, "\n{count} times: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
