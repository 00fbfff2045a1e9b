//! `kmsctl dlv`: the lines that `slmgr.vbs /dlv` prints for a KMS host, in its order and words.
//!
//! Sources: the sample output in "Configure a KMS host computer to activate volume licensed versions of Office", and the
//! order of slmgr.vbs. slmgr prints in the host's language; this always prints in English.

use std::io::{self, Write};

use anyhow::Context as _;
use futures::future::join_all;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use kms_operator::licensing::products::{HostProduct, PRODUCTS, WINDOWS};
use serde::Serialize;
use wsman::client::{Client, Error};
use wsman::envelope::quoted;
use wsman::hresult::Hresult;
use wsman::value::{Instance, WrongType};

use crate::exit::Exit;
use crate::fleet::{Fleet, Where, members};
use crate::output::View;
use crate::winrm::Reach;

/// Prints what `slmgr.vbs /dlv` prints for each KMS host licence of a host, or of every licensed host of a resource.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Resource in the cluster of the kubeconfig, whose licensed hosts are asked; or give one host with --host
    #[arg(id = "name", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    reach: Reach,
    /// Products, such as `Office2016`; all that carry a key when absent.
    #[arg(long = "product", value_name = "PRODUCT")]
    products: Vec<String>,
}

/// What was found.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The licences, host by host.
    pub licences: Vec<Licence>,
    /// Hosts that could not be read, or have nothing to show, and why.
    pub failures: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// When there is nobody to ask. Hosts that cannot be read are in the report.
pub async fn run(args: &Args) -> anyhow::Result<Report> {
    match &args.name {
        Some(name) => of(members(name, &args.place, args.reach.patience()).await?, &args.products).await,
        None => read_all(vec![(None, args.reach.client()?)], Vec::new(), &args.products).await,
    }
}

/// The licences of the licensed hosts of a resource.
///
/// # Errors
/// When a product is unknown.
pub async fn of(fleet: Fleet, products: &[String]) -> anyhow::Result<Report> {
    let named = fleet
        .members
        .into_iter()
        .map(|member| (Some(member.name), member.client));
    read_all(named.collect(), fleet.failures, products).await
}

async fn read_all(
    clients: Vec<(Option<String>, Client)>,
    failures: Vec<String>,
    products: &[String],
) -> anyhow::Result<Report> {
    let mut wanted = Vec::new();
    for name in products {
        let product = HostProduct::named(name).with_context(|| {
            let known: Vec<_> = PRODUCTS.iter().map(|product| product.name).collect();
            format!("no product is called `{name}`: use {}", known.join(", "))
        })?;
        wanted.push(product);
    }
    let asked = join_all(clients.iter().map(|(_, client)| read(client, &wanted))).await;
    let mut report = Report {
        failures,
        ..Report::default()
    };
    for ((name, client), read) in clients.iter().zip(asked) {
        let host = name.clone().unwrap_or_else(|| client.host());
        match read {
            Ok(licences) if licences.is_empty() => report.failures.push(format!("{host} carries no KMS host key")),
            Ok(mut licences) => {
                licences
                    .iter_mut()
                    .for_each(|licence| licence.licensed_host.clone_from(name));
                report.licences.extend(licences);
            }
            Err(error) => report.failures.push(format!("{host}: {error:#}")),
        }
    }
    Ok(report)
}

impl Report {
    /// How the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.failures.is_empty() {
            Exit::Ok
        } else {
            Exit::Failed
        }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        for (at, licence) in self.licences.iter().enumerate() {
            if at > 0 {
                writeln!(out)?;
            }
            // slmgr prints one machine's lines and no name; a fleet needs one above each.
            if let Some(name) = &licence.licensed_host {
                writeln!(out, "{name} ({})", licence.host)?;
            }
            for line in licence.lines(&TimeZone::system()) {
                writeln!(out, "{line}")?;
            }
        }
        for failure in &self.failures {
            writeln!(out, "error: {failure}")?;
        }
        Ok(())
    }
}

/// One host licence with what its host says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Licence {
    /// Name of the licensed host in its resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licensed_host: Option<String>,
    /// `HOST:PORT`.
    pub host: String,
    /// Version of the licensing service.
    pub service_version: Option<String>,
    /// Name.
    pub name: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Activation ID.
    pub activation_id: Option<String>,
    /// Application ID.
    pub application_id: Option<String>,
    /// Extended product ID.
    pub extended_pid: Option<String>,
    /// Channel of the key, on newer systems.
    pub product_key_channel: Option<String>,
    /// Installation ID.
    pub installation_id: Option<String>,
    /// Certificate and licence URLs, by the names that slmgr prints.
    pub urls: Vec<(String, String)>,
    /// Last five characters of the key.
    pub partial_product_key: Option<String>,
    /// `LicenseStatus` as a number.
    pub license_status: u32,
    /// `LicenseStatusReason`.
    pub license_status_reason: u32,
    /// Minutes of grace left.
    pub grace_minutes: u32,
    /// End of an evaluation.
    pub evaluation_end: Option<Timestamp>,
    /// Rearms left for Windows; shown for Windows.
    pub windows_rearms: Option<u32>,
    /// Rearms left for the application; shown for Office.
    pub app_rearms: Option<u32>,
    /// Rearms left for the product, on newer systems.
    pub sku_rearms: Option<u32>,
    /// The licensing service's trusted time.
    pub trusted_time: Option<Timestamp>,
    /// The KMS block, when the licence makes its machine a KMS host.
    pub kms: Option<Kms>,
}

/// The KMS block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Kms {
    /// Current count; none when the host shows 4294967295.
    pub current_count: Option<u32>,
    /// Listening port.
    pub port: u32,
    /// Whether the host publishes its SRV record.
    pub dns_publishing: bool,
    /// Whether its priority is Low.
    pub low_priority: bool,
    /// Cumulative requests: total, failed, then by licence status; none when the host shows no total.
    pub requests: Option<[Option<u32>; 8]>,
}

/// What stands before each number of [`Kms::requests`].
const REQUESTS: [&str; 8] = [
    "Total requests received",
    "Failed requests received",
    "Requests with License Status Unlicensed",
    "Requests with License Status Licensed",
    "Requests with License Status Initial grace period",
    "Requests with License Status License expired or Hardware out of tolerance",
    "Requests with License Status Non-genuine grace period",
    "Requests with License Status Notification",
];

/// URL properties and what slmgr calls them, in its order.
const URLS: [(&str, &str); 5] = [
    ("ProcessorURL", "Processor Certificate URL"),
    ("MachineURL", "Machine Certificate URL"),
    ("UseLicenseURL", "Use License URL"),
    ("ProductKeyURL", "Product Key Certificate URL"),
    ("ValidationURL", "Validation URL"),
];

impl Licence {
    /// The lines of slmgr.vbs. Times are shown in `zone`, month first as on an English host.
    pub fn lines(&self, zone: &TimeZone) -> Vec<String> {
        let mut lines = Vec::new();
        let mut text = |label: &str, value: &Option<String>| {
            if let Some(value) = value {
                lines.push(format!("{label}: {value}"));
            }
        };
        text("Software licensing service version", &self.service_version);
        text("Name", &self.name);
        text("Description", &self.description);
        text("Activation ID", &self.activation_id);
        text("Application ID", &self.application_id);
        text("Extended PID", &self.extended_pid);
        text("Product Key Channel", &self.product_key_channel);
        text("Installation ID", &self.installation_id);
        lines.extend(self.urls.iter().map(|(label, url)| format!("{label}: {url}")));
        match &self.partial_product_key {
            Some(partial) => lines.push(format!("Partial Product Key: {partial}")),
            None => lines.push("This license is not in use.".to_owned()),
        }
        lines.extend(self.status());
        let time = |at: Timestamp| {
            at.to_zoned(zone.clone())
                .strftime("%-m/%-d/%Y %-I:%M:%S %p")
                .to_string()
        };
        if let (Some(end), 1..) = (self.evaluation_end, self.license_status) {
            lines.push(format!("Evaluation End Date: {}", time(end)));
        }
        let mut number = |label: &str, value: Option<u32>| {
            if let Some(value) = value {
                lines.push(format!("{label}: {value}"));
            }
        };
        number("Remaining Windows rearm count", self.windows_rearms);
        number("Remaining App rearm count", self.app_rearms);
        number("Remaining SKU rearm count", self.sku_rearms);
        if let Some(trusted) = self.trusted_time {
            lines.push(format!("Trusted time: {}", time(trusted)));
        }
        if let Some(kms) = &self.kms {
            lines.extend(kms.lines());
        }
        lines
    }

    fn status(&self) -> Vec<String> {
        let status = match self.license_status {
            0 => "Unlicensed",
            1 => "Licensed",
            2 => "Initial grace period",
            3 => "Additional grace period (KMS license expired or hardware out of tolerance)",
            4 => "Non-genuine grace period.",
            5 => "Notification",
            6 => "Extended grace period",
            _ => "Unknown",
        };
        let mut lines = vec![format!("License Status: {status}")];
        let (minutes, days) = (self.grace_minutes, self.grace_minutes.div_ceil(24 * 60));
        match self.license_status {
            1 if minutes > 0 => {
                lines.push(format!(
                    "Volume activation expiration: {minutes} minute(s) ({days} day(s))"
                ));
            }
            2 | 3 | 4 | 6 => lines.push(format!("Time remaining: {minutes} minute(s) ({days} day(s))")),
            5 => {
                let code = self.license_status_reason;
                let reason = match code {
                    0xC004_F200 => " (non-genuine).",
                    0xC004_F009 => " (grace time expired).",
                    _ => ".",
                };
                lines.push(format!("Notification Reason: 0x{code:08X}{reason}"));
            }
            _ => {}
        }
        lines
    }
}

impl Kms {
    fn lines(&self) -> Vec<String> {
        let number = |value: Option<u32>| value.map_or_else(|| u32::MAX.to_string(), |value| value.to_string());
        let mut lines = vec![
            String::new(),
            "Key Management Service is enabled on this machine".to_owned(),
            format!("    Current count: {}", number(self.current_count)),
            format!("    Listening on Port: {}", self.port),
            format!(
                "    DNS publishing {}",
                if self.dns_publishing { "enabled" } else { "disabled" }
            ),
            format!("    KMS priority: {}", if self.low_priority { "Low" } else { "Normal" }),
        ];
        if let Some(requests) = &self.requests {
            lines.push(String::new());
            lines.push("Key Management Service cumulative requests received from clients".to_owned());
            let counted = REQUESTS.iter().zip(requests);
            lines.extend(counted.map(|(label, value)| format!("    {label}: {}", number(*value))));
        }
        lines
    }
}

/// Reads the licences of a host: those of `wanted`, or all KMS host licences that carry a key.
///
/// # Errors
/// When the host cannot be read.
pub async fn read(client: &Client, wanted: &[&HostProduct]) -> anyhow::Result<Vec<Licence>> {
    const SERVICE: &str = "Version, KeyManagementServiceListeningPort, KeyManagementServiceDnsPublishing, \
        KeyManagementServiceLowPriority, RemainingWindowsReArmCount";
    let rows = client
        .query(&format!("SELECT {SERVICE} FROM SoftwareLicensingService"))
        .await?;
    let service = rows.first().context("the host shows no SoftwareLicensingService")?;
    let mut licences = Vec::new();
    if wanted.is_empty() || wanted.iter().any(|product| product.id.is_none()) {
        for row in products(client, "PartialProductKey <> NULL").await? {
            let description = row.text("Description")?.unwrap_or_default();
            let host = description.contains("VOLUME_KMS") && !description.contains("VOLUME_KMSCLIENT");
            let windows = row.text("ApplicationID")?.is_some_and(is_windows);
            if host && (wanted.is_empty() || windows) {
                licences.push(licence(client.host(), service, &row)?);
            }
        }
    }
    for id in wanted.iter().filter_map(|product| product.id) {
        for row in products(client, &format!("ID = {}", quoted(&id.to_string()))).await? {
            licences.push(licence(client.host(), service, &row)?);
        }
    }
    Ok(licences)
}

/// Columns of systems since Windows 7, and those that came later.
async fn products(client: &Client, condition: &str) -> Result<Vec<Instance>, Error> {
    const ALWAYS: &str = "ID, Name, Description, ApplicationID, ProductKeyID, OfflineInstallationId, ProcessorURL, \
        MachineURL, UseLicenseURL, ProductKeyURL, PartialProductKey, LicenseStatus, LicenseStatusReason, \
        GracePeriodRemaining, EvaluationEndDate, IsKeyManagementServiceMachine, KeyManagementServiceCurrentCount, \
        KeyManagementServiceTotalRequests, KeyManagementServiceFailedRequests, \
        KeyManagementServiceUnlicensedRequests, KeyManagementServiceLicensedRequests, \
        KeyManagementServiceOOBGraceRequests, KeyManagementServiceOOTGraceRequests, \
        KeyManagementServiceNonGenuineGraceRequests, KeyManagementServiceNotificationRequests";
    const NEWER: &str = "ValidationURL, ProductKeyChannel, TrustedTime, RemainingAppReArmCount, RemainingSkuReArmCount";
    let ask = |columns: String| async move {
        client
            .query(&format!(
                "SELECT {columns} FROM SoftwareLicensingProduct WHERE {condition}"
            ))
            .await
    };
    match ask(format!("{ALWAYS}, {NEWER}")).await {
        Err(error) if error.hresult() == Some(Hresult::WBEM_INVALID_QUERY) => ask(ALWAYS.to_owned()).await,
        other => other,
    }
}

fn is_windows(application: &str) -> bool {
    application.eq_ignore_ascii_case(&WINDOWS.to_string())
}

fn licence(host: String, service: &Instance, row: &Instance) -> Result<Licence, WrongType> {
    let text = |name: &str| {
        row.text(name)
            .map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned))
    };
    let application_id = text("ApplicationID")?;
    let windows = application_id.as_deref().is_some_and(is_windows);
    let mut urls = Vec::new();
    for (property, label) in URLS {
        urls.extend(text(property)?.map(|url| (label.to_owned(), url)));
    }
    let counter = |name: &str| row.count(&format!("KeyManagementService{name}Requests"));
    let is_host = row.u32("IsKeyManagementServiceMachine")?.unwrap_or(0) > 0;
    let requests = match counter("Total")? {
        None => None,
        total => Some([
            total,
            counter("Failed")?,
            counter("Unlicensed")?,
            counter("Licensed")?,
            counter("OOBGrace")?,
            counter("OOTGrace")?,
            counter("NonGenuineGrace")?,
            counter("Notification")?,
        ]),
    };
    let kms = Kms {
        current_count: row.count("KeyManagementServiceCurrentCount")?,
        port: service
            .u32("KeyManagementServiceListeningPort")?
            .filter(|&port| port != 0)
            .unwrap_or(1688),
        dns_publishing: service.boolean("KeyManagementServiceDnsPublishing")?.unwrap_or(true),
        low_priority: service.boolean("KeyManagementServiceLowPriority")?.unwrap_or(false),
        requests,
    };
    Ok(Licence {
        licensed_host: None,
        host,
        service_version: service.text("Version")?.map(str::to_owned),
        name: text("Name")?,
        description: text("Description")?,
        activation_id: text("ID")?,
        application_id,
        extended_pid: text("ProductKeyID")?,
        product_key_channel: text("ProductKeyChannel")?,
        installation_id: text("OfflineInstallationId")?,
        urls,
        partial_product_key: text("PartialProductKey")?,
        license_status: row.u32("LicenseStatus")?.unwrap_or(0),
        license_status_reason: row.u32("LicenseStatusReason")?.unwrap_or(0),
        grace_minutes: row.u32("GracePeriodRemaining")?.unwrap_or(0),
        evaluation_end: row.datetime("EvaluationEndDate")?,
        windows_rearms: service.u32("RemainingWindowsReArmCount")?.filter(|_| windows),
        app_rearms: row.u32("RemainingAppReArmCount")?.filter(|_| !windows),
        sku_rearms: row.u32("RemainingSkuReArmCount")?,
        trusted_time: row.datetime("TrustedTime")?,
        kms: is_host.then_some(kms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Instance {
        Instance::new("SoftwareLicensingService")
            .with("Version", "10.0.20348.1")
            .with("KeyManagementServiceListeningPort", 0_u32)
            .with("KeyManagementServiceDnsPublishing", true)
            .with("KeyManagementServiceLowPriority", false)
            .with("RemainingWindowsReArmCount", 1001_u32)
    }

    fn office() -> Instance {
        let kms = |name: &str| format!("KeyManagementService{name}");
        Instance::new("SoftwareLicensingProduct")
            .with("ID", "98ebfe73-2084-4c97-932c-c0cd1643bea7")
            .with("Name", "Office 16, OfficeKMSHostVL_KMS_Host edition")
            .with("Description", "Office 16, VOLUME_KMS channel")
            .with("ApplicationID", "0ff1ce15-a989-479d-af46-f275c6370663")
            .with("ProductKeyID", "55041-00206-234-567890-03-1033-9200.0000-0412016")
            .with("OfflineInstallationId", "1".repeat(54))
            .with(
                "UseLicenseURL",
                "https://activation.sls.microsoft.com/SLActivateProduct/SLActivateProduct.asmx?configextension=o16",
            )
            .with("ValidationURL", "https://validation.sls.microsoft.com/SLWGA/slwga.asmx")
            .with("PartialProductKey", "ABCDE")
            .with("LicenseStatus", 1_u32)
            .with(
                "EvaluationEndDate",
                wsman::value::Value::Datetime("1601-01-01T00:00:00Z".into()),
            )
            .with("TrustedTime", "2026-11-23T19:04:05Z".parse::<Timestamp>().unwrap())
            .with("RemainingAppReArmCount", 1_u32)
            .with("RemainingSkuReArmCount", 1001_u32)
            .with("IsKeyManagementServiceMachine", 1_u32)
            .with(&kms("CurrentCount"), 10_u32)
            .with(&kms("TotalRequests"), 14_u32)
            .with(&kms("FailedRequests"), 0_u32)
            .with(&kms("UnlicensedRequests"), 1_u32)
            .with(&kms("LicensedRequests"), 2_u32)
            .with(&kms("OOBGraceRequests"), 3_u32)
            .with(&kms("OOTGraceRequests"), 4_u32)
            .with(&kms("NonGenuineGraceRequests"), 5_u32)
            .with(&kms("NotificationRequests"), 6_u32)
    }

    #[test]
    fn an_office_host_prints_the_lines_of_slmgr_in_its_order() {
        let licence = licence("kms01:5986".into(), &service(), &office()).unwrap();
        let expected = "\
Software licensing service version: 10.0.20348.1
Name: Office 16, OfficeKMSHostVL_KMS_Host edition
Description: Office 16, VOLUME_KMS channel
Activation ID: 98ebfe73-2084-4c97-932c-c0cd1643bea7
Application ID: 0ff1ce15-a989-479d-af46-f275c6370663
Extended PID: 55041-00206-234-567890-03-1033-9200.0000-0412016
Installation ID: 111111111111111111111111111111111111111111111111111111
Use License URL: https://activation.sls.microsoft.com/SLActivateProduct/SLActivateProduct.asmx?configextension=o16
Validation URL: https://validation.sls.microsoft.com/SLWGA/slwga.asmx
Partial Product Key: ABCDE
License Status: Licensed
Remaining App rearm count: 1
Remaining SKU rearm count: 1001
Trusted time: 11/23/2026 7:04:05 PM

Key Management Service is enabled on this machine
    Current count: 10
    Listening on Port: 1688
    DNS publishing enabled
    KMS priority: Normal

Key Management Service cumulative requests received from clients
    Total requests received: 14
    Failed requests received: 0
    Requests with License Status Unlicensed: 1
    Requests with License Status Licensed: 2
    Requests with License Status Initial grace period: 3
    Requests with License Status License expired or Hardware out of tolerance: 4
    Requests with License Status Non-genuine grace period: 5
    Requests with License Status Notification: 6";
        assert_eq!(licence.lines(&TimeZone::UTC).join("\n"), expected);
    }

    #[test]
    fn grace_and_notification_print_what_is_left_and_why() {
        let lines = |status: u32, minutes: u32, reason: u32| {
            Licence {
                license_status: status,
                grace_minutes: minutes,
                license_status_reason: reason,
                ..Licence::default()
            }
            .status()
            .join("; ")
        };
        assert_eq!(
            lines(2, 43_199, 0),
            "License Status: Initial grace period; Time remaining: 43199 minute(s) (30 day(s))"
        );
        assert_eq!(
            lines(5, 0, 0xC004_F009),
            "License Status: Notification; Notification Reason: 0xC004F009 (grace time expired)."
        );
    }

    #[test]
    fn a_licence_without_a_key_is_not_in_use() {
        let row = Instance::new("SoftwareLicensingProduct")
            .with("Name", "Office")
            .with("LicenseStatus", 0_u32);
        let lines = licence("h".into(), &service(), &row).unwrap().lines(&TimeZone::UTC);
        assert!(lines.contains(&"This license is not in use.".to_owned()));
        assert!(!lines.iter().any(|line| line.contains("Key Management Service")));
    }

    #[tokio::test]
    async fn a_rehearsal_host_prints_every_line_of_a_kms_host() {
        use kms_host::ledger::MemoryLedger;
        use kms_host::rehearsal::RehearsalConfig;
        use kms_host::rehearsal::management::{Management, ManagementConfig, serve};
        use wsman::client::{Credentials, Endpoint, Limits, Scheme, Transport};

        let files = tempfile::tempdir().unwrap();
        let password = files.path().join("password");
        std::fs::write(&password, "drill").unwrap();
        let section = format!(
            "{{listen: '127.0.0.1:0', username: admin, passwordFile: '{}', startsLicensed: true}}",
            password.display()
        );
        let config: ManagementConfig = serde_saphyr::from_str(&section).unwrap();
        let host = RehearsalConfig::new("/key".into()).validate().unwrap();
        let management = Management::new(&config, &host, std::sync::Arc::new(MemoryLedger::default()));
        let listener = tokio::net::TcpListener::bind(config.listen).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = tokio_util::sync::CancellationToken::new();
        tokio::spawn(serve(&config, management.into(), listener, stop.clone()).unwrap());
        let endpoint = Endpoint {
            host: "127.0.0.1".into(),
            port,
            transport: Transport::Http,
            scheme: Scheme::Ntlm,
        };
        let credentials = Credentials {
            user: "admin".into(),
            password: "drill".to_owned().into(),
        };
        let client = Client::new(endpoint, credentials, Limits::default()).unwrap();
        let all = read(&client, &[]).await.unwrap();
        assert_eq!(all.len(), 4);
        let one = read(&client, &[HostProduct::named("Office2019").unwrap()])
            .await
            .unwrap();
        let lines = one.first().unwrap().lines(&TimeZone::UTC);
        for expected in [
            "Activation ID: 70512334-47b4-44db-a233-be5ea33b914c",
            "License Status: Licensed",
            "Key Management Service is enabled on this machine",
            "    Listening on Port: 1688",
            "    DNS publishing enabled",
        ] {
            assert!(
                lines.iter().any(|line| line == expected),
                "{expected:?} is not in {lines:#?}"
            );
        }
        stop.cancel();
    }
}
