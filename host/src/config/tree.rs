//! A YAML document as a tree whose every node knows its line and column.
//!
//! The tree is what lets a problem be shown at its place, and what [`decode`](super::decode) repairs in order to go on
//! to the next problem.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::place::{Place, Step};
use super::problem::Problem;

/// A node and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Place,
}

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<(Key, Node)>),
    /// Takes the place of a value that was reported as wrong: decodes into whatever is asked for, so that the rest of
    /// the document can still be looked at. The number chooses among the texts that it tries to be.
    StandIn(usize),
}

/// A mapping's key and its place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Place,
}

/// Reads `text` into a tree. A document that is not YAML has one problem, at its place.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(root) => Ok(node(root)),
        Err(error) => {
            let at = error.location().map_or(Place { line: 1, column: 1 }, |l| Place {
                line: l.line(),
                column: l.column(),
            });
            let text = error.without_snippet().to_string();
            // The place is shown in front of the message; the library appends it once more.
            let message = text
                .rsplit_once(" at line ")
                .map_or(text.as_str(), |(message, _)| message);
            let hint = if message.starts_with("duplicate mapping key") {
                "keep one of the two entries"
            } else {
                "the file is not valid YAML here; check the indentation, quotes and brackets around this place"
            };
            let message = message.split(", set DuplicateKeyPolicy").next().unwrap_or(message);
            Err(Problem {
                path: Vec::new(),
                at,
                message: message.to_owned(),
                hint: Some(hint.to_owned()),
            })
        }
    }
}

impl Node {
    /// The node at `path`, or the deepest one on the way to it.
    pub(super) fn nearest(&self, path: &[Step]) -> &Node {
        let mut node = self;
        for step in path {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node
    }

    /// Where to show a problem of `path`: at the key of a mapping's entry, else at the node itself.
    pub(super) fn place(&self, path: &[Step]) -> Place {
        if let Some((Step::Key(name), parents)) = path.split_last()
            && let Value::Mapping(entries) = &self.nearest(parents).value
            && let Some((key, _)) = entries.iter().find(|(key, _)| key.text == *name)
        {
            return key.at;
        }
        self.nearest(path).at
    }

    fn child(&self, step: &Step) -> Option<&Node> {
        match (&self.value, step) {
            (Value::Mapping(entries), Step::Key(name)) => {
                entries.iter().find(|(key, _)| key.text == *name).map(|(_, node)| node)
            }
            (Value::Sequence(items), Step::Item(index)) => items.get(*index),
            _ => None,
        }
    }

    /// How many steps of `path` the tree has.
    pub(super) fn depth(&self, path: &[Step]) -> usize {
        let mut node = self;
        path.iter()
            .take_while(|step| match node.child(step) {
                Some(child) => {
                    node = child;
                    true
                }
                None => false,
            })
            .count()
    }

    /// The node at `path`.
    pub(super) fn get_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Mapping(entries), Step::Key(name)) => entries
                .iter_mut()
                .find(|(key, _)| key.text == *name)
                .map(|(_, node)| node),
            (Value::Sequence(items), Step::Item(index)) => items.get_mut(*index),
            _ => None,
        })
    }
}

/// What serde-saphyr reads, before keys are known to be texts.
struct Raw(RawValue);

enum RawValue {
    Scalar(Value),
    Sequence(Vec<Spanned<Raw>>),
    Mapping(Vec<(Spanned<Raw>, Spanned<Raw>)>),
}

fn place<T>(spanned: &Spanned<T>) -> Place {
    Place {
        line: spanned.referenced.line(),
        column: spanned.referenced.column(),
    }
}

fn node(raw: Spanned<Raw>) -> Node {
    let at = place(&raw);
    let value = match raw.value.0 {
        RawValue::Scalar(value) => value,
        RawValue::Sequence(items) => Value::Sequence(items.into_iter().map(node).collect()),
        RawValue::Mapping(entries) => Value::Mapping(
            entries
                .into_iter()
                .map(|(key, value)| (key_of(key), node(value)))
                .collect(),
        ),
    };
    Node { value, at }
}

/// A key that is no text (`1: x`) becomes the text it looks like; no field has such a name, so it is reported as unknown.
fn key_of(raw: Spanned<Raw>) -> Key {
    let at = place(&raw);
    let text = match raw.value.0 {
        RawValue::Scalar(Value::Text(text)) => text,
        RawValue::Scalar(Value::Bool(value)) => value.to_string(),
        RawValue::Scalar(Value::Signed(value)) => value.to_string(),
        RawValue::Scalar(Value::Unsigned(value)) => value.to_string(),
        RawValue::Scalar(Value::Float(value)) => value.to_string(),
        RawValue::Scalar(_) => "~".to_owned(),
        RawValue::Sequence(_) => "[...]".to_owned(),
        RawValue::Mapping(_) => "{...}".to_owned(),
    };
    Key { text, at }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(Value::Null)))
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Raw, E> {
        self.visit_unit()
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(Value::Bool(value))))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(
            u64::try_from(value).map_or(Value::Signed(value), Value::Unsigned),
        )))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(Value::Unsigned(value))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(Value::Float(value))))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw(RawValue::Scalar(Value::Text(value.to_owned()))))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw(RawValue::Sequence(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw(RawValue::Mapping(entries)))
    }
}
