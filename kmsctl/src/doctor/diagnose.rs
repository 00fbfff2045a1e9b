//! From facts to findings. Pure: the same facts are the same findings.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kms_operator::api::{OfficeKmsHost, PAUSED_ANNOTATION, ServiceType};
use kms_operator::build::{Inputs, references, secrets};
use kms_operator::conditions::kind;
use kms_operator::validate;
use kube::ResourceExt as _;

use super::facts::{Facts, Resource};
use super::findings::Findings;
use super::pods;
use super::{Finding, State};

/// Version of the API that this program knows.
const VERSION: &str = "v1alpha1";

/// Everything that the facts say.
pub(super) fn diagnose(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut cluster = Findings::new(&mut found);
    definition(facts, &mut cluster);
    operators(facts, &mut cluster);
    permissions(facts, &mut cluster);
    if let Some(resources) = cluster.read("OfficeKmsHost", &facts.resources) {
        if resources.is_empty() && !matches!(facts.served, Ok(None)) {
            none_found(facts, &mut cluster);
        }
        for resource in resources {
            let host = &resource.host;
            let name = format!("{}/{}", host.namespace().unwrap_or_default(), host.name_any());
            let mut own = cluster.about(&name);
            self::resource(resource, &mut own);
        }
    }
    found
}

fn definition(facts: &Facts, found: &mut Findings<'_>) {
    match found.read("CRD", &facts.served) {
        None => {}
        Some(None) => found.add(
            State::Wrong,
            "CRD",
            "officekmshosts.officekms.io is not installed",
            "install the chart with crds.enabled, or: kmsctl crd | kubectl apply --server-side -f -".to_owned(),
        ),
        Some(Some(versions)) if versions.iter().any(|version| version == VERSION) => {
            found.good("CRD", format!("serves {VERSION}"));
        }
        Some(Some(versions)) => found.add(
            State::Wrong,
            "CRD",
            format!("serves {}, not {VERSION}", versions.join(", ")),
            "this kmsctl and the CRD are of different versions: kmsctl crd | kubectl apply --server-side -f -"
                .to_owned(),
        ),
    }
}

fn operators(facts: &Facts, found: &mut Findings<'_>) {
    let Some(operators) = found.read("operator", &facts.operators) else {
        return;
    };
    if operators.is_empty() {
        found.add(
            State::Wrong,
            "operator",
            "there is none: no Deployment has the label app.kubernetes.io/name=kms-operator",
            "install it: docs/install.md; until then nothing follows from a resource".to_owned(),
        );
    }
    let namespaces = facts.namespaces();
    let unserved = namespaces
        .iter()
        .filter(|namespace| !operators.is_empty() && !operators.iter().any(|operator| operator.serves(namespace)));
    for unserved in unserved {
        found.add(
            State::Wrong,
            "operator",
            format!("none of those that run here watches namespace {unserved}"),
            format!("list {unserved} in watchNamespaces of one of them, or install one for it: docs/install.md"),
        );
    }
    for operator in operators {
        let (namespace, name) = (&operator.namespace, &operator.name);
        if !namespaces.is_empty() && !namespaces.iter().any(|namespace| operator.serves(namespace)) {
            let watched = operator.watches.join(", ");
            found.good(
                "operator",
                format!("{namespace}/{name} watches only {watched}: this is not its business"),
            );
            continue;
        }
        let what = format!(
            "{namespace}/{name} has {} of {} replicas ready",
            operator.ready, operator.wanted
        );
        match operator.ready {
            _ if operator.wanted == 0 => found.add(
                State::Wrong,
                "operator",
                format!("{namespace}/{name} is scaled to none"),
                format!("kubectl -n {namespace} scale deployment/{name} --replicas=2"),
            ),
            0 => found.add(
                State::Wrong,
                "operator",
                what,
                format!(
                    "kubectl -n {namespace} describe deployment/{name}; kubectl -n {namespace} logs deployment/{name}"
                ),
            ),
            _ => found.good("operator", what),
        }
    }
}

fn permissions(facts: &Facts, found: &mut Findings<'_>) {
    let mut unread = None;
    let mut granted = 0;
    for permission in &facts.permissions {
        let group = if permission.group.is_empty() {
            String::new()
        } else {
            format!(".{}", permission.group)
        };
        match &permission.allowed {
            Ok(true) => granted += 1,
            Ok(false) => found.add(
                State::Wrong,
                "permission",
                format!(
                    "the operator ({}) may not {} {}{group} in namespace {}",
                    permission.account, permission.verb, permission.resource, permission.namespace
                ),
                "upgrade the chart together with the operator; with watchNamespaces, list this namespace there"
                    .to_owned(),
            ),
            Err(why) => unread = Some(why),
        }
    }
    if let Some(why) = unread {
        let what = format!("what the operator may do could not be asked: {why}");
        found.add(
            State::Unknown,
            "permission",
            what,
            "ask as somebody who may create subjectaccessreviews".to_owned(),
        );
    } else if granted > 0 {
        found.good(
            "permission",
            format!("the operator has the {granted} that it needs, as far as others are not named"),
        );
    }
}

fn none_found(facts: &Facts, found: &mut Findings<'_>) {
    let place = facts
        .asked
        .1
        .as_ref()
        .map_or("any namespace".to_owned(), |namespace| format!("namespace {namespace}"));
    let list = "kubectl get officekmshosts -A shows where there are some".to_owned();
    match &facts.asked.0 {
        Some(name) => found.add(
            State::Wrong,
            "OfficeKmsHost",
            format!("there is no `{name}` in {place}"),
            list,
        ),
        None => found.add(
            State::NotYet,
            "OfficeKmsHost",
            format!("there is none in {place}"),
            list,
        ),
    }
}

fn resource(resource: &Resource, found: &mut Findings<'_>) {
    let host = &resource.host;
    life(host, found);
    if let Err(problems) = validate::check(host) {
        for problem in problems.0 {
            found.add(
                State::Wrong,
                &problem.field,
                problem.message,
                "correct the manifest; kmsctl render -f checks it".to_owned(),
            );
        }
    }
    referred(resource, found);
    seen(host, found);
    for condition in host.status.iter().flat_map(|status| &status.conditions) {
        self::condition(host, condition, found);
    }
    hosts_and_zones(host, found);
    pods::workloads(resource, found);
    service(resource, found);
}

fn life(host: &OfficeKmsHost, found: &mut Findings<'_>) {
    if host
        .annotations()
        .get(PAUSED_ANNOTATION)
        .is_some_and(|paused| paused == "true")
    {
        found.add(
            State::NotYet,
            "pause",
            "changes are stopped by annotation",
            format!(
                "kubectl -n {} annotate officekmshost/{} {PAUSED_ANNOTATION}-",
                host.namespace().unwrap_or_default(),
                host.name_any()
            ),
        );
    }
    if host.metadata.deletion_timestamp.is_some() {
        found.add(
            State::NotYet,
            "deletion",
            format!("waits for {}", host.finalizers().join(", ")),
            "an operator must run to remove DNS records; the annotation officekms.io/skip-cleanup=\"true\" leaves them behind"
                .to_owned(),
        );
    }
}

/// Secrets that the operator generates may not be there yet.
fn referred(resource: &Resource, found: &mut Findings<'_>) {
    let host = &resource.host;
    let generated = secrets::generated(host);
    match Inputs::resolve(host, &resource.objects) {
        Ok(_) => found.good(
            "references",
            format!("{} lead where they should", references::mounted(host).len()),
        ),
        Err(problems) => {
            for problem in problems {
                let own = generated
                    .iter()
                    .find(|wanted| problem.message.contains(&format!("`{}`", wanted.name)));
                let unread = problem.message.contains("cannot be read");
                let (state, advice) = match own {
                    _ if unread => (State::Unknown, None),
                    Some(wanted) if resource.objects.is_absent(&wanted.name) => (
                        State::NotYet,
                        Some("the operator generates it: see whether one runs".to_owned()),
                    ),
                    Some(wanted) => (
                        State::Wrong,
                        Some(format!(
                            "Secret {} was generated and has been changed: restore it; a new ledger key makes what was recorded unreadable",
                            wanted.name
                        )),
                    ),
                    None => (State::Wrong, None),
                };
                found.add(state, &problem.field, problem.message, advice);
            }
        }
    }
}

/// Whether an operator has looked at the spec as it is now.
fn seen(host: &OfficeKmsHost, found: &mut Findings<'_>) {
    let observed = host.status.as_ref().and_then(|status| status.observed_generation);
    match (observed, host.metadata.generation) {
        // The API server begins a status with generation -1, so that tools do not take a new resource for one that is ready.
        (None | Some(..0), _) => found.add(
            State::Wrong,
            "status",
            "no operator has looked at it",
            "see whether one runs and whether its watchNamespaces holds this namespace".to_owned(),
        ),
        (Some(observed), Some(generation)) if observed < generation => found.add(
            State::NotYet,
            "status",
            format!("is of generation {observed}, and the spec of {generation}"),
            "wait a moment; if it stays so, look at the operator's log".to_owned(),
        ),
        _ => found.good("status", "is of the spec as it is now"),
    }
}

/// What it means that a condition is not as it should be: how it is then, and what to do.
fn meaning(type_: &str) -> Option<(State, &'static str)> {
    Some(match type_ {
        "Ready" => (State::NotYet, ""),
        "Available" => (State::Wrong, "no replica answers: see what is said of its pods"),
        "LedgerReady" => (
            State::Wrong,
            "check the ledger's address, password and certificate; the replicas' logs name the error",
        ),
        "HostsAnswer" => (
            State::Wrong,
            "kmsctl probe asks a host: is it on, is its KMS port open to the pods, does sppsvc run on it?",
        ),
        "HostsLicensed" => (
            State::Wrong,
            "kmsctl dlv shows each licensed host; kmsctl phone helps to activate one by telephone",
        ),
        "ThresholdMet" => (
            State::NotYet,
            "clients must ask until the count is reached; nothing is broken",
        ),
        "DnsPublished" => (State::Wrong, "kmsctl discover shows what clients find"),
        "HostsUnequal" => (
            State::Wrong,
            "install the missing host keys, or accept it by spec.routing.acceptUnequalHosts",
        ),
        "ClientsBypassRelay" => (
            State::Wrong,
            "remove the records, or list their targets in spec.dns.zones[].removeForeign",
        ),
        "Stalled" => (
            State::Wrong,
            "the operator waits for people: change what the message names",
        ),
        "Reconciling" => (State::NotYet, ""),
        // Told from the annotation.
        _ => return None,
    })
}

fn condition(host: &OfficeKmsHost, condition: &Condition, found: &mut Findings<'_>) {
    let (Some(good), Some((otherwise, advice))) = (kind::good(&condition.type_), meaning(&condition.type_)) else {
        return;
    };
    let about = format!("condition {}", condition.type_);
    let what = format!("{} ({}): {}", condition.status, condition.reason, condition.message);
    // A rehearsal host has no licensed hosts to be unequal, and so on: what the operator says it does not know is no fault.
    let state = match condition.status.as_str() {
        status if status == good => State::Good,
        "Unknown" if host.status.is_some() => State::Unknown,
        _ => otherwise,
    };
    let advice = (state != State::Good && !advice.is_empty()).then(|| advice.to_owned());
    found.add(state, &about, what, advice);
}

fn hosts_and_zones(host: &OfficeKmsHost, found: &mut Findings<'_>) {
    let Some(status) = &host.status else { return };
    for row in &status.licensed_hosts {
        let about = format!("licensed host {}", row.name);
        let message = row.message.clone().unwrap_or_default();
        match (row.reachable, row.licensed) {
            (Some(false), _) => found.add(
                State::Wrong,
                &about,
                format!("its WS-Management did not answer. {message}"),
                "check address, port and firewall; kmsctl dlv tries the same from here".to_owned(),
            ),
            (_, Some(false)) => found.add(
                State::Wrong,
                &about,
                format!("is not activated for all products. {message}"),
                None,
            ),
            (Some(true), Some(true)) => found.good(&about, "is activated"),
            _ if !message.is_empty() => found.add(State::Unknown, &about, message, None),
            _ => {}
        }
    }
    for zone in &status.dns {
        let about = format!("zone {}", zone.zone);
        let message = zone.message.clone().unwrap_or_default();
        if zone.verified {
            found.good(&about, "its name servers answer with our records");
        } else {
            let advice = format!("kmsctl discover --zone {} shows what clients find", zone.zone);
            found.add(State::Wrong, &about, format!("is not verified. {message}"), advice);
        }
        for record in &zone.foreign {
            let advice = "remove it, or list its target in removeForeign".to_owned();
            found.add(
                State::Wrong,
                &about,
                format!("holds another's record: {record}"),
                advice,
            );
        }
    }
}

fn service(resource: &Resource, found: &mut Findings<'_>) {
    let Some(service) = found.read("Service", &resource.service) else {
        return;
    };
    let wanted = resource
        .host
        .spec
        .service
        .as_ref()
        .map(|service| service.type_)
        .unwrap_or_default();
    let Some(service) = service else {
        found.add(
            State::NotYet,
            "Service",
            "does not exist",
            "the operator creates it: see whether one runs".to_owned(),
        );
        return;
    };
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_address = balancer
        .and_then(|balancer| balancer.ingress.as_ref())
        .is_some_and(|list| !list.is_empty());
    if wanted == ServiceType::LoadBalancer && !has_address {
        found.add(
            State::Wrong,
            "Service",
            "has no address from a load balancer",
            "see whether the cluster has a controller for load balancers (a cloud's, MetalLB) and which class it wants: spec.service.class".to_owned(),
        );
    } else {
        found.good("Service", "exists");
    }
}
