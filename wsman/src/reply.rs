//! What came back: instances, pages of a query, method outputs and identities, from SOAP envelopes.

use crate::fault::Fault;
use crate::names::{CIM, ENUMERATION, IDENTITY, SOAP, WSMAN, XSI};
use crate::value::{Instance, Value};
use crate::xml::{self, Element, XmlError};

/// Why an answer is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The host answered a fault.
    #[error("{0}")]
    Fault(Fault),
    /// Not XML that we read.
    #[error("the answer is not a WS-Management envelope")]
    Xml(#[source] XmlError),
    /// XML, but not what was asked for.
    #[error("the answer has no {0}")]
    Missing(&'static str),
}

/// What Identify says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Protocol version: the WS-Management namespace.
    pub protocol: String,
    /// Who made it, such as `Microsoft Corporation`.
    pub vendor: String,
    /// Its version; Windows tells the system's version here once a caller is authenticated.
    pub version: String,
}

/// One answer of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub items: Vec<Instance>,
    /// Where to read on; none at the end of the sequence.
    pub context: Option<String>,
}

/// What a method gave back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `ReturnValue`; 0 is success, as is none: some methods give their instance only.
    pub return_value: u32,
    /// Every output parameter.
    pub values: Instance,
}

/// Reads the answer of an Identify.
///
/// # Errors
/// See [`ReplyError`].
pub fn identity(bytes: &[u8]) -> Result<Identity, ReplyError> {
    let body = body(bytes)?;
    let answer = body
        .child(IDENTITY, "IdentifyResponse")
        .ok_or(ReplyError::Missing("IdentifyResponse"))?;
    let text = |name| {
        answer
            .child(IDENTITY, name)
            .map(|element| element.text.trim().to_owned())
            .unwrap_or_default()
    };
    Ok(Identity {
        protocol: text("ProtocolVersion"),
        vendor: text("ProductVendor"),
        version: text("ProductVersion"),
    })
}

/// Reads the answer of a Get.
///
/// # Errors
/// See [`ReplyError`].
pub fn instance(bytes: &[u8]) -> Result<Instance, ReplyError> {
    let body = body(bytes)?;
    body.children
        .first()
        .map(decode_instance)
        .ok_or(ReplyError::Missing("instance"))
}

/// Reads the answer of an Enumerate or a Pull.
///
/// # Errors
/// See [`ReplyError`].
pub fn page(bytes: &[u8]) -> Result<Page, ReplyError> {
    let body = body(bytes)?;
    let answer = body
        .child(ENUMERATION, "EnumerateResponse")
        .or_else(|| body.child(ENUMERATION, "PullResponse"))
        .ok_or(ReplyError::Missing("EnumerateResponse or PullResponse"))?;
    // Items and EndOfSequence are WS-Management's in an optimised Enumerate and WS-Enumeration's in a Pull.
    let either = |name| answer.child(WSMAN, name).or_else(|| answer.child(ENUMERATION, name));
    let items = either("Items")
        .map(|items| items.children.iter().map(decode_instance).collect())
        .unwrap_or_default();
    let context = answer
        .child(ENUMERATION, "EnumerationContext")
        .map(|context| context.text.trim().to_owned())
        .filter(|context| !context.is_empty());
    match (either("EndOfSequence"), context) {
        (Some(_), _) => Ok(Page { items, context: None }),
        (None, Some(context)) => Ok(Page {
            items,
            context: Some(context),
        }),
        (None, None) => Err(ReplyError::Missing("EnumerationContext or EndOfSequence")),
    }
}

/// Reads the answer of a method call.
///
/// # Errors
/// See [`ReplyError`].
pub fn output(bytes: &[u8], method: &str) -> Result<Output, ReplyError> {
    let body = body(bytes)?;
    let answer = body
        .children
        .iter()
        .find(|element| element.name.strip_suffix("_OUTPUT") == Some(method))
        .ok_or(ReplyError::Missing("method output"))?;
    let values = decode_instance(answer);
    let return_value = match values.u32("ReturnValue") {
        Ok(value) => value.unwrap_or(0),
        Err(_) => return Err(ReplyError::Missing("ReturnValue")),
    };
    Ok(Output { return_value, values })
}

/// Reads an answer that says nothing but that it is no fault, such as of a Release.
///
/// # Errors
/// See [`ReplyError`].
pub fn acknowledged(bytes: &[u8]) -> Result<(), ReplyError> {
    body(bytes).map(|_| ())
}

fn body(bytes: &[u8]) -> Result<Element, ReplyError> {
    let root = xml::parse(bytes).map_err(ReplyError::Xml)?;
    if !root.is(SOAP, "Envelope") {
        return Err(ReplyError::Missing("SOAP 1.2 envelope"));
    }
    let body = root
        .children
        .into_iter()
        .find(|child| child.is(SOAP, "Body"))
        .ok_or(ReplyError::Missing("SOAP body"))?;
    match Fault::decode(&body) {
        Some(fault) => Err(ReplyError::Fault(fault)),
        None => Ok(body),
    }
}

/// Reads `<p:Class>` of a whole instance and `<w:XmlFragment>` of a query with a column list alike.
pub(crate) fn decode_instance(element: &Element) -> Instance {
    let class = if element.is(WSMAN, "XmlFragment") {
        String::new()
    } else {
        element.name.clone()
    };
    let mut instance = Instance {
        class,
        properties: Vec::with_capacity(element.children.len()),
    };
    for child in &element.children {
        let value = decode_value(child);
        // A repeated element is an array.
        match instance.properties.iter_mut().find(|(name, _)| *name == child.name) {
            None => instance.properties.push((child.name.clone(), value)),
            Some((_, Value::Array(all))) => all.push(child.text.clone()),
            Some((_, before)) => {
                let first = match std::mem::take(before) {
                    Value::Text(text) | Value::Datetime(text) => text,
                    Value::Null | Value::Array(_) => String::new(),
                };
                *before = Value::Array(vec![first, child.text.clone()]);
            }
        }
    }
    instance
}

pub(crate) fn decode_value(element: &Element) -> Value {
    if element
        .attribute_in(XSI, "nil")
        .is_some_and(|nil| nil == "true" || nil == "1")
    {
        return Value::Null;
    }
    let wrapped = ["Datetime", "Interval", "Date", "Time"]
        .iter()
        .find_map(|name| element.child(CIM, name));
    match wrapped {
        Some(time) => Value::Datetime(time.text.trim().to_owned()),
        None => Value::Text(element.text.clone()),
    }
}

#[cfg(test)]
mod tests;
