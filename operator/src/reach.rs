//! How a Windows machine is reached over WS-Management: from the spec and what it refers to, to wsman's endpoint. Pure.

use secrecy::ExposeSecret as _;
use wsman::client::{Credentials, Endpoint, Scheme, Transport};
use wsman::tls::Trust;

use crate::api::{self, Authentication, ConfigOrSecretKey, LicensedHost, ManagementSpec, WindowsDnsPublisher};
use crate::secrets::{Names, Objects, ValueError};

/// Key of the user's name in a `credentialsSecret`.
pub const USERNAME: &str = "username";
/// Key of the password in a `credentialsSecret`.
pub const PASSWORD: &str = "password";

/// What is common to all machines that are reached over WS-Management.
#[derive(Debug, Clone, Copy)]
pub struct Reach<'a> {
    address: &'a str,
    port: Option<i32>,
    transport: api::Transport,
    authentication: Authentication,
    credentials_secret: &'a str,
    ca_bundle: Option<&'a ConfigOrSecretKey>,
    certificate_sha256: Option<&'a str>,
}

/// A field that is to be corrected, below the one that holds the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `credentialsSecret`.
    pub field: &'static str,
    /// What is wrong, and what to do.
    pub message: String,
}

impl<'a> Reach<'a> {
    /// A licensed host's.
    #[must_use]
    pub fn to_host(host: &'a LicensedHost, management: &'a ManagementSpec) -> Self {
        Self {
            address: management.address.as_deref().unwrap_or(&host.address),
            port: management.port,
            transport: management.transport,
            authentication: management.authentication,
            credentials_secret: &management.credentials_secret.name,
            ca_bundle: management.ca_bundle.as_ref(),
            certificate_sha256: management.certificate_sha256.as_deref(),
        }
    }

    /// A Windows DNS server's.
    #[must_use]
    pub fn to_dns(publisher: &'a WindowsDnsPublisher) -> Self {
        Self {
            address: &publisher.server,
            port: publisher.port,
            transport: publisher.transport,
            authentication: publisher.authentication,
            credentials_secret: &publisher.credentials_secret.name,
            ca_bundle: publisher.ca_bundle.as_ref(),
            certificate_sha256: publisher.certificate_sha256.as_deref(),
        }
    }

    /// Adds what it refers to.
    pub fn names(&self, names: &mut Names) {
        names.secret(self.credentials_secret);
        if let Some(bundle) = self.ca_bundle {
            names.either(bundle);
        }
    }

    /// The endpoint and the account.
    ///
    /// # Errors
    /// Every field that is to be corrected.
    pub fn resolve(&self, objects: &Objects) -> Result<(Endpoint, Credentials), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut secret = |key: &str| {
            let found = objects.secret_text(self.credentials_secret, key);
            found
                .map_err(|error| problems.push(credentials_problem(&error)))
                .ok()
                .map(|text| text.expose_secret().trim_end_matches(['\r', '\n']).to_owned())
        };
        let (user, password) = (secret(USERNAME), secret(PASSWORD));
        let trust = match (self.ca_bundle, self.certificate_sha256) {
            (_, Some(pin)) => pin.parse().map(Trust::Pinned).map_err(|error: wsman::tls::TrustError| {
                problems.push(Problem {
                    field: "certificateSha256",
                    message: error.to_string(),
                });
            }),
            (Some(bundle), None) => objects.bytes(bundle).map(Trust::Authorities).map_err(|error| {
                problems.push(Problem {
                    field: "caBundle",
                    message: error.to_string(),
                });
            }),
            (None, None) => Ok(Trust::System),
        };
        let default_port = match self.transport {
            api::Transport::Https => 5986,
            api::Transport::Http => 5985,
        };
        let port = self.port.map_or(Ok(default_port), u16::try_from).map_err(|_| {
            problems.push(Problem {
                field: "port",
                message: "a TCP port is 1 to 65535".to_owned(),
            });
        });
        problems.dedup();
        let (Some(user), Some(password), Ok(trust), Ok(port)) = (user, password, trust, port) else {
            return Err(problems);
        };
        let endpoint = Endpoint {
            host: self.address.to_owned(),
            port,
            transport: match self.transport {
                api::Transport::Https => Transport::Https(trust),
                api::Transport::Http => Transport::Http,
            },
            scheme: match self.authentication {
                Authentication::Ntlm => Scheme::Ntlm,
                Authentication::Basic => Scheme::Basic,
            },
        };
        Ok((
            endpoint,
            Credentials {
                user,
                password: password.into(),
            },
        ))
    }
}

fn credentials_problem(error: &ValueError) -> Problem {
    Problem {
        field: "credentialsSecret",
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LocalName;
    use crate::secrets::tests::secrets;

    fn management() -> ManagementSpec {
        ManagementSpec {
            mode: api::ManagementMode::Observe,
            transport: api::Transport::Https,
            authentication: Authentication::Ntlm,
            address: None,
            port: None,
            credentials_secret: LocalName { name: "account".into() },
            ca_bundle: None,
            certificate_sha256: None,
            settings: None,
            interval_seconds: 300,
        }
    }

    fn host() -> LicensedHost {
        LicensedHost {
            name: "kms01".into(),
            address: "kms01.example.com".into(),
            port: 1688,
            weight: 100,
            management: None,
        }
    }

    #[test]
    fn ports_follow_the_transport_and_a_line_break_is_no_part_of_a_password() {
        let objects = secrets(&[("account", "username", "admin"), ("account", "password", "pw\n")]);
        let mut management = management();
        let (endpoint, credentials) = Reach::to_host(&host(), &management).resolve(&objects).unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("kms01.example.com", 5986));
        assert_eq!(endpoint.transport, Transport::Https(Trust::System));
        assert_eq!(credentials.password.expose_secret(), "pw");
        management.transport = api::Transport::Http;
        management.address = Some("10.0.0.7".into());
        let (endpoint, _) = Reach::to_host(&host(), &management).resolve(&objects).unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), ("10.0.0.7", 5985));
    }

    #[test]
    fn each_field_to_correct_is_named_once() {
        let mut management = management();
        management.certificate_sha256 = Some("zz".into());
        let problems = Reach::to_host(&host(), &management)
            .resolve(&Objects::default())
            .unwrap_err();
        let fields: Vec<&str> = problems.iter().map(|problem| problem.field).collect();
        assert_eq!(fields, ["credentialsSecret", "certificateSha256"]);
        assert!(problems[0].message.contains("no Secret `account`"), "{problems:?}");
    }
}
