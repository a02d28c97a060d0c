//! An entry, encoded once per codec and shared by all who read it.

use std::io::Write as _;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use crate::model::{Cursor, EntryDraft, EntryHeader, TenantId, Timestamp, id};

const FRAME_HEAD: &[u8] = b"{\"op\":\"event\",\"event\":";

/// An entry of the log, ready for every transport.
///
/// The JSON is made once, as a whole WebSocket frame; the entry itself (for SSE, long poll, webhooks) and its `data`
/// (for the store) are slices of it. MessagePack is made from it when the first reader wants it.
#[derive(Debug)]
pub struct Entry {
    header: EntryHeader,
    frame: Bytes,
    data_at: usize,
    packed: OnceLock<Bytes>,
}

impl Entry {
    /// Encodes an entry.
    #[must_use]
    pub fn new(header: EntryHeader, data: &[u8]) -> Self {
        let mut out = BytesMut::with_capacity(FRAME_HEAD.len() + 400 + data.len());
        out.put_slice(FRAME_HEAD);
        out.put_slice(b"{\"id\":\"evt_");
        out.put_slice(&id::suffix(header.id.as_u128()));
        let mut text = out.writer();
        // Writing to memory can't fail.
        let _written = write!(
            text,
            "\",\"epoch\":{},\"seq\":{},\"type\":\"{}\",\"time\":\"{}\",\"tenant\":\"{}\"",
            header.cursor.epoch,
            header.cursor.seq,
            header.kind.as_str(),
            header.time,
            header.tenant
        );
        if let Some(device) = header.device {
            let _written = write!(text, ",\"device\":\"{device}\"");
        }
        if let Some(chat) = &header.chat {
            // An address has no character that JSON escapes.
            let _written = write!(text, ",\"chat\":\"{chat}\"");
        }
        let mut out = text.into_inner();
        out.put_slice(b",\"data\":");
        let data_at = out.len();
        out.put_slice(data);
        out.put_slice(b"}}");
        Self {
            header,
            frame: out.freeze(),
            data_at,
            packed: OnceLock::new(),
        }
    }

    /// What filters look at.
    #[must_use]
    pub const fn header(&self) -> &EntryHeader {
        &self.header
    }

    /// Its place.
    #[must_use]
    pub const fn cursor(&self) -> Cursor {
        self.header.cursor
    }

    /// A whole WebSocket message: `{"op":"event","event":{…}}`.
    #[must_use]
    pub fn json_frame(&self) -> Bytes {
        self.frame.clone()
    }

    /// The entry as JSON.
    #[must_use]
    pub fn json(&self) -> Bytes {
        self.frame.slice(FRAME_HEAD.len()..self.frame.len() - 1)
    }

    /// `data` as JSON.
    #[must_use]
    pub fn data(&self) -> Bytes {
        self.frame.slice(self.data_at..self.frame.len() - 2)
    }

    /// A whole WebSocket message in MessagePack: the same maps and names.
    #[must_use]
    pub fn packed_frame(&self) -> Bytes {
        let pack = || {
            let value: serde_json::Value = serde_json::from_slice(&self.frame).unwrap_or_default();
            rmp_serde::to_vec_named(&value).unwrap_or_default().into()
        };
        self.packed.get_or_init(pack).clone()
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.frame.len() + size_of::<Self>() + 64
    }
}

/// Gives entries their place: one a tenant, owned by the writer.
#[derive(Clone, Copy, Debug)]
pub struct Sequencer {
    tenant: TenantId,
    head: Cursor,
    last: Timestamp,
}

impl Sequencer {
    /// Goes on after `head`.
    #[must_use]
    pub const fn new(tenant: TenantId, head: Cursor) -> Self {
        Self {
            tenant,
            head,
            last: Timestamp::from_millis(0),
        }
    }

    /// Goes on after the entry that stands at the head, so that ids rise over a restart too.
    #[must_use]
    pub fn behind(mut self, entry: &Entry) -> Self {
        self.last = self.last.max(entry.header().id.time());
        self
    }

    /// The last place that was given.
    #[must_use]
    pub const fn head(&self) -> Cursor {
        self.head
    }

    /// Places an entry behind the last one. Ids rise with the place, also when the clock steps back.
    pub fn place(&mut self, draft: EntryDraft) -> Arc<Entry> {
        self.head.seq += 1;
        self.last = self.last.max(draft.time);
        let header = EntryHeader {
            id: EntryHeader::id_at(self.tenant, self.head, self.last),
            cursor: self.head,
            tenant: self.tenant,
            kind: draft.kind,
            time: draft.time,
            device: draft.device,
            chat: draft.chat,
            direction: draft.direction,
        };
        Arc::new(Entry::new(header, &draft.data))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceId, EventType};

    #[test]
    fn one_encoding_serves_every_transport() {
        let draft = EntryDraft {
            kind: EventType::MessageCreated,
            time: Timestamp::from_millis(1_700_000_000_000),
            device: Some(DeviceId::generate()),
            chat: Some("51999888777".parse().unwrap()),
            direction: None,
            data: Bytes::from_static(b"{\"text\":\"\\u00f1 \\\"x\\\"\",\"n\":1.5}"),
        };
        let mut sequencer = Sequencer::new(TenantId::generate(), Cursor { epoch: 7, seq: 41 });
        let entry = sequencer.place(draft.clone());
        assert_eq!(entry.data(), draft.data);
        let frame: serde_json::Value = serde_json::from_slice(&entry.json_frame()).unwrap();
        let alone: serde_json::Value = serde_json::from_slice(&entry.json()).unwrap();
        let packed: serde_json::Value = rmp_serde::from_slice(&entry.packed_frame()).unwrap();
        assert_eq!(frame["event"], alone);
        assert_eq!(frame, packed);
        assert_eq!(alone["seq"], 42);
        assert_eq!(alone["chat"], "51999888777@s.whatsapp.net");
        assert_eq!(alone["time"], "2023-11-14T22:13:20.000Z");
    }

    #[test]
    fn ids_rise_when_the_clock_steps_back_over_a_restart() {
        let tenant = TenantId::generate();
        let at = |millis| EntryDraft {
            kind: EventType::DeviceState,
            time: Timestamp::from_millis(millis),
            device: None,
            chat: None,
            direction: None,
            data: Bytes::from_static(b"{}"),
        };
        let late = Sequencer::new(tenant, Cursor { epoch: 1, seq: 0 }).place(at(2000));
        let early = Sequencer::new(tenant, late.cursor())
            .behind(&late)
            .place(at(1000));
        assert!(late.header().id < early.header().id);
    }

    #[test]
    fn ids_rise_when_the_clock_steps_back() {
        let mut sequencer = Sequencer::new(TenantId::generate(), Cursor { epoch: 1, seq: 0 });
        let at = |millis| EntryDraft {
            kind: EventType::DeviceState,
            time: Timestamp::from_millis(millis),
            device: None,
            chat: None,
            direction: None,
            data: Bytes::from_static(b"{}"),
        };
        let (late, early) = (sequencer.place(at(2000)), sequencer.place(at(1000)));
        assert!(late.header().id < early.header().id);
    }
}
