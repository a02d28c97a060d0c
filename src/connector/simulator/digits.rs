//! A phone number as one machine word: what every look-up of the network goes by.

use std::fmt;

use actors::model::{Jid, JidKind, PhoneNumber};

/// 7 to 15 digits behind a leading 1 that keeps their zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digits(u64);

impl Digits {
    /// Reads digits; `None` for anything that is not a number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if !(7..=15).contains(&text.len()) {
            return None;
        }
        let digit = |value: u64, byte: u8| {
            byte.is_ascii_digit()
                .then(|| value * 10 + u64::from(byte - b'0'))
        };
        text.bytes().try_fold(1, digit).map(Self)
    }

    /// The number of a person; `None` for every other address.
    pub(super) fn of(jid: &Jid) -> Option<Self> {
        match jid.kind() {
            JidKind::Person => Self::parse(jid.user()),
            JidKind::Lid | JidKind::Group | JidKind::Broadcast | JidKind::Newsletter => None,
        }
    }

    /// The same as a noun of the house.
    pub(super) fn number(self) -> Option<PhoneNumber> {
        self.to_string().parse().ok()
    }
}

impl fmt::Display for Digits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.get(1..).unwrap_or_default())
    }
}

impl fmt::Debug for Digits {
    /// Masked: logs never show full numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…{:02}", self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_keeps_its_zeros() {
        for text in ["0000000", "51999888777", "999999999999999", "005199988877"] {
            let digits = Digits::parse(text).unwrap();
            assert_eq!(digits.to_string(), text);
            assert_eq!(digits.number().unwrap().digits(), text);
            assert_eq!(Digits::of(&text.parse().unwrap()), Some(digits));
        }
        for wrong in ["", "123456", "1234567890123456", "519998887x7"] {
            assert!(Digits::parse(wrong).is_none(), "{wrong}");
        }
        assert!(Digits::of(&"1234567@g.us".parse().unwrap()).is_none());
    }
}
