//! The checks, one function for each section of the spec.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Found, address_problem, are_everything, networks};
use crate::api::{OfficeKmsHostSpec, Product, ProductName, RedisLedger, RedisMode, ServiceType};

pub(super) fn role(spec: &OfficeKmsHostSpec, found: &mut Found) {
    match (&spec.licensed_hosts, &spec.rehearsal) {
        (None, None) => found.add(
            "spec.licensedHosts",
            "is missing: list your licensed KMS hosts, or set `rehearsal: {}` for a stand-in in tests",
        ),
        (Some(_), Some(_)) => found.add(
            "spec.rehearsal",
            "is set beside licensedHosts: a resource is a relay or a rehearsal host, remove one of the two",
        ),
        _ => {}
    }
}

pub(super) fn licensed_hosts(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let Some(hosts) = &spec.licensed_hosts else { return };
    if hosts.is_empty() {
        found.add("spec.licensedHosts", "is empty: list at least one licensed KMS host");
    }
    let (mut names, mut targets) = (BTreeMap::new(), BTreeMap::new());
    for (at, host) in hosts.iter().enumerate() {
        let field = |name: &str| format!("spec.licensedHosts[{at}].{name}");
        if let Some(first) = names.insert(&host.name, at) {
            found.add(
                field("name"),
                format!(
                    "`{}` is the name of spec.licensedHosts[{first}] too: give each host its own",
                    host.name
                ),
            );
        }
        if let Some(problem) = address_problem(&host.address) {
            found.add(field("address"), problem);
        }
        let target = (host.address.trim_end_matches('.').to_ascii_lowercase(), host.port);
        if let Some(first) = targets.insert(target, at) {
            let message = format!(
                "{}:{} is spec.licensedHosts[{first}] too: a host that is listed twice is still one host with one count; use `weight` to give it more clients",
                host.address, host.port
            );
            found.add(field("address"), message);
        }
        if let Some(address) = host
            .management
            .as_ref()
            .and_then(|management| management.address.as_ref())
            && let Some(problem) = address_problem(address)
        {
            found.add(field("management.address"), problem);
        }
    }
}

pub(super) fn products(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let windows = |product: &&Product| matches!(product.name, ProductName::Windows | ProductName::WindowsServer);
    let mut keys = spec
        .products
        .iter()
        .flatten()
        .enumerate()
        .filter(|(_, product)| windows(product))
        .filter_map(|(at, product)| Some((at, product.host_key_secret.as_ref()?)));
    if let (Some((_, first)), Some((at, second))) = (keys.next(), keys.next())
        && first != second
    {
        found.add(
            format!("spec.products[{at}].hostKeySecret"),
            "`Windows` and `WindowsServer` are one licence of a host, with one key: name the same for both, or for one only",
        );
    }
    let mut names = BTreeMap::new();
    for (at, product) in spec.products.iter().flatten().enumerate() {
        let (field, name) = (format!("spec.products[{at}].name"), product.name.as_str());
        if let Some(first) = names.insert(product.name, at) {
            found.add(
                field.clone(),
                format!("`{name}` is spec.products[{first}] too: remove one of them"),
            );
        }
        if windows(&product) && spec.rehearsal.is_some() {
            found.add(
                field,
                format!("`{name}` can't be rehearsed: rehearsal hosts answer for Office products, remove it"),
            );
        }
    }
}

pub(super) fn clients(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let Some(clients) = &spec.clients else { return };
    let allowed = networks("spec.clients.allowedCidrs", &clients.allowed_cidrs, found);
    let denied = networks("spec.clients.deniedCidrs", &clients.denied_cidrs, found);
    for (at, network) in allowed {
        if let Some((deny, _)) = denied.iter().find(|(_, denied)| denied.contains(&network)) {
            found.add(
                format!("spec.clients.allowedCidrs[{at}]"),
                format!("{network} lies within spec.clients.deniedCidrs[{deny}], which wins: remove one of them"),
            );
        }
    }
    if let Some(proxy) = &clients.proxy_protocol {
        let field = "spec.clients.proxyProtocol.trustedCidrs";
        let trusted = networks(field, &proxy.trusted_cidrs, found);
        if proxy.trusted_cidrs.is_empty() {
            found.add(
                field,
                "is empty: list the load balancers' networks, or remove proxyProtocol",
            );
        }
        if are_everything(&trusted) {
            found.add(
                field,
                "trusts every address, so that any client could claim to be another: list the load balancers' networks alone",
            );
        }
    }
}

pub(super) fn service(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let Some(service) = &spec.service else { return };
    let field = "spec.service.loadBalancerSourceRanges";
    let given = service.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let ranges = networks(field, given, found);
    if service.type_ == ServiceType::LoadBalancer && !service.accept_public {
        let advice = "a KMS endpoint on the internet activates strangers: list your networks, or set spec.service.acceptPublic to true if something else keeps strangers out";
        if given.is_empty() {
            found.add(field, format!("is missing for a LoadBalancer: {advice}"));
        } else if are_everything(&ranges) {
            found.add(field, format!("is every address: {advice}"));
        }
    }
}

pub(super) fn ledger(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let Some(ledger) = &spec.ledger else { return };
    let kinds = [
        ledger.redis.is_some(),
        ledger.managed.is_some(),
        ledger.memory.is_some(),
    ];
    if kinds.into_iter().filter(|set| *set).count() != 1 {
        found.add(
            "spec.ledger",
            "needs exactly one of redis (your own), managed (a small Redis that the operator runs) and memory (one replica)",
        );
    }
    if ledger.memory.is_some() && (spec.replicas > 1 || spec.autoscaling.is_some()) {
        found.add(
            "spec.ledger.memory",
            "is one replica's own: set spec.replicas to 1 without autoscaling, or use ledger.redis or ledger.managed",
        );
    }
    if let Some(redis) = &ledger.redis {
        self::redis(redis, found);
    }
}

fn redis(redis: &RedisLedger, found: &mut Found) {
    let field = |name: &str| format!("spec.ledger.redis.{name}");
    let mut seen = BTreeMap::new();
    for (at, address) in redis.addresses.iter().enumerate() {
        let field = format!("{}[{at}]", field("addresses"));
        if !is_host_and_port(address) {
            found.add(
                field,
                format!("`{address}` is no address: write host:port, an IPv6 address in brackets"),
            );
        } else if let Some(first) = seen.insert(address.to_ascii_lowercase(), at) {
            found.add(
                field,
                format!("`{address}` is spec.ledger.redis.addresses[{first}] too: remove one of them"),
            );
        }
    }
    match redis.mode {
        RedisMode::Standalone if redis.addresses.len() != 1 => found.add(
            field("addresses"),
            format!(
                "has {} addresses, and mode Standalone takes one: set mode to Sentinel or Cluster",
                redis.addresses.len()
            ),
        ),
        RedisMode::Cluster if redis.database != 0 => {
            found.add(field("database"), "must be 0: a Redis Cluster has one database only");
        }
        RedisMode::Sentinel if redis.sentinel.is_none() => {
            found.add(field("sentinel"), "is missing: mode Sentinel needs sentinel.masterName");
        }
        _ => {}
    }
    if redis.addresses.is_empty() {
        found.add(field("addresses"), "is empty: write at least one host:port");
    }
    if redis.mode != RedisMode::Sentinel && redis.sentinel.is_some() {
        found.add(field("sentinel"), "is for mode Sentinel: set the mode, or remove it");
    }
    if redis.username.is_some() && redis.password_secret.is_none() {
        found.add(field("passwordSecret"), "is missing: an ACL user needs a password");
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_good = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => address_problem(host).is_none() && !host.contains(':'),
    };
    host_is_good && port.parse::<u16>().is_ok_and(|port| port != 0)
}

pub(super) fn rehearsal(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let managed = spec
        .rehearsal
        .as_ref()
        .is_some_and(|rehearsal| rehearsal.management_secret.is_some());
    if managed && (spec.replicas > 1 || spec.autoscaling.is_some()) {
        found.add(
            "spec.rehearsal.managementSecret",
            "makes the replica one Windows host with its own licences: set spec.replicas to 1 without autoscaling",
        );
    }
}

pub(super) fn scaling(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let Some(autoscaling) = &spec.autoscaling else { return };
    if autoscaling.min_replicas > autoscaling.max_replicas {
        found.add(
            "spec.autoscaling.minReplicas",
            "is greater than maxReplicas: exchange them",
        );
    }
    let resources = spec.pod.as_ref().and_then(|pod| pod.resources.as_ref());
    let has_cpu = |list: &Option<BTreeMap<String, _>>| list.as_ref().is_some_and(|list| list.contains_key("cpu"));
    if resources.is_some_and(|resources| !has_cpu(&resources.requests) && !has_cpu(&resources.limits)) {
        found.add(
            "spec.pod.resources.requests",
            "has no cpu, of which the autoscaler holds a percentage: set a CPU request such as 50m",
        );
    }
}

pub(super) fn dns(spec: &OfficeKmsHostSpec, found: &mut Found) {
    let mut names = BTreeMap::new();
    for (at, zone) in spec.dns.iter().flat_map(|dns| &dns.zones).enumerate() {
        let field = |name: &str| format!("spec.dns.zones[{at}].{name}");
        if let Some(first) = names.insert(zone.name.to_ascii_lowercase(), at) {
            found.add(
                field("name"),
                format!(
                    "`{}` is spec.dns.zones[{first}] too, as DNS knows no capitals: remove one of them",
                    zone.name
                ),
            );
        }
        for (index, address) in zone.addresses.iter().enumerate() {
            if address.parse::<IpAddr>().is_err() {
                found.add(
                    field(&format!("addresses[{index}]")),
                    format!("`{address}` is no IP address: write one"),
                );
            }
        }
        let publishers = [
            zone.rfc2136.is_some(),
            zone.dns_endpoint.is_some(),
            zone.windows_dns.is_some(),
            zone.manual.is_some(),
        ];
        if publishers.into_iter().filter(|set| *set).count() != 1 {
            let field = format!("spec.dns.zones[{at}]");
            found.add(
                field,
                "needs exactly one publisher: rfc2136, dnsEndpoint, windowsDns or manual",
            );
        }
    }
}
