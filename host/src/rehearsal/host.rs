//! What a rehearsal host does with one request.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    config::Validated,
    envelope::{self, Binding, EnvelopeError, SiteKey},
    management::Management,
    message::{Request, Response},
    metrics::RehearsalMetrics,
    products::{Product, canonical_application},
    refusals::{Refusal, Refusals},
};
use crate::{
    ledger::{
        BatchLimits, Busy, CountBatcher, Event, LedgerKey, Millis, Opened, Sighting, Verdict,
        counting::CLOCK_TOLERANCE_MS,
    },
    sealing,
    telemetry::{Quiet, chain},
};

/// HRESULT of a request that was counted. Whether the count is enough is the client's decision.
pub const S_OK: u32 = 0;
/// HRESULT: the request is no valid data.
pub const INVALID_DATA: u32 = 0x8007_000D;
/// HRESULT: the host has no key for this product.
pub const UNKNOWN_PRODUCT: u32 = 0xC004_F042;
/// HRESULT: the host key is not activated.
pub const NOT_ACTIVATED: u32 = 0xC004_F041;
/// HRESULT: the clocks of client and host differ by more than 4 hours.
pub const CLOCK_SKEW: u32 = 0xC004_F06C;

/// Between two warnings of Microsoft clients, at least.
const WARN_EVERY_MS: i64 = 60_000;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handled {
    /// Counted: the response body, to be sent with HRESULT 0.
    Answered {
        /// The sealed response.
        body: Vec<u8>,
        /// The current count that it tells.
        current_count: u32,
    },
    /// Refused: to be answered with [`Reason::hresult`] and no body.
    Refused(Reason),
    /// The ledger cannot count now: to be answered with the fault RPC_S_SERVER_TOO_BUSY. A count is never invented.
    Busy,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A Microsoft KMS client sent it: this is no place for it.
    MicrosoftClient,
    /// It is no rehearsal envelope.
    NotAnEnvelope,
    /// It is not sealed under this site key, or was altered.
    Forged,
    /// It is sealed rightly but what it says is no request.
    Malformed,
    /// The clocks differ too much.
    Stale,
    /// No product served here has its IDs, or its key is not installed.
    UnknownProduct,
    /// The product's host key is installed but not activated.
    NotActivated,
    /// It, or a later one of the same client, was counted before, and not just now.
    Replayed,
}

impl Reason {
    /// The HRESULT that the client is told.
    pub fn hresult(self) -> u32 {
        match self {
            Self::MicrosoftClient | Self::NotAnEnvelope | Self::Forged | Self::Malformed | Self::Replayed => {
                INVALID_DATA
            }
            Self::Stale => CLOCK_SKEW,
            Self::UnknownProduct => UNKNOWN_PRODUCT,
            Self::NotActivated => NOT_ACTIVATED,
        }
    }

    /// A word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::MicrosoftClient => "microsoft_client",
            Self::NotAnEnvelope => "not_an_envelope",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Stale => "stale",
            Self::UnknownProduct => "unknown_product",
            Self::NotActivated => "not_activated",
            Self::Replayed => "replayed",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A rehearsal host replica.
pub struct RehearsalHost {
    key: SiteKey,
    config: Validated,
    pseudonyms: LedgerKey,
    counting: CountBatcher,
    refusals: Refusals,
    metrics: RehearsalMetrics,
    microsoft: RareWarning,
    /// Warnings of requests under another site key.
    forged: Quiet,
    /// Warnings of requests that cannot be counted.
    uncounted: Quiet,
    management: Option<Arc<Management>>,
}

impl fmt::Debug for RehearsalHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RehearsalHost")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl RehearsalHost {
    /// A host that counts in `opened`; within a tokio runtime. Its tasks end when it is dropped.
    pub fn start(config: Validated, key: SiteKey, opened: Opened, limits: BatchLimits) -> Self {
        let metrics = RehearsalMetrics::default();
        let management = config.management.as_ref();
        let management = management.map(|section| Arc::new(Management::new(section, &config, opened.ledger.clone())));
        Self {
            management,
            key,
            config,
            pseudonyms: opened.key,
            counting: CountBatcher::start(opened.ledger.clone(), limits),
            refusals: Refusals::start(opened.ledger, metrics.clone()),
            metrics,
            microsoft: RareWarning::default(),
            forged: Quiet::default(),
            uncounted: Quiet::default(),
        }
    }

    /// The host's counters, to be registered.
    pub fn metrics(&self) -> &RehearsalMetrics {
        &self.metrics
    }

    /// The products served.
    pub fn products(&self) -> &[Product] {
        self.config.catalogue.products()
    }

    /// The licensing state, when it is managed.
    pub fn management(&self) -> Option<&Arc<Management>> {
        self.management.as_ref()
    }

    /// Handles the body of one request that arrived at `now`.
    pub async fn handle(&self, body: &[u8], peer: IpAddr, now: Millis) -> Handled {
        let examined = examine(&self.key, &self.config, body, now).and_then(|accepted| self.licensed(accepted));
        let (request, binding) = match examined {
            Ok(accepted) => accepted,
            Err(refused) => return self.refuse(refused, peer, now),
        };
        // Drawn before anything is counted: a request that cannot be answered is not counted.
        let Ok(entropy) = sealing::draw() else {
            return self.busy("the operating system gives no random bytes");
        };
        match self
            .counting
            .count(sighting(&self.config, &self.pseudonyms, &request, now))
            .await
        {
            Ok(verdict @ (Verdict::Counted { count } | Verdict::SentAgain { count })) => {
                self.metrics.request(match verdict {
                    Verdict::SentAgain { .. } => "sent_again",
                    _ => "counted",
                });
                let response = respond(&self.config, &request, count);
                let body = envelope::seal_response(&self.key, &entropy, &binding, &response);
                Handled::Answered {
                    body,
                    current_count: count,
                }
            }
            Ok(Verdict::Replayed) => {
                let refused = Refused {
                    reason: Reason::Replayed,
                    request: Some(Box::new(request)),
                };
                self.refuse(refused, peer, now)
            }
            Err(busy @ (Busy::Full | Busy::TimedOut)) => self.busy(&busy),
            Err(Busy::Ledger(error)) => self.busy(chain(&*error)),
        }
    }

    /// Refuses what the managed licensing state does not serve yet.
    fn licensed(&self, (request, binding): (Request, Binding)) -> Result<(Request, Binding), Refused> {
        let refusal = self
            .management
            .as_ref()
            .and_then(|management| management.refusal(request.counted_id));
        let reason = match refusal {
            None => return Ok((request, binding)),
            Some(NOT_ACTIVATED) => Reason::NotActivated,
            Some(_) => Reason::UnknownProduct,
        };
        Err(Refused {
            reason,
            request: Some(Box::new(request)),
        })
    }

    /// Notes that a request was not counted in its time, and why.
    pub(crate) fn busy(&self, cause: impl fmt::Display) -> Handled {
        self.metrics.request("busy");
        if let Some(held_back) = self.uncounted.pass(Instant::now()) {
            tracing::warn!(
                error = %cause,
                held_back,
                "rehearsal requests cannot be counted, and clients are told to come again: look whether the ledger is \
                 away or slow"
            );
        } else {
            tracing::debug!(error = %cause, "a rehearsal request cannot be counted now");
        }
        Handled::Busy
    }

    fn refuse(&self, refused: Refused, peer: IpAddr, now: Millis) -> Handled {
        let reason = refused.reason;
        self.metrics.request(reason.label());
        if reason == Reason::MicrosoftClient {
            self.metrics.microsoft_client();
            if let Some(unreported) = self.microsoft.due(now) {
                tracing::warn!(
                    client.addr = %peer,
                    requests = unreported,
                    "a Microsoft KMS client reached a rehearsal host; it was refused: point it at a licensed host"
                );
            }
        } else if reason == Reason::Forged
            && let Some(held_back) = self.forged.pass(Instant::now())
        {
            tracing::warn!(
                client.addr = %peer,
                held_back,
                "rehearsal requests are not sealed under this site key and are refused: compare the site keys of the \
                 clients and of every replica"
            );
        } else {
            tracing::debug!(client.addr = %peer, reason = reason.label(), "a rehearsal request was refused");
        }
        // Only what was sealed under the site key is recorded: strangers do not get to write into the ledger.
        if let Some(request) = refused.request {
            let event = event(&self.config, &request, reason.hresult(), now);
            let counted_already = reason == Reason::Replayed;
            self.refusals.tell(
                if !counted_already && self.config.catalogue.serves(request.application) {
                    Refusal::Failed(canonical_application(request.application), event)
                } else {
                    Refusal::EventOnly(event)
                },
            );
        }
        Handled::Refused(reason)
    }
}

/// A refused request, with what it said if it could be opened.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    reason: Reason,
    request: Option<Box<Request>>,
}

/// Decides whether a request is to be counted.
fn examine(key: &SiteKey, config: &Validated, body: &[u8], now: Millis) -> Result<(Request, Binding), Refused> {
    let unopened = |reason| Refused { reason, request: None };
    if envelope::is_microsoft(body) {
        return Err(unopened(Reason::MicrosoftClient));
    }
    let (request, binding) = envelope::open_request(key, body).map_err(|error| {
        unopened(match error {
            EnvelopeError::NotAnEnvelope | EnvelopeError::Shape => Reason::NotAnEnvelope,
            EnvelopeError::Forged => Reason::Forged,
            EnvelopeError::Message(_) => Reason::Malformed,
        })
    })?;
    let reason = if request.client_time_micros.abs_diff(now.0.saturating_mul(1000)) > CLOCK_TOLERANCE_MICROS {
        Reason::Stale
    } else if config.catalogue.find(request.application, request.counted_id).is_none() {
        Reason::UnknownProduct
    } else {
        return Ok((request, binding));
    };
    Err(Refused {
        reason,
        request: Some(Box::new(request)),
    })
}

const CLOCK_TOLERANCE_MICROS: u64 = CLOCK_TOLERANCE_MS.unsigned_abs() * 1000;

fn sighting(config: &Validated, pseudonyms: &LedgerKey, request: &Request, now: Millis) -> Sighting {
    Sighting {
        application: canonical_application(request.application),
        client: pseudonyms.machine(&request.cmid),
        required: request.required,
        at: now,
        request_time_micros: request.client_time_micros,
        event: event(config, request, S_OK, now),
    }
}

fn respond(config: &Validated, request: &Request, current_count: u32) -> Response {
    Response {
        host_id: config.host_id.clone(),
        cmid: request.cmid,
        client_time_micros: request.client_time_micros,
        current_count,
        activation_interval_minutes: config.activation_interval_minutes,
        renewal_interval_minutes: config.renewal_interval_minutes,
    }
}

fn event(config: &Validated, request: &Request, hresult: u32, now: Millis) -> Event {
    Event {
        at: now,
        host: config.host_name.clone(),
        hresult,
        required: request.required,
        client_name: request.workstation.as_str().to_owned(),
        cmid: request.cmid,
        client_time: client_time(request.client_time_micros),
        virtual_machine: request.virtual_machine,
        license_status: request.license_status,
        minutes_to_expiration: request.minutes_to_expiration,
        activation_id: request.activation_id,
    }
}

/// A client's time as event 12290 prints it: `2006/1/14 2:30`, in UTC; empty when no calendar has it.
fn client_time(micros: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_microsecond(micros) else {
        return String::new();
    };
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    format!(
        "{}/{}/{} {}:{:02}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute()
    )
}

/// Lets one warning through in a while and counts what it held back.
#[derive(Debug)]
struct RareWarning {
    next: AtomicI64,
    unreported: AtomicU64,
}

impl Default for RareWarning {
    fn default() -> Self {
        Self {
            next: AtomicI64::new(i64::MIN),
            unreported: AtomicU64::new(0),
        }
    }
}

impl RareWarning {
    /// Notes an occurrence at `now`; when a warning is due, how many occurrences it stands for.
    fn due(&self, now: Millis) -> Option<u64> {
        self.unreported.fetch_add(1, Ordering::Relaxed);
        let next = self.next.load(Ordering::Relaxed);
        let later = now.0.saturating_add(WARN_EVERY_MS);
        (now.0 >= next
            && self
                .next
                .compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok())
        .then(|| self.unreported.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
