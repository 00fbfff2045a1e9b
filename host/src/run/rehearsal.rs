//! The rehearsal host behind the RPC server: takes bodies out of stubs and puts answers into them.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::ledger::Millis;
use crate::rehearsal::{Handled, RehearsalHost, S_OK};
use crate::rpc::{Answer, Call, FaultStatus, stub};
use crate::serve::{Client, Outcome, Service};

/// The rehearsal host as a service.
#[derive(Debug)]
pub(super) struct Rehearsal(pub(super) RehearsalHost);

impl Rehearsal {
    async fn answer(&self, call: &Call, client: Client) -> Answer {
        let (syntax, order) = (call.syntax, call.drep.order());
        // The call is within the limit of requests already.
        let body: Bytes = match stub::decode_request(syntax, order, &call.stub, call.stub.len()) {
            Ok(body) => body,
            Err(error) => return Answer::Fault(error.fault()),
        };
        let now = Millis(jiff::Timestamp::now().as_millisecond());
        let handling = self.0.handle(&body, client.source, now);
        match tokio::time::timeout_at(client.deadline.into(), handling).await {
            Ok(Handled::Answered { body, .. }) => Answer::Stub(stub::encode_response(syntax, order, Some(&body), S_OK)),
            Ok(Handled::Refused(reason)) => Answer::Stub(stub::encode_response(syntax, order, None, reason.hresult())),
            Ok(Handled::Busy) | Err(_) => Answer::Fault(FaultStatus::WIN32_SERVER_TOO_BUSY),
        }
    }
}

impl Service for Rehearsal {
    fn call<'a>(&'a self, call: &'a Call, client: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { Outcome::Answer(self.answer(call, client).await) })
    }
}
