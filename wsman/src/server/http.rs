//! HTTP of one connection: logon (Basic under TLS, NTLM anywhere), sealing, and the right status for each outcome.

use std::sync::{Arc, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::{Shared, soap};
use crate::ntlm::{Server, Session};
use crate::sealing;

const SOAP_TYPE: &str = "application/soap+xml;charset=UTF-8";

/// Where one connection stands.
enum Logon {
    /// Nobody yet.
    None,
    /// A challenge is out.
    Challenged(Server),
    /// NTLM has proved the account; the connection is its from here on.
    Proved(Session),
}

/// One connection's conversation. HTTP/1.1 brings requests one after the other.
pub(super) struct Conversation {
    shared: Arc<Shared>,
    logon: std::sync::Mutex<Logon>,
}

/// What a request's Authorization amounts to.
enum Admission {
    /// Go on.
    Yes,
    /// Go back with this challenge.
    Challenge(Vec<u8>),
    /// No.
    No,
}

impl Conversation {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            logon: std::sync::Mutex::new(Logon::None),
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/wsman" {
            return plain(StatusCode::NOT_FOUND);
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        let (head, body) = request.into_parts();
        // The body is read even when the logon fails: the connection must live on for NTLM.
        let body = match Limited::new(body, self.shared.limits.max_request).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return plain(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return plain(StatusCode::BAD_REQUEST),
        };
        let authorization = head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        match self.admit(authorization) {
            Admission::Yes => {}
            Admission::Challenge(token) => return self.unauthorized(Some(&token)),
            Admission::No => return self.unauthorized(None),
        }
        // A client may end its logon with an empty request before it seals the first real one.
        if body.is_empty() {
            return plain(StatusCode::OK);
        }
        let content_type = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let sealed = sealing::is_sealed(content_type);
        let envelope = match (sealed, self.shared.binding.is_some()) {
            (true, _) => match self.open(&body) {
                Some(envelope) => envelope,
                None => return plain(StatusCode::BAD_REQUEST),
            },
            (false, true) => body.to_vec(),
            // As AllowUnencrypted=false does on Windows.
            (false, false) => return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE),
        };
        let (fault, envelope) = soap::answer(&self.shared, &envelope).await;
        let status = if fault {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        };
        let (body, content_type) = if sealed {
            match self.seal(envelope.as_bytes()) {
                Some(body) => (body, sealing::CONTENT_TYPE),
                None => return plain(StatusCode::INTERNAL_SERVER_ERROR),
            }
        } else {
            (envelope.into_bytes(), SOAP_TYPE)
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    fn logon(&self) -> std::sync::MutexGuard<'_, Logon> {
        // The state is replaced as a whole, so a poisoned lock holds nothing half-done.
        self.logon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, authorization: Option<&[u8]>) -> Admission {
        let mut logon = self.logon();
        let Some((scheme, token)) = authorization.and_then(split) else {
            return if matches!(*logon, Logon::Proved(_)) {
                Admission::Yes
            } else {
                Admission::No
            };
        };
        // A new Authorization begins anew, whatever was proved before.
        let before = std::mem::replace(&mut *logon, Logon::None);
        if scheme.eq_ignore_ascii_case("basic") {
            let good = self.shared.binding.is_some() && self.is_password(&token);
            return if good { Admission::Yes } else { Admission::No };
        }
        if !scheme.eq_ignore_ascii_case("negotiate") && !scheme.eq_ignore_ascii_case("ntlm") {
            return Admission::No;
        }
        // The message type follows the 8 bytes of "NTLMSSP\0" (MS-NLMP 2.2.1).
        match (token.get(8), before) {
            (Some(1), _) => match Server::challenge(&token, self.shared.binding.as_deref()) {
                Ok((server, challenge)) => {
                    *logon = Logon::Challenged(server);
                    Admission::Challenge(challenge)
                }
                Err(_) => Admission::No,
            },
            (Some(3), Logon::Challenged(server)) => match server.authenticate(&token, &self.shared.account) {
                Ok(session) => {
                    *logon = Logon::Proved(session);
                    Admission::Yes
                }
                Err(error) => {
                    tracing::info!(error = %error, "a management logon was denied");
                    Admission::No
                }
            },
            _ => Admission::No,
        }
    }

    fn is_password(&self, token: &[u8]) -> bool {
        let account = &self.shared.account;
        let expected = format!("{}:{}", account.user, account.password.expose_secret());
        // Digests are compared, so that time tells nothing about how much was right.
        Sha256::digest(token) == Sha256::digest(expected)
    }

    fn open(&self, body: &[u8]) -> Option<Vec<u8>> {
        let parts = sealing::unwrap(body).ok()?;
        match &mut *self.logon() {
            Logon::Proved(session) => session.open(parts.signature, parts.data).ok(),
            Logon::None | Logon::Challenged(_) => None,
        }
    }

    fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        match &mut *self.logon() {
            Logon::Proved(session) => {
                let (signature, data) = session.seal(plain).ok()?;
                Some(sealing::wrap(&signature, &data))
            }
            Logon::None | Logon::Challenged(_) => None,
        }
    }

    fn unauthorized(&self, challenge: Option<&[u8]>) -> Response<Full<Bytes>> {
        let mut response = plain(StatusCode::UNAUTHORIZED);
        let headers = response.headers_mut();
        match challenge {
            Some(token) => {
                if let Ok(value) = HeaderValue::from_str(&format!("Negotiate {}", BASE64.encode(token))) {
                    headers.append(WWW_AUTHENTICATE, value);
                }
            }
            None => {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Negotiate"));
                if self.shared.binding.is_some() {
                    headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"WSMAN\""));
                }
            }
        }
        response
    }
}

fn split(authorization: &[u8]) -> Option<(&str, Vec<u8>)> {
    let (scheme, token) = std::str::from_utf8(authorization).ok()?.split_once(' ')?;
    Some((scheme, BASE64.decode(token.trim()).ok()?))
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
