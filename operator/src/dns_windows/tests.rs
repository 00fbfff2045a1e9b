//! Publishing into a stand-in for a Windows DNS server: the classes of `MicrosoftDNS` over our WS-Management server.

use std::sync::{Arc, Mutex};

use kms_dns::plan::Options;
use kms_dns::publisher::{publish, standing, withdraw};
use kms_dns::records::{Data, Endpoint};
use wsman::client::{Credentials, Endpoint as Address, Limits, Scheme, Transport};
use wsman::hresult::Hresult;
use wsman::reply::Output;
use wsman::server::{self, Answer, Call, Provider, Query, Settings};

use super::*;

#[derive(Default)]
struct Server {
    rows: Mutex<Vec<Instance>>,
}

impl Server {
    fn row(class: &str, owner: &str, data: &[(&str, Value)]) -> Instance {
        let shown = data
            .iter()
            .map(|(_, value)| format!("{value:?}"))
            .collect::<Vec<_>>()
            .join(" ");
        data.iter().fold(
            Instance::new(class)
                .with("DnsServerName", "dns01.corp.example.com")
                .with("ContainerName", "corp.example.com")
                .with("DomainName", "corp.example.com")
                .with("OwnerName", owner)
                .with("RecordClass", 1_u32)
                .with("RecordData", shown)
                .with("TTL", 600_u32),
            |row, (name, value)| row.with(name, value.clone()),
        )
    }

    fn count(&self, class: &str) -> usize {
        self.rows
            .lock()
            .unwrap()
            .iter()
            .filter(|row| row.class == class)
            .count()
    }
}

impl Provider for Server {
    fn instances<'a>(&'a self, namespace: &'a str, query: &'a Query) -> Answer<'a, Vec<Instance>> {
        Box::pin(async move {
            assert_eq!(namespace, NAMESPACE);
            if query.class == "MicrosoftDNS_Server" {
                return Ok(vec![
                    Instance::new("MicrosoftDNS_Server").with("Name", "dns01.corp.example.com"),
                ]);
            }
            Ok(self
                .rows
                .lock()
                .unwrap()
                .iter()
                .filter(|row| row.class == query.class)
                .cloned()
                .collect())
        })
    }

    fn invoke<'a>(&'a self, call: &'a Call) -> Answer<'a, Output> {
        Box::pin(async move {
            let mut rows = self.rows.lock().unwrap();
            match call.method.as_str() {
                "CreateInstanceFromPropertyData" => {
                    let owner = call.parameters.text("OwnerName").unwrap().unwrap();
                    let data = &KINDS.iter().find(|kind| kind.class == call.class).unwrap().data;
                    let data: Vec<_> = data
                        .iter()
                        .map(|name| (*name, call.parameters.value(name).clone()))
                        .collect();
                    let mut row = Self::row(&call.class, owner, &data);
                    let ttl = call.parameters.value("TTL").clone();
                    row.properties
                        .iter_mut()
                        .filter(|(name, _)| name == "TTL")
                        .for_each(|(_, old)| *old = ttl.clone());
                    rows.push(row);
                    // As on systems whose method gives the instance only.
                    Ok(Output {
                        return_value: 0,
                        values: Instance::new("").with("RR", "reference"),
                    })
                }
                "Modify" => {
                    let ttl = call.parameters.value("TTL").clone();
                    let row = rows
                        .iter_mut()
                        .find(|row| is_selected(row, call))
                        .ok_or(Hresult::WBEM_NOT_FOUND)?;
                    row.properties
                        .iter_mut()
                        .filter(|(name, _)| name == "TTL")
                        .for_each(|(_, old)| *old = ttl.clone());
                    Ok(Output::done())
                }
                _ => Err(Hresult::WBEM_INVALID_METHOD),
            }
        })
    }

    fn delete<'a>(&'a self, call: &'a Call) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut rows = self.rows.lock().unwrap();
            let at = rows
                .iter()
                .position(|row| row.class == call.class && is_selected(row, call));
            rows.remove(at.ok_or(Hresult::WBEM_NOT_FOUND)?);
            Ok(())
        })
    }
}

fn is_selected(row: &Instance, call: &Call) -> bool {
    call.selectors.len() == KEYS.len()
        && call
            .selectors
            .iter()
            .all(|(name, value)| row.text(name) == Ok(Some(value)))
}

/// A machine without the DNS role, and so without its namespace.
struct NoRole;

impl Provider for NoRole {
    fn instances<'a>(&'a self, _: &'a str, _: &'a Query) -> Answer<'a, Vec<Instance>> {
        Box::pin(async { Err(Hresult::WBEM_INVALID_NAMESPACE) })
    }

    fn invoke<'a>(&'a self, _: &'a Call) -> Answer<'a, Output> {
        Box::pin(async { Err(Hresult::WBEM_INVALID_NAMESPACE) })
    }
}

async fn rig() -> (WindowsDns, Arc<Server>, tokio_util::sync::DropGuard) {
    let rows = Arc::new(Server::default());
    let (dns, stop) = served(rows.clone()).await;
    (dns, rows, stop)
}

async fn served(provider: Arc<dyn Provider>) -> (WindowsDns, tokio_util::sync::DropGuard) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let account = Credentials {
        user: "dns-admin".into(),
        password: "drill".to_owned().into(),
    };
    let settings = Settings {
        account: account.clone(),
        identity: None,
        limits: server::Limits::default(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(server::serve(listener, settings, provider, stop.clone()));
    let address = Address {
        host: "127.0.0.1".into(),
        port,
        transport: Transport::Http,
        scheme: Scheme::Ntlm,
    };
    let client = Client::new(address, account, Limits::default()).unwrap();
    (WindowsDns::new(client), stop.drop_guard())
}

#[tokio::test]
async fn a_machine_without_the_dns_role_is_told_so() {
    let (dns, _stop) = served(Arc::new(NoRole)).await;
    let error = publish(&dns, &desired(300, 10), &Options::default()).await.unwrap_err();
    assert!(error.to_string().contains("install the DNS server role"), "{error}");
}

fn desired(ttl: u32, weight: u16) -> Desired {
    let zone: kms_dns::names::ZoneName = "corp.example.com".parse().unwrap();
    let endpoint = Endpoint {
        target: "kms.corp.example.com".parse().unwrap(),
        addresses: ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()].into(),
        port: 1688,
        priority: 0,
        weight,
    };
    Desired::new(
        zone.clone(),
        zone,
        "cluster/ns/office".parse().unwrap(),
        ttl,
        &[endpoint],
    )
    .unwrap()
}

#[tokio::test]
async fn records_are_published_kept_changed_and_withdrawn() {
    let (dns, server, _stop) = rig().await;
    let first = publish(&dns, &desired(300, 10), &Options::default()).await.unwrap();
    assert!(!first.plan.changes.is_empty());
    let counts = || ["SRV", "A", "AAAA", "TXT"].map(|kind| server.count(&format!("MicrosoftDNS_{kind}Type")));
    assert_eq!(counts(), [1, 1, 1, 3]);
    let again = publish(&dns, &desired(300, 10), &Options::default()).await.unwrap();
    assert!(again.plan.changes.is_empty(), "{:?}", again.plan.changes);

    publish(&dns, &desired(300, 20), &Options::default()).await.unwrap();
    assert_eq!(counts(), [1, 1, 1, 3]);
    let observed = dns.observe(&desired(300, 20)).await.unwrap();
    let weights: Vec<u16> = observed
        .entries()
        .keys()
        .filter_map(|entry| match entry.data {
            Data::Srv { weight, .. } => Some(weight),
            _ => None,
        })
        .collect();
    assert_eq!(weights, [20]);
    withdraw(&dns, &desired(300, 20)).await.unwrap();
    assert_eq!(counts(), [0, 0, 0, 0]);
}

#[tokio::test]
async fn records_of_others_stay() {
    let (dns, server, _stop) = rig().await;
    let data = [
        ("Priority", Value::from(0_u32)),
        ("Weight", 0_u32.into()),
        ("Port", 1688_u32.into()),
        ("SRVDomainName", "old-kms.corp.example.com.".into()),
    ];
    server.rows.lock().unwrap().push(Server::row(
        "MicrosoftDNS_SRVType",
        "_vlmcs._tcp.corp.example.com",
        &data,
    ));
    let published = publish(&dns, &desired(300, 10), &Options::default()).await.unwrap();
    assert_eq!(published.plan.bypasses().count(), 1);
    assert_eq!(server.count("MicrosoftDNS_SRVType"), 2);
    let (ours, plan) = standing(&dns, &desired(300, 10).withdrawn()).await.unwrap();
    assert_eq!(ours, desired(300, 10), "what is ours is known by its marks");
    assert_eq!(plan.bypasses().count(), 1);
    withdraw(&dns, &desired(300, 10)).await.unwrap();
    assert_eq!(server.count("MicrosoftDNS_SRVType"), 1);
}

#[test]
fn texts_longer_than_a_string_come_back() {
    for length in [0, 1, 255, 256, 600] {
        let text = "x".repeat(length);
        assert_eq!(joined(&TXT::new(strings(&descriptive(&text)))), text);
    }
}
