//! The licensed hosts of one configuration.

use std::sync::Arc;
use std::time::Instant;

use super::host::LicensedHost;
use crate::config::{InterfaceConfig, RelayConfig, WhenNoHost};
use crate::metrics::Metrics;
use crate::routing;

/// The licensed hosts of one configuration.
#[derive(Debug)]
pub(super) struct Fleet {
    hosts: Vec<Arc<LicensedHost>>,
    pub(super) when_no_host: WhenNoHost,
    /// Whether the interface is KMS, so that versions and return codes mean something.
    pub(super) kms: bool,
}

impl Fleet {
    /// Builds the fleet; hosts that did not change are taken over from `before`, and of those that are only called in
    /// another way, what is known of them.
    pub(super) fn new(config: &RelayConfig, before: Option<&Self>, metrics: &Metrics) -> Self {
        let hosts = config.licensed_hosts.iter().map(|host| {
            let known = before.and_then(|fleet| fleet.hosts.iter().find(|old| old.is_meant(host, config)));
            match known {
                Some(old) if old.is_called_by(config) => Arc::clone(old),
                Some(old) => Arc::new(old.called_by(host.clone(), config)),
                None => Arc::new(LicensedHost::new(host.clone(), config, metrics.host(&host.name))),
            }
        });
        Self {
            hosts: hosts.collect(),
            when_no_host: config.when_no_host,
            kms: config.interface.uuid == InterfaceConfig::default().uuid,
        }
    }

    /// The host that routing knows at an index. Around a reload routing may know another list than this; then it is
    /// found by its name, or not at all.
    pub(super) fn host(&self, known: &routing::Fleet, at: usize) -> Option<&LicensedHost> {
        let name = known.hosts.get(at).map(|host| host.name.as_str())?;
        let same = |host: &&Arc<LicensedHost>| host.config.name == name;
        self.hosts
            .get(at)
            .filter(same)
            .or_else(|| self.hosts.iter().find(same))
            .map(AsRef::as_ref)
    }

    /// What routing is told of each host's health. A host that waits for its trial counts as well: the next request is
    /// the trial.
    pub(super) fn healths(&self, known: &routing::Fleet) -> impl Fn(usize) -> routing::Health {
        let now = Instant::now();
        move |at| match self.host(known, at).and_then(|host| host.ejected_since(now)) {
            None => routing::Health::Well,
            Some(since) => routing::Health::Ejected {
                lasting: now.saturating_duration_since(since),
            },
        }
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<LicensedHost>> {
        self.hosts.iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.config.name.as_str())
    }
}
