//! Where something stands in a document, and what is wrong there: the words that sections and the file as a whole share.

use std::fmt;

/// Line and column of a node, counted from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
}

/// One step of a path into the document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Into the mapping's entry of this name.
    Key(String),
    /// Into the sequence's item at this index.
    Item(usize),
}

/// `relay.licensedHosts[1].port`.
pub fn display_path(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
            Step::Item(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// A setting that cannot be: where it is, what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionProblem {
    /// Path from the section's own begin.
    pub path: Vec<Step>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl SectionProblem {
    /// A problem with the setting at `path`, a dotted path of names.
    pub(crate) fn at(path: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let path = path.split('.').map(|name| Step::Key(name.to_owned())).collect();
        Self {
            path,
            message: message.into(),
            hint: hint.into(),
        }
    }
}

impl fmt::Display for SectionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, message, hint } = self;
        write!(f, "`{}` {message}; hint: {hint}", display_path(path))
    }
}
