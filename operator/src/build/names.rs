//! Names of children. A resource's name has at most 52 characters, so every child's fits in 63.

use kube::ResourceExt as _;

use crate::api::OfficeKmsHost;

/// Key of the ledger key in the Secret of [`keys`].
pub const LEDGER_KEY: &str = "ledger-key";

/// Key of the site key in the Secret of [`keys`].
pub const SITE_KEY: &str = "site-key";

/// Key of the password in the Secret of [`redis`].
pub const PASSWORD: &str = "password";

/// Key of the password as a line of Redis' configuration in the Secret of [`redis`].
pub const AUTH_CONF: &str = "auth.conf";

/// The ConfigMap that holds the replicas' configuration.
#[must_use]
pub fn config(host: &OfficeKmsHost) -> String {
    format!("{}-config", host.name_any())
}

/// The Secret that holds generated keys.
#[must_use]
pub fn keys(host: &OfficeKmsHost) -> String {
    format!("{}-keys", host.name_any())
}

/// The headless Service of the replicas' admin endpoints.
#[must_use]
pub fn admin(host: &OfficeKmsHost) -> String {
    format!("{}-admin", host.name_any())
}

/// Everything of the managed ledger.
#[must_use]
pub fn redis(host: &OfficeKmsHost) -> String {
    format!("{}-redis", host.name_any())
}
