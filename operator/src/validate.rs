//! What is wrong with a spec beyond its schema, told all at once. Pure.
//!
//! The CRD's rules refuse most mistakes before they are stored. Here is what they can't see (whether a text is a network,
//! whether two names are the same host, whether networks together are the whole internet), and what they do see but a
//! manifest that never met an API server (`kmsctl render`, `kmsctl up`) has not been asked.

mod sections;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use kms_host::config::load;
use kube::ResourceExt as _;

use crate::api::OfficeKmsHost;
use crate::build::{Place, host_config};

/// Reason of conditions and events about a spec that can't be carried out.
pub const REASON: &str = "InvalidSpec";

/// Longest name of a resource: children add suffixes, and names of Services end at 63.
const LONGEST_NAME: usize = 52;

/// Something wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.licensedHosts[1].address`.
    pub field: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Problem {
    /// A problem with the field at this path.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Everything that is wrong with a spec; at least one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Checks the spec of `host`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check(host: &OfficeKmsHost) -> Result<(), Problems> {
    let mut found = Found::default();
    name(host, &mut found);
    sections::role(&host.spec, &mut found);
    sections::licensed_hosts(&host.spec, &mut found);
    sections::products(&host.spec, &mut found);
    sections::clients(&host.spec, &mut found);
    sections::service(&host.spec, &mut found);
    sections::ledger(&host.spec, &mut found);
    sections::rehearsal(&host.spec, &mut found);
    sections::scaling(&host.spec, &mut found);
    sections::dns(&host.spec, &mut found);
    if found.0.is_empty() {
        configuration(host, &mut found);
    }
    if found.0.is_empty() {
        Ok(())
    } else {
        Err(Problems(found.0))
    }
}

/// What was found so far.
#[derive(Default)]
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(field, message));
    }
}

fn name(host: &OfficeKmsHost, found: &mut Found) {
    let name = host.name_any();
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if !good {
        let message = "becomes the name of a Service: use lower-case letters, digits and '-', beginning with a letter";
        found.add("metadata.name", message);
    } else if name.len() > LONGEST_NAME {
        let message = format!(
            "has {} characters and may have {LONGEST_NAME}: children add suffixes to it",
            name.len()
        );
        found.add("metadata.name", message);
    }
}

/// The last word has who reads the configuration.
fn configuration(host: &OfficeKmsHost, found: &mut Found) {
    let refused = |why: String| format!("replicas would refuse what follows from it: {why}");
    match serde_saphyr::to_string(&host_config(host, &Place::pod(host))) {
        Ok(text) => {
            if let Err(problems) = load(&text, "host.yaml".as_ref()) {
                for problem in problems.list {
                    let path = kms_host::config::display_path(&problem.path);
                    found.add("spec", refused(format!("{path} {}", problem.message)));
                }
            }
        }
        Err(error) => found.add("spec", refused(error.to_string())),
    }
}

/// The networks that `texts` are, each with its index; a problem for each that is none.
fn networks(field: &str, texts: &[String], found: &mut Found) -> Vec<(usize, IpNet)> {
    let mut networks = Vec::new();
    let mut seen: BTreeMap<IpNet, usize> = BTreeMap::new();
    for (at, text) in texts.iter().enumerate() {
        let path = format!("{field}[{at}]");
        match text.parse::<IpNet>() {
            Err(_) => found.add(
                path,
                format!("`{text}` is no network: write one such as 10.0.0.0/8 or fd00::/8"),
            ),
            Ok(network) if network.trunc() != network => {
                let meant = network.trunc();
                found.add(
                    path,
                    format!(
                        "`{text}` has bits behind its length: write {meant}, or {}/{} for the one address",
                        network.addr(),
                        network.max_prefix_len()
                    ),
                );
            }
            Ok(network) => {
                if let Some(first) = seen.insert(network, at) {
                    found.add(
                        path,
                        format!("`{text}` is the same network as {field}[{first}]: remove one of them"),
                    );
                }
                networks.push((at, network));
            }
        }
    }
    networks
}

/// What is wrong with an address that should be an IP address or a DNS name, if anything is.
fn address_problem(address: &str) -> Option<String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
    };
    if address.parse::<IpAddr>().is_ok() {
        return None;
    }
    if let Some((name, port)) = address.rsplit_once(':')
        && port.parse::<u16>().is_ok()
        && !name.contains(':')
    {
        return Some(format!(
            "`{address}` has a port: write `{name}` alone; the port has its own field `port`"
        ));
    }
    let name = address.strip_suffix('.').unwrap_or(address);
    let dotted_number = name
        .split('.')
        .all(|label| !label.is_empty() && label.chars().all(|c| c.is_ascii_digit()));
    let good = name.len() <= 253 && !dotted_number && name.split('.').all(label);
    (!good).then(|| format!("`{address}` is neither an IP address nor a DNS name: write one of them, without a port"))
}

/// Whether `networks` together are all addresses of a family.
fn are_everything(networks: &[(usize, IpNet)]) -> bool {
    let networks: Vec<IpNet> = networks.iter().map(|(_, network)| *network).collect();
    IpNet::aggregate(&networks)
        .iter()
        .any(|network| network.prefix_len() == 0)
}

#[cfg(test)]
mod tests;
