use kms_dns::records::Mark;
use kms_dns::server::{Server, Sockets, Zone as ServedZone};

use super::*;
use crate::dns::settings::{
    check,
    tests::{input, rfc2136},
};
use crate::dns::target::{ServiceFacts, Target, desired, target};

fn task(publisher: crate::dns::settings::PublisherInput, action: Action) -> Task {
    let mut input = input();
    input.publisher = publisher;
    let zone = check(0, &input).unwrap();
    let service = ServiceFacts {
        addresses: ["192.0.2.1".parse().unwrap()].into(),
        port: 1688,
        ..ServiceFacts::default()
    };
    let Target::Known(endpoints) = target(&zone, "kms", &service) else {
        panic!("a target")
    };
    let desired = desired(&zone, &"c1/kms".parse().unwrap(), &endpoints).unwrap();
    Task {
        zone,
        stood: desired.withdrawn(),
        desired,
        action,
        silent: None,
    }
}

const PUBLISH: Action = Action::Publish { refresh: false };

async fn closed_port() -> String {
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let apex = "example.net".parse().unwrap();
    let server = Server::start(sockets, ServedZone::new(&apex, 60, 1, [], [])).unwrap();
    let address = server.address();
    server.stop().await;
    address.to_string()
}

fn limits(resolver: ResolverSource) -> Limits {
    Limits {
        exchange: Duration::from_secs(2),
        zone: Duration::from_secs(10),
        resolver,
        gate: Gate::open(),
    }
}

#[tokio::test]
async fn a_failing_zone_holds_up_no_other() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wanted = task(rfc2136("127.0.0.1", "c2VjcmV0"), PUBLISH).desired;
    let sockets = Sockets::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let marks: Vec<Mark> = wanted
        .entries
        .iter()
        .map(|entry| Mark::of(&wanted.owner, entry))
        .collect();
    let server = Server::start(sockets, ServedZone::new(&wanted.apex, 60, 1, wanted.entries, marks)).unwrap();

    let waiting = Action::Wait {
        why: "the Service has no address".into(),
    };
    let tasks = [
        task(rfc2136(&silent.local_addr().unwrap().to_string(), "c2VjcmV0"), PUBLISH),
        task(rfc2136(&closed_port().await, "c2VjcmV0"), PUBLISH),
        task(crate::dns::settings::PublisherInput::Manual, waiting),
    ];
    let mut good = task(crate::dns::settings::PublisherInput::Manual, PUBLISH);
    good.zone.verify_servers = vec![server.address().into()];
    let tasks = [tasks.as_slice(), &[good]].concat();
    let reports = round(&tasks, &limits(ResolverSource::Servers(Vec::new()))).await;
    let failures: Vec<Option<&str>> = reports.iter().map(|report| report.failure).collect();
    assert_eq!(
        failures,
        [Some("unreachable"), Some("unreachable"), Some("waiting"), None]
    );
    assert!(reports[0].message.contains("did not answer"), "{}", reports[0].message);
    assert_eq!(reports[2].message, "the Service has no address");
    assert!(reports[3].verified && reports[3].carried_out, "{:?}", reports[3]);
}

#[tokio::test]
async fn clean_up_is_limited_in_time_and_says_what_is_left() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tasks = [
        task(rfc2136(&silent.local_addr().unwrap().to_string(), "c2VjcmV0"), PUBLISH),
        task(crate::dns::settings::PublisherInput::Manual, PUBLISH),
    ];
    let limits = Limits {
        zone: Duration::from_millis(200),
        ..limits(ResolverSource::Servers(Vec::new()))
    };
    let left = clean_up(&tasks, &limits).await;
    let why = left[0].as_ref().unwrap_err();
    assert!(why.starts_with("corp.example.com: its servers took more than"), "{why}");
    assert_eq!(left[1], Ok(()), "what people entered is theirs");
}

#[tokio::test]
async fn one_that_does_not_lead_asks_no_server_for_a_change() {
    let asked = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tasks = [task(
        rfc2136(&asked.local_addr().unwrap().to_string(), "c2VjcmV0"),
        PUBLISH,
    )];
    let limits = Limits {
        gate: Gate::default(),
        ..limits(ResolverSource::Servers(Vec::new()))
    };
    let reports = round(&tasks, &limits).await;
    assert_eq!(reports[0].failure, Some("not_leading"));
    let left = clean_up(&tasks, &limits).await;
    assert!(left[0].as_ref().is_err_and(|why| why.contains("does not lead")));
    assert!(
        futures::FutureExt::now_or_never(asked.accept()).is_none(),
        "nobody came"
    );
}
