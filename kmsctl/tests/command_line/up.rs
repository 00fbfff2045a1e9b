//! `kmsctl up` itself: how it ends, and what it refuses.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

use crate::running::{KMSCTL, Up, example, workspace};

fn once(manifest: &Path, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(KMSCTL);
    command.arg("up").arg("-f").arg(manifest).arg("--once").args(arguments);
    Ok(command.output()?)
}

#[test]
fn the_demo_ends_by_itself_with_all_licensed() -> Result<()> {
    let makefile = std::fs::read_to_string(workspace().join("Makefile"))?;
    for (manifest, expected) in [
        ("demo.yaml", "count 4 of 5, not enough clients yet (0xC004F038)"),
        ("licensing.yaml", "kms02 carries its products, activated"),
    ] {
        ensure!(
            makefile.contains(&format!("up -f docs/examples/{manifest} --once")),
            "`make demo` does not show {manifest}"
        );
        let output = once(&example(manifest), &[])?;
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
fn the_demo_ends_with_another_code_while_the_last_clients_are_not_licensed() -> Result<()> {
    let output = once(&example("demo.yaml"), &["--clients", "3"])?;
    let told = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(3), "{told}");
    ensure!(told.ends_with("3 of 3 clients are not licensed.\n"), "{told}");
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
    let asked = up.beside(&["activate"])?;
    let told = String::from_utf8_lossy(&asked.stdout);
    ensure!(
        asked.status.success(),
        "the first goes on with the keys that it has: {told}"
    );
    let pid = rustix::process::Pid::from_child(&up.process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    ensure!(up.process.wait()?.success());
    let (_, record) = (&up.state, up.state.path().join("up.json"));
    ensure!(!record.exists(), "its record is gone");
    let lonely = up.beside(&["activate"])?;
    let told = String::from_utf8(lonely.stderr)?;
    assert_eq!(lonely.status.code(), Some(2), "{told}");
    ensure!(told.contains("start `kmsctl up`"), "{told}");
    Ok(())
}

#[test]
fn one_that_was_killed_leaves_a_record_that_nobody_believes() -> Result<()> {
    let mut up = Up::start(&example("demo.yaml"), &["--clients", "0"])?;
    up.process.kill()?;
    up.process.wait()?;
    ensure!(up.state.path().join("up.json").exists(), "it could not take it away");
    let lonely = up.beside(&["events"])?;
    let told = String::from_utf8(lonely.stderr)?;
    assert_eq!(lonely.status.code(), Some(2), "{told}");
    ensure!(told.contains("start `kmsctl up`"), "{told}");
    Ok(())
}

#[test]
fn a_wrong_manifest_is_told_whole_and_starts_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("wrong.yaml");
    std::fs::write(
        &manifest,
        "kind: OfficeKmsHost\napiVersion: officekms.io/v1alpha1\nmetadata: {name: kms}\n\
         spec: {rehearsal: {}, clients: {allowedCidrs: [ten, eleven]}}\n---\n\
         kind: OfficeKmsHost\napiVersion: officekms.io/v1alpha1\nmetadata: {name: other}\n\
         spec: {rehearsal: {}, replica: 2}\n",
    )?;
    let output = once(&manifest, &[])?;
    let told = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(2), "{told}");
    ensure!(
        told.contains("allowedCidrs[0]")
            && told.contains("allowedCidrs[1]")
            && told.contains("spec.replica: is no field"),
        "{told}"
    );
    Ok(())
}
