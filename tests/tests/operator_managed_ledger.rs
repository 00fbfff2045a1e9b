//! The managed ledger as its objects describe it, on a real Redis server without a cluster: it starts from the ConfigMap and
//! the generated Secret, lets nobody in without the password, its probe tells the truth, and a killed server has kept what
//! a replica, configured by the same resource, had told it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use kms_host::ledger::{self, HostFact, Millis};
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::{self, Files, Place, host_config, names};
use serde_json::json;
use system_tests::peer;
use system_tests::redis::{free_port, missing, wait_until};

const NOW: Millis = Millis(1_700_000_000_000);

/// A pod of the StatefulSet as a process.
struct Server {
    directory: PathBuf,
    command: Vec<String>,
    port: u16,
    child: Child,
}

impl Server {
    fn start(directory: &Path, command: &[String], port: u16) -> Result<Self> {
        let program = std::env::var_os("OKMS_TEST_REDIS_SERVER")
            .unwrap_or_else(|| command.first().map_or("", String::as_str).into());
        let configuration = directory.join("config/redis.conf");
        ensure!(
            command.get(1).is_some_and(|path| path.ends_with("config/redis.conf")),
            "{command:?}"
        );
        let child = Command::new(program)
            .arg(&configuration)
            .stdout(Stdio::null())
            .spawn()?;
        let command = command.to_vec();
        let directory = directory.to_owned();
        let server = Self {
            directory,
            command,
            port,
            child,
        };
        wait_until("the server's probe passes", || server.probe(true).unwrap_or(false))?;
        Ok(server)
    }

    /// The readiness probe, with or without the password in its environment.
    fn probe(&self, with_password: bool) -> Result<bool> {
        let mut probe = Command::new("redis-cli");
        probe
            .args(["-p", &self.port.to_string(), "-e", "ping"])
            .env_remove("REDISCLI_AUTH");
        if with_password {
            probe.env(
                "REDISCLI_AUTH",
                fs::read_to_string(self.directory.join("secrets/redis-password"))?,
            );
        }
        Ok(probe.stdout(Stdio::null()).stderr(Stdio::null()).status()?.success())
    }

    /// As a node that loses power to the pod, and a new pod on the same volume.
    fn killed_and_back(mut self) -> Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        Self::start(&self.directory.clone(), &self.command.clone(), self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes what the kubelet would mount, and gives the container's command.
fn mount(host: &OfficeKmsHost, directory: &Path, port: u16) -> Result<Vec<String>> {
    for name in ["config", "auth", "data", "secrets"] {
        fs::create_dir(directory.join(name))?;
    }
    let here = |name: &str| directory.join(name).display().to_string();
    let mut map = build::redis::config_map(host).data.context("a ConfigMap with data")?;
    let text = map.remove("redis.conf").context("redis.conf")?;
    let text = text
        .replace("port 6379", &format!("port {port}"))
        .replace("dir /data", &format!("dir {}", here("data")))
        .replace("/etc/redis/auth", &here("auth"));
    fs::write(directory.join("config/redis.conf"), text)?;
    let files = Files::within(directory.join("secrets"));
    for wanted in build::secrets::generated(host) {
        let secret = build::secrets::generate(host, &wanted, &mut getrandom::fill)?;
        for (key, value) in secret.data.unwrap_or_default() {
            let path = match key.as_str() {
                names::AUTH_CONF => directory.join("auth").join(&key),
                names::PASSWORD => files.redis_password.clone(),
                _ => files.ledger_key.clone(),
            };
            fs::write(path, value.0)?;
        }
    }
    let set = build::redis::stateful_set(host, &Default::default(), &build::Inputs::unread());
    let pod = set.spec.and_then(|spec| spec.template.spec).context("a pod")?;
    let container = pod.containers.into_iter().next().context("a container")?;
    let probe = container
        .readiness_probe
        .and_then(|probe| probe.exec)
        .and_then(|exec| exec.command);
    assert_eq!(
        probe,
        Some(["redis-cli", "-e", "ping"].map(str::to_owned).into()),
        "the probe that is tried below"
    );
    container.command.context("a command")
}

#[tokio::test]
async fn the_managed_ledger_starts_from_its_objects_and_keeps_what_it_was_told() -> Result<()> {
    if let Some(why) = missing() {
        peer::skipped(
            "the_managed_ledger_starts_from_its_objects_and_keeps_what_it_was_told",
            &why,
        );
        return Ok(());
    }
    let host: OfficeKmsHost = serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": "kms", "namespace": "licensing"},
        "spec": {"licensedHosts": [{"name": "a", "address": "kms-a.example"}]},
    }))?;
    let directory = tempfile::tempdir()?;
    let port = free_port()?;
    let command = mount(&host, directory.path(), port)?;
    let server = Server::start(directory.path(), &command, port)?;
    assert!(!server.probe(false)?, "nobody is let in without the password");

    let place = Place {
        files: Files::within(directory.path().join("secrets")),
        managed_ledger: format!("127.0.0.1:{port}"),
        ..Place::pod(&host)
    };
    let config = host_config(&host, &place);
    let fact = HostFact {
        read_at: NOW,
        current_count: Some(7),
        required_count: Some(5),
        licensed: Some(true),
    };
    let before = ledger::open(&config.ledger)?;
    before.ledger.put_fact("a", &fact).await?;
    let server = server.killed_and_back()?;
    let after = ledger::open(&config.ledger)?;
    let read = after.ledger.routes(Millis(0), NOW).await?;
    assert_eq!(read.facts, [("a".to_owned(), fact)]);
    assert!(server.probe(true)?);
    Ok(())
}
