//! A Kubernetes control plane (etcd and an API server, no nodes) from `KUBEBUILDER_ASSETS`, with its state in a directory of
//! its own and on free loopback ports. As many as are wanted run side by side; dropped, each is killed.
//!
//! Kubernetes' own controllers run only where a test starts those that it is about ([`ControlPlane::control`]): where none
//! runs, the test itself says of a Deployment how far it is.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kube::config::AuthInfo;
use kube::{Client, Config};
use rcgen::{CertificateParams, KeyPair};
use tokio::process::{Child, Command};

/// Directory of the binaries while `KUBEBUILDER_ASSETS` says nothing else.
const ASSETS: &str = "/usr/local/kubebuilder/bin";
/// Token of a user who may do everything, and who may act for any other.
const TOKEN: &str = "whole-system-tests";
/// How long its parts may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running control plane.
pub struct ControlPlane {
    /// How a client reaches it, as a user who may do everything.
    pub config: Config,
    apiserver: Child,
    arguments: Vec<String>,
    _etcd: Child,
    controllers: Option<Child>,
    state: tempfile::TempDir,
}

/// The group of those who may do everything.
pub const MASTERS: &str = "system:masters";

/// A request that changed something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Who sent it.
    pub user: String,
    /// When the API server got it.
    pub at: Timestamp,
    /// `create`, `patch`, `update` or `delete`.
    pub verb: String,
    /// Its path.
    pub uri: String,
    /// The answer.
    pub code: i64,
}

impl Write {
    fn read(line: &str) -> Option<Self> {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |path: &str| event.pointer(path).and_then(|value| value.as_str().map(str::to_owned));
        Some(Self {
            user: text("/impersonatedUser/username").or(text("/user/username"))?,
            at: text("/requestReceivedTimestamp")?.parse().ok()?,
            verb: text("/verb")?,
            uri: text("/requestURI")?,
            code: event.pointer("/responseStatus/code")?.as_i64()?,
        })
    }

    /// Whether it was carried out.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        self.code < 300
    }
}

fn assets() -> PathBuf {
    std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(|| PathBuf::from(ASSETS), PathBuf::from)
}

impl ControlPlane {
    /// Why none can be had here, if so.
    #[must_use]
    pub fn missing() -> Option<String> {
        let there = |program: &str| assets().join(program).exists();
        let all = there("etcd") && there("kube-apiserver");
        (!all).then(|| {
            format!(
                "etcd and kube-apiserver are not in {} (KUBEBUILDER_ASSETS)",
                assets().display()
            )
        })
    }

    /// Starts one and waits until it answers.
    pub async fn start() -> Result<Self> {
        // Somebody else may take a port between its choice and its use.
        let mut last = None;
        for _ in 0..3 {
            match Self::attempt().await {
                Ok(started) => return Ok(started),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("three attempts")?)
    }

    /// A client of it, as a user who may do everything.
    pub fn client(&self) -> Result<Client> {
        Ok(Client::try_from(self.config.clone())?)
    }

    /// How a client reaches it as another user, of these groups and of all that are authenticated.
    #[must_use]
    pub fn config_of(&self, user: &str, groups: &[&str]) -> Config {
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(groups.iter().map(|&group| group.to_owned()).collect());
        config
    }

    /// Where it listens.
    pub fn address(&self) -> Result<SocketAddr> {
        let authority = self.config.cluster_url.authority().context("an address")?;
        Ok(authority.as_str().parse()?)
    }

    /// Writes a kubeconfig for programs, and gives its path.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.write_kubeconfig("kubeconfig", self.address()?, &format!("token: {TOKEN}"))
    }

    /// The same for another user of these groups, who reaches it at `server`.
    pub fn kubeconfig_of(&self, user: &str, groups: &[&str], server: SocketAddr) -> Result<PathBuf> {
        let user_of = format!("token: {TOKEN}, as: '{user}', as-groups: {groups:?}");
        self.write_kubeconfig(&format!("kubeconfig-{user}"), server, &user_of)
    }

    fn write_kubeconfig(&self, name: &str, server: SocketAddr, user: &str) -> Result<PathBuf> {
        let path = self.state.path().join(name);
        let authority = self.state.path().join("tls.crt");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\ncontexts: [{{name: t, context: {{cluster: t, user: t, \
             namespace: default}}}}]\nclusters: [{{name: t, cluster: {{server: 'https://{server}', certificate-authority: \
             {}}}}}]\nusers: [{{name: t, user: {{{user}}}}}]\n",
            authority.display()
        );
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts these of Kubernetes' controllers. Where their program is missing, says so instead.
    pub fn control(&mut self, controllers: &[&str]) -> Result<Option<String>> {
        let program = assets().join("kube-controller-manager");
        if !program.exists() {
            return Ok(Some(format!(
                "kube-controller-manager is not in {} (KUBEBUILDER_ASSETS)",
                assets().display()
            )));
        }
        let kubeconfig = self.kubeconfig_of("controllers", &[MASTERS], self.address()?)?;
        self.controllers = Some(spawn(
            "kube-controller-manager",
            self.state.path(),
            &[
                format!("--kubeconfig={}", kubeconfig.display()),
                format!("--controllers={}", controllers.join(",")),
                "--leader-elect=false".to_owned(),
                "--secure-port=0".to_owned(),
            ],
        )?);
        Ok(None)
    }

    async fn attempt() -> Result<Self> {
        let state = tempfile::tempdir()?;
        let (client, peer, secure) = (free_port()?, free_port()?, free_port()?);
        let etcd = spawn(
            "etcd",
            state.path(),
            &[
                format!("--data-dir={}", state.path().join("etcd").display()),
                format!("--listen-client-urls=http://{client}"),
                format!("--advertise-client-urls=http://{client}"),
                format!("--listen-peer-urls=http://{peer}"),
                format!("--initial-advertise-peer-urls=http://{peer}"),
                format!("--initial-cluster=default=http://{peer}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(names)?.self_signed(&key)?;
        let file = |name: &str, content: &str| -> Result<String> {
            let path = state.path().join(name);
            fs::write(&path, content)?;
            Ok(path.display().to_string())
        };
        let certificate_file = file("tls.crt", &certificate.pem())?;
        let key_file = file("tls.key", &key.serialize_pem())?;
        let accounts = KeyPair::generate()?;
        let accounts_public = file("accounts.pub", &accounts.public_key_pem())?;
        let accounts = file("accounts.key", &accounts.serialize_pem())?;
        let tokens = file("tokens.csv", &format!("{TOKEN},tester,tester,\"system:masters\"\n"))?;
        let audit = "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: \
                     [{level: None, resources: [{group: authorization.k8s.io}]}, \
                     {level: Metadata, verbs: [create, update, patch, delete]}, {level: None}]\n";
        let audit = file("audit.yaml", audit)?;
        let arguments = vec![
            format!("--etcd-servers=http://{client}"),
            format!("--secure-port={}", secure.port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--tls-cert-file={certificate_file}"),
            format!("--tls-private-key-file={key_file}"),
            format!("--token-auth-file={tokens}"),
            format!("--service-account-key-file={accounts_public}"),
            format!("--service-account-signing-key-file={accounts}"),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--audit-policy-file={audit}"),
            format!("--audit-log-path={}", state.path().join("audit.log").display()),
        ];
        let apiserver = spawn("kube-apiserver", state.path(), &arguments)?;
        let mut config = Config::new(format!("https://{secure}").parse()?);
        config.root_cert = Some(vec![certificate.der().to_vec()]);
        config.auth_info = AuthInfo {
            token: Some(TOKEN.to_owned().into()),
            ..AuthInfo::default()
        };
        let mut plane = Self {
            config,
            apiserver,
            arguments,
            _etcd: etcd,
            controllers: None,
            state,
        };
        plane.ready().await?;
        Ok(plane)
    }

    async fn ready(&mut self) -> Result<()> {
        let until = tokio::time::Instant::now() + PATIENCE;
        let probe = self.client()?;
        let log = self.state.path().join("kube-apiserver.log");
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if probe.request_text(request).await.is_ok_and(|answer| answer == "ok") {
                return Ok(());
            }
            if let Some(status) = self.apiserver.try_wait()? {
                bail!("kube-apiserver ended with {status}: {}", tail(&log));
            }
            if tokio::time::Instant::now() > until {
                bail!("kube-apiserver is not ready: {}", tail(&log));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends the API server as a crash would. What it had stored is there after [`ControlPlane::resume`].
    pub async fn interrupt(&mut self) -> Result<()> {
        self.apiserver.kill().await?;
        Ok(())
    }

    /// Starts the API server again, on the same port, and waits until it answers.
    pub async fn resume(&mut self) -> Result<()> {
        self.apiserver = spawn("kube-apiserver", self.state.path(), &self.arguments)?;
        self.ready().await
    }

    /// Every request that changed something, as `verb uri` of the audit log, oldest first.
    pub fn writes(&self) -> Vec<String> {
        let all = self.audit().into_iter();
        all.map(|write| format!("{} {}", write.verb, write.uri)).collect()
    }

    /// The same with who sent it, when, and what came of it.
    pub fn audit(&self) -> Vec<Write> {
        let log = fs::read_to_string(self.state.path().join("audit.log")).unwrap_or_default();
        log.lines().filter_map(Write::read).collect()
    }
}

fn spawn(program: &str, state: &Path, arguments: &[String]) -> Result<Child> {
    let log = fs::File::create(state.join(format!("{program}.log")))?;
    Command::new(assets().join(program))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{program} starts"))
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
