//! What the relay does without being asked: probes licensed hosts and closes connections that nobody uses.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Relay;
use super::host::LicensedHost;

/// How often connections are trimmed and due probes begun.
const TICK: Duration = Duration::from_millis(500);

/// Keeps the relay up until `token` is cancelled.
pub async fn upkeep(relay: Arc<Relay>, token: CancellationToken) {
    let mut due: Vec<(Arc<LicensedHost>, Instant)> = Vec::new();
    let mut probes = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = token.cancelled() => return,
        }
        while probes.try_join_next().is_some() {}
        let now = Instant::now();
        let fleet = relay.fleet.load_full();
        due.retain(|(host, _)| fleet.hosts().any(|kept| Arc::ptr_eq(kept, host)));
        for host in fleet.hosts() {
            host.trim(now);
            // The first probe comes at once: it finds what is wrong, and warms the pool, before the first client. So it
            // does after a change, which leaves no connections and may bring another interval.
            if !due.iter().any(|(known, _)| Arc::ptr_eq(known, host)) {
                due.push((Arc::clone(host), now));
            }
        }
        for (host, at) in &mut due {
            let interval = host.probe_interval();
            if !interval.is_zero() && *at <= now {
                *at = now + jittered(interval, rand::random());
                let host = Arc::clone(host);
                probes.spawn(async move { host.probe().await });
            }
        }
    }
}

/// From three quarters of `interval` to five quarters: replicas do not probe in step. `chance` is any random number.
fn jittered(interval: Duration, chance: u32) -> Duration {
    interval.mul_f64(0.75 + f64::from(chance) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_are_spread_over_half_an_interval() {
        let interval = Duration::from_secs(8);
        assert_eq!(jittered(interval, 0), Duration::from_secs(6));
        assert_eq!(jittered(interval, u32::MAX), Duration::from_secs(10));
    }
}
