//! The licensed hosts of one configuration, and in which order they are asked.

use std::sync::Arc;

use super::host::LicensedHost;
use crate::config::{InterfaceConfig, RelayConfig, WhenNoHost};
use crate::metrics::Metrics;

/// The licensed hosts of one configuration.
#[derive(Debug)]
pub(super) struct Fleet {
    hosts: Vec<Arc<LicensedHost>>,
    pub(super) when_no_host: WhenNoHost,
    /// Whether the interface is KMS, so that versions and return codes mean something.
    pub(super) kms: bool,
}

impl Fleet {
    /// Builds the fleet; hosts that did not change are taken over from `before`.
    pub(super) fn new(config: &RelayConfig, before: Option<&Self>, metrics: &Metrics) -> Self {
        let hosts = config.licensed_hosts.iter().map(|host| {
            let kept = before.and_then(|fleet| fleet.hosts.iter().find(|old| old.serves(host, config)));
            match kept {
                Some(old) => Arc::clone(old),
                None => Arc::new(LicensedHost::new(host.clone(), config, metrics.host(&host.name))),
            }
        });
        let mut hosts: Vec<_> = hosts.collect();
        // Weight 0: only when no other answers. The sort is stable, so the order is otherwise the configured one.
        hosts.sort_by_key(|host| host.config.weight == 0);
        Self {
            hosts,
            when_no_host: config.when_no_host,
            kms: config.interface.uuid == InterfaceConfig::default().uuid,
        }
    }

    /// The hosts in the order in which a request is offered to them.
    pub(super) fn order(&self) -> impl Iterator<Item = &Arc<LicensedHost>> {
        let licensed =
            |host: &&Arc<LicensedHost>| host.config.facts.as_ref().and_then(|fact| fact.licensed) != Some(false);
        self.hosts.iter().filter(licensed)
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<LicensedHost>> {
        self.hosts.iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| host.config.name.as_str())
    }
}
