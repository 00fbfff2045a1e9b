//! Memory of a relay with 10,000 clients, each from an address of its own, that are bound, were answered once, and are
//! silent since.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use kmsctl::rehearse::{Rehearsal, Session, machine};
use system_tests::replica::eventually;

use crate::site::{Keys, relay};
use crate::table::Row;

const CLIENTS: u32 = 10_000;
const GOAL_MIB: f64 = 60.0;
const BYTES_IN_MIB: f64 = 1_048_576.0;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn measure() -> Result<Vec<Row>> {
    let files = kms_host::serve::raise_open_files();
    if files < u64::from(CLIENTS) + 100 {
        let why = format!("{files} files may be open here");
        return Ok(vec![Row::skipped(format!("memory with {CLIENTS} idle clients"), why)]);
    }
    let keys = Keys::new()?;
    let upstream = keys.rehearsal_host().await?;
    let relay = relay(&[("host", upstream.address)], "").await?;
    let before = relay.process.resident_bytes()? as f64 / BYTES_IN_MIB;
    let rehearsal = Rehearsal::new(&keys.site(), "OfficeLTSC2024", PATIENCE)?;
    let mut sessions = Vec::new();
    for number in 0..CLIENTS {
        let source = IpAddr::from(Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + number));
        let mut session = rehearsal.open(relay.address, Some(source)).await?;
        rehearsal
            .ask(&machine(&format!("idle{number:05}"))?, &mut session)
            .await?;
        sessions.push(session);
    }
    eventually("all clients are connected", async || {
        let open = relay.metric("okms_open_connections").await;
        open.is_ok_and(|open| open >= f64::from(CLIENTS))
    })
    .await?;
    let with = relay.process.resident_bytes()? as f64 / BYTES_IN_MIB;
    ensure!(sessions.iter().all(Session::is_usable), "all are still connected");
    Ok(vec![Row::goal(
        format!("memory of a relay with {CLIENTS} idle clients"),
        format!("<= {GOAL_MIB} MiB"),
        format!("{with:.1} MiB ({before:.1} MiB before them)"),
        with <= GOAL_MIB,
    )])
}
