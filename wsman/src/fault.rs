//! SOAP faults, decoded to the innermost code: the Windows HRESULT where one is there.
//!
//! A fault nests: SOAP code and subcode (DSP0226 14), then `WSManFault` with a Win32 or WinRM code, then perhaps a
//! provider's fault that holds an `MSFT_WmiError` instance, whose `error_Code` is what the licensing service answered
//! (MS-WSMV 2.2.4.44, 2.2.4.45).

use std::fmt;

use crate::hresult::Hresult;
use crate::names::SOAP;
use crate::xml::Element;

/// The longest text of a host that we repeat.
const MAX_TEXT: usize = 512;

/// WinRM: the operation timed out (ERROR_WINRS..., 0x80338029); on Pull it means "nothing yet".
pub const OPERATION_TIMED_OUT: Hresult = Hresult(0x8033_8029);

/// A fault that a host answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// SOAP code without its prefix: `Sender` or `Receiver`.
    pub code: String,
    /// SOAP subcode without its prefix, such as `InvalidSelectors`; empty when there is none.
    pub subcode: String,
    /// The reason in the host's words, cut to 512 characters.
    pub reason: String,
    /// The innermost code: `MSFT_WmiError`'s if there, else the deepest `WSManFault`'s.
    pub hresult: Option<Hresult>,
}

impl Fault {
    /// Reads the fault in a SOAP body; none when the body holds no fault.
    pub fn decode(body: &Element) -> Option<Self> {
        let fault = body.child(SOAP, "Fault")?;
        let code = fault.child(SOAP, "Code");
        let subcode = code.and_then(|code| code.child(SOAP, "Subcode"));
        let value = |of: Option<&Element>| {
            let text = of
                .and_then(|of| of.child(SOAP, "Value"))
                .map(|value| value.text.trim())
                .unwrap_or_default();
            cut(text.rsplit(':').next().unwrap_or_default())
        };
        let detail = fault
            .child(SOAP, "Detail")
            .map(Element::descendants)
            .unwrap_or_default();
        let reason = fault
            .child(SOAP, "Reason")
            .and_then(|reason| reason.child(SOAP, "Text"));
        Some(Self {
            code: value(code),
            subcode: value(subcode),
            reason: innermost_message(&detail)
                .or_else(|| reason.map(|text| cut(text.text.trim())))
                .unwrap_or_default(),
            hresult: innermost_code(&detail),
        })
    }

    /// Whether this says that the host needs more time (a Pull is to be repeated).
    pub fn timed_out(&self) -> bool {
        self.hresult == Some(OPERATION_TIMED_OUT) || self.subcode == "TimedOut"
    }

    /// Whether the answer does not fit an envelope: fewer rows at a time may do (`wsman:EncodingLimit`, DSP0226 13.1).
    pub fn too_large(&self) -> bool {
        self.subcode == "EncodingLimit"
    }

    /// Whether the host refuses the account, whatever it wanted.
    pub fn access_denied(&self) -> bool {
        // Win32 error 5 stands bare in WSManFault's Code.
        matches!(self.hresult, Some(Hresult(5 | 0x8007_0005 | 0x8004_1003))) || self.subcode == "AccessDenied"
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hresult {
            Some(Hresult(5)) => f.write_str("access denied: use an account in the host's Administrators group"),
            Some(code) if code.known().is_some() => write!(f, "{code}: {}", code.advice()),
            Some(code) => write!(f, "{code}: {}", self.words()),
            None => f.write_str(self.words()),
        }
    }
}

impl Fault {
    fn words(&self) -> &str {
        [&self.reason, &self.subcode, &self.code]
            .into_iter()
            .find(|words| !words.is_empty())
            .map_or("a fault without any words", String::as_str)
    }
}

/// Elements come outermost first, so the last one that fits is the innermost.
fn innermost_code(detail: &[&Element]) -> Option<Hresult> {
    let wmi = detail
        .iter()
        .rev()
        .filter(|element| matches!(element.name.as_str(), "error_Code" | "StatusCode"))
        .find_map(|element| number(&element.text));
    let wsman = || {
        detail
            .iter()
            .rev()
            .filter(|element| element.name == "WSManFault")
            .find_map(|element| number(element.attribute("Code")?))
    };
    wmi.filter(|&code| code != 0).or_else(wsman).map(Hresult)
}

fn innermost_message(detail: &[&Element]) -> Option<String> {
    detail
        .iter()
        .rev()
        .filter(|element| {
            matches!(
                element.name.as_str(),
                "Message" | "error_Message" | "error_WindowsErrorMessage"
            )
        })
        .map(|element| cut(element.text.trim()))
        .find(|text| !text.is_empty())
}

/// A code as hosts print it: decimal (signed or not) or hexadecimal.
fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(hex, 16).ok();
    }
    text.parse::<u32>()
        .ok()
        .or_else(|| text.parse::<i32>().ok().map(i32::cast_unsigned))
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
