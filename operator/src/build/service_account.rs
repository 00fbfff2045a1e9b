//! The pods' ServiceAccount: an identity without rights and without a token.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt as _;

use super::common::{Component, metadata};
use crate::api::OfficeKmsHost;

/// The ServiceAccount.
#[must_use]
pub fn build(host: &OfficeKmsHost) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(host, host.name_any(), Component::Host),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
