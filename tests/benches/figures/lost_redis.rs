//! Redis is away for a minute under relay load: whether a request fails, and whether an observation is lost.

use std::time::Duration;

use anyhow::{Context as _, Result};
use system_tests::program::HostProcess;
use system_tests::redis::{RedisServer, missing};
use system_tests::replica::eventually;

use crate::load::Load;
use crate::site::{Keys, relay};
use crate::table::Row;

const AWAY: Duration = Duration::from_secs(60);
const LOAD: Load = Load {
    connections: 16,
    seconds: 80,
    warm_up: 1,
    rate: Some(500),
};

pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = missing() {
        return Ok(vec![Row::skipped("Redis is away for 60 s", why)]);
    }
    let keys = Keys::new()?;
    let mut redis = RedisServer::start(&[])?;
    let upstream = keys.rehearsal_host().await?;
    let relay = relay(
        &[("host", upstream.address)],
        &format!(
            "ledger: {{keyFile: {}, redis: {{addresses: ['{}']}}}}\n",
            keys.ledger().display(),
            redis.address()
        ),
    )
    .await?;
    let load = tokio::spawn({
        let (address, site_key) = (relay.address, keys.site());
        async move { LOAD.on(address, &site_key).await }
    });
    tokio::time::sleep(Duration::from_secs(10)).await;
    redis.kill()?;
    tokio::time::sleep(AWAY).await;
    let waited = observations(&relay, "waiting").await?;
    redis.restart()?;
    let report = load.await??;
    eventually("what waited is written", async || {
        observations(&relay, "waiting").await.is_ok_and(|waiting| waiting == 0)
    })
    .await?;
    let failed: u64 = report.errors.values().sum();
    let asked = relay.metric(r#"okms_requests_total{result="answered"}"#).await?;
    let (written, dropped) = (
        observations(&relay, "written").await?,
        observations(&relay, "dropped").await?,
    );
    let lost = asked - written as f64;
    Ok(vec![
        Row::goal(
            "Redis is away for 60 s under relay load: requests that fail",
            "0",
            format!("{failed} of {}", report.answered + failed),
            failed == 0,
        ),
        Row::goal(
            "the same: observations lost (the queue's bound is 100,000)",
            "0",
            format!("{lost:.0} of {asked:.0}; {waited} waited, {dropped} dropped"),
            lost == 0.0 && dropped == 0 && waited > 0,
        ),
    ])
}

async fn observations(relay: &HostProcess, which: &str) -> Result<u64> {
    let status = relay.status().await?;
    let value = status.pointer(&format!("/ledger/observations/{which}"));
    value
        .and_then(serde_json::Value::as_u64)
        .context("observations in the status")
}
