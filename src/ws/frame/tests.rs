use serde_json::json;

use super::*;

fn packed(value: &Value) -> Message {
    Message::Binary(rmp_serde::to_vec_named(value).unwrap().into())
}

#[test]
fn a_message_is_one_map_or_an_array_of_maps_in_either_encoding() {
    for value in [
        json!({"op": "heartbeat"}),
        json!([{"op": "heartbeat"}, {"op": "ack", "cursor": "1-2"}]),
        json!([]),
    ] {
        let maps = Codec::Json
            .read(&Message::Text(value.to_string().into()))
            .unwrap();
        assert_eq!(Codec::MsgPack.read(&packed(&value)).unwrap(), maps);
        assert_eq!(maps.len(), value.as_array().map_or(1, Vec::len));
    }
}

#[test]
fn what_is_no_map_is_a_bad_frame() {
    for wrong in [
        "", "{", "1", "\"x\"", "null", "[1]", "[[{}]]", "nonsense", "{}x",
    ] {
        assert_eq!(
            Codec::Json.read(&Message::Text(wrong.into())),
            None,
            "{wrong}"
        );
    }
    assert_eq!(
        Codec::Json.read(&Message::Binary(Bytes::from_static(b"{}"))),
        None
    );
    assert_eq!(Codec::MsgPack.read(&Message::Text("{}".into())), None);
    let nested = |depth: usize| format!("{{\"y\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(
        Codec::Json
            .read(&Message::Text(nested(62).into()))
            .is_some()
    );
    assert!(
        Codec::Json
            .read(&Message::Text(nested(63).into()))
            .is_none()
    );
    assert!(
        Codec::Json
            .read(&Message::Text(nested(20_000).into()))
            .is_none()
    );
}

#[test]
fn forged_messagepack_is_refused() {
    let deep = [0x91; 80];
    let forged: [&[u8]; 10] = [
        b"",
        b"\xc1",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xdb\xff\xff\xff\xff",
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        // A key that is a number, an extension, a binary value, and bytes behind the end.
        b"\x81\x01\x01",
        b"\x81\xa1a\xd4\x01\x01",
        b"\x81\xa1a\xc4\x01\x00",
        b"\x80\x80",
    ];
    for bytes in forged.into_iter().chain([&deep[..]]) {
        assert_eq!(
            Codec::MsgPack.read(&Message::Binary(Bytes::copy_from_slice(bytes))),
            None,
            "{bytes:x?}"
        );
    }
}

#[test]
fn a_reply_holds_the_body_as_it_is() {
    let id = json!("r1");
    let Ok(Message::Text(text)) = Codec::Json.reply(Some(&id), b"{\"a\":1.50}", true) else {
        panic!("a text")
    };
    assert_eq!(
        &*text,
        r#"{"op":"reply","id":"r1","ok":{"a":1.50},"replayed":true}"#
    );
    let Ok(Message::Binary(bytes)) = Codec::MsgPack.reply(None, b"{}", false) else {
        panic!("a binary")
    };
    assert_eq!(
        rmp_serde::from_slice::<Value>(&bytes).unwrap(),
        json!({"op": "reply", "ok": {}})
    );
    let Message::Text(text) =
        Codec::Json.refusal(Some(&json!(5)), &Refusal::invalid("/filter", "is wrong"))
    else {
        panic!("a text")
    };
    let refused: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (
            &refused["error"]["code"],
            &refused["error"]["errors"][0]["pointer"]
        ),
        (&json!("invalid"), &json!("/filter"))
    );
}

#[test]
fn the_servers_words_have_their_names() {
    let cursor = Cursor { epoch: 7, seq: 5 };
    let Message::Text(text) = Codec::Json.write(&ServerFrame::Position { cursor, events: 3 })
    else {
        panic!("a text")
    };
    assert_eq!(&*text, r#"{"op":"position","cursor":"7-5","events":3}"#);
    let Message::Text(text) = Codec::Json.write(&ServerFrame::HeartbeatAck {}) else {
        panic!("a text")
    };
    assert_eq!(&*text, r#"{"op":"heartbeat_ack"}"#);
    assert_eq!(Name('c', 7).to_string(), "c_7");
}
