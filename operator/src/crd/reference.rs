//! docs/reference/officekmshost.md: a table of every field, from the definition itself.

use std::fmt::Write as _;
use std::{fs, path::Path};

use kube::CustomResourceExt as _;
use serde_json::{Map, Value};

use crate::api::OfficeKmsHost;

/// Types of Kubernetes itself, which its own reference describes.
const KUBERNETES: [&str; 5] = [
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "resources",
    "conditions",
];

/// The page.
fn page() -> String {
    let definition = serde_json::to_value(OfficeKmsHost::crd()).expect("a definition is JSON");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut page = String::from(
        "# OfficeKmsHost\n\n\
         Generated from operator/src/api; a test fails when it differs. `kubectl explain officekmshost.spec` shows the same.\n\n\
         Group `officekms.io`, version `v1alpha1`, short name `okms`. Examples that a test reads: \
         [production](../examples/manifests/production.yaml), [rehearsal](../examples/manifests/rehearsal.yaml). \
         Conditions of the status: [conditions](conditions.md).\n",
    );
    rules(schema, "metadata", &mut page);
    for (name, title) in [("spec", "Spec"), ("status", "Status")] {
        let section = &schema["properties"][name];
        let _ = write!(page, "\n## {title}\n\n{}\n", sentence(section));
        table(&fields(section, "", false), &mut page);
        rules(section, "the spec as a whole", &mut page);
        for (field, schema) in properties(section) {
            let nested = fields(schema, field, true);
            if !nested.is_empty() {
                let _ = write!(page, "\n### {field}\n");
                table(&nested, &mut page);
            }
            let mut all = Vec::new();
            nested_rules(schema, field, &mut all);
            list(&all, &mut page);
        }
    }
    page
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
}

/// A list's items are what is described, not the list.
fn inner(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(schema)
}

fn sentence(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

struct Row {
    path: String,
    type_: String,
    default: String,
    description: String,
}

/// The fields below `schema`, of all levels if `deep`.
fn fields(schema: &Value, prefix: &str, deep: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let list = if schema.get("items").is_some() { "[]" } else { "" };
    let own = inner(schema);
    let required: Vec<&str> = own
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in properties(own) {
        let path = if prefix.is_empty() {
            name.clone()
        } else {
            format!("{prefix}{list}.{name}")
        };
        let default = match field.get("default") {
            Some(Value::Object(_)) | None if required.contains(&name.as_str()) => "required".to_owned(),
            Some(Value::Object(map)) if !map.is_empty() => "see below".to_owned(),
            Some(Value::Object(_)) | None => String::new(),
            Some(value) => format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned)),
        };
        rows.push(Row {
            type_: type_of(name, field),
            default,
            description: sentence(field),
            path: path.clone(),
        });
        if deep && !KUBERNETES.contains(&name.as_str()) {
            rows.extend(fields(field, &path, deep));
        }
    }
    rows
}

fn type_of(name: &str, schema: &Value) -> String {
    if KUBERNETES.contains(&name) {
        return "as Kubernetes".to_owned();
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let bounds = |least: Option<f64>, most: Option<f64>| match (least, most) {
        (Some(least), Some(most)) => format!(" {least}..{most}"),
        (Some(least), None) => format!(" from {least}"),
        (None, Some(most)) => format!(" up to {most}"),
        (None, None) => String::new(),
    };
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        let names: Vec<String> = values
            .iter()
            .filter_map(Value::as_str)
            .map(|name| format!("`{name}`"))
            .collect();
        return names.join(", ");
    }
    let kind = schema.get("type").and_then(Value::as_str).unwrap_or("any");
    match kind {
        "array" => {
            let items = type_of("", inner(schema));
            format!("list{}: {items}", bounds(number("minItems"), number("maxItems")))
        }
        "integer" => format!("integer{}", bounds(number("minimum"), number("maximum"))),
        "string" => match number("maxLength") {
            Some(most) => format!("string, {most} characters at most"),
            None => "string".to_owned(),
        },
        "object" if schema.get("additionalProperties").is_some() => "map of strings".to_owned(),
        kind => kind.to_owned(),
    }
}

fn table(rows: &[Row], page: &mut String) {
    page.push_str("\n| field | type | default | meaning |\n|---|---|---|---|\n");
    for Row {
        path,
        type_,
        default,
        description,
    } in rows
    {
        let _ = writeln!(page, "| `{path}` | {type_} | {default} | {description} |");
    }
}

fn messages(schema: &Value) -> Vec<String> {
    let rules = schema.get("x-kubernetes-validations").and_then(Value::as_array);
    let message = |rule: &Value| rule.get("message").and_then(Value::as_str).map(str::to_owned);
    rules.into_iter().flatten().filter_map(message).collect()
}

fn rules(schema: &Value, of: &str, page: &mut String) {
    let all: Vec<_> = messages(schema)
        .into_iter()
        .map(|message| (of.to_owned(), message))
        .collect();
    list(&all, page);
}

fn nested_rules(schema: &Value, path: &str, all: &mut Vec<(String, String)>) {
    let mut add = |schema: &Value| {
        all.extend(
            messages(schema)
                .into_iter()
                .map(|message| (format!("`{path}`"), message)),
        );
    };
    add(schema);
    let own = inner(schema);
    if schema.get("items").is_some() {
        add(own);
    }
    let none = Map::new();
    let fields = own.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, field) in fields {
        nested_rules(field, &format!("{path}.{name}"), all);
    }
}

fn list(rules: &[(String, String)], page: &mut String) {
    if rules.is_empty() {
        return;
    }
    page.push_str("\nRules:\n");
    for (of, message) in rules {
        let _ = writeln!(page, "- {of}: {message}");
    }
}

/// Set `UPDATE_GENERATED=1` to write the file anew.
#[test]
fn the_reference_is_what_the_definition_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/officekmshost.md");
    let generated = page();
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        fs::write(&path, &generated).expect("docs/reference can be written");
    }
    let stored = fs::read_to_string(&path).expect("docs/reference holds the page");
    assert!(
        stored == generated,
        "docs/reference/officekmshost.md differs: run this test with UPDATE_GENERATED=1"
    );
}

#[test]
fn every_field_says_what_it_means() {
    let definition = serde_json::to_value(OfficeKmsHost::crd()).expect("a definition is JSON");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for section in ["spec", "status"] {
        let rows = fields(&schema["properties"][section], section, true);
        assert!(rows.len() > 20);
        for row in rows {
            assert!(!row.description.is_empty(), "{} has no description", row.path);
        }
    }
}
