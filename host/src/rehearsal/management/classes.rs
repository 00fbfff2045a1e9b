//! Instances of the WMI classes that a rehearsal host shows, with the properties of the real ones (KMS client and OEM
//! properties left out).

use jiff::Timestamp;
use wsman::value::{Instance, Value};

use super::config::OperatingSystem;
use super::licences::{Licence, Licences};
use crate::ledger::{ApplicationCount, Millis, Totals};
use crate::rehearsal::products::WINDOWS;

/// What Windows shows where there is no count.
const NO_COUNT: u32 = u32::MAX;
/// The prefix of every counter.
const KMS: &str = "KeyManagementService";

pub(super) fn service(licences: &Licences, counts: &[ApplicationCount]) -> Instance {
    let settings = licences.settings();
    let is_host = licences.products().any(|licence| licence.key.is_some());
    let most = counts
        .iter()
        .max_by_key(|count| count.current_count)
        .filter(|_| is_host);
    let instance = Instance::new("SoftwareLicensingService")
        .with("ClientMachineID", Value::Null)
        .with("IsKeyManagementServiceMachine", u32::from(is_host))
        .with(
            &format!("{KMS}CurrentCount"),
            most.map_or(NO_COUNT, |count| count.current_count),
        )
        .with(&format!("{KMS}DnsPublishing"), settings.dns_publishing)
        .with(&format!("{KMS}HostCaching"), true)
        .with(&format!("{KMS}ListeningPort"), settings.port)
        .with(&format!("{KMS}LowPriority"), settings.low_priority)
        .with(&format!("{KMS}ProductKeyID"), Value::Null)
        .with("PolicyCacheRefreshRequired", 0_u32)
        .with("RemainingWindowsReArmCount", 1001_u32)
        .with(
            "RequiredClientCount",
            most.map_or(NO_COUNT, |count| count.largest_required),
        )
        .with("VLActivationInterval", settings.activation_interval)
        .with("VLRenewalInterval", settings.renewal_interval)
        .with("Version", "10.0.20348.1");
    counters(instance, most.map(|count| &count.totals))
}

pub(super) fn product(host: &str, licence: &Licence, counts: &[ApplicationCount], now: Millis) -> Instance {
    let product = &licence.product;
    let keyed = licence.key.is_some();
    let count = counts
        .iter()
        .find(|count| count.application == product.application)
        .filter(|_| keyed);
    let family = product.name.replace(' ', "");
    let windows = product.application == WINDOWS;
    let instance = Instance::new("SoftwareLicensingProduct")
        .with("ApplicationID", product.application.to_string())
        .with(
            "Description",
            format!("{}, VOLUME_KMS channel (rehearsal)", product.name),
        )
        .with("EvaluationEndDate", Value::Datetime("1601-01-01T00:00:00Z".to_owned()))
        .with("GracePeriodRemaining", licence.grace())
        .with("ID", product.id.to_string())
        .with("IsKeyManagementServiceMachine", u32::from(keyed))
        .with(
            &format!("{KMS}CurrentCount"),
            count.map_or(NO_COUNT, |count| count.current_count),
        )
        .with("LicenseFamily", format!("{family}_KMS_Host"))
        .with("LicenseIsAddon", !windows)
        .with("LicenseStatus", licence.status())
        .with("LicenseStatusReason", licence.reason)
        .with("MachineURL", Value::Null)
        .with(
            "Name",
            format!("{}, {family}KMSHost_KMS_Host edition (rehearsal)", product.name),
        )
        .with("OfflineInstallationId", licence.installation_id(host))
        .with("PartialProductKey", licence.key.as_ref().map(|key| key.partial.clone()))
        .with("ProcessorURL", Value::Null)
        .with("ProductKeyChannel", keyed.then_some("Volume:CSVLK"))
        .with("ProductKeyID", keyed.then(|| format!("rehearsal-{}", product.id)))
        .with("ProductKeyURL", Value::Null)
        .with("RemainingAppReArmCount", 1_u32)
        .with("RemainingSkuReArmCount", 1001_u32)
        .with("RequiredClientCount", if keyed { product.required } else { NO_COUNT })
        .with("TrustedTime", time(now))
        .with(
            "UseLicenseURL",
            "https://activation.rehearsal.invalid/SLActivateProduct.asmx",
        )
        .with("VLActivationInterval", 0_u32)
        .with("VLRenewalInterval", 0_u32)
        .with("ValidationURL", "https://validation.rehearsal.invalid/slwga.asmx");
    counters(instance, count.map(|count| &count.totals))
}

fn counters(instance: Instance, totals: Option<&Totals>) -> Instance {
    // The status by number: 0 unlicensed, 1 licensed, 2 initial grace, 3 out of tolerance, 4 non-genuine,
    // 5 notification; extended grace (6) has no counter of its own.
    let by_status = |status: usize| totals.map(|totals| shown(totals.by_status.get(status).copied().unwrap_or(0)));
    let named: [(&str, Option<u32>); 8] = [
        ("TotalRequests", totals.map(|totals| shown(totals.total))),
        ("FailedRequests", totals.map(|totals| shown(totals.failed))),
        ("UnlicensedRequests", by_status(0)),
        ("LicensedRequests", by_status(1)),
        ("OOBGraceRequests", by_status(2)),
        ("OOTGraceRequests", by_status(3)),
        ("NonGenuineGraceRequests", by_status(4)),
        ("NotificationRequests", by_status(5)),
    ];
    named.into_iter().fold(instance, |instance, (name, number)| {
        instance.with(&format!("{KMS}{name}"), number.unwrap_or(NO_COUNT))
    })
}

/// A counter as the uint32 that Windows has.
fn shown(total: u64) -> u32 {
    u32::try_from(total).unwrap_or(NO_COUNT - 1)
}

pub(super) fn operating_system(host: &str, system: &OperatingSystem) -> Instance {
    Instance::new("Win32_OperatingSystem")
        .with("BuildNumber", system.build_number.clone())
        .with("CSName", host)
        .with("Caption", system.caption.clone())
        .with("ProductType", system.product_type)
        .with("Version", system.version.clone())
}

pub(super) fn software_protection(licences: &Licences) -> Instance {
    Instance::new("Win32_Service")
        .with("DisplayName", "Software Protection")
        .with("Name", "sppsvc")
        .with("StartMode", "Auto")
        .with("Started", licences.running)
        .with("State", if licences.running { "Running" } else { "Stopped" })
}

pub(super) fn time(at: Millis) -> Option<Timestamp> {
    Timestamp::from_millisecond(at.0).ok()
}
