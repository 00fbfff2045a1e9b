//! The figures of docs/performance.md, measured anew and printed as one table. `make bench` runs them all; `make
//! bench ONLY="proxying idle"` those alone.
//!
//! Both sides of a ratio run in turns on the same machine against the same servers, as processes of their own, unless a
//! figure's own module says otherwise. A figure whose servers can't be had here is told as skipped.

mod dead_host;
mod distance;
mod idle;
mod images;
mod load;
mod lost_redis;
mod objects;
mod proxying;
mod rehearsal_on_redis;
mod routing;
mod simulation;
mod site;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use table::Row;

const FIGURES: [&str; 10] = [
    "proxying",
    "distance",
    "routing",
    "simulation",
    "idle",
    "rehearsal_on_redis",
    "dead_host",
    "lost_redis",
    "objects",
    "images",
];

#[tokio::main]
async fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let Some(unknown) = wanted.iter().find(|name| !FIGURES.contains(&name.as_str())) {
        eprintln!("no figure is called `{unknown}`: {}", FIGURES.join(", "));
        return ExitCode::from(2);
    }
    let (mut rows, mut failed) = (Vec::new(), false);
    for name in FIGURES {
        if !wanted.is_empty() && !wanted.iter().any(|one| one == name) {
            continue;
        }
        eprintln!("measuring: {name}");
        match measure(name).await {
            Ok(measured) => {
                table::print(&measured);
                rows.extend(measured);
            }
            Err(error) => {
                eprintln!("{name} could not be measured: {error:#}");
                failed = true;
            }
        }
    }
    println!("\nAll figures:\n");
    table::print(&rows);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn measure(name: &str) -> Result<Vec<Row>> {
    match name {
        "proxying" => proxying::measure().await,
        "distance" => distance::measure().await,
        "routing" => routing::measure().await,
        "simulation" => simulation::measure(),
        "idle" => idle::measure().await,
        "rehearsal_on_redis" => rehearsal_on_redis::measure().await,
        "dead_host" => dead_host::measure().await,
        "lost_redis" => lost_redis::measure().await,
        "objects" => objects::measure().await,
        _ => images::measure(),
    }
}
