//! PowerDNS Authoritative Server, with its zones in SQLite.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::{CLOSED, KEY, SECRET, ZONE, path};

/// Where Debian puts the tables' definitions.
const SCHEMA: &str = "/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql";

pub(super) fn command(directory: &Path, address: SocketAddr, algorithm: &str) -> Result<Command> {
    let database = directory.join("pdns.sqlite3");
    if !database.exists() {
        create(&database, algorithm)?;
    }
    let state = path(directory)?;
    let config = format!(
        "launch=gsqlite3\ngsqlite3-database={}\nlocal-address={}\nlocal-port={}\nsocket-dir={state}\n\
         dnsupdate=yes\nallow-dnsupdate-from=127.0.0.0/8\nallow-axfr-ips=127.0.0.0/8\ndisable-axfr=no\nguardian=no\ndaemon=no\ncache-ttl=0\nquery-cache-ttl=0\n\
         negquery-cache-ttl=0\nzone-cache-refresh-interval=0\nreceiver-threads=1\ndistributor-threads=1\nsetuid=\nsetgid=\n",
        path(&database)?,
        address.ip(),
        address.port(),
    );
    fs::write(directory.join("pdns.conf"), config)?;
    let mut command = Command::new("pdns_server");
    command.arg(format!("--config-dir={state}"));
    Ok(command)
}

fn create(database: &Path, algorithm: &str) -> Result<()> {
    let mut script = fs::read_to_string(SCHEMA).context("PowerDNS' schema for SQLite")?;
    for (id, zone) in [(1, ZONE), (2, CLOSED)] {
        script.push_str(&format!(
            "INSERT INTO domains (id, name, type) VALUES ({id}, '{zone}', 'NATIVE');\n\
             INSERT INTO records (domain_id, name, type, content, ttl, auth) VALUES\n\
             ({id}, '{zone}', 'SOA', 'ns.{zone} hostmaster.{zone} 1 3600 600 86400 60', 60, 1),\n\
             ({id}, '{zone}', 'NS', 'ns.{zone}', 60, 1), ({id}, 'ns.{zone}', 'A', '127.0.0.1', 60, 1);\n"
        ));
    }
    // A zone without this metadata takes updates from nobody by key; the other key is known to no client.
    script.push_str(&format!(
        "INSERT INTO tsigkeys (name, algorithm, secret) VALUES ('{KEY}', '{algorithm}', '{SECRET}');\n\
         INSERT INTO tsigkeys (name, algorithm, secret) VALUES ('nobody', '{algorithm}', 'bm9ib2R5');\n\
         INSERT INTO domainmetadata (domain_id, kind, content) VALUES (1, 'TSIG-ALLOW-DNSUPDATE', '{KEY}');\n\
         INSERT INTO domainmetadata (domain_id, kind, content) VALUES (2, 'TSIG-ALLOW-DNSUPDATE', 'nobody');\n"
    ));
    let output = process::Command::new("sqlite3").arg(database).arg(script).output();
    let output = output.context("sqlite3 runs")?;
    ensure!(
        output.status.success(),
        "sqlite3: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
