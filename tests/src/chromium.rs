//! A real browser without a window.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};

/// Names under which Chromium is installed.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// The browser's name, if there is one here.
pub fn find() -> Option<&'static str> {
    NAMES.into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

/// What the browser made of a page.
#[derive(Debug)]
pub struct Seen {
    /// The document as it was rendered.
    pub document: String,
    /// What it has to say about the page in its console, such as what the page's own policy forbids it.
    pub complaints: Vec<String>,
}

/// Loads `url`; a picture of it is written to `picture`.
pub fn look(browser: &str, url: &str, picture: &Path) -> Result<Seen> {
    let profile = tempfile::tempdir()?;
    let run = |last: &str| -> Result<Output> {
        let output = Command::new(browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
            ])
            .args([
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--hide-scrollbars",
            ])
            .args(["--window-size=1200,1250", "--timeout=4000", "--enable-logging=stderr"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args([last, url])
            .output()
            .context("the browser runs")?;
        Ok(output)
    };
    run(&format!("--screenshot={}", picture.display()))?;
    let shown = run("--dump-dom")?;
    let log = String::from_utf8_lossy(&shown.stderr).into_owned();
    Ok(Seen {
        document: String::from_utf8_lossy(&shown.stdout).into_owned(),
        complaints: log
            .lines()
            .filter(|line| line.contains(":CONSOLE"))
            .map(str::to_owned)
            .collect(),
    })
}
