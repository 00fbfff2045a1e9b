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
