//! The operator on a control plane of the test: in this process, or as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kms_operator::api::OfficeKmsHost;
use kms_operator::control::run::{Election, Options, run};
use kms_operator::settings::Settings;
use kube::api::{Patch, PatchParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::discovery::pinned_kind;
use kube::{Api, Client, Config, CustomResourceExt as _, ResourceExt as _};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::kubernetes::ControlPlane;
use crate::program::{Process, free_port, path};
use crate::{http, peer};

/// How long something may take on a slow, busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running operator. Dropped, it is told to stop.
pub struct Operator {
    client: Client,
    token: CancellationToken,
    /// Its probes and metrics.
    pub endpoint: SocketAddr,
    /// How it ended.
    pub ended: JoinHandle<Result<()>>,
    _scratch: tempfile::TempDir,
}

impl Operator {
    /// Starts one; the CRD is there afterwards.
    pub async fn start(cluster: &ControlPlane) -> Result<Self> {
        define(&cluster.client()?).await?;
        Self::start_as(cluster.config.clone(), "test", None)
    }

    /// Starts one that reaches the API server so, and is called so among those that stand for election.
    pub fn start_as(config: Config, instance: &str, election: Option<Election>) -> Result<Self> {
        Self::start_with(config, instance, election, Settings::default())
    }

    /// Starts one that is told something else, such as another version's images.
    pub fn start_with(config: Config, instance: &str, election: Option<Election>, settings: Settings) -> Result<Self> {
        let client = Client::try_from(config.clone())?;
        let scratch = tempfile::tempdir()?;
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let options = Options {
            settings,
            listen: endpoint,
            election,
            workers: 4,
            resync: Duration::from_secs(1),
            replicas_every: Duration::from_secs(60),
            grace: Duration::from_secs(5),
            scratch: scratch.path().to_owned(),
            instance: instance.to_owned(),
        };
        let token = CancellationToken::new();
        let stop = token.clone();
        // A runtime of its own, as a process has.
        let ended = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(run(config, options, stop))
        });
        Ok(Self {
            client,
            token,
            endpoint,
            ended,
            _scratch: scratch,
        })
    }

    /// The value of a metric's sample, as [`http::metric`].
    pub async fn metric(&self, sample: &str) -> Result<f64> {
        http::metric(self.endpoint, sample).await
    }

    /// Applies an object, as `kubectl apply --server-side` does.
    pub async fn apply(&self, object: &Value) -> Result<()> {
        apply(&self.client, object).await
    }

    /// Waits until something is so.
    pub async fn becomes(&self, what: &str, condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        if self.ended.is_finished() {
            bail!("the operator ended while waiting for: {what}");
        }
        becomes(what, condition).await
    }

    /// Stops it, as SIGTERM does.
    pub async fn stop(mut self) -> Result<()> {
        self.token.cancel();
        (&mut self.ended).await?
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.token.cancel();
    }
}

/// An operator as a process of its own. Dropped, it is killed.
pub struct OperatorProcess {
    /// Its probes and metrics.
    pub endpoint: SocketAddr,
    /// The process.
    pub process: Process,
    folder: tempfile::TempDir,
}

impl OperatorProcess {
    /// Starts the program with a kubeconfig, a name among those that stand for election, and more arguments.
    ///
    /// # Errors
    /// When it was not built.
    pub fn start(kubeconfig: &Path, instance: &str, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = Command::new(path("kms-operator")?);
        command
            .env("KUBECONFIG", kubeconfig)
            .args([
                "--instance",
                instance,
                "--lease-namespace",
                "default",
                "--resync-seconds",
                "2",
            ])
            .args(["--listen", &endpoint.to_string()])
            .arg("--scratch-directory")
            .arg(folder.path().join("scratch"))
            .args(arguments);
        let process = Process::start(&mut command, &folder.path().join("log"))?;
        Ok(Self {
            endpoint,
            process,
            folder,
        })
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> Result<bool> {
        Ok(http::get(self.endpoint, "/readyz").await?.0.starts_with("HTTP/1.1 200"))
    }

    /// Whether it says that it leads.
    pub async fn leads(&self) -> Result<bool> {
        Ok(http::metric(self.endpoint, "okms_operator_leader").await? > 0.5)
    }
}

/// A control plane that serves the resource; or none, which is then told.
pub async fn cluster(test: &str) -> Result<Option<ControlPlane>> {
    if let Some(why) = ControlPlane::missing() {
        peer::skipped(test, &why);
        return Ok(None);
    }
    let plane = ControlPlane::start().await?;
    define(&plane.client()?).await?;
    Ok(Some(plane))
}

/// Applies the CRD, and waits until the resource is served.
pub async fn define(client: &Client) -> Result<()> {
    apply(client, &serde_json::to_value(OfficeKmsHost::crd())?).await?;
    let hosts: Api<OfficeKmsHost> = Api::default_namespaced(client.clone());
    becomes("the resource is served", async || {
        Ok(hosts.list(&kube::api::ListParams::default()).await.is_ok())
    })
    .await
}

/// Applies an object, as `kubectl apply --server-side` does.
pub async fn apply(client: &Client, object: &Value) -> Result<()> {
    let object: DynamicObject = serde_json::from_value(object.clone())?;
    let types = object.types.clone().context("a kind")?;
    let (kind, scope) = pinned_kind(client, &GroupVersionKind::try_from(types)?).await?;
    let api: Api<DynamicObject> = match scope.scope {
        kube::discovery::Scope::Cluster => Api::all_with(client.clone(), &kind),
        kube::discovery::Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, &kind)
        }
    };
    let forced = PatchParams::apply("test").force();
    api.patch(&object.name_any(), &forced, &Patch::Apply(&object)).await?;
    Ok(())
}

/// Waits until something is so. An error is an answer that is not so yet.
pub async fn becomes(what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut last = None;
    while Instant::now() < until {
        match condition().await {
            Ok(true) => return Ok(()),
            Ok(false) => last = None,
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    match last {
        Some(error) => Err(error.context(format!("waited in vain for: {what}"))),
        None => bail!("waited in vain for: {what}"),
    }
}
