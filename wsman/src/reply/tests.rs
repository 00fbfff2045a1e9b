//! Answers in the shapes that Microsoft's documentation and WinRM's own output show, and hostile ones.

use proptest::prelude::*;

use super::*;
use crate::hresult::Hresult;

const IDENTIFY: &[u8] = include_bytes!("../testdata/identify.xml");
const PRODUCT: &[u8] = include_bytes!("../testdata/get_product.xml");
const FRAGMENTS: &[u8] = include_bytes!("../testdata/enumerate_fragments.xml");
const EVENTS: &[u8] = include_bytes!("../testdata/pull_events.xml");
const OUTPUT: &[u8] = include_bytes!("../testdata/install_key_output.xml");
const WMI_FAULT: &[u8] = include_bytes!("../testdata/fault_wmi.xml");
const DENIED: &[u8] = include_bytes!("../testdata/fault_access_denied.xml");
const TIMED_OUT: &[u8] = include_bytes!("../testdata/fault_timed_out.xml");

#[test]
fn identify_tells_vendor_and_version() {
    let identity = identity(IDENTIFY).unwrap();
    assert_eq!(identity.vendor, "Microsoft Corporation");
    assert_eq!(identity.version, "OS: 10.0.20348 SP: 0.0 Stack: 3.0");
}

#[test]
fn an_instance_has_typed_properties() {
    let product = instance(PRODUCT).unwrap();
    assert_eq!(product.class, "SoftwareLicensingProduct");
    assert_eq!(
        product.text("ID").unwrap(),
        Some("98ebfe73-2084-4c97-932c-c0cd1643bea7")
    );
    assert_eq!(product.u32("LicenseStatus").unwrap(), Some(1));
    assert_eq!(product.boolean("LicenseIsAddon").unwrap(), Some(false));
    assert_eq!(product.count("KeyManagementServiceCurrentCount").unwrap(), Some(10));
    assert_eq!(product.count("RequiredClientCount").unwrap(), None);
    assert_eq!(product.text("ProcessorURL").unwrap(), None);
    assert_eq!(
        product.datetime("TrustedTime").unwrap(),
        Some("2026-11-23T19:00:11Z".parse().unwrap())
    );
    assert_eq!(product.datetime("EvaluationEndDate").unwrap(), None);
}

#[test]
fn a_column_list_comes_as_fragments() {
    let page = page(FRAGMENTS).unwrap();
    assert_eq!(page.items.len(), 2);
    assert_eq!(page.items[1].text("PartialProductKey").unwrap(), None);
    assert_eq!(
        page.items[0].text("Description").unwrap(),
        Some("Office 16, VOLUME_KMS channel")
    );
    assert_eq!(page.context, None);
}

#[test]
fn a_pull_carries_on_and_arrays_repeat_their_element() {
    let page = page(EVENTS).unwrap();
    assert_eq!(
        page.context.as_deref(),
        Some("uuid:7E3AD2C4-5A0E-4F3B-8D43-0A6C1D5F9B11")
    );
    assert_eq!(page.items[0].strings("InsertionStrings").unwrap().len(), 10);
    assert_eq!(page.items[1].strings("InsertionStrings").unwrap().len(), 1);
}

#[test]
fn a_method_gives_its_return_value() {
    assert_eq!(output(OUTPUT, "InstallProductKey").unwrap().return_value, 0);
    assert_eq!(output(OUTPUT, "Activate"), Err(ReplyError::Missing("method output")));
}

#[test]
fn faults_are_read_to_their_innermost_code() {
    let fault = |bytes| match acknowledged(bytes) {
        Err(ReplyError::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    };
    let wmi = fault(WMI_FAULT);
    assert_eq!(wmi.hresult, Some(Hresult::ACTIVATION_LIMIT));
    assert!(
        wmi.to_string()
            .starts_with("0xC004C008 (the key has reached its activation limit): call"),
        "{wmi}"
    );
    let denied = fault(DENIED);
    assert!(denied.access_denied() && denied.to_string().contains("Administrators"));
    let late = fault(TIMED_OUT);
    assert!(late.timed_out());
    assert_eq!((late.code.as_str(), late.subcode.as_str()), ("Receiver", "TimedOut"));
}

#[test]
fn garbage_is_told_apart() {
    assert!(matches!(
        identity(b"<html><body>It works!</body></html>"),
        Err(ReplyError::Missing("SOAP 1.2 envelope"))
    ));
    assert!(matches!(identity(b"SSH-2.0-OpenSSH"), Err(ReplyError::Xml(_))));
    assert!(matches!(page(OUTPUT), Err(ReplyError::Missing(_))));
}

proptest! {
    #[test]
    fn damaged_answers_never_panic(which in 0_usize..8, at in any::<usize>(), to in any::<u8>(), cut in any::<usize>()) {
        let all = [IDENTIFY, PRODUCT, FRAGMENTS, EVENTS, OUTPUT, WMI_FAULT, DENIED, TIMED_OUT];
        let mut bytes = all[which].to_vec();
        let position = at % bytes.len();
        bytes[position] = to;
        if cut % 2 == 0 {
            bytes.truncate(cut % all[which].len());
        }
        let _ = identity(&bytes);
        let _ = instance(&bytes).map(|row| (row.u32("LicenseStatus"), row.datetime("TrustedTime")));
        let _ = page(&bytes);
        let _ = output(&bytes, "InstallProductKey");
        let _ = acknowledged(&bytes);
    }
}
