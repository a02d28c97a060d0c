//! What moves: one thing of a store at a time, in words that no backend owns.

use std::collections::BTreeMap;

use actors::model::{Cursor, DeviceId, EventId, Jid, KeyId, MessageId, TenantId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// One thing of a store. What stands in a `row` has the form of every backend's rows, with its own version in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store) enum Record {
    /// A tenant and where its log stands.
    Tenant {
        /// Its id.
        tenant: TenantId,
        /// Its record; `None` for the tenant that stands for the gateway.
        row: Option<Bytes>,
        /// The newest place of its log.
        head: Cursor,
        /// Entries up to here are gone.
        floor: u64,
    },
    /// A device.
    Device {
        /// Whose.
        tenant: TenantId,
        /// Its id.
        device: DeviceId,
        /// Its record.
        row: Bytes,
    },
    /// An API key.
    Key {
        /// Whose.
        tenant: TenantId,
        /// Its id.
        id: KeyId,
        /// Its record.
        row: Bytes,
    },
    /// Where a named consumer stands.
    Consumer {
        /// Whose.
        tenant: TenantId,
        /// Its name.
        name: String,
        /// Its place.
        row: Bytes,
    },
    /// A change of a session's state.
    SessionChange {
        /// Whose.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// Its id.
        id: EventId,
        /// The change.
        row: Bytes,
    },
    /// A value in a connector's own space.
    Value {
        /// Whose.
        tenant: TenantId,
        /// The space.
        space: String,
        /// The key.
        key: Bytes,
        /// The value.
        row: Bytes,
    },
    /// A message.
    Message {
        /// Whose.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// In which chat.
        chat: Jid,
        /// Its id.
        id: MessageId,
        /// What never changes.
        body: Bytes,
        /// How far it got.
        state: Bytes,
    },
    /// A chat.
    Chat {
        /// Whose.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// Its address.
        chat: Jid,
        /// Its record.
        row: Bytes,
    },
    /// A message that waits for the network.
    Outbox {
        /// Whose.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// In which chat.
        chat: Jid,
        /// Its id.
        id: MessageId,
    },
    /// What the network calls a message.
    Upstream {
        /// Whose.
        tenant: TenantId,
        /// Of which device.
        device: DeviceId,
        /// In which chat.
        chat: Jid,
        /// Whether the device's own account wrote it.
        from_me: bool,
        /// The network's name.
        upstream_id: String,
        /// Ours.
        id: MessageId,
    },
    /// An entry of a log.
    Entry {
        /// Whose.
        tenant: TenantId,
        /// Its place.
        seq: u64,
        /// The entry with place, id and time.
        row: Bytes,
    },
    /// An answer kept for a client's key.
    Answer {
        /// Whose.
        tenant: TenantId,
        /// Of which operation.
        operation: String,
        /// The client's key.
        key: String,
        /// The answer, and when it is forgotten.
        row: Bytes,
    },
}

impl Record {
    /// What it is, in the plural.
    pub(in crate::store) const fn kind(&self) -> &'static str {
        match self {
            Self::Tenant { .. } => "tenants",
            Self::Device { .. } => "devices",
            Self::Key { .. } => "keys",
            Self::Consumer { .. } => "consumers",
            Self::SessionChange { .. } => "session changes",
            Self::Value { .. } => "values",
            Self::Message { .. } => "messages",
            Self::Chat { .. } => "chats",
            Self::Outbox { .. } => "waiting messages",
            Self::Upstream { .. } => "upstream ids",
            Self::Entry { .. } => "log entries",
            Self::Answer { .. } => "kept answers",
        }
    }

    /// Whose it is.
    pub(in crate::store) const fn tenant(&self) -> TenantId {
        match self {
            Self::Tenant { tenant, .. }
            | Self::Device { tenant, .. }
            | Self::Key { tenant, .. }
            | Self::Consumer { tenant, .. }
            | Self::SessionChange { tenant, .. }
            | Self::Value { tenant, .. }
            | Self::Message { tenant, .. }
            | Self::Chat { tenant, .. }
            | Self::Outbox { tenant, .. }
            | Self::Upstream { tenant, .. }
            | Self::Entry { tenant, .. }
            | Self::Answer { tenant, .. } => *tenant,
        }
    }

    /// About how many bytes it takes.
    pub(in crate::store) fn weight(&self) -> usize {
        let of_rows = match self {
            Self::Tenant { row, .. } => row.as_ref().map_or(0, Bytes::len),
            Self::Device { row, .. }
            | Self::Key { row, .. }
            | Self::Consumer { row, .. }
            | Self::SessionChange { row, .. }
            | Self::Value { row, .. }
            | Self::Chat { row, .. }
            | Self::Entry { row, .. }
            | Self::Answer { row, .. } => row.len(),
            Self::Message { body, state, .. } => body.len() + state.len(),
            Self::Outbox { .. } | Self::Upstream { .. } => 0,
        };
        160 + of_rows
    }

    /// Its one form in bytes, which is hashed and filed.
    pub(in crate::store) fn to_bytes(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        let mut bytes = Vec::with_capacity(self.weight());
        rmp_serde::encode::write(&mut bytes, self)?;
        Ok(bytes)
    }
}

/// The records of one kind, in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The wrapping sums of the first and second 64 bits of their SHA-256: the same in whatever order they come.
    pub checksum: (u64, u64),
}

/// What was read or written, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally(BTreeMap<String, Sum>);

impl Tally {
    /// Counts a record by its bytes.
    pub(in crate::store) fn add(&mut self, kind: &str, bytes: &[u8]) {
        let hash: [u8; 32] = Sha256::digest(bytes).into();
        let half = |at: usize| {
            let taken = hash.iter().skip(at).take(8);
            taken.fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
        };
        if !self.0.contains_key(kind) {
            self.0.insert(kind.to_owned(), Sum::default());
        }
        if let Some(sum) = self.0.get_mut(kind) {
            sum.count += 1;
            sum.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let (first, second) = sum.checksum;
            sum.checksum = (first.wrapping_add(half(0)), second.wrapping_add(half(8)));
        }
    }

    /// All records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.0.values().map(|it| it.count).sum()
    }

    /// The bytes of all records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|it| it.bytes).sum()
    }

    /// Each kind that there is, with its sum.
    pub fn kinds(&self) -> impl Iterator<Item = (&str, &Sum)> {
        self.0.iter().map(|(kind, sum)| (kind.as_str(), sum))
    }

    /// The first kind in which the two differ.
    pub(in crate::store) fn difference(&self, other: &Self) -> Option<Difference> {
        let kinds = self.0.keys().chain(other.0.keys());
        let sum = |of: &Self, kind: &String| of.0.get(kind).copied().unwrap_or_default();
        kinds
            .map(|kind| (kind, sum(self, kind), sum(other, kind)))
            .find(|(_, first, second)| first != second)
            .map(|(kind, first, second)| Difference {
                kind: kind.clone(),
                expected: first.count,
                found: second.count,
            })
    }
}

/// A kind of which something else was found than was expected; with the same count, the contents differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The kind.
    pub kind: String,
    /// How many there should be.
    pub expected: u64,
    /// How many there are.
    pub found: u64,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind,
            expected,
            found,
        } = self;
        if expected == found {
            write!(f, "the contents of {found} {kind} differ")
        } else {
            write!(f, "{found} {kind} instead of {expected}")
        }
    }
}
