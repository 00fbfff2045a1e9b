//! `kmsctl render`: the children of a manifest, offline, for review in a pull request.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use kms_operator::api::OfficeKmsHost;
use kms_operator::build::{self, Inputs, references, secrets};
use kms_operator::secrets::Objects;
use kms_operator::settings::Settings;
use kms_operator::validate;
use kube::ResourceExt as _;
use kube::core::DynamicObject;
use serde::Serialize;

use crate::exit::Exit;
use crate::manifest::{self, Manifest};
use crate::output::View;

/// Prints what the operator would create for the OfficeKmsHost resources of a manifest, without a cluster. Give it the
/// operator's own images, and the output of two versions of a manifest can be compared.
///
/// Secrets of the manifest are never printed; those that the operator would generate are named.
///
/// A manifest is refused that the CRD refuses by its fields, types and bounds, or the operator by what it checks itself. Not
/// checked without a cluster: the CRD's rules in CEL beyond that, admission policies and quotas, documents of other kinds.
///
/// Exit code 2: the manifest is wrong; every problem is printed.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Manifest with one or more documents; `-` for standard input
    #[arg(long, short, value_name = "FILE", required = true)]
    filename: PathBuf,
    /// Namespace of resources that name none
    #[arg(long, short, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
    /// Only the resource of this name
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

/// What would be created: a list as the API server has it, and what is not in it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    api_version: &'static str,
    kind: &'static str,
    /// The children, in the order in which they are applied.
    pub items: Vec<DynamicObject>,
    /// Secrets that the operator would generate once, with their keys.
    pub generated_secrets: Vec<Generated>,
    /// What is wrong with the manifest. Then there are no children.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// A Secret that the operator would generate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Generated {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its keys.
    pub keys: Vec<String>,
}

impl Report {
    /// How the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.problems.is_empty() {
            Exit::Ok
        } else {
            Exit::Usage
        }
    }
}

impl View for Report {
    fn view(&self, out: &mut dyn Write) -> io::Result<()> {
        for problem in &self.problems {
            writeln!(out, "# wrong: {problem}")?;
        }
        for Generated { namespace, name, keys } in &self.generated_secrets {
            writeln!(
                out,
                "# generated once: Secret {namespace}/{name} with {}",
                keys.join(", ")
            )?;
        }
        for item in &self.items {
            let text = serde_saphyr::to_string(item).map_err(io::Error::other)?;
            writeln!(out, "---\n{}", text.trim_end())?;
        }
        Ok(())
    }
}

/// Runs the command.
///
/// # Errors
/// When the file cannot be read.
pub fn run(args: &Args) -> Result<Report> {
    let text = manifest::read(&args.filename)?;
    Ok(render(&text, args))
}

fn render(text: &str, args: &Args) -> Report {
    let mut manifest = Manifest::parse(text);
    let mut report = Report {
        api_version: "v1",
        kind: "List",
        items: Vec::new(),
        generated_secrets: Vec::new(),
        problems: std::mem::take(&mut manifest.problems),
    };
    let wanted = |host: &OfficeKmsHost| args.name.as_ref().is_none_or(|name| *name == host.name_any());
    let mut hosts: Vec<_> = manifest.hosts.iter().filter(|host| wanted(host)).cloned().collect();
    if hosts.is_empty() && report.problems.is_empty() {
        let of_name = args
            .name
            .as_ref()
            .map_or_else(String::new, |name| format!(" of the name `{name}`"));
        report
            .problems
            .push(format!("there is no OfficeKmsHost{of_name} in it"));
    }
    for host in &mut hosts {
        host.metadata.namespace.get_or_insert_with(|| args.namespace.clone());
        if let Err(problems) = validate::check(host) {
            report.problems.extend(
                problems
                    .0
                    .into_iter()
                    .map(|problem| format!("{}: {problem}", host.name_any())),
            );
            continue;
        }
        let namespace = host.namespace().unwrap_or_default();
        let objects = manifest.objects(&namespace, &args.namespace);
        match inputs(host, &objects).and_then(|inputs| Ok(build::children(host, &args.settings, &inputs)?)) {
            Ok(children) => report.items.extend(children),
            Err(error) => report.problems.push(format!("{}: {error:#}", host.name_any())),
        }
        let generated = secrets::generated(host).into_iter().map(|wanted| Generated {
            namespace: namespace.clone(),
            name: wanted.name,
            keys: wanted.keys.into_iter().map(str::to_owned).collect(),
        });
        report.generated_secrets.extend(generated);
    }
    if !report.problems.is_empty() {
        report.items.clear();
        report.generated_secrets.clear();
    }
    report
}

/// Digests of keys, when the manifest brings everything that the pods mount; else pods are shown without.
fn inputs(host: &OfficeKmsHost, objects: &Objects) -> Result<Inputs> {
    let names = references::names(host);
    let all = names.secrets.iter().all(|name| objects.has_secret(name))
        && names.config_maps.iter().all(|name| objects.has_config_map(name));
    if !all {
        return Ok(Inputs::unread());
    }
    Inputs::resolve(host, objects).map_err(|problems| validate::Problems(problems).into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::output;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn rendered(text: &str, flags: &[&str]) -> (Report, String) {
        let line = ["render", "-f", "-", "--host-image", "registry.example/kms-host:1"];
        let args = Line::parse_from(line.iter().chain(flags)).args;
        let report = render(text, &args);
        let mut out = Vec::new();
        report.view(&mut out).expect("a view");
        (report, String::from_utf8(out).expect("text"))
    }

    const MANIFEST: &str = "
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {ledger: 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f, password: hunter2}
---
apiVersion: officekms.io/v1alpha1
kind: OfficeKmsHost
metadata: {name: kms}
spec:
  licensedHosts: [{name: a, address: kms-a.example}]
  ledger:
    keySecret: {name: keys, key: ledger}
    redis: {addresses: ['redis:6379'], passwordSecret: {name: keys, key: password}}
---
apiVersion: officekms.io/v1alpha1
kind: OfficeKmsHost
metadata: {name: drill, namespace: drills}
spec: {rehearsal: {}, replicas: 1}
";

    #[test]
    fn children_are_printed_and_secrets_are_not() {
        let (report, text) = rendered(MANIFEST, &["-n", "licensing"]);
        assert_eq!((report.exit(), report.problems.len()), (Exit::Ok, 0));
        let documents: Vec<DynamicObject> = serde_saphyr::from_multiple(&text).expect("YAML");
        assert_eq!(documents.len(), report.items.len());
        assert_eq!(documents[0].namespace().as_deref(), Some("licensing"));
        assert!(
            text.starts_with("# generated once: Secret drills/drill-keys with ledger-key, site-key\n"),
            "{text}"
        );
        assert!(
            text.contains("officekms.io/keys: "),
            "the manifest brings the keys, so their digest is known"
        );
        for secret in ["hunter2", "0001020304", "kind: Secret\n"] {
            assert!(!text.contains(secret), "{secret}");
        }
    }

    #[test]
    fn one_resource_can_be_asked_for() {
        let (report, _) = rendered(MANIFEST, &["drill"]);
        assert!(
            report
                .items
                .iter()
                .all(|item| item.namespace().as_deref() == Some("drills"))
        );
        let (report, text) = rendered(MANIFEST, &["none"]);
        assert_eq!(report.exit(), Exit::Usage);
        assert_eq!(text, "# wrong: there is no OfficeKmsHost of the name `none` in it\n");
    }

    #[test]
    fn every_problem_is_told_and_no_child_is_shown() {
        let wrong = MANIFEST.replace("rehearsal: {}, replicas: 1", "service: {type: LoadBalancer}")
            + "---\nkind: OfficeKmsHost\nspec: {replicas: many}\n---\nkind: Secret\ndata: {a: hunter2}\n";
        let (report, text) = rendered(&wrong, &[]);
        assert_eq!((report.exit(), report.items.len()), (Exit::Usage, 0));
        for problem in [
            "drill: spec.licensedHosts",
            "drill: spec.service",
            "document 4: OfficeKmsHost: spec.replicas: is a text: write a whole number",
            "document 4: OfficeKmsHost: metadata: is missing",
            "document 5: Secret",
        ] {
            assert!(text.contains(problem), "{problem}: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(rendered("a: [", &[]).0.exit(), Exit::Usage);
    }

    #[test]
    fn json_is_a_list_as_kubectl_reads_it() {
        let (report, _) = rendered(MANIFEST, &[]);
        let value = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            (value["kind"].as_str(), value["apiVersion"].as_str()),
            (Some("List"), Some("v1"))
        );
        assert_eq!(value["items"].as_array().map(Vec::len), Some(report.items.len()));
        output::print(output::Format::Json, &report).expect("printed");
    }
}
