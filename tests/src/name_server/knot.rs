//! Knot DNS.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use tokio::process::Command;

use super::{CLOSED, KEY, SECRET, ZONE, path, zone_file};

pub(super) fn command(directory: &Path, address: SocketAddr, algorithm: &str) -> Result<Command> {
    for zone in [ZONE, CLOSED] {
        let file = directory.join(format!("{zone}.zone"));
        if !file.exists() {
            fs::write(file, zone_file(zone))?;
        }
    }
    // Updates are journalled there; Knot does not create it.
    fs::create_dir_all(directory.join("db"))?;
    let state = path(directory)?;
    let (ip, port) = (address.ip(), address.port());
    let config = format!(
        "server:\n  rundir: \"{state}\"\n  listen: {ip}@{port}\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: \"{state}/db\"\n\
         log:\n  - target: stderr\n    any: info\n\
         key:\n  - id: {KEY}\n    algorithm: {algorithm}\n    secret: {SECRET}\n\
         acl:\n  - id: updates\n    key: {KEY}\n    action: update\n  - id: questions\n    key: {KEY}\n    action: query\n\
         \x20 - id: transfers\n    address: 127.0.0.0/8\n    action: transfer\n\
         template:\n  - id: default\n    storage: \"{state}\"\n    file: \"%s.zone\"\n\
         zone:\n  - domain: {ZONE}\n    acl: [updates, questions, transfers]\n  - domain: {CLOSED}\n    acl: questions\n"
    );
    let file = directory.join("knot.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("knotd");
    command.args(["-c", path(&file)?]);
    Ok(command)
}
