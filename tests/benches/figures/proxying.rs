//! Requests per second and latency of a relay against HAProxy, one new connection for each request, in front of the same
//! host.
//!
//! Latency is compared where both are asked as often, below what either can carry. At full load each side waits for its own
//! number of requests on the same two cores, and the tail tells more of the scheduler than of the relay; it is told beside.

use anyhow::Result;
use system_tests::haproxy::HaProxy;

use crate::load::Load;
use crate::site::{Keys, relay};
use crate::table::{Row, median, spread};

const ROUNDS: usize = 5;
const FULL: Load = Load {
    connections: 16,
    seconds: 4,
    warm_up: 1,
    rate: None,
};
const STEADY: Load = Load {
    rate: Some(5000),
    ..FULL
};

/// What one side showed in every round.
#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    /// Milliseconds at full load.
    full: Vec<f64>,
    /// Milliseconds at the rate that both can carry.
    steady: Vec<f64>,
}

pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = HaProxy::missing() {
        return Ok(vec![Row::skipped("relay against HAProxy", why)]);
    }
    let keys = Keys::new()?;
    let upstream = keys.rehearsal_host().await?;
    let haproxy = HaProxy::before(upstream.address).await?;
    let relay = relay(&[("host", upstream.address)], "").await?;
    let mut sides = [Side::default(), Side::default(), Side::default()];
    for _ in 0..ROUNDS {
        for (side, address) in sides.iter_mut().zip([haproxy.address, relay.address, upstream.address]) {
            let report = FULL.without_errors(address, &keys.site()).await?;
            side.rates.push(report.requests_per_second);
            side.full.push(report.latency.p99_micros as f64 / 1000.0);
            let report = STEADY.without_errors(address, &keys.site()).await?;
            side.steady.push(report.latency.p99_micros as f64 / 1000.0);
        }
    }
    let ratio = |of: fn(&Side) -> &Vec<f64>| -> Vec<f64> {
        let [haproxy, relay, _] = &sides;
        of(relay)
            .iter()
            .zip(of(haproxy))
            .map(|(ours, theirs)| ours / theirs)
            .collect()
    };
    let (rates, latencies) = (ratio(|side| &side.rates), ratio(|side| &side.steady));
    let (rate, latency) = (median(rates.clone()), median(latencies.clone()));
    let mut rows = vec![
        Row::goal(
            "relay / HAProxy, one connection per request: requests/s",
            ">= 1.5",
            format!("{rate:.2} ({})", spread(&rates, 2)),
            rate >= 1.5,
        ),
        Row::goal(
            "the same at 5,000 requests/s: p99 of latency",
            "<= 0.7",
            format!("{latency:.2} ({})", spread(&latencies, 2)),
            latency <= 0.7,
        ),
    ];
    let names = [
        format!("HAProxy {}", HaProxy::version()?),
        "relay".to_owned(),
        "the host itself".to_owned(),
    ];
    for (name, side) in names.into_iter().zip(sides) {
        rows.push(Row::beside(
            format!("{name}: requests/s, p99 at full load, p99 at 5,000/s"),
            format!(
                "{:.0}/s, {:.1} ms, {:.1} ms",
                median(side.rates),
                median(side.full),
                median(side.steady)
            ),
        ));
    }
    Ok(rows)
}
