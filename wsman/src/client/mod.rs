//! The client: operations on one host over one connection that is kept open.
//!
//! NTLM authenticates a TCP connection, so operations of one client go one after the other over one connection. A read
//! whose kept connection turns out dead is sent once more over a fresh one; a method call never is.

mod connection;
mod error;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::sync::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use self::connection::Connection;
pub use self::error::{Error, Kind};
use crate::envelope::{Addressing, Operation};
use crate::hresult::Hresult;
use crate::names::{CIMV2, Class};
pub use crate::ntlm::Credentials;
use crate::reply::{self, Identity, Output, ReplyError};
use crate::tls::{self, Trust, TrustError};
use crate::value::{Instance, Value};

/// A kept connection that was idle longer is not trusted with a method call: the host may be closing it right now.
const FRESH: Duration = Duration::from_secs(15);

/// How much longer than the host we wait, so that its own "timed out" arrives.
const GRACE: Duration = Duration::from_secs(5);

/// How often in a row a host may answer "nothing yet" to a Pull.
const MOST_REPEATS: u32 = 5;

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS, usually port 5986.
    Https(Trust),
    /// HTTP, usually port 5985: only with NTLM, whose sealing then protects every message.
    Http,
}

/// How the user is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HTTP Basic: TLS only, local accounts only, off on hosts by default.
    Basic,
    /// NTLM, with channel bindings under TLS and message sealing without.
    Ntlm,
}

/// What an endpoint is made of.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// HTTPS or HTTP.
    pub transport: Transport,
    /// Basic or NTLM.
    pub scheme: Scheme,
}

/// Limits of a client.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For connecting, and again for each answer to a question.
    pub timeout: Duration,
    /// For a method, which can have to ask somebody else: an activation asks Microsoft's service.
    pub call: Duration,
    /// Largest answer in bytes.
    pub max_answer: usize,
    /// Most rows of one query.
    pub max_rows: usize,
    /// Rows wanted in one answer.
    pub page: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            call: Duration::from_secs(90),
            max_answer: 1 << 20,
            max_rows: 100_000,
            page: 50,
        }
    }
}

/// Why an endpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// Basic in the open.
    #[error("Basic authentication shows the password: use it with HTTPS only")]
    BasicWithoutTls,
    /// Not a name or address.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    /// Trust.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A client of one host.
#[derive(Debug)]
pub struct Client {
    target: Target,
    connection: Mutex<Option<Connection>>,
}

/// What every connection of a client needs.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) url: String,
    pub(crate) tls: Option<(Arc<rustls::ClientConfig>, ServerName<'static>)>,
    pub(crate) scheme: Scheme,
    pub(crate) credentials: Credentials,
    pub(crate) limits: Limits,
}

impl Target {
    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// How long the host is given for an operation.
    pub(crate) fn given(&self, operation: &Operation<'_>) -> Duration {
        match operation {
            Operation::Invoke { .. } => self.limits.call.max(self.limits.timeout),
            _ => self.limits.timeout,
        }
    }
}

impl Client {
    /// A client; connects when first used.
    ///
    /// # Errors
    /// When the endpoint cannot be used safely or at all.
    pub fn new(endpoint: Endpoint, credentials: Credentials, limits: Limits) -> Result<Self, EndpointError> {
        let Endpoint {
            host,
            port,
            transport,
            scheme,
        } = endpoint;
        let name = ServerName::try_from(host.clone()).map_err(|_| EndpointError::Host(host.clone()))?;
        let (tls, word) = match (&transport, scheme) {
            (Transport::Http, Scheme::Basic) => return Err(EndpointError::BasicWithoutTls),
            (Transport::Http, Scheme::Ntlm) => (None, "http"),
            (Transport::Https(trust), _) => (Some((tls::client_config(trust)?, name)), "https"),
        };
        // A literal IPv6 address stands in brackets in a URL.
        let shown = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        let url = format!("{word}://{shown}:{port}/wsman");
        Ok(Self {
            target: Target {
                host,
                port,
                url,
                tls,
                scheme,
                credentials,
                limits,
            },
            connection: Mutex::new(None),
        })
    }

    /// `HOST:PORT`.
    pub fn host(&self) -> String {
        self.target.name()
    }

    /// Asks what answers: a health probe that also proves user and password.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn identify(&self) -> Result<Identity, Error> {
        let operation = Operation::Identify;
        let answer = self.send(&operation).await?;
        reply::identity(&answer).map_err(|error| self.refused(&operation, operation.name(), error))
    }

    /// Reads one instance by its key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, class: &Class, selectors: &[(&str, &str)]) -> Result<Instance, Error> {
        let operation = Operation::Get { class, selectors };
        let answer = self.send(&operation).await?;
        reply::instance(&answer).map_err(|error| self.refused(&operation, operation.name(), error))
    }

    /// Deletes one instance by its key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, class: &Class, selectors: &[(&str, &str)]) -> Result<(), Error> {
        let operation = Operation::Delete { class, selectors };
        let answer = self.send(&operation).await?;
        reply::acknowledged(&answer).map_err(|error| self.refused(&operation, operation.name(), error))
    }

    /// Runs a WQL query in `root/cimv2` to its end.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query(&self, query: &str) -> Result<Vec<Instance>, Error> {
        self.query_in(CIMV2, query).await
    }

    /// Runs a WQL query in a namespace to its end.
    ///
    /// # Errors
    /// See [`Error`]; more rows than [`Limits::max_rows`] are one.
    pub async fn query_in(&self, namespace: &str, query: &str) -> Result<Vec<Instance>, Error> {
        let limit = self.target.limits.max_rows;
        let (rows, complete) = self.query_up_to(namespace, query, limit).await?;
        if complete {
            Ok(rows)
        } else {
            Err(Error::TooManyRows {
                host: self.host(),
                limit,
            })
        }
    }

    /// Runs a WQL query until its end or until at least `limit` rows are there; says whether that was the end.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn query_up_to(
        &self,
        namespace: &str,
        query: &str,
        limit: usize,
    ) -> Result<(Vec<Instance>, bool), Error> {
        let class = Class::new(namespace, "*")?;
        let mut max_elements = self.target.limits.page;
        let mut page = loop {
            let operation = Operation::Enumerate {
                class: &class,
                query,
                max_elements,
            };
            let answer = self.send(&operation).await?;
            match reply::page(&answer) {
                Ok(page) => break page,
                Err(error) => match again(&error, max_elements, MOST_REPEATS) {
                    Some((smaller, _)) => max_elements = smaller,
                    None => return Err(self.refused(&operation, operation.name(), error)),
                },
            }
        };
        let mut rows = page.items;
        let mut repeats = 0;
        while let Some(context) = page.context.take() {
            if rows.len() >= limit {
                let release = Operation::Release {
                    class: &class,
                    context: &context,
                };
                // The host forgets the context by itself after a while; failing to tell it harms nobody.
                if let Err(error) = self.send(&release).await {
                    tracing::debug!(server.addr = self.host(), error = %error, "a query could not be released");
                }
                return Ok((rows, false));
            }
            let operation = Operation::Pull {
                class: &class,
                context: &context,
                max_elements,
            };
            let answer = self.send(&operation).await?;
            match reply::page(&answer) {
                Ok(mut read) => {
                    rows.append(&mut read.items);
                    (page, repeats) = (read, 0);
                }
                // The context lives on.
                Err(error) => match again(&error, max_elements, repeats) {
                    Some(next) => {
                        (max_elements, repeats) = next;
                        page.context = Some(context);
                    }
                    None => return Err(self.refused(&operation, operation.name(), error)),
                },
            }
        }
        Ok((rows, true))
    }

    /// Calls a method and demands that its ReturnValue is 0.
    ///
    /// # Errors
    /// See [`Error`]; another ReturnValue is [`Error::Returned`].
    pub async fn invoke(
        &self,
        class: &Class,
        selectors: &[(&str, &str)],
        method: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Output, Error> {
        let output = self.call(class, selectors, method, parameters).await?;
        match output.return_value {
            0 => Ok(output),
            code => Err(Error::Returned {
                host: self.host(),
                operation: method.to_owned(),
                code: Hresult(code),
            }),
        }
    }

    /// Calls a method, whatever its ReturnValue; without one it counts as 0.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn call(
        &self,
        class: &Class,
        selectors: &[(&str, &str)],
        method: &str,
        parameters: &[(&str, Value)],
    ) -> Result<Output, Error> {
        let operation = Operation::Invoke {
            class,
            selectors,
            method,
            parameters,
        };
        let answer = self.send(&operation).await?;
        reply::output(&answer, method).map_err(|error| self.refused(&operation, method, error))
    }

    async fn send(&self, operation: &Operation<'_>) -> Result<Bytes, Error> {
        let limits = self.target.limits;
        let given = self.target.given(operation);
        let addressing = Addressing {
            to: &self.target.url,
            message_id: Uuid::new_v4(),
            timeout: given,
        };
        let envelope = operation.envelope(&addressing)?;
        // Taken out while in use: whoever drops this future in mid-exchange drops the connection with it.
        let mut kept = self.connection.lock().await;
        let usable = kept
            .take()
            .filter(|connection| connection.is_usable(operation.only_reads(), FRESH));
        let exchange = async {
            if let Some(mut connection) = usable {
                match connection.post(&self.target, operation, &envelope).await {
                    Err(Error::Broken { source, .. }) if operation.only_reads() => {
                        tracing::debug!(server.addr = self.target.name(), error = %source, "a kept connection was dead");
                    }
                    // The host forgot who we are, as after a restart of its service: log on anew, once. Basic sends the
                    // password each time, so there it was refused, and the same once more would count as another try.
                    Err(Error::Unauthorized { .. }) if self.target.scheme == Scheme::Ntlm => {}
                    Err(error) => return Err(error),
                    Ok(answer) => return Ok((connection, answer)),
                }
            }
            let mut connection = Connection::open(&self.target).await?;
            let answer = connection.post(&self.target, operation, &envelope).await?;
            Ok((connection, answer))
        };
        // Connecting and logging on have their own limit.
        let allowed = limits.timeout.saturating_add(given).saturating_add(GRACE);
        let (mut connection, answer) = timeout(allowed, exchange).await.map_err(|_| Error::TimedOut {
            host: self.target.name(),
            operation: operation.name(),
            after: allowed,
        })??;
        connection.used_at = Instant::now();
        *kept = Some(connection);
        Ok(answer)
    }

    fn refused(&self, operation: &Operation<'_>, what: &str, error: ReplyError) -> Error {
        match error {
            ReplyError::Fault(fault) => Error::Fault {
                host: self.host(),
                operation: what.to_owned(),
                fault: Box::new(fault),
            },
            source => Error::Garbage {
                host: self.host(),
                operation: operation.name(),
                source,
            },
        }
    }
}

/// How to ask for a page once more after a fault, if that can help: rows and repetitions. "Nothing yet" is asked again as it
/// was; what does not fit an envelope, by half as many rows.
fn again(error: &ReplyError, rows: u32, repeats: u32) -> Option<(u32, u32)> {
    let ReplyError::Fault(fault) = error else { return None };
    if fault.timed_out() && repeats < MOST_REPEATS {
        return Some((rows, repeats + 1));
    }
    (fault.too_large() && rows > 1).then_some((rows / 2, repeats))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;

    fn fault(subcode: &str) -> ReplyError {
        ReplyError::Fault(Fault {
            code: "Receiver".into(),
            subcode: subcode.into(),
            reason: String::new(),
            hresult: None,
        })
    }

    #[test]
    fn nothing_yet_is_asked_again_a_few_times_and_too_much_by_halves() {
        let after = |subcode, mut rows, mut repeats| {
            let mut asked = Vec::new();
            while let Some(next) = again(&fault(subcode), rows, repeats) {
                (rows, repeats) = next;
                asked.push(rows);
            }
            asked
        };
        assert_eq!(after("TimedOut", 50, 0), [50; 5]);
        assert_eq!(after("EncodingLimit", 50, 0), [25, 12, 6, 3, 1]);
        assert_eq!(after("AccessDenied", 50, 0), [0; 0]);
        assert_eq!(again(&ReplyError::Missing("Body"), 50, 0), None);
    }

    #[test]
    fn a_method_is_given_longer_than_a_question_and_the_host_less_than_we_wait() {
        let endpoint = Endpoint {
            host: "kms01".into(),
            port: 5985,
            transport: Transport::Http,
            scheme: Scheme::Ntlm,
        };
        let credentials = Credentials {
            user: "u".into(),
            password: "p".to_owned().into(),
        };
        let client = Client::new(endpoint, credentials, Limits::default()).unwrap();
        let class = Class::new(CIMV2, "SoftwareLicensingProduct").unwrap();
        let call = Operation::Invoke {
            class: &class,
            selectors: &[],
            method: "Activate",
            parameters: &[],
        };
        assert_eq!(client.target.given(&Operation::Identify), Duration::from_secs(30));
        assert!(client.target.given(&call) >= Duration::from_secs(60));
    }
}
