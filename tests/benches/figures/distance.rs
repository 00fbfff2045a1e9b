//! Latency of a relay against HAProxy with 10 ms to the licensed host and back.
//!
//! The distance is a forwarder in this process: what goes either way arrives 5 ms later, and a new connection carries its
//! first bytes 10 ms later still, since the handshake of TCP makes the way once and back before them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use system_tests::haproxy::HaProxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::load::Load;
use crate::site::{Keys, relay};
use crate::table::{Row, median, spread};

/// From here to the licensed host.
const ONE_WAY: Duration = Duration::from_millis(5);
const ROUNDS: usize = 5;
/// Far below what either side can carry, so that nothing but the distance is measured.
const LOAD: Load = Load {
    connections: 8,
    seconds: 5,
    warm_up: 1,
    rate: Some(100),
};

pub(crate) async fn measure() -> Result<Vec<Row>> {
    if let Some(why) = HaProxy::missing() {
        return Ok(vec![Row::skipped("relay against HAProxy, 10 ms from the host", why)]);
    }
    let keys = Keys::new()?;
    let upstream = keys.rehearsal_host().await?;
    let far = distant(upstream.address).await?;
    let haproxy = HaProxy::before(far).await?;
    let relay = relay(&[("host", far)], "").await?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (side, address) in [(&mut theirs, haproxy.address), (&mut ours, relay.address)] {
            let report = LOAD.without_errors(address, &keys.site()).await?;
            side.push(report.latency.p50_micros as f64 / 1000.0);
        }
    }
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let ratio = median(ratios.clone());
    Ok(vec![
        Row::goal(
            "relay / HAProxy, 10 ms from the licensed host: median latency",
            "<= 0.5",
            format!("{ratio:.2} ({})", spread(&ratios, 2)),
            ratio <= 0.5,
        ),
        Row::beside(
            "HAProxy and relay, 10 ms from the host: median latency",
            format!("{:.1} ms, {:.1} ms", median(theirs), median(ours)),
        ),
    ])
}

/// A place whose every connection leads to `server`, far away.
async fn distant(server: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                sleep(ONE_WAY * 2).await;
                let far = TcpStream::connect(server).await?;
                near.set_nodelay(true)?;
                far.set_nodelay(true)?;
                let (near, far) = (near.into_split(), far.into_split());
                tokio::join!(carry(near.0, far.1), carry(far.0, near.1));
                Ok::<_, std::io::Error>(())
            });
        }
    });
    Ok(address)
}

/// Carries bytes one way, each as long on its way as the others.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let (sender, mut on_the_way) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = from.read(&mut buffer).await {
            let part = buffer.get(..length).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + ONE_WAY, part)).await.is_err() || length == 0 {
                break;
            }
        }
    };
    let write = async move {
        while let Some((at, part)) = on_the_way.recv().await {
            sleep_until(at).await;
            if part.is_empty() || to.write_all(&part).await.is_err() {
                break;
            }
        }
    };
    tokio::join!(read, write);
}
