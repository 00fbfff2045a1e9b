//! The rehearsal client: asks a rehearsal host as a KMS client would ask, and decides as one would decide.

use uuid::Uuid;

use super::{
    envelope::{self, Binding, EnvelopeError, SiteKey},
    host::S_OK,
    message::{Request, Response, WorkstationName},
    products::Product,
};
use crate::sealing::Entropy;

/// HRESULT with which a client tells that the count is too low.
pub const NOT_ENOUGH_CLIENTS: u32 = 0xC004_F038;

/// A machine that rehearses a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: WorkstationName,
    /// Its client machine ID.
    pub cmid: Uuid,
    /// The client machine ID before this one, if any.
    pub previous_cmid: Option<Uuid>,
    /// Whether it is virtual.
    pub virtual_machine: bool,
    /// Licence status 0..=6, as in [`crate::ledger::Event::license_status`].
    pub license_status: u32,
    /// Minutes until that status expires.
    pub minutes_to_expiration: u32,
}

impl Machine {
    /// A machine on its first day: initial grace, 30 days to go.
    pub fn new(name: WorkstationName, cmid: Uuid) -> Self {
        Self {
            name,
            cmid,
            previous_cmid: None,
            virtual_machine: false,
            license_status: 2,
            minutes_to_expiration: 30 * 24 * 60,
        }
    }
}

/// A request under way, and what its answer will be judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The body to send.
    pub body: Vec<u8>,
    binding: Binding,
    cmid: Uuid,
    client_time_micros: i64,
    required: u32,
}

/// What a client concludes from an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The count is enough.
    Licensed(Response),
    /// The host counted the client, but the count is lower than the client requires.
    NotEnoughClients {
        /// What the host answered.
        response: Response,
        /// N.
        required: u32,
    },
    /// The host refused.
    Refused {
        /// Why, as an HRESULT.
        hresult: u32,
    },
}

impl Outcome {
    /// The HRESULT that a client reports for this outcome; 0 when licensed.
    pub fn hresult(&self) -> u32 {
        match self {
            Self::Licensed(_) => S_OK,
            Self::NotEnoughClients { .. } => NOT_ENOUGH_CLIENTS,
            Self::Refused { hresult } => *hresult,
        }
    }

    /// The host's current count, if it told one.
    pub fn current_count(&self) -> Option<u32> {
        match self {
            Self::Licensed(response) | Self::NotEnoughClients { response, .. } => Some(response.current_count),
            Self::Refused { .. } => None,
        }
    }
}

/// Why an answer is no answer to the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// HRESULT 0 without a body.
    #[error("the host answered with success but without a body")]
    NoBody,
    /// The body is no response under this site key to this request.
    #[error("the host's answer is no rehearsal response to this request: check that both sides have the same site key")]
    Envelope(#[from] EnvelopeError),
    /// The response echoes another machine or time.
    #[error("the host's response is for another client machine ID or time")]
    OtherClient,
}

/// Makes the request of `machine` for `product`. `now_micros` is the client's clock in microseconds since the Unix
/// epoch and must be later in each request of one machine: hosts take a request that is not newer for a replay.
pub fn ask(key: &SiteKey, machine: &Machine, product: &Product, now_micros: i64, entropy: &Entropy) -> Asked {
    let request = Request {
        virtual_machine: machine.virtual_machine,
        license_status: machine.license_status,
        minutes_to_expiration: machine.minutes_to_expiration,
        application: product.application,
        activation_id: product.id,
        counted_id: product.id,
        cmid: machine.cmid,
        required: product.required,
        client_time_micros: now_micros,
        previous_cmid: machine.previous_cmid.unwrap_or_default(),
        workstation: machine.name.clone(),
    };
    let (body, binding) = envelope::seal_request(key, entropy, &request);
    Asked {
        body,
        binding,
        cmid: machine.cmid,
        client_time_micros: now_micros,
        required: product.required,
    }
}

impl Asked {
    /// Concludes from the answer: the call's return value and its body, if it had one.
    pub fn conclude(&self, key: &SiteKey, hresult: u32, body: Option<&[u8]>) -> Result<Outcome, AnswerError> {
        if hresult != S_OK {
            return Ok(Outcome::Refused { hresult });
        }
        let response = envelope::open_response(key, &self.binding, body.ok_or(AnswerError::NoBody)?)?;
        if response.cmid != self.cmid || response.client_time_micros != self.client_time_micros {
            return Err(AnswerError::OtherClient);
        }
        Ok(if response.current_count >= self.required {
            Outcome::Licensed(response)
        } else {
            Outcome::NotEnoughClients {
                response,
                required: self.required,
            }
        })
    }
}
