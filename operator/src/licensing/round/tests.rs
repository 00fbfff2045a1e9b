//! Two rehearsal hosts from unlicensed to licensed, and clients that reach the count: the whole of licensing.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use kms_host::ledger::{BatchLimits, LedgerConfig, MemoryLedger};
use kms_host::rehearsal::client::{Machine, Outcome as Answer, ask};
use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;
use kms_host::rehearsal::management::{ManagementConfig, serve};
use kms_host::rehearsal::message::WorkstationName;
use kms_host::rehearsal::{Handled, RehearsalConfig, RehearsalHost, SiteKey};
use tokio::net::{TcpListener, TcpStream};
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
            names_key: true,
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
        let round = keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), now()).await;
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
    let round = keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), now()).await;
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
    let round = keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), now()).await;
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
        last = Some(keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), now()).await);
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
        .round(&hosts, &mut forgotten, &Kept, Some(&ledger), now())
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
    let round = keeper
        .round(&hosts("guess"), &mut memory, &Kept, Some(&ledger), 0)
        .await;
    let verdict = hosts_licensed(&round.rows);
    assert_eq!((verdict.status, verdict.reason), (None, "AccessDenied"));
    assert!(
        verdict.message.contains("check user and password"),
        "{}",
        verdict.message
    );
    assert!(!verdict.message.contains("guess"));
    let again = keeper
        .round(&hosts("guess"), &mut memory, &Kept, Some(&ledger), 60_000)
        .await;
    assert_eq!(again.rows[0].outcome, Outcome::Waiting);
    assert_eq!(again.rows[0].again_in, Duration::from_secs(3540));
    let other = keeper
        .round(&hosts("drill"), &mut memory, &Kept, Some(&ledger), 60_000)
        .await;
    assert!(matches!(other.rows[0].outcome, Outcome::Read(_)), "{other:?}");
}

/// A way to a host that counts the connections through it.
pub(crate) async fn counted(port: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { drop(tokio::io::copy_bidirectional(&mut near, &mut far).await) });
        }
    });
    (at, connections)
}

#[tokio::test]
async fn a_wrong_password_is_tried_at_one_host_and_not_at_those_that_share_it() {
    let names = ["kms01", "kms02", "kms03"];
    let (mut running, mut ports, mut counters) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let host = rehearsal(name).await;
        let (port, connections) = counted(host.port).await;
        running.push(host);
        ports.push(port);
        counters.push(connections);
    }
    let hosts = |password: &str| -> Vec<HostSpec> {
        let each = names.iter().zip(&ports);
        let key = "REHEARSAL-OFFICE2016-AAAA1";
        each.map(|(name, port)| spec(name, *port, key, Activation::Online, password))
            .collect()
    };
    let logons = || counters.iter().map(|count| count.load(Ordering::SeqCst)).sum::<usize>();
    let (keeper, ledger) = (Keeper::default(), MemoryLedger::default());
    let mut memory = Memory::default();
    for now in [0, 1000, 60_000] {
        let round = keeper
            .round(&hosts("guess"), &mut memory, &Kept, Some(&ledger), now)
            .await;
        for row in round.rows.iter().filter(|_| now == 0) {
            let Outcome::Failed { reason, message } = &row.outcome else {
                panic!("{row:?}")
            };
            assert_eq!(*reason, "AccessDenied");
            assert!(message.contains("lock"), "{message}");
        }
    }
    assert_eq!(logons(), 1);
    // An hour later one more, at a host that did not refuse it yet; a restart in between tries it no sooner.
    let restarted = Keeper::default();
    restarted
        .round(&hosts("guess"), &mut memory, &Kept, Some(&ledger), 120_000)
        .await;
    restarted
        .round(&hosts("guess"), &mut memory, &Kept, Some(&ledger), 3_600_000)
        .await;
    assert_eq!(logons(), 2);
    assert_eq!(memory.patience["kms01"].failures, 1);
    assert_eq!(memory.patience["kms02"].failures, 1);
    // The right one is let in by all.
    let round = restarted
        .round(&hosts("drill"), &mut memory, &Kept, Some(&ledger), 3_600_001)
        .await;
    assert!(
        round.rows.iter().all(|row| matches!(row.outcome, Outcome::Read(_))),
        "{round:?}"
    );
}

#[tokio::test]
async fn one_host_with_another_password_keeps_no_other_from_being_read() {
    let (first, second) = (rehearsal("kms01").await, rehearsal("kms02").await);
    let key = "REHEARSAL-OFFICE2016-AAAA1";
    let mut hosts = vec![
        spec("kms01", first.port, key, Activation::Online, "drill"),
        spec("kms02", second.port, key, Activation::Online, "drill"),
    ];
    let (keeper, ledger) = (Keeper::default(), MemoryLedger::default());
    let mut memory = Memory::default();
    keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), 0).await;
    assert!(keeper.is_proven(&account(&hosts[0])));
    hosts[0].credentials.password = "guess".to_owned().into();
    let round = keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), 1).await;
    assert!(
        matches!(
            round.rows[0].outcome,
            Outcome::Failed {
                reason: "AccessDenied",
                ..
            }
        ),
        "{round:?}"
    );
    assert!(matches!(round.rows[1].outcome, Outcome::Read(_)), "{round:?}");
}

#[tokio::test]
async fn events_wait_in_the_log_while_the_ledger_cannot_be_reached() {
    let host = rehearsal("kms01").await;
    let hosts = [spec(
        "kms01",
        host.port,
        "REHEARSAL-OFFICE2016-AAAA1",
        Activation::Online,
        "drill",
    )];
    let (keeper, ledger) = (Keeper::default(), MemoryLedger::default());
    let mut memory = Memory::default();
    let now = || jiff::Timestamp::now().as_millisecond();
    for _ in 0..3 {
        keeper.round(&hosts, &mut memory, &Kept, None, now()).await;
    }
    for (number, name) in [(1, "pc1"), (2, "pc2"), (2, "clone")] {
        client(&host, number, name).await;
    }
    let round = keeper.round(&hosts, &mut memory, &Kept, None, now()).await;
    assert_eq!((round.rows[0].events, memory.cursors.len()), (0, 0));
    let round = keeper.round(&hosts, &mut memory, &Kept, Some(&ledger), now()).await;
    assert_eq!(round.rows[0].events, 3);
    assert_eq!(ledger.events(None, 100).await.unwrap().len(), 3);
    // What a restart forgot, the ledger knows.
    let found = round.duplicates.unwrap();
    let round = Keeper::default()
        .round(&hosts, &mut memory, &Kept, Some(&ledger), now())
        .await;
    assert_eq!((round.rows[0].events, round.duplicates), (0, Some(found)));
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
        .round(&hosts, &mut memory, &Kept, Some(&MemoryLedger::default()), 0)
        .await;
    assert!(matches!(round.rows[0].outcome, Outcome::Read(_)));
    let Outcome::Failed { reason, message } = &round.rows[1].outcome else {
        panic!("{round:?}")
    };
    assert_eq!(*reason, "HostUnreachable");
    assert!(message.contains("winrm quickconfig"), "{message}");
}
