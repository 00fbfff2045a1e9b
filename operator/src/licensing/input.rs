//! From the spec and what it refers to, to the hosts of a round. Pure.

use std::time::Duration;

use super::plan::{Activation, Wanted};
use super::products::HostProduct;
use super::round::HostSpec;
use super::settings::WantedSettings;
use super::visit::Mode;
use crate::api::{self, ActivationMethod, LicensedHost, ManagementMode, ManagementSpec, OfficeKmsHostSpec};
use crate::reach::Reach;
use crate::secrets::{Names, Objects, ValueError};

/// A host whose management cannot be used as the spec has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Its name in the spec.
    pub host: String,
    /// The fields and what is wrong with them.
    pub message: String,
}

/// What the management of licensed hosts refers to.
#[must_use]
pub fn names(spec: &OfficeKmsHostSpec) -> Names {
    let mut names = Names::default();
    let mut managed = false;
    for (_, host, management) in managed_hosts(spec) {
        Reach::to_host(host, management).names(&mut names);
        managed |= management.mode == ManagementMode::Manage;
    }
    for product in spec.products.iter().flatten().filter(|_| managed) {
        if let Some(key) = &product.host_key_secret {
            names.secret(&key.name);
        }
        if let Some(confirmation) = &product.confirmation_id_secret {
            names.secret(&confirmation.name);
        }
    }
    names
}

/// Every licensed host that has a `management` section, in the spec's order.
#[must_use]
pub fn hosts(spec: &OfficeKmsHostSpec, objects: &Objects) -> Vec<Result<HostSpec, Misfit>> {
    managed_hosts(spec)
        .map(|(index, host, management)| one(spec, index, host, management, objects))
        .collect()
}

fn managed_hosts(spec: &OfficeKmsHostSpec) -> impl Iterator<Item = (usize, &LicensedHost, &ManagementSpec)> {
    let hosts = spec.licensed_hosts.iter().flatten().enumerate();
    hosts.filter_map(|(index, host)| Some((index, host, host.management.as_ref()?)))
}

fn one(
    spec: &OfficeKmsHostSpec,
    index: usize,
    host: &LicensedHost,
    management: &ManagementSpec,
    objects: &Objects,
) -> Result<HostSpec, Misfit> {
    let (endpoint, credentials) = Reach::to_host(host, management).resolve(objects).map_err(|problems| {
        let base = format!("spec.licensedHosts[{index}].management");
        let told = problems
            .iter()
            .map(|problem| format!("{base}.{}: {}", problem.field, problem.message));
        Misfit {
            host: host.name.clone(),
            message: told.collect::<Vec<_>>().join("; "),
        }
    })?;
    let mode = match management.mode {
        ManagementMode::Observe => Mode::Observe,
        ManagementMode::Manage => Mode::Manage,
    };
    let products = spec.products.iter().flatten();
    let wanted = products.filter_map(|product| wanted(product, &host.name, mode, objects));
    Ok(HostSpec {
        name: host.name.clone(),
        endpoint,
        credentials,
        mode,
        wanted: wanted.collect(),
        settings: settings(host, management),
        interval: Duration::from_secs(u64::try_from(management.interval_seconds).unwrap_or(300)),
    })
}

/// A host behind replicas listens where the spec says, and does not publish itself: clients would find it beside them.
fn settings(host: &LicensedHost, management: &ManagementSpec) -> WantedSettings {
    let given = management.settings.as_ref();
    let minutes = |wanted: Option<i32>| wanted.and_then(|minutes| u32::try_from(minutes).ok());
    WantedSettings {
        port: u32::try_from(host.port).ok(),
        dns_publishing: Some(given.is_some_and(|given| given.dns_publishing)),
        low_priority: given.and_then(|given| given.low_priority),
        activation_interval: minutes(given.and_then(|given| given.activation_interval_minutes)),
        renewal_interval: minutes(given.and_then(|given| given.renewal_interval_minutes)),
    }
}

fn wanted(product: &api::Product, host: &str, mode: Mode, objects: &Objects) -> Option<Wanted> {
    let mut wanted = Wanted {
        product: HostProduct::named(product.name.as_str())?,
        key: None,
        names_key: product.host_key_secret.is_some(),
        missing: None,
        activation: match product.activation {
            ActivationMethod::Online => Activation::Online,
            ActivationMethod::Phone => Activation::Phone(None),
        },
    };
    // Who only observes needs no secrets, and so reads none.
    if mode == Mode::Observe {
        return Some(wanted);
    }
    match product.host_key_secret.as_ref().map(|key| objects.text(key)) {
        Some(Ok(key)) => wanted.key = Some(key),
        Some(Err(error)) => wanted.missing = Some(error.to_string()),
        None => {}
    }
    if let Some(secret) = &product.confirmation_id_secret {
        match objects.secret_text(&secret.name, host) {
            Ok(typed) => wanted.activation = Activation::Phone(Some(typed)),
            // Nobody has called Microsoft for this host yet.
            Err(ValueError::NoObject { .. } | ValueError::NoKey { .. }) => {}
            Err(error) => wanted.missing = Some(error.to_string()),
        }
    }
    Some(wanted)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::api::OfficeKmsHost;
    use crate::secrets::tests::secrets;

    const MANIFEST: &str = "
apiVersion: officekms.io/v1alpha1
kind: OfficeKmsHost
metadata: {name: kms}
spec:
  licensedHosts:
    - name: kms01
      address: kms01.example.com
      port: 1789
      management:
        mode: Manage
        credentialsSecret: {name: account}
        settings: {lowPriority: true, renewalIntervalMinutes: 10080}
    - name: kms02
      address: kms02.example.com
    - name: kms03
      address: kms03.example.com
      management: {credentialsSecret: {name: account}}
  products:
    - name: Office2016
      hostKeySecret: {name: keys, key: office2016}
      activation: Phone
      confirmationIdSecret: {name: confirmations}
";

    fn spec() -> OfficeKmsHostSpec {
        serde_saphyr::from_str::<OfficeKmsHost>(MANIFEST).unwrap().spec
    }

    const ACCOUNT: [(&str, &str, &str); 2] = [("account", "username", "admin"), ("account", "password", "pw")];

    #[test]
    fn secrets_are_read_by_name_and_only_those_that_are_needed() {
        let mut spec = spec();
        let named: Vec<String> = names(&spec).secrets.into_iter().collect();
        assert_eq!(named, ["account", "confirmations", "keys"]);
        spec.licensed_hosts.as_mut().unwrap().remove(0);
        assert_eq!(
            names(&spec).secrets.into_iter().collect::<Vec<_>>(),
            ["account"],
            "observing needs no keys"
        );
    }

    #[test]
    fn each_managed_host_becomes_what_a_round_needs() {
        let confirmation = "1".repeat(48);
        let objects = secrets(
            &[
                ACCOUNT.as_slice(),
                &[
                    ("keys", "office2016", "REHEARSAL-OFFICE2016-AAAAA"),
                    ("confirmations", "kms01", confirmation.as_str()),
                ],
            ]
            .concat(),
        );
        let hosts = hosts(&spec(), &objects);
        let [Ok(first), Ok(third)] = hosts.as_slice() else {
            panic!("{hosts:?}")
        };
        assert_eq!((first.name.as_str(), first.mode), ("kms01", Mode::Manage));
        let wanted = &first.wanted[0];
        assert_eq!(
            wanted.key.as_ref().unwrap().expose_secret(),
            "REHEARSAL-OFFICE2016-AAAAA"
        );
        assert!(matches!(&wanted.activation, Activation::Phone(Some(typed)) if typed.expose_secret() == confirmation));
        assert_eq!(
            first.settings,
            WantedSettings {
                port: Some(1789),
                dns_publishing: Some(false),
                low_priority: Some(true),
                activation_interval: None,
                renewal_interval: Some(10_080),
            }
        );
        assert_eq!((third.name.as_str(), third.mode), ("kms03", Mode::Observe));
        assert!(third.wanted[0].key.is_none() && third.wanted[0].names_key);
    }

    #[test]
    fn a_late_key_is_named_and_a_confirmation_that_nobody_has_yet_is_waited_for() {
        let hosts = hosts(&spec(), &secrets(&ACCOUNT));
        let first = hosts[0].as_ref().unwrap();
        assert_eq!(
            first.wanted[0].missing.as_deref(),
            Some("there is no Secret `keys` in this namespace: create it")
        );
        assert!(matches!(first.wanted[0].activation, Activation::Phone(None)));
    }

    #[test]
    fn an_account_that_is_missing_is_told_by_its_field() {
        let hosts = hosts(&spec(), &secrets(&ACCOUNT[..1]));
        let misfit = hosts[0].as_ref().unwrap_err();
        assert_eq!(
            misfit.message,
            "spec.licensedHosts[0].management.credentialsSecret: the Secret `account` has no key `password`: add it"
        );
    }
}
