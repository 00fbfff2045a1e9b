//! README.md: what it lets people type works, and what it shows is what they see.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::running::{Up, workspace};

fn readme() -> Result<String> {
    Ok(fs::read_to_string(workspace().join("README.md"))?)
}

/// The lines of all fenced blocks of a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}");
    let (mut within, mut lines) = (false, Vec::new());
    for line in page.lines() {
        if line.starts_with("```") {
            within = line == fence;
        } else if within {
            lines.push(line);
        }
    }
    lines
}

/// The words of a command without what stands behind `#`.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace()
        .take_while(|word| !word.starts_with('#'))
        .collect()
}

/// A line of the demo without the replica that happened to answer.
fn whoever_answered(line: &str) -> Vec<&str> {
    line.split_whitespace().filter(|word| !word.contains("kms-")).collect()
}

#[test]
fn each_command_works_beside_the_demo_which_prints_what_is_shown() -> Result<()> {
    let page = readme()?;
    let mut commands = blocks(&page, "sh")
        .into_iter()
        .map(words)
        .filter(|words| words.first() == Some(&"kmsctl"));
    let first = commands.next().context("commands")?;
    let ["kmsctl", "up", "-f", manifest, more @ ..] = first.as_slice() else {
        anyhow::bail!("the others need `kmsctl up` before them, not {first:?}");
    };
    let up = Up::start(&workspace().join(manifest), more)?;
    let told: Vec<_> = up.told.lines().map(whoever_answered).collect();
    let shown = blocks(&page, "text");
    ensure!(!shown.is_empty(), "the demo is shown");
    for line in shown {
        ensure!(
            told.contains(&whoever_answered(line)),
            "`{line}` is not in:\n{}",
            up.told
        );
    }

    let record: Value = serde_json::from_str(&fs::read_to_string(up.state.path().join("up.json"))?)?;
    let replicas = record["replicas"].as_array().context("replicas")?;
    let relay = replicas
        .iter()
        .find(|replica| replica["relays"] == true)
        .context("a relay")?;
    let relay = relay["clients"].as_str().context("an address")?;
    let mut count = 0;
    for words in commands {
        // Another test may have the usual port.
        let here = |word: &&str| {
            if *word == "127.0.0.1:1688" {
                relay.to_owned()
            } else {
                (*word).to_owned()
            }
        };
        let arguments: Vec<String> = words.iter().skip(1).map(here).collect();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = up.beside(&arguments)?;
        let (out, error) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
        ensure!(output.status.success() && !out.is_empty(), "{words:?}: {out}{error}");
        count += 1;
    }
    ensure!(count > 3, "only {count} commands are shown");
    Ok(())
}

#[test]
fn each_target_of_make_and_each_page_is_there() -> Result<()> {
    let page = readme()?;
    let makefile = fs::read_to_string(workspace().join("Makefile"))?;
    for line in blocks(&page, "sh") {
        if let ["make", target, ..] = words(line).as_slice() {
            ensure!(makefile.contains(&format!("\n{target}:")), "make {target}");
        }
    }
    for link in page.split("](").skip(1) {
        let (target, _) = link.split_once(')').context("a link")?;
        let file: PathBuf = target.split('#').next().unwrap_or_default().into();
        ensure!(target.contains("://") || workspace().join(&file).exists(), "{target}");
    }
    Ok(())
}
