//! A resource from its manifest to "Licensed", without Kubernetes.

use std::sync::atomic::Ordering;

use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;

use super::*;
use crate::licensing::journal::{Attempt, Kind, Restart};
use crate::licensing::round::tests::{Host, client, counted, rehearsal};
use crate::licensing::store::{FileStore, InMemory};
use crate::secrets::tests::secrets;

const KEY: &str = "REHEARSAL-OFFICE2016-AAAA1";

fn manifest(hosts: &[(&str, u16)], activation: &str) -> OfficeKmsHost {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|(name, port)| {
            format!(
                "{{name: {name}, address: 127.0.0.1, management: {{mode: Manage, transport: Http, port: {port}, \
                 credentialsSecret: {{name: account}}}}}}"
            )
        })
        .collect();
    let text = format!(
        "{{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {{name: kms}}, spec: {{licensedHosts: [{}], \
         products: [{{name: Office2016, hostKeySecret: {{name: keys, key: office}}, {activation}}}]}}}}",
        hosts.join(", ")
    );
    serde_saphyr::from_str(&text).unwrap()
}

const PHONE: &str = "activation: Phone, confirmationIdSecret: {name: confirmations}";

fn account(password: &str) -> Vec<(&str, &str, &str)> {
    vec![
        ("account", "username", "admin"),
        ("account", "password", password),
        ("keys", "office", KEY),
    ]
}

fn condition<'a>(outcome: &'a Outcome, kind: &str) -> &'a Verdict {
    let found = outcome.conditions.iter().find(|(name, _)| *name == kind);
    &found.unwrap_or_else(|| panic!("{outcome:?}")).1
}

/// A resource that is looked at again and again, its status kept as the API server would.
struct Story {
    host: OfficeKmsHost,
    session: Session,
    store: Box<dyn Store>,
    ledger: Shared,
    now: Timestamp,
    told: Vec<Notice>,
}

impl Story {
    fn new(host: OfficeKmsHost, store: impl Store + 'static) -> Self {
        Self {
            host,
            session: Session::default(),
            store: Box::new(store),
            ledger: Shared::Ledger(Arc::new(MemoryLedger::default())),
            now: Timestamp::now(),
            told: Vec::new(),
        }
    }

    async fn look(&mut self, secrets: &Objects) -> Outcome {
        let outcome = visit(&self.host, secrets, &self.session, &*self.store, &self.ledger, self.now).await;
        self.told.extend(outcome.notices.clone());
        let status = self.host.status.get_or_insert_default();
        status.licensed_hosts.clone_from(&outcome.rows);
        self.now += outcome.again_in;
        outcome
    }

    fn reasons(&self) -> Vec<&str> {
        self.told.iter().map(|notice| notice.reason).collect()
    }
}

async fn two() -> (Host, Host) {
    (rehearsal("kms01").await, rehearsal("kms02").await)
}

#[tokio::test]
async fn keys_and_confirmation_ids_in_secrets_bring_hosts_to_licensed_and_clients_to_the_count() {
    let (first, second) = two().await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal.json");
    let hosts = [("kms01", first.port), ("kms02", second.port)];
    let mut story = Story::new(manifest(&hosts, PHONE), FileStore::new(&journal));
    let mut values = account("drill");
    let mut outcome = story.look(&secrets(&values)).await;
    for _ in 0..3 {
        outcome = story.look(&secrets(&values)).await;
    }
    assert_eq!(condition(&outcome, "HostsLicensed").reason, "AwaitingConfirmation");
    let ids: Vec<String> = outcome
        .rows
        .iter()
        .map(|row| {
            let shown = row.products[0].installation_id.as_ref().unwrap();
            rehearsal_confirmation_id(&shown.replace('-', ""))
        })
        .collect();
    values.extend([
        ("confirmations", "kms01", ids[0].as_str()),
        ("confirmations", "kms02", &ids[1]),
    ]);
    let mut outcome = story.look(&secrets(&values)).await;
    for _ in 0..3 {
        outcome = story.look(&secrets(&values)).await;
    }
    let licensed = condition(&outcome, "HostsLicensed");
    assert_eq!(licensed.status, Some(true), "{licensed:?}");
    assert!(outcome.rows.iter().all(|row| row.licensed == Some(true)), "{outcome:?}");
    for number in 1..=5 {
        client(&first, number, &format!("pc{number}")).await;
    }
    // By now the hosts are read on their interval.
    assert_eq!(outcome.again_in, Duration::from_secs(300));
    let outcome = story.look(&secrets(&values)).await;
    assert_eq!(condition(&outcome, "ThresholdMet").status, Some(true));
    let counts = outcome.counts.unwrap();
    assert_eq!((counts.current, counts.required), (5, 5));

    let reasons = story.reasons();
    for (reason, times) in [
        ("KeyInstalled", 2),
        ("Confirmed", 2),
        ("SettingChanged", 2),
        ("HostLicensed", 2),
    ] {
        let told = reasons.iter().filter(|told| **told == reason).count();
        assert_eq!(told, times, "{reason}: {reasons:?}");
    }
    let kept = std::fs::read_to_string(&journal).unwrap();
    let said = format!("{:?} {:?} {kept}", story.told, story.host.status);
    for secret in [KEY, "drill", ids[0].as_str(), ids[1].as_str()] {
        assert!(!said.contains(secret), "a secret is told");
    }
}

#[tokio::test]
async fn a_restart_amid_a_step_does_nothing_twice() {
    let (first, _second) = two().await;
    let store = InMemory::default();
    // The journal of an operator that was killed after it began to activate, and whose activation never arrived.
    let mut memory = Memory::default();
    let now = Timestamp::now();
    let host = manifest(&[("kms01", first.port)], "activation: Online");
    let objects = secrets(&account("drill"));
    let mut story = Story::new(host, InMemory::default());
    story.look(&objects).await;
    assert_eq!(story.reasons(), ["KeyInstalled"]);
    let mark = journal::mark(&[KEY, "AAAA1"]);
    memory.journal.attempts.insert(
        "kms01/Office2016".into(),
        vec![Attempt {
            kind: Kind::Activate,
            mark,
            begun_at: now.as_millisecond(),
            outcome: journal::Outcome::Unknown,
            tries: 1,
            missed: 0,
        }],
    );
    store.save(&memory).await.unwrap();
    let mut restarted = Story::new(story.host.clone(), store);
    let outcome = restarted.look(&objects).await;
    let verdict = condition(&outcome, "HostsLicensed");
    assert_eq!(verdict.reason, "Settling", "{verdict:?}");
    assert!(
        !restarted.reasons().contains(&"Activated"),
        "nothing is activated before the host had its time"
    );
    // The host had ten minutes and shows nothing: once more, and it works.
    restarted.now += Duration::from_secs(601);
    let outcome = restarted.look(&objects).await;
    assert_eq!(outcome.rows[0].licensed, Some(true));
    assert_eq!(restarted.reasons(), ["SettingChanged", "Activated", "HostLicensed"]);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_a_restart_tries_it_no_sooner() {
    let (first, _second) = two().await;
    let hosts = [("kms01", first.port)];
    let folder = tempfile::tempdir().unwrap();
    let store = || FileStore::new(&folder.path().join("journal.json"));
    let mut story = Story::new(manifest(&hosts, "activation: Online"), store());
    let wrong = secrets(&account("guess"));
    let outcome = story.look(&wrong).await;
    assert_eq!(condition(&outcome, "HostsLicensed").reason, "AccessDenied");
    // Its Secret is looked at often, the host is not asked again.
    assert_eq!(outcome.again_in, SECRETS_EVERY);
    for _ in 0..5 {
        story.look(&wrong).await;
    }
    let memory = story.store.load().await.unwrap();
    assert_eq!(memory.patience["kms01"].failures, 1);
    let mut restarted = Story::new(story.host.clone(), store());
    let outcome = restarted.look(&wrong).await;
    let verdict = condition(&outcome, "HostsLicensed");
    assert_eq!(verdict.reason, "AccessDenied");
    assert!(verdict.message.contains("so that no account is locked"), "{verdict:?}");
    let outcome = restarted.look(&secrets(&account("drill"))).await;
    assert!(outcome.rows[0].reachable == Some(true) && outcome.rows[0].message.is_some());
    assert_eq!(restarted.reasons().last(), Some(&"HostReadable"));
}

#[tokio::test]
async fn a_host_that_is_off_and_a_secret_that_is_missing_are_told_once_each() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let off = free.local_addr().unwrap().port();
    drop(free);
    let mut story = Story::new(manifest(&[("kms01", off)], "activation: Online"), InMemory::default());
    let none = Objects::default();
    let outcome = story.look(&none).await;
    let verdict = condition(&outcome, "HostsLicensed");
    assert_eq!(verdict.reason, "InvalidManagement");
    assert!(verdict.message.contains("no Secret `account`"), "{verdict:?}");
    story.look(&none).await;
    let objects = secrets(&account("drill"));
    story.look(&objects).await;
    story.look(&objects).await;
    assert_eq!(story.reasons(), ["InvalidManagement", "HostUnreachable"]);
    assert_eq!(story.host.status.unwrap().licensed_hosts[0].reachable, Some(false));
}

/// A store that somebody else wrote to.
struct Taken;

impl Store for Taken {
    fn load(&self) -> futures::future::BoxFuture<'_, anyhow::Result<Memory>> {
        Box::pin(async { Ok(Memory::default()) })
    }

    fn save<'a>(&'a self, _: &'a Memory) -> futures::future::BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { anyhow::bail!("somebody else wrote it") })
    }
}

#[tokio::test]
async fn nothing_is_begun_while_the_journal_belongs_to_another() {
    let (first, _second) = two().await;
    let mut story = Story::new(manifest(&[("kms01", first.port)], "activation: Online"), Taken);
    let outcome = story.look(&secrets(&account("drill"))).await;
    assert_eq!(condition(&outcome, "HostsLicensed").reason, "JournalUnavailable");
    assert_eq!(
        client(&first, 1, "pc01").await.0,
        0xC004_F042,
        "the host has no key still"
    );
}

#[tokio::test]
async fn a_service_is_restarted_once_when_asked_and_never_the_last_warm_one() {
    let (first, second) = two().await;
    let hosts = [("kms01", first.port), ("kms02", second.port)];
    let mut story = Story::new(manifest(&hosts, "activation: Online"), InMemory::default());
    let objects = secrets(&account("drill"));
    for _ in 0..4 {
        story.look(&objects).await;
    }
    for number in 1..=5 {
        client(&first, number, &format!("pc{number}")).await;
    }
    let ask = |story: &mut Story, value: &str| {
        let annotations = story.host.metadata.annotations.get_or_insert_default();
        annotations.insert(restart::ANNOTATION.to_owned(), value.to_owned());
    };
    ask(&mut story, "kms01");
    story.told.clear();
    story.look(&objects).await;
    story.look(&objects).await;
    assert_eq!(
        story.reasons(),
        ["RestartRefused"],
        "kms01 is the only one whose count is reached"
    );
    assert!(
        story.told[0].message.contains("no other licensed host"),
        "{:?}",
        story.told
    );
    ask(&mut story, "kms02@1");
    for _ in 0..3 {
        story.look(&objects).await;
    }
    assert_eq!(story.reasons(), ["RestartRefused", "ServiceRestarted"]);
    let memory = story.store.load().await.unwrap();
    assert_eq!(memory.journal.restarts["kms02"].phase, Phase::Done);
}

#[tokio::test]
async fn a_restart_of_which_nobody_saw_the_stop_is_not_called_one() {
    let (first, _second) = two().await;
    let restart = Restart {
        asked: "kms01@1".into(),
        phase: Phase::Begun,
        was_warm: false,
    };
    let mut memory = Memory::default();
    memory.journal.restarts.insert("kms01".into(), restart);
    let store = InMemory::default();
    store.save(&memory).await.unwrap();
    let mut story = Story::new(manifest(&[("kms01", first.port)], "activation: Online"), store);
    let annotations = story.host.metadata.annotations.get_or_insert_default();
    annotations.insert(restart::ANNOTATION.to_owned(), "kms01@1".to_owned());
    let objects = secrets(&account("drill"));
    for _ in 0..4 {
        story.look(&objects).await;
    }
    let told: Vec<_> = story
        .told
        .iter()
        .filter(|told| told.reason.contains("Restart"))
        .collect();
    assert_eq!(told.len(), 1, "{:?}", story.told);
    assert_eq!(told[0].reason, "RestartFailed");
    assert!(told[0].message.contains("give the annotation a new value"), "{told:?}");
    assert!(!story.reasons().contains(&"ServiceRestarted"));
    let memory = story.store.load().await.unwrap();
    assert_eq!(memory.journal.restarts["kms01"].phase, Phase::Failed);
}

#[tokio::test]
async fn a_restart_that_was_cut_off_does_not_try_a_refused_password_again() {
    let (first, _second) = two().await;
    let (port, connections) = counted(first.port).await;
    let restart = Restart {
        asked: "kms01@1".into(),
        phase: Phase::Stopped,
        was_warm: false,
    };
    let mut memory = Memory::default();
    memory.journal.restarts.insert("kms01".into(), restart);
    let store = InMemory::default();
    store.save(&memory).await.unwrap();
    let mut story = Story::new(manifest(&[("kms01", port)], "activation: Online"), store);
    for _ in 0..4 {
        story.look(&secrets(&account("guess"))).await;
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    story.look(&secrets(&account("drill"))).await;
    assert!(story.reasons().contains(&"ServiceRestarted"), "{:?}", story.told);
}

#[tokio::test]
async fn observing_says_what_managing_would_do_and_reads_no_key() {
    let (first, _second) = two().await;
    let mut host = manifest(&[("kms01", first.port)], "activation: Online");
    let licensed = &mut host.spec.licensed_hosts.as_mut().unwrap()[0];
    licensed.management.as_mut().unwrap().mode = crate::api::ManagementMode::Observe;
    let mut story = Story::new(host, InMemory::default());
    let outcome = story.look(&secrets(&account("drill")[..2])).await;
    let verdict = condition(&outcome, "HostsLicensed");
    assert_eq!(verdict.reason, "KeyMissing", "{verdict:?}");
    assert_eq!(outcome.rows[0].products[0].step.as_deref(), Some("InstallKey"));
    assert!(story.told.is_empty(), "{:?}", story.told);
}
