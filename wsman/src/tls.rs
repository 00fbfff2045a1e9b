//! TLS for WS-Management: whom a client trusts, and the channel binding that ties NTLM to the TLS connection.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Whom a client trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Certificates that the operating system trusts for the host's name.
    System,
    /// Certificates that these authorities (PEM) signed for the host's name.
    Authorities(Vec<u8>),
    /// Exactly this certificate, whoever signed it and whatever names it carries.
    Pinned(Fingerprint),
}

/// SHA-256 of a certificate's DER form, written as 64 hexadecimal digits, colons allowed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Why trust cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The bundle is not PEM.
    #[error("the CA bundle is not PEM: give certificates between BEGIN CERTIFICATE and END CERTIFICATE lines")]
    NotPem(#[source] rustls::pki_types::pem::Error),
    /// The bundle holds nothing.
    #[error("the CA bundle holds no certificate")]
    Empty,
    /// TLS cannot be set up with it.
    #[error("the trusted certificates are of no use")]
    Certificate(#[source] rustls::Error),
    /// No verifier can be made of it.
    #[error("the CA bundle is of no use")]
    Verifier(#[source] rustls::client::VerifierBuilderError),
    /// Not 64 hexadecimal digits.
    #[error("the certificate fingerprint is not a SHA-256 of 64 hexadecimal digits")]
    Fingerprint,
}

impl Fingerprint {
    /// Of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = TrustError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digits = text
            .trim()
            .strip_prefix("sha256:")
            .unwrap_or(text.trim())
            .chars()
            .filter(|c| *c != ':');
        let mut bytes = [0; 32];
        for byte in &mut bytes {
            let mut digit = || {
                digits
                    .next()
                    .and_then(|c| c.to_digit(16))
                    .and_then(|d| u8::try_from(d).ok())
            };
            *byte = match (digit(), digit()) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => return Err(TrustError::Fingerprint),
            };
        }
        if digits.next().is_some() {
            Err(TrustError::Fingerprint)
        } else {
            Ok(Self(bytes))
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The TLS configuration of a client with this trust.
///
/// # Errors
/// When the bundle is of no use.
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::System => {
            Arc::new(rustls_platform_verifier::Verifier::new(provider.clone()).map_err(TrustError::Certificate)?)
        }
        Trust::Authorities(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots
                    .add(certificate.map_err(TrustError::NotPem)?)
                    .map_err(TrustError::Certificate)?;
            }
            if roots.is_empty() {
                return Err(TrustError::Empty);
            }
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(TrustError::Verifier)?
        }
        Trust::Pinned(fingerprint) => Arc::new(Pinned {
            fingerprint: *fingerprint,
            provider: provider.clone(),
        }),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Certificate)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Accepts one certificate; the handshake must still prove its private key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Fingerprint::of(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The `tls-server-end-point` channel binding of a server's certificate (RFC 5929 4.1): its hash under the hash of its
/// own signature algorithm, SHA-256 where that is weaker or unknown.
pub fn end_point_binding(certificate: &[u8]) -> Vec<u8> {
    let mut binding = b"tls-server-end-point:".to_vec();
    match signature_hash(certificate) {
        SignatureHash::Sha256 => binding.extend_from_slice(&Sha256::digest(certificate)),
        SignatureHash::Sha384 => binding.extend_from_slice(&Sha384::digest(certificate)),
        SignatureHash::Sha512 => binding.extend_from_slice(&Sha512::digest(certificate)),
    }
    binding
}

#[derive(Debug, PartialEq, Eq)]
enum SignatureHash {
    Sha256,
    Sha384,
    Sha512,
}

/// Finds Certificate.signatureAlgorithm (RFC 5280 4.1) and reads its hash.
fn signature_hash(certificate: &[u8]) -> SignatureHash {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
    let algorithm = || {
        let (fields, _) = der(certificate)?;
        let (_, after_tbs) = der(fields)?;
        let (algorithm, _) = der(after_tbs)?;
        let (oid, parameters) = der(algorithm)?;
        Some((oid, parameters))
    };
    let Some((oid, parameters)) = algorithm() else {
        return SignatureHash::Sha256;
    };
    if let Some(kind) = oid.strip_prefix(RSA) {
        return match kind {
            [12] => SignatureHash::Sha384,
            [13] => SignatureHash::Sha512,
            // RSASSA-PSS names its hash in the parameters.
            [10] => match parameters
                .windows(9)
                .find(|window| window.starts_with(SHA2))
                .and_then(<[u8]>::last)
            {
                Some(2) => SignatureHash::Sha384,
                Some(3) => SignatureHash::Sha512,
                _ => SignatureHash::Sha256,
            },
            _ => SignatureHash::Sha256,
        };
    }
    match oid.strip_prefix(ECDSA_SHA2) {
        Some([3]) => SignatureHash::Sha384,
        Some([4]) => SignatureHash::Sha512,
        _ => SignatureHash::Sha256,
    }
}

/// Splits one DER value off: its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest
            .split_at_checked(usize::from(first & 0x7f))
            .filter(|(digits, _)| digits.len() <= 4)?;
        (
            digits
                .iter()
                .fold(0_usize, |length, &digit| length << 8 | usize::from(digit)),
            rest,
        )
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_binding_hashes_as_the_certificate_is_signed() {
        let make = |algorithm| {
            let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
            rcgen::CertificateParams::new(vec!["kms01".to_owned()])
                .unwrap()
                .self_signed(&key)
                .unwrap()
                .der()
                .to_vec()
        };
        let p256 = make(&rcgen::PKCS_ECDSA_P256_SHA256);
        let p384 = make(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(signature_hash(&p256), SignatureHash::Sha256);
        assert_eq!(signature_hash(&p384), SignatureHash::Sha384);
        assert_eq!(end_point_binding(&p384).len(), 21 + 48);
    }

    #[test]
    fn fingerprints_are_read_with_and_without_colons() {
        let fingerprint = Fingerprint::of(b"x");
        let colons = fingerprint.0.map(|byte| format!("{byte:02X}")).join(":");
        assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
        assert_eq!(colons.parse::<Fingerprint>().unwrap(), fingerprint);
        assert!("abcd".parse::<Fingerprint>().is_err());
        assert!(format!("{fingerprint}0").parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_bundle_without_certificates_is_told() {
        assert!(matches!(
            client_config(&Trust::Authorities(b"nothing".to_vec())),
            Err(TrustError::Empty)
        ));
    }

    proptest! {
        #[test]
        fn certificates_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = end_point_binding(&bytes);
        }
    }
}
