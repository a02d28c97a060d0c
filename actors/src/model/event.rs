//! Entries of the event log, and the position of a reader in it.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::{DeviceId, Direction, EventId, Jid, Scope, ScopeSet, TenantId, Timestamp};

macro_rules! event_types {
    ($($name:ident = $text:literal, $scope:expr;)*) => {
        /// What happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum EventType {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl EventType {
            /// Every type there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// The right that a reader needs beside `events:read`, if any.
            #[must_use]
            pub const fn scope(self) -> Option<Scope> {
                match self {
                    $(Self::$name => $scope,)*
                }
            }
        }
    };
}

event_types! {
    DeviceCreated = "device.created", Some(Scope::DevicesRead);
    DeviceUpdated = "device.updated", Some(Scope::DevicesRead);
    DeviceDeleted = "device.deleted", Some(Scope::DevicesRead);
    DeviceState = "device.state", Some(Scope::DevicesRead);
    DeviceQr = "device.qr", Some(Scope::DevicesRead);
    MessageCreated = "message.created", Some(Scope::MessagesRead);
    MessageReceived = "message.received", Some(Scope::MessagesRead);
    MessageStatus = "message.status", Some(Scope::MessagesRead);
    ChatUpdated = "chat.updated", Some(Scope::ChatsRead);
    ChatRead = "chat.read", Some(Scope::ChatsRead);
    PresenceUpdated = "presence.updated", Some(Scope::ContactsRead);
    ChatPresence = "chat.presence", Some(Scope::ContactsRead);
}

impl EventType {
    /// A number of its own below 64, for sets.
    #[must_use]
    pub const fn bit(self) -> u64 {
        1 << (self as u8)
    }

    /// Whether entries of this type are never stored.
    #[must_use]
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::PresenceUpdated | Self::ChatPresence)
    }
}

impl FromStr for EventType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .copied()
            .find(|it| it.as_str() == text)
            .ok_or(())
    }
}

/// A set of event types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeSet(pub u64);

impl TypeSet {
    /// No type.
    pub const NONE: Self = Self(0);
    /// Every type.
    pub const ALL: Self = Self(u64::MAX);

    /// Whether the type is in it.
    #[must_use]
    pub const fn has(self, kind: EventType) -> bool {
        self.0 & kind.bit() != 0
    }

    /// The types that a reader with these rights may see.
    #[must_use]
    pub fn allowed(scopes: ScopeSet) -> Self {
        if !scopes.has(Scope::EventsRead) {
            return Self::NONE;
        }
        let seen = |kind: &&EventType| kind.scope().is_none_or(|it| scopes.has(it));
        Self(
            EventType::ALL
                .iter()
                .filter(seen)
                .fold(0, |set, kind| set | kind.bit()),
        )
    }

    /// The types whose name fits the glob, in which `*` stands for any run of characters.
    #[must_use]
    pub fn matching(glob: &str) -> Self {
        Self(
            EventType::ALL
                .iter()
                .filter(|it| fits(glob, it.as_str()))
                .fold(0, |set, kind| set | kind.bit()),
        )
    }

    /// What is in either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

fn fits(glob: &str, name: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else {
        return glob == name;
    };
    let Some(mut name) = name.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or("");
    for part in parts {
        match name.find(part) {
            Some(at) => name = name.get(at.saturating_add(part.len())..).unwrap_or(""),
            None => return false,
        }
    }
    name.ends_with(tail)
}

/// A place in a tenant's log: everything up to and with `seq` is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cursor {
    /// Which life of the log.
    pub epoch: u32,
    /// The last entry behind it; 0 before the first.
    pub seq: u64,
}

/// Why a text is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of the form `<epoch>-<seq>`")]
pub struct CursorError;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        fn plain<T: FromStr + fmt::Display>(text: &str) -> Result<T, CursorError> {
            let number: T = text.parse().map_err(|_| CursorError)?;
            if number.to_string() == text {
                Ok(number)
            } else {
                Err(CursorError)
            }
        }
        let (epoch, seq) = text.split_once('-').ok_or(CursorError)?;
        Ok(Self {
            epoch: plain(epoch)?,
            seq: plain(seq)?,
        })
    }
}

impl serde::Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cursor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Cursor {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some("^[0-9]+-[0-9]+$"))
            .examples(["1-120392"])
            .into()
    }
}

impl utoipa::ToSchema for Cursor {}

/// An entry before it has its place: everything but `seq`, `epoch` and `id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryDraft {
    /// What happened.
    pub kind: EventType,
    /// When.
    pub time: Timestamp,
    /// To which device.
    pub device: Option<DeviceId>,
    /// In which chat.
    pub chat: Option<Jid>,
    /// Which way, for messages.
    pub direction: Option<Direction>,
    /// `data`, encoded as JSON.
    pub data: Bytes,
}

/// What filters look at, and what a codec writes before `data`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryHeader {
    /// The entry's name, the same on every transport.
    pub id: EventId,
    /// Its place.
    pub cursor: Cursor,
    /// Whose log.
    pub tenant: TenantId,
    /// What happened.
    pub kind: EventType,
    /// When.
    pub time: Timestamp,
    /// To which device.
    pub device: Option<DeviceId>,
    /// In which chat.
    pub chat: Option<Jid>,
    /// Which way, for messages.
    pub direction: Option<Direction>,
}

impl EntryHeader {
    /// The id of the entry at `cursor`: a UUIDv7 whose random bits carry the place, so that an entry is found by its
    /// id without an index, and a part of the tenant, so that ids of different tenants differ.
    #[must_use]
    pub fn id_at(tenant: TenantId, cursor: Cursor, time: Timestamp) -> EventId {
        let owner = tenant.as_u128();
        let rand_a = (owner ^ u128::from(cursor.epoch)) & 0xfff;
        let rand_b = ((owner >> 12) & 0x3fff) << 48 | u128::from(cursor.seq & 0xffff_ffff_ffff);
        let millis = u128::from(time.as_millis_u64());
        EventId::from_u128(millis << 80 | 7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)
    }

    /// The `seq` that an id carries.
    #[must_use]
    pub fn seq_of(id: EventId) -> u64 {
        u64::try_from(id.as_u128() & 0xffff_ffff_ffff).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_event_id_carries_its_place(seq in 0u64..1 << 48, epoch: u32, millis in 0i64..1 << 47) {
            let (tenant, time) = (TenantId::generate(), Timestamp::from_millis(millis));
            let id = EntryHeader::id_at(tenant, Cursor { epoch, seq }, time);
            prop_assert_eq!(EntryHeader::seq_of(id), seq);
            prop_assert_eq!(id.time(), time);
        }

        #[test]
        fn a_cursor_is_read_as_it_was_written(epoch: u32, seq: u64) {
            let cursor = Cursor { epoch, seq };
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_is_not_a_cursor_is_refused() {
        for wrong in [
            "",
            "7",
            "7-",
            "-7",
            "07-1",
            "+7-1",
            "7-1-1",
            "7-18446744073709551616",
        ] {
            assert_eq!(wrong.parse::<Cursor>(), Err(CursorError), "{wrong}");
        }
    }

    #[test]
    fn a_star_is_any_run_of_characters() {
        assert_eq!(
            TypeSet::matching("message.status"),
            TypeSet(EventType::MessageStatus.bit())
        );
        assert!(TypeSet::matching("message.*").has(EventType::MessageCreated));
        assert!(!TypeSet::matching("message.*").has(EventType::DeviceQr));
        assert!(TypeSet::matching("*.created").has(EventType::DeviceCreated));
        assert!(TypeSet::matching("*a*e*").has(EventType::MessageStatus));
        assert_eq!(TypeSet::matching("nothing.*"), TypeSet::NONE);
        assert_eq!(TypeSet::matching("message.status*x"), TypeSet::NONE);
    }
}
