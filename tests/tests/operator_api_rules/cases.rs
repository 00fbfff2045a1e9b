//! Specs, names and changes that a rule of the definition refuses, and changes that none refuses.

use serde_json::{Value, json};

/// A case: the path of the rule, a piece of its message, and a spec that only this rule refuses.
pub(super) type Case = (&'static str, &'static str, Value);

/// `base` with these fields set.
fn with(mut base: Value, fields: &Value) -> Value {
    if let (Some(base), Some(fields)) = (base.as_object_mut(), fields.as_object()) {
        base.extend(fields.clone());
    }
    base
}

/// A good spec with these sections.
pub(super) fn relay(sections: &Value) -> Value {
    let spec = json!({"replicas": 1, "licensedHosts": [{"name": "a", "address": "a.example"}]});
    with(spec, sections)
}

fn managed(management: &Value) -> Value {
    let management = with(json!({"credentialsSecret": {"name": "s"}}), management);
    relay(&json!({"licensedHosts": [{"name": "a", "address": "a.example", "management": management}]}))
}

fn zone(publisher: &Value) -> Value {
    relay(&json!({"dns": {"zones": [with(json!({"name": "corp.example"}), publisher)]}}))
}

fn windows_dns(fields: &Value) -> Value {
    let publisher = json!({"server": "dc.example", "credentialsSecret": {"name": "s"}});
    zone(&json!({"windowsDns": with(publisher, fields)}))
}

fn redis(fields: &Value) -> Value {
    relay(&json!({"ledger": {"redis": with(json!({"addresses": ["redis:6379"]}), fields)}}))
}

/// Every rule but those about names and changes, each broken.
pub(super) fn cases() -> Vec<Case> {
    let pin = "0".repeat(64);
    let both = json!({"configMap": "a", "secret": "b"});
    vec![
        (".spec", "exactly one of licensedHosts", json!({"replicas": 1})),
        (
            ".spec",
            "exactly one of licensedHosts",
            relay(&json!({"rehearsal": {}})),
        ),
        (
            ".spec",
            "ledger.memory is one replica's own",
            relay(&json!({"replicas": 2, "ledger": {"memory": {}}})),
        ),
        (
            ".spec",
            "ledger.memory is one replica's own",
            relay(&json!({"autoscaling": {"maxReplicas": 2}, "ledger": {"memory": {}}})),
        ),
        (
            ".spec",
            "hostKeySecret is for licensed hosts",
            json!({"rehearsal": {}, "products": [{"name": "Office2019", "hostKeySecret": {"name": "s", "key": "k"}}]}),
        ),
        (
            ".spec",
            "management.mode Manage needs products",
            managed(&json!({"mode": "Manage"})),
        ),
        (
            ".spec.autoscaling",
            "must not be greater",
            relay(&json!({"autoscaling": {"minReplicas": 3, "maxReplicas": 2}})),
        ),
        (".spec.dns.zones[]", "exactly one publisher", zone(&json!({}))),
        (
            ".spec.dns.zones[]",
            "exactly one publisher",
            zone(&json!({"manual": {}, "dnsEndpoint": {}})),
        ),
        (
            ".spec.dns.zones[].windowsDns",
            "windowsDns over Http needs",
            windows_dns(&json!({"transport": "Http", "authentication": "Basic"})),
        ),
        (
            ".spec.dns.zones[].windowsDns",
            "set one of caBundle and certificateSha256",
            windows_dns(&json!({"certificateSha256": pin, "caBundle": {"configMap": "a"}})),
        ),
        (
            ".spec.dns.zones[].windowsDns.caBundle",
            "exactly one of configMap and secret",
            windows_dns(&json!({"caBundle": both})),
        ),
        (
            ".spec.ledger",
            "exactly one of ledger.redis",
            relay(&json!({"ledger": {}})),
        ),
        (
            ".spec.ledger",
            "exactly one of ledger.redis",
            relay(&json!({"ledger": {"memory": {}, "managed": {}}})),
        ),
        (
            ".spec.ledger.redis",
            "sentinel and mode",
            redis(&json!({"mode": "Sentinel"})),
        ),
        (
            ".spec.ledger.redis",
            "sentinel and mode",
            redis(&json!({"sentinel": {"masterName": "m"}})),
        ),
        (
            ".spec.ledger.redis",
            "exactly one address",
            redis(&json!({"addresses": ["a:1", "b:2"]})),
        ),
        (
            ".spec.ledger.redis.tls.caBundle",
            "exactly one of configMap and secret",
            redis(&json!({"tls": {"caBundle": {}}})),
        ),
        (
            ".spec.licensedHosts[].management",
            "management over Http needs",
            managed(&json!({"transport": "Http", "authentication": "Basic"})),
        ),
        (
            ".spec.licensedHosts[].management",
            "are for transport Https",
            managed(&json!({"transport": "Http", "certificateSha256": pin})),
        ),
        (
            ".spec.licensedHosts[].management",
            "set one of caBundle and certificateSha256",
            managed(&json!({"certificateSha256": pin, "caBundle": {"configMap": "a"}})),
        ),
        (
            ".spec.licensedHosts[].management.caBundle",
            "exactly one of configMap and secret",
            managed(&json!({"caBundle": both})),
        ),
        (
            ".spec.products[]",
            "confirmationIdSecret is for activation",
            relay(&json!({"products": [
                {"name": "Office2019", "hostKeySecret": {"name": "s", "key": "k"}, "confirmationIdSecret": {"name": "c"}},
            ]})),
        ),
        (
            ".spec.products[]",
            "confirmationIdSecret confirms a host key",
            relay(&json!({"products": [
                {"name": "Office2019", "activation": "Phone", "confirmationIdSecret": {"name": "c"}},
            ]})),
        ),
        (
            ".spec.service",
            "may be reachable from the internet",
            relay(&json!({"service": {"type": "LoadBalancer"}})),
        ),
        (
            ".spec.service",
            "may be reachable from the internet",
            relay(&json!({"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8", "::/0"]}})),
        ),
        (
            ".spec",
            "makes the replica one Windows host",
            json!({"replicas": 2, "rehearsal": {"managementSecret": {"name": "m"}}}),
        ),
        (
            ".spec",
            "rehearsal hosts answer for Office",
            json!({"rehearsal": {}, "products": [{"name": "WindowsServer"}]}),
        ),
        (
            ".spec.ledger.redis",
            "one database only",
            redis(&json!({"mode": "Cluster", "database": 1})),
        ),
        (
            ".spec.ledger.redis",
            "an ACL user needs a password",
            redis(&json!({"username": "okms"})),
        ),
        (
            ".spec.service",
            "nodePort needs type",
            relay(&json!({"service": {"nodePort": 31688}})),
        ),
        (
            ".spec.service",
            "need type LoadBalancer",
            relay(&json!({"service": {"class": "a"}})),
        ),
    ]
}

/// Names that no resource may have, each with a piece of the rule's message.
pub(super) fn bad_names() -> [(String, &'static str); 2] {
    [
        ("k".repeat(53), "at most 52 characters"),
        ("9kms".to_owned(), "becomes a Service name"),
    ]
}

/// Ledgers, and what each must not become: the volume of a managed one keeps its size and class.
pub(super) fn forbidden_changes() -> [(Value, Value); 6] {
    let stored = |storage: Value| json!({"managed": {"storage": storage}});
    let before = stored(json!({"size": "1Gi", "storageClassName": "a"}));
    [
        (before.clone(), stored(json!({"size": "2Gi", "storageClassName": "a"}))),
        (before.clone(), stored(json!({"size": "1Gi", "storageClassName": "b"}))),
        (before.clone(), stored(json!({"size": "1Gi"}))),
        (before, Value::Null),
        // Without a section it is managed, too.
        (Value::Null, stored(json!({"size": "2Gi"}))),
        (Value::Null, stored(json!({"storageClassName": "a"}))),
    ]
}

/// Changes of ledgers that are taken.
pub(super) fn allowed_changes() -> [(Value, Value); 3] {
    let small = json!({"managed": {"storage": {"size": "1Gi"}}});
    let own = json!({"redis": {"addresses": ["redis:6379"]}});
    [
        (Value::Null, small),
        (own.clone(), json!({"managed": {"storage": {"size": "5Gi"}}})),
        (Value::Null, own),
    ]
}
