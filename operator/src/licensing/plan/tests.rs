//! Decisions, each named by its rule.

use proptest::prelude::*;

use super::*;
use crate::licensing::facts::OperatingSystem;

const HOST: &str = "kms01";
const KEY: &str = "REHEARSAL-OFFICE2016-A1B2C";
const LATER: i64 = 3_600_000;

fn office() -> &'static HostProduct {
    HostProduct::named("Office2016").unwrap()
}

fn wanted(key: Option<&str>, activation: Activation) -> Wanted {
    Wanted {
        product: office(),
        key: key.map(|key| key.to_owned().into()),
        names_key: key.is_some(),
        missing: None,
        activation,
    }
}

fn host(products: Vec<Product>) -> HostFacts {
    let system = OperatingSystem {
        caption: "Windows Server 2022".into(),
        build: 20_348,
        product_type: 3,
        ..Default::default()
    };
    HostFacts {
        system,
        products,
        ..HostFacts::default()
    }
}

fn product(partial: Option<&str>, status: LicenseStatus) -> Product {
    Product {
        id: office().id.unwrap(),
        description: "Office 16, VOLUME_KMS channel".into(),
        partial_key: partial.map(str::to_owned),
        installation_id: partial.map(|_| "1".repeat(54)),
        status,
        ..Product::default()
    }
}

fn decide(wanted: &Wanted, facts: &HostFacts, journal: &Journal) -> (Step, Reason) {
    let plan = plan(HOST, wanted, facts, journal, LATER);
    (plan.step, plan.reason)
}

#[test]
fn every_reason_is_told_in_the_reference() {
    let page =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/conditions.md")).unwrap();
    let plans = [
        Reason::Licensed,
        Reason::PackMissing,
        Reason::SystemNotSupported,
        Reason::KeyNotGiven,
        Reason::SecretMissing,
        Reason::KeyMissing,
        Reason::WrongKey,
        Reason::KeyRefused,
        Reason::AccessDenied,
        Reason::ServiceUnreachable,
        Reason::NotActivated,
        Reason::AwaitingConfirmation,
        Reason::ConfirmationMalformed,
        Reason::ConfirmationRefused,
        Reason::ActivationRefused,
        Reason::Settling,
        Reason::OutcomeUnknown,
    ];
    use wsman::client::Kind as Failure;
    let failures = [
        Failure::Unreachable,
        Failure::NotTrusted,
        Failure::AccessDenied,
        Failure::TimedOut,
        Failure::Broken,
        Failure::Garbage,
        Failure::Refused,
    ];
    let words = plans
        .map(Reason::as_str)
        .into_iter()
        .chain(failures.map(Failure::as_str));
    for word in words.chain(["NoHostKey", "EndpointInvalid", "InvalidManagement"]) {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

#[test]
fn a_key_that_comes_late_is_waited_for_and_no_other_is_used_up_instead() {
    let mut late = wanted(None, Activation::Online);
    late.missing = Some("there is no Secret `keys` in this namespace: create it".into());
    let other = host(vec![product(Some("ZZZZZ"), LicenseStatus::InitialGrace)]);
    let none = Journal::default();
    assert_eq!(decide(&late, &other, &none), (Step::Blocked, Reason::SecretMissing));
    let licensed = host(vec![product(Some("ZZZZZ"), LicenseStatus::Licensed)]);
    assert_eq!(decide(&late, &licensed, &none), (Step::None, Reason::Licensed));
}

#[test]
fn each_state_has_its_step() {
    let online = |key| wanted(key, Activation::Online);
    let none = Journal::default();
    let missing = host(vec![]);
    let empty = host(vec![product(None, LicenseStatus::Unlicensed)]);
    let keyed = |status| host(vec![product(Some("A1B2C"), status)]);
    let mut old = host(vec![product(None, LicenseStatus::Unlicensed)]);
    old.system.build = 6003;
    for (case, wanted, facts, expected) in [
        (
            "pack missing",
            online(Some(KEY)),
            &missing,
            (Step::InstallPack, Reason::PackMissing),
        ),
        (
            "system too old",
            online(Some(KEY)),
            &old,
            (Step::UpgradeSystem, Reason::SystemNotSupported),
        ),
        (
            "no key anywhere",
            online(None),
            &empty,
            (Step::Blocked, Reason::KeyNotGiven),
        ),
        (
            "no key installed",
            online(Some(KEY)),
            &empty,
            (Step::InstallKey, Reason::KeyMissing),
        ),
        (
            "another key",
            online(Some("X-ZZZZZ")),
            &keyed(LicenseStatus::Licensed),
            (Step::InstallKey, Reason::WrongKey),
        ),
        (
            "grace",
            online(Some(KEY)),
            &keyed(LicenseStatus::InitialGrace),
            (Step::Activate, Reason::NotActivated),
        ),
        (
            "notification",
            online(Some(KEY)),
            &keyed(LicenseStatus::Notification),
            (Step::Activate, Reason::NotActivated),
        ),
        (
            "licensed",
            online(Some(KEY)),
            &keyed(LicenseStatus::Licensed),
            (Step::None, Reason::Licensed),
        ),
        (
            "licensed by hand",
            online(None),
            &keyed(LicenseStatus::Licensed),
            (Step::None, Reason::Licensed),
        ),
    ] {
        assert_eq!(decide(&wanted, facts, &none), expected, "{case}");
    }
}

#[test]
fn a_refused_activation_is_not_tried_again_before_the_key_changes() {
    let facts = host(vec![product(Some("A1B2C"), LicenseStatus::Notification)]);
    let mut journal = Journal::default();
    journal.begin(
        HOST,
        office().name,
        Kind::Activate,
        &online_mark(KEY, &facts.products[0]),
        0,
    );
    journal.end(HOST, office().name, Outcome::Refused(Hresult::ACTIVATION_LIMIT.0));
    let refused = plan(HOST, &wanted(Some(KEY), Activation::Online), &facts, &journal, i64::MAX);
    assert_eq!(
        (refused.step, refused.reason),
        (Step::Blocked, Reason::ActivationRefused)
    );
    assert!(
        refused
            .message
            .contains("0xC004C008 (the key has reached its activation limit)"),
        "{}",
        refused.message
    );
    let other = host(vec![product(Some("ZZZZZ"), LicenseStatus::InitialGrace)]);
    assert_eq!(
        decide(&wanted(Some("X-ZZZZZ"), Activation::Online), &other, &journal).0,
        Step::Activate
    );
}

#[test]
fn a_refusal_that_the_host_shows_counts_although_our_journal_is_lost() {
    let mut limited = product(Some("A1B2C"), LicenseStatus::Notification);
    limited.reason = Hresult::ACTIVATION_LIMIT.0;
    let decided = decide(
        &wanted(Some(KEY), Activation::Online),
        &host(vec![limited]),
        &Journal::default(),
    );
    assert_eq!(decided, (Step::Blocked, Reason::ActivationRefused));
}

#[test]
fn a_half_finished_activation_is_given_time_then_tried_once_more_then_left_to_people() {
    let facts = host(vec![product(Some("A1B2C"), LicenseStatus::InitialGrace)]);
    let online = wanted(Some(KEY), Activation::Online);
    let mark = online_mark(KEY, &facts.products[0]);
    let mut journal = Journal::default();
    journal.begin(HOST, office().name, Kind::Activate, &mark, 0);
    assert_eq!(
        plan(HOST, &online, &facts, &journal, SETTLE_MILLIS - 1).reason,
        Reason::Settling
    );
    assert_eq!(
        plan(HOST, &online, &facts, &journal, SETTLE_MILLIS).step,
        Step::Activate
    );
    journal.begin(HOST, office().name, Kind::Activate, &mark, SETTLE_MILLIS);
    assert_eq!(
        plan(HOST, &online, &facts, &journal, 3 * SETTLE_MILLIS).reason,
        Reason::OutcomeUnknown
    );
    let done = host(vec![product(Some("A1B2C"), LicenseStatus::Licensed)]);
    assert_eq!(decide(&online, &done, &journal), (Step::None, Reason::Licensed));
}

#[test]
fn a_key_that_the_host_takes_and_does_not_show_is_installed_twice_and_then_left_to_people() {
    let facts = host(vec![product(None, LicenseStatus::Unlicensed)]);
    let online = wanted(Some(KEY), Activation::Online);
    let mut journal = Journal::default();
    let at = |journal: &Journal, now| plan(HOST, &online, &facts, journal, now).reason;
    for (now, outcome) in [(0, Outcome::Done), (SETTLE_MILLIS, Outcome::Unknown)] {
        assert_eq!(at(&journal, now), Reason::KeyMissing);
        journal.begin(HOST, office().name, Kind::InstallKey, &mark(&[KEY]), now);
        journal.end(HOST, office().name, outcome);
        assert_eq!(at(&journal, now + 1), Reason::Settling);
    }
    assert_eq!(at(&journal, 10 * SETTLE_MILLIS), Reason::OutcomeUnknown);
    let other = wanted(Some("REHEARSAL-OFFICE2016-OTHER"), Activation::Online);
    assert_eq!(decide(&other, &facts, &journal), (Step::InstallKey, Reason::KeyMissing));
}

#[test]
fn what_was_refused_stays_so_whatever_was_tried_in_between() {
    let facts = |partial| host(vec![product(Some(partial), LicenseStatus::InitialGrace)]);
    let digits = "2".repeat(48);
    let phone = wanted(Some(KEY), Activation::Phone(Some(digits.clone().into())));
    let (first, second) = (facts("A1B2C"), facts("OTHER"));
    let other = "REHEARSAL-OFFICE2016-OTHER";
    let mut journal = Journal::default();
    for (kind, mark, outcome) in [
        (
            Kind::Activate,
            online_mark(KEY, &first.products[0]),
            Outcome::Refused(Hresult::ACTIVATION_LIMIT.0),
        ),
        (
            Kind::Confirm,
            phone_mark(KEY, &first.products[0], &digits),
            Outcome::Refused(Hresult::OFFLINE_DATA_MALFORMED.0),
        ),
        (Kind::InstallKey, mark(&[other]), Outcome::Done),
        (Kind::Activate, online_mark(other, &second.products[0]), Outcome::Done),
        (Kind::InstallKey, mark(&[KEY]), Outcome::Done),
    ] {
        journal.begin(HOST, office().name, kind, &mark, 0);
        journal.end(HOST, office().name, outcome);
    }
    let online = wanted(Some(KEY), Activation::Online);
    assert_eq!(decide(&online, &first, &journal).1, Reason::ActivationRefused);
    assert_eq!(decide(&phone, &first, &journal).1, Reason::ConfirmationRefused);
    assert_eq!(decide(&online, &first, &journal).1, Reason::ActivationRefused);
}

#[test]
fn what_reached_nobody_is_tried_again_later_and_later() {
    let facts = host(vec![product(Some("A1B2C"), LicenseStatus::InitialGrace)]);
    let online = wanted(Some(KEY), Activation::Online);
    let mark = online_mark(KEY, &facts.products[0]);
    let mut journal = Journal::default();
    let (mut now, mut waits) = (0, Vec::new());
    for _ in 0..10 {
        journal.begin(HOST, office().name, Kind::Activate, &mark, now);
        journal.end(HOST, office().name, Outcome::NotReached(Hresult::NAME_NOT_RESOLVED.0));
        let held = plan(HOST, &online, &facts, &journal, now);
        assert_eq!((held.step, held.reason), (Step::Blocked, Reason::ServiceUnreachable));
        assert!(held.message.contains("0x80072EE7"), "{}", held.message);
        let wait = (0..).map(|tens| tens * SETTLE_MILLIS).find(|wait| {
            let then = plan(HOST, &online, &facts, &journal, now + wait);
            then.step == Step::Activate
        });
        waits.push(wait.unwrap() / SETTLE_MILLIS);
        now += wait.unwrap();
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 144, 144]);
    journal.begin(HOST, office().name, Kind::Activate, &mark, now);
    journal.end(HOST, office().name, Outcome::NotReached(Hresult::ACCESS_DENIED.0));
    assert_eq!(plan(HOST, &online, &facts, &journal, now).reason, Reason::AccessDenied);
}

#[test]
fn windows_and_windows_server_are_one_licence() {
    let licence = Product {
        application: crate::licensing::products::WINDOWS,
        ..product(Some("A1B2C"), LicenseStatus::InitialGrace)
    };
    let facts = host(vec![licence]);
    let of = |name| Wanted {
        product: HostProduct::named(name).unwrap(),
        ..wanted(Some(KEY), Activation::Online)
    };
    let mut journal = Journal::default();
    let licence = of("Windows").product.licence();
    journal.begin(HOST, licence, Kind::Activate, &online_mark(KEY, &facts.products[0]), 0);
    journal.end(HOST, licence, Outcome::Refused(Hresult::ACTIVATION_LIMIT.0));
    assert_eq!(
        decide(&of("WindowsServer"), &facts, &journal).1,
        Reason::ActivationRefused
    );
}

#[test]
fn who_only_observes_is_told_what_managing_would_do() {
    let named = Wanted {
        names_key: true,
        ..wanted(None, Activation::Online)
    };
    let none = Journal::default();
    let empty = host(vec![product(None, LicenseStatus::Unlicensed)]);
    assert_eq!(decide(&named, &empty, &none), (Step::InstallKey, Reason::KeyMissing));
    let keyed = host(vec![product(Some("A1B2C"), LicenseStatus::InitialGrace)]);
    assert_eq!(decide(&named, &keyed, &none), (Step::Activate, Reason::NotActivated));
}

#[test]
fn the_telephone_waits_for_48_digits_and_shows_what_to_read_out() {
    let facts = host(vec![product(Some("A1B2C"), LicenseStatus::InitialGrace)]);
    let phone = |typed: Option<String>| wanted(Some(KEY), Activation::Phone(typed.map(Into::into)));
    let waiting = plan(HOST, &phone(None), &facts, &Journal::default(), 0);
    assert_eq!(waiting.reason, Reason::AwaitingConfirmation);
    assert_eq!(waiting.installation_id, Some(["111111"; 9].join("-")));
    let short = plan(HOST, &phone(Some("1".repeat(47))), &facts, &Journal::default(), 0);
    assert_eq!(short.reason, Reason::ConfirmationMalformed);
    assert!(short.message.contains("47 digits instead of 48"), "{}", short.message);
    let digits = "2".repeat(48);
    assert_eq!(
        decide(&phone(Some(digits.clone())), &facts, &Journal::default()).0,
        Step::Confirm
    );
    let mut journal = Journal::default();
    journal.begin(
        HOST,
        office().name,
        Kind::Confirm,
        &phone_mark(KEY, &facts.products[0], &digits),
        0,
    );
    journal.end(HOST, office().name, Outcome::Refused(Hresult::OFFLINE_DATA_MALFORMED.0));
    assert_eq!(
        decide(&phone(Some(digits)), &facts, &journal).1,
        Reason::ConfirmationRefused
    );
    assert_eq!(decide(&phone(Some("3".repeat(48))), &facts, &journal).0, Step::Confirm);
}

#[test]
fn the_client_licence_of_ltsc_2024_is_told_from_the_host_licence() {
    let client = Product {
        id: LTSC_2024_CLIENT,
        ..product(None, LicenseStatus::Unlicensed)
    };
    let ltsc = Wanted {
        product: HostProduct::named("OfficeLTSC2024").unwrap(),
        key: Some("K-AAAAA".to_owned().into()),
        names_key: true,
        missing: None,
        activation: Activation::Online,
    };
    let plan = plan(HOST, &ltsc, &host(vec![client]), &Journal::default(), 0);
    assert_eq!(plan.reason, Reason::PackMissing);
    assert!(plan.message.contains("of the Office client"), "{}", plan.message);
}

fn any_status() -> impl Strategy<Value = LicenseStatus> {
    (0_u32..8).prop_map(LicenseStatus::from)
}

proptest! {
    #[test]
    fn no_secret_is_ever_said_and_nothing_is_done_to_what_is_licensed(
        secret in "[B-DF-HJ-NP-TV-Z]{20}", five in "[A-Z]{5}", confirmation in "[0-9]{40,50}", online in any::<bool>(),
        partial in proptest::option::of("[A-Z]{5}"), same in any::<bool>(), status in any_status(), reason in any::<u32>(),
        build in 6000_u32..30_000, tries in 0_u32..4, now in 0_i64..10_000_000,
    ) {
        let key = format!("{secret}{five}");
        let partial = if same { Some(five.clone()) } else { partial };
        let mut found = product(partial.as_deref(), status);
        found.reason = reason;
        let mut facts = host(vec![found]);
        facts.system.build = build;
        let activation = if online { Activation::Online } else { Activation::Phone(Some(confirmation.clone().into())) };
        let wanted = wanted(Some(&key), activation);
        let mut journal = Journal::default();
        for _ in 0..tries {
            journal.begin(HOST, office().name, Kind::Activate, &online_mark(&key, &facts.products[0]), 0);
        }
        let plan = plan(HOST, &wanted, &facts, &journal, now);
        let said = format!("{plan:?} {journal:?} {wanted:?} {}", serde_json::to_string(&journal).unwrap());
        prop_assert!(!said.contains(&secret));
        prop_assert!(!said.contains(&confirmation));
        prop_assert!(plan.message.len() <= 1024);
        if status == LicenseStatus::Licensed && same {
            prop_assert_eq!(plan.step, Step::None);
        }
        prop_assert!(tries < MOST_TRIES || plan.step != Step::Activate);
    }
}
