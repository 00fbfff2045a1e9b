//! `kmsctl activate`: rehearsal clients that ask to be activated.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kms_host::rehearsal::client::Outcome;
use serde::Serialize;

use crate::exit::{Exit, Misuse};
use crate::output::{View, duration, table};
use crate::rehearse::{Activation, Rehearsal, machine};
use crate::target::{Hosts, Target};

/// From so many clients on the table shows only those that were not licensed.
const MANY: usize = 50;

/// Asks for activation as rehearsal clients would, and tells what each concludes. Needs the site key: licensed hosts do
/// not answer rehearsal clients, and nothing of Microsoft's is activated.
///
/// Exit code 0: all are licensed; 3: some were told that too few clients are counted; 4: some were refused; 1: no answer.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Number of clients
    #[arg(long, short = 'n', default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Number of the first client: others than those of an earlier call count anew
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..1_000_000))]
    first: u32,
    /// Names of the clients are this and their number; a name always has the same client machine ID
    #[arg(long, default_value = "pc", value_name = "PREFIX")]
    name: String,
    /// Product to activate
    #[arg(long, default_value = "OfficeLTSC2024", value_name = "NAME")]
    product: String,
    /// File with the site key of the rehearsal hosts [default: that of `kmsctl up` here]
    #[arg(long, env = "OFFICEKMS_SITE_KEY_FILE", value_name = "FILE")]
    site_key_file: Option<PathBuf>,
    /// Address of this machine from which the clients ask, so that a relay sees others than those of another call
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// Clients that ask at the same time
    #[arg(long, default_value_t = 1, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
    /// Seconds that each step of a request may take
    #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

/// How all clients fared.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Clients by what they conclude.
    pub licensed: usize,
    /// Told that too few clients are counted.
    pub not_enough_clients: usize,
    /// Refused by the host.
    pub refused: usize,
    /// Without an answer.
    pub failed: usize,
    /// Each client.
    pub clients: Vec<Client>,
}

/// How one client fared.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    /// Its name.
    pub name: String,
    /// What it concludes.
    pub outcome: Conclusion,
    /// Host name and port that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The count that it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_count: Option<u32>,
    /// N, the count that it requires.
    pub required_count: u32,
    /// HRESULT that it reports, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hresult: Option<String>,
    /// Milliseconds from the connection's first byte to the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_millis: Option<f64>,
    /// What went wrong at hosts that were tried before, or altogether.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// What a client concludes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Conclusion {
    /// Activated.
    Licensed,
    /// The count is below N; it asks again after the activation interval.
    NotEnoughClients,
    /// The host said no.
    Refused,
    /// No host answered.
    NoAnswer,
}

impl Conclusion {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Licensed => "licensed",
            Self::NotEnoughClients => "not enough clients yet",
            Self::Refused => "refused",
            Self::NoAnswer => "no answer",
        }
    }
}

/// Lets the clients ask.
///
/// # Errors
/// When the hosts or the site key cannot be had. What a client is told is in the report.
pub async fn run(args: &Args) -> Result<Report> {
    let key = args.target.site_key(args.site_key_file.as_deref())?;
    let rehearsal = Rehearsal::new(&key, &args.product, Duration::from_secs(args.timeout))?;
    let hosts = args.target.hosts().await?;
    let Some(last) = args.first.checked_add(args.count - 1) else {
        return Err(Misuse("--first and --count lead beyond the largest number".to_owned()).into());
    };
    let width = last.to_string().len().max(2);
    let name = |number| format!("{}{number:0width$}", args.name);
    machine(&name(last))?;
    let bar = ProgressBar::new(args.count.into()).with_style(
        ProgressStyle::with_template("{pos}/{len} clients {wide_bar} {eta}").unwrap_or(ProgressStyle::default_bar()),
    );
    let clients: Vec<Client> = futures::stream::iter(args.first..=last)
        .map(|number| one(&rehearsal, &hosts, args.from, name(number)))
        .buffered(args.parallel.into())
        .inspect(|_| bar.inc(1))
        .collect()
        .await;
    bar.finish_and_clear();
    Ok(Report::new(clients))
}

async fn one(rehearsal: &Rehearsal, hosts: &Hosts, from: Option<IpAddr>, name: String) -> Client {
    let asked = async {
        let machine = machine(&name)?;
        let places = hosts.places(&mut rand::rng()).await?;
        rehearsal.activate(&machine, &places, from).await
    };
    let asked = asked.await;
    Client::new(name, rehearsal.required(), asked)
}

impl Client {
    /// How the client of this name fared.
    #[must_use]
    pub fn new(name: String, required_count: u32, asked: Result<Activation>) -> Self {
        let client = Self {
            name,
            outcome: Conclusion::NoAnswer,
            host: None,
            current_count: None,
            required_count,
            hresult: None,
            latency_millis: None,
            errors: Vec::new(),
        };
        match asked {
            Ok(activation) => Self {
                outcome: match &activation.outcome {
                    Outcome::Licensed(_) => Conclusion::Licensed,
                    Outcome::NotEnoughClients { .. } => Conclusion::NotEnoughClients,
                    Outcome::Refused { .. } => Conclusion::Refused,
                },
                host: Some(activation.place.name),
                current_count: activation.outcome.current_count(),
                hresult: Some(format!("{:#010X}", activation.outcome.hresult()).replace("0X", "0x")),
                latency_millis: Some(activation.latency.as_secs_f64() * 1e3),
                errors: activation.passed_by,
                ..client
            },
            Err(error) => Self {
                errors: vec![format!("{error:#}")],
                ..client
            },
        }
    }
}

impl Client {
    /// The count that it was told: beside the required one while it is too low, else alone.
    #[must_use]
    pub fn count_in_words(&self) -> Option<String> {
        let count = self.current_count?;
        Some(if count < self.required_count {
            format!("{count} of {}", self.required_count)
        } else {
            count.to_string()
        })
    }
}

impl Report {
    fn new(clients: Vec<Client>) -> Self {
        let of = |outcome| clients.iter().filter(|client| client.outcome == outcome).count();
        Self {
            licensed: of(Conclusion::Licensed),
            not_enough_clients: of(Conclusion::NotEnoughClients),
            refused: of(Conclusion::Refused),
            failed: of(Conclusion::NoAnswer),
            clients,
        }
    }

    /// The exit code that tells the worst of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let when = |any: bool, exit| if any { exit } else { Exit::Ok };
        when(self.not_enough_clients > 0, Exit::NotYet)
            .worst(when(self.refused > 0, Exit::Refused))
            .worst(when(self.failed > 0, Exit::Failed))
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut rows = table(["client", "outcome", "count", "host", "latency", "code"]);
        let few = self.clients.len() <= MANY;
        for client in self
            .clients
            .iter()
            .filter(|client| few || client.outcome != Conclusion::Licensed)
        {
            let count = client.count_in_words();
            let latency = client
                .latency_millis
                .map(|millis| duration(Duration::from_secs_f64(millis / 1e3)));
            rows.add_row([
                client.name.clone(),
                client.outcome.words().to_owned(),
                count.unwrap_or_default(),
                client.host.clone().unwrap_or_default(),
                latency.unwrap_or_default(),
                client.hresult.clone().unwrap_or_default(),
            ]);
        }
        if !rows.is_empty() {
            writeln!(out, "{rows}\n")?;
        }
        for error in self.clients.iter().flat_map(|client| &client.errors).take(MANY) {
            writeln!(out, "error: {error}")?;
        }
        writeln!(
            out,
            "{} licensed, {} not yet, {} refused, {} without an answer",
            self.licensed, self.not_enough_clients, self.refused, self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(outcome: Conclusion) -> Client {
        Client {
            outcome,
            ..Client::new("pc01".to_owned(), 5, Err(anyhow::anyhow!("away")))
        }
    }

    #[test]
    fn the_exit_code_tells_the_worst() {
        use Conclusion::{Licensed, NoAnswer, NotEnoughClients, Refused};
        for (outcomes, exit) in [
            (&[Licensed, Licensed][..], Exit::Ok),
            (&[Licensed, NotEnoughClients], Exit::NotYet),
            (&[NotEnoughClients, Refused], Exit::Refused),
            (&[Refused, NoAnswer, Licensed], Exit::Failed),
        ] {
            let report = Report::new(outcomes.iter().map(|outcome| client(*outcome)).collect());
            assert_eq!(report.exit(), exit, "{outcomes:?}");
        }
    }

    #[test]
    fn the_table_shows_each_client_and_what_went_wrong() {
        let report = Report::new(vec![client(Conclusion::NoAnswer)]);
        let mut text = Vec::new();
        report.view(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("pc01") && text.contains("no answer"), "{text}");
        assert!(text.contains("error: away"), "{text}");
        assert!(
            text.ends_with("0 licensed, 0 not yet, 0 refused, 1 without an answer\n"),
            "{text}"
        );
    }
}
