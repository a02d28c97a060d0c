//! The same protocol in MessagePack.

use serde_json::json;

use crate::house::{Case, Codec, House, cases, phone, read_log, text};

async fn the_binary_encoding_says_the_same() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.handshake().codec(Codec::MsgPack).welcome().await;
    assert_eq!(socket.protocol(), Some("buho.v1.msgpack"));
    socket.subscribe(json!({}), "oldest").await;
    let params = json!({"device": device.id, "to": phone(1), "content": text("hola ñ 🦉"), "metadata": {"k": "v"}});
    let reply = socket.request("send_message", params, Some("m-1")).await;
    assert_eq!(reply["ok"]["status"], "queued", "{reply}");
    let place = json!({"type": "location", "latitude": -12.5, "longitude": 77.25});
    let params = json!({"device": device.id, "to": phone(1), "content": place});
    socket.request("send_message", params, None).await;
    for entry in read_log(&house, "oldest").await {
        assert_eq!(socket.event().await, entry);
    }
    socket.send(&json!({"op": "heartbeat"})).await;
    socket.until_op("heartbeat_ack").await;
    socket.close().await;
    house.close().await;
}

async fn an_array_of_maps_is_taken_too() {
    let house = House::open().await;
    let mut socket = house.handshake().codec(Codec::MsgPack).welcome().await;
    let frames = json!([
        {"op": "subscribe", "id": 1, "filter": {}, "after": "now"},
        {"op": "heartbeat"},
        {"op": "request", "id": 2, "method": "list_devices", "params": {}},
    ]);
    socket.send(&frames).await;
    socket.until_op("ready").await;
    socket.until_op("heartbeat_ack").await;
    assert!(socket.until_op("reply").await["ok"]["items"].is_array());
    socket.close().await;
    house.close().await;
}

async fn what_is_not_messagepack_is_4400() {
    let house = House::open().await;
    let forged: [&[u8]; 5] = [
        b"\xc1",
        // A map, an array and a text that claim four gigabytes.
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xdb\xff\xff\xff\xff",
        // Eighty arrays in each other.
        &[0x91; 80],
    ];
    for bytes in forged {
        let mut socket = house.handshake().codec(Codec::MsgPack).welcome().await;
        socket
            .message(tokio_tungstenite::tungstenite::Message::binary(
                bytes.to_vec(),
            ))
            .await;
        assert_eq!(socket.until_close().await, 4400, "{bytes:x?}");
    }
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    the_binary_encoding_says_the_same,
    an_array_of_maps_is_taken_too,
    what_is_not_messagepack_is_4400,
];
