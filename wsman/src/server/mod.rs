//! The server side: WS-Management over HTTP for any [`Provider`] of WMI classes.
//!
//! Rehearsal hosts show their licensing state through it, so that whatever manages licensed hosts can be rehearsed,
//! with our client or with anybody's. Like a Windows host, it wants Basic under TLS only, and over plain HTTP it takes
//! nothing but NTLM with sealed messages.
//!
//! ```text
//! serve: accept -> TLS -> http (logon, sealing) -> soap (operations, pages) -> Provider
//! ```

mod http;
mod pages;
mod soap;
pub mod wql;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::hresult::Hresult;
pub use crate::ntlm::Credentials;
use crate::reply::Output;
use crate::tls;
use crate::value::{Instance, Value};
use pages::Pages;
pub use wql::Query;

/// What a provider of classes says to a question.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Hresult>>;

/// Classes, instances and methods, as WMI has them. Objects live in namespaces such as `root/cimv2`.
pub trait Provider: Send + Sync + 'static {
    /// The instances of the query's class with all their properties, null ones too, in the class's order. Conditions
    /// and columns are applied by the caller; a provider of long lists may use the conditions as a hint.
    /// An unknown class is [`Hresult::WBEM_INVALID_CLASS`].
    fn instances<'a>(&'a self, namespace: &'a str, query: &'a Query) -> Answer<'a, Vec<Instance>>;

    /// Calls a method.
    fn invoke<'a>(&'a self, call: &'a Call) -> Answer<'a, Output>;

    /// Deletes an instance by its key; `method` and `parameters` are empty. Refused unless a provider supports it.
    fn delete<'a>(&'a self, _call: &'a Call) -> Answer<'a, ()> {
        Box::pin(async { Err(Hresult::WBEM_NOT_SUPPORTED) })
    }
}

/// A method call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The namespace.
    pub namespace: String,
    /// The class.
    pub class: String,
    /// The method.
    pub method: String,
    /// Key properties of the instance; empty for static methods and singletons.
    pub selectors: Vec<(String, String)>,
    /// The parameters, in an instance's clothes for its typed accessors.
    pub parameters: Instance,
}

impl Output {
    /// Success without further values.
    pub fn done() -> Self {
        Self::returning(0)
    }

    /// A return value without further values.
    pub fn returning(return_value: u32) -> Self {
        Self {
            return_value,
            values: Instance::new("").with("ReturnValue", Value::from(return_value)),
        }
    }
}

/// The server's certificate and key.
#[derive(Clone)]
pub struct Identity {
    config: Arc<rustls::ServerConfig>,
    binding: Vec<u8>,
}

impl Identity {
    /// From a chain (the server's own first) and its key.
    ///
    /// # Errors
    /// When key and certificate do not fit.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, rustls::Error> {
        let binding = chain
            .first()
            .map(|first| tls::end_point_binding(first))
            .unwrap_or_default();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self {
            config: Arc::new(config),
            binding,
        })
    }
}

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time; more wait in the listener's queue.
    pub connections: usize,
    /// Largest request in bytes. WinRM's default is 500 KiB.
    pub max_request: usize,
    /// For the TLS handshake and for the head of each request.
    pub handshake: Duration,
    /// Queries being read page by page at a time; the oldest is forgotten for a new one.
    pub queries: usize,
    /// How long a query waits for its next Pull. WinRM's default is 60 s.
    pub query_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            max_request: 500 * 1024,
            handshake: Duration::from_secs(10),
            queries: 64,
            query_idle: Duration::from_secs(60),
        }
    }
}

/// How a server is set up.
pub struct Settings {
    /// The one account that may log on.
    pub account: Credentials,
    /// HTTPS if given, else HTTP.
    pub identity: Option<Identity>,
    /// Limits.
    pub limits: Limits,
}

/// What all connections share.
struct Shared {
    account: Credentials,
    binding: Option<Vec<u8>>,
    limits: Limits,
    pages: Pages,
    provider: Arc<dyn Provider>,
}

/// Serves until `shutdown`, then lets requests that are under way finish.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    provider: Arc<dyn Provider>,
    shutdown: CancellationToken,
) {
    let Settings {
        account,
        identity,
        limits,
    } = settings;
    let acceptor = identity
        .as_ref()
        .map(|identity| TlsAcceptor::from(identity.config.clone()));
    let shared = Arc::new(Shared {
        account,
        binding: identity.map(|identity| identity.binding),
        limits,
        pages: Pages::new(limits.queries, limits.query_idle),
        provider,
    });
    let permits = Arc::new(Semaphore::new(limits.connections));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = async {
                // The semaphore is never closed; without a permit the connection would not be limited.
                let permit = permits.clone().acquire_owned().await.ok();
                (permit, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (Some(permit), Ok((stream, peer))) => {
                let (shared, acceptor, shutdown) = (shared.clone(), acceptor.clone(), shutdown.clone());
                tasks.spawn(async move {
                    connection(stream, peer, shared, acceptor, shutdown).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(error = %error, "the management listener cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (None, Ok(_)) => break,
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) {
    match acceptor {
        None => requests(stream, peer, shared, shutdown).await,
        Some(acceptor) => match timeout(shared.limits.handshake, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => requests(stream, peer, shared, shutdown).await,
            Ok(Err(error)) => tracing::debug!(client.addr = %peer, error = %error, "TLS failed"),
            Err(_) => tracing::debug!(client.addr = %peer, "the TLS handshake timed out"),
        },
    }
}

async fn requests<S>(stream: S, peer: SocketAddr, shared: Arc<Shared>, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = shared.limits.handshake;
    let conversation = Arc::new(http::Conversation::new(shared));
    let service = service_fn(move |request| {
        let conversation = conversation.clone();
        async move { Ok::<_, std::convert::Infallible>(conversation.answer(request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake.max(Duration::from_secs(60)))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(client.addr = %peer, error = %error, "a management connection ended early");
    }
}
