//! Every command finds what `kmsctl up` runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::running::{KMSCTL, Up, example};

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
    assert_eq!(
        found["order"][0]["owners"][0], "local",
        "its records are marked: {found}"
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
fn events_are_followed_until_nobody_reads_them() -> Result<()> {
    let up = Up::start(&example("demo.yaml"), &["--clients", "0"])?;
    let mut follow = Command::new(KMSCTL)
        .args(["events", "--follow"])
        .env("OFFICEKMS_STATE_DIR", up.state.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    up.beside(&["activate", "--count", "1"])?;
    let mut first = String::new();
    BufReader::new(follow.stdout.take().context("output")?).read_line(&mut first)?;
    ensure!(first.contains("pc01"), "{first}");
    // No event comes any more, and it ends all the same.
    let begun = Instant::now();
    while follow.try_wait()?.is_none() {
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "it goes on though nobody reads"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = follow.wait_with_output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!((told.as_ref(), output.status.code()), ("", Some(0)));
    Ok(())
}
