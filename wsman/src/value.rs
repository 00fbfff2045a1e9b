//! Values of WMI properties and parameters, and instances made of them.
//!
//! On the wire WMI values are text; a class definition gives them types. The accessors of [`Instance`] are where the
//! type is asked for, so a host that answers something else is told apart by name.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// A property or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Value {
    /// `xsi:nil`, or a property that the host does not have.
    #[default]
    Null,
    /// A string, number or boolean as text.
    Text(String),
    /// A CIM datetime as text: `xsd:dateTime`.
    Datetime(String),
    /// A CIM array; an array of one cannot be told from a [`Value::Text`] on the wire.
    Array(Vec<String>),
}

/// A property holds something else than its type says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("property {property} of {class} holds {found:?}, which is not {expected}")]
pub struct WrongType {
    /// The class.
    pub class: String,
    /// The property.
    pub property: String,
    /// The type that was asked for.
    pub expected: &'static str,
    /// What came, cut to 64 characters.
    pub found: String,
}

/// An instance of a class: its properties by name, in the order of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Instance {
    /// The class, empty for the rows of a query with a column list.
    pub class: String,
    /// Names and values.
    pub properties: Vec<(String, Value)>,
}

impl Instance {
    /// An instance of `class` without properties.
    pub fn new(class: &str) -> Self {
        Self {
            class: class.to_owned(),
            properties: Vec::new(),
        }
    }

    /// Adds a property.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.push((name.to_owned(), value.into()));
        self
    }

    /// The raw value; what the host does not have is null, because older systems lack some properties.
    pub fn value(&self, name: &str) -> &Value {
        self.properties
            .iter()
            .find(|(property, _)| property.eq_ignore_ascii_case(name))
            .map_or(&Value::Null, |(_, value)| value)
    }

    /// A string.
    ///
    /// # Errors
    /// When the property is an array or a datetime.
    pub fn text(&self, name: &str) -> Result<Option<&str>, WrongType> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => Err(self.wrong(name, "a string", other)),
        }
    }

    /// A uint32 (or a smaller unsigned type).
    ///
    /// # Errors
    /// When the property is not a number from 0 to 4294967295.
    pub fn u32(&self, name: &str) -> Result<Option<u32>, WrongType> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Text(text) => match text.trim().parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(self.wrong(name, "a uint32", self.value(name))),
            },
            other => Err(self.wrong(name, "a uint32", other)),
        }
    }

    /// A uint32 whose largest value, 4294967295, stands for "none".
    ///
    /// # Errors
    /// As [`Instance::u32`].
    pub fn count(&self, name: &str) -> Result<Option<u32>, WrongType> {
        Ok(self.u32(name)?.filter(|&count| count != u32::MAX))
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the property is neither `true`/`false` nor `1`/`0`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, WrongType> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Text(text) if text.trim().eq_ignore_ascii_case("true") || text.trim() == "1" => Ok(Some(true)),
            Value::Text(text) if text.trim().eq_ignore_ascii_case("false") || text.trim() == "0" => Ok(Some(false)),
            other => Err(self.wrong(name, "a boolean", other)),
        }
    }

    /// A datetime. The year 1601 is what Windows prints for "unset" and reads as none.
    ///
    /// # Errors
    /// When the property is not a time that we can read.
    pub fn datetime(&self, name: &str) -> Result<Option<Timestamp>, WrongType> {
        match self.value(name) {
            Value::Null => Ok(None),
            Value::Datetime(text) | Value::Text(text) => match parse_datetime(text) {
                Some(time) => Ok(Some(time).filter(|time| Offset::UTC.to_datetime(*time).year() > 1601)),
                None => Err(self.wrong(name, "a datetime", self.value(name))),
            },
            other => Err(self.wrong(name, "a datetime", other)),
        }
    }

    /// A string array; null is empty.
    ///
    /// # Errors
    /// When the property is a datetime.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, WrongType> {
        match self.value(name) {
            Value::Null => Ok(Vec::new()),
            Value::Text(one) => Ok(vec![one.clone()]),
            Value::Array(all) => Ok(all.clone()),
            other => Err(self.wrong(name, "a string array", other)),
        }
    }

    fn wrong(&self, property: &str, expected: &'static str, found: &Value) -> WrongType {
        let found = match found {
            Value::Null => String::new(),
            Value::Text(text) | Value::Datetime(text) => text.clone(),
            Value::Array(all) => all.join(","),
        };
        let found = found.chars().take(64).collect();
        WrongType {
            class: self.class.clone(),
            property: property.to_owned(),
            expected,
            found,
        }
    }
}

/// Reads `xsd:dateTime` (without a zone it is UTC, as hosts write it) or the DMTF form
/// `yyyymmddHHMMSS.mmmmmmsUUU` (DSP0004 5.2.4, offset in minutes).
pub fn parse_datetime(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    text.parse::<Timestamp>()
        .ok()
        .or_else(|| Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok())
        .or_else(|| parse_dmtf(text))
}

/// The DMTF form of a time, for WQL literals.
pub fn dmtf(time: Timestamp) -> String {
    let civil = Offset::UTC.to_datetime(time);
    format!(
        "{}.{:06}+000",
        civil.strftime("%Y%m%d%H%M%S"),
        civil.subsec_nanosecond() / 1000
    )
}

fn parse_dmtf(text: &str) -> Option<Timestamp> {
    let (whole, rest) = text.split_once('.')?;
    if whole.len() != 14 || rest.len() != 10 || !text.is_ascii() {
        return None;
    }
    let civil = DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    let micros: i64 = rest.get(..6)?.parse().ok()?;
    let minutes: i32 = rest.get(6..)?.parse().ok()?;
    let offset = Offset::from_seconds(minutes.checked_mul(60)?).ok()?;
    let time = offset.to_timestamp(civil).ok()?;
    time.checked_add(jiff::SignedDuration::from_micros(micros)).ok()
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Value::Text(number.to_string())
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        Value::Text(if truth { "true" } else { "false" }.to_owned())
    }
}

impl From<Timestamp> for Value {
    fn from(time: Timestamp) -> Self {
        Value::Datetime(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    }
}

impl From<Vec<String>> for Value {
    fn from(all: Vec<String>) -> Self {
        Value::Array(all)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(some: Option<T>) -> Self {
        some.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn none_is_what_windows_means_by_none() {
        let row = Instance::new("C")
            .with("Count", u32::MAX)
            .with("Trusted", Value::Datetime("1601-01-01T00:00:00Z".into()));
        assert_eq!(row.count("Count"), Ok(None));
        assert_eq!(row.datetime("Trusted"), Ok(None));
        assert_eq!(row.u32("OnNewerSystemsOnly"), Ok(None));
    }

    #[test]
    fn a_wrong_type_is_told_by_name() {
        let row = Instance::new("C")
            .with("N", "many")
            .with("B", "perhaps")
            .with("A", vec!["x".to_owned()]);
        let error = row.u32("N").unwrap_err().to_string();
        assert_eq!(error, "property N of C holds \"many\", which is not a uint32");
        assert!(row.boolean("B").is_err());
        assert!(row.text("A").is_err());
    }

    #[test]
    fn reads_the_datetime_shapes_of_hosts() {
        let expected = "2026-11-23T19:00:00Z".parse().unwrap();
        for shape in [
            "2026-11-23T19:00:00Z",
            "2026-11-23T20:00:00+01:00",
            "2026-11-23T19:00:00",
            "20261123190000.000000+000",
            "20261123200000.000000+060",
        ] {
            assert_eq!(parse_datetime(shape), Some(expected), "{shape}");
        }
        assert_eq!(parse_datetime("yesterday"), None);
    }

    proptest! {
        #[test]
        fn dmtf_comes_back(micros in -11_000_000_000_000_000_i64..200_000_000_000_000_000) {
            let time = Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(parse_datetime(&dmtf(time)), Some(time));
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}", digits in "[0-9.+-]{0,30}") {
            let _ = parse_datetime(&text);
            let _ = parse_datetime(&digits);
        }
    }
}
