//! One change of a row as the server takes it: a statement and its values, ready to be written again and again.
//!
//! Every change carries a timestamp that was given to it once, and names its whole key: writing it twice is writing it
//! once, and of two changes of a row the later one wins in whatever order they arrive. That is what lets a commit be
//! repeated after a timeout, and a journal be applied after a crash.

use scylla::cluster::metadata::ColumnType;
use scylla::serialize::SerializationError;
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::{CellWriter, WrittenCellProof};

/// A value in the form in which the server takes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Cell(Vec<u8>);

impl Cell {
    pub(super) fn int(value: i32) -> Self {
        Self(value.to_be_bytes().to_vec())
    }

    pub(super) fn big(value: i64) -> Self {
        Self(value.to_be_bytes().to_vec())
    }

    /// A place or a count; the server's numbers have a sign.
    pub(super) fn count(value: u64) -> Self {
        Self::big(i64::try_from(value).unwrap_or(i64::MAX))
    }

    pub(super) fn flag(value: bool) -> Self {
        Self(vec![u8::from(value)])
    }

    pub(super) fn text(value: &str) -> Self {
        Self(value.as_bytes().to_vec())
    }

    pub(super) fn blob(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// An id, for a `uuid` or a `blob`.
    pub(super) fn id(bytes: [u8; 16]) -> Self {
        Self(bytes.to_vec())
    }
}

impl SerializeValue for Cell {
    fn serialize<'b>(
        &self,
        _: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        writer.set_value(&self.0).map_err(SerializationError::new)
    }
}

macro_rules! kinds {
    ($($name:ident = $code:literal, $partition:literal of $key:literal, $cql:literal;)*) => {
        /// What can be changed. The numbers stand in journals and stay.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Kind {
            $(#[doc = $cql] $name,)*
        }

        impl Kind {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The statement. The key's values come first, in the order of the table's key.
            pub(super) const fn cql(self) -> &'static str {
                match self { $(Self::$name => $cql,)* }
            }

            /// How many of the values name the partition.
            const fn partition(self) -> usize {
                match self { $(Self::$name => $partition,)* }
            }

            /// How many of the values name what is written.
            const fn key(self) -> usize {
                match self { $(Self::$name => $key,)* }
            }

            const fn code(self) -> u8 {
                match self { $(Self::$name => $code,)* }
            }

            const fn of_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    PutTenant = 1, 1 of 2, "INSERT INTO tenants (cluster, tenant, body) VALUES (?, ?, ?) USING TIMESTAMP ?";
    PutKey = 2, 1 of 2, "INSERT INTO keys (tenant, id, body) VALUES (?, ?, ?) USING TIMESTAMP ?";
    RemoveKey = 3, 1 of 2, "DELETE FROM keys USING TIMESTAMP ? WHERE tenant = ? AND id = ?";
    PutKeyOwner = 4, 2 of 3, "INSERT INTO key_owners (cluster, id, tenant, owner) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    RemoveKeyOwner = 5, 2 of 3, "DELETE FROM key_owners USING TIMESTAMP ? WHERE cluster = ? AND id = ? AND tenant = ?";
    PutEntry = 6, 2 of 3, "INSERT INTO event_log (tenant, bucket, seq, body) VALUES (?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?";
    PutAnswer = 7, 3 of 3, "INSERT INTO idempotency (tenant, operation, key, body) VALUES (?, ?, ?, ?) USING TTL ? AND TIMESTAMP ?";
    PutDevice = 8, 1 of 2, "INSERT INTO devices (tenant, id, body) VALUES (?, ?, ?) USING TIMESTAMP ?";
    RemoveDevice = 9, 1 of 2, "DELETE FROM devices USING TIMESTAMP ? WHERE tenant = ? AND id = ?";
    PutConsumer = 10, 1 of 2, "INSERT INTO consumers (tenant, name, body) VALUES (?, ?, ?) USING TIMESTAMP ?";
    RemoveConsumer = 11, 1 of 2, "DELETE FROM consumers USING TIMESTAMP ? WHERE tenant = ? AND name = ?";
    PutSessionChange = 12, 2 of 3, "INSERT INTO session_changes (tenant, device, id, body) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    PutValue = 13, 2 of 3, "INSERT INTO connector_values (tenant, space, key, body) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    RemoveValue = 14, 2 of 3, "DELETE FROM connector_values USING TIMESTAMP ? WHERE tenant = ? AND space = ? AND key = ?";
    PutMessage = 15, 4 of 5, "INSERT INTO messages (tenant, device, chat, bucket, id, body, state) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    PutMessageState = 16, 4 of 5, "INSERT INTO messages (tenant, device, chat, bucket, id, state) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    PutChatBucket = 17, 2 of 4, "INSERT INTO chat_buckets (tenant, device, chat, bucket) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    PutDeviceMessage = 18, 3 of 4, "INSERT INTO device_messages (tenant, device, bucket, id, chat) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?";
    PutDeviceBucket = 19, 2 of 3, "INSERT INTO device_buckets (tenant, device, bucket) VALUES (?, ?, ?) USING TIMESTAMP ?";
    PutChat = 20, 2 of 3, "INSERT INTO chats (tenant, device, chat, active_at, unread, body) VALUES (?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    PutOutbox = 21, 2 of 4, "INSERT INTO outbox (tenant, device, chat, id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    RemoveOutbox = 22, 2 of 4, "DELETE FROM outbox USING TIMESTAMP ? WHERE tenant = ? AND device = ? AND chat = ? AND id = ?";
    PutUpstream = 23, 4 of 6, "INSERT INTO upstream (tenant, device, chat, shard, from_me, upstream_id, id) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    EraseMessages = 24, 4 of 4, "DELETE FROM messages USING TIMESTAMP ? WHERE tenant = ? AND device = ? AND chat = ? AND bucket = ?";
    EraseDeviceMessages = 25, 3 of 3, "DELETE FROM device_messages USING TIMESTAMP ? WHERE tenant = ? AND device = ? AND bucket = ?";
    EraseUpstream = 26, 4 of 4, "DELETE FROM upstream USING TIMESTAMP ? WHERE tenant = ? AND device = ? AND chat = ? AND shard = ?";
    EraseChats = 27, 2 of 2, "DELETE FROM chats USING TIMESTAMP ? WHERE tenant = ? AND device = ?";
    EraseOutbox = 28, 2 of 2, "DELETE FROM outbox USING TIMESTAMP ? WHERE tenant = ? AND device = ?";
    EraseSessionChanges = 29, 2 of 2, "DELETE FROM session_changes USING TIMESTAMP ? WHERE tenant = ? AND device = ?";
    EraseDeviceBuckets = 30, 2 of 2, "DELETE FROM device_buckets USING TIMESTAMP ? WHERE tenant = ? AND device = ?";
    EraseChatBuckets = 31, 2 of 2, "DELETE FROM chat_buckets USING TIMESTAMP ? WHERE tenant = ? AND device = ?";
    PutPart = 32, 1 of 3, "INSERT INTO journal (tenant, commit, part, body) VALUES (?, ?, ?, ?) USING TIMESTAMP ?";
    PutMark = 33, 1 of 1, "INSERT INTO journal (tenant, cluster, epoch, head, floor, committed, applied, fence, parts, tail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ?";
    DropCommits = 34, 1 of 2, "DELETE FROM journal USING TIMESTAMP ? WHERE tenant = ? AND commit <= ?";
}

impl Kind {
    /// Whether the timestamp is the first of the values, as it is where something goes.
    fn is_removal(self) -> bool {
        self.cql().starts_with("DELETE")
    }
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// What is done.
    pub(super) kind: Kind,
    /// The values, the key's first, without the timestamp.
    pub(super) cells: Vec<Cell>,
    /// When it counts as written, in microseconds.
    pub(super) stamp: i64,
}

impl Change {
    /// A change that has no timestamp yet.
    pub(super) fn new(kind: Kind, cells: Vec<Cell>) -> Self {
        Self {
            kind,
            cells,
            stamp: 0,
        }
    }

    /// What the statement is called with.
    pub(super) fn values(&self) -> Vec<Cell> {
        let mut values = self.cells.clone();
        let at = if self.kind.is_removal() {
            0
        } else {
            values.len()
        };
        values.insert(at, Cell::big(self.stamp));
        values
    }

    /// The table and the partition that it changes: those of one can go in one batch.
    pub(super) fn partition(&self) -> (&'static str, &[Cell]) {
        (
            table(self.kind.cql()),
            self.key_cells(self.kind.partition()),
        )
    }

    /// What it overwrites: of two such changes only the later one counts.
    pub(super) fn target(&self) -> (Kind, &[Cell]) {
        (self.kind, self.key_cells(self.kind.key()))
    }

    fn key_cells(&self, count: usize) -> &[Cell] {
        self.cells.get(..count).unwrap_or(&self.cells)
    }

    /// About how many bytes it takes on the wire.
    pub(super) fn weight(&self) -> usize {
        32 + self.cells.iter().map(|it| it.0.len() + 4).sum::<usize>()
    }

    /// Writes it behind others: kind, timestamp, count of values, and each with its length.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.kind.code());
        out.extend_from_slice(&self.stamp.to_be_bytes());
        out.push(u8::try_from(self.cells.len()).unwrap_or(u8::MAX));
        for Cell(bytes) in &self.cells {
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(bytes);
        }
    }

    /// Reads what [`Change::encode`] wrote, and says what is left.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (code, rest) = bytes.split_first()?;
        let (stamp, rest) = rest.split_first_chunk()?;
        let (count, mut rest) = rest.split_first()?;
        let mut cells = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (len, behind) = rest.split_first_chunk()?;
            let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
            let (bytes, behind) = behind.split_at_checked(len)?;
            cells.push(Cell(bytes.to_vec()));
            rest = behind;
        }
        let change = Self {
            kind: Kind::of_code(*code)?,
            cells,
            stamp: i64::from_be_bytes(*stamp),
        };
        Some((change, rest))
    }
}

/// The table that a statement changes.
fn table(cql: &'static str) -> &'static str {
    let named = |word| cql.split_once(word).map(|(_, rest)| rest);
    let rest = named("INTO ").or_else(|| named("FROM ")).unwrap_or(cql);
    rest.split(' ').next().unwrap_or(cql)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_change_is_read_as_it_was_written() {
        let mut bytes = Vec::new();
        let mut changes = Vec::new();
        for (number, kind) in Kind::ALL.iter().enumerate() {
            let cells = vec![Cell::text("a"), Cell::blob(vec![7; number]), Cell::int(-1)];
            let mut change = Change::new(*kind, cells);
            change.stamp = i64::MAX;
            change.encode(&mut bytes);
            changes.push(change);
        }
        let (mut rest, mut read) = (&bytes[..], Vec::new());
        while let Some((change, behind)) = Change::decode(rest) {
            read.push(change);
            rest = behind;
        }
        assert_eq!((read, rest.len()), (changes, 0));
        assert!(Change::decode(&bytes[..5]).is_none() && Change::decode(&[0; 20]).is_none());
    }

    #[test]
    fn numbers_differ_and_every_value_has_its_place() {
        let codes: HashSet<u8> = Kind::ALL.iter().map(|it| it.code()).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            let markers = kind.cql().matches('?').count();
            assert!(
                kind.partition() <= kind.key() && kind.key() < markers,
                "{kind:?}"
            );
        }
        let (cells, stamp) = (vec![Cell::int(1)], 5);
        let kind = Kind::DropCommits;
        assert_eq!(Change { kind, cells, stamp }.values()[0], Cell::big(5));
        assert_eq!(table(Kind::DropCommits.cql()), table(Kind::PutMark.cql()));
    }
}
