use std::path::Path;

use kms_host::config::load;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::build::brief::brief;
use crate::build::fixtures::{examples, host};

/// `config` as it is written for replicas.
fn written(config: &HostConfig) -> String {
    serde_saphyr::to_string(&brief(config).expect("a configuration is JSON")).expect("a configuration is YAML")
}

/// What kms-host reads when it is given `config` in a file.
fn read_back(config: &HostConfig) -> HostConfig {
    let text = written(config);
    load(&text, Path::new("host.yaml")).unwrap_or_else(|problems| panic!("{problems}\n{text}"))
}

fn configured(spec: Value) -> HostConfig {
    let host = host(spec);
    let config = host_config(&host, &Place::pod(&host));
    assert_eq!(read_back(&config), config);
    config
}

const HOSTS: &str =
    r#"[{"name": "a", "address": "a.example"}, {"name": "b", "address": "10.0.0.2", "port": 1689, "weight": 0}]"#;

fn relaying(section: &str, value: Value) -> Value {
    let hosts: Value = serde_json::from_str(HOSTS).expect("hosts");
    let mut spec = json!({"licensedHosts": hosts});
    spec[section] = value;
    spec
}

#[test]
fn kms_host_reads_the_configuration_of_every_example() {
    let examples = examples();
    assert!(examples.len() >= 4);
    for (file, host) in examples {
        let config = host_config(&host, &Place::pod(&host));
        assert_eq!(read_back(&config), config, "{file}");
        assert_eq!(config.name, host.name_any());
    }
}

#[test]
fn hosts_keep_their_order_ports_and_weights() {
    let relay = configured(relaying("replicas", json!(2))).relay.expect("a relay");
    let hosts: Vec<_> = relay
        .licensed_hosts
        .iter()
        .map(|host| (host.name.as_str(), host.address.as_str(), host.port, host.weight))
        .collect();
    assert_eq!(hosts, [("a", "a.example", 1688, 100), ("b", "10.0.0.2", 1689, 0)]);
    assert_eq!(relay.licensed_hosts[0].products, ["OfficeLTSC2024"]);
}

#[test]
fn a_host_that_lacks_a_product_goes_behind_those_that_carry_all() {
    let mut host = host(relaying(
        "products",
        json!([{"name": "Office2019"}, {"name": "OfficeLTSC2024"}]),
    ));
    let row = |name: &str, products: Value| json!({"name": name, "products": products});
    let missing =
        json!([{"name": "Office2019", "licenseStatus": "Licensed"}, {"name": "OfficeLTSC2024", "step": "InstallKey"}]);
    host.status = Some(serde_json::from_value(json!({"licensedHosts": [row("a", missing)]})).expect("a status"));
    let places = |host: &OfficeKmsHost| {
        let relay = host_config(host, &Place::pod(host)).relay.expect("a relay");
        relay
            .licensed_hosts
            .into_iter()
            .map(|host| (host.name, host.products.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(places(&host), [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    for (status, carried) in [
        ("Licensed", 2),
        ("OutOfTolerance", 2),
        ("Unlicensed", 1),
        ("InitialGrace", 1),
        ("Notification", 1),
    ] {
        let second = json!([{"name": "OfficeLTSC2024", "licenseStatus": status, "step": "InstallKey"}]);
        let mut host = host.clone();
        host.status = Some(serde_json::from_value(json!({"licensedHosts": [row("a", second)]})).expect("a status"));
        let found = places(&host).into_iter().find(|(name, _)| name == "a");
        assert_eq!(found.expect("a place").1, carried, "{status}");
    }
    host.spec.routing = Some(serde_json::from_value(json!({"acceptUnequalHosts": true})).expect("routing"));
    assert_eq!(places(&host), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
}

#[test]
fn windows_clients_raise_the_required_count() {
    let required = |product: &str| {
        configured(relaying("products", json!([{"name": product}])))
            .routing
            .required_count
    };
    assert_eq!(required("Windows"), Some(25));
    assert_eq!(required("Office2019"), None);
}

#[test]
fn routing_is_what_the_spec_says() {
    let config = configured(relaying(
        "routing",
        json!({"acceptUnequalHosts": true, "noHost": "Fault", "activeHosts": 2}),
    ));
    assert_eq!(config.routing.mixed_product_sets, MixedProductSets::Accept);
    assert_eq!(config.routing.active_hosts, Some(2));
    assert_eq!(config.relay.expect("a relay").when_no_host, WhenNoHost::Fault);
}

#[test]
fn clients_are_those_of_the_spec() {
    let clients = configured(relaying(
        "clients",
        json!({
            "allowedCidrs": ["10.0.0.0/8", "fd00::/8"], "deniedCidrs": ["10.1.0.0/16"],
            "limits": {"connections": 7, "connectionsPerSource": 6, "requestsPerMinute": 5, "handshakeTimeoutSeconds": 4,
                       "idleTimeoutSeconds": 3, "requestTimeoutSeconds": 2},
            "proxyProtocol": {"trustedCidrs": ["10.9.0.0/24"]},
        }),
    ))
    .clients;
    assert_eq!(clients.allow.len(), 2);
    assert_eq!(clients.deny, ["10.1.0.0/16".parse().expect("a network")]);
    let limits = &clients.limits;
    assert_eq!(
        (
            limits.connections,
            limits.connections_per_source,
            limits.requests_per_minute_per_source
        ),
        (7, 6, 5)
    );
    let periods = [limits.handshake_timeout, limits.idle_timeout, limits.request_timeout];
    assert_eq!(periods, [4, 3, 2].map(Period::seconds));
    assert!(clients.proxy_protocol.expect("PROXY protocol").required);
}

#[test]
fn without_a_ledger_section_it_is_the_managed_one() {
    let ledger = configured(relaying("replicas", json!(1))).ledger;
    let redis = ledger.redis.expect("Redis");
    assert_eq!(redis.addresses, ["kms-redis.licensing.svc:6379"]);
    assert_eq!(redis.key_prefix, "okms:{licensing/kms}:");
    assert_eq!(
        redis.password_file,
        Some("/etc/officekms/secrets/redis-password".into())
    );
    assert_eq!(ledger.key_file, Some("/etc/officekms/secrets/ledger.key".into()));
}

#[test]
fn a_sentinel_ledger_is_reached_as_the_spec_says() {
    let ledger = configured(relaying(
        "ledger",
        json!({"redis": {
            "mode": "Sentinel", "addresses": ["s-0:26379", "[fd00::1]:26379"], "username": "okms", "database": 3,
            "passwordSecret": {"name": "redis", "key": "password"},
            "sentinel": {"masterName": "kms", "passwordSecret": {"name": "sentinel", "key": "password"}},
            "tls": {"caBundle": {"configMap": "ca"}},
        }}),
    ))
    .ledger;
    let redis = ledger.redis.expect("Redis");
    assert_eq!(
        (redis.mode, redis.database, redis.username.as_deref()),
        (ledger::RedisMode::Sentinel, 3, Some("okms"))
    );
    let sentinel = redis.sentinel.expect("Sentinel");
    assert_eq!(sentinel.master_name, "kms");
    assert_eq!(
        sentinel.password_file,
        Some("/etc/officekms/secrets/sentinel-password".into())
    );
    assert_eq!(
        redis.tls.expect("TLS").ca_file,
        Some("/etc/officekms/secrets/redis-ca.crt".into())
    );
}

#[test]
fn a_memory_ledger_needs_no_key_but_takes_one() {
    let key_file = |ledger: Value| {
        let config = configured(json!({"replicas": 1, "rehearsal": {}, "ledger": ledger}));
        assert!(config.ledger.redis.is_none());
        config.ledger.key_file
    };
    assert_eq!(key_file(json!({"memory": {}})), None);
    let given = key_file(json!({"memory": {}, "keySecret": {"name": "k", "key": "k"}}));
    assert_eq!(given, Some("/etc/officekms/secrets/ledger.key".into()));
}

#[test]
fn a_rehearsal_host_has_its_intervals_products_and_management() {
    let config = configured(json!({
        "replicas": 1,
        "rehearsal": {"activationIntervalMinutes": 15, "renewalIntervalMinutes": 43200, "managementSecret": {"name": "m"}},
        "products": [{"name": "Office2016"}, {"name": "OfficeLTSC2021"}],
    }));
    let rehearsal = config.rehearsal.expect("a rehearsal host");
    assert_eq!(
        (
            rehearsal.activation_interval_minutes,
            rehearsal.renewal_interval_minutes
        ),
        (15, 43_200)
    );
    assert_eq!(rehearsal.products.len(), 2);
    let management = rehearsal.management.expect("management");
    assert_eq!(management.listen.port(), MANAGEMENT_PORT);
    assert_eq!(
        management.username_file,
        Some("/etc/officekms/secrets/management-username".into())
    );
}

#[test]
fn another_place_changes_files_and_addresses_and_nothing_else() {
    let host = host(relaying("replicas", json!(2)));
    let pod = host_config(&host, &Place::pod(&host));
    let here = Place {
        files: Files::within("/run/okms"),
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        log: LogFormat::Text,
        ..Place::pod(&host)
    };
    let mut config = host_config(&host, &here);
    assert_eq!(config.ledger.key_file, Some("/run/okms/ledger.key".into()));
    config.ledger = pod.ledger.clone();
    config.listen.clone_from(&pod.listen);
    config.log = pod.log.clone();
    assert_eq!(config, pod);
}

fn cidrs() -> impl Strategy<Value = Vec<String>> {
    let network = prop_oneof![
        (any::<[u8; 4]>(), 8u8..=32).prop_map(|(address, length)| (std::net::IpAddr::from(address), length)),
        (any::<[u16; 8]>(), 8u8..=128).prop_map(|(address, length)| (std::net::IpAddr::from(address), length)),
    ];
    let text =
        network.prop_map(|(address, length)| IpNet::new(address, length).expect("a network").trunc().to_string());
    prop::collection::vec(text, 0..5)
}

fn clients_spec() -> impl Strategy<Value = Value> {
    let limits = (1..=1_000_000, 1..=100_000, 1..=1_000_000, 1..=300, 1..=3600, 1..=300).prop_map(
        |(connections, per_source, per_minute, handshake, idle, request)| {
            json!({
                "connections": connections, "connectionsPerSource": per_source, "requestsPerMinute": per_minute,
                "handshakeTimeoutSeconds": handshake, "idleTimeoutSeconds": idle, "requestTimeoutSeconds": request,
            })
        },
    );
    (cidrs(), prop::option::of(limits), cidrs()).prop_map(|(allowed, limits, trusted)| {
        let mut clients = json!({"allowedCidrs": allowed});
        if let Some(limits) = limits {
            clients["limits"] = limits;
        }
        if !trusted.is_empty() {
            clients["proxyProtocol"] = json!({"trustedCidrs": trusted});
        }
        clients
    })
}

fn ledger_spec() -> impl Strategy<Value = Value> {
    let address = prop_oneof![
        "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,8}){0,3}:[1-9][0-9]{0,3}",
        "\\[fd00::[0-9a-f]{1,4}\\]:6379"
    ];
    let secret = json!({"name": "redis", "key": "password"});
    prop_oneof![
        Just(json!({"managed": {}})),
        Just(json!({"memory": {}})),
        (address.clone(), 0..16, any::<bool>()).prop_map(move |(address, database, tls)| {
            let mut redis = json!({"addresses": [address], "database": database});
            if tls {
                redis["tls"] = json!({});
                redis["username"] = json!("okms");
                redis["passwordSecret"] = secret.clone();
            }
            json!({"redis": redis})
        }),
        prop::collection::vec(address, 1..5)
            .prop_map(|addresses| json!({"redis": {"mode": "Cluster", "addresses": addresses}})),
    ]
}

fn role_spec() -> impl Strategy<Value = Value> {
    let licensed = (1..=65_535, 0..=1000, "[a-zA-Z0-9_]{1,20}(\\.[a-zA-Z0-9]{1,10}){0,3}");
    let hosts = prop::collection::vec(licensed, 1..=32).prop_map(|hosts| {
        let hosts = hosts.into_iter().enumerate().map(|(at, (port, weight, address))| {
            json!({"name": format!("h{at}"), "address": format!("{address}.h{at}"), "port": port, "weight": weight})
        });
        json!({"licensedHosts": hosts.collect::<Vec<_>>()})
    });
    let rehearsal = (15..=43_200, 15..=43_200).prop_map(|(activation, renewal)| {
        json!({"rehearsal": {"activationIntervalMinutes": activation, "renewalIntervalMinutes": renewal}})
    });
    prop_oneof![hosts, rehearsal]
}

proptest! {
    #[test]
    fn kms_host_reads_the_configuration_of_any_good_spec(
        role in role_spec(), clients in clients_spec(), ledger in ledger_spec(),
        products in prop::sample::subsequence(vec!["Office2016", "Office2019", "OfficeLTSC2021", "OfficeLTSC2024"], 0..=4),
        active in prop::option::of(1..=32), grace in 5..=600,
    ) {
        let products: Vec<_> = products.into_iter().map(|name| json!({"name": name})).collect();
        let mut spec = json!({
            "replicas": 1, "clients": clients, "ledger": ledger, "products": products,
            "pod": {"terminationGracePeriodSeconds": grace},
        });
        for (section, value) in role.as_object().expect("sections") {
            spec[section] = value.clone();
        }
        if let Some(active) = active {
            spec["routing"] = json!({"activeHosts": active});
        }
        let host = host(spec);
        let config = host_config(&host, &Place::pod(&host));
        let text = written(&config);
        let read = load(&text, Path::new("host.yaml"));
        prop_assert!(read.is_ok(), "{}\n{}", read.unwrap_err(), text);
        prop_assert_eq!(read.expect("it was read"), config);
    }
}
