//! Reading a host: WMI queries, each with its columns named, since `SELECT *` would bring the machine's OEM key along.

use wsman::client::{Client, Error};
use wsman::envelope::quoted;
use wsman::value::{Instance, WrongType};

use super::facts::{HostFacts, OperatingSystem, Product, Service};
use super::products::{HostProduct, LTSC_2024_CLIENT};

/// Columns of `Win32_OperatingSystem`.
const SYSTEM: &str = "Caption, Version, BuildNumber, ProductType";
/// Columns of `SoftwareLicensingService` that systems since Windows 7 have.
const SERVICE: &str = "Version, KeyManagementServiceListeningPort, KeyManagementServiceDnsPublishing, \
    KeyManagementServiceLowPriority, VLActivationInterval, VLRenewalInterval, RemainingWindowsReArmCount";
/// Columns of `SoftwareLicensingProduct` that systems since Windows 7 have.
const PRODUCT: &str = "ID, Name, Description, ApplicationID, PartialProductKey, LicenseStatus, LicenseStatusReason, \
    GracePeriodRemaining, OfflineInstallationId, KeyManagementServiceCurrentCount, RequiredClientCount, \
    KeyManagementServiceTotalRequests, KeyManagementServiceFailedRequests, KeyManagementServiceUnlicensedRequests, \
    KeyManagementServiceLicensedRequests, KeyManagementServiceOOBGraceRequests, \
    KeyManagementServiceOOTGraceRequests, KeyManagementServiceNonGenuineGraceRequests, \
    KeyManagementServiceNotificationRequests";

/// Why a host cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The host did not answer, or refused.
    #[error(transparent)]
    Host(#[from] Error),
    /// It answered something that its classes do not allow.
    #[error("{host} answers unreadable facts")]
    Facts {
        /// The host.
        host: String,
        /// Which.
        #[source]
        source: WrongType,
    },
    /// It has no instance of a class that every Windows has.
    #[error("{host} shows no {class}: is its WMI repository whole?")]
    Missing {
        /// The host.
        host: String,
        /// The class.
        class: &'static str,
    },
}

/// Reads everything that [`super::plan`] needs for these products.
///
/// # Errors
/// See [`ReadError`].
pub async fn read(client: &Client, products: &[&HostProduct]) -> Result<HostFacts, ReadError> {
    let facts = |source| ReadError::Facts {
        host: client.host(),
        source,
    };
    let system = one(client, SYSTEM, "Win32_OperatingSystem").await?;
    let service = one(client, SERVICE, "SoftwareLicensingService").await?;
    let mut rows = Vec::new();
    let ask = async |condition: String| {
        let query = format!("SELECT {PRODUCT} FROM SoftwareLicensingProduct WHERE {condition}");
        client.query(&query).await
    };
    for product in products {
        let Some(id) = product.id else { continue };
        let found = ask(format!("ID = {}", quoted(&id.to_string()))).await?;
        if product.name == "OfficeLTSC2024" && found.is_empty() {
            rows.extend(ask(format!("ID = {}", quoted(&LTSC_2024_CLIENT.to_string()))).await?);
        }
        rows.extend(found);
    }
    // Where no product is named, a host is judged by what it carries.
    let any_windows = products.iter().any(|product| product.id.is_none());
    if any_windows || products.is_empty() {
        rows.extend(ask("PartialProductKey <> NULL".to_owned()).await?);
    }
    let mut read = Vec::<Product>::new();
    for row in &rows {
        let product = Product::read(row).map_err(facts)?;
        if !read.iter().any(|known| known.id == product.id) {
            read.push(product);
        }
    }
    Ok(HostFacts {
        system: OperatingSystem::read(&system).map_err(facts)?,
        service: Service::read(&service).map_err(facts)?,
        products: read,
    })
}

async fn one(client: &Client, columns: &str, class: &'static str) -> Result<Instance, ReadError> {
    let rows = client.query(&format!("SELECT {columns} FROM {class}")).await?;
    rows.into_iter().next().ok_or_else(|| ReadError::Missing {
        host: client.host(),
        class,
    })
}
