//! What is sent: SOAP envelopes of the operations, every interpolated value escaped (DSP0226 5 to 9; MS-WSMV 4.2.2).

use std::fmt::Write as _;
use std::time::Duration;

use crate::names::{
    self, ADDRESSING, ANONYMOUS, CIM, Class, ENUMERATION, IDENTITY, InvalidName, SOAP, WQL_DIALECT, WSMAN, XSI,
    check_name,
};
use crate::value::Value;
use crate::xml::escape;

/// The largest answer that we ask for: 150 KiB, which hosts of every age can send (MS-WSMV 2.2.4.10 allows 150 as the
/// default limit).
pub const MAX_ENVELOPE_SIZE: usize = 153_600;

/// An operation on a host.
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    /// Asks what answers here; needs no resource.
    Identify,
    /// Reads one instance by its key.
    Get {
        /// The class.
        class: &'a Class,
        /// Key properties and their values.
        selectors: &'a [(&'a str, &'a str)],
    },
    /// Deletes one instance by its key.
    Delete {
        /// The class.
        class: &'a Class,
        /// Key properties and their values.
        selectors: &'a [(&'a str, &'a str)],
    },
    /// Starts a WQL query.
    Enumerate {
        /// The class, or `*` of a namespace.
        class: &'a Class,
        /// The query.
        query: &'a str,
        /// Rows wanted in one answer.
        max_elements: u32,
    },
    /// Reads on.
    Pull {
        /// As in the Enumerate.
        class: &'a Class,
        /// The context of the answer before.
        context: &'a str,
        /// Rows wanted in one answer.
        max_elements: u32,
    },
    /// Ends a query early.
    Release {
        /// As in the Enumerate.
        class: &'a Class,
        /// The context of the answer before.
        context: &'a str,
    },
    /// Calls a method.
    Invoke {
        /// The class.
        class: &'a Class,
        /// Key properties and their values; empty for static methods.
        selectors: &'a [(&'a str, &'a str)],
        /// The method.
        method: &'a str,
        /// Parameters in their declared order; spelling and case matter to the WMI plug-in.
        parameters: &'a [(&'a str, Value)],
    },
}

/// What each envelope says besides its operation.
#[derive(Debug, Clone, Copy)]
pub struct Addressing<'a> {
    /// The endpoint's URL.
    pub to: &'a str,
    /// A fresh UUID; the answer's RelatesTo repeats it.
    pub message_id: uuid::Uuid,
    /// How long the host may take.
    pub timeout: Duration,
}

impl Operation<'_> {
    /// A word for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Get { .. } => "get",
            Self::Delete { .. } => "delete",
            Self::Enumerate { .. } => "enumerate",
            Self::Pull { .. } => "pull",
            Self::Release { .. } => "release",
            Self::Invoke { .. } => "invoke",
        }
    }

    /// Whether sending it twice changes nothing on the host.
    pub fn only_reads(&self) -> bool {
        matches!(self, Self::Identify | Self::Get { .. } | Self::Enumerate { .. })
    }

    /// The envelope.
    ///
    /// # Errors
    /// When a method, parameter or selector name could not be an XML element.
    pub fn envelope(&self, addressing: &Addressing<'_>) -> Result<String, InvalidName> {
        match *self {
            Self::Identify => Ok(format!(
                "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:wsmid=\"{IDENTITY}\"><s:Header/><s:Body><wsmid:Identify/></s:Body></s:Envelope>"
            )),
            Self::Get { class, selectors } => wrap(addressing, names::GET, class, selectors, ""),
            Self::Delete { class, selectors } => wrap(addressing, names::DELETE, class, selectors, ""),
            Self::Enumerate {
                class,
                query,
                max_elements,
            } => {
                let body = format!(
                    "<n:Enumerate><w:OptimizeEnumeration/><w:MaxElements>{max_elements}</w:MaxElements>\
                     <w:Filter Dialect=\"{WQL_DIALECT}\">{}</w:Filter></n:Enumerate>",
                    escape(query)
                );
                wrap(addressing, names::ENUMERATE, class, &[], &body)
            }
            Self::Pull {
                class,
                context,
                max_elements,
            } => {
                let body = format!(
                    "<n:Pull><n:EnumerationContext>{}</n:EnumerationContext><n:MaxElements>{max_elements}</n:MaxElements></n:Pull>",
                    escape(context)
                );
                wrap(addressing, names::PULL, class, &[], &body)
            }
            Self::Release { class, context } => {
                let body = format!(
                    "<n:Release><n:EnumerationContext>{}</n:EnumerationContext></n:Release>",
                    escape(context)
                );
                wrap(addressing, names::RELEASE, class, &[], &body)
            }
            Self::Invoke {
                class,
                selectors,
                method,
                parameters,
            } => {
                check_name(method)?;
                let uri = class.uri();
                let mut body = format!("<p:{method}_INPUT xmlns:p=\"{}\">", escape(&uri));
                for (name, value) in parameters {
                    check_name(name)?;
                    write_value(&mut body, &format!("p:{name}"), value);
                }
                let _ = write!(body, "</p:{method}_INPUT>");
                wrap(addressing, &format!("{uri}/{method}"), class, selectors, &body)
            }
        }
    }
}

/// Writes a property or parameter as an element `tag`, in the shapes of DSP0227 (nil, datetime, repeated elements).
pub(crate) fn write_value(out: &mut String, tag: &str, value: &Value) {
    // Writing to a String cannot fail.
    let _ = match value {
        Value::Null => write!(out, "<{tag} xsi:nil=\"true\"/>"),
        Value::Text(text) => write!(out, "<{tag}>{}</{tag}>", escape(text)),
        Value::Datetime(text) => {
            write!(out, "<{tag}><cim:Datetime>{}</cim:Datetime></{tag}>", escape(text))
        }
        Value::Array(all) => {
            for text in all {
                let _ = write!(out, "<{tag}>{}</{tag}>", escape(text));
            }
            Ok(())
        }
    };
}

/// Quotes text as a WQL string literal: backslash and quote are escaped by a backslash (WQL, "WHERE clause").
pub fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('\'');
    for c in text.chars() {
        if matches!(c, '\\' | '\'') {
            literal.push('\\');
        }
        literal.push(c);
    }
    literal.push('\'');
    literal
}

fn wrap(
    addressing: &Addressing<'_>,
    action: &str,
    class: &Class,
    selectors: &[(&str, &str)],
    body: &str,
) -> Result<String, InvalidName> {
    let mut out = format!(
        "<s:Envelope xmlns:s=\"{SOAP}\" xmlns:a=\"{ADDRESSING}\" xmlns:n=\"{ENUMERATION}\" xmlns:w=\"{WSMAN}\" \
         xmlns:cim=\"{CIM}\" xmlns:xsi=\"{XSI}\"><s:Header><a:To>{to}</a:To>\
         <w:ResourceURI s:mustUnderstand=\"true\">{uri}</w:ResourceURI>\
         <a:ReplyTo><a:Address s:mustUnderstand=\"true\">{ANONYMOUS}</a:Address></a:ReplyTo>\
         <a:Action s:mustUnderstand=\"true\">{action}</a:Action>\
         <w:MaxEnvelopeSize s:mustUnderstand=\"true\">{MAX_ENVELOPE_SIZE}</w:MaxEnvelopeSize>\
         <a:MessageID>uuid:{id}</a:MessageID><w:Locale xml:lang=\"en-US\" s:mustUnderstand=\"false\"/>\
         <w:OperationTimeout>PT{seconds}.000S</w:OperationTimeout>",
        to = escape(addressing.to),
        uri = escape(&class.uri()),
        action = escape(action),
        id = addressing.message_id.hyphenated().to_string().to_uppercase(),
        seconds = addressing.timeout.as_secs().max(1),
    );
    if !selectors.is_empty() {
        out.push_str("<w:SelectorSet>");
        for (name, value) in selectors {
            check_name(name)?;
            let _ = write!(out, "<w:Selector Name=\"{name}\">{}</w:Selector>", escape(value));
        }
        out.push_str("</w:SelectorSet>");
    }
    let _ = write!(out, "</s:Header><s:Body>{body}</s:Body></s:Envelope>");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::names::CIMV2;
    use crate::xml;

    fn addressing() -> Addressing<'static> {
        Addressing {
            to: "https://kms01.contoso.com:5986/wsman",
            message_id: uuid::Uuid::from_u128(1),
            timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn an_invoke_names_resource_action_selector_and_parameters() {
        let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
        let operation = Operation::Invoke {
            class: &class,
            selectors: &[("ID", "98ebfe73-2084-4c97-932c-c0cd1643bea7")],
            method: "DepositOfflineConfirmationId",
            parameters: &[("InstallationId", "1".into()), ("ConfirmationId", Value::Null)],
        };
        let root = xml::parse(operation.envelope(&addressing()).unwrap().as_bytes()).unwrap();
        let header = root.child(SOAP, "Header").unwrap();
        assert_eq!(
            header.child(ADDRESSING, "Action").unwrap().text,
            format!("{}/DepositOfflineConfirmationId", class.uri())
        );
        let selector = header
            .child(WSMAN, "SelectorSet")
            .unwrap()
            .child(WSMAN, "Selector")
            .unwrap();
        assert_eq!(selector.attribute("Name"), Some("ID"));
        let input = root
            .child(SOAP, "Body")
            .unwrap()
            .child(&class.uri(), "DepositOfflineConfirmationId_INPUT")
            .unwrap();
        assert_eq!(input.child(&class.uri(), "InstallationId").unwrap().text, "1");
        assert_eq!(
            input
                .child(&class.uri(), "ConfirmationId")
                .unwrap()
                .attribute_in(XSI, "nil"),
            Some("true")
        );
    }

    #[test]
    fn names_that_are_no_names_are_refused() {
        let class = Class::new(CIMV2, "C").unwrap();
        let bad_method = Operation::Invoke {
            class: &class,
            selectors: &[],
            method: "A><B",
            parameters: &[],
        };
        assert!(bad_method.envelope(&addressing()).is_err());
        let bad_selector = Operation::Get {
            class: &class,
            selectors: &[("I\"D", "x")],
        };
        assert!(bad_selector.envelope(&addressing()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_interpolated_changes_the_document(hostile in "[\\PC<>&'\"]{0,60}") {
            let class = Class::new(CIMV2, "C").unwrap();
            let addressing = Addressing { to: &hostile, ..addressing() };
            let parameters = [("P", Value::from(hostile.as_str()))];
            for operation in [
                Operation::Get { class: &class, selectors: &[("ID", &hostile)] },
                Operation::Enumerate { class: &class, query: &hostile, max_elements: 5 },
                Operation::Pull { class: &class, context: &hostile, max_elements: 5 },
                Operation::Release { class: &class, context: &hostile },
                Operation::Invoke { class: &class, selectors: &[], method: "M", parameters: &parameters },
            ] {
                let root = xml::parse(operation.envelope(&addressing).unwrap().as_bytes()).unwrap();
                prop_assert_eq!(root.children.len(), 2);
                prop_assert_eq!(&root.child(SOAP, "Header").unwrap().child(ADDRESSING, "To").unwrap().text, &hostile);
                prop_assert!(root.descendants().iter().filter(|e| e.text == hostile).count() >= 2);
            }
        }

        #[test]
        fn a_wql_literal_cannot_be_left(text in "\\PC{0,40}") {
            let literal = quoted(&text);
            let inner = &literal[1..literal.len() - 1];
            prop_assert!(!inner.replace("\\\\", "").replace("\\'", "").contains('\''));
        }
    }
}
