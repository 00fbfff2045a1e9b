//! ISC BIND 9.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use tokio::process::Command;

use super::{CLOSED, KEY, SECRET, ZONE, path, zone_file};

pub(super) fn command(
    directory: &Path,
    address: SocketAddr,
    algorithm: &str,
    secondary_of: Option<SocketAddr>,
) -> Result<Command> {
    let (ip, port) = (address.ip(), address.port());
    let state = path(directory)?;
    let zones = match secondary_of {
        None => {
            for zone in [ZONE, CLOSED] {
                let file = directory.join(zone);
                if !file.exists() {
                    fs::write(file, zone_file(zone))?;
                }
            }
            format!(
                "zone \"{ZONE}\" {{ type primary; file \"{ZONE}\"; allow-update {{ key {KEY}; }}; notify no; }};\n\
                 zone \"{CLOSED}\" {{ type primary; file \"{CLOSED}\"; allow-update {{ none; }}; notify no; }};\n"
            )
        }
        Some(primary) => {
            // Without a copy it transfers the zone as it starts, and not when its timers say so.
            let copy = directory.join(ZONE);
            if copy.exists() {
                fs::remove_file(copy)?;
            }
            format!(
                "zone \"{ZONE}\" {{ type secondary; file \"{ZONE}\"; primaries {{ {} port {}; }}; notify no; \
                 min-refresh-time 3600; }};\n",
                primary.ip(),
                primary.port()
            )
        }
    };
    let config = format!(
        "options {{ directory \"{state}\"; pid-file \"{state}/pid\"; session-keyfile \"{state}/session.key\";\n\
         listen-on port {port} {{ {ip}; }}; listen-on-v6 {{ none; }}; recursion no; allow-transfer {{ any; }};\n\
         dnssec-validation no; minimal-responses yes; }};\n\
         controls {{ }};\n\
         key \"{KEY}\" {{ algorithm {algorithm}; secret \"{SECRET}\"; }};\n{zones}"
    );
    let file = directory.join("named.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("named");
    command.args(["-g", "-n", "1", "-c", path(&file)?]);
    Ok(command)
}
