//! How commands reach a licensed host by WS-Management: shared arguments.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use wsman::client::{Client, Credentials, Endpoint, Limits, Scheme, Transport};
use wsman::tls::Trust;

/// How the host is reached.
#[derive(Debug, Clone, clap::Args)]
pub struct Reach {
    /// The host's name or address; `HOST:PORT` for another port than 5986 (HTTPS) or 5985 (HTTP).
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        required_unless_present = "name",
        conflicts_with = "name"
    )]
    pub host: Option<String>,
    /// User: `USER`, `DOMAIN\USER` or `USER@DOMAIN`.
    #[arg(long, env = "OFFICEKMS_USER", required_unless_present = "name")]
    user: Option<String>,
    /// File with the password; a line break at its end does not count.
    #[arg(
        long,
        value_name = "FILE",
        env = "OFFICEKMS_PASSWORD_FILE",
        required_unless_present = "name"
    )]
    password_file: Option<PathBuf>,
    /// Plain HTTP; every message is then sealed by NTLM.
    #[arg(long, conflicts_with_all = ["basic", "ca", "pin"])]
    http: bool,
    /// Basic instead of NTLM.
    #[arg(long)]
    basic: bool,
    /// Certificates (PEM) of the authorities that may have signed the host's certificate; the system's when absent.
    #[arg(long, value_name = "FILE", conflicts_with = "pin")]
    ca: Option<PathBuf>,
    /// SHA-256 of the host's own certificate, in hexadecimal.
    #[arg(long, value_name = "SHA256")]
    pin: Option<String>,
    /// Seconds to wait for an answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    timeout: u64,
}

impl Reach {
    /// A client of the host; connects when first used.
    ///
    /// # Errors
    /// When a file cannot be read, or the arguments make no endpoint.
    pub fn client(&self) -> anyhow::Result<Client> {
        let host = self.host.as_deref().context("give a licensed host with --host")?;
        let user = self.user.clone().context("give its account with --user")?;
        let password_file = self
            .password_file
            .as_ref()
            .context("give the password with --password-file")?;
        let (host, port) = split(host, if self.http { 5985 } else { 5986 })?;
        let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let transport = match (&self.ca, &self.pin) {
            _ if self.http => Transport::Http,
            (Some(path), _) => Transport::Https(Trust::Authorities(read(path)?)),
            (None, Some(pin)) => Transport::Https(Trust::Pinned(pin.parse()?)),
            (None, None) => Transport::Https(Trust::System),
        };
        let password = String::from_utf8(read(password_file)?).context("the password is not UTF-8")?;
        let credentials = Credentials {
            user,
            password: password.trim_end_matches(['\r', '\n']).to_owned().into(),
        };
        let scheme = if self.basic { Scheme::Basic } else { Scheme::Ntlm };
        let limits = Limits {
            timeout: self.patience(),
            ..Limits::default()
        };
        Ok(Client::new(
            Endpoint {
                host,
                port,
                transport,
                scheme,
            },
            credentials,
            limits,
        )?)
    }
}

impl Reach {
    /// How long an answer is waited for.
    #[must_use]
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS` or `[ADDRESS]:PORT`.
fn split(text: &str, default: u16) -> anyhow::Result<(String, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').context("a `]` is missing in --host")?;
        let port = rest
            .strip_prefix(':')
            .map_or(Ok(default), str::parse)
            .context("the port of --host is no port")?;
        return Ok((address.to_owned(), port));
    }
    match text.rsplit_once(':') {
        // More than one colon is an IPv6 address without a port.
        Some((host, port)) if !host.contains(':') => {
            Ok((host.to_owned(), port.parse().context("the port of --host is no port")?))
        }
        _ => Ok((text.to_owned(), default)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_with_and_without_ports() {
        for (text, host, port) in [
            ("kms01", "kms01", 5986),
            ("kms01:443", "kms01", 443),
            ("192.0.2.7:1", "192.0.2.7", 1),
            ("2001:db8::7", "2001:db8::7", 5986),
            ("[2001:db8::7]:443", "2001:db8::7", 443),
        ] {
            assert_eq!(split(text, 5986).unwrap(), (host.to_owned(), port));
        }
        assert!(split("kms01:x", 5986).is_err());
    }
}
