//! Whether an API server would take a document by the CRD's schema: fields, types and bounds. Pure.
//!
//! Rules in CEL are left out: the operator checks what matters of them ([`kms_operator::validate`]), whoever stored a resource.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kms_operator::api::OfficeKmsHost;
use kms_operator::validate::Problem;
use kube::{CustomResourceExt as _, Resource as _};
use regex::Regex;
use serde_json::{Map, Value};

/// Fields of every object, which the API server looks after itself.
const OF_ALL: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// The document without fields that are null, which an API server takes away before it looks.
pub(super) fn without_nulls(mut document: Value) -> Value {
    match &mut document {
        Value::Object(fields) => {
            let all = std::mem::take(fields).into_iter();
            let kept = all.filter(|(_, value)| !value.is_null());
            *fields = kept.map(|(name, value)| (name, without_nulls(value))).collect();
        }
        Value::Array(items) => *items = std::mem::take(items).into_iter().map(without_nulls).collect(),
        _ => {}
    }
    document
}

/// Everything for which an API server would refuse this document, an OfficeKmsHost by its kind and [`without_nulls`].
pub(super) fn check(document: &Value) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    let Some(fields) = document.as_object() else {
        found.add("the document", "is no map of fields");
        return found.0;
    };
    let version = OfficeKmsHost::api_version(&());
    match fields.get("apiVersion").and_then(Value::as_str) {
        Some(given) if given == version => {}
        Some(given) => found.add("apiVersion", format!("is `{given}`: write {version}")),
        None => found.add("apiVersion", format!("is missing: write {version}")),
    }
    metadata(fields.get("metadata"), &mut found);
    let own = fields.iter().filter(|(name, _)| !OF_ALL.contains(&name.as_str()));
    let own: Map<String, Value> = own.map(|(name, value)| (name.clone(), value.clone())).collect();
    found.value(&ROOT, &Value::Object(own), "");
    found.0
}

/// The schema of the version that this program knows.
static ROOT: LazyLock<Value> = LazyLock::new(|| {
    let definition = serde_json::to_value(OfficeKmsHost::crd()).unwrap_or_default();
    let schema = definition.pointer("/spec/versions/0/schema/openAPIV3Schema");
    schema.cloned().unwrap_or_default()
});

fn metadata(given: Option<&Value>, found: &mut Found) {
    let Some(given) = given else {
        found.add("metadata", "is missing: give it a name");
        return;
    };
    match serde_json::from_value::<ObjectMeta>(given.clone()) {
        Err(error) => found.add("metadata", error.to_string()),
        // What is not written again was not understood.
        Ok(read) => {
            let known = serde_json::to_value(read).unwrap_or_default();
            for (name, _) in given.as_object().into_iter().flatten() {
                if known.get(name).is_none() {
                    found.add(format!("metadata.{name}"), "is no field");
                }
            }
        }
    }
}

/// What was found so far.
struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem::new(path, message));
    }

    /// Adds what is wrong with the value at this path.
    fn value(&mut self, schema: &Value, value: &Value, path: &str) {
        if value.is_null() && is(schema, "nullable") {
            return;
        }
        let type_ = schema.get("type").and_then(Value::as_str);
        match (type_, value) {
            (None, _) if is(schema, "x-kubernetes-int-or-string") => match value {
                Value::String(text) => self.text(schema, text, path),
                Value::Number(number) if is_integer(number) => {}
                other => self.add(path, format!("is {}: write a number or a text", kind(other))),
            },
            (Some("object") | None, Value::Object(fields)) => self.object(schema, fields, path),
            (Some("array"), Value::Array(items)) => self.array(schema, items, path),
            (Some("string"), Value::String(text)) => self.text(schema, text, path),
            (Some("boolean"), Value::Bool(_)) | (None, _) => {}
            (Some("integer"), Value::Number(number)) if is_integer(number) => self.number(schema, number, path),
            (Some("number"), Value::Number(number)) => self.number(schema, number, path),
            (Some(wanted), other) => self.add(path, format!("is {}: write {}", kind(other), named(wanted))),
        }
    }

    fn object(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) {
        self.size(schema, fields.len(), "Properties", "entries", path);
        let properties = schema.get("properties").and_then(Value::as_object);
        for name in texts(schema, "required") {
            if !fields.contains_key(name) {
                self.add(below(path, name), "is missing");
            }
        }
        for (name, value) in fields {
            let path = below(path, name);
            let more = schema.get("additionalProperties");
            match (properties.and_then(|properties| properties.get(name)), more) {
                (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => self.value(schema, value, &path),
                (None, Some(Value::Bool(true))) => {}
                (None, _) if is(schema, "x-kubernetes-preserve-unknown-fields") => {}
                (None, _) => {
                    let known = properties.into_iter().flatten().map(|(name, _)| name.as_str());
                    let known = Vec::from_iter(known).join(", ");
                    self.add(path, format!("is no field: there are {known}"));
                }
            }
        }
    }

    fn array(&mut self, schema: &Value, items: &[Value], path: &str) {
        self.size(schema, items.len(), "Items", "entries", path);
        if let Some(schema) = schema.get("items") {
            for (at, item) in items.iter().enumerate() {
                self.value(schema, item, &format!("{path}[{at}]"));
            }
        }
        let keys = texts(schema, "x-kubernetes-list-map-keys");
        let mut seen = BTreeSet::new();
        for (at, item) in items.iter().enumerate() {
            let identity = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("map") => Vec::from_iter(keys.iter().map(|key| item.get(key).unwrap_or(&Value::Null).to_string())),
                Some("set") => vec![item.to_string()],
                _ => return,
            };
            let shown = identity.join(", ");
            if !seen.insert(identity) {
                self.add(format!("{path}[{at}]"), format!("is {shown} once more: give each once"));
            }
        }
    }

    fn text(&mut self, schema: &Value, text: &str, path: &str) {
        self.size(schema, text.chars().count(), "Length", "characters", path);
        let known = texts(schema, "enum");
        if schema.get("enum").is_some() && !known.contains(&text) {
            self.add(path, format!("is `{text}`: write one of {}", known.join(", ")));
        }
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
            && let Ok(regex) = Regex::new(pattern)
            && !regex.is_match(text)
        {
            self.add(path, format!("is `{text}`, which does not match {pattern}"));
        }
    }

    fn number(&mut self, schema: &Value, number: &serde_json::Number, path: &str) {
        let (Some(value), bound) = (number.as_f64(), |key| schema.get(key).and_then(Value::as_f64)) else {
            return;
        };
        if let Some(least) = bound("minimum").filter(|least| value < *least) {
            self.add(path, format!("is {number}: the least is {least}"));
        }
        if let Some(most) = bound("maximum").filter(|most| value > *most) {
            self.add(path, format!("is {number}: the most is {most}"));
        }
    }

    /// Adds what is wrong with a size by the bounds `min*` and `max*`.
    fn size(&mut self, schema: &Value, size: usize, bounds: &str, unit: &str, path: &str) {
        let bound = |which: &str| schema.get(format!("{which}{bounds}")).and_then(Value::as_u64);
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        if let Some(least) = bound("min").filter(|least| size < *least) {
            self.add(path, format!("has {size} {unit} and must have {least} at least"));
        }
        if let Some(most) = bound("max").filter(|most| size > *most) {
            self.add(path, format!("has {size} {unit} and may have {most}"));
        }
    }
}

fn is(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn texts<'a>(schema: &'a Value, key: &str) -> Vec<&'a str> {
    let texts = schema.get(key).and_then(Value::as_array).into_iter().flatten();
    texts.filter_map(Value::as_str).collect()
}

fn is_integer(number: &serde_json::Number) -> bool {
    number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

fn below(path: &str, name: impl Display) -> String {
    if path.is_empty() {
        name.to_string()
    } else {
        format!("{path}.{name}")
    }
}

/// What a value is, for people.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "empty",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map of fields",
    }
}

/// A type of a schema in the same words.
fn named(type_: &str) -> &str {
    match type_ {
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text (in quotes, where it looks like something else)",
        "array" => "a list",
        "object" => "a map of fields",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "apiVersion": "officekms.io/v1alpha1", "kind": "OfficeKmsHost",
            "metadata": {"name": "kms", "labels": {}, "namespace": null},
            "spec": {
                "licensedHosts": [{"name": "a", "address": "a.example", "port": null}, {"name": "b", "address": "b.example"}],
                "products": [{"name": "Office2019"}],
                "pod": {"resources": {"limits": {"cpu": 1, "memory": "64Mi"}}},
            },
        })
    }

    /// The problems after a value was put at a place.
    fn after(pointer: &str, value: Value) -> Vec<String> {
        let mut document = good();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match document.pointer_mut(parent).unwrap() {
            Value::Array(items) => items.push(value),
            parent => parent[field] = value,
        }
        check(&without_nulls(document))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn what_an_api_server_takes_is_taken() {
        assert_eq!(check(&without_nulls(good())), []);
    }

    #[test]
    fn each_kind_of_mistake_is_told_with_its_path() {
        let long = "x".repeat(254);
        for (pointer, value, told) in [
            (
                "/apiVersion",
                json!("officekms.io/v1"),
                "apiVersion: is `officekms.io/v1`",
            ),
            ("/metadata/nmae", json!("kms"), "metadata.nmae: is no field"),
            ("/metadata/labels", json!([]), "metadata: "),
            ("/specs", json!({}), "specs: is no field: there are spec, status"),
            ("/spec/replica", json!(2), "spec.replica: is no field: there are "),
            (
                "/spec/licensedHosts/0/adress",
                json!("b"),
                "spec.licensedHosts[0].adress: is no field: there are address, ",
            ),
            (
                "/spec/licensedHosts/0/address",
                json!(null),
                "spec.licensedHosts[0].address: is missing",
            ),
            (
                "/spec/licensedHosts/0/address",
                json!(long),
                "spec.licensedHosts[0].address: has 254 characters and may have 253",
            ),
            (
                "/spec/licensedHosts/0/name",
                json!(""),
                "spec.licensedHosts[0].name: has 0 characters and must have 1 at least",
            ),
            (
                "/spec/licensedHosts/0/port",
                json!(0),
                "spec.licensedHosts[0].port: is 0: the least is 1",
            ),
            (
                "/spec/licensedHosts/0/port",
                json!(65536),
                "spec.licensedHosts[0].port: is 65536: the most is 65535",
            ),
            (
                "/spec/licensedHosts/0/port",
                json!("1688"),
                "spec.licensedHosts[0].port: is a text: write a whole number",
            ),
            (
                "/spec/licensedHosts/0/port",
                json!(16.88),
                "spec.licensedHosts[0].port: is a number: write a whole number",
            ),
            (
                "/spec/licensedHosts/-",
                json!({"name": "a", "address": "c"}),
                "spec.licensedHosts[2]: is \"a\" once more",
            ),
            (
                "/spec/licensedHosts/-",
                json!(null),
                "spec.licensedHosts[2]: is empty: write a map of fields",
            ),
            (
                "/spec/licensedHosts",
                json!([]),
                "spec.licensedHosts: has 0 entries and must have 1 at least",
            ),
            (
                "/spec/products/-",
                json!({"name": "Office97"}),
                "spec.products[1].name: is `Office97`: write one of Office2016",
            ),
            (
                "/spec/pod/resources/limits/cpu",
                json!(true),
                "spec.pod.resources.limits.cpu: is true or false: write a number or",
            ),
            ("/spec/pod", json!([]), "spec.pod: is a list: write a map of fields"),
            (
                "/spec/ledger",
                json!({"managed": {"storage": {"size": "1 GB"}}}),
                "spec.ledger.managed.storage.size: is `1 GB`, which does not match ^",
            ),
        ] {
            let problems = after(pointer, value);
            assert!(
                problems.iter().any(|problem| problem.starts_with(told)),
                "{told}: {problems:?}"
            );
        }
        assert!(!check(&json!([])).is_empty());
        assert!(!check(&json!({"kind": "OfficeKmsHost"})).is_empty());
    }

    /// Words of the schema that [`Found::value`] looks at, or that refuse nothing here.
    const KNOWN: [&str; 23] = [
        "additionalProperties",
        "default",
        "description",
        "enum",
        // Numbers have bounds, and nobody writes a status.
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "nullable",
        "pattern",
        "properties",
        "required",
        "title",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        // CEL.
        "x-kubernetes-validations",
    ];

    #[test]
    fn no_word_of_the_schema_is_passed_over() {
        fn visit(schema: &Value, words: &mut BTreeSet<String>) {
            words.extend(schema.as_object().into_iter().flatten().map(|(word, _)| word.clone()));
            if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
                Regex::new(pattern).unwrap();
            }
            for (_, field) in schema
                .get("properties")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                visit(field, words);
            }
            for each in ["items", "additionalProperties"] {
                schema.get(each).into_iter().for_each(|each| visit(each, words));
            }
        }
        let mut words = BTreeSet::new();
        visit(&ROOT, &mut words);
        assert_eq!(Vec::from_iter(words), KNOWN);
    }
}
