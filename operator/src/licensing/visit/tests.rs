//! Visits to rehearsal hosts, over the wire.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kms_host::ledger::{Ledger, MemoryLedger};
use kms_host::rehearsal::RehearsalConfig;
use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;
use kms_host::rehearsal::management::{Management, ManagementConfig, serve};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use wsman::client::{Credentials, Endpoint, Limits, Scheme, Transport};

use super::*;
use crate::licensing::plan::Reason;

/// Remembers every state that was saved.
#[derive(Default)]
struct Saved(Mutex<Vec<Journal>>);

impl JournalStore for Saved {
    fn save<'a>(&'a self, journal: &'a Journal) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async move {
            self.0.lock().unwrap().push(journal.clone());
            Ok(())
        })
    }
}

struct Broken;

impl JournalStore for Broken {
    fn save<'a>(&'a self, _: &'a Journal) -> BoxFuture<'a, anyhow::Result<()>> {
        Box::pin(async { anyhow::bail!("no store") })
    }
}

struct Host {
    client: Client,
    _files: tempfile::TempDir,
    _stop: tokio_util::sync::DropGuard,
}

async fn host(section: &str) -> Host {
    let files = tempfile::tempdir().unwrap();
    let password = files.path().join("password");
    std::fs::write(&password, "drill\n").unwrap();
    let yaml = format!(
        "listen: 127.0.0.1:0\nusername: admin\npasswordFile: {}\n{section}",
        password.display()
    );
    let config: ManagementConfig = serde_saphyr::from_str(&yaml).unwrap();
    let rehearsal = RehearsalConfig::new("/key".into());
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::default());
    let management = Arc::new(Management::new(&config, &rehearsal.validate().unwrap(), ledger));
    let listener = TcpListener::bind(config.listen).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let stop = CancellationToken::new();
    tokio::spawn(serve(&config, management, listener, stop.clone()).unwrap());
    let endpoint = Endpoint {
        host: "127.0.0.1".into(),
        port,
        transport: Transport::Http,
        scheme: Scheme::Ntlm,
    };
    let credentials = Credentials {
        user: "admin".into(),
        password: "drill".to_owned().into(),
    };
    let limits = Limits {
        timeout: Duration::from_secs(10),
        ..Limits::default()
    };
    Host {
        client: Client::new(endpoint, credentials, limits).unwrap(),
        _files: files,
        _stop: stop.drop_guard(),
    }
}

fn wanted(key: &str, activation: Activation) -> Wanted {
    let product = HostProduct::named("Office2016").unwrap();
    Wanted {
        product,
        key: Some(key.to_owned().into()),
        names_key: true,
        missing: None,
        activation,
    }
}

async fn go(host: &Host, wanted: &Wanted, mode: Mode, journal: &mut Journal, now: i64) -> Report {
    let settings = WantedSettings {
        dns_publishing: Some(false),
        ..WantedSettings::default()
    };
    let wanted = std::slice::from_ref(wanted);
    let subject = Visit {
        host: "kms01",
        client: &host.client,
        wanted,
        settings: &settings,
        mode,
        gate: &Gate::open(),
        now,
    };
    let saved = Saved::default();
    let report = visit(&subject, journal, &saved).await.unwrap();
    if report
        .change
        .as_ref()
        .is_some_and(|change| change.reason != "SettingChanged")
    {
        let states = saved.0.lock().unwrap();
        let outcome = |at: usize| states[at].attempts("kms01", "Office2016").last().unwrap().outcome;
        assert_eq!(outcome(0), Outcome::Unknown, "what begins is saved first");
        assert_ne!(outcome(1), Outcome::Unknown, "what ended is saved then");
    }
    report
}

fn change(report: &Report) -> &'static str {
    report.change.as_ref().map_or("nothing", |change| change.reason)
}

#[tokio::test]
async fn observing_changes_nothing() {
    let host = host("").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-A1B2C", Activation::Online);
    let mut journal = Journal::default();
    for _ in 0..2 {
        let report = go(&host, &wanted, Mode::Observe, &mut journal, 0).await;
        assert_eq!(
            (report.plans[0].step, report.plans[0].reason),
            (Step::InstallKey, Reason::KeyMissing)
        );
        assert_eq!(change(&report), "nothing");
    }
    assert_eq!(journal, Journal::default());
}

#[tokio::test]
async fn managing_takes_one_step_a_visit_until_all_is_as_wanted() {
    let host = host("").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-A1B2C", Activation::Online);
    let mut journal = Journal::default();
    let mut done = Vec::new();
    for now in 0..5 {
        let report = go(&host, &wanted, Mode::Manage, &mut journal, now).await;
        done.push(change(&report));
        if now == 4 {
            assert!(report.is_licensed());
            assert_eq!(report.fact(7).licensed, Some(true));
            assert!(report.differences.is_empty());
        }
    }
    assert_eq!(
        done,
        ["KeyInstalled", "Activated", "SettingChanged", "nothing", "nothing"]
    );
}

#[tokio::test]
async fn the_telephone_goes_from_installation_id_to_licensed() {
    let host = host("").await;
    let mut journal = Journal::default();
    let waiting = wanted("REHEARSAL-OFFICE2016-LIMIT", Activation::Phone(None));
    assert_eq!(
        change(&go(&host, &waiting, Mode::Manage, &mut journal, 0).await),
        "KeyInstalled"
    );
    let report = go(&host, &waiting, Mode::Observe, &mut journal, 1).await;
    assert_eq!(report.plans[0].reason, Reason::AwaitingConfirmation);
    let shown = report.plans[0].installation_id.clone().unwrap();
    assert_eq!(shown.split('-').count(), 9);
    let wrong = Activation::Phone(Some("1".repeat(48).into()));
    let refused = go(
        &host,
        &wanted("REHEARSAL-OFFICE2016-LIMIT", wrong),
        Mode::Manage,
        &mut journal,
        2,
    )
    .await;
    assert_eq!(change(&refused), "ConfirmationRefused");
    assert_eq!(refused.plans[0].reason, Reason::ConfirmationRefused);
    let right = Activation::Phone(Some(rehearsal_confirmation_id(&shown.replace('-', "")).into()));
    let report = go(
        &host,
        &wanted("REHEARSAL-OFFICE2016-LIMIT", right),
        Mode::Manage,
        &mut journal,
        3,
    )
    .await;
    assert_eq!(change(&report), "Confirmed");
    assert!(report.is_licensed());
}

#[tokio::test]
async fn a_refused_activation_is_asked_once() {
    let host = host("").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-LIMIT", Activation::Online);
    let mut journal = Journal::default();
    let mut done = Vec::new();
    let mut last = None;
    for now in [0, 1, 100_000_000, 200_000_000, 300_000_000] {
        let report = go(&host, &wanted, Mode::Manage, &mut journal, now).await;
        done.push(change(&report));
        last = Some(report);
    }
    assert_eq!(
        done,
        [
            "KeyInstalled",
            "ActivationRefused",
            "SettingChanged",
            "nothing",
            "nothing"
        ]
    );
    let plan = last.unwrap().plans.remove(0);
    assert_eq!((plan.step, plan.reason), (Step::Blocked, Reason::ActivationRefused));
    assert!(plan.message.contains("0xC004C008"), "{}", plan.message);
    assert!(!format!("{journal:?}").contains("LIMIT"));
}

#[tokio::test]
async fn what_microsoft_did_not_answer_is_no_refusal() {
    let host = host("").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-NONET", Activation::Online);
    let mut journal = Journal::default();
    let mut done = Vec::new();
    for now in [0, 1, 2, 600_001, 600_002] {
        let report = go(&host, &wanted, Mode::Manage, &mut journal, now).await;
        done.push(change(&report));
        if now > 0 {
            let plan = &report.plans[0];
            assert_eq!((plan.step, plan.reason), (Step::Blocked, Reason::ServiceUnreachable));
            assert!(plan.message.contains("0x80072EE7"), "{}", plan.message);
        }
    }
    assert_eq!(
        done,
        [
            "KeyInstalled",
            "ServiceUnreachable",
            "SettingChanged",
            "ServiceUnreachable",
            "nothing"
        ]
    );
}

#[test]
fn only_a_code_of_who_was_asked_is_a_refusal() {
    let returned = |code| Error::Returned {
        host: "h".into(),
        operation: "Activate".into(),
        code: Hresult(code),
    };
    for (code, expected) in [
        (0x8007_2EE7, Outcome::NotReached(0x8007_2EE7)),
        (0x8007_2EFD, Outcome::NotReached(0x8007_2EFD)),
        (0x8007_232B, Outcome::NotReached(0x8007_232B)),
        (0x8007_0005, Outcome::NotReached(0x8007_0005)),
        (0x8007_06BA, Outcome::NotReached(0x8007_06BA)),
        (0x8007_2EE2, Outcome::Unknown),
        (0x8033_8029, Outcome::Unknown),
        (0xC004_C008, Outcome::Refused(0xC004_C008)),
        (0xDEAD_BEEF, Outcome::Refused(0xDEAD_BEEF)),
    ] {
        assert_eq!(ended(&returned(code)), expected, "{code:X}");
    }
    let refused = Error::Unauthorized {
        host: "h".into(),
        user: "u".into(),
        scheme: "NTLM",
    };
    assert_eq!(ended(&refused), Outcome::NotReached(0x8007_0005));
    let late = Error::TimedOut {
        host: "h".into(),
        operation: "invoke",
        after: Duration::from_secs(95),
    };
    assert_eq!(ended(&late), Outcome::Unknown);
}

#[tokio::test]
async fn a_setting_that_is_shown_after_a_restart_is_set_once() {
    let host = host(
        "startsLicensed: true
settingsAfterRestart: true",
    )
    .await;
    let wanted = wanted("REHEARSAL-OFFICE2016-AAAAA", Activation::Online);
    let mut journal = Journal::default();
    let mut done = Vec::new();
    for now in 0..3 {
        let report = go(&host, &wanted, Mode::Manage, &mut journal, now).await;
        done.push(change(&report));
        let message = report.message().unwrap();
        assert!(message.contains("set; it takes effect when the service"), "{message}");
    }
    assert_eq!(done, ["SettingChanged", "nothing", "nothing"]);
    let ended = crate::licensing::restart::restart(&host.client).await;
    assert_eq!(ended.phase, crate::licensing::journal::Phase::Done);
    let report = go(&host, &wanted, Mode::Manage, &mut journal, 4).await;
    assert_eq!((change(&report), report.message()), ("nothing", None));
    assert_eq!(journal, Journal::default());
}

#[tokio::test]
async fn a_host_that_lacks_one_product_still_serves_the_other() {
    let host = host(
        "startsLicensed: true
missingPacks: [OfficeLTSC2024]",
    )
    .await;
    let first = wanted("REHEARSAL-OFFICE2016-AAAAA", Activation::Online);
    let second = Wanted {
        product: HostProduct::named("OfficeLTSC2024").unwrap(),
        ..first.clone()
    };
    let look = async |wanted: &[Wanted]| {
        let subject = Visit {
            host: "kms01",
            client: &host.client,
            wanted,
            settings: &WantedSettings::default(),
            mode: Mode::Observe,
            gate: &Gate::open(),
            now: 0,
        };
        let report = visit(&subject, &mut Journal::default(), &Broken).await.unwrap();
        (report.is_licensed(), report.fact(0).licensed)
    };
    assert_eq!(look(&[first, second.clone()]).await, (false, Some(true)));
    assert_eq!(look(&[second]).await, (false, Some(false)));
    assert_eq!(look(&[]).await, (true, Some(true)), "whatever it carries");
}

#[tokio::test]
async fn a_missing_pack_is_told_and_nothing_is_begun_without_a_journal() {
    let without = host("missingPacks: [Office2016]").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-A1B2C", Activation::Online);
    let report = go(&without, &wanted, Mode::Observe, &mut Journal::default(), 0).await;
    assert_eq!(report.plans[0].step, Step::InstallPack);
    assert!(report.plans[0].message.contains("details.aspx?id=49164"));

    let host = host("").await;
    let settings = WantedSettings::default();
    let subject = Visit {
        host: "kms01",
        client: &host.client,
        wanted: std::slice::from_ref(&wanted),
        settings: &settings,
        mode: Mode::Manage,
        gate: &Gate::open(),
        now: 0,
    };
    let error = visit(&subject, &mut Journal::default(), &Broken).await.unwrap_err();
    assert!(matches!(error, VisitError::Journal { .. }));
    let report = go(&host, &wanted, Mode::Observe, &mut Journal::default(), 0).await;
    assert_eq!(report.plans[0].reason, Reason::KeyMissing);
}

#[tokio::test]
async fn one_that_does_not_lead_changes_no_host() {
    let host = host("").await;
    let wanted = wanted("REHEARSAL-OFFICE2016-A1B2C", Activation::Online);
    let asked = |settings: &WantedSettings, journal: &mut Journal| {
        let (settings, mut journal) = (settings.clone(), std::mem::take(journal));
        let (host, wanted) = (&host, &wanted);
        async move {
            let subject = Visit {
                host: "kms01",
                client: &host.client,
                wanted: match settings.dns_publishing {
                    Some(_) => &[],
                    None => std::slice::from_ref(wanted),
                },
                settings: &settings,
                mode: Mode::Manage,
                gate: &Gate::default(),
                now: 0,
            };
            visit(&subject, &mut journal, &Saved::default()).await
        }
    };
    let setting = WantedSettings {
        dns_publishing: Some(false),
        ..WantedSettings::default()
    };
    for settings in [WantedSettings::default(), setting] {
        let held = asked(&settings, &mut Journal::default()).await;
        assert!(matches!(held, Err(VisitError::NotLeading(_))), "{held:?}");
    }
    let report = go(&host, &wanted, Mode::Observe, &mut Journal::default(), 0).await;
    assert_eq!(report.plans[0].reason, Reason::KeyMissing);
    assert!(!report.differences.is_empty(), "the setting is as it was");
}
