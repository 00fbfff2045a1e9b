//! A server on our own accept loop whose operation answers its request body three times over: for peers to call.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use futures::future::BoxFuture;
use kms_host::admission::{Admission, Rules};
use kms_host::config::ClientsConfig;
use kms_host::metrics::Metrics;
use kms_host::rpc::{Answer, Call, Offer, stub};
use kms_host::serve::{self, Client, Outcome, Patience, Server, Service};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest body that the test server takes, and largest request with it.
const BODY: u16 = 8192;

/// A running server, until it is dropped.
pub struct Tripling {
    /// Where it listens.
    pub address: SocketAddr,
    _running: DropGuard,
}

/// Starts what serves our connections, with an operation that answers its request body three times over, and the body's length
/// as HRESULT.
///
/// # Errors
/// When no port is free.
pub fn start() -> Result<Tripling> {
    let listener = serve::listen(SocketAddr::from(([127, 0, 0, 1], 0)), false)?;
    let address = listener.local_addr()?;
    let mut clients = ClientsConfig::default();
    clients.limits.max_request_bytes = 2 * u32::from(BODY);
    let token = CancellationToken::new();
    let server = Server::new(
        Arc::new(Tripler),
        Arc::new(Admission::new(Rules::new(&clients))),
        Arc::new(Metrics::new()),
        Offer::kms(),
        Patience::new(&clients),
        token.clone(),
    );
    tokio::spawn(serve::accept(listener, Arc::new(server)));
    Ok(Tripling {
        address,
        _running: token.drop_guard(),
    })
}

struct Tripler;

impl Service for Tripler {
    fn call<'a>(&'a self, call: &'a Call, _: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { Outcome::Answer(answer(call)) })
    }
}

fn answer(call: &Call) -> Answer {
    let order = call.drep.order();
    match stub::decode_request(call.syntax, order, &call.stub, BODY.into()) {
        Err(error) => Answer::Fault(error.fault()),
        Ok(body) if body.is_empty() => Answer::Stub(stub::encode_response(call.syntax, order, None, 0x8007_000D)),
        Ok(body) => {
            let hresult = u32::try_from(body.len()).unwrap_or(u32::MAX);
            Answer::Stub(stub::encode_response(
                call.syntax,
                order,
                Some(&body.repeat(3)),
                hresult,
            ))
        }
    }
}
