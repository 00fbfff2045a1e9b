//! The files that a Redis section names. They are read anew for each connection, and once by who checks a configuration.

use std::path::Path;

use redis::{ClientTlsConfig, ErrorKind, RedisError, RedisResult, TlsCertificates};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::SecretString;

use crate::ledger::config::{RedisConfig, TlsConfig};

/// What is wrong with each file that the section names, and the name of the setting that names it.
pub(in crate::ledger) fn problems(config: &RedisConfig) -> Vec<(&'static str, RedisError)> {
    let sentinel = config.sentinel.as_ref();
    let sentinel_password = sentinel.and_then(|sentinel| sentinel.password_file.as_deref());
    let tls = config.tls.as_ref();
    let file = |of: fn(&TlsConfig) -> Option<&Path>| tls.and_then(of);
    let found = [
        ("passwordFile", read_password(config.password_file.as_deref()).err()),
        ("sentinel.passwordFile", read_password(sentinel_password).err()),
        (
            "tls.caFile",
            file(|tls| tls.ca_file.as_deref()).and_then(|file| authorities(file).err()),
        ),
        (
            "tls.certificateFile",
            file(|tls| tls.certificate_file.as_deref()).and_then(|file| chain(file).err()),
        ),
        (
            "tls.keyFile",
            file(|tls| tls.key_file.as_deref()).and_then(|file| private_key(file).err()),
        ),
    ];
    let found = found.into_iter();
    found.filter_map(|(setting, error)| Some((setting, error?))).collect()
}

pub(super) fn read_password(file: Option<&Path>) -> RedisResult<Option<SecretString>> {
    let Some(file) = file else { return Ok(None) };
    let content = std::fs::read_to_string(file).map_err(|error| unusable(file, error))?;
    let password = content.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(unusable(file, "it holds no password"));
    }
    Ok(Some(password.to_owned().into()))
}

pub(super) fn certificates(tls: &TlsConfig) -> RedisResult<TlsCertificates> {
    let client_tls = match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate), Some(key)) => Some(ClientTlsConfig {
            client_cert: chain(certificate)?,
            client_key: private_key(key)?,
        }),
        _ => None,
    };
    Ok(TlsCertificates {
        client_tls,
        root_cert: tls.ca_file.as_deref().map(authorities).transpose()?,
    })
}

/// PEM with authorities, of which each can be used.
fn authorities(file: &Path) -> RedisResult<Vec<u8>> {
    let (pem, certificates) = read_certificates(file)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store.add(certificate).map_err(|error| unusable(file, error))?;
    }
    Ok(pem)
}

/// PEM with a certificate at least.
fn chain(file: &Path) -> RedisResult<Vec<u8>> {
    read_certificates(file).map(|(pem, _)| pem)
}

fn read_certificates(file: &Path) -> RedisResult<(Vec<u8>, Vec<CertificateDer<'static>>)> {
    let pem = read(file)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(file, error))?;
    if certificates.is_empty() {
        return Err(unusable(file, pem::Error::NoItemsFound));
    }
    Ok((pem, certificates))
}

fn private_key(file: &Path) -> RedisResult<Vec<u8>> {
    let pem = read(file)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(file, error))?;
    Ok(pem)
}

fn read(file: &Path) -> RedisResult<Vec<u8>> {
    std::fs::read(file).map_err(|error| unusable(file, error))
}

fn unusable(file: &Path, why: impl std::fmt::Display) -> RedisError {
    let what = "a file of the ledger's configuration cannot be used";
    (
        ErrorKind::InvalidClientConfig,
        what,
        format!("{}: {why}", file.display()),
    )
        .into()
}
