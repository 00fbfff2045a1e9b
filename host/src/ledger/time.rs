//! Times as people write them in configuration files, and as programs do.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Visitor};

use super::Millis;

/// Takes milliseconds since the Unix epoch or RFC 3339 text.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Millis, D::Error> {
    deserializer.deserialize_any(Time)
}

struct Time;

impl Visitor<'_> for Time {
    type Value = Millis;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as 2026-11-27T09:30:00Z, or milliseconds since 1970")
    }

    fn visit_i64<E: Error>(self, millis: i64) -> Result<Millis, E> {
        Ok(Millis(millis))
    }

    fn visit_u64<E: Error>(self, millis: u64) -> Result<Millis, E> {
        i64::try_from(millis).map(Millis).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Millis, E> {
        let time: Result<jiff::Timestamp, _> = text.parse();
        time.map(|time| Millis(time.as_millisecond()))
            .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}
