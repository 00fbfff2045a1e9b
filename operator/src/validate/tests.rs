use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::build::fixtures::{examples, host};

fn fields(spec: Value) -> Vec<String> {
    match check(&host(spec)) {
        Ok(()) => Vec::new(),
        Err(Problems(problems)) => problems.into_iter().map(|problem| problem.field).collect(),
    }
}

fn relay(sections: Value) -> Value {
    let mut spec = json!({"replicas": 2, "licensedHosts": [{"name": "a", "address": "kms-a.example"}]});
    for (section, value) in sections.as_object().expect("sections") {
        spec[section] = value.clone();
    }
    spec
}

#[test]
fn the_examples_are_good() {
    for (name, host) in examples() {
        assert_eq!(check(&host), Ok(()), "{name}");
    }
}

#[test]
fn each_mistake_is_named_by_its_field() {
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({}), &["spec.licensedHosts"]),
        (relay(json!({"rehearsal": {}})), &["spec.rehearsal"]),
        (relay(json!({"licensedHosts": []})), &["spec.licensedHosts"]),
        (
            relay(json!({"licensedHosts": [
                {"name": "a", "address": "kms.example"}, {"name": "a", "address": "KMS.example."},
                {"name": "b", "address": "kms.example:1688"}, {"name": "c", "address": "10.0.0.256"},
                {"name": "d", "address": "d.example", "management": {"address": "-", "credentialsSecret": {"name": "s"}}},
            ]})),
            &[
                "spec.licensedHosts[1].name",
                "spec.licensedHosts[1].address",
                "spec.licensedHosts[2].address",
                "spec.licensedHosts[3].address",
                "spec.licensedHosts[4].management.address",
            ],
        ),
        (
            relay(json!({"products": [{"name": "Office2019"}, {"name": "Office2019"}]})),
            &["spec.products[1].name"],
        ),
        (
            relay(json!({"products": [
                {"name": "Windows", "hostKeySecret": {"name": "keys", "key": "a"}},
                {"name": "Office2019", "hostKeySecret": {"name": "keys", "key": "b"}},
                {"name": "WindowsServer", "hostKeySecret": {"name": "keys", "key": "c"}},
            ]})),
            &["spec.products[2].hostKeySecret"],
        ),
        (
            relay(json!({"products": [
                {"name": "Windows", "hostKeySecret": {"name": "keys", "key": "a"}},
                {"name": "WindowsServer", "hostKeySecret": {"name": "keys", "key": "a"}},
            ]})),
            &[],
        ),
        (
            json!({"replicas": 1, "rehearsal": {}, "products": [{"name": "Windows"}]}),
            &["spec.products[0].name"],
        ),
        (
            relay(json!({"clients": {
                "allowedCidrs": ["10.0.0.0/33", "10.0.0.1/8", "10.2.0.0/16"], "deniedCidrs": ["10.0.0.0/8"],
                "proxyProtocol": {"trustedCidrs": ["0.0.0.0/1", "128.0.0.0/1"]},
            }})),
            &[
                "spec.clients.allowedCidrs[0]",
                "spec.clients.allowedCidrs[1]",
                "spec.clients.allowedCidrs[2]",
                "spec.clients.proxyProtocol.trustedCidrs",
            ],
        ),
        (
            relay(json!({"service": {"type": "LoadBalancer"}})),
            &["spec.service.loadBalancerSourceRanges"],
        ),
        (
            relay(json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["::/1", "8000::/1"]}})),
            &["spec.service.loadBalancerSourceRanges"],
        ),
        (
            relay(json!({"service": {"type": "LoadBalancer", "acceptPublic": true}})),
            &[],
        ),
        (
            relay(json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}})),
            &[],
        ),
        (relay(json!({"ledger": {}})), &["spec.ledger"]),
        (relay(json!({"ledger": {"memory": {}}})), &["spec.ledger.memory"]),
        (
            relay(
                json!({"ledger": {"redis": {"addresses": ["redis", "r:1", "R:1"], "username": "u", "sentinel": {"masterName": "m"}}}}),
            ),
            &[
                "spec.ledger.redis.addresses[0]",
                "spec.ledger.redis.addresses[2]",
                "spec.ledger.redis.addresses",
                "spec.ledger.redis.sentinel",
                "spec.ledger.redis.passwordSecret",
            ],
        ),
        (
            relay(json!({"ledger": {"redis": {"mode": "Cluster", "addresses": ["r:1"], "database": 1}}})),
            &["spec.ledger.redis.database"],
        ),
        (
            relay(json!({"ledger": {"redis": {"mode": "Sentinel", "addresses": ["r:1"]}}})),
            &["spec.ledger.redis.sentinel"],
        ),
        (
            json!({"replicas": 2, "rehearsal": {"managementSecret": {"name": "m"}}}),
            &["spec.rehearsal.managementSecret"],
        ),
        (
            relay(json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}, "pod": {"resources": {}}})),
            &["spec.autoscaling.minReplicas", "spec.pod.resources.requests"],
        ),
        (
            relay(json!({"dns": {"zones": [
                {"name": "corp.example", "manual": {}}, {"name": "CORP.example", "addresses": ["10.0.0.300"]},
            ]}})),
            &[
                "spec.dns.zones[1].name",
                "spec.dns.zones[1].addresses[0]",
                "spec.dns.zones[1]",
            ],
        ),
        // What no check of its own sees is found by reading the configuration as a replica would.
        (
            json!({"replicas": 1, "rehearsal": {"activationIntervalMinutes": 1}}),
            &["spec"],
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(fields(spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_name_must_fit_its_children() {
    for (name, good) in [
        ("kms", true),
        ("k", true),
        ("9kms", false),
        ("kms-", false),
        ("Kms", false),
        (&"k".repeat(53), false),
    ] {
        let mut host = host(relay(json!({})));
        host.metadata.name = Some(name.to_owned());
        assert_eq!(check(&host).is_ok(), good, "{name}");
    }
}

#[test]
fn all_problems_are_told_in_one_message_that_says_what_to_do() {
    let spec = relay(json!({"clients": {"allowedCidrs": ["10.0.0.1/8"]}, "service": {"type": "LoadBalancer"}}));
    let message = check(&host(spec)).expect_err("two problems").to_string();
    let expected = [
        "spec.clients.allowedCidrs[0]: `10.0.0.1/8` has bits behind its length: write 10.0.0.0/8, or 10.0.0.1/32 for the one address",
        "spec.service.loadBalancerSourceRanges: is missing for a LoadBalancer: a KMS endpoint on the internet activates strangers: list your networks, or set spec.service.acceptPublic to true if something else keeps strangers out",
    ];
    assert_eq!(message, expected.join("; "));
}

proptest! {
    #[test]
    fn any_text_is_a_network_or_a_problem(texts in prop::collection::vec("[0-9a-f.:]{0,12}/[0-9]{0,3}", 0..6)) {
        let mut found = Found::default();
        let good = networks("spec.x", &texts, &mut found);
        for (at, _) in texts.iter().enumerate() {
            let told = found.0.iter().any(|problem| problem.field == format!("spec.x[{at}]"));
            prop_assert!(told || good.iter().any(|(index, _)| *index == at));
        }
    }

    #[test]
    fn ip_addresses_and_dns_names_are_addresses(v4: [u8; 4], v6: [u16; 8], name in "[a-z0-9_]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{2,10}){1,3}\\.?") {
        for good in [IpAddr::from(v4).to_string(), IpAddr::from(v6).to_string(), name] {
            prop_assert_eq!(address_problem(&good), None, "{}", good);
            let with_port = format!("{good}:1688");
            prop_assert!(good.contains(':') || address_problem(&with_port).is_some());
        }
    }
}
