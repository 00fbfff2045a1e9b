//! The management side of a rehearsal host: WS-Management with the classes, methods and events of a KMS host.
//!
//! Whatever sets up and watches licensed hosts can so be rehearsed in full: a pack that is missing, a key that is typed
//! in, activation online and by telephone, refusals with Windows' codes, counts and 12290 events. Nothing of it is
//! Microsoft's: keys have a visible format of our own (`REHEARSAL-OFFICE2016-AAAAA`), and installation and confirmation
//! IDs are digits that we make up.
//!
//! ```text
//! wsman::server --> Management (a Provider) --classes--> instances
//!                     |-- licences: pack -> key -> activated, per product; settings
//!                     |-- log: events of the ledger with record numbers
//!                     \-- ledger: counts and totals
//! ```
//!
//! The state lives as long as the process: a drill starts from its configuration each time.

mod classes;
pub mod config;
pub mod licences;
mod log;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wsman::hresult::Hresult;
use wsman::reply::Output;
use wsman::server::{self, Answer, Call, Provider, Query, Settings};
use wsman::value::{Instance, WrongType};

pub use config::{ManagementConfig, ManagementError};
use licences::Licences;
use log::EventLog;

use super::config::Validated;
use crate::ledger::{Ledger, Millis};

/// The licensing state of a rehearsal host, shared by who manages it and who answers its clients.
pub struct Management {
    host_name: String,
    operating_system: config::OperatingSystem,
    licences: Mutex<Licences>,
    log: tokio::sync::Mutex<EventLog>,
    ledger: Arc<dyn Ledger>,
}

impl fmt::Debug for Management {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Management")
            .field("host_name", &self.host_name)
            .finish_non_exhaustive()
    }
}

impl Management {
    /// The state that a configuration starts with.
    pub fn new(config: &ManagementConfig, host: &Validated, ledger: Arc<dyn Ledger>) -> Self {
        Self {
            host_name: host.host_name.clone(),
            operating_system: config.operating_system.clone(),
            licences: Mutex::new(Licences::new(config, host)),
            log: tokio::sync::Mutex::new(EventLog::new(host.host_name.clone())),
            ledger,
        }
    }

    /// The HRESULT with which a request for this product is refused, if its host licence is not activated.
    pub(crate) fn refusal(&self, product: Uuid) -> Option<u32> {
        self.licences().refusal(product)
    }

    fn licences(&self) -> MutexGuard<'_, Licences> {
        // Each change is one assignment, so a poisoned lock holds nothing half-done.
        self.licences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn list(&self, namespace: &str, query: &Query) -> Result<Vec<Instance>, Hresult> {
        if !namespace.eq_ignore_ascii_case(wsman::names::CIMV2) {
            return Err(Hresult::WBEM_INVALID_CLASS);
        }
        let now = Millis(jiff::Timestamp::now().as_millisecond());
        let class = query.class.to_ascii_lowercase();
        match class.as_str() {
            "softwarelicensingservice" | "softwarelicensingproduct" => {
                let counts = self.ledger.counts(now).await.map_err(|_| UNAVAILABLE)?;
                let licences = self.licences();
                Ok(if class == "softwarelicensingservice" {
                    vec![classes::service(&licences, &counts)]
                } else {
                    licences
                        .products()
                        .map(|licence| classes::product(&self.host_name, licence, &counts, now))
                        .collect()
                })
            }
            "win32_operatingsystem" => Ok(vec![classes::operating_system(&self.host_name, &self.operating_system)]),
            "win32_service" => Ok(vec![classes::software_protection(&self.licences())]),
            "win32_ntlogevent" => {
                let mut log = self.log.lock().await;
                log.read_on(&*self.ledger).await.map_err(|_| UNAVAILABLE)?;
                Ok(log.instances(query.greater_than("RecordNumber").unwrap_or(0)))
            }
            _ => Err(Hresult::WBEM_INVALID_CLASS),
        }
    }

    fn call(&self, call: &Call) -> Result<Output, Hresult> {
        let mut licences = self.licences();
        let parameters = &call.parameters;
        let text = |name| required(parameters.text(name));
        let number = |name| required(parameters.u32(name));
        let truth = |name| required(parameters.boolean(name));
        match (call.class.to_ascii_lowercase().as_str(), call.method.as_str()) {
            ("softwarelicensingservice", method) => match method {
                "InstallProductKey" => licences.install_key(text("ProductKey")?)?,
                "RefreshLicenseStatus" => {}
                "SetKeyManagementServiceListeningPort" => licences.set_port(number("PortNumber")?)?,
                "ClearKeyManagementServiceListeningPort" => licences.set_port(0)?,
                "DisableKeyManagementServiceDnsPublishing" => {
                    licences.change().dns_publishing = !truth("DisablePublishing")?;
                }
                "EnableKeyManagementServiceLowPriority" => {
                    licences.change().low_priority = truth("EnableLowPriority")?;
                }
                "SetVLActivationInterval" => {
                    let minutes = interval(number("ActivationInterval")?)?;
                    licences.change().activation_interval = minutes;
                }
                "SetVLRenewalInterval" => {
                    let minutes = interval(number("RenewalInterval")?)?;
                    licences.change().renewal_interval = minutes;
                }
                _ => return Err(Hresult::WBEM_INVALID_METHOD),
            },
            ("softwarelicensingproduct", method) => {
                let id = selected(call)?;
                match method {
                    "Activate" => licences.activate(id)?,
                    "DepositOfflineConfirmationId" => {
                        let expected = licences.installation_id(&self.host_name, id)?;
                        licences.confirm(id, &expected, text("InstallationId")?, text("ConfirmationId")?)?;
                    }
                    "UninstallProductKey" => licences.uninstall_key(id)?,
                    _ => return Err(Hresult::WBEM_INVALID_METHOD),
                }
            }
            ("win32_service", "StopService") => return Ok(Output::returning(licences.run(false))),
            ("win32_service", "StartService") => return Ok(Output::returning(licences.run(true))),
            _ => return Err(Hresult::WBEM_INVALID_CLASS),
        }
        Ok(Output::done())
    }
}

/// HRESULT of "the service is not available now" for a ledger that does not answer.
const UNAVAILABLE: Hresult = Hresult(0x8007_06BA);

impl Provider for Management {
    fn instances<'a>(&'a self, namespace: &'a str, query: &'a Query) -> Answer<'a, Vec<Instance>> {
        Box::pin(self.list(namespace, query))
    }

    fn invoke<'a>(&'a self, call: &'a Call) -> Answer<'a, Output> {
        Box::pin(async move {
            let outcome = self.call(call);
            // Parameters stay out of the log: one of them can be a key.
            match &outcome {
                Ok(_) => tracing::info!(class = call.class, method = call.method, "managed"),
                Err(code) => {
                    tracing::info!(class = call.class, method = call.method, error = %code, "management refused");
                }
            }
            outcome
        })
    }
}

/// Serves WS-Management on `listener` until `shutdown`.
///
/// # Errors
/// When the files that the configuration names are of no use.
pub fn serve(
    config: &ManagementConfig,
    management: Arc<Management>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, ManagementError> {
    let settings = Settings {
        account: config.credentials()?,
        identity: config.identity()?,
        limits: server::Limits::default(),
    };
    Ok(server::serve(listener, settings, management, shutdown))
}

fn required<T>(value: Result<Option<T>, WrongType>) -> Result<T, Hresult> {
    value.ok().flatten().ok_or(Hresult::WBEM_INVALID_PARAMETER)
}

fn interval(minutes: u32) -> Result<u32, Hresult> {
    if super::config::INTERVALS.contains(&minutes) {
        Ok(minutes)
    } else {
        Err(Hresult(0x8007_0057))
    }
}

fn selected(call: &Call) -> Result<Uuid, Hresult> {
    call.selectors
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("ID"))
        .and_then(|(_, id)| Uuid::try_parse(id).ok())
        .ok_or(Hresult::WBEM_NOT_FOUND)
}

#[cfg(test)]
mod tests;
