//! How values are written, in every backend: a version byte, what the writer or a scan needs in fixed places, then
//! MessagePack with names.

use actors::log::Entry;
use actors::model::{
    Chat, Cursor, DeviceId, Direction, EntryDraft, EntryHeader, EventId, EventType, Jid, TenantId,
    Timestamp,
};
use actors::ports::{Answer, KeptAnswer, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::embedded::{push_jid, split_jid};

/// The version of every row that is written today.
const VERSION: u8 = 1;

/// Where the place of an entry stands in its row and in a kept answer: behind the version.
const SPLICE_AT: usize = 1;

/// Why a row could not be written.
pub(super) type EncodeError = rmp_serde::encode::Error;

/// Reads fields off the front of a row.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts behind the version byte.
    fn of(row: &'a [u8]) -> Option<Self> {
        row.split_first()
            .filter(|(version, _)| **version == VERSION)
            .map(|(_, rest)| Self(rest))
    }

    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        self.array()
            .map(i64::from_be_bytes)
            .map(Timestamp::from_millis)
    }

    fn cursor(&mut self) -> Option<Cursor> {
        Some(Cursor {
            epoch: self.u32()?,
            seq: self.u64()?,
        })
    }
}

fn damaged(what: &'static str) -> StoreError {
    StoreError::Damaged { what }
}

fn head_of(parts: &[&[u8]], room: usize) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + parts.iter().map(|it| it.len()).sum::<usize>() + room);
    row.push(VERSION);
    parts.iter().for_each(|it| row.extend_from_slice(it));
    row
}

/// A row that is nothing but a record.
pub(super) fn packed(record: &impl Serialize, room: usize) -> Result<Vec<u8>, EncodeError> {
    packed_behind(&[], record, room)
}

/// A record with fixed fields in front of it.
fn packed_behind(
    parts: &[&[u8]],
    record: &impl Serialize,
    room: usize,
) -> Result<Vec<u8>, EncodeError> {
    let mut row = head_of(parts, room);
    rmp_serde::encode::write_named(&mut row, record)?;
    // The engine keeps the row as it is in its table in memory, with any room that is left.
    row.shrink_to_fit();
    Ok(row)
}

/// Reads a row of [`packed`].
pub(super) fn unpacked<T: DeserializeOwned>(
    row: &[u8],
    what: &'static str,
) -> Result<T, StoreError> {
    let fields = Fields::of(row).ok_or_else(|| damaged(what))?;
    rmp_serde::from_slice(fields.0).map_err(|_| damaged(what))
}

/// A record with the number under which the store knows it.
pub(super) fn numbered(number: u32, record: &impl Serialize) -> Result<Vec<u8>, EncodeError> {
    packed_behind(&[&number.to_be_bytes()], record, 400)
}

/// The number of a row of [`numbered`].
pub(super) fn number(row: &[u8], what: &'static str) -> Result<u32, StoreError> {
    Fields::of(row)
        .and_then(|mut it| it.u32())
        .ok_or_else(|| damaged(what))
}

/// The record of a row of [`numbered`].
pub(super) fn record<T: DeserializeOwned>(row: &[u8], what: &'static str) -> Result<T, StoreError> {
    let mut fields = Fields::of(row).ok_or_else(|| damaged(what))?;
    fields.u32().ok_or_else(|| damaged(what))?;
    rmp_serde::from_slice(fields.0).map_err(|_| damaged(what))
}

/// The row of [`packed`] that holds the record of a row of [`numbered`].
pub(super) fn without_number(row: &[u8], what: &'static str) -> Result<Vec<u8>, StoreError> {
    let mut fields = Fields::of(row).ok_or_else(|| damaged(what))?;
    fields.u32().ok_or_else(|| damaged(what))?;
    Ok(raw(fields.0))
}

/// The row of [`numbered`] that holds the record of a row of [`packed`].
pub(super) fn with_number(
    number: u32,
    row: &[u8],
    what: &'static str,
) -> Result<Vec<u8>, StoreError> {
    let record = unraw(row, what)?;
    Ok(head_of(&[&number.to_be_bytes(), record], 0))
}

/// A row that is nothing but bytes.
pub(super) fn raw(bytes: &[u8]) -> Vec<u8> {
    head_of(&[bytes], 0)
}

/// Reads a row of [`raw`].
pub(super) fn unraw<'a>(row: &'a [u8], what: &'static str) -> Result<&'a [u8], StoreError> {
    Fields::of(row).map(|it| it.0).ok_or_else(|| damaged(what))
}

/// A row of two numbers, such as a floor and how far the rows behind it are erased.
pub(super) fn pair(first: u64, second: u64) -> Vec<u8> {
    head_of(&[&first.to_be_bytes(), &second.to_be_bytes()], 0)
}

/// Reads a row of [`pair`].
pub(super) fn unpair(row: &[u8], what: &'static str) -> Result<(u64, u64), StoreError> {
    let read = |mut it: Fields<'_>| Some((it.u64()?, it.u64()?));
    Fields::of(row).and_then(read).ok_or_else(|| damaged(what))
}

/// A row that is one number.
pub(super) fn count(number: u64) -> Vec<u8> {
    raw(&number.to_be_bytes())
}

/// Reads a row of [`count`].
pub(super) fn uncount(row: &[u8]) -> Option<u64> {
    Fields::of(row).and_then(|mut it| it.u64())
}

/// A row that is one place in a log.
pub(super) fn cursor(cursor: Cursor) -> Vec<u8> {
    head_of(&[&cursor.epoch.to_be_bytes(), &cursor.seq.to_be_bytes()], 0)
}

/// Reads a row of [`cursor`].
pub(super) fn uncursor(row: &[u8], what: &'static str) -> Result<Cursor, StoreError> {
    Fields::of(row)
        .and_then(|mut it| it.cursor())
        .ok_or_else(|| damaged(what))
}

/// A row that is one address.
pub(super) fn jid(jid: &Jid) -> Vec<u8> {
    let mut row = head_of(&[], 24);
    push_jid(&mut row, jid);
    row
}

/// Reads a row of [`jid`].
pub(super) fn unjid(row: &[u8], what: &'static str) -> Result<Jid, StoreError> {
    let read = |it: Fields<'_>| split_jid(it.0).map(|(jid, _)| jid);
    Fields::of(row).and_then(read).ok_or_else(|| damaged(what))
}

/// A chat, with what a list sorts and filters by in front.
pub(super) fn chat(chat: &Chat) -> Result<Vec<u8>, EncodeError> {
    packed_behind(
        &[
            &chat.active_at.as_millis().to_be_bytes(),
            &chat.unread.to_be_bytes(),
        ],
        chat,
        300,
    )
}

/// When a chat was last active, and how many messages nobody has read.
pub(super) fn chat_face(row: &[u8]) -> Result<(Timestamp, u32), StoreError> {
    let read = |mut it: Fields<'_>| Some((it.time()?, it.u32()?));
    Fields::of(row)
        .and_then(read)
        .ok_or_else(|| damaged("chat"))
}

/// Reads a row of [`chat`].
pub(super) fn unchat(row: &[u8]) -> Result<Chat, StoreError> {
    let mut fields = Fields::of(row).ok_or_else(|| damaged("chat"))?;
    fields.bytes(12).ok_or_else(|| damaged("chat"))?;
    rmp_serde::from_slice(fields.0).map_err(|_| damaged("chat"))
}

/// A kept answer whose place is not known yet: see [`splice`].
pub(super) fn kept_answer(
    answer: &Answer,
    fingerprint: [u8; 32],
    expires_at: Timestamp,
) -> Result<Vec<u8>, EncodeError> {
    packed_behind(
        &[
            &[0; 12],
            &expires_at.as_millis().to_be_bytes(),
            &fingerprint,
        ],
        answer,
        160,
    )
}

/// Writes a place into a row that left room for it.
pub(super) fn splice(row: &mut [u8], cursor: Cursor) {
    let bytes = cursor
        .epoch
        .to_be_bytes()
        .into_iter()
        .chain(cursor.seq.to_be_bytes());
    row.iter_mut()
        .skip(SPLICE_AT)
        .zip(bytes)
        .for_each(|(to, from)| *to = from);
}

/// When a kept answer is forgotten; `None` for what is no kept answer.
pub(super) fn kept_until(row: &[u8]) -> Option<Timestamp> {
    let mut fields = Fields::of(row)?;
    fields.cursor()?;
    fields.time()
}

/// Reads a row of [`kept_answer`].
pub(super) fn unkept(row: &[u8]) -> Result<KeptAnswer, StoreError> {
    let read = |mut it: Fields<'_>| {
        let (cursor, expires_at, fingerprint) = (it.cursor()?, it.time()?, it.array()?);
        Some(KeptAnswer {
            answer: rmp_serde::from_slice(it.0).ok()?,
            cursor,
            fingerprint,
            expires_at,
        })
    };
    Fields::of(row)
        .and_then(read)
        .ok_or_else(|| damaged("kept answer"))
}

const HAS_DEVICE: u8 = 1;
const HAS_CHAT: u8 = 2;
const HAS_DIRECTION: u8 = 4;
const IS_OUT: u8 = 8;

/// An entry that has no place and no name yet: see [`place_entry`].
pub(super) fn entry(draft: &EntryDraft) -> Vec<u8> {
    let word = draft.kind.as_str().as_bytes();
    let mut row = head_of(
        &[&[0; 28], &draft.time.as_millis().to_be_bytes()],
        80 + draft.data.len(),
    );
    row.push(u8::try_from(word.len()).unwrap_or(0));
    row.extend_from_slice(word);
    let direction = draft.direction.map_or(0, |it| match it {
        Direction::In => HAS_DIRECTION,
        Direction::Out => HAS_DIRECTION | IS_OUT,
    });
    let device = draft.device.map_or(0, |_| HAS_DEVICE);
    row.push(direction | device | draft.chat.as_ref().map_or(0, |_| HAS_CHAT));
    if let Some(device) = draft.device {
        row.extend_from_slice(&device.to_bytes());
    }
    if let Some(chat) = &draft.chat {
        push_jid(&mut row, chat);
    }
    row.extend_from_slice(&draft.data);
    row
}

/// Writes place and name into a row of [`entry`].
pub(super) fn place_entry(row: &mut [u8], header: &EntryHeader) {
    splice(row, header.cursor);
    row.iter_mut()
        .skip(SPLICE_AT + 12)
        .zip(header.id.to_bytes())
        .for_each(|(to, from)| *to = from);
}

/// The time of an entry's name, which never goes back along the log.
pub(super) fn entry_time(row: &[u8]) -> Result<Timestamp, StoreError> {
    let read = |mut it: Fields<'_>| {
        it.cursor()?;
        it.array().map(EventId::from_bytes)
    };
    Fields::of(row)
        .and_then(read)
        .map(EventId::time)
        .ok_or_else(|| damaged("log entry"))
}

/// Reads a row of [`entry`] that has its place.
pub(super) fn unentry(tenant: TenantId, row: &[u8]) -> Result<Entry, StoreError> {
    let read = |mut it: Fields<'_>| {
        let (cursor, id, time) = (it.cursor()?, EventId::from_bytes(it.array()?), it.time()?);
        let word = it
            .array::<1>()
            .and_then(|[len]| it.bytes(usize::from(len)))?;
        let kind: EventType = std::str::from_utf8(word).ok()?.parse().ok()?;
        let [flags] = it.array()?;
        let device = if flags & HAS_DEVICE == 0 {
            None
        } else {
            Some(DeviceId::from_bytes(it.array()?))
        };
        let chat = if flags & HAS_CHAT == 0 {
            None
        } else {
            let (chat, rest) = split_jid(it.0)?;
            it.0 = rest;
            Some(chat)
        };
        let way = if flags & IS_OUT == 0 {
            Direction::In
        } else {
            Direction::Out
        };
        let direction = (flags & HAS_DIRECTION != 0).then_some(way);
        Some(Entry::new(
            EntryHeader {
                id,
                cursor,
                tenant,
                kind,
                time,
                device,
                chat,
                direction,
            },
            it.0,
        ))
    };
    Fields::of(row)
        .and_then(read)
        .ok_or_else(|| damaged("log entry"))
}

#[cfg(test)]
mod tests {
    use actors::model::{KeyId, KeyKind, KeyRecord, ScopeSet};
    use bytes::Bytes;

    use super::*;

    #[test]
    fn an_entry_is_read_as_it_was_placed() {
        let tenant = TenantId::generate();
        for (device, chat, direction) in [
            (None, None, None),
            (
                Some(DeviceId::generate()),
                Some("51999888777".parse().unwrap()),
                Some(Direction::Out),
            ),
            (Some(DeviceId::generate()), None, Some(Direction::In)),
        ] {
            let draft = EntryDraft {
                kind: EventType::MessageCreated,
                time: Timestamp::from_millis(-5),
                device,
                chat,
                direction,
                data: Bytes::from_static(b"{\"a\":1}"),
            };
            let cursor = Cursor {
                epoch: 3,
                seq: 1 << 40,
            };
            let id = EntryHeader::id_at(tenant, cursor, Timestamp::from_millis(7));
            let header = EntryHeader {
                id,
                cursor,
                tenant,
                kind: draft.kind,
                time: draft.time,
                device,
                chat: draft.chat.clone(),
                direction,
            };
            let mut row = entry(&draft);
            place_entry(&mut row, &header);
            let read = unentry(tenant, &row).unwrap();
            assert_eq!(read.header(), &header);
            assert_eq!(read.data(), draft.data);
            assert_eq!(entry_time(&row).unwrap(), Timestamp::from_millis(7));
        }
    }

    #[test]
    fn a_kept_answer_is_read_with_the_place_it_was_given() {
        let answer = Answer::Given {
            status: 201,
            location: Some("/x".to_owned()),
            body: Bytes::from_static(b"{}"),
        };
        let (cursor, until) = (Cursor { epoch: 1, seq: 9 }, Timestamp::from_millis(77));
        let mut row = kept_answer(&answer, [7; 32], until).unwrap();
        splice(&mut row, cursor);
        assert_eq!(
            unkept(&row).unwrap(),
            KeptAnswer {
                answer,
                cursor,
                fingerprint: [7; 32],
                expires_at: until
            }
        );
        assert_eq!(kept_until(&row), Some(until));
    }

    #[test]
    fn a_key_with_every_field_is_read_as_it_was_written() {
        let key = KeyRecord {
            id: KeyId::generate(),
            tenant: TenantId::generate(),
            kind: KeyKind::Device,
            name: "x".to_owned(),
            scopes: ScopeSet::tenant(),
            devices: vec![DeviceId::generate()],
            allowed_ips: vec![
                "10.0.0.0/8".parse().unwrap(),
                "2001:db8::/32".parse().unwrap(),
            ],
            expires_at: Some(Timestamp::from_millis(5)),
            hash: [9; 32],
            created_at: Timestamp::from_millis(4),
        };
        assert_eq!(
            unpacked::<KeyRecord>(&packed(&key, 0).unwrap(), "key").unwrap(),
            key
        );
    }

    #[test]
    fn a_row_of_another_version_is_damage_and_not_a_guess() {
        let mut row = raw(b"x");
        row[0] = VERSION + 1;
        assert!(matches!(
            unraw(&row, "value"),
            Err(StoreError::Damaged { what: "value" })
        ));
        assert!(unchat(b"").is_err() && unentry(TenantId::GATEWAY, &[VERSION; 20]).is_err());
    }
}
