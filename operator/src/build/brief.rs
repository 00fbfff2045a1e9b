//! The replicas' configuration as it is written for them: without what is at its default. An operator knows fields that an
//! older host image refuses; it writes them when a spec asks for them, and not before. Nor does a new field with a default
//! restart a pod. A field whose default changes is to be written for as long as hosts of the version before are supported.

use kms_host::config::HostConfig;
use serde_json::{Map, Value, json};

/// The fields that a configuration must have where it has their section: of a list, those of each item. `true` takes a field
/// as it is.
fn needed() -> Value {
    json!({
        "relay": {"licensedHosts": {"name": true, "address": true}},
        "rehearsal": {"siteKeyFile": true, "products": true, "management": true},
        "ledger": {
            "memory": true,
            "redis": {"addresses": true, "sentinel": {"masterName": true}, "tls": {}},
        },
        "clients": {"proxyProtocol": {"trusted": true}},
    })
}

/// What of `config` differs from the defaults, or is needed.
///
/// # Errors
/// When a field that is needed is not in the list of [`needed`], which tests exclude.
pub(super) fn brief(config: &HostConfig) -> Result<Value, serde_json::Error> {
    let whole = serde_json::to_value(config)?;
    let bare = picked(&whole, &needed());
    let defaults = serde_json::to_value(serde_json::from_value::<HostConfig>(bare.clone())?)?;
    Ok(differing(&whole, &defaults, &bare))
}

/// What of `value` is in `pattern`.
fn picked(value: &Value, pattern: &Value) -> Value {
    match (value, pattern) {
        (Value::Object(fields), Value::Object(patterns)) => patterns
            .iter()
            .filter_map(|(name, pattern)| Some((name.clone(), picked(fields.get(name)?, pattern))))
            .collect::<Map<_, _>>()
            .into(),
        (Value::Array(items), Value::Object(_)) => items.iter().map(|item| picked(item, pattern)).collect(),
        _ => value.clone(),
    }
}

/// What of `value` differs from `default`, or is in `bare`.
fn differing(value: &Value, default: &Value, bare: &Value) -> Value {
    match (value, default) {
        (Value::Object(fields), Value::Object(defaults)) => {
            let mut kept = Map::new();
            for (name, field) in fields {
                let (default, bare) = (defaults.get(name), bare.get(name));
                if default == Some(field) && bare.is_none() {
                    continue;
                }
                let (default, bare) = (default.unwrap_or(&Value::Null), bare.unwrap_or(&Value::Null));
                kept.insert(name.clone(), differing(field, default, bare));
            }
            kept.into()
        }
        (Value::Array(items), Value::Array(defaults)) if items.len() == defaults.len() && bare.is_array() => items
            .iter()
            .zip(defaults)
            .enumerate()
            .map(|(index, (item, default))| differing(item, default, bare.get(index).unwrap_or(&Value::Null)))
            .collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fixtures;
    use crate::build::host_config::{Place, host_config};

    fn of(spec: Value) -> Value {
        let host = fixtures::host(spec);
        brief(&host_config(&host, &Place::pod(&host))).expect("brief")
    }

    #[test]
    fn what_is_at_its_default_is_not_written() {
        let written = of(json!({"licensedHosts": [{"name": "a", "address": "a.example"}],
            "clients": {"limits": {"connections": 7}}}));
        assert_eq!(
            written["clients"],
            json!({"limits": {"connections": 7, "requestTimeout": "20s"}})
        );
        assert_eq!(
            written["relay"]["licensedHosts"],
            json!([{"name": "a", "address": "a.example", "weight": 100, "products": ["OfficeLTSC2024"]}])
        );
        for section in ["interface", "timeouts", "pool", "health"] {
            assert_eq!(written["relay"].get(section), None, "{section}");
        }
        let ledger = written["ledger"]["redis"].as_object().expect("a section");
        assert_eq!(
            ledger.keys().collect::<Vec<_>>(),
            ["addresses", "keyPrefix", "passwordFile"]
        );
    }
}
