//! Rehearsal hosts: stand-ins for licensed hosts in staging, continuous integration and drills.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::reference::{LocalName, SecretKey};

/// A rehearsal host answers rehearsal clients with the full counting behaviour of a KMS host under the site's own key. A
/// Microsoft client that reaches it is refused.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalSpec {
    /// The site key (32 bytes, raw, in hex or in base64), which rehearsal clients share. Default: generated once into Secret `NAME-keys`, key
    /// `site-key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site_key_secret: Option<SecretKey>,

    /// Minutes after which a client that was not activated asks again; told to clients in each answer.
    #[serde(default = "default_activation_interval")]
    #[schemars(range(min = 15, max = 43200))]
    pub activation_interval_minutes: i32,

    /// Minutes after which an activated client renews; told to clients in each answer.
    #[serde(default = "default_renewal_interval")]
    #[schemars(range(min = 15, max = 43200))]
    pub renewal_interval_minutes: i32,

    /// Answers WS-Management for the licensing classes too, so that managing licensed hosts can be rehearsed: a Secret with
    /// keys `username` and `password` that its callers use. None: no WS-Management.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub management_secret: Option<LocalName>,
}

fn default_activation_interval() -> i32 {
    120
}

fn default_renewal_interval() -> i32 {
    10_080
}
