//! The commands as people type them, around one `kmsctl up`.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

const KMSCTL: &str = env!("CARGO_BIN_EXE_kmsctl");

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/examples")
        .join(name)
}

/// A `kmsctl up` that runs until dropped.
struct Up {
    process: Child,
    state: tempfile::TempDir,
    /// What it printed until it was ready.
    told: String,
}

impl Up {
    fn start(manifest: &Path, arguments: &[&str]) -> Result<Self> {
        let state = tempfile::tempdir()?;
        let mut process = Command::new(KMSCTL)
            .arg("up")
            .arg("-f")
            .arg(manifest)
            .arg("--state-dir")
            .arg(state.path())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("output")?).lines();
        let mut told = String::new();
        loop {
            let Some(line) = lines.next().transpose()? else {
                let status = process.wait()?;
                bail!("kmsctl up ended with {status}:\n{told}");
            };
            told += &line;
            told.push('\n');
            if line.starts_with("Running until interrupted") {
                break;
            }
        }
        // The rest is read too, so that it can be written.
        std::thread::spawn(move || lines.count());
        Ok(Self { process, state, told })
    }

    /// Runs another command beside it.
    fn beside(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(KMSCTL);
        command.args(arguments).env("OFFICEKMS_STATE_DIR", self.state.path());
        Ok(command.output()?)
    }

    /// The JSON that another command prints, and its exit code.
    fn json(&self, arguments: &[&str]) -> Result<(Value, Option<i32>)> {
        let output = self.beside(&[arguments, &["-o", "json"]].concat())?;
        let value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok((value, output.status.code()))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_demo_ends_by_itself_with_all_licensed() -> Result<()> {
    for (manifest, expected) in [
        ("demo.yaml", "count 4 of 5, not enough clients yet (0xC004F038)"),
        ("licensing.yaml", "kms02 carries its products, activated"),
    ] {
        let output = Command::new(KMSCTL)
            .arg("up")
            .arg("-f")
            .arg(example(manifest))
            .arg("--once")
            .output()?;
        let told = String::from_utf8(output.stdout)?;
        ensure!(
            output.status.success(),
            "{told}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
        ensure!(told.contains(expected), "{told}");
        ensure!(told.contains("All 6 clients are licensed."), "{told}");
    }
    Ok(())
}

#[test]
fn every_command_finds_what_up_runs() -> Result<()> {
    let up = Up::start(&example("demo.yaml"), &["--clients", "0"])?;
    ensure!(up.told.contains("rehearsal host"), "{}", up.told);

    let (found, code) = up.json(&["discover", "demo.example"])?;
    assert_eq!(
        (found["order"].as_array().map(Vec::len), code),
        (Some(2), Some(0)),
        "{found}"
    );

    let (four, code) = up.json(&["activate", "--count", "4"])?;
    assert_eq!((&four["notEnoughClients"], code), (&Value::from(4), Some(3)), "{four}");
    assert_eq!(four["clients"][3]["hresult"], "0xC004F038", "{four}");
    let (two, code) = up.json(&["activate", "--count", "2", "--first", "5"])?;
    assert_eq!((&two["licensed"], code), (&Value::from(2), Some(0)), "{two}");
    assert_eq!(two["clients"][1]["currentCount"], 6, "{two}");

    let (status, code) = up.json(&["status"])?;
    assert_eq!(code, Some(0), "{status}");
    let replicas = status["replicas"].as_array().context("replicas")?;
    assert_eq!(replicas.len(), 3, "{status}");
    let relay = replicas
        .iter()
        .find(|replica| replica["mode"] == "relay")
        .context("a relay")?;
    assert_eq!(relay["licensedHosts"][0]["health"], "well", "{relay}");
    let table = up.beside(&["status"])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(table.contains("Licensed hosts as kms-0 sees them"), "{table}");

    let (events, code) = up.json(&["events", "--last", "3"])?;
    let events_shown = events.as_array().context("events")?.iter();
    let names: Vec<_> = events_shown.filter_map(|event| event["clientName"].as_str()).collect();
    assert_eq!((names, code), (vec!["pc04", "pc05", "pc06"], Some(0)));

    let address = relay["admin"].as_str().context("an endpoint")?;
    let (route, code) = up.json(&["explain-route", "127.0.0.1", "--admin", address])?;
    assert_eq!(
        (&route["order"][0]["host"], code),
        (&Value::from("stand-in"), Some(0)),
        "{route}"
    );

    let port = found["order"][0]["port"].as_u64().context("a port")?;
    let (probe, code) = up.json(&["probe", &format!("127.0.0.1:{port}")])?;
    assert_eq!(
        (&probe["endpoints"][0]["verdict"], code),
        (&Value::from("answers"), Some(0)),
        "{probe}"
    );
    assert_eq!(
        probe["endpoints"][0]["syntaxes"].as_array().map(Vec::len),
        Some(2),
        "{probe}"
    );
    let (after, _) = up.json(&["events", "--last", "3"])?;
    assert_eq!(after, events, "a probe leaves no event");

    for kept in [&[][..], &["--keep-open"]] {
        let limits = [
            "load",
            "--seconds",
            "1",
            "--warm-up",
            "0",
            "--rate",
            "50",
            "--machines",
            "8",
        ];
        let (load, code) = up.json(&[&limits, kept].concat())?;
        assert_eq!((&load["errors"], code), (&serde_json::json!({}), Some(0)), "{load}");
        ensure!(load["answered"].as_u64() > Some(0), "{load}");
    }
    Ok(())
}

#[test]
fn events_are_followed_as_they_come() -> Result<()> {
    let up = Up::start(&example("demo.yaml"), &["--clients", "0"])?;
    let mut follow = Command::new(KMSCTL)
        .args(["events", "--follow", "-o", "json"])
        .env("OFFICEKMS_STATE_DIR", up.state.path())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(follow.stdout.take().context("output")?).lines();
    let activated = up.beside(&["activate", "--count", "2"])?;
    assert_eq!(activated.status.code(), Some(3));
    let mut seen = Vec::new();
    for line in lines {
        let event: Value = serde_json::from_str(&line?)?;
        seen.push(event["clientName"].as_str().unwrap_or_default().to_owned());
        if seen.len() == 2 {
            break;
        }
    }
    follow.kill()?;
    follow.wait()?;
    assert_eq!(seen, ["pc01", "pc02"]);
    Ok(())
}

#[test]
fn it_stops_when_told_and_a_second_one_is_refused() -> Result<()> {
    let mut up = Up::start(&example("demo.yaml"), &[])?;
    ensure!(up.told.contains("All 6 clients are licensed."), "{}", up.told);
    let second = up.beside(&["up", "-f", example("demo.yaml").to_str().context("a path")?])?;
    let refusal = String::from_utf8(second.stderr)?;
    assert_eq!(second.status.code(), Some(1), "{refusal}");
    ensure!(refusal.contains("runs already"), "{refusal}");
    let pid = rustix::process::Pid::from_child(&up.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    ensure!(up.process.wait()?.success());
    let (_, record) = (&up.state, up.state.path().join("up.json"));
    ensure!(!record.exists(), "its record is gone");
    let lonely = up.beside(&["activate"])?;
    assert_eq!(lonely.status.code(), Some(1));
    Ok(())
}

#[test]
fn a_wrong_manifest_is_told_whole_and_starts_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("wrong.yaml");
    std::fs::write(
        &manifest,
        "kind: OfficeKmsHost\napiVersion: officekms.io/v1alpha1\nmetadata: {name: kms}\n\
         spec: {rehearsal: {}, clients: {allowedCidrs: [ten, eleven]}}\n",
    )?;
    let output = Command::new(KMSCTL).arg("up").arg("-f").arg(&manifest).output()?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{told}");
    ensure!(
        told.contains("allowedCidrs[0]") && told.contains("allowedCidrs[1]"),
        "{told}"
    );
    Ok(())
}
