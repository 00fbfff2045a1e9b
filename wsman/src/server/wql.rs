//! The part of WQL that clients of licensing classes send: `SELECT columns FROM class WHERE a AND b ...`.
//!
//! Conditions compare a property with a string, a number, a boolean or NULL by `=`, `<>`, `!=`, `<`, `<=`, `>`, `>=`.
//! What we do not know is refused, never guessed.

use std::cmp::Ordering;

use crate::value::{Instance, Value, parse_datetime};

/// Longest query that we read, in bytes.
const MAX_QUERY: usize = 8 * 1024;
/// Most conditions.
const MAX_CONDITIONS: usize = 32;

/// A query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The class.
    pub class: String,
    /// The columns; none for `*`.
    pub columns: Option<Vec<String>>,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
}

/// A comparison of a property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The property.
    pub property: String,
    /// The operator.
    pub operator: Operator,
    /// The literal; none for NULL.
    pub literal: Option<String>,
}

/// A comparison operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `=` or `IS`.
    Equal,
    /// `<>` or `!=` or `IS NOT`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
}

/// Why a query is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the WQL query cannot be read: {0}")]
pub struct InvalidQuery(String);

impl Query {
    /// All instances of a class.
    pub fn all(class: &str) -> Self {
        Self {
            class: class.to_owned(),
            columns: None,
            conditions: Vec::new(),
        }
    }

    /// Reads a query.
    ///
    /// # Errors
    /// When it is not of the shape described above.
    pub fn parse(text: &str) -> Result<Self, InvalidQuery> {
        if text.len() > MAX_QUERY {
            return Err(InvalidQuery(format!("longer than {MAX_QUERY} bytes")));
        }
        let mut tokens = tokenize(text)?.into_iter().peekable();
        keyword(&mut tokens, "SELECT")?;
        let columns = columns(&mut tokens)?;
        let class = word(&mut tokens, "a class")?;
        let mut conditions = Vec::new();
        match tokens.next() {
            None => {}
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("WHERE") => loop {
                conditions.push(condition(&mut tokens)?);
                if conditions.len() > MAX_CONDITIONS {
                    return Err(InvalidQuery(format!("more than {MAX_CONDITIONS} conditions")));
                }
                match tokens.next() {
                    None => break,
                    Some(Token::Word(word)) if word.eq_ignore_ascii_case("AND") => {}
                    Some(other) => return Err(unexpected("AND", Some(&other))),
                }
            },
            Some(other) => return Err(unexpected("WHERE", Some(&other))),
        }
        Ok(Self {
            class,
            columns,
            conditions,
        })
    }

    /// Whether an instance satisfies every condition.
    pub fn admits(&self, instance: &Instance) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(instance.value(&condition.property)))
    }

    /// The instance with the columns asked for, in their order and spelling.
    pub fn project(&self, instance: Instance) -> Instance {
        let Some(columns) = &self.columns else { return instance };
        let properties = columns
            .iter()
            .map(|column| (column.clone(), instance.value(column).clone()))
            .collect::<Vec<_>>();
        Instance {
            class: instance.class,
            properties,
        }
    }

    /// The largest literal that `property` must be greater than, if a condition says so: a hint for providers of long
    /// lists.
    pub fn greater_than(&self, property: &str) -> Option<u64> {
        self.conditions
            .iter()
            .filter(|c| c.operator == Operator::Greater && c.property.eq_ignore_ascii_case(property))
            .filter_map(|c| c.literal.as_ref()?.parse().ok())
            .max()
    }
}

impl Condition {
    fn holds(&self, value: &Value) -> bool {
        let Some(literal) = &self.literal else {
            return match self.operator {
                Operator::Equal => *value == Value::Null,
                Operator::NotEqual => *value != Value::Null,
                _ => false,
            };
        };
        // As in SQL, nothing but IS NULL holds for null.
        let ordering = match value {
            Value::Null => return false,
            Value::Array(all) => return self.operator == Operator::Equal && all.contains(literal),
            Value::Datetime(text) => match (parse_datetime(text), parse_datetime(literal)) {
                (Some(left), Some(right)) => left.cmp(&right),
                _ => return false,
            },
            Value::Text(text) => match (text.parse::<i64>(), literal.parse::<i64>()) {
                (Ok(left), Ok(right)) => left.cmp(&right),
                _ => text.to_lowercase().cmp(&truth(text, literal).to_lowercase()),
            },
        };
        match self.operator {
            Operator::Equal => ordering == Ordering::Equal,
            Operator::NotEqual => ordering != Ordering::Equal,
            Operator::Less => ordering == Ordering::Less,
            Operator::LessOrEqual => ordering != Ordering::Greater,
            Operator::Greater => ordering == Ordering::Greater,
            Operator::GreaterOrEqual => ordering != Ordering::Less,
        }
    }
}

/// `Flag = 1` asks for a boolean as well as `Flag = TRUE` does.
fn truth<'a>(value: &str, literal: &'a str) -> &'a str {
    match (value, literal) {
        ("true" | "false", "1" | "-1") => "true",
        ("true" | "false", "0") => "false",
        _ => literal,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Comma,
    Star,
    Operator(Operator),
}

type Tokens = std::iter::Peekable<std::vec::IntoIter<Token>>;

fn tokenize(text: &str) -> Result<Vec<Token>, InvalidQuery> {
    let mut tokens = Vec::new();
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        let mut then = |next: char| characters.next_if_eq(&next).is_some();
        let token = match c {
            c if c.is_whitespace() => continue,
            ',' => Token::Comma,
            '*' => Token::Star,
            '=' => Token::Operator(Operator::Equal),
            '<' if then('>') => Token::Operator(Operator::NotEqual),
            '<' if then('=') => Token::Operator(Operator::LessOrEqual),
            '<' => Token::Operator(Operator::Less),
            '>' if then('=') => Token::Operator(Operator::GreaterOrEqual),
            '>' => Token::Operator(Operator::Greater),
            '!' if then('=') => Token::Operator(Operator::NotEqual),
            quote @ ('\'' | '"') => {
                let mut literal = String::new();
                loop {
                    match characters.next() {
                        None => return Err(InvalidQuery("a string does not end".to_owned())),
                        Some('\\') => literal.extend(characters.next()),
                        Some(c) if c == quote => break,
                        Some(c) => literal.push(c),
                    }
                }
                Token::Text(literal)
            }
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+' | '.') => {
                let mut word = String::from(c);
                while let Some(c) = characters.next_if(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
                    word.push(c);
                }
                Token::Word(word)
            }
            other => return Err(InvalidQuery(format!("unexpected character {other:?}"))),
        };
        tokens.push(token);
    }
    Ok(tokens)
}

fn columns(tokens: &mut Tokens) -> Result<Option<Vec<String>>, InvalidQuery> {
    if tokens.next_if_eq(&Token::Star).is_some() {
        keyword(tokens, "FROM")?;
        return Ok(None);
    }
    let mut columns = vec![word(tokens, "a column")?];
    while tokens.next_if_eq(&Token::Comma).is_some() {
        columns.push(word(tokens, "a column")?);
    }
    keyword(tokens, "FROM")?;
    Ok(Some(columns))
}

fn condition(tokens: &mut Tokens) -> Result<Condition, InvalidQuery> {
    let property = word(tokens, "a property")?;
    let operator = match tokens.next() {
        Some(Token::Operator(operator)) => operator,
        Some(Token::Word(word)) if word.eq_ignore_ascii_case("IS") => {
            match tokens.next_if(|token| is_keyword(token, "NOT")) {
                Some(_) => Operator::NotEqual,
                None => Operator::Equal,
            }
        }
        other => return Err(unexpected("an operator", other.as_ref())),
    };
    let literal = match tokens.next() {
        Some(Token::Text(text)) => Some(text),
        Some(Token::Word(word)) if word.eq_ignore_ascii_case("NULL") => None,
        Some(Token::Word(word)) => Some(word),
        other => return Err(unexpected("a literal", other.as_ref())),
    };
    Ok(Condition {
        property,
        operator,
        literal,
    })
}

fn is_keyword(token: &Token, wanted: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(wanted))
}

fn keyword(tokens: &mut Tokens, wanted: &str) -> Result<(), InvalidQuery> {
    match tokens.next() {
        Some(token) if is_keyword(&token, wanted) => Ok(()),
        other => Err(unexpected(wanted, other.as_ref())),
    }
}

fn word(tokens: &mut Tokens, wanted: &str) -> Result<String, InvalidQuery> {
    match tokens.next() {
        Some(Token::Word(word)) if crate::names::check_name(&word).is_ok() => Ok(word),
        other => Err(unexpected(wanted, other.as_ref())),
    }
}

fn unexpected(wanted: &str, found: Option<&Token>) -> InvalidQuery {
    InvalidQuery(match found {
        Some(found) => format!("expected {wanted}, found {found:?}"),
        None => format!("expected {wanted}, found the end"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::envelope::quoted;

    #[test]
    fn reads_the_queries_of_slmgr_and_of_administrators() {
        let query = Query::parse(
            "SELECT RecordNumber, TimeGenerated,InsertionStrings FROM Win32_NTLogEvent WHERE Logfile='Key Management Service' AND EventCode = 12290 AND RecordNumber>41234",
        )
        .unwrap();
        assert_eq!(query.class, "Win32_NTLogEvent");
        assert_eq!(query.columns.as_ref().unwrap().len(), 3);
        assert_eq!(query.greater_than("recordnumber"), Some(41234));
        let keyed = Query::parse("select * from SoftwareLicensingProduct where PartialProductKey <> null").unwrap();
        assert!(keyed.admits(&Instance::new("x").with("PartialProductKey", "ABCDE")));
        assert!(!keyed.admits(&Instance::new("x").with("PartialProductKey", Value::Null)));
    }

    #[test]
    fn compares_by_type() {
        let admits = |text: &str, instance: &Instance| Query::parse(text).unwrap().admits(instance);
        let row = Instance::new("C")
            .with("N", 12290_u32)
            .with("S", "Sppsvc")
            .with("B", true)
            .with("T", Value::Datetime("2026-11-23T19:00:00Z".into()));
        assert!(admits(
            "SELECT * FROM C WHERE N > 9999 AND N <= 12290 AND S = 'sppsvc' AND B = 1",
            &row
        ));
        assert!(admits(
            "SELECT * FROM C WHERE B = TRUE AND B <> FALSE AND X IS NULL AND N IS NOT NULL",
            &row
        ));
        assert!(admits("SELECT * FROM C WHERE T >= '20261123190000.000000+000'", &row));
        assert!(!admits("SELECT * FROM C WHERE T > '20261123190000.000000+000'", &row));
        assert!(!admits("SELECT * FROM C WHERE X <> 'a'", &row));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for query in [
            "",
            "DELETE FROM C",
            "SELECT FROM C",
            "SELECT * FROM",
            "SELECT * FROM C WHERE",
            "SELECT * FROM C WHERE a = 1 OR b = 2",
            "SELECT * FROM C WHERE a LIKE 'x'",
            "SELECT * FROM C WHERE a = 'x",
            "SELECT * FROM C; SELECT",
            "SELECT a,,b FROM C",
        ] {
            assert!(Query::parse(query).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn a_quoted_literal_reads_as_itself(text in "\\PC{0,40}") {
            let query = Query::parse(&format!("SELECT * FROM C WHERE a = {}", quoted(&text))).unwrap();
            prop_assert_eq!(query.conditions[0].literal.as_ref(), Some(&text));
            prop_assert_eq!(query.conditions.len(), 1);
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}", likely in "(SELECT|FROM|WHERE|AND|\\*|,|'|\"|<|>|=|a| |\\\\){0,24}") {
            let _ = Query::parse(&text);
            let _ = Query::parse(&likely);
        }
    }
}
