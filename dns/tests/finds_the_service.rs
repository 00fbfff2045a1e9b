//! A client's look-up against the embedded server, by UDP and TCP.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use kms_dns::discover::{DiscoverError, Discovery, ResolverSource, Warning, lookup};
use kms_dns::names::{NameError, ZoneName};
use kms_dns::records::{Desired, Endpoint, Mark};
use kms_dns::server::{Server, Sockets, Zone};
use kms_dns::verify::{VerifyError, authorities};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn zone() -> Result<ZoneName, NameError> {
    "corp.example.com".parse()
}

fn records(addresses: u8) -> Result<Zone> {
    let endpoint = Endpoint {
        target: "kms.corp.example.com".parse()?,
        addresses: (0..addresses).map(|last| [127, 0, 0, last + 1].into()).collect(),
        port: 1688,
        priority: 0,
        weight: 100,
    };
    let owner = "c1/kms".parse()?;
    let desired = Desired::new(zone()?, zone()?, owner, 60, &[endpoint])?;
    let marks: Vec<Mark> = desired
        .entries
        .iter()
        .map(|entry| Mark::of(&desired.owner, entry))
        .collect();
    Ok(Zone::new(&zone()?, 60, 1, desired.entries, marks))
}

async fn serve(zone: Zone) -> Result<Server> {
    Ok(Server::start(Sockets::bind(ANY_PORT).await?, zone)?)
}

async fn find(server: SocketAddr) -> Result<Result<Discovery, DiscoverError>> {
    Ok(lookup(&zone()?, &ResolverSource::Servers(vec![server])).await)
}

#[tokio::test]
async fn a_client_finds_the_target_its_address_and_its_owner() -> Result<()> {
    let server = serve(records(1)?).await?;
    let found = find(server.address()).await??;
    assert_eq!(found.warnings, []);
    let candidate = &found.candidates[0];
    assert_eq!(
        candidate.sockets().collect::<Vec<_>>(),
        [SocketAddr::from(([127, 0, 0, 1], 1688))]
    );
    assert_eq!(candidate.owners, ["c1/kms"]);
    server.stop().await;
    Ok(())
}

#[tokio::test]
async fn truncated_answers_are_asked_for_again_by_tcp() -> Result<()> {
    let server = serve(records(60)?).await?;
    let found = find(server.address()).await??;
    assert_eq!(found.candidates[0].addresses.len(), 60);
    Ok(())
}

#[tokio::test]
async fn records_can_be_replaced_and_a_zone_may_be_empty() -> Result<()> {
    let server = serve(Zone::new(&zone()?, 60, 1, [], [])).await?;
    let before = find(server.address()).await??;
    assert!(matches!(before.warnings[..], [Warning::NoRecords { .. }]));
    server.replace(records(1)?);
    assert!(find(server.address()).await??.is_usable());
    Ok(())
}

#[tokio::test]
async fn a_server_of_another_zone_refuses_and_the_next_is_asked() -> Result<()> {
    let other: ZoneName = "example.net".parse()?;
    let refusing = serve(Zone::new(&other, 60, 1, [], [])).await?;
    assert!(matches!(
        find(refusing.address()).await?,
        Err(DiscoverError::Refused { .. })
    ));
    let server = serve(records(1)?).await?;
    let both = ResolverSource::Servers(vec![refusing.address(), server.address()]);
    assert!(lookup(&zone()?, &both).await?.is_usable());
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_is_reported_by_name() -> Result<()> {
    let server = serve(records(1)?).await?;
    let address = server.address();
    server.stop().await;
    let found = find(address).await?;
    assert!(matches!(found, Err(DiscoverError::Silent { .. })), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn the_servers_of_a_zone_are_those_of_its_ns_records() -> Result<()> {
    let server = serve(records(1)?).await?;
    let source = ResolverSource::Servers(vec![server.address()]);
    let found = authorities(&zone()?, &source).await?;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].name.ends_with("corp.example.com"), "{found:?}");
    assert!(found[0].addresses.iter().all(|address| address.port() == 53));
    // A name within the zone has no NS records of its own: it is no apex.
    let inside: ZoneName = "kms.corp.example.com".parse()?;
    let none = authorities(&inside, &source).await;
    assert!(matches!(none, Err(VerifyError::NoServers { .. })), "{none:?}");
    server.stop().await;
    let nobody = authorities(&zone()?, &source).await;
    assert!(matches!(nobody, Err(VerifyError::Lookup { .. })), "{nobody:?}");
    Ok(())
}
