use super::*;

const WHOLE: &str = "
name: relay-0
relay:
  licensedHosts:
    - name: kms-a
      address: 10.0.0.11
      weight: 2
      products: [Office2021]
    - {name: kms-b, address: kms-b.example.com, port: 1689}
  timeouts: {connect: 1s, call: 1500ms}
  whenNoHost: fault
listen: ['127.0.0.1:1688', '[::1]:1688']
clients:
  allow: [10.0.0.0/8]
  limits: {connections: 5}
  proxyProtocol: {trusted: [10.1.0.0/16]}
";

/// Lines of it that have a value, and the path of each.
const PLACES: [(usize, &str); 11] = [
    (1, "/name"),
    (4, "/relay/licensedHosts/0/name"),
    (5, "/relay/licensedHosts/0/address"),
    (6, "/relay/licensedHosts/0/weight"),
    (7, "/relay/licensedHosts/0/products"),
    (9, "/relay/timeouts"),
    (10, "/relay/whenNoHost"),
    (11, "/listen"),
    (13, "/clients/allow"),
    (14, "/clients/limits"),
    (15, "/clients/proxyProtocol"),
];

/// Values of every kind, in YAML and in JSON.
const VALUES: [(&str, &str); 9] = [
    ("~", "null"),
    ("1", "1"),
    ("x", "\"x\""),
    ("[]", "[]"),
    ("{}", "{}"),
    ("true", "true"),
    ("1s", "\"1s\""),
    ("[1, x]", "[1, \"x\"]"),
    ("{a: 1}", "{\"a\": 1}"),
];

fn problems(text: &str) -> Vec<(u64, u64, String)> {
    load(text, Path::new("config.yaml"))
        .expect_err("has problems")
        .list
        .into_iter()
        .map(|p| {
            (
                p.at.line,
                p.at.column,
                format!(
                    "{}: {} | {}",
                    display_path(&p.path),
                    p.message,
                    p.hint.unwrap_or_default()
                ),
            )
        })
        .collect()
}

#[test]
fn a_whole_file_is_read_and_survives_being_written() {
    let config = load(WHOLE, Path::new("config.yaml")).expect("valid");
    let relay = config.relay.as_ref().expect("relay");
    assert_eq!(relay.licensed_hosts[1].port, 1689);
    assert_eq!(relay.timeouts.call, Period(std::time::Duration::from_millis(1500)));
    assert_eq!(relay.when_no_host, WhenNoHost::Fault);
    let written = serde_saphyr::to_string(&config).expect("written");
    assert_eq!(load(&written, Path::new("config.yaml")).expect("valid"), config);
}

#[test]
fn every_problem_is_reported_in_one_go() {
    let text = "
name: relay-0
relay:
  licensedHost: []
  licensedHosts:
    - name: a b
      address: 10.0.0.11
      port: 99999
      weigth: 2
    - address: 10.0.0.12:1688
      weight: heavy
    - {name: kms-c, address: 10.0.0.13, weight: 2000}
  timeouts: {connect: 10, call: soon}
  whenNoHost: closed
listen: '127.0.0.1:1688'
clients:
  allow: [10.0.0.0/33, 10.2.0.0/16]
  deny: [10.0.0.0/8]
  limits: {connections: '5', handshakeTimeout: 0s}
log: {filter: 'x=y=z'}
";
    let found = problems(text);
    insta::assert_snapshot!(
        found
            .iter()
            .map(|(line, column, text)| format!("{line}:{column} {text}"))
            .collect::<Vec<_>>()
            .join("\n")
    );
}

#[test]
fn the_report_shows_the_line_and_the_hint() {
    let error = load(
        "relay: {licensedHosts: []}\nliten: ['0.0.0.0:1']\n",
        Path::new("/etc/kms.yaml"),
    )
    .expect_err("bad");
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn a_line_is_shown_whatever_ends_it() {
    for end in ["\n", "\r\n", "\r"] {
        let text = [
            "name: a",
            "relay: {licensedHosts: [{name: a, address: b}]}",
            "nonsense: 1",
            "",
        ]
        .join(end);
        let report = load(&text, Path::new("kms-host.yaml")).unwrap_err().to_string();
        assert!(report.contains("kms-host.yaml:3:1\n   | nonsense: 1\n"), "{report}");
    }
}

#[test]
fn text_that_is_not_yaml_is_one_problem_at_its_place() {
    let found = problems("relay:\n  licensedHosts: [\nname: x\n");
    assert_eq!(found.len(), 1, "{found:?}");
    let found = problems("name: a\nname: b\nrelay: {licensedHosts: [{name: a, address: b}]}\n");
    assert_eq!((found[0].0, found[0].1), (2, 1), "{found:?}");
}

#[test]
fn an_empty_file_lacks_a_mode() {
    assert_eq!(problems("").len(), 1);
    assert_eq!(problems("# nothing\n").len(), 1);
}

#[test]
fn a_document_of_another_kind_is_refused() {
    assert_eq!(problems("- 1\n").len(), 1);
    assert_eq!(problems("12\n").len(), 1);
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z:{}\\[\\], \n\"'&*!|>0-9-]{0,200}") {
        let _ = load(&text, Path::new("config.yaml"));
    }

    /// Any value anywhere in a good file is either taken as it was written or reported; nothing else happens.
    #[test]
    fn a_wrong_value_is_reported_and_not_used(
        (line, path) in proptest::sample::select(PLACES.to_vec()),
        (written, value) in proptest::sample::select(VALUES.to_vec()),
    ) {
        let mut lines: Vec<String> = WHOLE.lines().map(str::to_owned).collect();
        let (key, _) = lines[line].split_once(": ").expect("a value");
        lines[line] = format!("{key}: {written}");
        match load(&lines.join("\n"), Path::new("config.yaml")) {
            Err(problems) => proptest::prop_assert!(!problems.list.is_empty()),
            Ok(config) if matches!(written, "~" | "[]" | "{}") => {
                lines.remove(line);
                let without = load(&lines.join("\n"), Path::new("config.yaml")).expect("valid");
                proptest::prop_assert_eq!(config, without, "what says nothing changes nothing");
            }
            Ok(config) => {
                let used = serde_json::to_value(&config).expect("written");
                let value: serde_json::Value = serde_json::from_str(value).expect("JSON");
                proptest::prop_assert_eq!(used.pointer(path), Some(&value));
            }
        }
    }
}

#[test]
fn sections_of_other_parts_are_checked_at_their_places() {
    let found = problems(
        "relay: {licensedHosts: [{name: a, address: b}]}\nrehearsal:\n  siteKeyFile: /k\n  activationIntervalMinutes: 5\nledger:\n  redis: {addresses: []}\n",
    );
    let at: Vec<_> = found
        .iter()
        .map(|(line, column, text)| (*line, *column, text.split(':').next().unwrap_or("")))
        .collect();
    assert!(at.contains(&(2, 1, "rehearsal")), "{found:?}");
    assert!(at.contains(&(4, 3, "rehearsal.activationIntervalMinutes")), "{found:?}");
    assert!(at.contains(&(6, 11, "ledger.redis.addresses")), "{found:?}");
}

#[test]
fn the_admin_endpoint_is_for_this_machine_alone_unless_told_otherwise() {
    let admin = |more: &str| {
        let text = format!("relay: {{licensedHosts: [{{name: a, address: b}}]}}\n{more}\n");
        load(&text, Path::new("config.yaml")).expect("good").admin.listen
    };
    assert!(admin("").ip().is_loopback());
    assert_eq!(admin("admin: {listen: '[::]:1'}"), "[::]:1".parse().expect("address"));
}

#[test]
fn an_address_that_is_taken_already_is_told_at_its_field() {
    let told = |text: &str| -> Vec<String> {
        let text = format!("relay: {{licensedHosts: [{{name: a, address: b}}]}}\n{text}\n");
        match load(&text, Path::new("config.yaml")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.list.iter().map(|p| display_path(&p.path)).collect(),
        }
    };
    for (text, field) in [
        ("listen: ['0.0.0.0:1', '0.0.0.0:1']", "listen[1]"),
        ("listen: ['127.0.0.1:1', '0.0.0.0:1']", "listen[1]"),
        ("listen: ['[::]:1']\nadmin: {listen: '127.0.0.1:1'}", "admin.listen"),
        ("listen: ['127.0.0.1:1']\nadmin: {listen: '[::]:1'}", "admin.listen"),
        ("listen: ['127.0.0.1:9688']", "admin.listen"),
    ] {
        assert_eq!(told(text), [field], "{text}");
    }
    for text in [
        "listen: ['0.0.0.0:1', '[::]:1']",
        "listen: ['127.0.0.1:1', '127.0.0.2:1', '[::1]:1']\nadmin: {listen: '127.0.0.1:2'}",
        "listen: ['127.0.0.1:0', '127.0.0.1:0', '0.0.0.0:0']\nadmin: {listen: '0.0.0.0:0'}",
    ] {
        assert_eq!(told(text), Vec::<String>::new(), "{text}");
    }
    let found = problems("relay: {licensedHosts: [{name: a, address: b}]}\nlisten: ['[::]:7', '[::1]:7']\n");
    assert_eq!((found.len(), found[0].0, found[0].1), (1, 2, 20), "{found:?}");
    assert!(
        found[0]
            .2
            .contains("[::1]:7 is taken already: `listen[0]` is [::]:7 | give each"),
        "{found:?}"
    );
}

#[test]
fn the_examples_in_the_documentation_are_good_and_name_every_section() {
    let read = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/examples")
            .join(name);
        load(&std::fs::read_to_string(&file).expect("read"), &file).unwrap_or_else(|problems| panic!("{problems}"))
    };
    assert!(read("relay.yaml").relay.is_some());
    assert!(read("rehearsal.yaml").rehearsal.is_some());
}

#[test]
fn the_reference_names_every_field_of_the_top_level() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/kms-host.md");
    let reference = std::fs::read_to_string(reference).expect("read");
    let found = problems("nonsense: 1\nrelay: {licensedHosts: [{name: a, address: b}]}\n");
    let fields = found[0]
        .2
        .split("known here are ")
        .nth(1)
        .expect("the fields are listed");
    for field in fields.split(", ") {
        assert!(
            reference.contains(&format!("`{field}")),
            "{field} is not in the reference"
        );
    }
}

#[test]
fn what_was_read_from_a_host_may_be_written_into_the_file() {
    let load = |read_at: &str| {
        let facts = format!("{{readAt: {read_at}, currentCount: 10, requiredCount: 5, licensed: true}}");
        let text = format!("relay: {{licensedHosts: [{{name: a, address: b, facts: {facts}}}]}}\n");
        load(&text, Path::new("kms.yaml"))
    };
    for read_at in ["2026-11-27T09:30:00Z", "'2026-11-27T10:30:00+01:00'", "1795771800000"] {
        let config = load(read_at).unwrap_or_else(|problems| panic!("{problems}"));
        let facts = config.relay.expect("a relay").licensed_hosts[0]
            .facts
            .clone()
            .expect("facts");
        assert_eq!(facts.read_at, crate::ledger::Millis(1_795_771_800_000));
        assert_eq!(
            (facts.current_count, facts.required_count, facts.licensed),
            (Some(10), Some(5), Some(true))
        );
    }
    let problems = load("yesterday").expect_err("no time").to_string();
    assert!(problems.contains("a time such as 2026-11-27T09:30:00Z"), "{problems}");
}
