//! What rehearsal clients and hosts tell each other: the fields that Microsoft publishes for KMS requests and
//! responses ("Volume Activation 2.0 Operations Guide", "KMS RPC Messages"), in a layout of our own.
//!
//! Both messages have one constant length, so every field has one place and nothing about the content shows in the
//! size. Numbers are little-endian, UUIDs are in RFC 9562 byte order.

use std::fmt;

use bytes::{Buf, BufMut, TryGetError};
use uuid::Uuid;

use crate::ledger::counting::LARGEST_REQUIRED;

/// Length of an encoded [`Request`].
pub const REQUEST_BYTES: usize = 4 * 4 + 4 * 16 + 8 + 16 + 2 * NAME_UNITS;

/// Length of an encoded [`Response`].
pub const RESPONSE_BYTES: usize = HOST_ID_BYTES + 16 + 8 + 3 * 4;

/// UTF-16 units of the workstation name on the wire, its terminating zero included (as Microsoft publishes it).
const NAME_UNITS: usize = 64;

/// Bytes of the host ID on the wire, filled up with zeros.
const HOST_ID_BYTES: usize = 64;

/// A rehearsal client's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Whether the client is a virtual machine.
    pub virtual_machine: bool,
    /// Licence status 0..=6, as in [`crate::ledger::Event::license_status`].
    pub license_status: u32,
    /// Minutes until that status expires.
    pub minutes_to_expiration: u32,
    /// Application ID.
    pub application: Uuid,
    /// Activation ID (SKU) of the client's product.
    pub activation_id: Uuid,
    /// KMS counted ID: which host product must serve it. In rehearsals this is the activation ID of the host licence.
    pub counted_id: Uuid,
    /// Client machine ID.
    pub cmid: Uuid,
    /// N, the count that the client requires, 1..=1000.
    pub required: u32,
    /// The client's clock, in microseconds since the Unix epoch.
    pub client_time_micros: i64,
    /// The client machine ID before this one; nil when there was none.
    pub previous_cmid: Uuid,
    /// The client's machine name.
    pub workstation: WorkstationName,
}

/// A rehearsal host's response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Which host answered.
    pub host_id: HostId,
    /// The client machine ID, echoed.
    pub cmid: Uuid,
    /// The client's time, echoed.
    pub client_time_micros: i64,
    /// The host's current count, this client included.
    pub current_count: u32,
    /// Minutes after which a client that is not activated asks again.
    pub activation_interval_minutes: u32,
    /// Minutes after which an activated client renews.
    pub renewal_interval_minutes: u32,
}

/// Why bytes are not a message. The bytes were sealed under the site key, so a peer of ours made them wrongly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not the constant length.
    #[error("the message has the wrong length")]
    Length,
    /// A field's value is outside its range.
    #[error("the message's {0} is out of range")]
    Field(&'static str),
}

impl From<TryGetError> for MessageError {
    fn from(_: TryGetError) -> Self {
        Self::Length
    }
}

impl Request {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REQUEST_BYTES);
        bytes.put_u32_le(self.virtual_machine.into());
        bytes.put_u32_le(self.license_status);
        bytes.put_u32_le(self.minutes_to_expiration);
        bytes.put_slice(self.application.as_bytes());
        bytes.put_slice(self.activation_id.as_bytes());
        bytes.put_slice(self.counted_id.as_bytes());
        bytes.put_slice(self.cmid.as_bytes());
        bytes.put_u32_le(self.required);
        bytes.put_i64_le(self.client_time_micros);
        bytes.put_slice(self.previous_cmid.as_bytes());
        self.workstation
            .0
            .encode_utf16()
            .for_each(|unit| bytes.put_u16_le(unit));
        bytes.resize(REQUEST_BYTES, 0);
        bytes
    }

    /// Reads a message.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() != REQUEST_BYTES {
            return Err(MessageError::Length);
        }
        let bytes = &mut bytes;
        Ok(Self {
            virtual_machine: match bytes.try_get_u32_le()? {
                0 => false,
                1 => true,
                _ => return Err(MessageError::Field("virtual machine flag")),
            },
            license_status: within(bytes.try_get_u32_le()?, 0..=6, "licence status")?,
            minutes_to_expiration: bytes.try_get_u32_le()?,
            application: uuid(bytes)?,
            activation_id: uuid(bytes)?,
            counted_id: uuid(bytes)?,
            cmid: uuid(bytes)?,
            required: within(bytes.try_get_u32_le()?, 1..=LARGEST_REQUIRED, "required count")?,
            client_time_micros: bytes.try_get_i64_le()?,
            previous_cmid: uuid(bytes)?,
            workstation: workstation(bytes)?,
        })
    }
}

impl Response {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RESPONSE_BYTES);
        bytes.put_slice(self.host_id.0.as_bytes());
        bytes.resize(HOST_ID_BYTES, 0);
        bytes.put_slice(self.cmid.as_bytes());
        bytes.put_i64_le(self.client_time_micros);
        bytes.put_u32_le(self.current_count);
        bytes.put_u32_le(self.activation_interval_minutes);
        bytes.put_u32_le(self.renewal_interval_minutes);
        bytes
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() != RESPONSE_BYTES {
            return Err(MessageError::Length);
        }
        let (host_id, mut bytes) = bytes.split_first_chunk::<HOST_ID_BYTES>().ok_or(MessageError::Length)?;
        let bytes = &mut bytes;
        let text = until_zero(host_id, 0).ok_or(MessageError::Field("host ID"))?;
        Ok(Self {
            host_id: std::str::from_utf8(text)
                .ok()
                .and_then(HostId::new)
                .ok_or(MessageError::Field("host ID"))?,
            cmid: uuid(bytes)?,
            client_time_micros: bytes.try_get_i64_le()?,
            current_count: bytes.try_get_u32_le()?,
            activation_interval_minutes: bytes.try_get_u32_le()?,
            renewal_interval_minutes: bytes.try_get_u32_le()?,
        })
    }
}

/// A machine's name: 1 to 63 UTF-16 units, without control characters and without commas, which separate the fields of
/// KMS event 12290.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkstationName(String);

impl WorkstationName {
    /// Checks a name.
    pub fn new(name: &str) -> Option<Self> {
        let units = name.encode_utf16().count();
        let plain = !name.chars().any(|c| c.is_control() || c == ',');
        ((1..NAME_UNITS).contains(&units) && plain).then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkstationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A rehearsal host's ID, shown to its clients: 1 to 63 printable ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostId(String);

impl HostId {
    /// Checks an ID.
    pub fn new(id: &str) -> Option<Self> {
        let printable = id.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        ((1..HOST_ID_BYTES).contains(&id.len()) && printable).then(|| Self(id.to_owned()))
    }

    /// The ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn uuid(bytes: &mut &[u8]) -> Result<Uuid, MessageError> {
    let mut uuid = [0; 16];
    bytes.try_copy_to_slice(&mut uuid)?;
    Ok(Uuid::from_bytes(uuid))
}

fn within(value: u32, range: std::ops::RangeInclusive<u32>, field: &'static str) -> Result<u32, MessageError> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(MessageError::Field(field))
    }
}

fn workstation(bytes: &mut &[u8]) -> Result<WorkstationName, MessageError> {
    let mut units = [0; NAME_UNITS];
    for unit in &mut units {
        *unit = bytes.try_get_u16_le()?;
    }
    until_zero(&units, 0)
        .and_then(|units| String::from_utf16(units).ok())
        .and_then(|name| WorkstationName::new(&name))
        .ok_or(MessageError::Field("workstation name"))
}

/// What stands before the filling of zeros; none when something follows the first zero, so that a value has one form.
fn until_zero<T: PartialEq + Copy>(field: &[T], zero: T) -> Option<&[T]> {
    let end = field.iter().position(|unit| *unit == zero)?;
    let (text, filling) = field.split_at_checked(end)?;
    filling.iter().all(|unit| *unit == zero).then_some(text)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::rehearsal) fn request() -> impl Strategy<Value = Request> {
        let ids = prop::array::uniform5(any::<u128>().prop_map(Uuid::from_u128));
        let name = "[^,\\p{Cc}]{1,31}".prop_filter_map("too long in UTF-16", |name| WorkstationName::new(&name));
        let numbers = (0..=6u32, any::<u32>(), 1..=LARGEST_REQUIRED, any::<i64>());
        (any::<bool>(), numbers, ids, name).prop_map(|(virtual_machine, numbers, ids, workstation)| {
            let (license_status, minutes_to_expiration, required, client_time_micros) = numbers;
            let [application, activation_id, counted_id, cmid, previous_cmid] = ids;
            Request {
                virtual_machine,
                license_status,
                minutes_to_expiration,
                application,
                activation_id,
                counted_id,
                cmid,
                required,
                client_time_micros,
                previous_cmid,
                workstation,
            }
        })
    }

    proptest! {
        #[test]
        fn requests_come_back_as_they_went(request in request()) {
            let bytes = request.encode();
            prop_assert_eq!(bytes.len(), REQUEST_BYTES);
            prop_assert_eq!(Request::decode(&bytes), Ok(request));
        }

        #[test]
        fn what_decodes_has_one_form(request in request(), at in 0..REQUEST_BYTES, byte in any::<u8>()) {
            let mut bytes = request.encode();
            bytes[at] = byte;
            if let Ok(decoded) = Request::decode(&bytes) {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn responses_come_back_as_they_went(
            host_id in "[ -~]{1,63}", cmid: u128, client_time_micros: i64, numbers: [u32; 3],
        ) {
            let [current_count, activation_interval_minutes, renewal_interval_minutes] = numbers;
            let response = Response {
                host_id: HostId::new(&host_id).unwrap(),
                cmid: Uuid::from_u128(cmid),
                client_time_micros,
                current_count,
                activation_interval_minutes,
                renewal_interval_minutes,
            };
            let bytes = response.encode();
            prop_assert_eq!(bytes.len(), RESPONSE_BYTES);
            prop_assert_eq!(Response::decode(&bytes), Ok(response));
            prop_assert_eq!(Response::decode(&bytes[1..]), Err(MessageError::Length));
        }
    }

    #[test]
    fn names_that_would_break_an_event_are_refused() {
        for bad in ["", "a,b", "a\nb", "a\0", &"x".repeat(64), &"\u{1F600}".repeat(32)] {
            assert_eq!(WorkstationName::new(bad), None, "{bad:?}");
        }
        assert!(WorkstationName::new(&"x".repeat(63)).is_some());
    }
}
