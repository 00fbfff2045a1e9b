//! Sizes of the binaries in the images, as `make images` tells them.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use system_tests::helm::workspace;

use crate::table::Row;

const GOAL_MIB: f64 = 15.0;

pub(crate) fn measure() -> Result<Vec<Row>> {
    let output = Command::new(workspace().join("scripts/images")).output()?;
    ensure!(
        output.status.success(),
        "scripts/images: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut rows = Vec::new();
    for line in printed.lines().skip(1) {
        let mut words = line.split_whitespace();
        let name = words.next().context("a name")?;
        let mib: f64 = words.next().context("a size")?.parse()?;
        rows.push(Row::goal(
            format!("static binary of {name}"),
            format!("<= {GOAL_MIB} MiB"),
            format!("{mib:.2} MiB"),
            mib <= GOAL_MIB,
        ));
    }
    ensure!(!rows.is_empty(), "scripts/images told no size: {printed}");
    Ok(rows)
}
