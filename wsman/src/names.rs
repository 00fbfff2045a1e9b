//! Namespaces, actions and resource URIs (DSP0226 Annex A; MS-WSMV 4.2.2 and 3.1.5.2.1).

use std::fmt;

/// SOAP 1.2 envelope.
pub const SOAP: &str = "http://www.w3.org/2003/05/soap-envelope";
/// WS-Addressing, August 2004.
pub const ADDRESSING: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing";
/// WS-Management.
pub const WSMAN: &str = "http://schemas.dmtf.org/wbem/wsman/1/wsman.xsd";
/// WS-Enumeration.
pub const ENUMERATION: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration";
/// WS-Transfer.
pub const TRANSFER: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer";
/// Identify.
pub const IDENTITY: &str = "http://schemas.dmtf.org/wbem/wsman/identity/1/wsmanidentity.xsd";
/// Microsoft's fault detail.
pub const WSMAN_FAULT: &str = "http://schemas.microsoft.com/wbem/wsman/1/wsmanfault";
/// CIM types in XML.
pub const CIM: &str = "http://schemas.dmtf.org/wbem/wscim/1/common";
/// XML Schema instance, for `xsi:nil`.
pub const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Dialect of WQL filters.
pub const WQL_DIALECT: &str = "http://schemas.microsoft.com/wbem/wsman/1/WQL";
/// Where answers go: back on the same connection.
pub const ANONYMOUS: &str = "http://schemas.xmlsoap.org/ws/2004/08/addressing/role/anonymous";
/// Prefix of every WMI resource.
pub const WMI: &str = "http://schemas.microsoft.com/wbem/wsman/1/wmi/";

/// Action of a Get.
pub const GET: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Get";
/// Action of a Delete.
pub const DELETE: &str = "http://schemas.xmlsoap.org/ws/2004/09/transfer/Delete";
/// Action of an Enumerate.
pub const ENUMERATE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Enumerate";
/// Action of a Pull.
pub const PULL: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Pull";
/// Action of a Release.
pub const RELEASE: &str = "http://schemas.xmlsoap.org/ws/2004/09/enumeration/Release";

/// The namespace of the classes that KMS hosts and events live in.
pub const CIMV2: &str = "root/cimv2";

/// A WMI class, or `*` for a query over a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Class {
    namespace: String,
    name: String,
}

/// A name that cannot stand in a resource URI or as an XML element.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a WMI name: use letters, digits and underscores, not starting with a digit")]
pub struct InvalidName(pub String);

impl Class {
    /// A class by namespace (`root/cimv2`) and name.
    ///
    /// # Errors
    /// When either holds anything but the letters, digits and underscores that WMI names are made of.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        namespace.split('/').try_for_each(check_name)?;
        if name != "*" {
            check_name(name)?;
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The resource URI, `http://schemas.microsoft.com/wbem/wsman/1/wmi/NAMESPACE/NAME`.
    pub fn uri(&self) -> String {
        format!("{WMI}{}/{}", self.namespace, self.name)
    }

    /// Reads a resource URI; its case does not matter on the wire and is kept.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let rest = uri
            .get(..WMI.len())
            .filter(|prefix| prefix.eq_ignore_ascii_case(WMI))
            .and(uri.get(WMI.len()..))?;
        let (namespace, name) = rest.split('?').next()?.rsplit_once('/')?;
        Self::new(namespace, name).ok()
    }

    /// The namespace, such as `root/cimv2`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The class, or `*`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

/// Checks that `name` can be a WMI class, property, method or parameter, and so an XML element.
///
/// # Errors
/// When it cannot.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let goes_on = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if starts && goes_on && name.len() <= 256 {
        Ok(())
    } else {
        Err(InvalidName(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_survives_its_uri_and_nothing_else_passes() {
        let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
        assert_eq!(Class::from_uri(&class.uri()), Some(class));
        assert!(Class::from_uri("HTTP://SCHEMAS.microsoft.com/wbem/wsman/1/wmi/root/cimv2/*").is_some());
        assert_eq!(
            Class::from_uri("http://schemas.microsoft.com/wbem/wsman/1/windows/shell/cmd"),
            None
        );
        assert!(Class::new(CIMV2, "a\"/><x").is_err());
        assert!(Class::new("root/../x", "C").is_err());
    }
}
