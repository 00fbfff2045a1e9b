use super::*;

#[test]
fn each_machine_has_an_address_of_its_own_while_there_are_any() {
    let first = |text: &str| -> Vec<_> { text.parse::<Sources>().unwrap().addresses().take(3).collect() };
    let address = |text: &str| Some(text.parse().unwrap());
    let [one, two] = ["127.1.0.1", "127.1.0.2"].map(address);
    assert_eq!(first("127.1.0.0/16"), [one, two, address("127.1.0.3")]);
    assert_eq!(first("127.1.0.0/30"), [one, two, one]);
    assert_eq!(first("127.1.0.1/32"), [one; 3]);
    assert_eq!(first("system"), [None; 3]);
    assert!("127.1.0.1-9".parse::<Sources>().is_err());
}

#[test]
fn only_towards_hosts_on_loopback_are_the_addresses_chosen_unasked() {
    let towards = |servers: &[&str]| {
        let servers: Vec<_> = servers.iter().map(|server| server.parse().unwrap()).collect();
        Sources::towards(&servers)
    };
    let loopback = Sources::Network(LOOPBACK_SOURCES.into());
    assert_eq!(towards(&["127.0.0.1:1688", "127.0.0.1:1689"]), loopback);
    assert_eq!(towards(&["127.0.0.1:1688", "192.0.2.7:1688"]), Sources::System);
    assert_eq!(towards(&["[::1]:1688"]), Sources::System);
    assert!(!loopback.reach("[::1]:1688".parse().unwrap()));
}

#[tokio::test]
async fn a_request_that_waited_for_an_earlier_one_is_counted_from_when_it_was_due() {
    // The first five turns came while a host kept the only connection waiting.
    let begin = Instant::now().checked_sub(Duration::from_millis(5)).unwrap();
    let schedule = Schedule {
        begin,
        end: begin + Duration::from_secs(60),
        rate: Some(1000),
        turn: Arc::default(),
    };
    for turn in 0..5 {
        assert_eq!(schedule.next().await, Some(begin + Duration::from_millis(turn)));
    }
}

#[test]
fn workers_are_added_up_second_by_second() {
    let worker = |micros: u64| {
        let mut first = Histogram::new_with_max(LONGEST, 3).unwrap();
        first.record(micros).unwrap();
        Seen {
            seconds: vec![(first, 1), (Histogram::new_with_max(LONGEST, 3).unwrap(), 0)],
            licensed: 1,
            refused: [("0xC004F042".to_owned(), 3)].into(),
            errors: [("away".to_owned(), 1)].into(),
        }
    };
    let report = Report::of(vec![worker(100), worker(900)], 2).unwrap();
    assert_eq!(
        (report.answered, report.licensed, report.requests_per_second),
        (2, 2, 1.0)
    );
    assert_eq!((report.errors["away"], report.refused["0xC004F042"]), (2, 6));
    assert_eq!(report.timeline.len(), 2);
    assert_eq!((report.timeline[0].answered, report.timeline[0].failed), (2, 2));
    assert_eq!(report.latency.p50_micros, 100);
    assert_eq!(report.exit(), Exit::Failed);
    let mut out = Vec::new();
    report.view(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("6 times: refused with 0xC004F042"), "{text}");

    let answered = Report {
        errors: BTreeMap::new(),
        ..report
    };
    assert_eq!(answered.exit(), Exit::Refused);
    let taken = Report {
        refused: BTreeMap::new(),
        ..answered
    };
    assert_eq!(taken.exit(), Exit::Ok);
}
