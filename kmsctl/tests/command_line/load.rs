//! `kmsctl load`: a service with the limits that it has when nobody changes them.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::running::{Up, example};

#[test]
fn a_service_as_up_runs_it_answers_as_fast_as_it_can() -> Result<()> {
    let up = Up::start(&example("demo.yaml"), &["--clients", "0"])?;
    // More than the relays would take from one address; a busy machine needs several goes.
    let mut answered = 0;
    for _ in 0..30 {
        let (load, code) = up.json(&["load", "--seconds", "2"])?;
        assert_eq!((&load["errors"], code), (&json!({}), Some(0)), "{load}");
        answered += load["answered"].as_u64().context("answers")?;
        if answered > 1200 {
            break;
        }
    }
    ensure!(answered > 1200, "only {answered} answers");
    let kept = [
        "load",
        "--seconds",
        "1",
        "--warm-up",
        "0",
        "--rate",
        "50",
        "--keep-open",
    ];
    let (load, code) = up.json(&kept)?;
    assert_eq!((&load["errors"], code), (&json!({}), Some(0)), "{load}");
    ensure!(load["answered"].as_u64() > Some(0), "{load}");
    Ok(())
}

#[test]
fn a_limit_that_one_address_reaches_is_named_and_many_addresses_do_not_reach_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("limited.yaml");
    let text = "apiVersion: officekms.io/v1alpha1\nkind: OfficeKmsHost\nmetadata: {name: limited}\n\
                spec: {replicas: 1, rehearsal: {}, clients: {limits: {requestsPerMinute: 1}}}\n";
    std::fs::write(&manifest, text)?;
    let up = Up::start(&manifest, &["--clients", "0"])?;
    let load = ["load", "--seconds", "1", "--warm-up", "0", "--rate", "50"];

    let (many, code) = up.json(&load)?;
    assert_eq!((&many["errors"], code), (&json!({}), Some(0)), "{many}");

    let (one, code) = up.json(&[&load[..], &["--sources", "127.1.0.1/32"]].concat())?;
    let errors = one["errors"].as_object().context("errors")?;
    assert_eq!((errors.is_empty(), code), (false, Some(1)), "{one}");
    let names_it =
        |error: &String| error.contains("clients.limits") && error.contains(r#"okms_refusals_total{reason="rate"}"#);
    ensure!(errors.keys().all(names_it), "{one}");
    Ok(())
}

#[test]
fn what_a_host_refuses_is_counted_apart_and_tells_in_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let manifest = folder.path().join("unlicensed.yaml");
    // A host that is managed begins without keys.
    let text = "apiVersion: officekms.io/v1alpha1\nkind: OfficeKmsHost\nmetadata: {name: unlicensed}\n\
                spec: {replicas: 1, rehearsal: {managementSecret: {name: account}}, products: [{name: OfficeLTSC2024}]}\n---\n\
                apiVersion: v1\nkind: Secret\nmetadata: {name: account}\nstringData: {username: a, password: b}\n";
    std::fs::write(&manifest, text)?;
    let up = Up::start(&manifest, &["--clients", "0"])?;
    let (load, code) = up.json(&["load", "--seconds", "1", "--warm-up", "0", "--rate", "50"])?;
    let refused = load["refused"].as_object().context("refusals")?;
    let refused: u64 = refused.values().filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(
        (load["answered"].as_u64(), &load["errors"]),
        (Some(refused), &json!({})),
        "{load}"
    );
    assert_eq!((refused > 0, code), (true, Some(4)), "{load}");
    Ok(())
}
