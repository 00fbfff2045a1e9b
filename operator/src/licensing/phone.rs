//! Activation by telephone: installation IDs in groups, confirmation IDs checked before anything is sent.

/// Digits of a confirmation ID.
pub const CONFIRMATION_DIGITS: usize = 48;

/// Why a confirmation ID cannot be one. Says nothing of its digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAConfirmationId {
    /// Something other than digits, blanks and hyphens.
    #[error("the confirmation ID holds {found:?} at place {place}: it is made of digits only, in groups A to H")]
    Character {
        /// The character.
        found: char,
        /// Its place, from 1.
        place: usize,
    },
    /// Wrong number of digits.
    #[error("the confirmation ID has {0} digits instead of 48: read the groups A to H again")]
    Length(usize),
}

/// Reads a confirmation ID as people type it: blanks, line breaks and hyphens do not count.
///
/// # Errors
/// When something else than 48 digits is left.
pub fn confirmation_id(typed: &str) -> Result<String, NotAConfirmationId> {
    let mut digits = String::with_capacity(CONFIRMATION_DIGITS);
    for (place, found) in typed.trim().chars().enumerate() {
        match found {
            '0'..='9' => digits.push(found),
            '-' => {}
            blank if blank.is_whitespace() => {}
            _ => {
                return Err(NotAConfirmationId::Character {
                    found,
                    place: place + 1,
                });
            }
        }
    }
    if digits.len() == CONFIRMATION_DIGITS {
        Ok(digits)
    } else {
        Err(NotAConfirmationId::Length(digits.len()))
    }
}

/// An installation ID in the groups that Microsoft's voice asks for. Its length depends on the Windows, so the groups
/// are made by length: 63 digits are nine groups of seven, all others groups of six.
pub fn grouped(installation_id: &str) -> String {
    let digits: Vec<char> = installation_id.chars().filter(char::is_ascii_digit).collect();
    let size = if digits.len().is_multiple_of(7) && !digits.len().is_multiple_of(6) {
        7
    } else {
        6
    };
    digits
        .chunks(size)
        .map(|group| group.iter().collect::<String>())
        .collect::<Vec<_>>()
        .join("-")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_confirmation_id_is_48_digits_however_it_is_typed() {
        let typed = " 123456-123456 123456-123456\n123456-123456-123456-123456 ";
        assert_eq!(confirmation_id(typed).unwrap(), "123456".repeat(8));
        assert_eq!(confirmation_id(&"1".repeat(47)), Err(NotAConfirmationId::Length(47)));
        assert_eq!(
            confirmation_id("12O"),
            Err(NotAConfirmationId::Character { found: 'O', place: 3 })
        );
    }

    #[test]
    fn installation_ids_of_every_length_are_grouped() {
        assert_eq!(grouped(&"1".repeat(63)), ["1111111"; 9].join("-"));
        assert_eq!(grouped(&"1".repeat(54)), ["111111"; 9].join("-"));
        assert_eq!(grouped(&"1".repeat(36)), ["111111"; 6].join("-"));
    }

    proptest! {
        #[test]
        fn grouping_keeps_every_digit(digits in "[0-9]{0,80}") {
            prop_assert_eq!(grouped(&digits).replace('-', ""), digits);
        }

        #[test]
        fn typing_never_panics(typed in "\\PC{0,80}") {
            if let Ok(id) = confirmation_id(&typed) {
                prop_assert_eq!(id.len(), 48);
            }
        }
    }
}
