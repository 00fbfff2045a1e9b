//! What count-aware routing costs a relay, against the configured order of hosts.
//!
//! The processor time for one request is what routing can change; requests per second of a machine that also runs the
//! clients and the host swing by more than the goal from one round to the next, so they are told beside it.

use anyhow::{Result, ensure};
use system_tests::program::HostProcess;
use system_tests::redis::{RedisServer, missing};

use crate::load::Load;
use crate::site::{Keys, relay};
use crate::table::{Row, median, spread};

const ROUNDS: usize = 9;
const LOAD: Load = Load {
    connections: 32,
    seconds: 4,
    warm_up: 1,
    rate: None,
};

#[derive(Default)]
struct Side {
    rates: Vec<f64>,
    micros: Vec<f64>,
}

pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = missing() {
        return Ok(vec![Row::skipped("cost of routing", why)]);
    }
    let keys = Keys::new()?;
    let redis = RedisServer::start(&[])?;
    let upstream = [
        keys.rehearsal_host().await?,
        keys.rehearsal_host().await?,
        keys.rehearsal_host().await?,
    ];
    let hosts: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .zip(upstream.iter().map(|host| host.address))
        .collect();
    let with = async |policy: &str| {
        let more = format!(
            "routing: {{policy: {policy}}}\nledger: {{keyFile: {}, redis: {{addresses: ['{}'], keyPrefix: \
             'okms:{{{policy}}}:'}}}}\n",
            keys.ledger().display(),
            redis.address()
        );
        relay(&hosts, &more).await
    };
    let relays = [with("preference").await?, with("countAware").await?];
    let mut sides = [Side::default(), Side::default()];
    for round in 0..ROUNDS {
        // Which goes first changes, so that neither always has the cooler machine.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            let (Some(relay), Some(side)) = (relays.get(at), sides.get_mut(at)) else {
                continue;
            };
            let (rate, micros) = one(relay, &keys).await?;
            side.rates.push(rate);
            side.micros.push(micros);
        }
    }
    let ratios = |of: fn(&Side) -> &Vec<f64>| -> Vec<f64> {
        let [without, with] = &sides;
        of(with)
            .iter()
            .zip(of(without))
            .map(|(with, without)| with / without)
            .collect()
    };
    let (micros, rates) = (ratios(|side| &side.micros), ratios(|side| &side.rates));
    let (cost, rate) = (median(micros.clone()), median(rates.clone()));
    Ok(vec![
        Row::goal(
            "relay with / without count-aware routing: processor time per request",
            "<= 1.03",
            format!("{cost:.3} ({})", spread(&micros, 3)),
            cost <= 1.03,
        ),
        Row::goal(
            "the same: requests/s",
            ">= 0.97",
            format!("{rate:.3} ({})", spread(&rates, 3)),
            rate >= 0.97,
        ),
    ])
}

/// Requests per second, and microseconds of processor time for each.
async fn one(relay: &HostProcess, keys: &Keys) -> Result<(f64, f64)> {
    let answered = r#"okms_requests_total{result="answered"}"#;
    let (before, used) = (relay.metric(answered).await?, relay.process.processor_seconds()?);
    let report = LOAD.without_errors(relay.address, &keys.site()).await?;
    let requests = relay.metric(answered).await? - before;
    ensure!(requests > 0.0, "the relay answered nothing");
    let micros = (relay.process.processor_seconds()? - used) * 1e6 / requests;
    Ok((report.requests_per_second, micros))
}
