//! The rehearsal host behind the RPC server: takes bodies out of stubs and puts answers into them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::ledger::{Ledger, Millis};
use crate::rehearsal::{Handled, RehearsalHost, RehearsalMetrics, S_OK};
use crate::rpc::{Answer, Call, FaultStatus, stub};
use crate::serve::{Client, Outcome, Service};

/// How often it is tried whether the ledger can be read.
const TRY_LEDGER_EVERY: Duration = Duration::from_secs(5);

/// How long such a read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

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
        let handling = self.0.handle(&body, client.address, wall_clock());
        let handled = tokio::time::timeout_at(client.deadline.into(), handling)
            .await
            .unwrap_or_else(|_| self.0.busy("the client's time was over before"));
        match handled {
            Handled::Answered { body, .. } => Answer::Stub(stub::encode_response(syntax, order, Some(&body), S_OK)),
            Handled::Refused(reason) => Answer::Stub(stub::encode_response(syntax, order, None, reason.hresult())),
            Handled::Busy => Answer::Fault(FaultStatus::WIN32_SERVER_TOO_BUSY),
        }
    }
}

impl Service for Rehearsal {
    fn call<'a>(&'a self, call: &'a Call, client: Client) -> BoxFuture<'a, Outcome> {
        Box::pin(async move { Outcome::Answer(self.answer(call, client).await) })
    }
}

/// Keeps the metric that says whether the ledger can be read: also while nobody asks.
pub(super) async fn watch_ledger(ledger: Arc<dyn Ledger>, metrics: RehearsalMetrics) {
    let mut tick = tokio::time::interval(TRY_LEDGER_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let read = tokio::time::timeout(READ_TIMEOUT, ledger.counts(wall_clock())).await;
        metrics.ledger_read(matches!(read, Ok(Ok(_))));
    }
}

/// The wall clock, where the edge needs it.
fn wall_clock() -> Millis {
    Millis(jiff::Timestamp::now().as_millisecond())
}
