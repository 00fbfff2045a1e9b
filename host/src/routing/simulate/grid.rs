//! Many simulations: every policy over clients, hosts and N.

use std::time::Duration;

use super::{Arrivals, DAY, Outcome, PolicyName, Scenario, SrvTarget, run};

/// What is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Who chooses the host.
    pub policies: Vec<PolicyName>,
    /// Numbers of clients.
    pub clients: Vec<u32>,
    /// Numbers of hosts.
    pub hosts: Vec<u32>,
    /// Required counts N.
    pub required: Vec<u32>,
    /// How clients come.
    pub arrivals: Arrivals,
    /// Ranks of the hosts in the SRV record ([`Scenario::srv`]).
    pub srv: Vec<SrvTarget>,
    /// How long clients are switched off after a first request in vain ([`Scenario::sleeps`]).
    pub sleeps: Option<Duration>,
    /// How long is simulated.
    pub lasts: Duration,
    /// Another seed gives other arrivals and other choices.
    pub seed: u64,
}

impl Default for Grid {
    fn default() -> Self {
        Self {
            policies: PolicyName::ALL.to_vec(),
            clients: vec![5, 8, 20, 60, 500],
            hosts: vec![1, 2, 3, 5],
            required: vec![5, 25],
            arrivals: Arrivals::AtOnce,
            srv: Vec::new(),
            sleeps: None,
            lasts: DAY * 200,
            seed: 1,
        }
    }
}

impl Grid {
    /// The scenarios: by N, then hosts, then clients, then policy. In each a host dies on day 3 and a new one joins on
    /// day 10.
    pub fn scenarios(&self) -> impl Iterator<Item = Scenario> + '_ {
        self.required.iter().flat_map(move |required| {
            self.hosts.iter().flat_map(move |hosts| {
                self.clients.iter().flat_map(move |clients| {
                    self.policies.iter().map(move |policy| Scenario {
                        arrivals: self.arrivals,
                        srv: self.srv.clone(),
                        sleeps: self.sleeps,
                        lasts: self.lasts,
                        seed: self.seed,
                        ..Scenario::new(*policy, *clients, *hosts, *required)
                    })
                })
            })
        })
    }
}

/// Simulates all of it.
pub fn grid(grid: &Grid) -> Vec<Outcome> {
    grid.scenarios().map(|scenario| run(&scenario)).collect()
}
