//! Settings of a host: what is wanted, what is there, and what to change. Pure.

use serde::{Deserialize, Serialize};

use super::facts::Service;

/// What is wanted; none leaves a setting alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WantedSettings {
    /// Listening port, 1..=65535.
    pub port: Option<u32>,
    /// DNS publishing by the host itself. Off when it is relayed to, so that clients do not pass by the relay.
    pub dns_publishing: Option<bool>,
    /// Low priority.
    pub low_priority: Option<bool>,
    /// Minutes, 15..=43200.
    pub activation_interval: Option<u32>,
    /// Minutes, 15..=43200.
    pub renewal_interval: Option<u32>,
}

/// One difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Listening port.
    Port(u32),
    /// DNS publishing.
    DnsPublishing(bool),
    /// Low priority.
    LowPriority(bool),
    /// Activation interval in minutes.
    ActivationInterval(u32),
    /// Renewal interval in minutes.
    RenewalInterval(u32),
}

impl Setting {
    /// What changing it does, for events.
    pub fn describe(self) -> String {
        match self {
            Self::Port(port) => format!("set the listening port to {port}"),
            Self::DnsPublishing(true) => "turn DNS publishing on".to_owned(),
            Self::DnsPublishing(false) => "turn DNS publishing off, since clients are to ask the relay".to_owned(),
            Self::LowPriority(true) => "set the priority to Low".to_owned(),
            Self::LowPriority(false) => "set the priority to Normal".to_owned(),
            Self::ActivationInterval(minutes) => format!("set the activation interval to {minutes} minutes"),
            Self::RenewalInterval(minutes) => format!("set the renewal interval to {minutes} minutes"),
        }
    }
}

/// What is to be changed so that a host is as wanted.
pub fn differences(wanted: &WantedSettings, service: &Service) -> Vec<Setting> {
    let differs = |wanted: Option<u32>, found: Option<u32>| wanted.filter(|_| wanted != found);
    [
        differs(wanted.port, Some(service.port)).map(Setting::Port),
        wanted
            .dns_publishing
            .filter(|&on| on != service.dns_publishing)
            .map(Setting::DnsPublishing),
        wanted
            .low_priority
            .filter(|&low| low != service.low_priority)
            .map(Setting::LowPriority),
        differs(wanted.activation_interval, service.activation_interval).map(Setting::ActivationInterval),
        differs(wanted.renewal_interval, service.renewal_interval).map(Setting::RenewalInterval),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What to add to the message after a change: it takes effect only when the service starts anew, which can cost the
/// host its count, so that is left to people ("Tools to manage volume activation of Office"; "Plan for volume
/// activation").
pub const AFTER_RESTART: &str =
    "it takes effect when the service Software Protection restarts; a restart can cost the host its count";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_and_is_wanted_is_changed() {
        let found = Service {
            port: 1688,
            dns_publishing: true,
            activation_interval: Some(120),
            ..Service::default()
        };
        let wanted = WantedSettings {
            port: Some(1688),
            dns_publishing: Some(false),
            activation_interval: Some(60),
            ..WantedSettings::default()
        };
        let changes = differences(&wanted, &found);
        assert_eq!(
            changes,
            [Setting::DnsPublishing(false), Setting::ActivationInterval(60)]
        );
        assert!(differences(&WantedSettings::default(), &found).is_empty());
    }
}
