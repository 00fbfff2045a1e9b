//! Host licences of a rehearsal host: pack, key and activation of each product, and the host's settings. Pure.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use wsman::hresult::Hresult;

use super::config::ManagementConfig;
use crate::rehearsal::config::Validated;
use crate::rehearsal::products::Product;
use crate::rehearsal::{NOT_ACTIVATED, UNKNOWN_PRODUCT};

/// Digits of an installation ID, as newer Windows shows.
const INSTALLATION_DIGITS: usize = 63;
/// Digits of a confirmation ID ("Configure a KMS host computer to activate volume licensed versions of Office").
const CONFIRMATION_DIGITS: usize = 48;
/// What every rehearsal key begins with, so that nobody takes one for Microsoft's.
pub const KEY_PREFIX: &str = "REHEARSAL-";
/// The product key is blocked.
const BLOCKED: Hresult = Hresult(0xC004_F051);
/// Minutes of grace after a key was installed: 30 days.
const GRACE: u32 = 43_200;

/// A product's host licence.
#[derive(Debug, Clone)]
pub(super) struct Licence {
    pub(super) product: Product,
    /// Whether the Volume License Pack is installed.
    pub(super) pack: bool,
    pub(super) key: Option<Key>,
    pub(super) activated: bool,
    /// Code of the last refused activation.
    pub(super) reason: u32,
}

/// An installed rehearsal key. Only its last five characters are kept, as Windows does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) partial: String,
}

/// Settings of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostSettings {
    /// 0 stands for the default, 1688.
    pub(super) port: u32,
    pub(super) dns_publishing: bool,
    pub(super) low_priority: bool,
    pub(super) activation_interval: u32,
    pub(super) renewal_interval: u32,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Licences {
    licences: Vec<Licence>,
    settings: HostSettings,
    /// Settings that a restart of the service brings, where they are not shown at once.
    after_restart: Option<HostSettings>,
    shows_after_restart: bool,
    /// Whether the service `sppsvc` runs.
    pub(super) running: bool,
}

impl Licences {
    pub(super) fn new(config: &ManagementConfig, host: &Validated) -> Self {
        let licence = |product: &Product| {
            let pack = !config
                .missing_packs
                .iter()
                .any(|name| name.eq_ignore_ascii_case(&product.name));
            let licensed = config.starts_licensed && pack;
            Licence {
                product: product.clone(),
                pack,
                key: licensed.then(|| Key {
                    partial: "AAAAA".to_owned(),
                }),
                activated: licensed,
                reason: 0,
            }
        };
        Self {
            licences: host.catalogue.products().iter().map(licence).collect(),
            settings: HostSettings {
                port: 0,
                dns_publishing: true,
                low_priority: false,
                activation_interval: host.activation_interval_minutes,
                renewal_interval: host.renewal_interval_minutes,
            },
            after_restart: None,
            shows_after_restart: config.settings_after_restart,
            running: true,
        }
    }

    /// Products whose pack is installed: the others have no instance.
    pub(super) fn products(&self) -> impl Iterator<Item = &Licence> {
        self.licences.iter().filter(|licence| licence.pack)
    }

    pub(super) fn settings(&self) -> &HostSettings {
        &self.settings
    }

    pub(super) fn change(&mut self) -> &mut HostSettings {
        if self.shows_after_restart {
            self.after_restart.get_or_insert_with(|| self.settings.clone())
        } else {
            &mut self.settings
        }
    }

    pub(super) fn set_port(&mut self, port: u32) -> Result<(), Hresult> {
        if port > u32::from(u16::MAX) {
            return Err(Hresult(0x8007_0057));
        }
        self.change().port = port;
        Ok(())
    }

    /// Starts or stops the service; Win32_Service answers 10 for one that runs already, 5 for one that does not.
    pub(super) fn run(&mut self, run: bool) -> u32 {
        if run {
            self.settings = self.after_restart.take().unwrap_or_else(|| self.settings.clone());
        }
        match (std::mem::replace(&mut self.running, run), run) {
            (true, true) => 10,
            (false, false) => 5,
            _ => 0,
        }
    }

    pub(super) fn refusal(&self, product: Uuid) -> Option<u32> {
        match self.licences.iter().find(|licence| licence.product.id == product) {
            Some(licence) if licence.activated => None,
            Some(licence) if licence.key.is_some() => Some(NOT_ACTIVATED),
            Some(_) | None => Some(UNKNOWN_PRODUCT),
        }
    }

    /// `REHEARSAL-PRODUCT-AAAAA`; the product's name in capitals. Without its pack a key is invalid, as on Windows.
    pub(super) fn install_key(&mut self, key: &str) -> Result<(), Hresult> {
        let rest = key.strip_prefix(KEY_PREFIX).ok_or(Hresult::INVALID_PRODUCT_KEY)?;
        let (name, partial) = rest.split_once('-').ok_or(Hresult::INVALID_PRODUCT_KEY)?;
        if partial.len() != 5 || !partial.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit()) {
            return Err(Hresult::INVALID_PRODUCT_KEY);
        }
        if partial == "BLOCK" {
            return Err(BLOCKED);
        }
        let licence = self
            .licences
            .iter_mut()
            .find(|licence| licence.pack && licence.product.name.to_ascii_uppercase() == name)
            .ok_or(Hresult::INVALID_PRODUCT_KEY)?;
        *licence = Licence {
            key: Some(Key {
                partial: partial.to_owned(),
            }),
            activated: false,
            reason: 0,
            ..licence.clone()
        };
        Ok(())
    }

    /// Activates online. A key that ends in `LIMIT` has no activation left; one that ends in `NONET` is on a host that does
    /// not reach the activation service.
    pub(super) fn activate(&mut self, id: Uuid) -> Result<(), Hresult> {
        let licence = self.keyed(id)?;
        if licence.key.as_ref().is_some_and(|key| key.partial == "NONET") {
            return Err(Hresult::NAME_NOT_RESOLVED);
        }
        if licence.key.as_ref().is_some_and(|key| key.partial == "LIMIT") {
            licence.reason = Hresult::ACTIVATION_LIMIT.0;
            return Err(Hresult::ACTIVATION_LIMIT);
        }
        licence.activated = true;
        licence.reason = 0;
        Ok(())
    }

    pub(super) fn installation_id(&self, host: &str, id: Uuid) -> Result<String, Hresult> {
        let licence = self
            .licences
            .iter()
            .find(|licence| licence.pack && licence.product.id == id);
        licence
            .ok_or(Hresult::WBEM_NOT_FOUND)?
            .installation_id(host)
            .ok_or(Hresult::NO_PRODUCT_KEY)
    }

    /// Activates by telephone.
    pub(super) fn confirm(
        &mut self,
        id: Uuid,
        expected: &str,
        installation_id: &str,
        confirmation_id: &str,
    ) -> Result<(), Hresult> {
        let licence = self.keyed(id)?;
        if installation_id != expected || confirmation_id != rehearsal_confirmation_id(expected) {
            licence.reason = Hresult::OFFLINE_DATA_MALFORMED.0;
            return Err(Hresult::OFFLINE_DATA_MALFORMED);
        }
        licence.activated = true;
        licence.reason = 0;
        Ok(())
    }

    pub(super) fn uninstall_key(&mut self, id: Uuid) -> Result<(), Hresult> {
        let licence = self.keyed(id)?;
        licence.key = None;
        licence.activated = false;
        licence.reason = 0;
        Ok(())
    }

    fn keyed(&mut self, id: Uuid) -> Result<&mut Licence, Hresult> {
        let licence = self
            .licences
            .iter_mut()
            .find(|licence| licence.pack && licence.product.id == id);
        let licence = licence.ok_or(Hresult::WBEM_NOT_FOUND)?;
        if licence.key.is_none() {
            Err(Hresult::NO_PRODUCT_KEY)
        } else {
            Ok(licence)
        }
    }
}

impl Licence {
    /// 0 unlicensed, 1 licensed, 2 initial grace, 5 notification.
    pub(super) fn status(&self) -> u32 {
        match (&self.key, self.activated, self.reason) {
            (None, ..) => 0,
            (Some(_), true, _) => 1,
            (Some(_), false, 0) => 2,
            (Some(_), false, _) => 5,
        }
    }

    pub(super) fn grace(&self) -> u32 {
        if self.status() == 2 { GRACE } else { 0 }
    }

    /// Digits made of host, product and key: stable while the key stays.
    pub(super) fn installation_id(&self, host: &str) -> Option<String> {
        let key = self.key.as_ref()?;
        Some(digits(
            &format!("installation\0{host}\0{}\0{}", self.product.id, key.partial),
            INSTALLATION_DIGITS,
        ))
    }
}

/// The confirmation ID that a rehearsal host takes for an installation ID: the part of Microsoft's voice in a drill. It
/// means nothing to any Microsoft product.
pub fn rehearsal_confirmation_id(installation_id: &str) -> String {
    digits(&format!("confirmation\0{installation_id}"), CONFIRMATION_DIGITS)
}

fn digits(seed: &str, count: usize) -> String {
    (0..=count / 32)
        .flat_map(|block| Sha256::digest(format!("officekms rehearsal\0{block}\0{seed}")).to_vec())
        .map(|byte| char::from(b'0' + byte % 10))
        .take(count)
        .collect()
}
