//! Outcomes as a drawing: a field for each number of clients and hosts, in it a bar for each policy.

use std::fmt::Write;

use super::{Outcome, PolicyName};

const FIELD: (u32, u32) = (112, 74);
const GAP: u32 = 8;
const LEFT: u32 = 88;
const TOP: u32 = 104;

/// Draws the shares of clients licensed after 24 hours (solid) and 40 days (outline). A red foot marks a policy under
/// which a client lost its licence. Fields with fewer clients than N are hatched: nobody can be licensed there.
pub fn svg(outcomes: &[Outcome]) -> String {
    let distinct = |of: fn(&Outcome) -> u32| {
        let mut values: Vec<u32> = outcomes.iter().map(of).collect();
        values.sort_unstable();
        values.dedup();
        values
    };
    let clients = distinct(|outcome| outcome.scenario.clients);
    let hosts = distinct(|outcome| outcome.scenario.hosts);
    let required = distinct(|outcome| outcome.scenario.required);
    let count = |values: &[u32]| u32::try_from(values.len()).unwrap_or(0);
    let panel = count(&hosts) * (FIELD.1 + GAP) + 56;
    let width = LEFT + count(&clients) * (FIELD.0 + GAP) + GAP;
    let height = TOP + count(&required) * panel;

    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <title>Share of clients licensed, by routing</title>\n\
         <defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
         <path d=\"M0 0V6\" stroke=\"#ddd\" stroke-width=\"2\"/></pattern></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"15\" font-weight=\"600\">Clients licensed after 24 hours (solid) and 40 days \
         (outline)</text>\n\
         <text x=\"12\" y=\"42\" fill=\"#666\">The preferred host dies on day 3, a new host joins on day 10.</text>\n\
         <text x=\"12\" y=\"58\" fill=\"#666\">Hatched: fewer clients than N. Red foot: a client lost its licence.</text>\n",
    );
    for (at, policy) in (0u32..).zip(PolicyName::ALL) {
        let x = 12 + at * 130;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"70\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"80\">{}</text>",
            colour(policy),
            x + 18,
            policy.as_str()
        );
    }
    for (at, required) in (0u32..).zip(&required) {
        let top = TOP + at * panel;
        let _ = writeln!(
            text,
            "<text x=\"12\" y=\"{}\" font-size=\"14\" font-weight=\"600\">N = {required}</text>",
            top + 14
        );
        for (column, clients) in (0u32..).zip(&clients) {
            let x = LEFT + column * (FIELD.0 + GAP) + FIELD.0 / 2;
            let _ = writeln!(
                text,
                "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{clients} clients</text>",
                top + 14
            );
            for (row, hosts) in (0u32..).zip(&hosts) {
                let y = top + 22 + row * (FIELD.1 + GAP);
                if column == 0 {
                    let (middle, plural) = (y + FIELD.1 / 2 + 4, if *hosts == 1 { "" } else { "s" });
                    let _ = writeln!(text, "<text x=\"12\" y=\"{middle}\">{hosts} host{plural}</text>");
                }
                let here = |outcome: &&Outcome| {
                    let scenario = &outcome.scenario;
                    (scenario.required, scenario.clients, scenario.hosts) == (*required, *clients, *hosts)
                };
                let fields: Vec<&Outcome> = outcomes.iter().filter(here).collect();
                field(
                    &mut text,
                    (LEFT + column * (FIELD.0 + GAP), y),
                    &fields,
                    clients < required,
                );
            }
        }
    }
    text.push_str("</svg>\n");
    text
}

fn field(text: &mut String, (x, y): (u32, u32), outcomes: &[&Outcome], impossible: bool) {
    let fill = if impossible { "url(#hatch)" } else { "#f6f7f9" };
    let (width, height) = FIELD;
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>"
    );
    for outcome in outcomes {
        let at = PolicyName::ALL
            .iter()
            .position(|name| *name == outcome.scenario.policy)
            .unwrap_or(0);
        let bar = x + 8 + u32::try_from(at).unwrap_or(0) * 25;
        let [_, hours24, _, days40] = outcome.licensed_after;
        let (colour, full) = (colour(outcome.scenario.policy), f64::from(height - 10));
        let bottom = f64::from(y + height - 5);
        let (solid, outline) = (full * hours24, full * days40);
        let _ = writeln!(
            text,
            "<rect x=\"{bar}\" y=\"{:.1}\" width=\"20\" height=\"{outline:.1}\" fill=\"none\" stroke=\"{colour}\"/>\
             <rect x=\"{bar}\" y=\"{:.1}\" width=\"20\" height=\"{solid:.1}\" fill=\"{colour}\"/>",
            bottom - outline,
            bottom - solid,
        );
        if outcome.lost > 0 {
            let _ = writeln!(
                text,
                "<rect x=\"{bar}\" y=\"{bottom:.1}\" width=\"20\" height=\"4\" fill=\"#d00\"/>"
            );
        }
    }
}

const fn colour(policy: PolicyName) -> &'static str {
    match policy {
        PolicyName::DnsRandom => "#b8bec8",
        PolicyName::RoundRobin => "#e0a458",
        PolicyName::SourceHash => "#8a6fb0",
        PolicyName::CountAware => "#1f7a5c",
    }
}
