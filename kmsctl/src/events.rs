//! `kmsctl events`: KMS events 12290 of the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::Result;
use kms_host::admin::{Events, MOST_EVENTS};
use kms_host::ledger::StoredEvent;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use uuid::Uuid;

use crate::admin::{Admin, Replicas};
use crate::output::{Format, View, is_broken_pipe, table};

/// How often new events are asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shows KMS events 12290: who asked, what was answered. Those of rehearsal hosts, and those that were read from licensed
/// hosts, are in the ledger that replicas share, so one replica's admin endpoint is enough. Of replicas with ledgers of their
/// own, the events of all are shown.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Newest events to show
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    last: u16,
    /// Go on with new events until interrupted, or until nobody reads them; with `-o json` each is one line
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    replicas: Replicas,
}

/// Events, oldest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report(Vec<StoredEvent>);

/// Reads the newest events, or follows them until interrupted or nobody reads them any more.
///
/// # Errors
/// When no replica answers. While following, one that stops to answer is waited for.
pub async fn run(args: &Args, format: Format) -> Result<()> {
    let mut ledgers = Ledgers::of(args.replicas.some().await?, args.last.into());
    let Look { mut events, failed } = ledgers.look().await;
    for error in failed {
        if ledgers.cursors.is_empty() {
            return Err(error);
        }
        tracing::warn!("{error:#}");
    }
    if !args.follow {
        let report = Report(events.split_off(events.len().saturating_sub(args.last.into())));
        return crate::output::print(format, &report);
    }
    match follow(ledgers, events, format).await {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        ended => ended,
    }
}

async fn follow(mut ledgers: Ledgers<Admin>, mut events: Vec<StoredEvent>, format: Format) -> Result<()> {
    let mut out = io::stdout().lock();
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        for event in &events {
            line(format, event, &mut out)?;
        }
        interval.tick().await;
        // Without an event nothing is written that could fail, and `| head` would wait for one.
        if nobody_reads(&out) {
            return Ok(());
        }
        let look = ledgers.look().await;
        for error in look.failed {
            tracing::warn!("{error:#}; trying again");
        }
        events = look.events;
    }
}

/// Whether this is a pipe whose reader is gone.
fn nobody_reads(out: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(out, PollFlags::empty())];
    let polled = rustix::event::poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    polled.is_ok() && asked.iter().any(|asked| asked.revents().contains(PollFlags::ERR))
}

/// Who can be asked for events.
trait Shows {
    /// At most `limit` events, oldest first: those after a cursor, or the newest ones.
    async fn events(&self, after: Option<&str>, limit: usize) -> Result<Events>;
}

impl Shows for Admin {
    async fn events(&self, after: Option<&str>, limit: usize) -> Result<Events> {
        let path = match after {
            Some(cursor) => format!("/events?after={cursor}&limit={limit}"),
            None => format!("/events?limit={limit}"),
        };
        self.get(&path).await
    }
}

/// The ledgers of replicas, and how far each has been read. Of replicas that share one, the first that answers shows it.
struct Ledgers<R> {
    /// Each with the ledger that it showed last.
    replicas: Vec<(R, Option<Uuid>)>,
    /// The last event's cursor; empty before the first event.
    cursors: BTreeMap<Uuid, String>,
    /// How many events of a ledger are wanted that nothing is known of yet.
    newest: usize,
}

/// What one look at all ledgers brought.
#[derive(Default)]
struct Look {
    /// Events that were not seen before, oldest first.
    events: Vec<StoredEvent>,
    failed: Vec<anyhow::Error>,
}

impl<R: Shows> Ledgers<R> {
    fn of(replicas: Vec<R>, newest: usize) -> Self {
        Self {
            replicas: replicas.into_iter().map(|replica| (replica, None)).collect(),
            cursors: BTreeMap::new(),
            newest,
        }
    }

    async fn look(&mut self) -> Look {
        let (mut look, mut seen) = (Look::default(), BTreeSet::new());
        for (replica, ledger) in &mut self.replicas {
            if ledger.is_some_and(|ledger| seen.contains(&ledger)) {
                continue;
            }
            match new_events(replica, ledger, &self.cursors, &seen, self.newest).await {
                Ok(Some(new)) => {
                    seen.insert(new.ledger);
                    let cursor = self.cursors.entry(new.ledger).or_default();
                    if let Some(last) = new.events.last() {
                        cursor.clone_from(&last.cursor);
                    }
                    look.events.extend(new.events);
                }
                Ok(None) => {}
                Err(error) => look.failed.push(error),
            }
        }
        look.events.sort_by_key(|event| event.event.at);
        look
    }
}

/// What is new at a replica; none where another replica showed the same ledger. The replica is asked once more when its ledger
/// is not the one that the question was for: a cursor is of one ledger, and one in memory begins anew with its replica.
async fn new_events(
    replica: &impl Shows,
    ledger: &mut Option<Uuid>,
    cursors: &BTreeMap<Uuid, String>,
    seen: &BTreeSet<Uuid>,
    newest: usize,
) -> Result<Option<Events>> {
    for _ in 0..2 {
        let cursor = ledger.and_then(|ledger| cursors.get(&ledger));
        let after = cursor.map(String::as_str).filter(|cursor| !cursor.is_empty());
        // Of a replica that has shown a ledger before, everything is new.
        let limit = if ledger.is_some() { MOST_EVENTS } else { newest };
        let answer = replica.events(after, limit).await?;
        let before = ledger.replace(answer.ledger);
        if seen.contains(&answer.ledger) {
            return Ok(None);
        }
        let is_first = before.is_none() && !cursors.contains_key(&answer.ledger);
        if is_first || before == Some(answer.ledger) {
            return Ok(Some(answer));
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Arc;

    use anyhow::bail;
    use kms_host::ledger::{Event, Ledger as _, MemoryLedger, Millis};

    use super::*;

    /// A replica whose ledger can be exchanged; without one it is away.
    #[derive(Default)]
    struct Replica(RefCell<Option<Arc<MemoryLedger>>>);

    impl Replica {
        fn with(ledger: &Arc<MemoryLedger>) -> Self {
            Self(RefCell::new(Some(Arc::clone(ledger))))
        }
    }

    impl Shows for &Replica {
        async fn events(&self, after: Option<&str>, limit: usize) -> Result<Events> {
            let ledger = self.0.borrow().clone();
            let Some(ledger) = ledger else { bail!("away") };
            let mut events = match after {
                Some(cursor) => ledger.events(Some(cursor), limit).await?,
                None => ledger.recent_events(limit).await?,
            };
            if after.is_none() {
                events.reverse();
            }
            Ok(Events {
                ledger: ledger.id(),
                events,
            })
        }
    }

    async fn happens(ledger: &MemoryLedger, client: &str, at: i64) {
        let event = Event {
            at: Millis(at),
            host: "kms1".to_owned(),
            hresult: 0,
            required: 5,
            client_name: client.to_owned(),
            cmid: Uuid::nil(),
            client_time: String::new(),
            virtual_machine: false,
            license_status: 1,
            minutes_to_expiration: 0,
            activation_id: Uuid::nil(),
        };
        ledger.append_events(&[event]).await.unwrap();
    }

    /// The clients of the events that a look brings, and how many replicas did not answer.
    async fn seen(ledgers: &mut Ledgers<&Replica>) -> (Vec<String>, usize) {
        let look = ledgers.look().await;
        let clients = look.events.into_iter().map(|event| event.event.client_name);
        (clients.collect(), look.failed.len())
    }

    fn of(clients: &[&str]) -> (Vec<String>, usize) {
        (clients.iter().map(ToString::to_string).collect(), 0)
    }

    #[tokio::test]
    async fn a_ledger_that_replicas_share_is_shown_once_and_two_that_are_alike_are_two() {
        let (shared, own) = (Arc::new(MemoryLedger::new()), Arc::new(MemoryLedger::new()));
        let replicas = [Replica::with(&shared), Replica::with(&shared), Replica::with(&own)];
        let mut ledgers = Ledgers::of(replicas.iter().collect(), 20);
        assert_eq!(seen(&mut ledgers).await, of(&[]), "both are empty");
        happens(&own, "pc2", 2).await;
        happens(&shared, "pc1", 1).await;
        happens(&shared, "pc3", 3).await;
        assert_eq!(seen(&mut ledgers).await, of(&["pc1", "pc2", "pc3"]));
        assert_eq!(seen(&mut ledgers).await, of(&[]));
    }

    #[tokio::test]
    async fn another_replica_shows_the_ledger_where_the_first_left_off() {
        let shared = Arc::new(MemoryLedger::new());
        let (first, second) = (Replica::with(&shared), Replica::default());
        let mut ledgers = Ledgers::of(vec![&first, &second], 2);
        for (at, client) in ["pc1", "pc2", "pc3"].iter().enumerate() {
            happens(&shared, client, i64::try_from(at).unwrap()).await;
        }
        assert_eq!(
            seen(&mut ledgers).await.0,
            ["pc2", "pc3"],
            "the newest that were asked for"
        );
        happens(&shared, "pc4", 4).await;
        second.0.swap(&first.0);
        assert_eq!(seen(&mut ledgers).await, (vec!["pc4".to_owned()], 1));
        assert_eq!(seen(&mut ledgers).await, (vec![], 1));
    }

    #[tokio::test]
    async fn a_ledger_that_begins_anew_is_shown_from_its_beginning() {
        let before = Arc::new(MemoryLedger::new());
        let replica = Replica::with(&before);
        for client in ["pc1", "pc2", "pc3"] {
            happens(&before, client, 1).await;
        }
        let mut ledgers = Ledgers::of(vec![&replica], 1);
        assert_eq!(seen(&mut ledgers).await, of(&["pc3"]));
        let anew = Arc::new(MemoryLedger::new());
        *replica.0.borrow_mut() = Some(Arc::clone(&anew));
        happens(&anew, "pc4", 2).await;
        happens(&anew, "pc5", 3).await;
        assert_eq!(seen(&mut ledgers).await, of(&["pc4", "pc5"]));
        happens(&anew, "pc6", 4).await;
        assert_eq!(seen(&mut ledgers).await, of(&["pc6"]));
    }
}
