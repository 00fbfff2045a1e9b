//! Metrics of what licensed hosts say, prefix `okms_operator_licensed_host_`.
//!
//! They are written at each scrape from the newest outcomes, so that nothing is left of a resource or a host that is gone.
//! Their labels are names of specs, products and words of ours.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::facts::Product;
use super::plan::Plan;
use super::resource::Outcome;
use super::round::{Outcome as HostOutcome, Row};
use crate::looks::Key;

/// Licence statuses that hosts count requests by, in the order of [`super::facts::Totals::by_status`].
const STATUSES: [&str; 6] = [
    "Unlicensed",
    "Licensed",
    "InitialGrace",
    "OutOfTolerance",
    "NonGenuineGrace",
    "Notification",
];

type Labels = Vec<(&'static str, String)>;

/// The newest outcomes by resource. Cheap to clone.
#[derive(Clone, Default)]
pub struct LicensedHosts(Arc<Mutex<BTreeMap<Key, Arc<Outcome>>>>);

impl fmt::Debug for LicensedHosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LicensedHosts").finish_non_exhaustive()
    }
}

impl LicensedHosts {
    /// Takes the newest outcome of a resource.
    pub fn read(&self, key: &Key, outcome: &Arc<Outcome>) {
        self.lock().insert(key.clone(), Arc::clone(outcome));
    }

    /// Forgets a resource that is gone.
    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Arc<Outcome>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hosts<T>(&self, mut each: impl FnMut(&Labels, &Row) -> Vec<T>) -> Vec<T> {
        let all = self.lock();
        let mut found = Vec::new();
        for (key, outcome) in &*all {
            for row in &outcome.hosts {
                let mut labels = resource(key);
                labels.push(("host", row.host.clone()));
                found.extend(each(&labels, row));
            }
        }
        found
    }

    /// Of each product that a host is to carry.
    fn products<T>(&self, mut each: impl FnMut(&Labels, &Plan, Option<&Product>) -> Vec<T>) -> Vec<T> {
        self.hosts(|labels, row| {
            let HostOutcome::Read(report) = &row.outcome else {
                return Vec::new();
            };
            let plans = report.plans.iter();
            plans
                .flat_map(|plan| {
                    let labels = with(labels, "product", plan.product.name);
                    each(&labels, plan, report.facts.product(plan.product))
                })
                .collect()
        })
    }
}

fn resource(key: &Key) -> Labels {
    vec![("namespace", key.namespace.clone()), ("name", key.name.clone())]
}

fn with(labels: &Labels, name: &'static str, value: &str) -> Labels {
    let mut labels = labels.clone();
    labels.push((name, value.to_owned()));
    labels
}

impl Collector for LicensedHosts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let one =
            |labels: &Labels, value: Option<u32>| value.map(|value| (labels.clone(), value)).into_iter().collect();
        let counts = self.products(|labels, _, found| one(labels, found.and_then(|found| found.current_count)));
        gauges(
            &mut encoder,
            "count",
            "Current count of a product on a licensed host",
            None,
            counts,
        )?;
        let required = self.products(|labels, plan, _| one(labels, Some(plan.product.required)));
        gauges(
            &mut encoder,
            "required",
            "Count that a product's clients require",
            None,
            required,
        )?;
        let steps = self.products(|labels, plan, _| vec![(with(labels, "step", plan.step.as_str()), 1)]);
        gauges(&mut encoder, "product_step", "The next step of a product", None, steps)?;
        let statuses = self.products(|labels, _, found| {
            let status = found.map(|found| found.status.as_str());
            status
                .map(|status| (with(labels, "status", status), 1))
                .into_iter()
                .collect()
        });
        gauges(
            &mut encoder,
            "license_status",
            "Licence status of a product",
            None,
            statuses,
        )?;
        let readable = self.hosts(|labels, row| {
            let readable = matches!(row.outcome, HostOutcome::Read(_));
            vec![(labels.clone(), u32::from(readable))]
        });
        gauges(
            &mut encoder,
            "readable",
            "Whether a licensed host can be read",
            None,
            readable,
        )?;
        let now = Timestamp::now().as_millisecond();
        let ages = self.hosts(|labels, row| {
            let age = row
                .read_at
                .and_then(|at| u32::try_from(now.saturating_sub(at) / 1000).ok());
            one(labels, age)
        });
        let help = "Time since a licensed host was read";
        gauges(&mut encoder, "read_age", help, Some(&Unit::Seconds), ages)?;
        let duplicates = self
            .lock()
            .iter()
            .filter(|(_, outcome)| !outcome.hosts.is_empty())
            .map(|(key, outcome)| {
                (
                    resource(key),
                    u32::try_from(outcome.duplicate_cmids).unwrap_or(u32::MAX),
                )
            })
            .collect();
        let help = "CMIDs that several machines use";
        gauges(&mut encoder, "duplicate_cmids", help, None, duplicates)?;
        let requests = self.products(|labels, _, found| {
            let totals = found.map(|found| found.totals).unwrap_or_default();
            let by_status = STATUSES.iter().zip(totals.by_status);
            by_status
                .filter_map(|(status, total)| Some((with(labels, "status", status), total?)))
                .collect()
        });
        counters(
            &mut encoder,
            "requests",
            "Requests by the client's licence status",
            requests,
        )?;
        let failed = self.products(|labels, _, found| one(labels, found.and_then(|found| found.totals.failed)));
        counters(
            &mut encoder,
            "failed_requests",
            "Requests that a licensed host could not serve",
            failed,
        )
    }
}

fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    unit: Option<&Unit>,
    samples: Vec<(Labels, u32)>,
) -> fmt::Result {
    let name = format!("licensed_host_{name}");
    let mut family = encoder.encode_descriptor(&name, help, unit, MetricType::Gauge)?;
    for (labels, value) in samples {
        family.encode_family(&labels)?.encode_gauge(&i64::from(value))?;
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, samples: Vec<(Labels, u32)>) -> fmt::Result {
    let name = format!("licensed_host_{name}");
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
    for (labels, value) in samples {
        family
            .encode_family(&labels)?
            .encode_counter::<NoLabelSet, _, u64>(&u64::from(value), None)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::licensing::facts::{HostFacts, LicenseStatus, Totals};
    use crate::licensing::plan::{Reason, Step};
    use crate::licensing::products::HostProduct;
    use crate::licensing::visit::Report;
    use crate::metrics::Metrics;

    fn outcome() -> Arc<Outcome> {
        let product = HostProduct::named("Office2016").unwrap();
        let found = Product {
            id: product.id.unwrap(),
            status: LicenseStatus::Licensed,
            current_count: Some(7),
            totals: Totals {
                failed: Some(3),
                by_status: [Some(11), None, None, None, None, None],
                ..Totals::default()
            },
            ..Product::default()
        };
        let plan = Plan {
            product,
            step: Step::None,
            reason: Reason::Licensed,
            message: String::new(),
            installation_id: None,
        };
        let report = Report {
            facts: HostFacts {
                products: vec![found],
                ..HostFacts::default()
            },
            plans: vec![plan],
            ..Report::default()
        };
        let read = Row {
            host: "kms01".into(),
            outcome: HostOutcome::Read(Box::new(report)),
            read_at: Some(0),
            ..Row::default()
        };
        let off = Row {
            host: "kms02".into(),
            ..Row::default()
        };
        Arc::new(Outcome {
            hosts: vec![read, off],
            duplicate_cmids: 2,
            ..Outcome::default()
        })
    }

    #[test]
    fn what_hosts_say_can_be_read_and_goes_with_the_resource() {
        let metrics = Metrics::default();
        let key = Key {
            namespace: "office".into(),
            name: "kms".into(),
            uid: "1".into(),
        };
        metrics.licensed_hosts().read(&key, &outcome());
        let text = metrics.encode(0, 0, 0);
        let host = "namespace=\"office\",name=\"kms\",host=\"kms01\"";
        let product = format!("{host},product=\"Office2016\"");
        for line in [
            format!("licensed_host_count{{{product}}} 7"),
            format!("licensed_host_required{{{product}}} 5"),
            format!("licensed_host_product_step{{{product},step=\"None\"}} 1"),
            format!("licensed_host_license_status{{{product},status=\"Licensed\"}} 1"),
            format!("licensed_host_requests_total{{{product},status=\"Unlicensed\"}} 11"),
            format!("licensed_host_failed_requests_total{{{product}}} 3"),
            format!("licensed_host_readable{{{host}}} 1"),
            format!("licensed_host_readable{{{}}} 0", host.replace("kms01", "kms02")),
            format!("licensed_host_read_age_seconds{{{host}}} "),
            "licensed_host_duplicate_cmids{namespace=\"office\",name=\"kms\"} 2".to_owned(),
        ] {
            assert!(text.contains(&format!("okms_operator_{line}")), "{line} in {text}");
        }
        metrics.licensed_hosts().forget(&key);
        assert!(!metrics.encode(0, 0, 0).contains("kms01"));
    }
}
