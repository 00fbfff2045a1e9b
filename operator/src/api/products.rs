//! Products that hosts activate, and how each host licence itself is activated.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reference::SecretKey;

/// A product that hosts activate.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.confirmationIdSecret) || self.activation == 'Phone'").message(
        "confirmationIdSecret is for activation: Phone"
    ),
    validation = Rule::new("!has(self.confirmationIdSecret) || has(self.hostKeySecret)").message(
        "confirmationIdSecret confirms a host key: set hostKeySecret too"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Product {
    /// `Office2016`, `Office2019`, `OfficeLTSC2021`, `OfficeLTSC2024`, `Windows` (clients, N = 25) or `WindowsServer` (N = 5).
    pub name: ProductName,

    /// KMS host key (CSVLK) of the product, for licensed hosts with `management.mode: Manage`. Never shown or logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_key_secret: Option<SecretKey>,

    /// `Online` (default), or `Phone`: status shows the installation ID of each host, and the confirmation ID is read from
    /// `confirmationIdSecret`.
    #[serde(default)]
    pub activation: ActivationMethod,

    /// Confirmation IDs that Microsoft's voice gave: one key per licensed host, named as the host, 48 digits each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation_id_secret: Option<super::reference::LocalName>,
}

/// Products with a KMS host licence.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProductName {
    /// Office 2016.
    Office2016,
    /// Office 2019.
    Office2019,
    /// Office LTSC 2021.
    #[serde(rename = "OfficeLTSC2021")]
    OfficeLtsc2021,
    /// Office LTSC 2024.
    #[serde(rename = "OfficeLTSC2024")]
    OfficeLtsc2024,
    /// Windows clients.
    Windows,
    /// Windows Server.
    WindowsServer,
}

impl ProductName {
    /// The name in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Office2016 => "Office2016",
            Self::Office2019 => "Office2019",
            Self::OfficeLtsc2021 => "OfficeLTSC2021",
            Self::OfficeLtsc2024 => "OfficeLTSC2024",
            Self::Windows => "Windows",
            Self::WindowsServer => "WindowsServer",
        }
    }

    /// N, the count that a client of the product requires (Volume Activation Planning Guide).
    pub fn required_count(self) -> u32 {
        match self {
            Self::Windows => 25,
            _ => 5,
        }
    }
}

/// How a host licence is activated with Microsoft.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationMethod {
    /// Over the internet.
    #[default]
    Online,
    /// By telephone.
    Phone,
}
