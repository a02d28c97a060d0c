//! Addresses of the network: persons, groups, broadcast lists, channels.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A canonical address, such as `51999888777@s.whatsapp.net`. Cheap to clone.
///
/// Printed in full by `Display` (for the wire); `Debug` masks it, because logs never show full numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Jid(Arc<str>);

/// What an address names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JidKind {
    /// A person by phone number.
    Person,
    /// A person by privacy id.
    Lid,
    /// A group.
    Group,
    /// Stories or a broadcast list.
    Broadcast,
    /// A channel.
    Newsletter,
}

/// Why a text is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JidError {
    /// Not 7 to 15 digits.
    #[error("a phone number has 7 to 15 digits with its country code")]
    Number,
    /// Not a form that the network has.
    #[error("not an address such as 51999888777, 51999888777@s.whatsapp.net or 1203630@g.us")]
    Form,
}

const PERSON: &str = "s.whatsapp.net";
/// The longest text that is looked at.
const TEXT_MAX: usize = 128;

impl Jid {
    /// The person with this phone number.
    #[must_use]
    pub fn person(number: &PhoneNumber) -> Self {
        Self(format!("{}@{PERSON}", number.digits()).into())
    }

    /// The address as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the `@`.
    #[must_use]
    pub fn user(&self) -> &str {
        self.0.split_once('@').map_or(&*self.0, |(user, _)| user)
    }

    /// What it names.
    #[must_use]
    pub fn kind(&self) -> JidKind {
        match self.0.split_once('@').map_or("", |(_, server)| server) {
            "lid" => JidKind::Lid,
            "g.us" => JidKind::Group,
            "broadcast" => JidKind::Broadcast,
            "newsletter" => JidKind::Newsletter,
            _ => JidKind::Person,
        }
    }

    /// The phone number of a person.
    #[must_use]
    pub fn number(&self) -> Option<PhoneNumber> {
        (self.kind() == JidKind::Person).then(|| PhoneNumber(self.user().into()))
    }
}

impl FromStr for Jid {
    type Err = JidError;

    fn from_str(text: &str) -> Result<Self, JidError> {
        if TEXT_MAX < text.len() {
            return Err(JidError::Form);
        }
        let Some((user, server)) = text.split_once('@') else {
            return Ok(Self::person(&text.parse()?));
        };
        let user = user.split_once(':').map_or(user, |(user, _device)| user);
        let digits = |text: &str| {
            !text.is_empty() && text.len() <= 20 && text.bytes().all(|it| it.is_ascii_digit())
        };
        let known = match server {
            PERSON | "c.us" => return Ok(Self::person(&user.parse()?)),
            "lid" | "newsletter" => digits(user),
            "g.us" => match user.split_once('-') {
                Some((creator, time)) => digits(creator) && digits(time),
                None => digits(user),
            },
            "broadcast" => user == "status" || digits(user),
            _ => false,
        };
        if !known {
            return Err(JidError::Form);
        }
        Ok(Self(format!("{user}@{server}").into()))
    }
}

impl fmt::Display for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Jid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (user, server) = self.0.split_once('@').unwrap_or((&self.0, ""));
        write!(f, "{}@{server}", masked(user))
    }
}

/// A phone number in international form, digits only: whole on the wire, masked wherever it is printed for us.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhoneNumber(Arc<str>);

impl PhoneNumber {
    /// All digits, country code first.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl FromStr for PhoneNumber {
    type Err = JidError;

    fn from_str(text: &str) -> Result<Self, JidError> {
        let bare: String = text
            .trim()
            .strip_prefix('+')
            .unwrap_or(text.trim())
            .chars()
            .filter(|it| !matches!(it, ' ' | '-' | '(' | ')'))
            .collect();
        let fits = (7..=15).contains(&bare.len()) && bare.bytes().all(|it| it.is_ascii_digit());
        if fits {
            Ok(Self(bare.into()))
        } else {
            Err(JidError::Number)
        }
    }
}

impl fmt::Display for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PhoneNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

fn masked(user: &str) -> String {
    let tail_from = user.len().saturating_sub(2);
    format!("…{}", user.get(tail_from..).unwrap_or(""))
}

macro_rules! text_on_the_wire {
    ($name:ident, $example:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .examples([$example])
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

text_on_the_wire!(Jid, "51999888777@s.whatsapp.net");
text_on_the_wire!(PhoneNumber, "51999888777");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_a_person_is_one_address() {
        for form in [
            "+51 999-888-777",
            "51999888777",
            "(51) 999888777",
            "51999888777@s.whatsapp.net",
            "51999888777@c.us",
            "51999888777:12@s.whatsapp.net",
        ] {
            assert_eq!(
                form.parse::<Jid>().map(|it| it.to_string()),
                Ok("51999888777@s.whatsapp.net".to_owned()),
                "{form}"
            );
        }
    }

    #[test]
    fn other_kinds_keep_their_form() {
        for form in [
            "123@lid",
            "120363041234567890@g.us",
            "51999888777-1600000000@g.us",
            "status@broadcast",
            "12@newsletter",
        ] {
            assert_eq!(
                form.parse::<Jid>().map(|it| it.to_string()),
                Ok(form.to_owned())
            );
        }
        for wrong in [
            "",
            "abc",
            "123456",
            "1234567890123456",
            "x@g.us",
            "1@nowhere",
            "@lid",
            "51999888777@",
            "5199988877٧",
        ] {
            assert!(wrong.parse::<Jid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn logs_do_not_show_a_number() {
        let jid: Jid = "51999888777".parse().unwrap();
        assert_eq!(
            format!("{jid:?} {:?}", jid.number().unwrap()),
            "…77@s.whatsapp.net …77"
        );
    }

    proptest! {
        #[test]
        fn a_canonical_form_stays_what_it_is(text in "\\PC{0,40}") {
            if let Ok(jid) = text.parse::<Jid>() {
                prop_assert_eq!(jid.as_str().parse::<Jid>(), Ok(jid));
            }
        }
    }
}
