//! Two rehearsal hosts from unlicensed to licensed, and clients that reach the count: the whole of licensing.

use std::net::IpAddr;

use kms_host::ledger::{BatchLimits, LedgerConfig, MemoryLedger};
use kms_host::rehearsal::client::{Machine, Outcome as Answer, ask};
use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;
use kms_host::rehearsal::management::{ManagementConfig, serve};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::{Handled, RehearsalConfig, RehearsalHost, SiteKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use wsman::client::{Scheme, Transport};

use super::*;
use crate::licensing::conditions::{hosts_licensed, hosts_unequal, threshold_met};
use crate::licensing::plan::{Activation, Reason};
use crate::licensing::products::HostProduct;

struct Kept;

impl JournalStore for Kept {
    fn save<'a>(&'a self, _: &'a Journal) -> futures::future::BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

const SITE: [u8; 32] = [7; 32];

pub(crate) struct Host {
    pub(crate) host: RehearsalHost,
    pub(crate) port: u16,
    _files: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

pub(crate) async fn rehearsal(name: &str) -> Host {
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    std::fs::write(&password, "drill\n").unwrap();
    let yaml = format!(
        "listen: 127.0.0.1:0\nusername: admin\npasswordFile: {}\n",
        password.display()
    );
    let section: ManagementConfig = serde_saphyr::from_str(&yaml).unwrap();
    let config = RehearsalConfig {
        host_name: name.into(),
        management: Some(section.clone()),
        ..RehearsalConfig::new("/key".into())
    };
    let opened = kms_host::ledger::open(&LedgerConfig::default()).unwrap();
    let host = RehearsalHost::start(
        config.validate().unwrap(),
        SiteKey::new(&SITE),
        opened,
        BatchLimits::default(),
    );
    let listener = TcpListener::bind(section.listen).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    let management = host.management().unwrap().clone();
    tokio::spawn(serve(&section, management, listener, stop.clone()).unwrap());
    Host {
        host,
        port,
        _files: files,
        _stop: stop.drop_guard(),
    }
}

fn spec(name: &str, port: u16, key: &str, activation: Activation, password: &str) -> HostSpec {
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port,
        transport: Transport::Http,
        scheme: Scheme::Ntlm,
    };
    let product = HostProduct::named("Office2016").unwrap();
    HostSpec {
        name: name.into(),
        endpoint,
        credentials: Credentials {
            user: "admin".into(),
            password: password.to_owned().into(),
        },
        mode: Mode::Manage,
        wanted: vec![Wanted {
            product,
            key: Some(key.to_owned().into()),
            missing: None,
            activation,
        }],
        settings: WantedSettings {
            dns_publishing: Some(false),
            ..WantedSettings::default()
        },
        interval: Duration::from_secs(300),
    }
}

/// Lets a client ask; gives the return code and the count that it was told.
pub(crate) async fn client(host: &Host, number: u128, name: &str) -> (u32, Option<u32>) {
    let key = SiteKey::new(&SITE);
    let product = kms_host::rehearsal::products::Product::named("Office2016").unwrap();
    let machine = Machine::new(WorkstationName::new(name).unwrap(), Uuid::from_u128(number));
    let now = jiff::Timestamp::now();
    let asked = ask(
        &key,
        &machine,
        &product,
        now.as_microsecond(),
        &kms_host::sealing::draw().unwrap(),
    );
    let from = IpAddr::from([127, 0, 0, 1]);
    match host.host.handle(&asked.body, from, Millis(now.as_millisecond())).await {
        Handled::Answered { body, .. } => match asked.conclude(&key, 0, Some(&body)).unwrap() {
            outcome @ (Answer::Licensed(_) | Answer::NotEnoughClients { .. }) => {
                (outcome.hresult(), outcome.current_count())
            }
            Answer::Refused { hresult } => (hresult, None),
        },
        Handled::Refused(reason) => (reason.hresult(), None),
        Handled::Busy => panic!("busy"),
    }
}

#[tokio::test]
async fn two_hosts_go_from_unlicensed_to_licensed_and_clients_reach_the_count() {
    let (first, second) = (rehearsal("kms01").await, rehearsal("kms02").await);
    let online = spec(
        "kms01",
        first.port,
        "REHEARSAL-OFFICE2016-AAAA1",
        Activation::Online,
        "drill",
    );
    let phone = |typed: Option<String>| {
        let activation = Activation::Phone(typed.map(Into::into));
        spec("kms02", second.port, "REHEARSAL-OFFICE2016-AAAA2", activation, "drill")
    };
    assert_eq!(
        client(&first, 1, "pc01").await,
        (0xC004_F042, None),
        "a host without a key serves nobody"
    );

    let (keeper, ledger) = (Keeper::default(), MemoryLedger::default());
    let mut memory = Memory::default();
    let now = || jiff::Timestamp::now().as_millisecond();
    let mut hosts = vec![online, phone(None)];
    let mut changes = Vec::new();
    for _ in 0..4 {
        let round = keeper.round(&hosts, &mut memory, &Kept, &ledger, now()).await;
        changes.extend(round.changes.into_iter().map(|change| change.reason));
    }
    changes.sort_unstable();
    assert_eq!(
        changes,
        [
            "Activated",
            "KeyInstalled",
            "KeyInstalled",
            "SettingChanged",
            "SettingChanged"
        ]
    );
    let round = keeper.round(&hosts, &mut memory, &Kept, &ledger, now()).await;
    let waiting = hosts_licensed(&round.rows);
    assert_eq!(
        (waiting.status, waiting.reason),
        (Some(false), Reason::AwaitingConfirmation.as_str())
    );
    assert_eq!(hosts_unequal(&round.rows).status, Some(true));
    assert_eq!(
        client(&second, 1, "pc01").await,
        (0xC004_F041, None),
        "a key that is not activated serves nobody"
    );

    let Outcome::Read(report) = &round.rows[1].outcome else {
        panic!("{round:?}")
    };
    let shown = report.plans[0].installation_id.clone().unwrap();
    hosts[1] = phone(Some(rehearsal_confirmation_id(&shown.replace('-', ""))));
    let round = keeper.round(&hosts, &mut memory, &Kept, &ledger, now()).await;
    assert_eq!(round.changes[0].reason, "Confirmed");
    assert_eq!(
        hosts_licensed(&round.rows).status,
        Some(true),
        "{:?}",
        hosts_licensed(&round.rows)
    );
    assert_eq!(hosts_unequal(&round.rows).status, Some(false));

    let mut told = Vec::new();
    for number in 1..=5 {
        told.push(client(&first, number, &format!("pc0{number}")).await);
    }
    assert_eq!(told.last(), Some(&(0, Some(5))));
    assert!(told[..4].iter().all(|(code, _)| *code == 0xC004_F038));
    client(&first, 5, "clone-of-pc05").await;

    // Two refusals, five clients and a clone; refusals reach the ledger a little after their answer.
    let mut last = None;
    for _ in 0..200 {
        last = Some(keeper.round(&hosts, &mut memory, &Kept, &ledger, now()).await);
        if ledger.events(None, 100).await.unwrap().len() >= 8 {
            break;
        }
    }
    let stored = ledger.events(None, 100).await.unwrap();
    assert_eq!(stored.len(), 8, "{stored:#?}");
    let round = last.unwrap();
    assert_eq!(threshold_met(&round.rows, 5).status, Some(true));
    assert!(round.duplicates.unwrap().contains("by clone-of-pc05, pc05"));
    let routes = ledger.routes(Millis(0), Millis(now())).await.unwrap();
    let facts: Vec<_> = routes
        .facts
        .iter()
        .map(|(host, fact)| (host.as_str(), fact.current_count, fact.licensed))
        .collect();
    assert_eq!(facts, [("kms01", Some(5), Some(true)), ("kms02", Some(0), Some(true))]);

    // A restart without the cursor doubles nothing.
    let mut forgotten = Memory {
        cursors: BTreeMap::new(),
        ..memory
    };
    let round = Keeper::default()
        .round(&hosts, &mut forgotten, &Kept, &ledger, now())
        .await;
    assert_eq!(round.rows.iter().map(|row| row.events).sum::<usize>(), 0);
    assert_eq!(ledger.events(None, 100).await.unwrap(), stored);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_tried_again_until_it_changes() {
    let host = rehearsal("kms01").await;
    let hosts = |password| {
        [spec(
            "kms01",
            host.port,
            "REHEARSAL-OFFICE2016-AAAA1",
            Activation::Online,
            password,
        )]
    };
    let (keeper, ledger) = (Keeper::default(), MemoryLedger::default());
    let mut memory = Memory::default();
    let round = keeper.round(&hosts("guess"), &mut memory, &Kept, &ledger, 0).await;
    let verdict = hosts_licensed(&round.rows);
    assert_eq!((verdict.status, verdict.reason), (None, "AccessDenied"));
    assert!(
        verdict.message.contains("check user and password"),
        "{}",
        verdict.message
    );
    assert!(!verdict.message.contains("guess"));
    let again = keeper.round(&hosts("guess"), &mut memory, &Kept, &ledger, 60_000).await;
    assert_eq!(again.rows[0].outcome, Outcome::Waiting);
    assert_eq!(again.rows[0].again_in, Duration::from_secs(3540));
    let other = keeper.round(&hosts("drill"), &mut memory, &Kept, &ledger, 60_000).await;
    assert!(matches!(other.rows[0].outcome, Outcome::Read(_)), "{other:?}");
}

#[tokio::test]
async fn a_host_that_is_off_does_not_hold_up_the_others() {
    let on = rehearsal("kms01").await;
    let off = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let hosts = [
        spec(
            "kms01",
            on.port,
            "REHEARSAL-OFFICE2016-AAAA1",
            Activation::Online,
            "drill",
        ),
        spec("kms02", off, "REHEARSAL-OFFICE2016-AAAA1", Activation::Online, "drill"),
    ];
    let mut memory = Memory::default();
    let round = Keeper::default()
        .round(&hosts, &mut memory, &Kept, &MemoryLedger::default(), 0)
        .await;
    assert!(matches!(round.rows[0].outcome, Outcome::Read(_)));
    let Outcome::Failed { reason, message } = &round.rows[1].outcome else {
        panic!("{round:?}")
    };
    assert_eq!(*reason, "HostUnreachable");
    assert!(message.contains("winrm quickconfig"), "{message}");
}
