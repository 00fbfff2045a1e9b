//! The serde deserializer over a tree: keeps the path, and lets a stand-in be anything.

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::{Failure, STAND_IN_TEXTS, What};
use crate::config::place::{Place, Step};
use crate::config::tree::{Key, Node, Value};

/// A node under its path.
#[derive(Clone, Copy)]
pub(super) struct NodeAccess<'t> {
    node: &'t Node,
    path: Path<'t>,
}

/// The way from the root, as a list that lives on the stack.
#[derive(Clone, Copy)]
enum Path<'t> {
    Root,
    Key(&'t Path<'t>, &'t str),
    Item(&'t Path<'t>, usize),
}

impl Path<'_> {
    fn steps(&self) -> Vec<Step> {
        match self {
            Self::Root => Vec::new(),
            Self::Key(parent, key) => with(parent, Step::Key((*key).to_owned())),
            Self::Item(parent, index) => with(parent, Step::Item(*index)),
        }
    }
}

fn with(parent: &Path<'_>, step: Step) -> Vec<Step> {
    let mut steps = parent.steps();
    steps.push(step);
    steps
}

impl<'t> NodeAccess<'t> {
    pub(super) fn root(node: &'t Node) -> Self {
        Self { node, path: Path::Root }
    }

    fn at(&self) -> impl FnOnce(Failure) -> Failure {
        let path = self.path;
        move |failure: Failure| failure.or_at(|| path.steps())
    }

    fn unexpected(&self) -> Unexpected<'t> {
        match &self.node.value {
            Value::Null => Unexpected::Other("nothing"),
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Signed(value) => Unexpected::Signed(*value),
            Value::Unsigned(value) => Unexpected::Unsigned(*value),
            Value::Float(value) => Unexpected::Float(*value),
            Value::Text(text) => Unexpected::Str(text),
            Value::Sequence(_) => Unexpected::Other("a list"),
            Value::Mapping(_) => Unexpected::Other("a section with fields"),
            Value::StandIn(_) => Unexpected::Other("a stand-in"),
        }
    }

    fn mismatch<T>(&self, expected: &str) -> Result<T, Failure> {
        let failure = Failure::from(What::Mismatch {
            found: self.unexpected().to_string(),
            expected: expected.to_owned(),
        });
        Err((self.at())(failure))
    }

    /// What the visitor itself says that it wants.
    fn refused<'de, V: Visitor<'de>>(&self, visitor: &V) -> Failure {
        (self.at())(Failure::invalid_type(self.unexpected(), visitor))
    }
}

/// The text that a stand-in tries to be.
fn stand_in_text(tried: usize) -> &'static str {
    STAND_IN_TEXTS.get(tried).copied().unwrap_or("stand-in")
}

macro_rules! scalars {
    ($($method:ident $expected:literal)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
            match &self.node.value {
                Value::Signed(value) => visitor.visit_i64(*value),
                Value::Unsigned(value) => visitor.visit_u64(*value),
                Value::Float(value) if $expected == "f64" => visitor.visit_f64(*value),
                Value::StandIn(_) => visitor.visit_u64(1),
                _ => return self.mismatch($expected),
            }
            .map_err(self.at())
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeAccess<'_> {
    type Error = Failure;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Signed(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::Sequence(_) => return self.deserialize_seq(visitor),
            Value::Mapping(_) => return self.deserialize_map(visitor),
            Value::StandIn(tried) => visitor.visit_str(stand_in_text(*tried)),
        }
        .map_err(self.at())
    }

    scalars! {
        deserialize_u8 "u8" deserialize_u16 "u16" deserialize_u32 "u32" deserialize_u64 "u64"
        deserialize_i8 "i8" deserialize_i16 "i16" deserialize_i32 "i32" deserialize_i64 "i64"
        deserialize_f32 "f64" deserialize_f64 "f64"
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::StandIn(_) => visitor.visit_bool(false),
            _ => return self.mismatch("a boolean"),
        }
        .map_err(self.at())
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_str(text),
            Value::StandIn(tried) => visitor.visit_str(stand_in_text(*tried)),
            _ => return Err(self.refused(&visitor)),
        }
        .map_err(self.at())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null | Value::StandIn(_) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(self.at())
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Null | Value::StandIn(_) => visitor.visit_unit(),
            _ => return Err(self.refused(&visitor)),
        }
        .map_err(self.at())
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_newtype_struct(self).map_err(self.at())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Sequence(items) => visitor.visit_seq(Items {
                items,
                path: &self.path,
                next: 0,
            }),
            Value::StandIn(_) => visitor.visit_seq(SeqDeserializer::<_, Failure>::new(std::iter::empty::<u8>())),
            _ => return self.mismatch("a sequence"),
        }
        .map_err(self.at())
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::StandIn(_) => {
                let items = vec![self.node.clone(); len];
                visitor
                    .visit_seq(Items {
                        items: &items,
                        path: &self.path,
                        next: 0,
                    })
                    .map_err(self.at())
            }
            _ => self.deserialize_seq(visitor),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Failure> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Mapping(entries) => visitor.visit_map(Entries {
                entries,
                path: &self.path,
                next: 0,
            }),
            // An empty section (`clients:` with nothing under it) has every field at its default.
            Value::Null | Value::StandIn(_) => {
                let none = std::iter::empty::<(&str, &str)>();
                visitor.visit_map(MapDeserializer::<_, Failure>::new(none))
            }
            _ => return self.mismatch("a map"),
        }
        .map_err(self.at())
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        if let Value::StandIn(_) = self.node.value {
            let entry = |field: &&str| {
                (
                    Key {
                        text: (*field).to_owned(),
                        at: Place::default(),
                    },
                    self.node.clone(),
                )
            };
            let entries: Vec<_> = fields.iter().map(entry).collect();
            return visitor
                .visit_map(Entries {
                    entries: &entries,
                    path: &self.path,
                    next: 0,
                })
                .map_err(self.at());
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Failure> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_enum(Variant {
                name: text,
                content: None,
                path: &self.path,
            }),
            Value::Mapping(entries) => match entries.as_slice() {
                [(key, node)] => visitor.visit_enum(Variant {
                    name: &key.text,
                    content: Some(node),
                    path: &self.path,
                }),
                _ => return self.mismatch("exactly one field"),
            },
            Value::StandIn(_) => {
                let name = variants.first().copied().unwrap_or_default();
                visitor.visit_enum(Variant {
                    name,
                    content: Some(self.node),
                    path: &self.path,
                })
            }
            _ => return Err(self.refused(&visitor)),
        }
        .map_err(self.at())
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Failure> {
        visitor.visit_unit()
    }
}

struct Items<'t> {
    items: &'t [Node],
    path: &'t Path<'t>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Failure;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Failure> {
        let Some(node) = self.items.get(self.next) else {
            return Ok(None);
        };
        let path = Path::Item(self.path, self.next);
        self.next += 1;
        seed.deserialize(NodeAccess { node, path })
            .map(Some)
            .map_err(|failure| failure.or_at(|| path.steps()))
    }
}

struct Entries<'t> {
    entries: &'t [(Key, Node)],
    path: &'t Path<'t>,
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Failure;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Failure> {
        let Some((key, _)) = self.entries.get(self.next) else {
            return Ok(None);
        };
        let name: StrDeserializer<'_, Failure> = key.text.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|failure| failure.or_at(|| self.path.steps()))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Failure> {
        let Some((key, node)) = self.entries.get(self.next) else {
            return Err(Failure::custom("a value was asked for behind the last entry"));
        };
        self.next += 1;
        let path = Path::Key(self.path, &key.text);
        seed.deserialize(NodeAccess { node, path })
            .map_err(|failure| failure.or_at(|| path.steps()))
    }
}

struct Variant<'t> {
    name: &'t str,
    content: Option<&'t Node>,
    path: &'t Path<'t>,
}

impl<'t, 'de> EnumAccess<'de> for Variant<'t> {
    type Error = Failure;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Failure> {
        let name: StrDeserializer<'_, Failure> = self.name.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'t> Variant<'t> {
    fn with_content<T>(self, then: impl FnOnce(NodeAccess<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let Some(node) = self.content else {
            return Err(Failure::custom(format!(
                "`{}` needs its fields written below it",
                self.name
            )));
        };
        let path = match node.value {
            Value::StandIn(_) => *self.path,
            _ => Path::Key(self.path, self.name),
        };
        then(NodeAccess { node, path })
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Failure;

    fn unit_variant(self) -> Result<(), Failure> {
        match self.content.map(|node| &node.value) {
            None | Some(Value::Null | Value::StandIn(_)) => Ok(()),
            Some(_) => Err(Failure::custom(format!("`{}` takes no fields", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Failure> {
        self.with_content(|content| seed.deserialize(content))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Failure> {
        self.with_content(|content| content.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Failure> {
        self.with_content(|content| content.deserialize_struct("", fields, visitor))
    }
}
