//! Establishes connections: standalone, by sentinels, cluster.
//!
//! Everything that may change while we run (password, certificates) is read anew for each connection.

use std::{net::SocketAddr, time::Duration};

use redis::{
    Arg, AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisError, RedisFuture, RedisResult, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClientBuilder,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr},
    io::AsyncDNSResolver,
};
use secrecy::{ExposeSecret, SecretString};

use super::files::{certificates, read_password};
use super::version::refuse_an_old_server;
use crate::ledger::config::{RedisConfig, RedisMode, SentinelConfig, host_and_port};

/// Attempts of one request within a cluster: redirections and waits for a fail-over count.
const CLUSTER_RETRIES: u32 = 4;

/// A connection that many callers share; cloning is cheap.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster {
        connection: ClusterConnection,
        /// The slot of all our keys.
        slot: Slot,
    },
}

/// Commands without a key that a cluster would be asked everywhere. They concern us only where our keys are, and a node
/// that holds nothing of ours may be away.
const KEYLESS: [&[u8]; 4] = [b"PING", b"SCRIPT", b"HELLO", b"INFO"];

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster { connection, slot } => match cmd.args_iter().next() {
                Some(Arg::Simple(name)) if KEYLESS.contains(&name) => {
                    let ours = SingleNodeRoutingInfo::SpecificNode(Route::with_slot(*slot, SlotAddr::Master));
                    Box::pin(connection.route_command(cmd.clone(), RoutingInfo::SingleNode(ours)))
                }
                _ => connection.req_packed_command(cmd),
            },
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster { connection, .. } => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster { connection, .. } => connection.get_db(),
        }
    }
}

/// Makes connections as the configuration says.
#[derive(Debug)]
pub(super) struct Connector {
    config: RedisConfig,
    /// The password that last let us in.
    worked: Option<SecretString>,
}

impl Connector {
    pub(super) fn new(config: RedisConfig) -> Self {
        Self { config, worked: None }
    }

    /// One attempt, of bounded length. Tries the password that the file holds now, then the one that worked before: in
    /// a rotation either may be the one that the server takes.
    pub(super) async fn connect(&mut self) -> RedisResult<Connection> {
        let refused = match read_password(self.config.password_file.as_deref()) {
            Ok(now) => match self.attempt(now.as_ref()).await {
                Ok(connection) => {
                    self.worked = now;
                    return Ok(connection);
                }
                Err(refused) if is_same(now.as_ref(), self.worked.as_ref()) => return Err(refused),
                Err(refused) => refused,
            },
            // It may be written at this moment.
            Err(unreadable) => unreadable,
        };
        match &self.worked {
            Some(before) => self.attempt(Some(before)).await.map_err(|_| refused),
            None => Err(refused),
        }
    }

    async fn attempt(&self, password: Option<&SecretString>) -> RedisResult<Connection> {
        let RedisConfig {
            addresses,
            connect_timeout,
            ..
        } = &self.config;
        let each = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_add(1);
        let patience = connect_timeout.get().saturating_mul(each);
        let attempt = async {
            let mut connection = match (self.config.mode, &self.config.sentinel) {
                (RedisMode::Standalone, _) => self.single(self.first_address()?, password).await?,
                (RedisMode::Sentinel, Some(sentinel)) => self.by_sentinels(sentinel, password).await?,
                (RedisMode::Sentinel, None) => return Err(misconfigured("sentinel mode without a master's name")),
                (RedisMode::Cluster, _) => self.cluster(password).await?,
            };
            redis::cmd("PING").query_async::<Value>(&mut connection).await?;
            refuse_an_old_server(&mut connection).await?;
            Ok(connection)
        };
        tokio::time::timeout(patience, attempt)
            .await
            .unwrap_or_else(|_| Err(timed_out(patience)))
    }

    fn first_address(&self) -> RedisResult<(&str, u16)> {
        let first = self.config.addresses.first().and_then(|address| host_and_port(address));
        first.ok_or_else(|| misconfigured("no address"))
    }

    async fn single(&self, address: (&str, u16), password: Option<&SecretString>) -> RedisResult<Connection> {
        let login = login(self.config.username.as_deref(), password).set_db(self.config.database.into());
        Ok(Connection::Single(self.dial(address, login).await?))
    }

    /// Asks each sentinel in turn for the master, and takes a server for it only if it says itself that it is one: a
    /// sentinel that was cut off tells an old one (Redis documentation, "Guidelines for Redis clients with support for
    /// Redis Sentinel").
    async fn by_sentinels(
        &self,
        sentinel: &SentinelConfig,
        password: Option<&SecretString>,
    ) -> RedisResult<Connection> {
        let sentinel_password = read_password(sentinel.password_file.as_deref())?;
        let mut last = misconfigured("no address");
        for address in self
            .config
            .addresses
            .iter()
            .filter_map(|address| host_and_port(address))
        {
            let login = login(sentinel.username.as_deref(), sentinel_password.as_ref());
            match self.by_sentinel(address, login, &sentinel.master_name, password).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn by_sentinel(
        &self,
        address: (&str, u16),
        login: RedisConnectionInfo,
        master_name: &str,
        password: Option<&SecretString>,
    ) -> RedisResult<Connection> {
        let mut sentinel = self.dial(address, login).await?;
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(master_name);
        let Some((host, port)) = asked.query_async::<Option<(String, u16)>>(&mut sentinel).await? else {
            let kind = ErrorKind::MasterNameNotFoundBySentinel;
            return Err((
                kind,
                "the sentinels watch no master of this name",
                master_name.to_owned(),
            )
                .into());
        };
        let mut connection = self.single((&host, port), password).await?;
        match redis::cmd("ROLE").query_async(&mut connection).await? {
            Value::Array(role) if matches!(role.first(), Some(Value::BulkString(role)) if role == b"master") => {
                Ok(connection)
            }
            _ => Err((
                ErrorKind::Client,
                "the server that sentinels tell is not the master yet",
                host,
            )
                .into()),
        }
    }

    async fn cluster(&self, password: Option<&SecretString>) -> RedisResult<Connection> {
        let login = login(self.config.username.as_deref(), password);
        let nodes = self
            .config
            .addresses
            .iter()
            .filter_map(|address| host_and_port(address));
        let nodes: Vec<_> = nodes.map(|node| self.info(node, &login)).collect::<RedisResult<_>>()?;
        let mut builder = ClusterClientBuilder::new(nodes)
            .connection_timeout(self.config.connect_timeout.get())
            .response_timeout(self.config.response_timeout.get())
            .retries(CLUSTER_RETRIES);
        if let Some(tls) = &self.config.tls {
            builder = builder.certs(certificates(tls)?);
        }
        Ok(Connection::Cluster {
            connection: builder.build()?.get_async_connection().await?,
            slot: Slot::for_key(&self.config.key_prefix),
        })
    }

    async fn dial(&self, address: (&str, u16), login: RedisConnectionInfo) -> RedisResult<MultiplexedConnection> {
        let mut timeouts = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout.get()))
            .set_response_timeout(Some(self.config.response_timeout.get()));
        let info = self.info(address, &login)?;
        let client = match &self.config.tls {
            Some(tls) => {
                if tls.server_name.is_some() {
                    timeouts = timeouts.set_dns_resolver(Elsewhere {
                        host: address.0.to_owned(),
                        port: address.1,
                    });
                }
                Client::build_with_tls(info, certificates(tls)?)?
            }
            None => Client::open(info)?,
        };
        client.get_multiplexed_async_connection_with_config(&timeouts).await
    }

    fn info(&self, (host, port): (&str, u16), login: &RedisConnectionInfo) -> RedisResult<ConnectionInfo> {
        let address = match &self.config.tls {
            Some(tls) => ConnectionAddr::TcpTls {
                // The name alone is looked for; `dial` goes to the address. A cluster's nodes go by their own names.
                host: tls.server_name.as_deref().unwrap_or(host).to_owned(),
                port,
                insecure: false,
                tls_params: None,
            },
            None => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Ok(address.into_connection_info()?.set_redis_settings(login.clone()))
    }
}

/// Dials one address whatever name is looked up: the name is the one that the certificate must show.
struct Elsewhere {
    host: String,
    port: u16,
}

impl AsyncDNSResolver for Elsewhere {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _name: &'b str,
        _port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port))
                .await
                .map_err(RedisError::from)?;
            Ok(Box::new(found) as Box<dyn Iterator<Item = SocketAddr> + Send + 'a>)
        })
    }
}

/// Whether both are there and the same.
fn is_same(one: Option<&SecretString>, other: Option<&SecretString>) -> bool {
    one.zip(other)
        .is_some_and(|(one, other)| one.expose_secret() == other.expose_secret())
}

/// The library's name is not sent: that would need one more right of the ACL user.
fn login(username: Option<&str>, password: Option<&SecretString>) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(username) = username {
        login = login.set_username(username);
    }
    if let Some(password) = password {
        login = login.set_password(password.expose_secret());
    }
    login
}

fn misconfigured(what: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, what).into()
}

fn timed_out(patience: Duration) -> RedisError {
    std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("no connection within {patience:?}"),
    )
    .into()
}
