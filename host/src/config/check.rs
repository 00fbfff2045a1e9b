//! Rules that a configuration must keep beyond the types of its fields, each reported at its place.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::period::Period;
use super::place::{SectionProblem, Step};
use super::problem::Problem;
use super::tree::Node;

/// Collects what is wrong with a decoded document.
pub(super) struct Check<'d> {
    root: &'d Node,
    /// Values that were already reported and are stand-ins now.
    reported: &'d [Problem],
    found: Vec<Problem>,
}

impl<'d> Check<'d> {
    pub(super) fn new(root: &'d Node, reported: &'d [Problem]) -> Self {
        Self {
            root,
            reported,
            found: Vec::new(),
        }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.found
    }

    /// Notes a problem, unless the value (or one that it lies in) was already reported.
    pub(super) fn problem(&mut self, path: impl IntoPath, message: impl Display, hint: impl Display) {
        let path = path.into_path();
        if self.reported.iter().any(|problem| path.starts_with(&problem.path)) {
            return;
        }
        let at = self.root.place(&path);
        self.found.push(Problem {
            path,
            at,
            message: message.to_string(),
            hint: Some(hint.to_string()),
        });
    }

    /// Notes the problems that a section's owner found; their paths begin at the section.
    pub(super) fn section(&mut self, name: &str, problems: Vec<SectionProblem>) {
        for SectionProblem { path, message, hint } in problems {
            let path: Vec<Step> = [key(name)].into_iter().chain(path).collect();
            self.problem(path, message, hint);
        }
    }

    pub(super) fn range<T: PartialOrd + Display>(&mut self, path: impl IntoPath, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            let (first, last) = range.into_inner();
            self.problem(
                path,
                format!("{value} is out of range"),
                format!("from {first} to {last} is possible"),
            );
        }
    }

    pub(super) fn positive(&mut self, path: impl IntoPath, period: Period) {
        if period.get().is_zero() {
            self.problem(path, "must be longer than zero", "write a length of time such as 10s");
        }
    }
}

/// Paths as the checks write them.
pub(super) trait IntoPath {
    fn into_path(self) -> Vec<Step>;
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

impl<const N: usize> IntoPath for [&str; N] {
    fn into_path(self) -> Vec<Step> {
        self.into_iter().map(key).collect()
    }
}

impl IntoPath for (&str, usize) {
    fn into_path(self) -> Vec<Step> {
        vec![key(self.0), Step::Item(self.1)]
    }
}

impl IntoPath for (&str, &str, usize) {
    fn into_path(self) -> Vec<Step> {
        vec![key(self.0), key(self.1), Step::Item(self.2)]
    }
}

impl IntoPath for (&str, &str, usize, &str) {
    fn into_path(self) -> Vec<Step> {
        vec![key(self.0), key(self.1), Step::Item(self.2), key(self.3)]
    }
}

impl IntoPath for Vec<Step> {
    fn into_path(self) -> Vec<Step> {
        self
    }
}
