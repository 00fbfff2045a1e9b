//! The page for people: one document without scripts, fonts or images, made anew every five seconds.
//!
//! Everything that is not ours (names, errors, events of clients) is escaped; the content security policy allows the one
//! style sheet by its hash and nothing else.

use std::fmt::{self, Display, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::status::{Observations, Status};
use crate::ledger::{ApplicationCount, Millis, StoredEvent};

const STYLE: &str = include_str!("page.css");

/// Seconds between refreshes.
const REFRESH: u32 = 5;

/// Nothing may be loaded, run, framed or sent; the inline style sheet is allowed by its hash.
pub(super) fn content_security_policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Text that is shown as it is, whatever is in it.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaper<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escaper<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Escaper(f), "{}", self.0)
    }
}

/// The whole document.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(16 * 1024);
    // Writing to a String cannot fail.
    let _ = write(&mut page, status);
    page
}

fn write(page: &mut String, status: &Status) -> fmt::Result {
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"refresh\" content=\"{REFRESH}\"><title>{name} · officekms</title>\
         <style>{STYLE}</style></head><body><main>",
        name = Escaped(&status.name),
    )?;
    heading(page, status)?;
    if let Some(reload) = &status.config.last_reload
        && let Some(error) = &reload.error
    {
        write!(
            page,
            "<div class=\"card error\" id=\"reload-error\"><h2>The changed configuration is not in use</h2>\
             <code>{}</code></div>",
            Escaped(error),
        )?;
    }
    if !status.config.needs_restart.is_empty() {
        let fields = status.config.needs_restart.join(", ");
        write!(
            page,
            "<div class=\"card\"><h2>Waiting for a restart</h2>Changed: <code>{}</code></div>",
            Escaped(fields)
        )?;
    }
    numbers(page, status)?;
    if !status.licensed_hosts.is_empty() {
        licensed_hosts(page, status)?;
    }
    ledger(page, status)?;
    // Licensed hosts keep their own events; a relay has none.
    if status.routing.is_none() {
        events(page, &status.ledger.recent_events)?;
    }
    write!(
        page,
        "<footer>officekms {} · configuration generation {} · refreshed every {REFRESH} s</footer></main></body></html>",
        status.version, status.config.generation,
    )
}

fn heading(page: &mut String, status: &Status) -> fmt::Result {
    let (class, word) = match (status.draining, status.ready) {
        (true, _) => ("warn", "draining"),
        (false, true) => ("good", "ready"),
        (false, false) => ("warn", "starting"),
    };
    write!(
        page,
        "<header><h1>{}</h1><span class=\"pill\">{}</span><span class=\"pill {class}\" id=\"state\">{word}</span>\
         <span class=\"dim\">up {}</span></header>",
        Escaped(&status.name),
        status.mode,
        Ago(status.uptime_seconds),
    )
}

fn numbers(page: &mut String, status: &Status) -> fmt::Result {
    let request = |result: &str| status.requests.get(result).copied().unwrap_or(0);
    let refused: u64 = status.refusals.values().sum();
    page.push_str("<div class=\"grid\">");
    for (id, label, value) in [
        ("answered", "requests answered", request("answered")),
        (
            "unanswered",
            "turned away or faulted",
            request("fault") + request("closed"),
        ),
        (
            "open",
            "connections open",
            u64::try_from(status.connections.open).unwrap_or(u64::MAX),
        ),
        ("refused", "refused", refused),
    ] {
        write!(
            page,
            "<div class=\"card\"><div class=\"num\" id=\"{id}\">{value}</div><div class=\"label\">{label}</div></div>"
        )?;
    }
    page.push_str("</div>");
    if refused > 0 {
        page.push_str("<div class=\"card\"><h2>Refusals</h2>");
        for (reason, count) in &status.refusals {
            write!(page, "<span class=\"pill warn\">{reason} {count}</span> ")?;
        }
        page.push_str("</div>");
    }
    Ok(())
}

fn licensed_hosts(page: &mut String, status: &Status) -> fmt::Result {
    page.push_str("<div class=\"card\" id=\"licensed-hosts\"><h2>Licensed hosts</h2>");
    if let Some(routing) = &status.routing {
        write!(
            page,
            "<p>Active set: <strong>{}</strong> <span class=\"dim\">· {} distinct clients in 30 days, required count {} · \
             {}</span></p>",
            Escaped(routing.active_set.join(", ")),
            routing.distinct_clients,
            routing.required_count,
            routing.knowledge.sentence(),
        )?;
    }
    page.push_str(
        "<table><tr><th>Host</th><th>Address</th><th>Health</th><th>Part</th><th class=\"n\">Count</th><th class=\"n\">Latency</th><th class=\"n\">Answered</th><th class=\"n\">Failed</th>\
         <th>Last failure</th></tr>",
    );
    for host in &status.licensed_hosts {
        let part = status
            .routing
            .iter()
            .flat_map(|routing| &routing.hosts)
            .find(|part| part.name == host.name);
        let class = match host.health.as_str() {
            "well" => "good",
            "ejected" => "bad",
            _ => "warn",
        };
        write!(
            page,
            "<tr><td><strong>{}</strong></td><td><code>{}</code></td><td><span class=\"pill {class}\">{}</span></td>\
             <td title=\"{}\">{}</td><td class=\"n\">{}</td><td class=\"n\">",
            Escaped(&host.name),
            Escaped(&host.address),
            host.health,
            part.map_or("", |part| part.state.sentence()),
            part.map_or("–", |part| part.state.as_str()),
            part.map_or(0, |part| part.count),
        )?;
        match host.latency_millis {
            Some(millis) => write!(page, "{millis:.1} ms")?,
            None => page.push('–'),
        }
        write!(
            page,
            "</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"dim\">",
            host.answered, host.failed
        )?;
        if let Some(failure) = &host.last_failure {
            write!(page, "{} ago: {}", Ago(failure.seconds_ago), Escaped(&failure.error))?;
        }
        page.push_str("</td></tr>");
    }
    page.push_str("</table></div>");
    Ok(())
}

/// The counts, which a relay shows beside the licensed hosts that keep them, and how the ledger does.
fn ledger(page: &mut String, status: &Status) -> fmt::Result {
    let (ledger, relays) = (&status.ledger, status.routing.is_some());
    let (id, title) = if relays {
        ("ledger", "Ledger")
    } else {
        ("counts", "Counts")
    };
    write!(page, "<div class=\"card\" id=\"{id}\"><h2>{title}</h2>")?;
    if let Some(error) = &ledger.error {
        write!(
            page,
            "<p><span class=\"pill bad\">ledger unavailable</span> {}</p>",
            Escaped(error)
        )?;
    } else if relays {
        page.push_str("<p class=\"dim\">It answers.</p>");
    } else if ledger.counts.is_empty() {
        page.push_str("<p class=\"dim\">No client has been counted yet.</p>");
    } else {
        page.push_str(
            "<table><tr><th>Application</th><th class=\"n\">Current count</th><th></th><th class=\"n\">Required</th>\
             <th class=\"n\">Requests</th><th class=\"n\">Failed</th></tr>",
        );
        for count in &ledger.counts {
            application(page, count)?;
        }
        page.push_str("</table>");
    }
    if let Some(Observations {
        waiting,
        written,
        dropped,
    }) = &ledger.observations
    {
        let class = if *dropped > 0 { "warn" } else { "dim" };
        write!(
            page,
            "<p class=\"{class}\">Observations for the ledger: {written} written, {waiting} waiting, {dropped} dropped</p>"
        )?;
    }
    page.push_str("</div>");
    Ok(())
}

fn application(page: &mut String, count: &ApplicationCount) -> fmt::Result {
    let ApplicationCount {
        application,
        current_count,
        largest_required,
        totals,
    } = count;
    write!(
        page,
        "<tr><td>{}</td><td class=\"n\"><strong>{current_count}</strong></td>\
         <td><meter min=\"0\" max=\"{}\" low=\"{largest_required}\" optimum=\"{}\" value=\"{current_count}\"></meter></td>\
         <td class=\"n\">{largest_required}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        Application(*application),
        largest_required.saturating_mul(2),
        largest_required.saturating_mul(2),
        totals.total,
        totals.failed,
    )
}

fn events(page: &mut String, events: &[StoredEvent]) -> fmt::Result {
    page.push_str("<div class=\"card\" id=\"events\"><h2>Recent events</h2>");
    if events.is_empty() {
        page.push_str("<span class=\"dim\">None.</span></div>");
        return Ok(());
    }
    page.push_str(
        "<table><tr><th>Time (UTC)</th><th>Client</th><th>Result</th><th>Licence status</th><th class=\"n\">Required</th>\
         <th>Answered by</th></tr>",
    );
    for StoredEvent { event, .. } in events {
        let class = if event.hresult == 0 { "good" } else { "bad" };
        write!(
            page,
            "<tr><td>{}</td><td>{}</td><td><span class=\"pill {class}\">0x{:08X}</span></td><td>{}</td>\
             <td class=\"n\">{}</td><td>{}</td></tr>",
            Escaped(Clock(event.at)),
            Escaped(&event.client_name),
            event.hresult,
            license_status(event.license_status),
            event.required,
            Escaped(&event.host),
        )?;
    }
    page.push_str("</table></div>");
    Ok(())
}

/// Words of `SoftwareLicensingProduct.LicenseStatus`.
fn license_status(status: u32) -> &'static str {
    match status {
        0 => "unlicensed",
        1 => "licensed",
        2 => "initial grace",
        3 => "out of tolerance",
        4 => "non-genuine grace",
        5 => "notification",
        6 => "extended grace",
        _ => "unknown",
    }
}

/// A length of time in its two largest units.
struct Ago(u64);

impl Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, minutes, hours, days) = (self.0 % 60, self.0 / 60 % 60, self.0 / 3600 % 24, self.0 / 86_400);
        match (days, hours, minutes) {
            (0, 0, 0) => write!(f, "{seconds} s"),
            (0, 0, _) => write!(f, "{minutes} min {seconds} s"),
            (0, _, _) => write!(f, "{hours} h {minutes} min"),
            _ => write!(f, "{days} d {hours} h"),
        }
    }
}

/// Seconds of the wall clock, UTC.
struct Clock(Millis);

impl Display for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0.0) {
            Ok(time) => write!(f, "{}", time.strftime("%Y-%m-%d %H:%M:%S")),
            Err(_) => f.write_str("?"),
        }
    }
}

/// An application by name, where it has one.
struct Application(Uuid);

impl Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OFFICE: Uuid = Uuid::from_u128(0x0ff1_ce15_a989_479d_af46_f275_c637_0663);
        const WINDOWS: Uuid = Uuid::from_u128(0x55c9_2734_d682_4d71_983e_d6ec_3f16_059f);
        match self.0 {
            OFFICE => f.write_str("Office"),
            WINDOWS => f.write_str("Windows"),
            other => write!(f, "<code>{other}</code>"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_escaped() {
        let text = "<script>alert('x' & \"y\")</script>";
        assert_eq!(
            Escaped(text).to_string(),
            "&lt;script&gt;alert(&#39;x&#39; &amp; &quot;y&quot;)&lt;/script&gt;"
        );
    }

    #[test]
    fn lengths_of_time_are_readable() {
        for (seconds, text) in [(9, "9 s"), (61, "1 min 1 s"), (3_700, "1 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(Ago(seconds).to_string(), text);
        }
    }
}
