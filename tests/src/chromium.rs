//! A real browser without a window.

use std::path::Path;
use std::process::Command;

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

/// Loads `url` and returns the document as it was rendered; a picture of it is written to `picture`.
pub fn look(browser: &str, url: &str, picture: &Path) -> Result<String> {
    let profile = tempfile::tempdir()?;
    let run = |last: &str| -> Result<Vec<u8>> {
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
            .args(["--window-size=1200,1250", "--timeout=4000"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args([last, url])
            .output()
            .context("the browser runs")?;
        Ok(output.stdout)
    };
    run(&format!("--screenshot={}", picture.display()))?;
    Ok(String::from_utf8_lossy(&run("--dump-dom")?).into_owned())
}
