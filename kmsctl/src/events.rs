//! `kmsctl events`: KMS events 12290 of the ledger.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Result;
use kms_host::admin::{Events, MOST_EVENTS};
use kms_host::ledger::StoredEvent;
use serde::Serialize;

use crate::admin::{Admin, Replicas};
use crate::output::{Format, View, table};

/// How often new events are asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shows KMS events 12290: who asked, what was answered. Those of rehearsal hosts, and those that were read from licensed
/// hosts, are in the ledger that replicas share, so one replica's admin endpoint is enough.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Newest events to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    last: u16,
    /// Go on with new events until interrupted; with `-o json` each is one line
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    replicas: Replicas,
}

/// Events, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report(Vec<StoredEvent>);

/// Reads the newest events, or follows them until interrupted.
///
/// # Errors
/// When no replica answers. While following, one that stops to answer is waited for.
pub async fn run(args: &Args, format: Format) -> Result<()> {
    let admins = args.replicas.some().await?;
    let ledgers = read_all(&admins, &format!("/events?limit={}", args.last)).await?;
    let mut events: Vec<StoredEvent> = ledgers.iter().flat_map(|(_, events)| events.iter().cloned()).collect();
    events.sort_by_key(|event| event.event.at);
    if !args.follow {
        let report = Report(events.split_off(events.len().saturating_sub(args.last.into())));
        return crate::output::print(format, &report);
    }
    let mut out = io::stdout().lock();
    for event in &events {
        line(format, event, &mut out)?;
    }
    let mut cursors: Vec<(Admin, String)> = ledgers
        .into_iter()
        .map(|(admin, events)| {
            (
                admin,
                events.last().map_or_else(String::new, |event| event.cursor.clone()),
            )
        })
        .collect();
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        interval.tick().await;
        for (admin, cursor) in &mut cursors {
            // Without an event to start from, all are new.
            let path = match cursor.as_str() {
                "" => format!("/events?limit={MOST_EVENTS}"),
                cursor => format!("/events?after={cursor}&limit={MOST_EVENTS}"),
            };
            match admin.get::<Events>(&path).await {
                Ok(Events { events }) => {
                    for event in events {
                        line(format, &event, &mut out)?;
                        *cursor = event.cursor;
                    }
                }
                Err(error) => tracing::warn!("{error:#}; trying again"),
            }
        }
    }
}

/// The events of each ledger: replicas that share one show the same, so those of the second are left out.
async fn read_all(admins: &[Admin], path: &str) -> Result<Vec<(Admin, Vec<StoredEvent>)>> {
    let mut ledgers: Vec<(Admin, Vec<StoredEvent>)> = Vec::new();
    let mut failed = None;
    for admin in admins {
        match admin.get::<Events>(path).await {
            Ok(Events { events }) if ledgers.iter().any(|(_, other)| *other == events) => {}
            Ok(Events { events }) => ledgers.push((admin.clone(), events)),
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if ledgers.is_empty() => Err(error),
        _ => Ok(ledgers),
    }
}

fn line(format: Format, event: &StoredEvent, out: &mut impl Write) -> Result<()> {
    match format {
        Format::Table => writeln!(out, "{}", cells(event).join("  "))?,
        Format::Json => writeln!(out, "{}", serde_json::to_string(event)?)?,
        Format::Yaml => writeln!(out, "---\n{}", serde_saphyr::to_string(event)?.trim_end())?,
    }
    Ok(out.flush()?)
}

fn cells(stored: &StoredEvent) -> [String; 6] {
    let event = &stored.event;
    let at = jiff::Timestamp::from_millisecond(event.at.0).map(|at| format!("{at:.0}"));
    [
        at.unwrap_or_else(|_| event.at.0.to_string()),
        event.client_name.clone(),
        event.host.clone(),
        format!("0x{:08X}", event.hresult),
        format!("N={}", event.required),
        event.cmid.to_string(),
    ]
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.0.is_empty() {
            return writeln!(out, "No events yet.");
        }
        let mut rows = table(["time", "client", "host", "result", "required", "cmid"]);
        for event in &self.0 {
            rows.add_row(cells(event));
        }
        writeln!(out, "{rows}")
    }
}
