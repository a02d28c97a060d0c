//! The storage engine alone: the records of a message, spread over keyspaces as a gateway would, one sync a commit.

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::committer::Sink;
use crate::error::LoadError;

/// The most keyspaces; more records share them.
const KEYSPACES: u64 = 8;
/// Tenant, device, chat, id.
const KEY_BYTES: usize = 28;

/// The records of one message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Records of a thousand messages, since the gateway's own count need not be whole.
    pub(crate) records_per_thousand: u64,
    /// Bytes of each, key and value together.
    pub(crate) bytes: usize,
}

impl Shape {
    /// Bytes of a message's records.
    pub(crate) fn message_bytes(self) -> usize {
        self.bytes * usize::try_from(self.records_per_thousand).unwrap_or(1_000) / 1_000
    }

    /// Records of one message of a caller's: some have one more than others.
    fn records(self, message: u64) -> u64 {
        // The caller stands in the upper bits.
        let nth = message & ((1 << 40) - 1);
        let until = |nth: u64| nth * self.records_per_thousand / 1_000;
        until(nth + 1) - until(nth)
    }
}

/// An engine in a folder of its own.
pub(crate) struct Store {
    database: Database,
    keyspaces: Vec<Keyspace>,
    shape: Shape,
    value: Vec<u8>,
}

impl Store {
    /// Opens a fresh engine, with the settings that keep its tail short: small memtables, one worker.
    pub(crate) fn open(folder: &Path, shape: Shape) -> Result<Self, LoadError> {
        let failed = |source: fjall::Error| LoadError::Yardstick {
            doing: "opening the engine",
            source: source.into(),
        };
        let database = Database::builder(folder)
            .cache_size(64 << 20)
            .max_journaling_size(128 << 20)
            .worker_threads(2)
            .open()
            .map_err(failed)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(8 << 20);
        let keyspaces = (0..(shape.records_per_thousand / 1_000).clamp(1, KEYSPACES))
            .map(|index| database.keyspace(&format!("records_{index}"), options))
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        Ok(Self {
            database,
            keyspaces,
            shape,
            value: filler(shape.bytes.saturating_sub(KEY_BYTES)),
        })
    }
}

impl Sink for Store {
    fn commit(&mut self, messages: &[u64]) -> Result<(), LoadError> {
        let mut batch = self
            .database
            .batch()
            .durability(Some(PersistMode::SyncData));
        for message in messages {
            let records = 0..self.shape.records(*message);
            for (record, keyspace) in records.zip(self.keyspaces.iter().cycle()) {
                batch.insert(keyspace, key(*message, record), self.value.as_slice());
            }
        }
        batch.commit().map_err(|source| LoadError::Yardstick {
            doing: "committing",
            source: source.into(),
        })
    }
}

/// Keys as a gateway has them: in order within a chat, chats in any order.
fn key(message: u64, record: u64) -> [u8; KEY_BYTES] {
    let chat = (message ^ (message >> 40)) % 1_000;
    let mut key = [0; KEY_BYTES];
    let parts = [1, chat, message, record];
    for (place, part) in key.chunks_mut(8).zip(parts) {
        let bytes = part.to_be_bytes();
        let skip = bytes.len().saturating_sub(place.len());
        for (to, from) in place.iter_mut().zip(bytes.iter().skip(skip)) {
            *to = *from;
        }
    }
    key
}

/// Bytes that a compressor can't make away with.
pub(super) fn filler(bytes: usize) -> Vec<u8> {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes().first().copied().unwrap_or_default()
    })
    .take(bytes)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_messages_and_records_differ() {
        let messages = (0..10_u64).flat_map(|caller| (0..100).map(move |n| (caller << 40) + n));
        let keys = messages.flat_map(|message| (0..6).map(move |record| key(message, record)));
        let different: std::collections::HashSet<_> = keys.collect();
        assert_eq!(different.len(), 10 * 100 * 6);
    }

    #[test]
    fn a_commit_holds_all_records_of_its_messages() {
        let folder = tempfile::tempdir().unwrap();
        let shape = Shape {
            records_per_thousand: 6_500,
            bytes: 180,
        };
        let mut store = Store::open(folder.path(), shape).unwrap();
        store.commit(&[0, 1, 2, 3]).unwrap();
        let records: usize = store
            .keyspaces
            .iter()
            .map(|keyspace| keyspace.iter().count())
            .sum();
        assert_eq!(records, 26);
        assert_eq!(store.keyspaces.len(), 6);
        let item = store.keyspaces[0].iter().next().unwrap();
        let (key, value) = item.into_inner().unwrap();
        assert_eq!(key.len() + value.len(), 180);
    }
}
