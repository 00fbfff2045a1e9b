//! One HTTP/1.1 connection: TCP, TLS, the logon that NTLM needs once per connection, and sealing.

use std::io;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Error, GRACE, Scheme, Target};
use crate::envelope::Operation;
use crate::ntlm::{self, Session};
use crate::{sealing, tls};

const SOAP_TYPE: &str = "application/soap+xml;charset=UTF-8";

/// A connection, perhaps logged on.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    session: Option<Session>,
    binding: Option<Vec<u8>>,
    pub(super) used_at: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    pub(super) async fn open(target: &Target) -> Result<Self, Error> {
        let limit = target.limits.timeout;
        let timed_out = |_| Error::Unreachable {
            host: target.name(),
            source: io::ErrorKind::TimedOut.into(),
        };
        let unreachable = |source| Error::Unreachable {
            host: target.name(),
            source,
        };
        let stream = timeout(limit, TcpStream::connect((target.host.as_str(), target.port)))
            .await
            .map_err(timed_out)?
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some((config, name)) = &target.tls else {
            return Self::over(stream, None, target).await;
        };
        let connecting = TlsConnector::from(config.clone()).connect(name.clone(), stream);
        let stream = timeout(limit, connecting)
            .await
            .map_err(|_| Error::Tls {
                host: target.name(),
                source: io::ErrorKind::TimedOut.into(),
            })?
            .map_err(|source| tls_error(target, source))?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let binding = certificate.map(|certificate| tls::end_point_binding(certificate));
        Self::over(stream, binding, target).await
    }

    async fn over<S>(stream: S, binding: Option<Vec<u8>>, target: &Target) -> Result<Self, Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(|source| Error::Broken {
            host: target.name(),
            operation: "connect",
            source: source.into(),
        })?;
        // Errors of the driver reach whoever waits for an answer.
        let driver = tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            sender,
            driver,
            session: None,
            binding,
            used_at: Instant::now(),
        })
    }

    /// Whether to use it once more. A method call wants it fresh: it is not repeated if the host is just closing it.
    pub(super) fn is_usable(&self, only_reads: bool, fresh: Duration) -> bool {
        !self.sender.is_closed() && (only_reads || self.used_at.elapsed() < fresh)
    }

    /// Sends an envelope and returns the answer's, opened if it was sealed.
    pub(super) async fn post(
        &mut self,
        target: &Target,
        operation: &Operation<'_>,
        envelope: &str,
    ) -> Result<Bytes, Error> {
        let what = operation.name();
        let authorization = match target.scheme {
            Scheme::Basic => Some(basic(target)),
            Scheme::Ntlm if self.session.is_none() => Some(self.log_on(target, what).await?),
            Scheme::Ntlm => None,
        };
        let sealed = target.tls.is_none();
        let (body, content_type) = match (&mut self.session, sealed) {
            (Some(session), true) => {
                let (signature, data) = session
                    .seal(envelope.as_bytes())
                    .map_err(|source| ntlm_error(target, source))?;
                (sealing::wrap(&signature, &data), sealing::CONTENT_TYPE)
            }
            // Without TLS and without a session nothing may leave in the open.
            (None, true) => return Err(Error::Unsealed { host: target.name() }),
            (_, false) => (envelope.as_bytes().to_vec(), SOAP_TYPE),
        };
        let limit = target.given(operation).saturating_add(GRACE);
        let request = request(target, body.into(), content_type, authorization);
        let response = self.exchange(target, what, request, limit).await?;
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            return Err(unauthorized(target));
        }
        let content_type = header(response.headers().get(CONTENT_TYPE)).to_owned();
        let body = self.collect(target, what, response).await?;
        if sealed {
            if !sealing::is_sealed(&content_type) {
                return Err(if status.is_success() {
                    Error::Unsealed { host: target.name() }
                } else {
                    Error::NotWsMan {
                        host: target.name(),
                        status: status.as_u16(),
                    }
                });
            }
            let parts = sealing::unwrap(&body).map_err(|source| Error::Sealing {
                host: target.name(),
                source,
            })?;
            let session = self
                .session
                .as_mut()
                .ok_or_else(|| Error::Unsealed { host: target.name() })?;
            let plain = session
                .open(parts.signature, parts.data)
                .map_err(|source| ntlm_error(target, source))?;
            return Ok(plain.into());
        }
        // A fault comes with status 400 or 500 and is told apart by its envelope.
        if content_type.to_ascii_lowercase().starts_with("application/soap+xml") {
            Ok(body)
        } else {
            Err(Error::NotWsMan {
                host: target.name(),
                status: status.as_u16(),
            })
        }
    }

    /// The two first tokens of NTLM; gives the Authorization that ends the exchange together with the first envelope.
    async fn log_on(&mut self, target: &Target, what: &'static str) -> Result<HeaderValue, Error> {
        let begun = ntlm::Client::begin(&target.credentials, self.binding.as_deref());
        let (client, negotiate) = begun.map_err(|source| ntlm_error(target, source))?;
        let request = request(target, Bytes::new(), SOAP_TYPE, Some(negotiation(&negotiate)));
        let response = self.exchange(target, what, request, target.limits.timeout).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Err(Error::NotWsMan {
                host: target.name(),
                status: response.status().as_u16(),
            });
        }
        let challenge = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .find_map(|value| {
                let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
                let known = scheme.eq_ignore_ascii_case("Negotiate") || scheme.eq_ignore_ascii_case("NTLM");
                BASE64.decode(token.trim()).ok().filter(|_| known)
            })
            .ok_or_else(|| unauthorized(target))?;
        self.collect(target, what, response).await?;
        let (authenticate, session) = client.finish(&challenge).map_err(|source| ntlm_error(target, source))?;
        self.session = Some(session);
        Ok(negotiation(&authenticate))
    }

    async fn exchange(
        &mut self,
        target: &Target,
        what: &'static str,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Result<Response<hyper::body::Incoming>, Error> {
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        timeout(limit, sending)
            .await
            .map_err(|_| Error::TimedOut {
                host: target.name(),
                operation: what,
                after: limit,
            })?
            .map_err(|source| Error::Broken {
                host: target.name(),
                operation: what,
                source: source.into(),
            })
    }

    async fn collect(
        &self,
        target: &Target,
        what: &'static str,
        response: Response<hyper::body::Incoming>,
    ) -> Result<Bytes, Error> {
        let limit = target.limits.max_answer;
        let collected = timeout(
            target.limits.timeout,
            Limited::new(response.into_body(), limit).collect(),
        )
        .await;
        match collected {
            Err(_) => Err(Error::TimedOut {
                host: target.name(),
                operation: what,
                after: target.limits.timeout,
            }),
            Ok(Err(source)) if source.is::<LengthLimitError>() => Err(Error::TooLarge {
                host: target.name(),
                operation: what,
                limit,
            }),
            Ok(Err(source)) => Err(Error::Broken {
                host: target.name(),
                operation: what,
                source,
            }),
            Ok(Ok(body)) => Ok(body.to_bytes()),
        }
    }
}

fn request(
    target: &Target,
    body: Bytes,
    content_type: &'static str,
    authorization: Option<HeaderValue>,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/wsman");
    let headers = request.headers_mut();
    let shown = if target.host.contains(':') {
        format!("[{}]", target.host)
    } else {
        target.host.clone()
    };
    if let Ok(host) = HeaderValue::from_str(&format!("{shown}:{}", target.port)) {
        headers.insert(HOST, host);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static("officekms"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(value) = authorization {
        headers.insert(AUTHORIZATION, value);
    }
    request
}

fn basic(target: &Target) -> HeaderValue {
    let password = target.credentials.password.expose_secret();
    let text = BASE64.encode(format!("{}:{password}", target.credentials.user));
    sensitive(&format!("Basic {text}"))
}

fn negotiation(token: &[u8]) -> HeaderValue {
    sensitive(&format!("Negotiate {}", BASE64.encode(token)))
}

fn sensitive(text: &str) -> HeaderValue {
    // Base64 is always a header value.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

fn header(value: Option<&HeaderValue>) -> &str {
    value.and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn unauthorized(target: &Target) -> Error {
    let scheme = match target.scheme {
        Scheme::Basic => "Basic",
        Scheme::Ntlm => "NTLM",
    };
    Error::Unauthorized {
        host: target.name(),
        user: target.credentials.user.clone(),
        scheme,
    }
}

fn ntlm_error(target: &Target, source: ntlm::NtlmError) -> Error {
    Error::Ntlm {
        host: target.name(),
        source,
    }
}

fn tls_error(target: &Target, source: io::Error) -> Error {
    let cause = source.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let host = target.name();
    match cause {
        Some(rustls::Error::InvalidCertificate(_)) => Error::NotTrusted { host, source },
        Some(_) => Error::Tls { host, source },
        None => Error::Unreachable { host, source },
    }
}
