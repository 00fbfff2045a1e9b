//! `kms-host --check` reads the files that a configuration names, as a replica does when it starts.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::Result;
use system_tests::{program, redis::Tls};

/// Each setting that names a file, and the file.
const FILES: [(&str, &str); 11] = [
    ("rehearsal.siteKeyFile", "site.key"),
    ("rehearsal.management.usernameFile", "account"),
    ("rehearsal.management.passwordFile", "account-password"),
    ("rehearsal.management.certificateFile", "management.pem"),
    ("rehearsal.management.keyFile", "management.key"),
    ("ledger.keyFile", "ledger.key"),
    ("ledger.redis.passwordFile", "redis-password"),
    ("ledger.redis.sentinel.passwordFile", "sentinel-password"),
    ("ledger.redis.tls.caFile", "ca.pem"),
    ("ledger.redis.tls.certificateFile", "client.pem"),
    ("ledger.redis.tls.keyFile", "client.key"),
];

/// What each wrong file holds, and no output may.
const SECRET: &str = "hunter2";

fn put_good_files(folder: &Path, tls: &Tls) -> Result<()> {
    fs::write(folder.join("site.key"), [5; 32])?;
    fs::write(folder.join("ledger.key"), "07".repeat(32))?;
    for line in ["account", "account-password", "redis-password", "sentinel-password"] {
        fs::write(folder.join(line), "a line\n")?;
    }
    for (from, to) in [
        ("server.pem", "management.pem"),
        ("server.key", "management.key"),
        ("ca.pem", "ca.pem"),
        ("client.pem", "client.pem"),
        ("client.key", "client.key"),
    ] {
        fs::copy(tls.file(from), folder.join(to))?;
    }
    Ok(())
}

fn configuration(folder: &Path) -> String {
    let at = |file: &str| folder.join(file).display().to_string();
    serde_json::json!({
        "rehearsal": {
            "siteKeyFile": at("site.key"),
            "management": {
                "listen": "127.0.0.1:0", "usernameFile": at("account"), "passwordFile": at("account-password"),
                "certificateFile": at("management.pem"), "keyFile": at("management.key"),
            },
        },
        "ledger": {
            "keyFile": at("ledger.key"),
            "redis": {
                "addresses": ["127.0.0.1:1"], "mode": "sentinel", "username": "okms", "passwordFile": at("redis-password"),
                "sentinel": {"masterName": "ledger", "passwordFile": at("sentinel-password")},
                "tls": {"caFile": at("ca.pem"), "certificateFile": at("client.pem"), "keyFile": at("client.key")},
            },
        },
    })
    .to_string()
}

fn check(file: &Path) -> Result<Output> {
    let mut check = Command::new(program::path("kms-host")?);
    Ok(check.arg("--config").arg(file).arg("--check").output()?)
}

/// The settings that a check complains of; it shows no secret and ends as it should.
fn complaints(file: &Path) -> Result<Vec<&'static str>> {
    let output = check(file)?;
    let printed = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let printed = printed.concat();
    assert!(!printed.contains(SECRET), "{printed}");
    let named: Vec<_> = FILES
        .into_iter()
        .filter(|(setting, file)| {
            let its = |line: &&str| line.contains(&format!("`{setting}`"));
            let line = printed.lines().find(its);
            assert!(
                line.is_none_or(|line| line.contains(file)),
                "{file} is not named: {printed}"
            );
            line.is_some()
        })
        .map(|(setting, _)| setting)
        .collect();
    let expected = if named.is_empty() { 0 } else { 2 };
    assert_eq!(output.status.code(), Some(expected), "{printed}");
    Ok(named)
}

#[test]
fn a_file_that_is_missing_unreadable_empty_or_malformed_is_named_and_what_is_in_it_is_not() -> Result<()> {
    let (folder, tls) = (tempfile::tempdir()?, Tls::new()?);
    let folder = folder.path();
    let yaml = folder.join("config.yaml");
    fs::write(&yaml, configuration(folder))?;
    assert_eq!(complaints(&yaml)?.len(), FILES.len(), "none is there");
    put_good_files(folder, &tls)?;
    assert_eq!(complaints(&yaml)?, Vec::<&str>::new());

    for (setting, name) in FILES {
        let file = folder.join(name);
        let good = fs::read(&file)?;
        for (wrong, content) in [("empty", ""), ("one line break", "\n"), ("something else", SECRET)] {
            fs::write(&file, content)?;
            // Any line is a name or a password.
            let is_line = good == b"a line\n" && content == SECRET;
            let expected = if is_line { vec![] } else { vec![setting] };
            assert_eq!(complaints(&yaml)?, expected, "{name}: {wrong}");
        }
        fs::remove_file(&file)?;
        assert_eq!(complaints(&yaml)?, [setting], "{name}: missing");
        // Nobody reads a folder, not even who may read everything.
        fs::create_dir(&file)?;
        assert_eq!(complaints(&yaml)?, [setting], "{name}: unreadable");
        fs::remove_dir(&file)?;
        fs::write(&file, good)?;
    }

    // PEM, but of nothing that can be trusted; and a certificate with a key that is not its own.
    let pem = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
    fs::write(folder.join("ca.pem"), pem)?;
    fs::copy(tls.file("client.key"), folder.join("management.key"))?;
    assert_eq!(
        complaints(&yaml)?,
        ["rehearsal.management.certificateFile", "ledger.redis.tls.caFile"]
    );
    Ok(())
}
