//! Problems of a configuration file, shown together, each at its line and with a hint.

use std::fmt;
use std::path::{Path, PathBuf};

use super::place::{Place, Step, display_path};

/// How many problems are printed; a file with more has one cause.
const SHOWN: usize = 50;

/// One thing that is wrong, where, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the value in the document.
    pub path: Vec<Step>,
    /// Its line and column.
    pub at: Place,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

/// Every problem of one file, in the order of its lines.
#[derive(Debug, Clone)]
pub struct Problems {
    /// The file, as it was named to us.
    pub file: PathBuf,
    /// The problems.
    pub list: Vec<Problem>,
    lines: Vec<String>,
}

impl Problems {
    pub(super) fn new(file: &Path, text: &str, mut list: Vec<Problem>) -> Self {
        list.sort_by_key(|problem| problem.at);
        // A carriage return alone is a line break, too (YAML 1.2.2, 5.4).
        let text = text.replace("\r\n", "\n");
        let lines = text.split(['\n', '\r']).map(str::to_owned).collect();
        Self {
            file: file.to_owned(),
            list,
            lines,
        }
    }

    /// One line for a log or a status page: how many problems, and the first of them.
    pub fn summary(&self) -> String {
        let Some(first) = self.list.first() else {
            return String::from("no problem");
        };
        let place = format!("{}:{}:{}", self.file.display(), first.at.line, first.at.column);
        let named = display_path(&first.path);
        let separator = if named.is_empty() { "" } else { ": " };
        match self.list.len() {
            1 => format!("{place}: {named}{separator}{}", first.message),
            n => format!("{place}: {named}{separator}{} (and {} more)", first.message, n - 1),
        }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in self.list.iter().take(SHOWN) {
            let path = display_path(&problem.path);
            let separator = if path.is_empty() { "" } else { ": " };
            let Place { line, column } = problem.at;
            writeln!(f, "error: {path}{separator}{}", problem.message)?;
            writeln!(f, "  --> {}:{line}:{column}", self.file.display())?;
            let source = usize::try_from(line)
                .ok()
                .and_then(|line| self.lines.get(line.checked_sub(1)?));
            if let Some(source) = source {
                let shown: String = source.chars().take(120).collect();
                writeln!(f, "   | {shown}")?;
                let indent = usize::try_from(column.saturating_sub(1)).unwrap_or(0).min(120);
                writeln!(f, "   | {}^", " ".repeat(indent))?;
            }
            if let Some(hint) = &problem.hint {
                writeln!(f, "   = hint: {hint}")?;
            }
        }
        let more = self.list.len().saturating_sub(SHOWN);
        if more > 0 {
            writeln!(f, "... and {more} more")?;
        }
        let n = self.list.len();
        write!(
            f,
            "{n} problem{} in {}",
            if n == 1 { "" } else { "s" },
            self.file.display()
        )
    }
}

/// The one of `known` that `typed` was probably meant to be.
pub(super) fn did_you_mean<'a>(typed: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let typed = plain(typed);
    known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&typed, &plain(name)), *name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
