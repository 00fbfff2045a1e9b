//! A rehearsal host's management over the wire, read and changed by our own client.

use std::time::Duration;

use uuid::uuid;
use wsman::client::{Client, Credentials, Endpoint, Error, Limits, Scheme, Transport};
use wsman::names::{CIMV2, Class};
use wsman::value::Value;

use super::licences::rehearsal_confirmation_id;
use super::*;
use crate::ledger::{Event, MemoryLedger};
use crate::rehearsal::RehearsalConfig;

const OFFICE_2016: Uuid = uuid!("98ebfe73-2084-4c97-932c-c0cd1643bea7");

struct Rig {
    client: Client,
    management: Arc<Management>,
    ledger: Arc<dyn Ledger>,
    _files: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

async fn rig(section: &str) -> Rig {
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    std::fs::write(&password, "drill\n").unwrap();
    let username = files.path().join("username");
    std::fs::write(&username, "admin\n").unwrap();
    let yaml = format!(
        "listen: 127.0.0.1:0\nusernameFile: {}\npasswordFile: {}\n{section}",
        username.display(),
        password.display()
    );
    let config: ManagementConfig = serde_saphyr::from_str(&yaml).unwrap();
    assert!(config.problems().is_empty());
    let host = RehearsalConfig {
        host_name: "kms01".into(),
        ..RehearsalConfig::new("/key".into())
    };
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let management = Arc::new(Management::new(&config, &host.validate().unwrap(), ledger.clone()));
    let listener = TcpListener::bind(config.listen).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    tokio::spawn(serve(&config, management.clone(), listener, stop.clone()).unwrap());
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
    let limits = Limits {
        timeout: Duration::from_secs(10),
        ..Limits::default()
    };
    let client = Client::new(endpoint, credentials, limits).unwrap();
    Rig {
        client,
        management,
        ledger,
        _files: files,
        _stop: stop.drop_guard(),
    }
}

impl Rig {
    async fn product(&self) -> Option<Instance> {
        let query = format!("SELECT * FROM SoftwareLicensingProduct WHERE ID = '{OFFICE_2016}'");
        self.client.query(&query).await.unwrap().pop()
    }

    async fn service(&self, method: &str, parameters: &[(&str, Value)]) -> Result<Output, Error> {
        let class = Class::new(CIMV2, "SoftwareLicensingService").unwrap();
        self.client
            .invoke(&class, &[("Version", "10.0.20348.1")], method, parameters)
            .await
    }

    async fn on_product(&self, method: &str, parameters: &[(&str, Value)]) -> Result<Output, Error> {
        let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
        self.client
            .invoke(&class, &[("ID", &OFFICE_2016.to_string())], method, parameters)
            .await
    }
}

#[tokio::test]
async fn a_key_then_activation_makes_a_licensed_host() {
    let rig = rig("").await;
    assert_eq!(rig.management.refusal(OFFICE_2016), Some(0xC004_F042));
    let no_key = rig.on_product("Activate", &[]).await.unwrap_err();
    assert_eq!(no_key.hresult(), Some(Hresult::NO_PRODUCT_KEY));
    let foreign = rig
        .service(
            "InstallProductKey",
            &[("ProductKey", "AAAAA-AAAAA-AAAAA-AAAAA-AAAAA".into())],
        )
        .await;
    assert_eq!(foreign.unwrap_err().hresult(), Some(Hresult::INVALID_PRODUCT_KEY));

    rig.service(
        "InstallProductKey",
        &[("ProductKey", "REHEARSAL-OFFICE2016-A1B2C".into())],
    )
    .await
    .unwrap();
    let product = rig.product().await.unwrap();
    assert_eq!(product.text("PartialProductKey").unwrap(), Some("A1B2C"));
    assert_eq!(product.u32("LicenseStatus").unwrap(), Some(2));
    assert_eq!(rig.management.refusal(OFFICE_2016), Some(0xC004_F041));

    rig.on_product("Activate", &[]).await.unwrap();
    assert_eq!(rig.product().await.unwrap().u32("LicenseStatus").unwrap(), Some(1));
    assert_eq!(rig.management.refusal(OFFICE_2016), None);
    rig.on_product("UninstallProductKey", &[]).await.unwrap();
    assert_eq!(rig.product().await.unwrap().u32("LicenseStatus").unwrap(), Some(0));
}

#[tokio::test]
async fn the_telephone_takes_the_confirmation_of_the_installation_shown() {
    let rig = rig("").await;
    assert_eq!(
        rig.product().await.unwrap().text("OfflineInstallationId").unwrap(),
        None
    );
    rig.service(
        "InstallProductKey",
        &[("ProductKey", "REHEARSAL-OFFICE2016-LIMIT".into())],
    )
    .await
    .unwrap();
    let limit = rig.on_product("Activate", &[]).await.unwrap_err();
    assert_eq!(limit.hresult(), Some(Hresult::ACTIVATION_LIMIT));
    let product = rig.product().await.unwrap();
    assert_eq!(
        product.u32("LicenseStatusReason").unwrap(),
        Some(Hresult::ACTIVATION_LIMIT.0)
    );
    let shown = product.text("OfflineInstallationId").unwrap().unwrap().to_owned();
    assert_eq!(shown.len(), 63);
    let deposit = |confirmation: String| {
        [
            ("InstallationId", Value::from(shown.as_str())),
            ("ConfirmationId", confirmation.into()),
        ]
    };
    let wrong = rig
        .on_product("DepositOfflineConfirmationId", &deposit("1".repeat(48)))
        .await
        .unwrap_err();
    assert_eq!(wrong.hresult(), Some(Hresult::OFFLINE_DATA_MALFORMED));
    let right = deposit(rehearsal_confirmation_id(&shown));
    rig.on_product("DepositOfflineConfirmationId", &right).await.unwrap();
    assert_eq!(rig.product().await.unwrap().u32("LicenseStatus").unwrap(), Some(1));
}

#[tokio::test]
async fn a_missing_pack_shows_no_product_and_refuses_its_key() {
    let rig = rig("missingPacks: [office2016]\nstartsLicensed: true").await;
    assert_eq!(rig.product().await, None);
    let refused = rig
        .service(
            "InstallProductKey",
            &[("ProductKey", "REHEARSAL-OFFICE2016-A1B2C".into())],
        )
        .await;
    assert_eq!(refused.unwrap_err().hresult(), Some(Hresult::INVALID_PRODUCT_KEY));
    let others = rig
        .client
        .query("SELECT ID FROM SoftwareLicensingProduct WHERE LicenseStatus = 1")
        .await
        .unwrap();
    assert_eq!(others.len(), 3);
}

#[tokio::test]
async fn settings_are_shown_as_they_were_set() {
    let rig = rig("").await;
    rig.service(
        "SetKeyManagementServiceListeningPort",
        &[("PortNumber", 1700_u32.into())],
    )
    .await
    .unwrap();
    rig.service(
        "DisableKeyManagementServiceDnsPublishing",
        &[("DisablePublishing", true.into())],
    )
    .await
    .unwrap();
    rig.service(
        "EnableKeyManagementServiceLowPriority",
        &[("EnableLowPriority", true.into())],
    )
    .await
    .unwrap();
    rig.service("SetVLActivationInterval", &[("ActivationInterval", 60_u32.into())])
        .await
        .unwrap();
    assert!(
        rig.service("SetVLRenewalInterval", &[("RenewalInterval", 14_u32.into())])
            .await
            .is_err()
    );
    let columns = "KeyManagementServiceListeningPort, KeyManagementServiceDnsPublishing, \
                   KeyManagementServiceLowPriority, VLActivationInterval, VLRenewalInterval";
    let row = rig
        .client
        .query(&format!("SELECT {columns} FROM SoftwareLicensingService"))
        .await
        .unwrap()
        .pop()
        .unwrap();
    assert_eq!(row.u32("KeyManagementServiceListeningPort").unwrap(), Some(1700));
    assert_eq!(row.boolean("KeyManagementServiceDnsPublishing").unwrap(), Some(false));
    assert_eq!(row.boolean("KeyManagementServiceLowPriority").unwrap(), Some(true));
    assert_eq!(row.u32("VLActivationInterval").unwrap(), Some(60));
    assert_eq!(row.u32("VLRenewalInterval").unwrap(), Some(10_080));
    let system = rig
        .client
        .query("SELECT Caption, ProductType FROM Win32_OperatingSystem")
        .await
        .unwrap();
    assert_eq!(system[0].u32("ProductType").unwrap(), Some(3));
    let service = Class::new(CIMV2, "Win32_Service").unwrap();
    rig.client
        .invoke(&service, &[("Name", "sppsvc")], "StopService", &[])
        .await
        .unwrap();
    let running = rig
        .client
        .query("SELECT State FROM Win32_Service WHERE Name = 'sppsvc'")
        .await
        .unwrap();
    assert_eq!(running[0].text("State").unwrap(), Some("Stopped"));
}

#[tokio::test]
async fn events_of_this_host_are_read_on_by_record_number() {
    let rig = rig("").await;
    let event = |host: &str, name: &str| Event {
        at: Millis(1_795_000_000_000),
        host: host.into(),
        hresult: 0,
        required: 5,
        client_name: name.into(),
        cmid: Uuid::from_u128(7),
        client_time: "2026/11/23 19:00".into(),
        virtual_machine: false,
        license_status: 2,
        minutes_to_expiration: 43_200,
        activation_id: Uuid::from_u128(8),
    };
    rig.ledger
        .append_events(&[event("kms01", "pc01"), event("kms02", "pc02"), event("kms01", "pc03")])
        .await
        .unwrap();
    let query = |after: u32| {
        format!(
            "SELECT RecordNumber, TimeGenerated, InsertionStrings FROM Win32_NTLogEvent WHERE \
             Logfile='Key Management Service' AND EventCode=12290 AND RecordNumber > {after}"
        )
    };
    let rows = rig.client.query(&query(0)).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].u32("RecordNumber").unwrap(), Some(2));
    let fields = rows[1].strings("InsertionStrings").unwrap().join(",");
    assert!(
        fields.starts_with("0x0,5,pc01,00000000-0000-0000-0000-000000000007,2026/11/23 19:00,0,2,43200,"),
        "{fields}"
    );
    assert_eq!(rig.client.query(&query(2)).await.unwrap().len(), 0);
    rig.ledger.append_events(&[event("kms01", "pc04")]).await.unwrap();
    assert_eq!(rig.client.query(&query(2)).await.unwrap().len(), 1);
}

#[test]
fn the_example_of_the_guide_is_a_configuration() {
    let text = include_str!("../../../../docs/examples/rehearsal-management.yaml");
    let config = crate::config::load(text, std::path::Path::new("rehearsal-management.yaml")).unwrap();
    assert!(config.rehearsal.unwrap().management.is_some());
    let guide = include_str!("../../../../docs/licensing.md");
    let body = text.split_once('\n').unwrap().1;
    assert!(guide.contains(body), "the guide shows the example");
}
