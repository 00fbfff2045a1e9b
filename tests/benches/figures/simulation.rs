//! The simulated fleets of docs/routing.md: every client activates, however many hosts there are.
//!
//! Not a measurement: the same seed gives the same result on every machine. So the table and the drawing in the guide are
//! compared with what the code produces.

use std::path::Path;

use anyhow::{Context as _, Result};
use kms_host::routing::simulate::{self, Grid, MEASURED, Outcome, PolicyName};

use crate::table::Row;

pub(crate) fn measure() -> Result<Vec<Row>> {
    let outcomes = simulate::grid(&Grid::default());
    println!("{}", simulate::table(&outcomes));
    let enough: Vec<&Outcome> = outcomes
        .iter()
        .filter(|outcome| outcome.scenario.policy == PolicyName::CountAware)
        .filter(|outcome| outcome.scenario.clients >= outcome.scenario.required)
        .collect();
    let whole = |outcome: &&&Outcome| outcome.licensed_after == [1.0; MEASURED.len()];
    let (all, reached) = (enough.len(), enough.iter().filter(whole).count());
    let lost: u32 = enough.iter().map(|outcome| outcome.lost).sum();
    let guide = is_in_the_guide(&outcomes)?;
    Ok(vec![
        Row::goal(
            "simulated fleets of N clients or more: all licensed after 4 h, 24 h, 7 d and 40 d",
            format!("{all} of {all}"),
            format!("{reached} of {all}"),
            reached == all,
        ),
        Row::goal(
            "the same: clients that ever lose a licence",
            "0",
            lost.to_string(),
            lost == 0,
        ),
        Row::goal(
            "docs/routing.md and docs/routing.svg show what the simulation gives",
            "yes",
            if guide {
                "yes"
            } else {
                "no: run `kmsctl simulate -o summary --svg docs/routing.svg`"
            },
            guide,
        ),
    ])
}

fn is_in_the_guide(outcomes: &[Outcome]) -> Result<bool> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let read = |name: &str| std::fs::read_to_string(docs.join(name)).with_context(|| format!("docs/{name}"));
    Ok(read("routing.md")?.contains(&simulate::summary(outcomes)) && read("routing.svg")? == simulate::svg(outcomes))
}
