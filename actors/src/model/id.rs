//! Identifiers: one type per thing, so that two ids cannot be swapped.
//!
//! On the wire an id is a TypeID: a prefix, `_`, and the 26 lower-case Crockford base 32 characters of a
//! UUIDv7. In memory and in the store it is the 16 bytes.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

use super::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Characters of a suffix.
pub const SUFFIX_LEN: usize = 26;

/// Why a text is not an id of the wanted kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form `{prefix}_<26 characters>`")]
pub struct IdError {
    prefix: &'static str,
}

/// The 26 characters of an id.
#[must_use]
pub fn suffix(value: u128) -> [u8; SUFFIX_LEN] {
    let mut out = [b'0'; SUFFIX_LEN];
    let mut rest = value;
    for place in out.iter_mut().rev() {
        let digit = usize::try_from(rest & 31).unwrap_or(0);
        *place = ALPHABET.get(digit).copied().unwrap_or(b'0');
        rest >>= 5;
    }
    out
}

/// Reads the 26 characters back; `None` for anything that [`suffix`] does not write.
#[must_use]
pub fn parse_suffix(text: &str) -> Option<u128> {
    if text.len() != SUFFIX_LEN || !text.starts_with(|first: char| ('0'..='7').contains(&first)) {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = ALPHABET.iter().position(|it| *it == byte)?;
        Some((value << 5) | u128::try_from(digit).ok()?)
    })
}

macro_rules! typed_id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// What stands before the `_`.
            pub const PREFIX: &'static str = $prefix;

            /// Makes a new, time-ordered id.
            #[must_use]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id with these 128 bits.
            #[must_use]
            pub const fn from_u128(value: u128) -> Self {
                Self(Uuid::from_u128(value))
            }

            /// Its 128 bits; their order is the order of time.
            #[must_use]
            pub const fn as_u128(self) -> u128 {
                self.0.as_u128()
            }

            /// The 16 bytes, big-endian.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                *self.0.as_bytes()
            }

            /// The id with these 16 bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// A new id for `now` that is greater than `last`, also when the clock stepped back.
            #[must_use]
            pub fn after(last: Option<Self>, now: Timestamp) -> Self {
                let fresh = Self::at(now);
                match last {
                    Some(last) if fresh <= last => Self::from_u128(last.as_u128().saturating_add(1)),
                    Some(_) | None => fresh,
                }
            }

            /// A new id with the time `now`.
            #[must_use]
            pub fn at(now: Timestamp) -> Self {
                let random = Uuid::now_v7().as_u128() & ((1u128 << 80) - 1);
                let millis = u128::from(now.as_millis_u64()) << 80;
                Self::from_u128(millis | random)
            }

            /// When it was made.
            #[must_use]
            pub fn time(self) -> Timestamp {
                let millis = i64::try_from(self.as_u128() >> 80).unwrap_or(i64::MAX);
                Timestamp::from_millis(millis)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let suffix = suffix(self.as_u128());
                f.write_str(concat!($prefix, "_"))?;
                f.write_str(std::str::from_utf8(&suffix).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(parse_suffix)
                    .map(Self::from_u128)
                    .ok_or(IdError { prefix: $prefix })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
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
                    .pattern(Some(concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$")))
                    .into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}

typed_id!(
    /// Names a tenant.
    TenantId,
    "ten"
);
typed_id!(
    /// Names a device within a tenant.
    DeviceId,
    "dev"
);
typed_id!(
    /// Names a message; ids of one chat rise in the chat's order.
    MessageId,
    "msg"
);
typed_id!(
    /// Names an entry of the event log.
    EventId,
    "evt"
);
typed_id!(
    /// Names an API key.
    KeyId,
    "key"
);
typed_id!(
    /// Names one act of the simulated network.
    SimulationId,
    "sim"
);

impl TenantId {
    /// Nobody's tenant: owns what belongs to the gateway itself, such as signing keys.
    pub const GATEWAY: Self = Self::from_u128(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_read_as_it_was_written(value: u128) {
            let id = MessageId::from_u128(value);
            prop_assert_eq!(id.to_string().parse::<MessageId>(), Ok(id));
        }

        #[test]
        fn text_order_is_id_order(a: u128, b: u128) {
            prop_assert_eq!(suffix(a).cmp(&suffix(b)), a.cmp(&b));
        }

        #[test]
        fn what_is_read_is_what_is_written(text in "msg_[0-9a-z]{26}") {
            if let Ok(id) = text.parse::<MessageId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn an_id_knows_its_kind_and_its_time() {
        let at = Timestamp::from_millis(1_700_000_000_123);
        let id = MessageId::at(at);
        assert_eq!(id.time(), at);
        assert!(id.to_string().parse::<DeviceId>().is_err());
        assert!(
            "msg_8zzzzzzzzzzzzzzzzzzzzzzzzz"
                .parse::<MessageId>()
                .is_err()
        );
    }

    #[test]
    fn a_clock_that_steps_back_does_not_turn_the_order() {
        let late = MessageId::after(None, Timestamp::from_millis(2000));
        let early = MessageId::after(Some(late), Timestamp::from_millis(1000));
        assert!(late < early);
    }
}
