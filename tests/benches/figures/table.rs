//! Rows of the table, and what is made of several rounds.

/// A line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    goal: String,
    measured: String,
    verdict: &'static str,
}

impl Row {
    /// A figure that has a goal.
    pub(crate) fn goal(
        what: impl Into<String>,
        goal: impl Into<String>,
        measured: impl Into<String>,
        met: bool,
    ) -> Self {
        Self {
            what: what.into(),
            goal: goal.into(),
            measured: measured.into(),
            verdict: if met { "met" } else { "MISSED" },
        }
    }

    /// A figure that explains others.
    pub(crate) fn beside(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            goal: String::new(),
            measured: measured.into(),
            verdict: "",
        }
    }

    /// A figure that can't be measured here.
    pub(crate) fn skipped(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            goal: String::new(),
            measured: why.into(),
            verdict: "SKIPPED",
        }
    }
}

/// Prints rows as a Markdown table.
pub(crate) fn print(rows: &[Row]) {
    println!("| figure | goal | measured | |");
    println!("|---|---|---|---|");
    for row in rows {
        println!("| {} | {} | {} | {} |", row.what, row.goal, row.measured, row.verdict);
    }
}

/// The middle one of several rounds' values.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How far several rounds' values lie apart: `least..most`.
pub(crate) fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{least:.digits$}..{most:.digits$}")
}
