//! The server's frames, read no further than a load test needs.

use std::borrow::Cow;

use serde::Deserialize;

/// One frame of the server. Members of other operations stay empty.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Frame<'a> {
    /// The operation: `hello`, `ready`, `event`, `reply` …
    #[serde(borrow)]
    pub(crate) op: Cow<'a, str>,
    /// Which of our frames this answers.
    pub(crate) id: Option<u64>,
    /// `event`: the entry.
    #[serde(borrow)]
    pub(crate) event: Option<Entry<'a>>,
    /// `hello`: the longest silence that the server takes.
    pub(crate) heartbeat_ms: Option<u64>,
    /// `hello`: what a client may do.
    pub(crate) limits: Option<Limits>,
    /// `reply`: what a send answers.
    #[serde(borrow)]
    pub(crate) ok: Option<Sent<'a>>,
    /// `reply`: what is wrong.
    #[serde(borrow)]
    pub(crate) error: Option<FrameProblem<'a>>,
    /// `reset`: why continuity is lost.
    #[serde(borrow)]
    pub(crate) reason: Option<Cow<'a, str>>,
    /// `lag`: on or off.
    #[serde(borrow)]
    pub(crate) mode: Option<Cow<'a, str>>,
}

/// The bounds in `hello`.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Limits {
    /// Requests that may be unanswered at a time.
    pub(crate) in_flight: Option<u64>,
}

/// An entry of the log.
#[derive(Debug, Deserialize)]
pub(crate) struct Entry<'a> {
    /// Its place.
    pub(crate) seq: u64,
    /// The log's epoch; bare yardstick servers give none.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// Its type, such as `message.created`; bare yardstick servers give none.
    #[serde(borrow, default, rename = "type")]
    pub(crate) kind: Cow<'a, str>,
    /// What it is about.
    #[serde(borrow)]
    pub(crate) data: Option<Data<'a>>,
}

/// The data of an entry about a message.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Data<'a> {
    /// The resource's id.
    #[serde(borrow, default)]
    pub(crate) id: Cow<'a, str>,
    /// The message's content.
    #[serde(borrow)]
    pub(crate) content: Option<Content<'a>>,
}

/// A text.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Content<'a> {
    /// The text, empty where the content is not one.
    #[serde(borrow, default)]
    pub(crate) text: Cow<'a, str>,
}

/// The answer to a send, over any door.
#[derive(Debug, Deserialize)]
pub(crate) struct Sent<'a> {
    /// The message's id.
    #[serde(borrow, default)]
    pub(crate) id: Cow<'a, str>,
    /// The place of its `message.created`.
    #[serde(borrow, default)]
    pub(crate) event_cursor: Cow<'a, str>,
}

impl Sent<'_> {
    /// The sequence number in the cursor.
    pub(crate) fn seq(&self) -> Option<u64> {
        cursor_seq(&self.event_cursor)
    }
}

/// A problem inside a frame or a batch item.
#[derive(Debug, Deserialize)]
pub(crate) struct FrameProblem<'a> {
    /// The problem's code.
    #[serde(borrow, default)]
    pub(crate) code: Cow<'a, str>,
    /// The explanation for people.
    #[serde(borrow)]
    pub(crate) detail: Option<Cow<'a, str>>,
}

/// The sequence number of a cursor `<epoch>-<seq>`.
pub(crate) fn cursor_seq(cursor: &str) -> Option<u64> {
    let (epoch, seq) = cursor.split_once('-')?;
    epoch.parse::<u64>().ok()?;
    seq.parse().ok()
}

/// Reads a message in MessagePack, which is one map or an array of maps too.
pub(crate) fn parse_packed(bytes: &[u8]) -> Result<Vec<Frame<'_>>, rmp_serde::decode::Error> {
    // The first byte of an array in MessagePack: short, 16 bits, 32 bits.
    if matches!(bytes.first(), Some(0x90..=0x9f | 0xdc | 0xdd)) {
        rmp_serde::from_slice(bytes)
    } else {
        rmp_serde::from_slice(bytes).map(|frame| vec![frame])
    }
}

/// Reads a WebSocket message, which is one map or an array of maps.
pub(crate) fn parse_frames(text: &str) -> Result<Vec<Frame<'_>>, serde_json::Error> {
    if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::from_str(text).map(|frame| vec![frame])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"op":"event","event":{"id":"evt_1","epoch":7,"seq":120392,"type":"message.created",
        "time":"2026-11-22T13:02:11.042Z","tenant":"ten_1","device":"dev_1","chat":"51999888777@s.whatsapp.net",
        "data":{"id":"msg_1","direction":"out","content":{"type":"text","text":"a \"b\" ñ"},"reactions":[]}}}"#;

    #[test]
    fn an_event_gives_place_type_id_and_text() {
        let frames = parse_frames(EVENT).unwrap();
        let entry = frames[0].event.as_ref().unwrap();
        assert_eq!((entry.seq, &*entry.kind), (120_392, "message.created"));
        let data = entry.data.as_ref().unwrap();
        assert_eq!(data.id, "msg_1");
        assert_eq!(data.content.as_ref().unwrap().text, "a \"b\" ñ");
    }

    #[test]
    fn an_array_is_as_many_frames_as_it_has_maps() {
        let text = format!(r#"[{EVENT},{{"op":"position","cursor":"7-120395","events":1}}]"#);
        let frames = parse_frames(&text).unwrap();
        let ops: Vec<_> = frames.iter().map(|frame| &*frame.op).collect();
        assert_eq!(ops, ["event", "position"]);
    }

    #[test]
    fn a_ready_frame_with_its_map_of_cursors_is_read() {
        let text = r#"{"op":"ready","id":1,"session":"s_3","resumed":false,"scopes":["events:read"],
            "cursor":{"oldest":"7-20001","head":"7-120395"},"expires_at":null}"#;
        assert_eq!(parse_frames(text).unwrap()[0].id, Some(1));
    }

    #[test]
    fn a_reply_carries_the_place_of_its_event_or_a_code() {
        let ok = r#"{"op":"reply","id":2,"ok":{"id":"msg_1","status":"queued","event_cursor":"7-120396"}}"#;
        let frames = parse_frames(ok).unwrap();
        assert_eq!(frames[0].ok.as_ref().unwrap().seq(), Some(120_396));
        let refused =
            r#"{"op":"reply","id":3,"error":{"code":"busy","title":"Busy","retry_after_ms":100}}"#;
        let frames = parse_frames(refused).unwrap();
        assert_eq!(frames[0].error.as_ref().unwrap().code, "busy");
    }

    #[test]
    fn a_cursor_is_epoch_and_place() {
        assert_eq!(cursor_seq("7-120396"), Some(120_396));
        assert_eq!(cursor_seq("120396"), None);
        assert_eq!(cursor_seq("7-"), None);
        assert_eq!(cursor_seq("x-1"), None);
    }
}
