//! The `rehearsal` section of the host's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    management::config::ManagementConfig,
    message::HostId,
    products::{Catalogue, Product, ProductConfig},
};
use crate::config::place::{SectionProblem, Step};

/// Intervals that a KMS host may tell its clients, in minutes (SoftwareLicensingService.SetVLActivationInterval).
pub(super) const INTERVALS: std::ops::RangeInclusive<u32> = 15..=43_200;

/// What a rehearsal host is and serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RehearsalConfig {
    /// File with the site key of 32 bytes (see [`crate::keyfile`]), shared with rehearsal clients.
    pub site_key_file: PathBuf,
    /// The host's name in events; `rehearsal` when absent.
    #[serde(default = "default_host_name")]
    pub host_name: String,
    /// The host ID that clients are shown; the host's name when absent. 1 to 63 printable ASCII characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<String>,
    /// Products served; all Office products known by name when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub products: Vec<ProductConfig>,
    /// Minutes after which a client that is not activated asks again, 15..=43200.
    #[serde(default = "default_activation_interval")]
    pub activation_interval_minutes: u32,
    /// Minutes after which an activated client renews, 15..=43200.
    #[serde(default = "default_renewal_interval")]
    pub renewal_interval_minutes: u32,
    /// WS-Management, for rehearsing whatever manages licensed hosts. Without it the host is licensed from the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management: Option<ManagementConfig>,
}

/// The section, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    pub(super) host_name: String,
    pub(super) host_id: HostId,
    pub(super) catalogue: Catalogue,
    pub(super) activation_interval_minutes: u32,
    pub(super) renewal_interval_minutes: u32,
    pub(super) management: Option<ManagementConfig>,
}

impl RehearsalConfig {
    /// A host with all defaults.
    pub fn new(site_key_file: PathBuf) -> Self {
        Self {
            site_key_file,
            host_name: default_host_name(),
            host_id: None,
            products: Vec::new(),
            activation_interval_minutes: default_activation_interval(),
            renewal_interval_minutes: default_renewal_interval(),
            management: None,
        }
    }

    /// Everything wrong with this section that its types did not catch, all at once.
    pub fn problems(&self) -> Vec<SectionProblem> {
        self.validate().err().unwrap_or_default()
    }

    /// The section as a host needs it, or everything wrong with it.
    pub fn validate(&self) -> Result<Validated, Vec<SectionProblem>> {
        let mut problems = Vec::new();
        let host_id = HostId::new(self.host_id.as_ref().unwrap_or(&self.host_name));
        if host_id.is_none() {
            let field = if self.host_id.is_some() { "hostId" } else { "hostName" };
            let hint = "write 1 to 63 printable ASCII characters";
            problems.push(SectionProblem::at(field, "is no host ID", hint));
        }
        for (field, interval) in [
            ("activationIntervalMinutes", self.activation_interval_minutes),
            ("renewalIntervalMinutes", self.renewal_interval_minutes),
        ] {
            if !INTERVALS.contains(&interval) {
                problems.push(SectionProblem::at(
                    field,
                    "is out of range",
                    "from 15 to 43200 minutes is possible",
                ));
            }
        }
        if let Some(management) = &self.management {
            problems.extend(management.problems().into_iter().map(|mut problem| {
                problem.path.insert(0, Step::Key("management".to_owned()));
                problem
            }));
        }
        let mut products: Vec<Product> = if self.products.is_empty() {
            Product::known()
        } else {
            Vec::new()
        };
        for (at, config) in self.products.iter().enumerate() {
            let mut wrong = match config.resolve() {
                Ok(product) if products.iter().any(|other| other.id == product.id) => {
                    SectionProblem::at("name", "is given twice", "keep one of them")
                }
                Ok(product) => {
                    products.push(product);
                    continue;
                }
                Err(wrong) => wrong,
            };
            wrong
                .path
                .splice(0..0, [Step::Key("products".to_owned()), Step::Item(at)]);
            problems.push(wrong);
        }
        match host_id {
            Some(host_id) if problems.is_empty() => Ok(Validated {
                host_name: self.host_name.clone(),
                host_id,
                catalogue: Catalogue::new(products),
                activation_interval_minutes: self.activation_interval_minutes,
                renewal_interval_minutes: self.renewal_interval_minutes,
                management: self.management.clone(),
            }),
            _ => Err(problems),
        }
    }
}

fn default_host_name() -> String {
    "rehearsal".to_owned()
}

/// 120 minutes, as licensed hosts ("Volume Activation Planning Guide").
fn default_activation_interval() -> u32 {
    120
}

/// 7 days, as licensed hosts ("Volume Activation Planning Guide").
fn default_renewal_interval() -> u32 {
    10_080
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(yaml: &str) -> Vec<String> {
        let config: RehearsalConfig = serde_saphyr::from_str(yaml).unwrap();
        config
            .problems()
            .into_iter()
            .map(|problem| crate::config::place::display_path(&problem.path))
            .collect()
    }

    #[test]
    fn a_site_key_is_all_that_must_be_given() {
        let config: RehearsalConfig = serde_saphyr::from_str("siteKeyFile: /site.key").unwrap();
        assert_eq!(config, RehearsalConfig::new("/site.key".into()));
        let validated = config.validate().unwrap();
        assert_eq!(validated.catalogue.products().len(), 4);
        assert_eq!(
            (
                validated.activation_interval_minutes,
                validated.renewal_interval_minutes
            ),
            (120, 10_080)
        );
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(
            fields(
                "{siteKeyFile: /k, hostName: '', activationIntervalMinutes: 14, renewalIntervalMinutes: 43201, \
                 products: [{name: Office2016}, {name: office2016}, {name: Windows}]}"
            ),
            [
                "hostName",
                "activationIntervalMinutes",
                "renewalIntervalMinutes",
                "products[1].name",
                "products[2].id"
            ]
        );
    }
}
