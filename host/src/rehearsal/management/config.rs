//! The `rehearsal.management` section of the host's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use wsman::server::{Credentials, Identity};

use crate::config::place::SectionProblem;

/// WS-Management of a rehearsal host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagementConfig {
    /// Address on which it listens; Windows hosts use port 5986 for HTTPS and 5985 for HTTP.
    pub listen: SocketAddr,
    /// The account that may log on: `USER`, or `DOMAIN\USER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File with the account's name instead of `username`; a line break at its end does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// File with its password; a line break at its end does not count.
    pub password_file: PathBuf,
    /// Certificate chain (PEM) for HTTPS. Without it HTTP is served, with sealed messages only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether keys are installed and activated from the start. If not, clients are refused until somebody activates.
    #[serde(default)]
    pub starts_licensed: bool,
    /// Whether settings that are changed are shown only after the service `sppsvc` was restarted.
    #[serde(default)]
    pub settings_after_restart: bool,
    /// Products whose Volume License Pack is missing, by their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_packs: Vec<String>,
    /// The Windows that it shows.
    #[serde(default)]
    pub operating_system: OperatingSystem,
}

/// What `Win32_OperatingSystem` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OperatingSystem {
    /// Name.
    pub caption: String,
    /// Version, such as `10.0.20348`.
    pub version: String,
    /// Build, such as `20348`.
    pub build_number: String,
    /// 1 client, 2 domain controller, 3 server.
    pub product_type: u32,
}

impl Default for OperatingSystem {
    fn default() -> Self {
        Self {
            caption: "Microsoft Windows Server 2022 Standard".to_owned(),
            version: "10.0.20348".to_owned(),
            build_number: "20348".to_owned(),
            product_type: 3,
        }
    }
}

/// Why management cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// A file that holds one line is empty.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A file is not the PEM that it should be.
    #[error("{} is no PEM file with what is needed", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What happened.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not go together.
    #[error("certificate {} and key {} cannot be used together", certificate.display(), key.display())]
    Identity {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What happened.
        #[source]
        source: rustls::Error,
    },
    /// The address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] crate::serve::ListenError),
}

impl ManagementConfig {
    /// Everything wrong with this section that its types did not catch.
    pub(crate) fn problems(&self) -> Vec<SectionProblem> {
        let mut problems = Vec::new();
        if self.username.is_some() == self.username_file.is_some() {
            problems.push(SectionProblem::at(
                "username",
                "or usernameFile must be given, not both",
                "write USER or DOMAIN\\USER, or name the file that holds it",
            ));
        }
        if let Some(username) = &self.username
            && (username.is_empty() || username.len() > 256)
        {
            problems.push(SectionProblem::at(
                "username",
                "must have 1 to 256 characters",
                "write USER or DOMAIN\\USER",
            ));
        }
        if self.certificate_file.is_some() != self.key_file.is_some() {
            problems.push(SectionProblem::at(
                "certificateFile",
                "goes with keyFile",
                "give both for HTTPS, or neither for HTTP with sealed messages",
            ));
        }
        problems
    }

    pub(super) fn credentials(&self) -> Result<Credentials, ManagementError> {
        let user = match (&self.username, &self.username_file) {
            (None, Some(file)) => line(file)?,
            (username, _) => username.clone().unwrap_or_default(),
        };
        Ok(Credentials {
            user,
            password: line(&self.password_file)?.into(),
        })
    }

    /// What is wrong with each file that the section names, and the setting that names it.
    pub(crate) fn file_problems(&self) -> Vec<(&'static str, ManagementError)> {
        let named =
            |path: &Option<PathBuf>, wrong: fn(&Path) -> Option<ManagementError>| path.as_deref().and_then(wrong);
        let found = [
            ("usernameFile", named(&self.username_file, |path| line(path).err())),
            ("passwordFile", line(&self.password_file).err()),
            (
                "certificateFile",
                named(&self.certificate_file, |path| chain(path).err()),
            ),
            ("keyFile", named(&self.key_file, |path| private_key(path).err())),
        ];
        let found: Vec<_> = found
            .into_iter()
            .filter_map(|(setting, error)| Some((setting, error?)))
            .collect();
        if !found.is_empty() {
            return found;
        }
        let identity = self.identity().err();
        identity.map(|error| ("certificateFile", error)).into_iter().collect()
    }

    pub(super) fn identity(&self) -> Result<Option<Identity>, ManagementError> {
        let (Some(certificate), Some(key)) = (&self.certificate_file, &self.key_file) else {
            return Ok(None);
        };
        Identity::new(chain(certificate)?, private_key(key)?)
            .map(Some)
            .map_err(|source| ManagementError::Identity {
                certificate: certificate.clone(),
                key: key.clone(),
                source,
            })
    }
}

/// A file's one line, without the break at its end.
fn line(path: &Path) -> Result<String, ManagementError> {
    let text = read(path)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(ManagementError::Empty { path: path.to_owned() }),
        line => Ok(line.to_owned()),
    }
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, ManagementError> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(read(path)?.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|source| not_pem(path, source))?;
    if certificates.is_empty() {
        return Err(not_pem(path, pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ManagementError> {
    PrivateKeyDer::from_pem_slice(read(path)?.as_bytes()).map_err(|source| not_pem(path, source))
}

fn not_pem(path: &Path, source: pem::Error) -> ManagementError {
    ManagementError::Pem {
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> Result<String, ManagementError> {
    std::fs::read_to_string(path).map_err(|source| ManagementError::File {
        path: path.to_owned(),
        source,
    })
}
