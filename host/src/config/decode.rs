//! Decodes a document into any serde type and finds *every* problem in it, not only the first.
//!
//! serde stops at the first error. So each error is noted together with its path, the tree is repaired there (an unknown
//! field is dropped; a wrong or missing value is replaced by a stand-in that decodes into whatever is asked for) and the
//! document is decoded again, until it decodes. A value that was reported is never used: the caller gets no
//! configuration while there is a problem, only the stand-in document to run its own checks on.

mod access;

use std::fmt;

use serde::de::{self, DeserializeOwned};

use super::place::{Place, Step, display_path};
use super::problem::{Problem, did_you_mean};
use super::tree::{Key, Node, Value};
use access::NodeAccess;

/// Bounds the repairs; each takes a decode of the whole document.
const MAX_REPAIRS: usize = 200;

/// Texts that a stand-in tries to be, one after another: whatever a text is parsed into, one of them will do.
const STAND_IN_TEXTS: [&str; 9] = [
    "stand-in",
    "1s",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.0/8",
    "1",
    "00000000-0000-0000-0000-000000000001",
    "http://localhost/",
    "info",
];

/// What came out of a document.
pub(super) struct Decoded<T> {
    /// The value; with stand-ins in it where `problems` says so. None where repair did not help.
    pub(super) value: Option<T>,
    /// What is wrong, in the order found.
    pub(super) problems: Vec<Problem>,
}

/// Decodes `root` into a `T`, noting every problem.
pub(super) fn decode<T: DeserializeOwned>(mut root: Node) -> Decoded<T> {
    let original = root.clone();
    let mut problems: Vec<Problem> = Vec::new();
    for _ in 0..MAX_REPAIRS {
        let failure = match T::deserialize(NodeAccess::root(&root)) {
            Ok(value) => {
                return Decoded {
                    value: Some(value),
                    problems,
                };
            }
            Err(failure) => failure,
        };
        let path = failure.path.clone().unwrap_or_default();
        // A stand-in that did not fit was reported when it was put there.
        let ours = matches!(root.nearest(&path).value, Value::StandIn(_));
        // A misspelt field is missing under its right name; one of the two is enough to say.
        let misspelt = matches!(failure.what, What::MissingField(field) if problems.iter().any(|problem| {
            problem.path.split_last().is_some_and(|(_, parent)| parent == path)
                && problem.hint.as_ref().is_some_and(|hint| *hint == suggestion(field))
        }));
        if !ours && !misspelt {
            let at = match &failure.what {
                What::UnknownField { field, .. } => {
                    let mut path = path.clone();
                    path.push(Step::Key(field.clone()));
                    original.place(&path)
                }
                What::MissingField(_) => original.place(&path),
                _ => original.nearest(&path).at,
            };
            problems.push(failure.what.problem(path.clone(), at, original.nearest(&path)));
        }
        if !repair(&mut root, &path, &failure.what) {
            break;
        }
    }
    Decoded { value: None, problems }
}

/// Changes the tree so that the same failure cannot come again; false if there is nothing left to try.
fn repair(root: &mut Node, path: &[Step], what: &What) -> bool {
    // A failure below a stand-in is the stand-in's own.
    let path = path.get(..root.depth(path)).unwrap_or_default();
    let Some(node) = root.get_mut(path) else { return false };
    match (&mut node.value, what) {
        (Value::StandIn(tried), _) if *tried + 1 < STAND_IN_TEXTS.len() => {
            *tried += 1;
            true
        }
        (Value::StandIn(_), _) => {
            let parent = path.split_last().and_then(|(_, parents)| root.get_mut(parents));
            parent.map(|parent| parent.value = Value::StandIn(0)).is_some()
        }
        (Value::Mapping(entries), What::UnknownField { field, .. }) => {
            entries.retain(|(key, _)| key.text != *field);
            true
        }
        (Value::Mapping(entries), What::MissingField(field)) => {
            let key = Key {
                text: (*field).to_owned(),
                at: node.at,
            };
            entries.push((
                key,
                Node {
                    value: Value::StandIn(0),
                    at: node.at,
                },
            ));
            true
        }
        (value, _) => {
            *value = Value::StandIn(0);
            true
        }
    }
}

/// A serde error, and the path of the node at which it arose.
#[derive(Debug)]
pub(super) struct Failure {
    path: Option<Vec<Step>>,
    what: What,
}

#[derive(Debug)]
enum What {
    UnknownField {
        field: String,
        expected: &'static [&'static str],
    },
    UnknownVariant {
        variant: String,
        expected: &'static [&'static str],
    },
    MissingField(&'static str),
    Mismatch {
        found: String,
        expected: String,
    },
    Custom(String),
}

impl What {
    fn problem(&self, mut path: Vec<Step>, at: Place, node: &Node) -> Problem {
        let (message, hint) = match self {
            Self::UnknownField { field, expected } => {
                path.push(Step::Key(field.clone()));
                ("unknown field".to_owned(), Some(meant(field, expected, "fields")))
            }
            Self::UnknownVariant { variant, expected } => (
                format!("`{variant}` is not one of the values known here"),
                Some(meant(variant, expected, "values")),
            ),
            Self::MissingField(field) => {
                path.push(Step::Key((*field).to_owned()));
                let parent = display_path(path.get(..path.len() - 1).unwrap_or_default());
                let place = if parent.is_empty() {
                    "at the top level".to_owned()
                } else {
                    format!("under `{parent}`")
                };
                ("missing".to_owned(), Some(format!("add `{field}:` {place}")))
            }
            Self::Mismatch { found, expected } => (
                format!("expected {}, found {found}", plain_type(expected)),
                type_hint(expected, node),
            ),
            Self::Custom(text) => match &node.value {
                Value::Text(value) if !text.contains(value.as_str()) => {
                    (format!("`{value}`: {text}"), parse_hint(text))
                }
                _ => (text.clone(), parse_hint(text)),
            },
        };
        // A message may bring its own hint: "what is wrong; hint: what to do".
        match message.split_once("; hint: ") {
            Some((message, hint)) => Problem {
                path,
                at,
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            },
            None => Problem {
                path,
                at,
                message,
                hint,
            },
        }
    }
}

fn meant(typed: &str, expected: &[&'static str], what: &str) -> String {
    match did_you_mean(typed, expected) {
        Some(name) => suggestion(name),
        None if expected.is_empty() => format!("no {what} are known here; remove it"),
        None => format!("the {what} known here are {}", expected.join(", ")),
    }
}

fn suggestion(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// Names of Rust's types in words.
fn plain_type(expected: &str) -> String {
    let range = |max: u64| format!("a whole number from 0 to {max}");
    match expected {
        "u8" => range(u8::MAX.into()),
        "u16" => range(u16::MAX.into()),
        "u32" => range(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a section with fields".to_owned(),
        other if other.starts_with("struct ") => "a section with fields".to_owned(),
        other => other.to_owned(),
    }
}

fn type_hint(expected: &str, node: &Node) -> Option<String> {
    let number = |text: &str| text.parse::<i64>().is_ok();
    let text = match (&node.value, expected) {
        (Value::Text(text), "u8" | "u16" | "u32" | "u64" | "usize" | "i64" | "f64") if number(text) => {
            "remove the quotes".to_owned()
        }
        (Value::Unsigned(_) | Value::Signed(_) | Value::Float(_) | Value::Bool(_), "a string") => {
            "put the value in quotes".to_owned()
        }
        (_, "a sequence") => "write a list: each item on a line of its own behind `- `".to_owned(),
        (Value::Text(_), "a boolean") => "write true or false, without quotes".to_owned(),
        (Value::Null, _) => "the value is empty: write one, or remove the line".to_owned(),
        _ => return None,
    };
    Some(text)
}

/// Hints to what the standard library's and our libraries' parsers say.
fn parse_hint(message: &str) -> Option<String> {
    let hint = match message {
        "invalid IP address syntax" => {
            "write a network such as 10.0.0.0/8 or 2001:db8::/32; a single address is 10.0.0.1/32"
        }
        "invalid socket address syntax" => "write address and port, such as 0.0.0.0:1688 or [::]:1688",
        text if text.starts_with("UUID parsing failed") => "write it as 00000000-0000-0000-0000-000000000000",
        _ => return None,
    };
    Some(hint.to_owned())
}

impl Failure {
    /// Notes where it arose, unless a deeper node did.
    fn or_at(mut self, path: impl FnOnce() -> Vec<Step>) -> Self {
        if self.path.is_none() {
            self.path = Some(path());
        }
        self
    }
}

impl From<What> for Failure {
    fn from(what: What) -> Self {
        Self { path: None, what }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.what)
    }
}

impl de::Error for Failure {
    fn custom<T: fmt::Display>(text: T) -> Self {
        What::Custom(text.to_string()).into()
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        What::Mismatch {
            found: found.to_string(),
            expected: expected.to_string(),
        }
        .into()
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        What::Mismatch {
            found: found.to_string(),
            expected: expected.to_string(),
        }
        .into()
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        What::UnknownVariant {
            variant: variant.to_owned(),
            expected,
        }
        .into()
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        What::UnknownField {
            field: field.to_owned(),
            expected,
        }
        .into()
    }

    fn missing_field(field: &'static str) -> Self {
        What::MissingField(field).into()
    }
}
