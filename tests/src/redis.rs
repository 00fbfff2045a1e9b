//! Real Redis servers: alone, behind sentinels, as a cluster; with TLS and ACL users. They end with their values.
//!
//! The environment variable `OKMS_TEST_REDIS_SERVER` names another server program than `redis-server`: an older or newer
//! version, or Valkey's.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// No server takes longer to come up or to agree with others.
const PATIENCE: Duration = Duration::from_secs(60);

/// The ACL user that guarded servers have for each other.
const SERVERS: &str = "servers";

/// Its password.
const SERVERS_PASSWORD: &str = "c0rrecthorse";

/// Why tests with Redis cannot run here, if they cannot.
pub fn missing() -> Option<String> {
    [server_program(), "redis-cli".into()]
        .into_iter()
        .find(|program| {
            Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .status()
                .is_err()
        })
        .map(|program| format!("{} is not installed", program.display()))
}

/// A `redis-server` process on a port of its own, without persistence.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    child: Child,
    dir: TempDir,
    options: Vec<String>,
    guard: Guard,
}

impl RedisServer {
    /// Starts a server with these further lines in its configuration file.
    pub fn start(options: &[&str]) -> Result<Self> {
        with_free_ports(|| Self::start_on(free_port()?, options, &Guard::default()))
    }

    /// Starts a server that speaks TLS only, under a certificate for `127.0.0.1` and `redis.test`.
    pub fn start_with_tls(options: &[&str]) -> Result<Self> {
        with_free_ports(|| Self::start_on(free_port()?, options, &Guard::tls()?))
    }

    /// Starts a server on a port that was free.
    pub fn start_on(port: u16, options: &[&str], guard: &Guard) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let child = spawn(port, &dir, &options, guard)?;
        let mut server = Self {
            port,
            child,
            dir,
            options,
            guard: guard.clone(),
        };
        server.wait_until_up()?;
        Ok(server)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A directory that lives as long as the server.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The PEM file with the authority that signed the server's certificate.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.guard.tls.as_ref().map(|tls| tls.file("ca.pem"))
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts a killed server anew on the same port: empty, unless its options have it keep what it was given.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.child = spawn(self.port, &self.dir, &self.options, &self.guard)?;
        self.wait_until_up()
    }

    /// What `redis-cli` prints for a command.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let mut cli = self.guard.cli();
        cli.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        let output = cli.args(args).output().context("redis-cli")?;
        let printed = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !output.status.success() {
            bail!(
                "redis-cli {args:?}: {printed}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(printed)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        wait_until("redis-server answers or gives up", || {
            self.answers() || !matches!(self.child.try_wait(), Ok(None))
        })?;
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = std::fs::read_to_string(self.dir.path().join("redis.log")).unwrap_or_default();
                bail!("redis-server on port {} ended with {status}: {log}", self.port)
            }
        }
    }

    fn answers(&self) -> bool {
        match &self.guard.tls {
            Some(_) => self
                .cli(&["PING"])
                .is_ok_and(|pong| pong.contains("PONG") || pong.contains("NOAUTH")),
            None => ping(self.port).is_ok(),
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _gone = self.kill();
    }
}

/// A master, a replica and three sentinels that watch them.
#[derive(Debug)]
pub struct Sentinels {
    /// The data servers; the first is the master at first.
    pub data: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl Sentinels {
    /// The name under which the sentinels know the master.
    pub const MASTER_NAME: &str = "ledger";

    /// Starts all and waits until they know each other.
    pub fn start() -> Result<Self> {
        Self::start_guarded(&Guard::default(), &Guard::default())
    }

    /// The same, with the data servers and the sentinels guarded so.
    pub fn start_guarded(data: &Guard, sentinels: &Guard) -> Result<Self> {
        let start = |options: &[&str], guard| with_free_ports(|| RedisServer::start_on(free_port()?, options, guard));
        let master = start(&[], data)?;
        let follow = format!("replicaof 127.0.0.1 {}", master.port);
        let replica = start(&[&follow], data)?;
        let name = Self::MASTER_NAME;
        let mut watch = vec![
            format!("sentinel monitor {name} 127.0.0.1 {} 2", master.port),
            format!("sentinel down-after-milliseconds {name} 500"),
            format!("sentinel failover-timeout {name} 3000"),
        ];
        if !data.users.is_empty() {
            watch.push(format!("sentinel auth-user {name} {SERVERS}"));
            watch.push(format!("sentinel auth-pass {name} {SERVERS_PASSWORD}"));
        }
        let watch: Vec<&str> = watch.iter().map(String::as_str).collect();
        let sentinels = (0..3).map(|_| start(&watch, sentinels)).collect::<Result<Vec<_>>>()?;
        let started = Self {
            data: vec![master, replica],
            sentinels,
        };
        wait_until("the replica follows", || {
            started.data.iter().all(|server| {
                server
                    .cli(&["INFO", "replication"])
                    .is_ok_and(|info| info.contains("connected_slaves:1") || info.contains("master_link_status:up"))
            })
        })?;
        wait_until("each sentinel knows the others and the replica", || {
            started.sentinels.iter().all(|sentinel| {
                sentinel.cli(&["SENTINEL", "MASTER", name]).is_ok_and(|known| {
                    let value = |key: &str| {
                        let mut lines = known.lines().skip_while(|line| *line != key);
                        lines.nth(1).map(str::to_owned)
                    };
                    value("num-other-sentinels").as_deref() == Some("2") && value("num-slaves").as_deref() == Some("1")
                })
            })
        })?;
        Ok(started)
    }

    /// Has the sentinels make the replica the master while the old master lives.
    pub fn fail_over(&self) -> Result<()> {
        let sentinel = self.sentinels.first().context("a sentinel")?;
        sentinel.cli(&["SENTINEL", "FAILOVER", Self::MASTER_NAME]).map(drop)
    }

    /// Addresses of the sentinels.
    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(RedisServer::address).collect()
    }
}

/// A cluster of three masters.
#[derive(Debug)]
pub struct Cluster {
    /// Its nodes.
    pub nodes: Vec<RedisServer>,
}

impl Cluster {
    /// Starts the nodes and has `redis-cli` make them a cluster.
    pub fn start() -> Result<Self> {
        Self::start_guarded(&Guard::default())
    }

    /// The same, with the nodes guarded so.
    pub fn start_guarded(guard: &Guard) -> Result<Self> {
        let node = || {
            let options = ["cluster-enabled yes", "cluster-node-timeout 2000"];
            RedisServer::start_on(free_port_of_a_node()?, &options, guard)
        };
        let cluster = Self {
            nodes: (0..3).map(|_| with_free_ports(node)).collect::<Result<_>>()?,
        };
        let mut create = guard.cli();
        create
            .args(["--cluster", "create"])
            .args(cluster.addresses())
            .arg("--cluster-yes");
        let output = create.output().context("redis-cli --cluster create")?;
        if !output.status.success() {
            bail!(
                "redis-cli --cluster create: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        wait_until("every node sees a whole cluster", || {
            cluster.nodes.iter().all(|node| {
                node.cli(&["CLUSTER", "INFO"])
                    .is_ok_and(|info| info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3"))
            })
        })?;
        Ok(cluster)
    }

    /// Addresses of the nodes.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::address).collect()
    }
}

/// Whom servers let in: everyone, unless told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    tls: Option<Tls>,
    clients_need_certificate: bool,
    users: Vec<String>,
}

impl Guard {
    /// TLS only, under a certificate for `127.0.0.1` and `redis.test`.
    pub fn tls() -> Result<Self> {
        Ok(Self {
            tls: Some(Tls::new()?),
            ..Self::default()
        })
    }

    /// TLS only, and only for those who bring a certificate of the same authority and log in as one of the users of these
    /// ACL lines. The servers have a user of their own for each other.
    pub fn strict(tls: &Tls, users: &[&str]) -> Self {
        Self {
            tls: Some(tls.clone()),
            clients_need_certificate: true,
            users: users.iter().map(|user| (*user).to_owned()).collect(),
        }
    }

    /// A `redis-cli` that is let in.
    fn cli(&self) -> Command {
        let mut cli = Command::new("redis-cli");
        cli.arg("--no-auth-warning");
        if let Some(tls) = &self.tls {
            cli.arg("--tls").arg("--cacert").arg(tls.file("ca.pem"));
            cli.arg("--cert").arg(tls.file("client.pem"));
            cli.arg("--key").arg(tls.file("client.key"));
        }
        if !self.users.is_empty() {
            cli.args(["--user", SERVERS, "--pass", SERVERS_PASSWORD]);
        }
        cli
    }

    /// Lines of a server's configuration.
    fn lines(&self, port: u16, sentinel: bool) -> Vec<String> {
        let mut lines = match &self.tls {
            None => vec![format!("port {port}")],
            Some(tls) => vec![
                "port 0".to_owned(),
                format!("tls-port {port}"),
                "tls-replication yes".to_owned(),
                "tls-cluster yes".to_owned(),
                format!(
                    "tls-auth-clients {}",
                    if self.clients_need_certificate { "yes" } else { "no" }
                ),
                format!("tls-ca-cert-file {}", tls.file("ca.pem").display()),
                format!("tls-cert-file {}", tls.file("server.pem").display()),
                format!("tls-key-file {}", tls.file("server.key").display()),
            ],
        };
        if self.users.is_empty() {
            return lines;
        }
        lines.push("user default off".to_owned());
        lines.push(format!(
            "user {SERVERS} on >{SERVERS_PASSWORD} allkeys allchannels allcommands"
        ));
        lines.extend(self.users.iter().cloned());
        let [user, password] = match sentinel {
            true => ["sentinel sentinel-user", "sentinel sentinel-pass"],
            false => ["masteruser", "masterauth"],
        };
        lines.extend([format!("{user} {SERVERS}"), format!("{password} {SERVERS_PASSWORD}")]);
        lines
    }
}

/// An authority and certificates under it for a server and a client, in files that go with the last clone.
#[derive(Debug, Clone)]
pub struct Tls(Arc<TempDir>);

impl Tls {
    /// Makes both.
    pub fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "authority of this test");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
        std::fs::write(dir.path().join("ca.pem"), authority.pem())?;
        for (whose, names) in [
            ("server", &["127.0.0.1", "redis.test"][..]),
            ("client", &["replica.test"]),
        ] {
            let key = KeyPair::generate()?;
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let certificate = CertificateParams::new(names)?.signed_by(&key, &authority)?;
            std::fs::write(dir.path().join(format!("{whose}.pem")), certificate.pem())?;
            std::fs::write(dir.path().join(format!("{whose}.key")), key.serialize_pem())?;
        }
        Ok(Self(Arc::new(dir)))
    }

    /// `ca.pem`, or `.pem` and `.key` of `server` and `client`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

/// Tries again when another process took a port between our finding it free and the server's binding it.
fn with_free_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    (0..5).find_map(|_| start().ok()).map_or_else(start, Ok)
}

fn server_program() -> PathBuf {
    std::env::var_os("OKMS_TEST_REDIS_SERVER").map_or("redis-server".into(), PathBuf::from)
}

/// A port of 127.0.0.1 that was free just now.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A port that was free together with the one 10,000 above it, where a cluster's node listens for the others.
fn free_port_of_a_node() -> Result<u16> {
    let bus_is_free = |port: &u16| {
        let bus = port.checked_add(10_000);
        bus.is_some_and(|bus| TcpListener::bind((Ipv4Addr::LOCALHOST, bus)).is_ok())
    };
    let mut ports = (0..100).filter_map(|_| free_port().ok());
    ports.find(bus_is_free).context("no port is free for a cluster's node")
}

/// Waits for a condition, and fails when it does not come.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn spawn(port: u16, dir: &TempDir, options: &[String], guard: &Guard) -> Result<Child> {
    let file = dir.path().join("redis.conf");
    let mut lines = vec![
        "bind 127.0.0.1".to_owned(),
        format!("dir {}", dir.path().display()),
        "logfile redis.log".to_owned(),
        "save \"\"".to_owned(),
        "rdbcompression no".to_owned(),
        "repl-diskless-sync-delay 0".to_owned(),
    ];
    let sentinel = options.iter().any(|option| option.starts_with("sentinel "));
    if sentinel {
        // A sentinel knows nothing of replication.
        lines.retain(|line| !line.starts_with("save") && !line.starts_with("r"));
    }
    lines.extend(guard.lines(port, sentinel));
    lines.extend(options.iter().cloned());
    std::fs::write(&file, lines.join("\n"))?;
    let mut server = Command::new(server_program());
    server.arg(&file).args(sentinel.then_some("--sentinel"));
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    server.spawn().context("redis-server")
}

/// Whether something that speaks Redis' protocol answers, whatever it says.
fn ping(port: u16) -> std::io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    if matches!(first, [b'+' | b'-']) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::InvalidData.into())
    }
}
