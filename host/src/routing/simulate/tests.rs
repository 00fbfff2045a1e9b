use super::*;

/// The whole grid with 200 days each takes `kmsctl simulate` a few seconds, but a test build a minute.
#[test]
fn every_client_activates_wherever_there_are_enough_whatever_the_number_of_hosts() {
    for (seed, clients, days) in [
        (1, vec![5, 8, 20, 60], 200),
        (1, vec![500], 41),
        (2, vec![5, 8, 20, 60], 41),
    ] {
        let policies = vec![PolicyName::CountAware];
        let grid = Grid {
            policies,
            clients,
            seed,
            ..Grid::default()
        };
        for scenario in grid.scenarios() {
            let enough = scenario.clients >= scenario.required;
            // Where there are too few, nothing happens but a request every two hours.
            let lasts = DAY * if enough { days } else { 41 };
            let outcome = run(&Scenario { lasts, ..scenario });
            assert_eq!(
                outcome.licensed_after,
                [if enough { 1.0 } else { 0.0 }; 4],
                "{outcome:?}"
            );
            assert_eq!(outcome.lost, 0, "{outcome:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    for policy in PolicyName::ALL {
        let scenario = Scenario {
            lasts: DAY * 30,
            ..Scenario::new(policy, 20, 3, 5)
        };
        assert_eq!(run(&scenario), run(&scenario));
    }
}

#[test]
fn spreading_five_clients_over_five_hosts_activates_nobody_but_counting_does() {
    let share = |policy| {
        run(&Scenario {
            dies_at: None,
            joins_at: None,
            ..Scenario::new(policy, 5, 5, 5)
        })
        .licensed_after
    };
    assert_eq!(share(PolicyName::DnsRandom), [0.0; 4]);
    assert_eq!(share(PolicyName::SourceHash), [0.0; 4]);
    assert_eq!(share(PolicyName::CountAware), [1.0; 4]);
}

#[test]
fn the_table_and_the_drawing_show_every_outcome() {
    let small = Grid {
        clients: vec![5],
        hosts: vec![2],
        required: vec![5, 25],
        ..Grid::default()
    };
    let outcomes = grid(&small);
    assert_eq!(outcomes.len(), 8);
    assert_eq!(table(&outcomes).lines().count(), 2 + 8);
    assert_eq!(summary(&outcomes).lines().count(), 2 + 2);
    let drawing = svg(&outcomes);
    assert_eq!(drawing.matches("fill=\"none\" stroke=").count(), 8);
    assert!(drawing.ends_with("</svg>\n"));
}

/// Told "too low" on Friday, switched off until Monday: by then the first host is warm, and the second is to be warmed up by
/// renewals. Who holds no licence yet is licensed at its first request all the same.
#[test]
fn clients_that_sleep_over_a_weekend_before_they_hold_a_licence_go_to_a_warm_host() {
    for seed in 1..=6 {
        let outcome = run(&Scenario {
            dies_at: None,
            joins_at: None,
            sleeps: Some(DAY * 3),
            lasts: DAY * 41,
            seed,
            ..Scenario::new(PolicyName::CountAware, 24, 2, 5)
        });
        assert_eq!(outcome.last_licensed_after, Some(DAY * 3), "{outcome:?}");
    }
}

#[test]
fn with_two_priorities_the_clients_of_an_srv_record_all_go_to_the_first_host_while_it_lives() {
    let srv = ["0:0", "10:0"].map(|rank| rank.parse().unwrap());
    let counts = |dies_at| {
        let outcome = run(&Scenario {
            dies_at,
            joins_at: None,
            srv: srv.to_vec(),
            lasts: DAY * 20,
            ..Scenario::new(PolicyName::DnsRandom, 8, 2, 5)
        });
        assert_eq!(outcome.licensed_after[..3], [1.0; 3]);
        outcome.counts.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(counts(None), [("kms-1".to_owned(), 8), ("kms-2".to_owned(), 0)]);
    assert_eq!(counts(Some(DAY * 3)), [("kms-2".to_owned(), 8)]);
}

/// `make bench` compares all of them, and the drawing.
#[test]
fn the_users_guide_shows_what_the_simulation_gives() {
    let guide = include_str!("../../../../docs/routing.md");
    let small = Grid {
        clients: vec![5, 8, 20],
        lasts: DAY * 41,
        ..Grid::default()
    };
    let rows = summary(&grid(&small));
    for row in rows.lines() {
        assert!(
            guide.contains(row),
            "docs/routing.md lacks {row}: see `kmsctl simulate -o summary`"
        );
    }
}
