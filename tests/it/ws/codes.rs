//! Close codes, sizes and what a careless or hostile client may send.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::house::{Case, Codec, House, RawSocket, Socket, cases, phone};

async fn what_is_no_frame_is_4400() {
    let house = House::open().await;
    for text in ["", "{", "1", "\"x\"", "null", "[1]", "[[{}]]", "nonsense"] {
        let mut socket = house.socket().await;
        socket.message(Message::text(text)).await;
        assert_eq!(socket.until_close().await, 4400, "{text:?}");
    }
    let mut deep = house.socket().await;
    let nested = format!(
        "{{\"op\":\"x\",\"y\":{}1{}}}",
        "[".repeat(80),
        "]".repeat(80)
    );
    deep.message(Message::text(nested)).await;
    assert_eq!(deep.until_close().await, 4400);
    house.close().await;
}

async fn the_wrong_kind_of_message_is_4400() {
    let house = House::open().await;
    let mut json = house.socket().await;
    json.message(Message::binary(b"{}".to_vec())).await;
    assert_eq!(json.until_close().await, 4400);
    let mut packed = house.handshake().codec(Codec::MsgPack).welcome().await;
    packed.message(Message::text("{}")).await;
    assert_eq!(packed.until_close().await, 4400);
    house.close().await;
}

async fn an_unknown_op_is_answered_or_ignored() {
    let house = House::open().await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), "now").await;
    socket.send(&json!({"op": "dance"})).await;
    socket
        .send(&json!({"op": "heartbeat", "unknown": [1, 2]}))
        .await;
    socket.until_op("heartbeat_ack").await;
    let reply = socket.ask(json!({"op": "dance"})).await;
    assert_eq!(reply["error"]["code"], "unknown_op", "{reply}");
    socket.close().await;
    house.close().await;
}

async fn a_message_of_64_kib_passes_and_one_byte_more_does_not() {
    let house = House::open().await;
    let mut socket = house.socket().await;
    socket.message(Message::text(padded(65_536))).await;
    socket.until_op("heartbeat_ack").await;
    socket.message(Message::text(padded(65_537))).await;
    assert_eq!(socket.until_close().await, 4413);
    house.close().await;
}

async fn the_size_counts_however_a_message_is_cut() {
    let house = House::open().await;
    let mut socket = RawSocket::open(&house).await;
    let text = padded(65_537);
    let (head, tail) = text.as_bytes().split_at(40_000);
    socket.frame(false, 1, head).await;
    socket.frame(true, 0, tail).await;
    assert_eq!(socket.until_close().await, 4413);
    house.close().await;
}

async fn a_flood_of_fragments_ends_at_the_same_size() {
    let house = House::open().await;
    let mut socket = RawSocket::open(&house).await;
    socket.frame(false, 1, b"{").await;
    for _ in 0..70_000 {
        socket.frame(false, 0, b" ").await;
    }
    assert_eq!(socket.until_close().await, 4413);
    house.close().await;
}

async fn an_unknown_subprotocol_is_4406_and_none_is_json() {
    let house = House::open().await;
    let mut unknown = RawSocket::offering(&house, "chat, buho.v9.json").await;
    assert_eq!(unknown.until_close().await, 4406);
    let mut plain = house.handshake().protocols(None).welcome().await;
    plain.subscribe(json!({}), "now").await;
    plain.close().await;
    house.close().await;
}

async fn a_silent_peer_is_missed() {
    let house = House::open().await;
    // Nothing is sent and no ping is answered; 25 s and 10 s later the server has waited long enough.
    let mut socket = RawSocket::open(&house).await;
    assert_eq!(socket.until_close().await, 4003);
    house.close().await;
}

async fn a_shutdown_closes_with_4001() {
    let mut house = House::open().await;
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = house.socket().await;
        socket.subscribe(json!({}), "now").await;
        sockets.push(socket);
    }
    let (_, codes) = tokio::join!(house.restart(), closes(sockets));
    assert_eq!(codes, [4001; 10]);
    house.close().await;
}

async fn a_second_subscription_does_not_double_what_is_heard() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), "now").await;
    // One subscription a connection: the second is refused or takes the first one's place.
    socket
        .ask(json!({"op": "subscribe", "filter": {}, "after": "now"}))
        .await;
    device.send(&phone(1), "a").await;
    let mut seqs = Vec::new();
    while seqs.len() < 2 {
        seqs.push(socket.event().await["seq"].clone());
    }
    assert_ne!(seqs[0], seqs[1], "no entry twice on one connection");
    socket.close().await;
    house.close().await;
}

async fn a_members_wrong_type_is_an_answer_or_a_close_but_never_silence() {
    let house = House::open().await;
    for frame in [
        json!({"op": "subscribe", "id": 5, "filter": 7, "after": "now"}),
        json!({"op": "request", "id": 5, "method": 7}),
        json!({"op": "request", "id": 5, "method": "list_devices", "params": []}),
        json!({"op": "reauth", "id": 5, "token": {}}),
        json!({"op": "ack", "id": 5, "cursor": 7}),
        json!({"op": 7, "id": 5}),
    ] {
        let mut socket = house.socket().await;
        socket.send(&frame).await;
        match socket.heard().await {
            crate::house::Heard::Closed(code) => assert_eq!(code, 4400, "{frame}"),
            crate::house::Heard::Frame(reply) => {
                assert!(reply["error"]["code"].is_string(), "{frame}: {reply}");
            }
        }
    }
    house.close().await;
}

async fn too_many_frames_are_refused_and_then_4100() {
    let house = House::open_with("streams.rate = 2\nstreams.burst = 1\n").await;
    let mut socket = house.socket().await;
    let requests: Vec<_> = (0..20)
        .map(|id| json!({"op": "request", "id": id, "method": "read_me", "params": {}}))
        .collect();
    socket.send(&json!(requests)).await;
    let mut refused = 0;
    for _ in 0..20 {
        let reply = socket.until_op("reply").await;
        if reply["ok"].is_null() {
            assert_eq!(reply["error"]["code"], "rate_limited", "{reply}");
            assert!(reply["error"]["retry_after_ms"].is_u64(), "{reply}");
            refused += 1;
        }
    }
    assert!(0 < refused, "a request too many is an answer");
    let beats = vec![json!({"op": "heartbeat"}); 20];
    socket.send(&json!(beats)).await;
    assert_eq!(socket.until_close().await, 4100);
    house.close().await;
}

/// A heartbeat of exactly this many bytes.
fn padded(bytes: usize) -> String {
    let plain = json!({"op": "heartbeat", "pad": ""}).to_string();
    let frame: Value = json!({"op": "heartbeat", "pad": "x".repeat(bytes - plain.len())});
    frame.to_string()
}

async fn closes(sockets: Vec<Socket>) -> Vec<u16> {
    let mut codes = Vec::new();
    for mut socket in sockets {
        codes.push(socket.until_close().await);
    }
    codes
}

pub(crate) const CASES: &[Case] = cases![
    what_is_no_frame_is_4400,
    the_wrong_kind_of_message_is_4400,
    an_unknown_op_is_answered_or_ignored,
    a_message_of_64_kib_passes_and_one_byte_more_does_not,
    the_size_counts_however_a_message_is_cut,
    a_flood_of_fragments_ends_at_the_same_size,
    an_unknown_subprotocol_is_4406_and_none_is_json,
    a_silent_peer_is_missed,
    a_shutdown_closes_with_4001,
    a_second_subscription_does_not_double_what_is_heard,
    a_members_wrong_type_is_an_answer_or_a_close_but_never_silence,
    too_many_frames_are_refused_and_then_4100,
];
