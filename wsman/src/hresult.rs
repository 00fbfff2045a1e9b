//! Windows codes in words: what each means for a KMS host or its clients, and what to do about it.
//!
//! The wording of meaning and advice is ours; the codes are from "Resolve Windows activation error codes",
//! "Troubleshoot KMS" and the Win32 documentation.

use std::fmt;

/// A Windows HRESULT, printed as `0xC004F038`, with its meaning where known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hresult(pub u32);

/// Severity and facility of WinRM's own codes: it did not come to what was asked.
const WINRM: u32 = 0x8033;

/// What a code means and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// The code.
    pub code: u32,
    /// What happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    /// What it says about the operation that it ended.
    pub says: Says,
}

/// What a code says about the operation that it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The activation service, or the host, has given its final answer: asking again the same way spends one of the few
    /// activations of a key, or cannot end otherwise.
    Refused,
    /// It went wrong in another way.
    Failed,
    /// Who was to answer was not reached, or did not let the account in: nothing happened, and later it can go well.
    NotReached,
    /// The answer was lost: nobody knows whether it happened.
    Lost,
}

impl Hresult {
    /// Success.
    pub const OK: Self = Self(0);
    /// Access denied.
    pub const ACCESS_DENIED: Self = Self(0x8007_0005);
    /// The data is invalid.
    pub const INVALID_DATA: Self = Self(0x8007_000D);
    /// The product key is invalid.
    pub const INVALID_PRODUCT_KEY: Self = Self(0xC004_F050);
    /// The product, so its licence pack, is not installed.
    pub const PRODUCT_NOT_INSTALLED: Self = Self(0xC004_F012);
    /// The key has reached its activation limit.
    pub const ACTIVATION_LIMIT: Self = Self(0xC004_C008);
    /// Offline activation data is malformed.
    pub const OFFLINE_DATA_MALFORMED: Self = Self(0xC004_F02C);
    /// The name of the activation service is not resolved.
    pub const NAME_NOT_RESOLVED: Self = Self(0x8007_2EE7);
    /// There is no key for this product.
    pub const NO_PRODUCT_KEY: Self = Self(0xC004_F014);
    /// WMI: no such object.
    pub const WBEM_NOT_FOUND: Self = Self(0x8004_1002);
    /// WMI: no such namespace.
    pub const WBEM_INVALID_NAMESPACE: Self = Self(0x8004_100E);
    /// WMI: the operation is not supported here.
    pub const WBEM_NOT_SUPPORTED: Self = Self(0x8004_100C);
    /// WMI: no such class.
    pub const WBEM_INVALID_CLASS: Self = Self(0x8004_1010);
    /// WMI: the query cannot be read.
    pub const WBEM_INVALID_QUERY: Self = Self(0x8004_1017);
    /// WMI: a parameter is wrong.
    pub const WBEM_INVALID_PARAMETER: Self = Self(0x8004_1008);
    /// WMI: no such method.
    pub const WBEM_INVALID_METHOD: Self = Self(0x8004_102F);

    /// What the code means, where we know.
    pub fn known(self) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.code == self.0)
    }

    /// Whether the code says success (its severity bit is clear).
    pub fn is_success(self) -> bool {
        self.0 & 0x8000_0000 == 0
    }

    /// Whether asking again the same way is pointless or harmful.
    pub fn is_final(self) -> bool {
        self.known().is_some_and(|known| known.says == Says::Refused)
    }

    /// Whether the code is no answer of who was asked, but of what stands in between: a network, a name server, a service
    /// that is down, rights that are missing.
    pub fn is_transient(self) -> bool {
        match self.known() {
            Some(known) => matches!(known.says, Says::NotReached | Says::Lost),
            None => self.0 >> 16 == WINRM,
        }
    }

    /// Whether nobody can know if the operation took effect.
    pub fn is_lost(self) -> bool {
        self.known().is_some_and(|known| known.says == Says::Lost)
    }

    /// What to do, in words; for an unknown code, where to look it up.
    pub fn advice(self) -> &'static str {
        self.known()
            .map_or("look the code up with `slui 0x2a CODE` on a Windows machine", |known| {
                known.advice
            })
    }
}

impl fmt::Display for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:08X}", self.0)?;
        match self.known() {
            Some(known) => write!(f, " ({})", known.meaning),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Hresult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hresult(0x{:08X})", self.0)
    }
}

const fn saying(says: Says, code: u32, meaning: &'static str, advice: &'static str) -> Known {
    Known {
        code,
        meaning,
        advice,
        says,
    }
}

const fn known(code: u32, meaning: &'static str, advice: &'static str) -> Known {
    saying(Says::Failed, code, meaning, advice)
}

const fn refused(code: u32, meaning: &'static str, advice: &'static str) -> Known {
    saying(Says::Refused, code, meaning, advice)
}

const fn not_reached(code: u32, meaning: &'static str, advice: &'static str) -> Known {
    saying(Says::NotReached, code, meaning, advice)
}

const fn lost(code: u32, meaning: &'static str, advice: &'static str) -> Known {
    saying(Says::Lost, code, meaning, advice)
}

/// What lets a host reach Microsoft's activation service.
const ALLOW: &str =
    "let the host resolve and reach activation.sls.microsoft.com and its kin by HTTPS, or activate by telephone";

/// Every code that we have words for, by code.
pub static KNOWN: &[Known] = &[
    known(0x0000_0000, "success", "nothing"),
    known(
        0x8000_4005,
        "unspecified error",
        "read the host's Application event log",
    ),
    known(
        0x8004_1002,
        "the WMI object was not found",
        "install the product's Volume License Pack",
    ),
    not_reached(
        0x8004_1003,
        "WMI denies access",
        "give the account rights on the WMI namespace, or use an administrator",
    ),
    known(0x8004_1008, "a WMI parameter is invalid", "check the value"),
    known(
        0x8004_100C,
        "WMI does not support this here",
        "check that the host runs a supported Windows",
    ),
    known(
        0x8004_100E,
        "the WMI namespace does not exist",
        "install the role or feature that brings it",
    ),
    known(
        0x8004_1010,
        "the WMI class does not exist",
        "check that the host runs a supported Windows",
    ),
    known(0x8004_1017, "the WMI query is invalid", "check the query"),
    known(
        0x8004_102F,
        "the WMI method does not exist",
        "check that the host runs a supported Windows",
    ),
    not_reached(
        0x8007_0005,
        "access denied",
        "use an account in the host's Administrators group",
    ),
    known(
        0x8007_000D,
        "the data is invalid",
        "check the request or the key; the other side sent what cannot be read",
    ),
    known(0x8007_0057, "a parameter is incorrect", "check the value"),
    known(
        0x8007_007B,
        "the DNS name does not exist",
        "publish the SRV record _vlmcs._tcp in the clients' domain",
    ),
    not_reached(
        0x8007_0422,
        "the service is disabled",
        "set the service Software Protection (sppsvc) to start",
    ),
    not_reached(
        0x8007_06BA,
        "the RPC server is unavailable",
        "check the firewall for TCP 1688 and that the host is up",
    ),
    lost(
        0x8007_05B4,
        "the operation timed out on the host",
        "see that the host is not overloaded",
    ),
    lost(
        0x8007_06BE,
        "the remote procedure call was cut off",
        "see that the service Software Protection (sppsvc) runs on the host",
    ),
    not_reached(0x8007_232A, "DNS server failure", "check the DNS server"),
    not_reached(
        0x8007_232B,
        "the DNS name does not exist",
        "publish the SRV record _vlmcs._tcp in the clients' domain",
    ),
    known(
        0x8007_2338,
        "the DNS server refused a signed update",
        "let the DNS name's owner give the host rights",
    ),
    not_reached(
        0x8007_251D,
        "no records for the DNS query",
        "publish the SRV record _vlmcs._tcp in the clients' domain",
    ),
    lost(0x8007_2EE2, "the activation service gave no answer in time", ALLOW),
    not_reached(0x8007_2EE7, "the name of the activation service is not resolved", ALLOW),
    not_reached(0x8007_2EFD, "the activation service cannot be connected to", ALLOW),
    lost(
        0x8007_2EFE,
        "the connection to the activation service was cut off",
        ALLOW,
    ),
    not_reached(
        0x8007_2F8F,
        "the certificate of the activation service is not trusted",
        "set the host's clock, update its root certificates, and let no proxy open its HTTPS",
    ),
    not_reached(
        0x8009_2328,
        "the DNS name does not exist",
        "publish the SRV record _vlmcs._tcp in the clients' domain",
    ),
    lost(
        0x8033_8029,
        "the operation timed out on the host",
        "try again; the host is busy",
    ),
    not_reached(
        0xC002_0017,
        "the RPC server is unavailable",
        "check the firewall for TCP 1688 and that the host is up",
    ),
    refused(
        0xC004_C001,
        "the activation service found the key invalid",
        "check the key with your licensing portal",
    ),
    refused(
        0xC004_C003,
        "the activation service says that the key is blocked",
        "call the Activation Center",
    ),
    refused(
        0xC004_C008,
        "the key has reached its activation limit",
        "call the Activation Center or activate by telephone; a KMS host key allows six hosts, each a few times",
    ),
    refused(
        0xC004_C020,
        "the key has exceeded its activation limit",
        "call the Activation Center",
    ),
    refused(
        0xC004_C021,
        "the key's extended activations are used up",
        "call the Activation Center",
    ),
    refused(
        0xC004_E016,
        "the key belongs to another product",
        "use the KMS host key of this Office version",
    ),
    known(0xC004_F009, "the grace period is over", "activate the host key"),
    known(
        0xC004_F00F,
        "the hardware changed beyond tolerance",
        "activate again, by telephone if need be",
    ),
    refused(
        0xC004_F012,
        "the product is not installed",
        "install the product's Volume License Pack",
    ),
    known(0xC004_F014, "no product key is installed", "install the KMS host key"),
    refused(
        0xC004_F015,
        "the licence is not installed",
        "install the product's Volume License Pack",
    ),
    known(
        0xC004_F02C,
        "the offline activation data is malformed",
        "type the confirmation ID again; it must belong to the installation ID that is shown now",
    ),
    known(
        0xC004_F035,
        "the machine has no qualifying edition or firmware",
        "use a volume edition of Windows",
    ),
    known(
        0xC004_F038,
        "the count reported by the KMS host is too low",
        "let more clients reach the same host: 5 for Office, 5 for Windows Server, 25 for Windows",
    ),
    known(
        0xC004_F039,
        "KMS is not enabled on the host",
        "install and activate the KMS host key; check TCP 1688",
    ),
    known(0xC004_F041, "the KMS host is not activated", "activate the host key"),
    known(
        0xC004_F042,
        "the KMS host cannot be used for this product",
        "install this product's pack and host key on it",
    ),
    refused(
        0xC004_F050,
        "the product key is invalid",
        "check the key; it needs this version's Volume License Pack",
    ),
    refused(0xC004_F051, "the product key is blocked", "call the Activation Center"),
    known(
        0xC004_F056,
        "the product cannot be activated by KMS",
        "check that it is a volume edition",
    ),
    known(
        0xC004_F063,
        "the firmware has no OEM activation data",
        "use another activation method or machine",
    ),
    refused(
        0xC004_F069,
        "the product was not found",
        "check the activation ID; install the Volume License Pack",
    ),
    known(
        0xC004_F06C,
        "the request's time is more than 4 hours off",
        "set the clocks of client and host",
    ),
    known(
        0xC004_F074,
        "no KMS host could be contacted",
        "check DNS, the firewall and TCP 1688",
    ),
    known(
        0xC004_D307,
        "the number of allowed rearms is exceeded",
        "install the system anew",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_said_in_words() {
        assert_eq!(
            Hresult(0xC004_F038).to_string(),
            "0xC004F038 (the count reported by the KMS host is too low)"
        );
        assert_eq!(Hresult(0xDEAD_BEEF).to_string(), "0xDEADBEEF");
        assert!(Hresult(0xC004_C008).is_final());
        assert!(!Hresult(0xC004_F074).is_final());
        assert!(Hresult::OK.is_success() && !Hresult::ACCESS_DENIED.is_success());
    }

    #[test]
    fn what_stands_in_between_is_told_from_an_answer() {
        // Code, final, transient, lost.
        for (code, is_final, transient, lost) in [
            (0x8007_2EE7, false, true, false),
            (0x8007_2EE2, false, true, true),
            (0x8007_2EFD, false, true, false),
            (0x8007_232B, false, true, false),
            (0x8007_0005, false, true, false),
            (0x8007_06BA, false, true, false),
            (0x8033_8029, false, true, true),
            (0x8033_8012, false, true, false),
            (0xC004_C008, true, false, false),
            (0xC004_F050, true, false, false),
            (0xC004_F02C, false, false, false),
            (0xDEAD_BEEF, false, false, false),
        ] {
            let code = Hresult(code);
            assert_eq!(
                (code.is_final(), code.is_transient(), code.is_lost()),
                (is_final, transient, lost),
                "{code}"
            );
        }
    }

    #[test]
    fn no_code_has_two_meanings() {
        let mut codes: Vec<u32> = KNOWN.iter().map(|known| known.code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KNOWN.len());
    }
}
