//! Host replicas as they see themselves.

use std::io::{self, Write};

use anyhow::Result;
use kms_host::admin::Status;
use kms_host::relay::LicensedHostStatus;
use serde::Serialize;

use crate::exit::Exit;
use crate::output::table;

/// A host replica.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its admin endpoint.
    pub admin: String,
    /// What it says of itself.
    #[serde(flatten)]
    pub status: Option<Status>,
    /// Why it says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Replica {
    pub(super) fn new(admin: String, answer: Result<Status>) -> Self {
        match answer {
            Ok(status) => Self {
                admin,
                status: Some(status),
                error: None,
            },
            Err(error) => Self {
                admin,
                status: None,
                error: Some(format!("{error:#}")),
            },
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match &self.status {
            Some(status) if status.ready && faults(status).is_empty() => Exit::Ok,
            Some(_) => Exit::NotYet,
            None => Exit::Failed,
        }
    }
}

/// What keeps a replica that is ready from its work: each is not for it alone to end.
fn faults(status: &Status) -> Vec<String> {
    let mut faults = Vec::new();
    if let Some(routing) = &status.routing
        && !routing.hosts.iter().any(|host| host.state.is_eligible())
    {
        faults.push("no licensed host may be asked: its clients are answered by nobody".to_owned());
    }
    if !status.ledger.available {
        let why = status.ledger.error.as_deref().unwrap_or("it did not say why");
        faults.push(format!("its ledger is away: {why}"));
    }
    faults
}

/// What people are to know of a replica beside its figures.
fn notes(status: &Status) -> Vec<String> {
    let mut notes = faults(status);
    let reload = status.config.last_reload.as_ref();
    if let Some(error) = reload.and_then(|reload| reload.error.as_ref()) {
        notes.push(format!("the changed configuration is not in use: {error}"));
    }
    if !status.config.needs_restart.is_empty() {
        let fields = status.config.needs_restart.join(", ");
        notes.push(format!("changed, and waits for a restart: {fields}"));
    }
    notes
}

/// A licensed host's last failure, if it ever failed.
pub(super) fn failed_last(host: &LicensedHostStatus) -> Option<String> {
    let failure = host.last_failure.as_ref()?;
    Some(format!("failed {} s ago: {}", failure.seconds_ago, failure.error))
}

pub(super) fn view(replicas: &[Replica], out: &mut dyn Write) -> io::Result<()> {
    overview(replicas, out)?;
    for status in replicas.iter().filter_map(|replica| replica.status.as_ref()) {
        let Some(routing) = &status.routing else { continue };
        writeln!(out, "\nLicensed hosts as {} sees them:", status.name)?;
        let mut hosts = table(["host", "address", "health", "count", "answered", "failed", "routing"]);
        for host in &status.licensed_hosts {
            let routed = routing.hosts.iter().find(|routed| routed.name == host.name);
            let count = routed.map(|routed| format!("{} of {}", routed.count, routing.required_count));
            let routed = routed.map(|routed| format!("{}: {}", routed.state, routed.because));
            hosts.add_row([
                host.name.clone(),
                host.address.clone(),
                host.health.clone(),
                count.unwrap_or_default(),
                host.answered.to_string(),
                host.failed.to_string(),
                routed.unwrap_or_default(),
            ]);
        }
        writeln!(out, "{hosts}")?;
        for host in &status.licensed_hosts {
            if let Some(failed) = failed_last(host) {
                writeln!(out, "{} {failed}", host.name)?;
            }
        }
    }
    Ok(())
}

/// A row for each replica, and what is not as it should be.
pub(super) fn overview(replicas: &[Replica], out: &mut dyn Write) -> io::Result<()> {
    let mut rows = table(["replica", "mode", "ready", "clients", "requests", "ledger", "admin"]);
    for replica in replicas {
        let Some(status) = &replica.status else {
            let gone = ["?", "", "no", "", "", "", replica.admin.as_str()];
            rows.add_row(gone);
            continue;
        };
        let counts = status.ledger.counts.iter();
        let count = counts.map(|count| format!("{} of {}", count.current_count, count.largest_required));
        let clients = match &status.routing {
            Some(routing) => format!("{} known", routing.distinct_clients),
            None => count.collect::<Vec<_>>().join(", "),
        };
        rows.add_row([
            status.name.as_str(),
            &status.mode,
            if status.ready { "yes" } else { "no" },
            &clients,
            &status.requests.values().sum::<u64>().to_string(),
            if status.ledger.available { "answers" } else { "away" },
            &replica.admin,
        ]);
    }
    writeln!(out, "{rows}")?;
    for replica in replicas {
        if let Some(error) = &replica.error {
            writeln!(out, "\nerror: {error}")?;
        }
        if let Some(status) = &replica.status {
            for note in notes(status) {
                writeln!(out, "\n{}: {note}", status.name)?;
            }
        }
    }
    Ok(())
}
