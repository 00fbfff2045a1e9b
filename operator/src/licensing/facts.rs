//! What a licensed host says about itself, typed. Pure: instances in, facts out.

use uuid::Uuid;
use wsman::value::{Instance, WrongType};

use super::products::{HostProduct, WINDOWS};

/// `LicenseStatus` of a product ("SoftwareLicensingProduct class").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LicenseStatus {
    /// 0.
    #[default]
    Unlicensed,
    /// 1.
    Licensed,
    /// 2, OOBGrace.
    InitialGrace,
    /// 3, OOTGrace.
    OutOfTolerance,
    /// 4.
    NonGenuineGrace,
    /// 5.
    Notification,
    /// 6.
    ExtendedGrace,
    /// A number that Windows does not document.
    Unknown(u32),
}

impl From<u32> for LicenseStatus {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Unlicensed,
            1 => Self::Licensed,
            2 => Self::InitialGrace,
            3 => Self::OutOfTolerance,
            4 => Self::NonGenuineGrace,
            5 => Self::Notification,
            6 => Self::ExtendedGrace,
            other => Self::Unknown(other),
        }
    }
}

impl LicenseStatus {
    /// The word for status and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unlicensed => "Unlicensed",
            Self::Licensed => "Licensed",
            Self::InitialGrace => "InitialGrace",
            Self::OutOfTolerance => "OutOfTolerance",
            Self::NonGenuineGrace => "NonGenuineGrace",
            Self::Notification => "Notification",
            Self::ExtendedGrace => "ExtendedGrace",
            Self::Unknown(_) => "Unknown",
        }
    }
}

/// The host's Windows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatingSystem {
    /// Name, such as `Microsoft Windows Server 2022 Standard`.
    pub caption: String,
    /// Version, such as `10.0.20348`.
    pub version: String,
    /// Build, such as 20348; 0 when it is not told.
    pub build: u32,
    /// 1 client, 2 domain controller, 3 server.
    pub product_type: u32,
}

impl OperatingSystem {
    /// Whether it is a server edition.
    pub fn is_server(&self) -> bool {
        self.product_type != 1
    }
}

/// What `SoftwareLicensingService` says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// Version of the service, the key of its instance.
    pub version: String,
    /// Listening port; 1688 when the host shows 0.
    pub port: u32,
    /// Whether the host publishes its own SRV record.
    pub dns_publishing: bool,
    /// Whether the service runs at low priority.
    pub low_priority: bool,
    /// Minutes between tries of clients that are not activated.
    pub activation_interval: Option<u32>,
    /// Minutes between renewals.
    pub renewal_interval: Option<u32>,
    /// Rearms of Windows that are left.
    pub windows_rearms: Option<u32>,
}

/// What `SoftwareLicensingProduct` says of one host product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Product {
    /// Activation ID.
    pub id: Uuid,
    /// Name.
    pub name: String,
    /// Description, such as `Office 16, VOLUME_KMS channel`.
    pub description: String,
    /// Application ID.
    pub application: Uuid,
    /// Last five characters of the installed key; none: no key.
    pub partial_key: Option<String>,
    /// Licence status.
    pub status: LicenseStatus,
    /// HRESULT behind the status.
    pub reason: u32,
    /// Minutes of grace left.
    pub grace_minutes: u32,
    /// Installation ID for the telephone; none without a key.
    pub installation_id: Option<String>,
    /// Current count; none when the host shows 4294967295.
    pub current_count: Option<u32>,
    /// Required count.
    pub required_count: Option<u32>,
    /// Cumulative requests.
    pub totals: Totals,
}

/// Cumulative request counters; each none when the host shows 4294967295 or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Valid requests.
    pub total: Option<u32>,
    /// Requests that the host cannot serve.
    pub failed: Option<u32>,
    /// By the client's licence status 0..=5.
    pub by_status: [Option<u32>; 6],
}

/// Everything read from a host at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostFacts {
    /// Windows.
    pub system: OperatingSystem,
    /// The licensing service.
    pub service: Service,
    /// Host products that have an instance.
    pub products: Vec<Product>,
}

impl HostFacts {
    /// The facts of a product. For Windows it is the host licence that carries a key.
    pub fn product(&self, wanted: &HostProduct) -> Option<&Product> {
        match wanted.id {
            Some(id) => self.products.iter().find(|product| product.id == id),
            None => self
                .products
                .iter()
                .find(|product| product.application == WINDOWS && product.is_host() && product.partial_key.is_some()),
        }
    }
}

impl Product {
    /// Whether this is a host licence, as slmgr tells it: by its description.
    pub fn is_host(&self) -> bool {
        self.description.contains("VOLUME_KMS") && !self.description.contains("VOLUME_KMSCLIENT")
    }

    /// Reads an instance.
    ///
    /// # Errors
    /// When a property holds what its type does not allow.
    pub fn read(row: &Instance) -> Result<Self, WrongType> {
        let uuid = |name: &str| -> Result<Uuid, WrongType> {
            let text = row.text(name)?.unwrap_or_default();
            Uuid::try_parse(text).map_err(|_| WrongType {
                class: "SoftwareLicensingProduct".to_owned(),
                property: name.to_owned(),
                expected: "a UUID",
                found: text.chars().take(64).collect(),
            })
        };
        let text = |name| row.text(name).map(|text| text.unwrap_or_default().to_owned());
        let some = |name| {
            row.text(name)
                .map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned))
        };
        let counter = |name: &str| row.count(&format!("KeyManagementService{name}Requests"));
        Ok(Self {
            id: uuid("ID")?,
            name: text("Name")?,
            description: text("Description")?,
            application: uuid("ApplicationID")?,
            partial_key: some("PartialProductKey")?,
            status: row.u32("LicenseStatus")?.unwrap_or(0).into(),
            reason: row.u32("LicenseStatusReason")?.unwrap_or(0),
            grace_minutes: row.u32("GracePeriodRemaining")?.unwrap_or(0),
            installation_id: some("OfflineInstallationId")?,
            current_count: row.count("KeyManagementServiceCurrentCount")?,
            required_count: row.count("RequiredClientCount")?,
            totals: Totals {
                total: counter("Total")?,
                failed: counter("Failed")?,
                by_status: [
                    counter("Unlicensed")?,
                    counter("Licensed")?,
                    counter("OOBGrace")?,
                    counter("OOTGrace")?,
                    counter("NonGenuineGrace")?,
                    counter("Notification")?,
                ],
            },
        })
    }
}

impl Service {
    /// Reads the instance.
    ///
    /// # Errors
    /// When a property holds what its type does not allow.
    pub fn read(row: &Instance) -> Result<Self, WrongType> {
        Ok(Self {
            version: row.text("Version")?.unwrap_or_default().to_owned(),
            port: row
                .u32("KeyManagementServiceListeningPort")?
                .filter(|&port| port != 0)
                .unwrap_or(1688),
            dns_publishing: row.boolean("KeyManagementServiceDnsPublishing")?.unwrap_or(true),
            low_priority: row.boolean("KeyManagementServiceLowPriority")?.unwrap_or(false),
            activation_interval: row.u32("VLActivationInterval")?.filter(|&minutes| minutes != 0),
            renewal_interval: row.u32("VLRenewalInterval")?.filter(|&minutes| minutes != 0),
            windows_rearms: row.u32("RemainingWindowsReArmCount")?,
        })
    }
}

impl OperatingSystem {
    /// Reads the instance.
    ///
    /// # Errors
    /// When a property holds what its type does not allow.
    pub fn read(row: &Instance) -> Result<Self, WrongType> {
        Ok(Self {
            caption: row.text("Caption")?.unwrap_or_default().trim().to_owned(),
            version: row.text("Version")?.unwrap_or_default().to_owned(),
            build: row
                .text("BuildNumber")?
                .and_then(|build| build.trim().parse().ok())
                .unwrap_or(0),
            product_type: row.u32("ProductType")?.unwrap_or(3),
        })
    }
}
