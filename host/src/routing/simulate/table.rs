//! Outcomes as a table, in Markdown that also reads well in a terminal.

use std::fmt::Write;
use std::time::Duration;

use super::{Outcome, PolicyName};

/// A row for each outcome.
pub fn table(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "|  N | hosts | clients | policy      |   4 h |  24 h |   7 d |  40 d | the last after | lost |\n\
         |---:|------:|--------:|-------------|------:|------:|------:|------:|---------------:|-----:|\n",
    );
    for outcome in outcomes {
        let scenario = &outcome.scenario;
        let [hours4, hours24, days7, days40] = outcome.licensed_after.map(percent);
        let last = outcome.last_licensed_after.map_or_else(|| "never".to_owned(), length);
        let policy = scenario.policy.as_str();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {:>2} | {:>5} | {:>7} | {policy:<11} | {hours4:>5} | {hours24:>5} | {days7:>5} | {days40:>5} | {last:>14} | {:>4} |",
            scenario.required, scenario.hosts, scenario.clients, outcome.lost,
        );
    }
    text
}

/// One row for each N, number of hosts and number of clients; for each policy the shares after 24 hours and 40 days.
pub fn summary(outcomes: &[Outcome]) -> String {
    let policies: Vec<PolicyName> = PolicyName::ALL
        .into_iter()
        .filter(|name| outcomes.iter().any(|o| o.scenario.policy == *name))
        .collect();
    let mut text = String::from("|  N | hosts | clients |");
    for policy in &policies {
        let _ = write!(text, " {:>15} |", policy.as_str());
    }
    text.push_str("\n|---:|------:|--------:|");
    policies.iter().for_each(|_| text.push_str("----------------:|"));
    text.push('\n');
    let place = |o: &Outcome| (o.scenario.required, o.scenario.hosts, o.scenario.clients);
    for row in outcomes.chunk_by(|a, b| place(a) == place(b)) {
        let Some((required, hosts, clients)) = row.first().map(place) else {
            continue;
        };
        let _ = write!(text, "| {required:>2} | {hosts:>5} | {clients:>7} |");
        for policy in &policies {
            let cell = row.iter().find(|outcome| outcome.scenario.policy == *policy);
            let [_, hours24, _, days40] = cell
                .map(|outcome| outcome.licensed_after.map(percent))
                .unwrap_or_default();
            let _ = write!(text, " {:>15} |", format!("{hours24} -> {days40}"));
        }
        text.push('\n');
    }
    text
}

/// Rounded down, so that 100 % means all.
fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

fn length(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    match (minutes / (24 * 60), minutes / 60 % 24, minutes % 60) {
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
