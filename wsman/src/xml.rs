//! A bounded XML reader: bytes to a small tree, with namespaces resolved.
//!
//! Document types are refused, so no entity can be declared; depth, size and the number of elements are limited.

use std::borrow::Cow;

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

/// Elements nested deeper than this are refused; real answers stay below 15.
pub const MAX_DEPTH: usize = 32;
/// Documents with more elements than this are refused: 32,000 items a batch is WinRM's own limit, and an answer of
/// 150 KiB holds fewer than 20,000 of the shortest elements.
pub const MAX_ELEMENTS: usize = 65_536;

/// Why bytes are not a document that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XmlError {
    /// Not UTF-8.
    #[error("the document is not UTF-8")]
    NotUtf8,
    /// Not well-formed.
    #[error("the document is not well-formed XML near byte {at}: {what}")]
    Malformed {
        /// Offset of the problem.
        at: u64,
        /// The reader's words.
        what: String,
    },
    /// A document type declaration: refused, because it can define entities.
    #[error("the document declares a document type, which is refused")]
    DocumentType,
    /// More than [`MAX_DEPTH`] elements nested.
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// More than [`MAX_ELEMENTS`] elements.
    #[error("the document has more than {MAX_ELEMENTS} elements")]
    TooMany,
    /// A prefix that no namespace declaration covers.
    #[error("the prefix {0:?} is not declared")]
    UnknownPrefix(String),
    /// Text, such as an empty body, without an element.
    #[error("the document has no element")]
    Empty,
}

/// An element with its namespace resolved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Element {
    /// Namespace URI, empty for none.
    pub namespace: String,
    /// Local name.
    pub name: String,
    /// Attributes: namespace URI (empty for none), local name, value.
    pub attributes: Vec<(String, String, String)>,
    /// Child elements in order.
    pub children: Vec<Element>,
    /// The element's own character data, all of it joined.
    pub text: String,
}

impl Element {
    /// Whether this is `name` in `namespace`.
    pub fn is(&self, namespace: &str, name: &str) -> bool {
        self.name == name && self.namespace == namespace
    }

    /// The first child `name` in `namespace`.
    pub fn child(&self, namespace: &str, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.is(namespace, name))
    }

    /// An attribute without namespace.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attribute_in("", name)
    }

    /// An attribute of a namespace.
    pub fn attribute_in(&self, namespace: &str, name: &str) -> Option<&str> {
        self.attributes
            .iter()
            .find(|(ns, local, _)| ns == namespace && local == name)
            .map(|(_, _, value)| value.as_str())
    }

    /// Every element of the tree, outermost first; depth is bounded by [`MAX_DEPTH`].
    pub fn descendants(&self) -> Vec<&Element> {
        let mut all = vec![self];
        let mut next = 0;
        while let Some(element) = all.get(next) {
            let element: &Element = element;
            all.extend(element.children.iter());
            next += 1;
        }
        all
    }
}

/// Reads a document.
///
/// # Errors
/// See [`XmlError`]; the caller bounds the number of bytes.
pub fn parse(bytes: &[u8]) -> Result<Element, XmlError> {
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::NotUtf8)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = NsReader::from_str(text);
    // A synthetic parent holds the root, so that opening and closing need no special case.
    let mut open = vec![Element::default()];
    let mut elements = 0_usize;
    loop {
        let event = reader.read_event().map_err(|error| malformed(&reader, error))?;
        match event {
            Event::Start(start) => {
                elements += 1;
                let element = element(&reader, &start)?;
                open.push(element);
                if open.len() > MAX_DEPTH + 1 {
                    return Err(XmlError::TooDeep);
                }
            }
            Event::Empty(start) => {
                elements += 1;
                let element = element(&reader, &start)?;
                if let Some(parent) = open.last_mut() {
                    parent.children.push(element);
                }
            }
            Event::End(_) => {
                if let (Some(done), Some(parent)) = (open.pop(), open.last_mut()) {
                    parent.children.push(done);
                }
            }
            Event::Text(text) => push_text(&mut open, &text.xml10_content()),
            Event::CData(text) => push_text(&mut open, &text.xml10_content()),
            Event::GeneralRef(reference) => {
                let resolved = match reference
                    .resolve_char_ref()
                    .map_err(|error| malformed(&reader, error))?
                {
                    Some(character) => Cow::Owned(character.to_string()),
                    None => predefined(&reference).ok_or_else(|| malformed(&reader, "undeclared entity"))?,
                };
                push_text(&mut open, &resolved);
            }
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            Event::Eof => break,
        }
        if elements > MAX_ELEMENTS {
            return Err(XmlError::TooMany);
        }
    }
    let mut top = open.into_iter();
    let root = top.next().unwrap_or_default();
    if top.next().is_some() {
        return Err(malformed(&reader, "the document ends inside an element"));
    }
    let mut roots = root.children.into_iter();
    match (roots.next(), roots.next()) {
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(malformed(&reader, "more than one root element")),
        (None, _) => Err(XmlError::Empty),
    }
}

/// Escapes text for element content and attribute values; what XML 1.0 cannot carry becomes U+FFFD.
pub fn escape(text: &str) -> Cow<'_, str> {
    let carried =
        |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if text.chars().all(carried) {
        quick_xml::escape::escape(text)
    } else {
        let cleaned: String = text.chars().map(|c| if carried(c) { c } else { '\u{fffd}' }).collect();
        Cow::Owned(quick_xml::escape::escape(cleaned.as_str()).into_owned())
    }
}

fn element(reader: &NsReader<&[u8]>, start: &BytesStart<'_>) -> Result<Element, XmlError> {
    let (namespace, local) = reader.resolver().resolve_element(start.name());
    let mut element = Element {
        namespace: resolved(namespace)?,
        name: local.as_ref().to_owned(),
        ..Element::default()
    };
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|error| malformed(reader, error))?;
        if attribute.key.as_namespace_binding().is_some() {
            continue;
        }
        let (namespace, local) = reader.resolver().resolve_attribute(attribute.key);
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|error| malformed(reader, error))?;
        element
            .attributes
            .push((resolved(namespace)?, local.as_ref().to_owned(), value.into_owned()));
    }
    Ok(element)
}

fn resolved(namespace: ResolveResult<'_>) -> Result<String, XmlError> {
    match namespace {
        ResolveResult::Bound(namespace) => Ok(namespace.as_ref().to_owned()),
        ResolveResult::Unbound => Ok(String::new()),
        ResolveResult::Unknown(prefix) => Err(XmlError::UnknownPrefix(prefix)),
    }
}

fn push_text(open: &mut [Element], text: &str) {
    // The first entry is the synthetic parent: text around the root is layout.
    if let [_, .., last] = open {
        last.text.push_str(text);
    }
}

fn predefined(name: &str) -> Option<Cow<'static, str>> {
    quick_xml::escape::resolve_xml_entity(name).map(Cow::Borrowed)
}

fn malformed(reader: &NsReader<&[u8]>, what: impl ToString) -> XmlError {
    XmlError::Malformed {
        at: reader.buffer_position(),
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn resolves_namespaces_entities_and_cdata() {
        let root = parse(
            b"\xef\xbb\xbf<?xml version='1.0'?><!-- c --><a:r xmlns:a='u' x='1 &amp; 2'> a&lt;b&#x41;<![CDATA[<c>]]><b xmlns='v' a:y='z'/></a:r>",
        )
        .unwrap();
        assert!(root.is("u", "r"));
        assert_eq!(root.attribute("x"), Some("1 & 2"));
        assert_eq!(root.text, " a<bA<c>");
        assert_eq!(root.child("v", "b").unwrap().attribute_in("u", "y"), Some("z"));
    }

    #[test]
    fn refuses_what_could_harm() {
        assert_eq!(
            parse(b"<!DOCTYPE r [<!ENTITY x 'y'>]><r>&x;</r>"),
            Err(XmlError::DocumentType)
        );
        assert!(matches!(parse(b"<r>&x;</r>"), Err(XmlError::Malformed { .. })));
        assert_eq!(
            parse(format!("{}{}", "<a>".repeat(33), "</a>".repeat(33)).as_bytes()),
            Err(XmlError::TooDeep)
        );
        assert!(parse(format!("{}{}", "<a>".repeat(32), "</a>".repeat(32)).as_bytes()).is_ok());
        let many = format!("<r>{}</r>", "<a/>".repeat(MAX_ELEMENTS));
        assert_eq!(parse(many.as_bytes()), Err(XmlError::TooMany));
        assert_eq!(parse(b"<p:r/>"), Err(XmlError::UnknownPrefix("p".into())));
        assert!(matches!(parse(b"<r>"), Err(XmlError::Malformed { .. })));
        assert!(matches!(parse(b"<r/><s/>"), Err(XmlError::Malformed { .. })));
        assert_eq!(parse(b""), Err(XmlError::Empty));
        assert_eq!(parse(b"\xff"), Err(XmlError::NotUtf8));
    }

    proptest! {
        #[test]
        fn escaped_text_comes_back(text in "\\PC*") {
            let document = format!("<r a=\"{0}\">{0}</r>", escape(&text));
            let root = parse(document.as_bytes()).unwrap();
            prop_assert_eq!(&root.text, &text);
            prop_assert_eq!(root.attribute("a"), Some(text.as_str()));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in "[<>/a:&;!\\[\\]'\"= x-]{0,80}") {
            let _ = parse(&bytes);
            let _ = parse(text.as_bytes());
            let _ = escape(&String::from_utf8_lossy(&bytes)).len();
        }
    }
}
