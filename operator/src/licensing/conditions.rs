//! Conditions about licensed hosts, from the rows of a round. Pure.

use std::collections::BTreeSet;

use super::facts::LicenseStatus;
use super::plan::Step;
use super::products::HostProduct;
use super::round::{Outcome, Row};

/// A condition's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// True, False, or Unknown when none.
    pub status: Option<bool>,
    /// One word.
    pub reason: &'static str,
    /// What is, and what to do.
    pub message: String,
}

impl Verdict {
    fn new(status: Option<bool>, reason: &'static str, message: String) -> Self {
        Self {
            status,
            reason,
            message: message.chars().take(1024).collect(),
        }
    }

    /// What cannot be told now.
    pub(super) fn unknown(reason: &'static str, message: &str) -> Self {
        Self::new(None, reason, message.to_owned())
    }

    /// Whether `who`'s count reaches the required one.
    pub(crate) fn of_count(who: &str, count: u32, required: u32) -> Self {
        if count >= required {
            let message = format!("{who} counts {count} clients, {required} are required");
            return Self::new(Some(true), "CountReached", message);
        }
        let message =
            format!("{who} counts {count} clients, {required} are required: let more clients ask, or look for clones");
        Self::new(Some(false), "TooFewClients", message)
    }

    /// Adds something to the message.
    pub(super) fn append(&mut self, more: &str) {
        self.message = format!("{}; {more}", self.message).chars().take(1024).collect();
    }
}

/// `HostsLicensed`: whether every licensed host carries its products, activated. The first problem is told, and how many
/// more there are.
pub fn hosts_licensed(rows: &[Row]) -> Verdict {
    let mut problems = Vec::new();
    let mut read = 0;
    for row in rows {
        match &row.outcome {
            Outcome::Failed { reason, message } => problems.push((None, *reason, format!("{}: {message}", row.host))),
            Outcome::Waiting => {}
            Outcome::Read(report) => {
                read += 1;
                if report.plans.is_empty() && !report.serves() {
                    let text = format!(
                        "{}: no activated KMS host key is on it: name the products that it is to carry in spec.products",
                        row.host
                    );
                    problems.push((Some(false), "NoHostKey", text));
                }
                if let Some(plan) = report.plans.iter().find(|plan| plan.step != Step::None) {
                    problems.push((
                        Some(false),
                        plan.reason.as_str(),
                        format!("{}: {}", row.host, plan.message),
                    ));
                }
            }
        }
    }
    // What is known to be wrong is told before what is not known.
    problems.sort_by_key(|(status, ..)| status.is_none());
    let more = problems.len().saturating_sub(1);
    match problems.into_iter().next() {
        Some((status, reason, message)) if more == 0 => Verdict::new(status, reason, message),
        Some((status, reason, message)) => Verdict::new(status, reason, format!("{message} (and {more} more)")),
        None if read == 0 => Verdict::new(None, "NotRead", "no licensed host was read yet".to_owned()),
        None => Verdict::new(
            Some(true),
            "Licensed",
            format!("{read} licensed hosts carry their products, activated"),
        ),
    }
}

/// `HostsUnequal`: whether hosts behind one name carry different activated products; clients then get 0xC004F042 by
/// luck.
pub fn hosts_unequal(rows: &[Row]) -> Verdict {
    let sets: Vec<(&str, BTreeSet<String>)> = rows
        .iter()
        .filter_map(|row| match &row.outcome {
            Outcome::Read(report) => {
                let licensed = report
                    .facts
                    .products
                    .iter()
                    .filter(|found| found.status == LicenseStatus::Licensed);
                Some((
                    row.host.as_str(),
                    licensed.map(|found| found.description.clone()).collect(),
                ))
            }
            Outcome::Failed { .. } | Outcome::Waiting => None,
        })
        .collect();
    let mut all = BTreeSet::new();
    for (_, set) in &sets {
        all.extend(set.iter().map(String::as_str));
    }
    let lacking = sets.iter().find_map(|(host, set)| {
        let missing: Vec<&str> = all.iter().copied().filter(|product| !set.contains(*product)).collect();
        (!missing.is_empty()).then(|| (*host, missing.join(", ")))
    });
    match lacking {
        Some((host, missing)) => Verdict::new(
            Some(true),
            "ProductsDiffer",
            format!(
                "{host} lacks {missing}, which another host carries: clients get 0xC004F042 by luck; bring the hosts to \
                 the same products, or put them behind different names"
            ),
        ),
        None => Verdict::new(
            Some(false),
            "ProductsEqual",
            "the hosts that were read carry the same products".to_owned(),
        ),
    }
}

/// `ThresholdMet`: whether each product has a host whose count reaches what its clients require; what lacks is told. Where
/// no product is named, `required` is the count to reach.
pub fn threshold_met(rows: &[Row], required: u32) -> Verdict {
    let reports = || {
        rows.iter().filter_map(|row| match &row.outcome {
            Outcome::Read(report) => Some((row.host.as_str(), &**report)),
            Outcome::Failed { .. } | Outcome::Waiting => None,
        })
    };
    let mut products: Vec<&'static HostProduct> = Vec::new();
    for plan in reports().flat_map(|(_, report)| &report.plans) {
        if !products.contains(&plan.product) {
            products.push(plan.product);
        }
    }
    if products.is_empty() {
        let counts = reports().filter_map(|(host, report)| Some((host, report.current_count()?)));
        return match counts.max_by_key(|(_, count)| *count) {
            Some((host, count)) => Verdict::of_count(host, count, required),
            None => Verdict::new(None, "NoCount", "no host shows a count yet".to_owned()),
        };
    }
    let (mut reached, mut lacking, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for product in products {
        let counts = reports().filter_map(|(host, report)| Some((host, report.facts.product(product)?.current_count?)));
        let Some((host, count)) = counts.max_by_key(|(_, count)| *count) else {
            unknown.push(product.title);
            continue;
        };
        let text = format!(
            "{host} counts {count} clients of {}, {} are required",
            product.title, product.required
        );
        if count >= product.required {
            reached.push(text);
        } else {
            lacking.push(text);
        }
    }
    if !lacking.is_empty() {
        let text = format!("{}: let more clients ask, or look for clones", lacking.join("; "));
        return Verdict::new(Some(false), "TooFewClients", text);
    }
    if !unknown.is_empty() {
        let text = format!("no host shows a count of {} yet", unknown.join(", "));
        return Verdict::new(None, "NoCount", text);
    }
    Verdict::new(Some(true), "CountReached", reached.join("; "))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::licensing::facts::{HostFacts, Product};
    use crate::licensing::plan::{Plan, Reason};
    use crate::licensing::products::WINDOWS;
    use crate::licensing::visit::Report;

    fn row(host: &str, outcome: Outcome) -> Row {
        Row {
            host: host.into(),
            outcome,
            ..Row::default()
        }
    }

    fn read(host: &str, step: Step, reason: Reason, products: &[(&str, Option<u32>)]) -> Row {
        let products = products
            .iter()
            .map(|(description, count)| Product {
                description: (*description).to_owned(),
                status: LicenseStatus::Licensed,
                current_count: *count,
                ..Product::default()
            })
            .collect();
        let product = HostProduct::named("Office2016").unwrap();
        let plan = Plan {
            product,
            step,
            reason,
            message: format!("{reason}"),
            installation_id: None,
        };
        let facts = HostFacts {
            products,
            ..HostFacts::default()
        };
        row(
            host,
            Outcome::Read(Box::new(Report {
                facts,
                plans: vec![plan],
                ..Report::default()
            })),
        )
    }

    fn off(host: &str) -> Row {
        row(
            host,
            Outcome::Failed {
                reason: "HostUnreachable",
                message: "it is off".into(),
            },
        )
    }

    #[test]
    fn licensed_is_true_only_when_every_host_says_so() {
        let good = read("a", Step::None, Reason::Licensed, &[]);
        let limited = read("b", Step::Blocked, Reason::ActivationRefused, &[]);
        assert_eq!(hosts_licensed(std::slice::from_ref(&good)).status, Some(true));
        let both = hosts_licensed(&[off("c"), limited.clone(), good.clone()]);
        assert_eq!((both.status, both.reason), (Some(false), "ActivationRefused"));
        assert!(both.message.ends_with("(and 1 more)"), "{}", both.message);
        let away = hosts_licensed(&[good, off("c")]);
        assert_eq!((away.status, away.reason), (None, "HostUnreachable"));
        assert_eq!(hosts_licensed(&[row("a", Outcome::Waiting)]).reason, "NotRead");
    }

    #[test]
    fn hosts_with_different_products_are_unequal() {
        let a = read(
            "a",
            Step::None,
            Reason::Licensed,
            &[("Office 16", None), ("Office 19", None)],
        );
        let b = read("b", Step::None, Reason::Licensed, &[("Office 16", None)]);
        let unequal = hosts_unequal(&[a.clone(), b]);
        assert_eq!(unequal.status, Some(true));
        assert!(unequal.message.starts_with("b lacks Office 19"), "{}", unequal.message);
        assert_eq!(hosts_unequal(&[a, off("b")]).status, Some(false));
    }

    #[test]
    fn a_host_for_which_no_product_is_named_is_judged_by_what_it_carries() {
        let with = |status| {
            let product = Product {
                description: "Office 16, VOLUME_KMS channel".into(),
                status,
                current_count: Some(7),
                ..Product::default()
            };
            let facts = HostFacts {
                products: vec![product],
                ..HostFacts::default()
            };
            let report = Report {
                facts,
                ..Report::default()
            };
            [row("a", Outcome::Read(Box::new(report)))]
        };
        let carries = with(LicenseStatus::Licensed);
        assert_eq!(hosts_licensed(&carries).status, Some(true));
        assert_eq!(threshold_met(&carries, 5).status, Some(true));
        let none = hosts_licensed(&with(LicenseStatus::Unlicensed));
        assert_eq!((none.status, none.reason), (Some(false), "NoHostKey"));
    }

    #[test]
    fn each_product_needs_a_host_that_counts_enough_of_its_clients() {
        let counting = |host: &str, office: Option<u32>, windows: Option<u32>| {
            let products = ["Office2016", "Windows"].map(|name| HostProduct::named(name).unwrap());
            let found = |product: &HostProduct, count| Product {
                id: product.id.unwrap_or_default(),
                application: if product.id.is_none() { WINDOWS } else { Uuid::max() },
                description: "VOLUME_KMS channel".into(),
                partial_key: Some("AAAAA".into()),
                current_count: count,
                ..Product::default()
            };
            let report = Report {
                facts: HostFacts {
                    products: vec![found(products[0], office), found(products[1], windows)],
                    ..HostFacts::default()
                },
                plans: products
                    .map(|product| Plan {
                        product,
                        step: Step::None,
                        reason: Reason::Licensed,
                        message: String::new(),
                        installation_id: None,
                    })
                    .into(),
                ..Report::default()
            };
            row(host, Outcome::Read(Box::new(report)))
        };
        let judged = |rows: &[Row]| {
            let verdict = threshold_met(rows, 25);
            (verdict.status, verdict.message)
        };
        let (status, message) = judged(&[counting("a", Some(50), Some(7)), off("c")]);
        assert_eq!(status, Some(false));
        assert!(
            message.starts_with("a counts 7 clients of Windows, 25 are required"),
            "{message}"
        );
        let both = [counting("a", Some(5), Some(7)), counting("b", Some(0), Some(25))];
        assert_eq!(judged(&both).0, Some(true));
        assert_eq!(judged(&[counting("a", Some(5), None)]).0, None);
        assert_eq!(judged(&[off("c")]).0, None);
    }
}
