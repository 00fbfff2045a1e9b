//! The `ledger` section of the host's configuration.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::period::Period;
use crate::config::place::SectionProblem;

/// Where the ledger is kept. Exactly one of `memory` and `redis`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LedgerConfig {
    /// In this process's memory: for one replica alone. All is lost when it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryConfig>,
    /// In Redis or Valkey, shared by replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisConfig>,
    /// File with the ledger key of 32 bytes (see [`crate::keyfile`]). Needed with `redis`; without it a ledger in
    /// memory makes a key of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl Default for LedgerConfig {
    /// A ledger in memory.
    fn default() -> Self {
        Self {
            memory: Some(MemoryConfig {}),
            redis: None,
            key_file: None,
        }
    }
}

/// A ledger in memory has no settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MemoryConfig {}

/// A ledger in Redis (6.2 or later) or Valkey.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisConfig {
    /// `host:port` of the server; of the sentinels in sentinel mode; of some nodes in cluster mode. An IPv6 address
    /// stands in brackets.
    pub addresses: Vec<String>,
    /// How the servers are arranged.
    #[serde(default)]
    pub mode: RedisMode,
    /// Needed in sentinel mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<SentinelConfig>,
    /// Logical database; only 0 in cluster mode.
    #[serde(default)]
    pub database: u16,
    /// ACL user; the default user when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password. It is read again for each connection, so a changed password needs no restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Present: connections are encrypted, to sentinels too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Begin of every key, distinct for each resource that shares the Redis: `okms:{namespace/name}:`. The part in
    /// braces is the hash tag that keeps all keys of one resource in one slot of a cluster.
    #[serde(default = "default_key_prefix")]
    pub key_prefix: String,
    /// How long establishing a connection may take, 1ms..=60s.
    #[serde(default = "default_timeout")]
    pub connect_timeout: Period,
    /// How long a response may take, 1ms..=60s.
    #[serde(default = "default_timeout")]
    pub response_timeout: Period,
}

/// How Redis servers are arranged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedisMode {
    /// One server.
    #[default]
    Standalone,
    /// A master with replicas, and sentinels that say which one it is.
    Sentinel,
    /// Redis Cluster.
    Cluster,
}

/// What sentinel mode needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SentinelConfig {
    /// The name under which sentinels watch the master.
    pub master_name: String,
    /// ACL user at the sentinels themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the password at the sentinels themselves; none when they ask for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// TLS to Redis. Certificates are always verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the authorities that may sign the servers' certificates; the system's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Name to look for in the servers' certificates instead of the address's host. Not in cluster mode, where each
    /// node shows a certificate of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// PEM file with our certificate chain, where the servers ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the private key to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl LedgerConfig {
    /// Everything wrong with this section that its types did not catch, all at once.
    pub fn problems(&self) -> Vec<SectionProblem> {
        let mut problems = Vec::new();
        let mut wrong = |path: &str, message: &str, hint: &str| problems.push(SectionProblem::at(path, message, hint));
        match (&self.memory, &self.redis) {
            (Some(_), None) => {}
            (None, Some(redis)) => {
                if self.key_file.is_none() {
                    wrong(
                        "keyFile",
                        "is missing",
                        "replicas that share a Redis must share one ledger key",
                    );
                }
                redis.problems(&mut wrong);
            }
            (Some(_), Some(_)) => wrong("redis", "is given beside `memory`", "keep one of them"),
            (None, None) => wrong("memory", "is missing", "give either `memory: {}` or `redis`"),
        }
        problems
    }
}

impl RedisConfig {
    /// One server at `host:port`, without TLS, user or password.
    #[must_use]
    pub fn standalone(address: String) -> Self {
        Self {
            addresses: vec![address],
            mode: RedisMode::Standalone,
            sentinel: None,
            database: 0,
            username: None,
            password_file: None,
            tls: None,
            key_prefix: default_key_prefix(),
            connect_timeout: default_timeout(),
            response_timeout: default_timeout(),
        }
    }

    fn problems(&self, wrong: &mut impl FnMut(&str, &str, &str)) {
        if self.addresses.is_empty() {
            wrong("redis.addresses", "is empty", "give at least one host:port");
        }
        if self.addresses.iter().any(|address| host_and_port(address).is_none()) {
            wrong(
                "redis.addresses",
                "holds no address",
                "write each as host:port, an IPv6 address in brackets",
            );
        }
        match self.mode {
            RedisMode::Standalone if self.addresses.len() > 1 => {
                wrong(
                    "redis.addresses",
                    "are several",
                    "keep one, or set mode to sentinel or cluster",
                );
            }
            RedisMode::Sentinel if self.sentinel.is_none() => {
                wrong(
                    "redis.sentinel",
                    "is missing",
                    "sentinel mode needs sentinel.masterName",
                );
            }
            RedisMode::Cluster if self.database != 0 => {
                wrong("redis.database", "is not 0", "a cluster has one database only");
            }
            _ => {}
        }
        if self.mode != RedisMode::Sentinel && self.sentinel.is_some() {
            wrong(
                "redis.sentinel",
                "is given in another mode",
                "set mode to sentinel, or leave this out",
            );
        }
        if self.username.is_some() && self.password_file.is_none() {
            wrong("redis.passwordFile", "is missing", "a username needs a password");
        }
        if !has_one_hash_tag(&self.key_prefix) {
            wrong(
                "redis.keyPrefix",
                "has no hash tag",
                "put one part in braces, as in okms:{namespace/name}:",
            );
        }
        for (path, value) in [
            ("redis.connectTimeout", self.connect_timeout),
            ("redis.responseTimeout", self.response_timeout),
        ] {
            if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&value.get()) {
                wrong(path, "is out of range", "from 1ms to 60s is possible");
            }
        }
        if let Some(tls) = &self.tls
            && tls.server_name.is_some()
            && self.mode == RedisMode::Cluster
        {
            wrong(
                "redis.tls.serverName",
                "is given in cluster mode",
                "each node shows a certificate of its own: have the nodes announce the names in them \
                 (cluster-announce-hostname, cluster-preferred-endpoint-type hostname), and leave this out",
            );
        }
        if let Some(tls) = &self.tls
            && tls.certificate_file.is_some() != tls.key_file.is_some()
        {
            wrong(
                "redis.tls",
                "has half a client certificate",
                "certificateFile and keyFile go together",
            );
        }
    }
}

/// Redis hashes what stands between the first `{` and the next `}` if that is not empty ("Redis cluster
/// specification", "Hash tags").
fn has_one_hash_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, rest)| !tag.is_empty() && !tag.contains('{') && !rest.contains(['{', '}']))
}

/// Splits `host:port`; an IPv6 host stands in brackets and loses them.
pub(super) fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|_| v6)?,
        None => host,
    };
    (!host.is_empty() && !host.contains(['[', ']', '/', '@', ' '])).then_some((host, port))
}

fn default_key_prefix() -> String {
    "okms:{default}:".to_owned()
}

fn default_timeout() -> Period {
    Period::seconds(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(yaml: &str) -> Vec<String> {
        let config: LedgerConfig = serde_saphyr::from_str(yaml).unwrap();
        config
            .problems()
            .into_iter()
            .map(|problem| crate::config::place::display_path(&problem.path))
            .collect()
    }

    #[test]
    fn good_sections_have_no_problems() {
        for yaml in [
            "memory: {}",
            "{keyFile: /k, redis: {addresses: ['redis:6379']}}",
            "{keyFile: /k, redis: {addresses: ['[::1]:6379'], tls: {caFile: /ca}, username: u, passwordFile: /p}}",
            "{keyFile: /k, redis: {addresses: ['a:1', 'b:2'], mode: sentinel, sentinel: {masterName: m}}}",
            "{keyFile: /k, redis: {addresses: ['a:1', 'b:2'], mode: cluster, keyPrefix: 'okms:{ns/name}:'}}",
        ] {
            assert_eq!(fields(yaml), Vec::<String>::new(), "{yaml}");
        }
    }

    #[test]
    fn the_documented_section_is_a_good_one() {
        let page = include_str!("../../../docs/ledger.md");
        let (_, yaml) = page.split_once("```yaml\nledger:\n").unwrap();
        let (yaml, _) = yaml.split_once("```").unwrap();
        assert_eq!(fields(yaml), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(fields("{}"), ["memory"]);
        assert_eq!(fields("{memory: {}, redis: {addresses: ['a:1']}}"), ["redis"]);
        assert_eq!(
            fields(
                "redis: {addresses: ['no-port', 'b:2'], username: u, keyPrefix: 'x:{}:', responseTimeout: 0s, \
                 database: 1, sentinel: {masterName: m}, tls: {certificateFile: /c}}"
            ),
            [
                "keyFile",
                "redis.addresses",
                "redis.addresses",
                "redis.sentinel",
                "redis.passwordFile",
                "redis.keyPrefix",
                "redis.responseTimeout",
                "redis.tls",
            ]
        );
        let one_name_for_all = "{keyFile: /k, redis: {addresses: ['a:1'], mode: cluster, tls: {serverName: redis}}}";
        assert_eq!(fields(one_name_for_all), ["redis.tls.serverName"]);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(serde_saphyr::from_str::<LedgerConfig>("{memory: {}, rediss: {}}").is_err());
        assert!(
            serde_saphyr::from_str::<LedgerConfig>("{redis: {addresses: ['a:1'], tls: {insecure: true}}}").is_err()
        );
    }

    #[test]
    fn addresses_split_into_host_and_port() {
        assert_eq!(host_and_port("redis.svc:6379"), Some(("redis.svc", 6379)));
        assert_eq!(host_and_port("[2001:db8::1]:1"), Some(("2001:db8::1", 1)));
        for bad in [
            "redis",
            ":1",
            "redis:",
            "redis:0",
            "redis:70000",
            "[x]:1",
            "user@redis:1",
        ] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }
}
