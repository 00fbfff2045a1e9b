//! Rehearsal hosts as processes of their own on one Redis, and clients that ask them over RPC.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail};
use kms_host::rehearsal::SiteKey;
use kms_host::rehearsal::client::Outcome;
use kms_host::rpc::FaultStatus;
use kms_host::sealing;
use system_tests::program::HostProcess;
use system_tests::redis::{RedisServer, missing};
use system_tests::rehearsal::{Told, ask_at, call_at};
use system_tests::replica::eventually;

const SITE: [u8; 32] = [5; 32];

/// HRESULT of what is no valid data (winerror.h, ERROR_INVALID_DATA).
const INVALID_DATA: u32 = 0x8007_000D;

async fn ask(host: SocketAddr, number: u128) -> Result<Told> {
    ask_at(host, &SiteKey::new(&SITE), number).await
}

/// What the client concludes; a fault is a failure.
async fn outcome(host: SocketAddr, number: u128) -> Result<Outcome> {
    match ask(host, number).await? {
        Told::Concluded(outcome) => Ok(outcome),
        Told::Fault(status) => bail!("client {number} got the fault {status}"),
    }
}

/// The same once the replica has its ledger again.
async fn outcome_at_last(host: SocketAddr, number: u128) -> Result<Outcome> {
    let mut told = None;
    eventually("the replica answers", async || {
        told = ask(host, number).await.ok();
        !matches!(told, None | Some(Told::Fault(_)))
    })
    .await?;
    match told.context("what it told")? {
        Told::Concluded(outcome) => Ok(outcome),
        Told::Fault(status) => bail!("client {number} got the fault {status}"),
    }
}

/// A body as the one of a Microsoft client is from outside: version 6.0 in front, and as long. The rest is dice.
fn like_microsofts() -> Result<Vec<u8>> {
    let mut body = vec![0, 0, 6, 0];
    while body.len() < 260 {
        body.extend(sealing::draw()?);
    }
    Ok(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_count_together_and_never_without_their_redis() -> Result<()> {
    if let Some(why) = missing() {
        println!("SKIPPED three_processes_count_together_and_never_without_their_redis: {why}");
        return Ok(());
    }
    let mut redis = RedisServer::start(&["appendonly yes", "appendfsync always"])?;
    let (site, ledger) = (redis.dir().join("site.key"), redis.dir().join("ledger.key"));
    std::fs::write(&site, SITE)?;
    std::fs::write(&ledger, [7; 32])?;
    let yaml = format!(
        "rehearsal: {{siteKeyFile: {}}}\n\
         ledger: {{keyFile: {}, redis: {{addresses: ['{}'], connectTimeout: 10s, responseTimeout: 10s}}}}\n",
        site.display(),
        ledger.display(),
        redis.address(),
    );
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(HostProcess::start(&yaml).await?);
    }

    // Five clients, each at the next replica.
    for (number, replica) in (1..=5).zip(replicas.iter().cycle()) {
        let outcome = outcome(replica.address, number.into()).await?;
        assert_eq!(outcome.current_count(), Some(number), "client {number}");
        assert_eq!(
            matches!(outcome, Outcome::Licensed(_)),
            number == 5,
            "client {number}: {outcome:?}"
        );
    }

    // What looks like Microsoft's is refused before anything is counted, with nothing in the answer that a client accepts.
    let (first, others) = replicas.split_first().context("replicas")?;
    let refused = call_at(first.address, &like_microsofts()?).await?;
    let Ok(refused) = refused else {
        bail!("a fault: {refused:?}")
    };
    assert_eq!((refused.hresult, refused.body), (INVALID_DATA, None));
    let microsofts = "okms_rehearsal_microsoft_clients_total";
    assert_eq!(first.metric(microsofts).await?, 1.0);
    for other in others {
        assert_eq!(other.metric(microsofts).await?, 0.0);
    }
    assert!(first.log().contains("a Microsoft KMS client reached a rehearsal host"));

    // Without Redis there is no count, so none is told: not to a new client, nor to one that was counted.
    redis.kill()?;
    for replica in &replicas {
        for number in [6, 1] {
            let told = ask(replica.address, number).await?;
            assert_eq!(told, Told::Fault(FaultStatus(0x0000_06BB)), "client {number}");
        }
        assert_eq!(
            replica.metric("okms_rehearsal_requests_total{result=\"busy\"}").await?,
            2.0
        );
    }

    // It comes back with what it had, and who was told to come again was not counted meanwhile.
    redis.restart()?;
    for replica in &replicas {
        let outcome = outcome_at_last(replica.address, 6).await?;
        assert!(
            matches!(&outcome, Outcome::Licensed(response) if response.current_count == 6),
            "{outcome:?}"
        );
    }
    for (number, replica) in (7..=9).zip(&replicas) {
        assert_eq!(
            outcome(replica.address, number.into()).await?.current_count(),
            Some(number)
        );
    }
    Ok(())
}
