//! The operations of the server side: Identify, Get, Enumerate, Pull, Release and Invoke on a provider's classes, and
//! faults in the shape that Windows gives them.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Instant;

use super::pages::Waiting;
use super::wql::{Condition, Operator};
use super::{Call, Query, Shared};
use crate::envelope::{MAX_ENVELOPE_SIZE, write_value};
use crate::hresult::Hresult;
use crate::names::{
    self, ADDRESSING, ANONYMOUS, CIM, CIMV2, Class, ENUMERATION, IDENTITY, SOAP, TRANSFER, WMI, WQL_DIALECT, WSMAN,
    WSMAN_FAULT, XSI,
};
use crate::reply::{Output, decode_instance};
use crate::value::Instance;
use crate::xml::{self, Element, escape};

/// The smallest envelope that a client may ask for (MS-WSMAN 3.1.4.1.9).
const MIN_ENVELOPE: usize = 8192;
/// Room for everything in an answer but its rows.
const FRAME: usize = 4096;
/// WinRM's largest batch.
const MAX_ELEMENTS: usize = 32_000;

/// A refused operation.
struct Refusal {
    /// `Sender` or `Receiver`.
    code: &'static str,
    /// With its prefix.
    subcode: &'static str,
    hresult: Hresult,
    text: String,
}

impl Refusal {
    fn sender(subcode: &'static str, hresult: Hresult, text: &str) -> Self {
        Self {
            code: "Sender",
            subcode,
            hresult,
            text: text.to_owned(),
        }
    }
}

impl From<Hresult> for Refusal {
    fn from(hresult: Hresult) -> Self {
        Self {
            code: "Receiver",
            subcode: "w:InternalError",
            hresult,
            text: hresult.to_string(),
        }
    }
}

/// A request's headers.
struct Request {
    action: String,
    message_id: String,
    class: Option<Class>,
    selectors: Vec<(String, String)>,
    envelope: usize,
}

/// What goes into an answer.
struct Reply {
    action: String,
    body: String,
}

/// Answers an envelope; says whether the answer is a fault.
pub(super) async fn answer(shared: &Shared, bytes: &[u8]) -> (bool, String) {
    let invalid = |text: &str| {
        let refusal = Refusal::sender("w:InvalidMessage", Hresult::INVALID_DATA, text);
        (true, fault("", &refusal))
    };
    let root = match xml::parse(bytes) {
        Ok(root) if root.is(SOAP, "Envelope") => root,
        Ok(_) => return invalid("not a SOAP 1.2 envelope"),
        Err(error) => return invalid(&error.to_string()),
    };
    let Some(body) = root.child(SOAP, "Body") else {
        return invalid("no SOAP body");
    };
    if body.child(IDENTITY, "Identify").is_some() {
        return (false, identify());
    }
    let Some(request) = root.child(SOAP, "Header").and_then(read_header) else {
        return invalid("headers are missing");
    };
    match operate(shared, &request, body).await {
        Ok(reply) => (false, envelope(&request.message_id, &reply.action, &reply.body)),
        Err(refusal) => (true, fault(&request.message_id, &refusal)),
    }
}

fn read_header(header: &Element) -> Option<Request> {
    let text = |namespace, name| {
        header
            .child(namespace, name)
            .map(|element| element.text.trim().to_owned())
    };
    let selectors = header.child(WSMAN, "SelectorSet").map(|set| {
        let named =
            |selector: &Element| Some((selector.attribute("Name")?.to_owned(), selector.text.trim().to_owned()));
        set.children.iter().filter_map(named).collect()
    });
    Some(Request {
        action: text(ADDRESSING, "Action")?,
        message_id: text(ADDRESSING, "MessageID")?,
        class: text(WSMAN, "ResourceURI").as_deref().and_then(Class::from_uri),
        selectors: selectors.unwrap_or_default(),
        envelope: text(WSMAN, "MaxEnvelopeSize")
            .and_then(|size| size.parse().ok())
            .unwrap_or(MAX_ENVELOPE_SIZE),
    })
}

async fn operate(shared: &Shared, request: &Request, body: &Element) -> Result<Reply, Refusal> {
    if request.envelope < MIN_ENVELOPE {
        return Err(Refusal::sender(
            "w:EncodingLimit",
            Hresult(0x8033_8010),
            "MaxEnvelopeSize is below 8192",
        ));
    }
    let Some(class) = &request.class else {
        return Err(Refusal::sender(
            "a:DestinationUnreachable",
            Hresult(0x8033_800B),
            "no such resource",
        ));
    };
    match request.action.as_str() {
        names::GET => get(shared, request, class).await,
        names::DELETE => delete(shared, request, class).await,
        names::ENUMERATE => enumerate(shared, request, class, body).await,
        names::PULL => pull(shared, request, body),
        names::RELEASE => release(shared, body),
        action => match action
            .strip_prefix(&class.uri())
            .and_then(|method| method.strip_prefix('/'))
        {
            Some(method) => invoke(shared, request, class, method, body).await,
            None => Err(Refusal::sender(
                "a:ActionNotSupported",
                Hresult(0x8033_8009),
                "no such action",
            )),
        },
    }
}

async fn get(shared: &Shared, request: &Request, class: &Class) -> Result<Reply, Refusal> {
    let conditions = request
        .selectors
        .iter()
        .map(|(property, literal)| Condition {
            property: property.clone(),
            operator: Operator::Equal,
            literal: Some(literal.clone()),
        })
        .collect();
    let query = Query {
        class: class.name().to_owned(),
        columns: None,
        conditions,
    };
    let mut rows = shared.provider.instances(class.namespace(), &query).await?;
    rows.retain(|row| query.admits(row));
    let mut rows = rows.into_iter();
    match (rows.next(), rows.next()) {
        (Some(row), None) => {
            let mut body = String::new();
            write_instance(&mut body, class.namespace(), &row);
            Ok(Reply {
                action: format!("{TRANSFER}/GetResponse"),
                body,
            })
        }
        (None, _) => Err(Refusal::sender(
            "a:DestinationUnreachable",
            Hresult::WBEM_NOT_FOUND,
            "no such instance",
        )),
        (Some(_), Some(_)) => Err(Refusal::sender(
            "w:InvalidSelectors",
            Hresult::WBEM_INVALID_PARAMETER,
            "the selectors are no key",
        )),
    }
}

async fn delete(shared: &Shared, request: &Request, class: &Class) -> Result<Reply, Refusal> {
    let call = Call {
        namespace: class.namespace().to_owned(),
        class: class.name().to_owned(),
        method: String::new(),
        selectors: request.selectors.clone(),
        parameters: Instance::default(),
    };
    shared.provider.delete(&call).await?;
    Ok(Reply {
        action: format!("{TRANSFER}/DeleteResponse"),
        body: String::new(),
    })
}

async fn enumerate(shared: &Shared, request: &Request, class: &Class, body: &Element) -> Result<Reply, Refusal> {
    let asked = body
        .child(ENUMERATION, "Enumerate")
        .ok_or_else(|| Refusal::sender("w:InvalidMessage", Hresult::INVALID_DATA, "no Enumerate"))?;
    let filter = asked
        .child(WSMAN, "Filter")
        .or_else(|| asked.child(ENUMERATION, "Filter"));
    let query = match filter {
        Some(filter) if filter.attribute("Dialect") == Some(WQL_DIALECT) => {
            Query::parse(filter.text.trim()).map_err(|error| {
                Refusal::sender("w:CannotProcessFilter", Hresult::WBEM_INVALID_QUERY, &error.to_string())
            })?
        }
        Some(_) => {
            let text = "only the WQL dialect is known";
            return Err(Refusal::sender(
                "w:FilterDialectRequestedUnavailable",
                Hresult(0x8033_8006),
                text,
            ));
        }
        None if class.name() == "*" => {
            return Err(Refusal::sender(
                "w:InvalidOptions",
                Hresult(0x8033_8005),
                "a filter is needed",
            ));
        }
        None => Query::all(class.name()),
    };
    let mut rows = shared.provider.instances(class.namespace(), &query).await?;
    rows.retain(|row| query.admits(row));
    let waiting = Waiting {
        rows: rows.into_iter().map(|row| query.project(row)).collect::<VecDeque<_>>(),
        fragments: query.columns.is_some(),
        namespace: class.namespace().to_owned(),
    };
    let optimised = asked.child(WSMAN, "OptimizeEnumeration").is_some();
    let most = if optimised {
        elements(asked.child(WSMAN, "MaxElements"))
    } else {
        0
    };
    let body = batch(shared, request, waiting, most, "EnumerateResponse", "w")?;
    Ok(Reply {
        action: format!("{ENUMERATION}/EnumerateResponse"),
        body,
    })
}

fn pull(shared: &Shared, request: &Request, body: &Element) -> Result<Reply, Refusal> {
    let asked = body.child(ENUMERATION, "Pull");
    let waiting = asked
        .and_then(|asked| asked.child(ENUMERATION, "EnumerationContext"))
        .and_then(|context| shared.pages.take(context.text.trim(), Instant::now()))
        .ok_or_else(unknown_context)?;
    let most = elements(asked.and_then(|asked| asked.child(ENUMERATION, "MaxElements")));
    let body = batch(shared, request, waiting, most, "PullResponse", "n")?;
    Ok(Reply {
        action: format!("{ENUMERATION}/PullResponse"),
        body,
    })
}

fn release(shared: &Shared, body: &Element) -> Result<Reply, Refusal> {
    body.child(ENUMERATION, "Release")
        .and_then(|asked| asked.child(ENUMERATION, "EnumerationContext"))
        .and_then(|context| shared.pages.take(context.text.trim(), Instant::now()))
        .ok_or_else(unknown_context)?;
    Ok(Reply {
        action: format!("{ENUMERATION}/ReleaseResponse"),
        body: String::new(),
    })
}

fn unknown_context() -> Refusal {
    Refusal::sender(
        "n:InvalidEnumerationContext",
        Hresult(0x8033_8001),
        "unknown enumeration context",
    )
}

fn elements(asked: Option<&Element>) -> usize {
    asked
        .and_then(|most| most.text.trim().parse().ok())
        .unwrap_or(1)
        .clamp(1, MAX_ELEMENTS)
}

/// Writes as many rows as are wanted and fit the envelope, and keeps the rest for the next Pull.
fn batch(
    shared: &Shared,
    request: &Request,
    mut waiting: Waiting,
    most: usize,
    element: &str,
    prefix: &str,
) -> Result<String, Refusal> {
    let room = request.envelope.min(MAX_ENVELOPE_SIZE).saturating_sub(FRAME);
    let mut items = String::new();
    for sent in 0..most {
        let Some(row) = waiting.rows.pop_front() else { break };
        let before = items.len();
        if waiting.fragments {
            write_fragment(&mut items, &row);
        } else {
            write_instance(&mut items, &waiting.namespace, &row);
        }
        if items.len() > room {
            if sent == 0 {
                return Err(Refusal::sender(
                    "w:EncodingLimit",
                    Hresult(0x8033_8012),
                    "a row does not fit the envelope",
                ));
            }
            items.truncate(before);
            waiting.rows.push_front(row);
            break;
        }
    }
    let done = most > 0 && waiting.rows.is_empty();
    let context = if done {
        String::new()
    } else {
        format!("uuid:{}", shared.pages.keep(waiting, Instant::now()))
    };
    let mut body = format!("<n:{element}><n:EnumerationContext>{context}</n:EnumerationContext>");
    if most > 0 {
        let _ = write!(body, "<{prefix}:Items>{items}</{prefix}:Items>");
    }
    if done {
        let _ = write!(body, "<{prefix}:EndOfSequence/>");
    }
    let _ = write!(body, "</n:{element}>");
    Ok(body)
}

async fn invoke(
    shared: &Shared,
    request: &Request,
    class: &Class,
    method: &str,
    body: &Element,
) -> Result<Reply, Refusal> {
    let invalid = || Refusal::sender("w:InvalidMessage", Hresult::INVALID_DATA, "no method input");
    names::check_name(method).map_err(|_| invalid())?;
    let input = body
        .children
        .iter()
        .find(|e| e.name.strip_suffix("_INPUT") == Some(method))
        .ok_or_else(invalid)?;
    let call = Call {
        namespace: class.namespace().to_owned(),
        class: class.name().to_owned(),
        method: method.to_owned(),
        selectors: request.selectors.clone(),
        parameters: decode_instance(input),
    };
    let Output { values, .. } = shared.provider.invoke(&call).await?;
    let uri = class.uri();
    let mut out = format!("<p:{method}_OUTPUT xmlns:p=\"{}\">", escape(&uri));
    for (name, value) in &values.properties {
        write_value(&mut out, &format!("p:{name}"), value);
    }
    let _ = write!(out, "</p:{method}_OUTPUT>");
    Ok(Reply {
        action: format!("{uri}/{method}Response"),
        body: out,
    })
}

/// A whole instance: `<p:Class xsi:type="p:Class_Type">`.
fn write_instance(out: &mut String, namespace: &str, row: &Instance) {
    let class = &row.class;
    let _ = write!(
        out,
        "<p:{class} xmlns:p=\"{WMI}{namespace}/{class}\" xsi:type=\"p:{class}_Type\">"
    );
    for (name, value) in &row.properties {
        write_value(out, &format!("p:{name}"), value);
    }
    let _ = write!(out, "</p:{class}>");
}

/// The columns of a query: `<w:XmlFragment>` with elements in no namespace.
fn write_fragment(out: &mut String, row: &Instance) {
    out.push_str("<w:XmlFragment>");
    for (name, value) in &row.properties {
        write_value(out, name, value);
    }
    out.push_str("</w:XmlFragment>");
}

fn identify() -> String {
    format!(
        "<s:Envelope xmlns:s=\"{SOAP}\"><s:Header/><s:Body><wsmid:IdentifyResponse xmlns:wsmid=\"{IDENTITY}\">\
         <wsmid:ProtocolVersion>{WSMAN}</wsmid:ProtocolVersion><wsmid:ProductVendor>officekms</wsmid:ProductVendor>\
         <wsmid:ProductVersion>{}</wsmid:ProductVersion></wsmid:IdentifyResponse></s:Body></s:Envelope>",
        env!("CARGO_PKG_VERSION")
    )
}

fn envelope(relates_to: &str, action: &str, body: &str) -> String {
    let relates = if relates_to.is_empty() {
        String::new()
    } else {
        format!("<a:RelatesTo>{}</a:RelatesTo>", escape(relates_to))
    };
    format!(
        "<s:Envelope xml:lang=\"en-US\" xmlns:s=\"{SOAP}\" xmlns:a=\"{ADDRESSING}\" xmlns:n=\"{ENUMERATION}\" \
         xmlns:w=\"{WSMAN}\" xmlns:cim=\"{CIM}\" xmlns:xsi=\"{XSI}\"><s:Header><a:Action>{}</a:Action>\
         <a:MessageID>uuid:{}</a:MessageID><a:To>{ANONYMOUS}</a:To>{relates}</s:Header><s:Body>{body}</s:Body></s:Envelope>",
        escape(action),
        uuid::Uuid::new_v4().hyphenated().to_string().to_uppercase(),
    )
}

/// A fault as Windows nests it: WSManFault, ProviderFault, MSFT_WmiError.
fn fault(relates_to: &str, refusal: &Refusal) -> String {
    let Refusal {
        code,
        subcode,
        hresult,
        text,
    } = refusal;
    let text = escape(text);
    let wmi = format!("{WMI}{CIMV2}/MSFT_WmiError");
    let body = format!(
        "<s:Fault><s:Code><s:Value>s:{code}</s:Value><s:Subcode><s:Value>{subcode}</s:Value></s:Subcode></s:Code>\
         <s:Reason><s:Text xml:lang=\"en-US\">{text}</s:Text></s:Reason><s:Detail>\
         <f:WSManFault xmlns:f=\"{WSMAN_FAULT}\" Code=\"{number}\" Machine=\"localhost\"><f:Message>\
         <f:ProviderFault provider=\"WMI Provider\"><f:WSManFault Code=\"{number}\" Machine=\"localhost\">\
         <f:Message>{text}</f:Message></f:WSManFault>\
         <p:MSFT_WmiError xmlns:p=\"{wmi}\" xsi:type=\"p:MSFT_WmiError_Type\"><p:error_Code>{number}</p:error_Code>\
         <p:error_Type>HRESULT</p:error_Type><p:Message>{text}</p:Message></p:MSFT_WmiError>\
         </f:ProviderFault></f:Message></f:WSManFault></s:Detail></s:Fault>",
        number = hresult.0,
    );
    envelope(relates_to, &format!("{ADDRESSING}/fault"), &body)
}
