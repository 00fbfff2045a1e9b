//! The one mapping from the API to the configuration of a replica.
//!
//! On Kubernetes and in `kmsctl up` the same spec gives the same configuration; only the [`Place`] differs: where files
//! are, and on which addresses a replica listens.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use kms_host::config::{
    ADMIN_PORT, AdminConfig, ClientsConfig, HealthConfig, HostConfig, InterfaceConfig, KMS_PORT, LicensedHostConfig,
    LimitsConfig, LogConfig, LogFormat, Period, PoolConfig, ProxyProtocolConfig, RelayConfig, RelayTimeouts,
    WhenNoHost,
};
use kms_host::ledger::LedgerConfig;
use kms_host::ledger::config as ledger;
use kms_host::rehearsal::RehearsalConfig;
use kms_host::rehearsal::management::ManagementConfig;
use kms_host::rehearsal::management::config::OperatingSystem;
use kms_host::rehearsal::products::ProductConfig;
use kms_host::routing::config::DEFAULT_REQUIRED_COUNT;
use kms_host::routing::{MixedProductSets, RoutingConfig};
use kube::ResourceExt as _;

use super::drain;
use super::names;
use super::references::files;
use crate::api::status::HostProductStatus;
use crate::api::{
    ClientLimits, ClientsSpec, LicensedHost, NoHostAnswer, OfficeKmsHost, OfficeKmsHostSpec, ProductName, RedisLedger,
    RedisMode, RehearsalSpec,
};

/// Port of WS-Management of rehearsal hosts: HTTP with sealed messages.
pub const MANAGEMENT_PORT: u16 = 5985;

/// TCP port of Redis.
pub const REDIS_PORT: u16 = 6379;

/// Where a replica runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where it finds secrets and certificates.
    pub files: Files,
    /// Addresses for clients.
    pub listen: Vec<SocketAddr>,
    /// Address of the admin endpoint.
    pub admin: SocketAddr,
    /// Address of a rehearsal host's WS-Management.
    pub management: SocketAddr,
    /// `host:port` of the managed ledger.
    pub managed_ledger: String,
    /// Form of the log's lines.
    pub log: LogFormat,
}

/// Files of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Ledger key.
    pub ledger_key: PathBuf,
    /// Site key of a rehearsal host.
    pub site_key: PathBuf,
    /// Password of Redis.
    pub redis_password: PathBuf,
    /// Password of the Sentinels.
    pub sentinel_password: PathBuf,
    /// Authorities that may have signed the certificate of Redis.
    pub redis_ca: PathBuf,
    /// User name of a rehearsal host's WS-Management.
    pub management_username: PathBuf,
    /// Its password.
    pub management_password: PathBuf,
}

impl Files {
    /// All files under their usual names in one directory.
    #[must_use]
    pub fn within(directory: impl Into<PathBuf>) -> Self {
        let directory = directory.into();
        Self {
            ledger_key: directory.join(files::LEDGER_KEY),
            site_key: directory.join(files::SITE_KEY),
            redis_password: directory.join(files::REDIS_PASSWORD),
            sentinel_password: directory.join(files::SENTINEL_PASSWORD),
            redis_ca: directory.join(files::REDIS_CA),
            management_username: directory.join(files::MANAGEMENT_USERNAME),
            management_password: directory.join(files::MANAGEMENT_PASSWORD),
        }
    }
}

impl Place {
    /// A pod: every address of both families, secrets under `/etc/officekms/secrets`.
    #[must_use]
    pub fn pod(host: &OfficeKmsHost) -> Self {
        let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let namespace = host.namespace().unwrap_or_default();
        Self {
            files: Files::within(super::SECRETS_DIRECTORY),
            listen: vec![everywhere(KMS_PORT)],
            admin: everywhere(ADMIN_PORT),
            management: everywhere(MANAGEMENT_PORT),
            managed_ledger: format!("{}.{namespace}.svc:{REDIS_PORT}", names::redis(host)),
            log: LogFormat::Json,
        }
    }
}

/// The configuration of a replica of `host` at `place`.
///
/// A spec that [`crate::validate`] passes gives a configuration that kms-host reads without a problem. Of another spec,
/// what has no meaning (a network that is none, a number that is out of range) is left out or at its default.
#[must_use]
pub fn host_config(host: &OfficeKmsHost, place: &Place) -> HostConfig {
    let spec = &host.spec;
    HostConfig {
        name: host.name_any(),
        relay: spec.licensed_hosts.as_ref().map(|hosts| relay(host, hosts)),
        rehearsal: spec
            .rehearsal
            .as_ref()
            .map(|rehearsal| self::rehearsal(host, rehearsal, place)),
        listen: place.listen.clone(),
        admin: AdminConfig { listen: place.admin },
        clients: clients(spec.clients.as_ref()),
        ledger: ledger(host, place),
        routing: routing(spec),
        drain_grace_period: Period::seconds(drain::seconds(spec).drain),
        log: LogConfig {
            format: place.log,
            ..LogConfig::default()
        },
    }
}

fn relay(host: &OfficeKmsHost, hosts: &[LicensedHost]) -> RelayConfig {
    let wanted = product_names(&host.spec);
    let rows = host.status.iter().flat_map(|status| &status.licensed_hosts);
    let carried = |licensed: &LicensedHost| {
        let row = rows.clone().find(|row| row.name == licensed.name);
        let lacks = |name: &ProductName| {
            row.is_some_and(|row| {
                row.products
                    .iter()
                    .any(|product| product.name == name.as_str() && is_lacking(product))
            })
        };
        let carried = wanted
            .iter()
            .filter(|name| !lacks(name))
            .map(|name| name.as_str().to_owned());
        carried.collect::<Vec<_>>()
    };
    let mut licensed_hosts: Vec<LicensedHostConfig> = hosts
        .iter()
        .map(|licensed| LicensedHostConfig {
            name: licensed.name.clone(),
            address: licensed.address.clone(),
            port: port(licensed.port),
            weight: u32::try_from(licensed.weight).unwrap_or(1),
            products: carried(licensed),
            facts: None,
        })
        .collect();
    let routing = host.spec.routing.clone().unwrap_or_default();
    if !routing.accept_unequal_hosts {
        // Relays take the products of the first host as those to serve: hosts that carry all of the spec's go in front.
        licensed_hosts.sort_by_key(|licensed| wanted.len() - licensed.products.len());
    }
    // A relay would take an empty list for "what the others carry".
    for licensed in &mut licensed_hosts {
        if licensed.products.is_empty() {
            licensed.products.push("none".to_owned());
        }
    }
    RelayConfig {
        licensed_hosts,
        interface: InterfaceConfig::default(),
        timeouts: RelayTimeouts::default(),
        pool: PoolConfig::default(),
        health: HealthConfig::default(),
        when_no_host: match routing.no_host {
            NoHostAnswer::Close => WhenNoHost::Close,
            NoHostAnswer::Fault => WhenNoHost::Fault,
        },
    }
}

/// Whether the host was read and has no activated host key for the product, so that a client would be told 0xC004F042 or
/// 0xC004F041. A key that is activated serves, be it the spec's or not.
fn is_lacking(product: &HostProductStatus) -> bool {
    match product.license_status.as_deref() {
        Some("Unlicensed" | "InitialGrace" | "Notification") => true,
        Some(_) => false,
        None => matches!(
            product.step.as_deref(),
            Some("InstallPack" | "UpgradeSystem" | "InstallKey")
        ),
    }
}

/// Products of the spec. None listed: Office LTSC 2024.
fn product_names(spec: &OfficeKmsHostSpec) -> Vec<ProductName> {
    match spec.products.as_deref() {
        None | Some([]) => vec![ProductName::OfficeLtsc2024],
        Some(products) => products.iter().map(|product| product.name).collect(),
    }
}

fn rehearsal(host: &OfficeKmsHost, rehearsal: &RehearsalSpec, place: &Place) -> RehearsalConfig {
    let management = rehearsal.management_secret.as_ref().map(|_| ManagementConfig {
        listen: place.management,
        username: None,
        username_file: Some(place.files.management_username.clone()),
        password_file: place.files.management_password.clone(),
        certificate_file: None,
        key_file: None,
        starts_licensed: false,
        settings_after_restart: false,
        missing_packs: Vec::new(),
        operating_system: OperatingSystem::default(),
    });
    let product = |name: ProductName| ProductConfig {
        name: name.as_str().to_owned(),
        id: None,
        application: None,
        required_count: None,
    };
    RehearsalConfig {
        host_name: host.name_any(),
        products: product_names(&host.spec).into_iter().map(product).collect(),
        activation_interval_minutes: u32::try_from(rehearsal.activation_interval_minutes).unwrap_or_default(),
        renewal_interval_minutes: u32::try_from(rehearsal.renewal_interval_minutes).unwrap_or_default(),
        management,
        ..RehearsalConfig::new(place.files.site_key.clone())
    }
}

fn clients(spec: Option<&ClientsSpec>) -> ClientsConfig {
    let default = ClientsSpec::default();
    let spec = spec.unwrap_or(&default);
    ClientsConfig {
        allow: networks(&spec.allowed_cidrs),
        deny: networks(&spec.denied_cidrs),
        limits: limits(&spec.limits.clone().unwrap_or_default()),
        proxy_protocol: spec.proxy_protocol.as_ref().map(|proxy| ProxyProtocolConfig {
            trusted: networks(&proxy.trusted_cidrs),
            required: true,
            header_timeout: Period::seconds(5),
        }),
    }
}

fn networks(cidrs: &[String]) -> Vec<IpNet> {
    cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

fn limits(limits: &ClientLimits) -> LimitsConfig {
    let number = |value: i32| u32::try_from(value).unwrap_or(1);
    let period = |seconds: i32| Period::seconds(u64::try_from(seconds).unwrap_or(1));
    LimitsConfig {
        connections: number(limits.connections),
        connections_per_source: number(limits.connections_per_source),
        requests_per_minute_per_source: number(limits.requests_per_minute),
        handshake_timeout: period(limits.handshake_timeout_seconds),
        idle_timeout: period(limits.idle_timeout_seconds),
        request_timeout: period(limits.request_timeout_seconds),
        ..LimitsConfig::default()
    }
}

fn routing(spec: &OfficeKmsHostSpec) -> RoutingConfig {
    let routing = spec.routing.clone().unwrap_or_default();
    let required = product_names(spec).into_iter().map(ProductName::required_count).max();
    RoutingConfig {
        // Below the usual count, what the hosts report decides.
        required_count: required.filter(|required| *required > DEFAULT_REQUIRED_COUNT),
        active_hosts: routing.active_hosts.and_then(|active| u32::try_from(active).ok()),
        mixed_product_sets: if routing.accept_unequal_hosts {
            MixedProductSets::Accept
        } else {
            MixedProductSets::Refuse
        },
        ..RoutingConfig::default()
    }
}

fn ledger(host: &OfficeKmsHost, place: &Place) -> LedgerConfig {
    let spec = host.spec.ledger.clone().unwrap_or_default();
    let redis = match (&spec.memory, &spec.redis) {
        (Some(_), _) => {
            return LedgerConfig {
                memory: Some(ledger::MemoryConfig {}),
                redis: None,
                key_file: spec.key_secret.as_ref().map(|_| place.files.ledger_key.clone()),
            };
        }
        (None, Some(redis)) => own_redis(host, redis, place),
        (None, None) => ledger::RedisConfig {
            password_file: Some(place.files.redis_password.clone()),
            ..redis_at(host, vec![place.managed_ledger.clone()])
        },
    };
    LedgerConfig {
        memory: None,
        redis: Some(redis),
        key_file: Some(place.files.ledger_key.clone()),
    }
}

fn own_redis(host: &OfficeKmsHost, redis: &RedisLedger, place: &Place) -> ledger::RedisConfig {
    let files = &place.files;
    ledger::RedisConfig {
        mode: match redis.mode {
            RedisMode::Standalone => ledger::RedisMode::Standalone,
            RedisMode::Sentinel => ledger::RedisMode::Sentinel,
            RedisMode::Cluster => ledger::RedisMode::Cluster,
        },
        sentinel: redis.sentinel.as_ref().map(|sentinel| ledger::SentinelConfig {
            master_name: sentinel.master_name.clone(),
            username: None,
            password_file: sentinel
                .password_secret
                .as_ref()
                .map(|_| files.sentinel_password.clone()),
        }),
        database: u16::try_from(redis.database).unwrap_or_default(),
        username: redis.username.clone(),
        password_file: redis.password_secret.as_ref().map(|_| files.redis_password.clone()),
        tls: redis.tls.as_ref().map(|tls| ledger::TlsConfig {
            ca_file: tls.ca_bundle.as_ref().map(|_| files.redis_ca.clone()),
            server_name: None,
            certificate_file: None,
            key_file: None,
        }),
        ..redis_at(host, redis.addresses.clone())
    }
}

/// One Redis may serve several resources: each has keys of its own, in one slot of a cluster.
fn redis_at(host: &OfficeKmsHost, addresses: Vec<String>) -> ledger::RedisConfig {
    ledger::RedisConfig {
        addresses,
        mode: ledger::RedisMode::Standalone,
        sentinel: None,
        database: 0,
        username: None,
        password_file: None,
        tls: None,
        key_prefix: format!("okms:{{{}/{}}}:", host.namespace().unwrap_or_default(), host.name_any()),
        connect_timeout: Period::seconds(1),
        response_timeout: Period::seconds(1),
    }
}

fn port(port: i32) -> u16 {
    u16::try_from(port).unwrap_or(KMS_PORT)
}

#[cfg(test)]
mod tests;
