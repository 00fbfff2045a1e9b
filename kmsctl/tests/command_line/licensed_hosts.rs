//! `kmsctl dlv` and `kmsctl phone` as people type them, at rehearsal hosts without a cluster.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kms_host::ledger::MemoryLedger;
use kms_host::rehearsal::RehearsalConfig;
use kms_host::rehearsal::management::{Management, ManagementConfig, serve};
use kms_operator::api::OfficeKmsHost;
use kms_operator::licensing::execute::{Action, carry_out};
use kms_operator::secrets::Objects;
use kmsctl::exit::Exit;
use kmsctl::{dlv, fleet};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use wsman::client::{Client, Credentials, Endpoint, Limits, Scheme, Transport};

use crate::running::KMSCTL;

/// A rehearsal host with a key for Office LTSC 2024 that is not activated; its runtime ends with it.
struct Host {
    runtime: Runtime,
    port: u16,
    files: tempfile::TempDir,
}

impl Host {
    fn start() -> Result<Self> {
        let (runtime, files) = (Runtime::new()?, tempfile::tempdir()?);
        let password = files.path().join("password");
        std::fs::write(&password, "drill\n")?;
        let section = json!({"listen": "127.0.0.1:0", "username": "admin", "passwordFile": password});
        let config: ManagementConfig = serde_json::from_value(section)?;
        let rehearsal = RehearsalConfig::new("/key".into()).validate();
        let rehearsal = rehearsal.ok().context("a configuration")?;
        let management = Arc::new(Management::new(&config, &rehearsal, Arc::new(MemoryLedger::default())));
        let listener = runtime.block_on(TcpListener::bind(config.listen))?;
        let port = listener.local_addr()?.port();
        runtime.spawn(serve(&config, management, listener, CancellationToken::new())?);
        let host = Self { runtime, port, files };
        let endpoint = Endpoint {
            host: "127.0.0.1".into(),
            port,
            transport: Transport::Http,
            scheme: Scheme::Ntlm,
        };
        let credentials = Credentials {
            user: "admin".into(),
            password: "drill".to_owned().into(),
        };
        let client = Client::new(endpoint, credentials, Limits::default())?;
        let key = "REHEARSAL-OFFICELTSC2024-DRILL".to_owned().into();
        let action = Action::InstallKey(&key);
        host.runtime.block_on(carry_out(&client, "10.0.20348.1", &action))?;
        Ok(host)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Runs a command at this host.
    fn kmsctl(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let output = Command::new(KMSCTL)
            .args([
                command,
                "--host",
                &format!("127.0.0.1:{}", self.port),
                "--http",
                "--user",
                "admin",
            ])
            .arg("--password-file")
            .arg(self.file("password"))
            .args(arguments)
            .output()?;
        Ok(output)
    }

    /// What a command prints when it goes well.
    fn told(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let output = self.kmsctl(command, arguments)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn licence(&self) -> Result<Value> {
        let told = self.told("dlv", &["-o", "json"])?;
        let report: Value = serde_json::from_str(&told).with_context(|| told.clone())?;
        let licences = report.pointer("/licences").and_then(Value::as_array);
        Ok(licences.and_then(|all| all.first()).context("a licence")?.clone())
    }
}

fn path(file: &Path) -> Result<&str> {
    file.to_str().context("a path")
}

#[test]
fn the_telephone_is_walked_through_from_the_installation_id_to_licensed() -> Result<()> {
    let host = Host::start()?;
    let product = ["--product", "OfficeLTSC2024"];
    let shown = host.told("phone", &[&product[..], &["--show"]].concat())?;
    let groups: Vec<&str> = shown.lines().filter_map(|line| line.split(": ").nth(1)).collect();
    ensure!(
        groups.len() == 9 && groups.iter().all(|group| group.len() == 7),
        "{shown}"
    );

    // A digit is missing: it is told before anything is sent.
    let typed = host.file("confirmation");
    std::fs::write(&typed, "1".repeat(47))?;
    let with_file = [&product[..], &["--confirmation-id-file", path(&typed)?]].concat();
    let refused = host.kmsctl("phone", &with_file)?;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && errors.contains("47 digits instead of 48"),
        "{errors}"
    );
    assert_eq!(
        host.licence()?["licenseStatus"],
        2,
        "the host was not told, and is in its grace period"
    );

    let voice = host.told("phone", &[&product[..], &["--rehearsal-voice"]].concat())?;
    std::fs::write(&typed, &voice)?;
    let told = host.told("phone", &with_file)?;
    ensure!(
        told.ends_with(&format!("Office LTSC 2024 on 127.0.0.1:{}: Licensed\n", host.port)),
        "{told}"
    );
    ensure!(!told.contains(voice.trim()), "the confirmation ID is not told");
    assert_eq!(host.licence()?["licenseStatus"], 1);
    Ok(())
}

#[test]
fn every_line_of_slmgr_comes_over_the_wire() -> Result<()> {
    let host = Host::start()?;
    let told = host.told("dlv", &[])?;
    let labels: Vec<&str> = told
        .lines()
        .map(|line| line.split(": ").next().unwrap_or_default().trim())
        .collect();
    let expected = [
        "Software licensing service version",
        "Name",
        "Description",
        "Activation ID",
        "Application ID",
        "Extended PID",
        "Product Key Channel",
        "Installation ID",
        "Use License URL",
        "Validation URL",
        "Partial Product Key",
        "License Status",
        "Time remaining",
        "Remaining App rearm count",
        "Remaining SKU rearm count",
        "Trusted time",
        "",
        "Key Management Service is enabled on this machine",
        "Current count",
        "Listening on Port",
        "DNS publishing enabled",
        "KMS priority",
    ];
    assert_eq!(labels.get(..expected.len()), Some(&expected[..]), "{told}");
    let licence = host.licence()?;
    assert_eq!(licence["partialProductKey"], "DRILL");
    assert_eq!(licence["kms"]["port"], 1688);
    Ok(())
}

#[test]
fn one_host_that_is_off_or_without_its_secret_hides_no_other() -> Result<()> {
    let host = Host::start()?;
    let management =
        |port: u16, secret: &str| json!({"transport": "Http", "port": port, "credentialsSecret": {"name": secret}});
    let off = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let resource: OfficeKmsHost = serde_json::from_value(json!({
        "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost", "metadata": {"name": "kms"},
        "spec": {"licensedHosts": [
            {"name": "kms01", "address": "127.0.0.1", "management": management(host.port, "account")},
            {"name": "kms02", "address": "127.0.0.1", "management": management(off, "account")},
            {"name": "kms03", "address": "127.0.0.1", "management": management(off, "another")},
        ]},
    }))?;
    let mut secrets = Objects::default();
    secrets.add_secret(serde_json::from_value(
        json!({"metadata": {"name": "account"}, "stringData": {"username": "admin", "password": "drill"}}),
    )?);
    let report = host.runtime.block_on(async {
        let fleet = fleet::of(&resource, &secrets, None, Duration::from_secs(10)).await?;
        dlv::of(fleet, &[]).await
    })?;
    assert_eq!(report.licences.len(), 1);
    assert_eq!(report.exit(), Exit::Failed);
    let [missing, away] = report.failures.as_slice() else {
        anyhow::bail!("{:?}", report.failures)
    };
    ensure!(
        missing.contains("kms03") && missing.contains("no Secret `another`"),
        "{missing}"
    );
    ensure!(away.contains("kms02") && away.contains("cannot be reached"), "{away}");
    Ok(())
}
