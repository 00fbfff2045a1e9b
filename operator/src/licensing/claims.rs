//! Which resource manages which host: two that manage the same undo each other's keys and settings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use crate::api::{ManagementMode, OfficeKmsHostSpec, Transport};
use crate::looks::Key;

/// Hosts by the resources that manage them.
#[derive(Debug, Default)]
pub struct Claims(Mutex<BTreeMap<Key, BTreeSet<String>>>);

impl Claims {
    /// Notes what a resource manages; says which of it another resource manages too.
    pub fn claim(&self, key: &Key, spec: &OfficeKmsHostSpec) -> Option<String> {
        let managed = managed(spec);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = all.iter().filter(|(other, _)| *other != key);
        let told = others.find_map(|(other, theirs)| {
            let both = theirs.intersection(&managed).next()?;
            Some(format!(
                "{both} is managed by the resource {}/{} too: two undo each other's keys and settings, let one of them \
                 observe",
                other.namespace, other.name
            ))
        });
        all.insert(key.clone(), managed);
        told
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

/// `ADDRESS:PORT` of each host in `mode: Manage`.
fn managed(spec: &OfficeKmsHostSpec) -> BTreeSet<String> {
    let hosts = spec.licensed_hosts.iter().flatten();
    let managed = hosts.filter_map(|host| {
        let management = host.management.as_ref()?;
        let address = management.address.as_ref().unwrap_or(&host.address);
        let port = management.port.unwrap_or(match management.transport {
            Transport::Https => 5986,
            Transport::Http => 5985,
        });
        let place = format!("{}:{port}", address.trim_end_matches('.').to_ascii_lowercase());
        (management.mode == ManagementMode::Manage).then_some(place)
    });
    managed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OfficeKmsHost;

    fn spec(mode: &str, address: &str) -> OfficeKmsHostSpec {
        let text = format!(
            "{{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {{name: kms}}, spec: {{licensedHosts: [{{name: \
             kms01, address: {address}, management: {{mode: {mode}, credentialsSecret: {{name: account}}}}}}]}}}}"
        );
        serde_saphyr::from_str::<OfficeKmsHost>(&text).unwrap().spec
    }

    fn key(name: &str) -> Key {
        Key {
            namespace: "office".into(),
            name: name.into(),
            uid: name.into(),
        }
    }

    #[test]
    fn a_host_that_two_resources_manage_is_told_to_both() {
        let claims = Claims::default();
        assert_eq!(claims.claim(&key("a"), &spec("Manage", "kms01.example.com")), None);
        assert_eq!(claims.claim(&key("b"), &spec("Observe", "kms01.example.com")), None);
        assert_eq!(claims.claim(&key("c"), &spec("Manage", "kms02.example.com")), None);
        let told = claims.claim(&key("b"), &spec("Manage", "KMS01.example.com.")).unwrap();
        assert!(
            told.starts_with("kms01.example.com:5986 is managed by the resource office/a too"),
            "{told}"
        );
        let told = claims.claim(&key("a"), &spec("Manage", "kms01.example.com")).unwrap();
        assert!(told.contains("office/b"), "{told}");
        claims.forget(&key("b"));
        assert_eq!(claims.claim(&key("a"), &spec("Manage", "kms01.example.com")), None);
    }
}
