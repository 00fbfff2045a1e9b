//! Carrying out one step on a host, as `slmgr.vbs` and the Volume Activation wizard do ("WMI Properties and Methods",
//! Table 12).

use secrecy::ExposeSecret as _;
use uuid::Uuid;
use wsman::client::{Client, Error};
use wsman::names::{CIMV2, Class};
use wsman::value::Value;

use super::settings::Setting;

/// What is to be done. Secrets are borrowed for the call only, and not shown.
pub enum Action<'a> {
    /// Install a host key.
    InstallKey(&'a secrecy::SecretString),
    /// Activate online.
    Activate(Uuid),
    /// Deposit a confirmation ID.
    Confirm {
        /// The product.
        id: Uuid,
        /// The installation ID that the confirmation belongs to.
        installation_id: &'a str,
        /// The 48 digits.
        confirmation_id: &'a secrecy::SecretString,
    },
    /// Change a setting.
    Set(Setting),
}

/// Carries it out. `version` is the key of the service's instance, as [`super::facts::Service`] has it.
///
/// # Errors
/// What the host, or the activation service behind it, answers. When the step itself went well and only the refresh
/// after it failed, that is no error: the next reading shows the outcome.
pub async fn carry_out(client: &Client, version: &str, action: &Action<'_>) -> Result<(), Error> {
    let service = Class::new(CIMV2, "SoftwareLicensingService")?;
    let product = Class::new(CIMV2, "SoftwareLicensingProduct")?;
    let on_service = [("Version", version)];
    let refresh = match action {
        Action::InstallKey(key) => {
            let key = [("ProductKey", Value::from(key.expose_secret().trim()))];
            client.invoke(&service, &on_service, "InstallProductKey", &key).await?;
            true
        }
        Action::Activate(id) => {
            client
                .invoke(&product, &[("ID", &id.to_string())], "Activate", &[])
                .await?;
            true
        }
        Action::Confirm {
            id,
            installation_id,
            confirmation_id,
        } => {
            let parameters = [
                ("InstallationId", Value::from(*installation_id)),
                ("ConfirmationId", Value::from(confirmation_id.expose_secret())),
            ];
            client
                .invoke(
                    &product,
                    &[("ID", &id.to_string())],
                    "DepositOfflineConfirmationId",
                    &parameters,
                )
                .await?;
            true
        }
        Action::Set(setting) => {
            let (method, name, value) = match *setting {
                Setting::Port(port) => ("SetKeyManagementServiceListeningPort", "PortNumber", Value::from(port)),
                Setting::DnsPublishing(on) => (
                    "DisableKeyManagementServiceDnsPublishing",
                    "DisablePublishing",
                    Value::from(!on),
                ),
                Setting::LowPriority(low) => (
                    "EnableKeyManagementServiceLowPriority",
                    "EnableLowPriority",
                    Value::from(low),
                ),
                Setting::ActivationInterval(minutes) => {
                    ("SetVLActivationInterval", "ActivationInterval", Value::from(minutes))
                }
                Setting::RenewalInterval(minutes) => ("SetVLRenewalInterval", "RenewalInterval", Value::from(minutes)),
            };
            client.invoke(&service, &on_service, method, &[(name, value)]).await?;
            false
        }
    };
    if refresh && let Err(error) = client.invoke(&service, &on_service, "RefreshLicenseStatus", &[]).await {
        tracing::debug!(server.addr = client.host(), error = %error, "the licence status was not refreshed");
    }
    Ok(())
}
