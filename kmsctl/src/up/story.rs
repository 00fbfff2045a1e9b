//! Rehearsal clients that find the service through DNS and ask to be activated, told step by step.

use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Result;
use kms_dns::discover::ResolverSource;

use super::replicas::Running;
use crate::activate::{Client, Conclusion};
use crate::exit::Exit;
use crate::local::Local;
use crate::rehearse::{Rehearsal, machine};
use crate::target::Hosts;

/// How long each step of a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a client asks: the second time is the one that the activation interval brings.
const ROUNDS: u32 = 2;

/// Lets clients ask, and those that were not licensed ask again, as they would after the activation interval.
///
/// # Errors
/// When there is nothing to find, or the site key cannot be read.
pub(super) async fn tell(product: &str, clients: Option<u32>, running: &Running, local: &Local) -> Result<Exit> {
    let Some(site_key) = &running.site_key else {
        say(format_args!(
            "No rehearsal host in this manifest: its clients are your own. Licensed hosts answer no rehearsal clients."
        ))?;
        return Ok(Exit::Ok);
    };
    let rehearsal = Rehearsal::new(site_key, product, PATIENCE)?;
    let hosts = hosts(local)?;
    let required = rehearsal.required();
    let clients = clients.unwrap_or(required + 1);
    if clients == 0 {
        return Ok(Exit::Ok);
    }
    let how = match &hosts {
        Hosts::Zone { zone, .. } => format!("look up _vlmcs._tcp.{zone} and ask"),
        Hosts::Named { name, .. } => format!("ask {name}"),
    };
    say(format_args!(
        "{clients} clients {how} for {product}, which needs a count of {required}:"
    ))?;
    let mut waiting: Vec<u32> = (1..=clients).collect();
    let mut exit = Exit::Ok;
    for round in 1..=ROUNDS {
        if waiting.is_empty() {
            break;
        }
        if round > 1 {
            say(format_args!(
                "The others ask again, as they would after the activation interval:"
            ))?;
        }
        let mut not_yet = Vec::new();
        for number in waiting {
            let client = ask(&rehearsal, &hosts, number).await;
            tell_of(&client)?;
            if client.outcome != Conclusion::Licensed {
                not_yet.push(number);
            }
        }
        waiting = not_yet;
    }
    if waiting.is_empty() {
        say(format_args!("All {clients} clients are licensed."))?;
    } else {
        say(format_args!("{} of {clients} clients are not licensed.", waiting.len()))?;
        exit = Exit::NotYet;
    }
    Ok(exit)
}

/// By the first zone, or by the first relay where there is none.
fn hosts(local: &Local) -> Result<Hosts> {
    if let Some(zone) = local.zones.first() {
        return Ok(Hosts::Zone {
            zone: zone.name.parse()?,
            source: ResolverSource::Servers(vec![zone.server]),
        });
    }
    crate::target::first_replica(local)
}

async fn ask(rehearsal: &Rehearsal, hosts: &Hosts, number: u32) -> Client {
    let name = format!("pc{number:02}.demo.example");
    // Each has an address of its own, as machines have.
    let from = u8::try_from(number)
        .ok()
        .map(|last| IpAddr::V4(Ipv4Addr::new(127, 0, 1, last)));
    let asked = async {
        let places = hosts.places(&mut rand::rng()).await?;
        rehearsal.activate(&machine(&name)?, &places, from).await
    };
    let asked = asked.await;
    Client::new(name, rehearsal.required(), asked)
}

fn tell_of(client: &Client) -> io::Result<()> {
    let host = client.host.as_deref().unwrap_or("nobody");
    let count = client.count_in_words().map(|count| format!("count {count}, "));
    let code = match client.outcome {
        Conclusion::Licensed | Conclusion::NoAnswer => String::new(),
        Conclusion::NotEnoughClients | Conclusion::Refused => {
            format!(" ({})", client.hresult.as_deref().unwrap_or_default())
        }
    };
    say(format_args!(
        "  {}  {host} answered: {}{}{code}",
        client.name,
        count.unwrap_or_default(),
        client.outcome.words()
    ))?;
    for error in &client.errors {
        say(format_args!("      passed by {error}"))?;
    }
    Ok(())
}

/// One line of the story, at once.
pub(super) fn say(line: std::fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
