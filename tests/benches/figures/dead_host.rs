//! A licensed host is killed under load: what its clients notice.
//!
//! All requests come from one address, so all of them go to one host: it is that one which dies, at the worst of all times
//! for all of them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kmsctl::load::Report;
use system_tests::program::HostProcess;

use crate::load::Load;
use crate::site::{Keys, relay};
use crate::table::{Row, median, spread};

const ROUNDS: usize = 5;
/// Whole seconds of load before the host dies, and as many after it.
const BEFORE: u64 = 5;
const LOAD: Load = Load {
    connections: 16,
    seconds: 2 * BEFORE,
    warm_up: 1,
    rate: Some(500),
};

pub(crate) async fn measure() -> Result<Vec<Row>> {
    let (mut ratios, mut failed, mut answered) = (Vec::new(), 0, 0);
    for _ in 0..ROUNDS {
        let report = round().await?;
        failed += report.errors.values().sum::<u64>();
        answered += report.answered;
        ratios.push(worst_after(&report)? / usual_before(&report)?);
    }
    let ratio = median(ratios.clone());
    Ok(vec![
        Row::goal(
            "a licensed host dies under load: requests that fail",
            "0",
            format!("{failed} of {}", answered + failed),
            failed == 0,
        ),
        Row::goal(
            "the same: p99 of the worst second from then on / p99 before",
            "<= 3",
            format!("{ratio:.2} ({})", spread(&ratios, 2)),
            ratio <= 3.0,
        ),
    ])
}

async fn round() -> Result<Report> {
    let keys = Keys::new()?;
    let mut hosts = [keys.rehearsal_host().await?, keys.rehearsal_host().await?];
    let places: Vec<_> = ["one", "two"]
        .into_iter()
        .zip(hosts.iter().map(|host| host.address))
        .collect();
    let relay = relay(&places, "").await?;
    let site_key = keys.site();
    let load = tokio::spawn({
        let (address, site_key) = (relay.address, site_key.clone());
        async move { LOAD.on(address, &site_key).await }
    });
    tokio::time::sleep(Duration::from_secs(LOAD.warm_up + BEFORE)).await;
    busiest(&mut hosts).await?.process.kill()?;
    load.await?
}

/// The host that answers.
async fn busiest(hosts: &mut [HostProcess; 2]) -> Result<&mut HostProcess> {
    let [one, two] = hosts;
    let answered = r#"okms_requests_total{result="answered"}"#;
    let (first, second) = (one.metric(answered).await?, two.metric(answered).await?);
    if first.max(second) < 1.0 {
        bail!("neither host answered anything");
    }
    Ok(if first > second { one } else { two })
}

/// The middle one of the seconds before the death, the last of which may already hold it.
fn usual_before(report: &Report) -> Result<f64> {
    let whole = usize::try_from(BEFORE - 1)?;
    let seconds = report.timeline.get(..whole).context("seconds before")?;
    Ok(median(seconds.iter().map(|second| second.p99_micros as f64).collect()))
}

fn worst_after(report: &Report) -> Result<f64> {
    let from = usize::try_from(BEFORE - 1)?;
    let seconds = report.timeline.get(from..).context("seconds after")?;
    let worst = seconds.iter().map(|second| second.p99_micros).max();
    Ok(worst.context("seconds after")? as f64)
}
