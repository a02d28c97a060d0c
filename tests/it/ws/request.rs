//! Commands over the socket: the same operations, checks and codes as REST.

use serde_json::{Value, json};

use crate::house::{Case, House, cases, cursor_of, person, phone, text, until};

async fn a_send_is_answered_after_it_is_durable() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    socket
        .subscribe(json!({"types": ["message.created"]}), "now")
        .await;
    let params = json!({"device": device.id, "to": phone(1), "content": text("hola")});
    let reply = socket.request("send_message", params, Some("o-17")).await;
    let ok = &reply["ok"];
    assert_eq!(
        (&ok["status"], &ok["chat"]),
        (&json!("queued"), &json!(person(1)))
    );
    let message = device.message(ok["id"].as_str().unwrap()).await;
    assert_eq!(message["created_at"], ok["created_at"]);
    let entry = socket.event().await;
    assert_eq!(
        (&entry["data"]["id"], json!(cursor_of(&entry))),
        (&ok["id"], ok["event_cursor"].clone())
    );
    socket.close().await;
    house.close().await;
}

async fn operations_answer_as_rest_does() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let mut socket = house.socket().await;
    // What the send has set going may change the device between two looks.
    until("both doors say the same", async || {
        let limit = json!({"limit": 1});
        let reply = socket.request("list_devices", limit, None).await;
        reply["ok"] == house.read("/v1/devices?limit=1").await
    })
    .await;
    let reply = socket
        .request("list_chats", json!({"device": device.id}), None)
        .await;
    assert_eq!(
        reply["ok"]["items"].as_array().map(Vec::len),
        Some(1),
        "{reply}"
    );
    let params = json!({"device": device.id, "chat": phone(1)});
    let reply = socket.request("mark_chat_read", params, None).await;
    assert!(reply["ok"].is_object(), "{reply}");
    socket.close().await;
    house.close().await;
}

async fn wrong_requests_get_the_codes_of_rest() {
    let house = House::open().await;
    let device = house.device("one").await;
    let neighbour = house.tenant().await;
    let foreign = neighbour.device("theirs").await;
    let mut socket = house.socket().await;
    let send = |device: &str, content: Value| json!({"device": device, "to": phone(1), "content": content});
    let cases = [
        (
            "send_message",
            send(&device.id, json!({"type": "text"})),
            "invalid",
        ),
        ("send_message", json!({"device": device.id}), "invalid"),
        (
            "send_message",
            send("dev_00000000000000000000000000", text("x")),
            "not_found",
        ),
        ("send_message", send(&foreign.id, text("x")), "not_found"),
        ("send_message", send("nonsense", text("x")), "not_found"),
        ("list_devices", json!({"limt": 3}), "invalid"),
        ("list_devices", json!({"limit": 201}), "invalid"),
    ];
    for (method, params, code) in cases {
        let reply = socket.request(method, params.clone(), None).await;
        assert_eq!(reply["error"]["code"], code, "{method} {params}: {reply}");
        assert!(
            reply["error"]["title"].is_string() && reply.get("ok").is_none(),
            "{reply}"
        );
    }
    let unknown = socket.request("fly_to_the_moon", json!({}), None).await;
    assert!(unknown["error"]["code"].is_string(), "{unknown}");
    let mut sendat = send(&device.id, text("x"));
    sendat["sendat"] = json!("2030-01-01T00:00:00.000Z");
    let reply = socket.request("send_message", sendat, None).await;
    assert_eq!(reply["error"]["code"], "invalid", "{reply}");
    let bad_key = socket
        .request("send_message", send(&device.id, text("x")), Some(""))
        .await;
    assert_eq!(bad_key["error"]["code"], "invalid", "{bad_key}");
    assert!(
        crate::house::walk(&house, &device.path("/messages"))
            .await
            .is_empty()
    );
    socket.close().await;
    house.close().await;
}

async fn a_request_needs_its_scope() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.key("messages:read").await.socket().await;
    let params = json!({"device": device.id, "to": phone(1), "content": text("x")});
    let reply = socket.request("send_message", params, None).await;
    assert_eq!(reply["error"]["code"], "scope_missing", "{reply}");
    socket.close().await;
    house.close().await;
}

async fn many_requests_in_one_message_are_all_answered_and_keep_their_order() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    let frames: Vec<_> = (0..60)
        .map(|index| {
            let params = json!({"device": device.id, "to": phone(1), "content": text(&format!("m{index}"))});
            json!({"op": "request", "id": format!("r{index}"), "method": "send_message", "params": params})
        })
        .collect();
    for chunk in frames.chunks(10) {
        socket.send(&json!(chunk)).await;
        for _ in chunk {
            let reply = socket.until_op("reply").await;
            assert_eq!(reply["ok"]["status"], "queued", "{reply}");
        }
    }
    let history = device.history(&person(1)).await;
    let words: Vec<_> = history
        .iter()
        .map(|it| it["content"]["text"].as_str().unwrap().to_owned())
        .collect();
    let expected: Vec<_> = (0..60).map(|index| format!("m{index}")).collect();
    assert_eq!(words, expected);
    socket.close().await;
    house.close().await;
}

async fn no_request_overtakes_one_that_has_to_look_something_up() {
    let house = House::open().await;
    let device = house.device("one").await;
    let first = device.send(&phone(1), "m00").await;
    let mut socket = house.socket().await;
    let draft = |words: &str| json!({"to": phone(1), "content": text(words)});
    let mut frames = Vec::new();
    let mut request = |method: &str, mut params: Value, key: Option<String>| {
        params["device"] = json!(device.id);
        let id = frames.len();
        frames.push(json!({"op": "request", "id": id, "method": method, "params": params, "idempotency_key": key}));
    };
    let mut count = 0;
    let mut word = || {
        count += 1;
        format!("m{count:02}")
    };
    for round in 0..5 {
        let mut answer = draft(&word());
        answer["reply_to"] = first["id"].clone();
        request("send_message", answer, None);
        request("send_message", draft(&word()), None);
        let mut within = draft(&word());
        within["reply_to"] = first["id"].clone();
        let batch = json!({"messages": [draft(&word()), within]});
        request("send_message_batch", batch, Some(format!("k-{round}")));
        request("send_message", draft(&word()), None);
    }
    let mut expected = vec!["m00".to_owned()];
    for frame in &frames {
        let params = &frame["params"];
        let messages = params["messages"].as_array().cloned();
        for message in messages.unwrap_or_else(|| vec![params.clone()]) {
            expected.push(message["content"]["text"].as_str().unwrap().to_owned());
        }
    }
    socket.send(&json!(frames)).await;
    for _ in &frames {
        let reply = socket.until_op("reply").await;
        assert!(reply["ok"].is_object(), "{reply}");
    }
    let history = device.history(&person(1)).await;
    let words: Vec<_> = history
        .iter()
        .map(|it| it["content"]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(words, expected);
    socket.close().await;
    house.close().await;
}

async fn reads_are_answered_one_after_the_other_and_all_of_them() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let mut socket = house.socket().await;
    let read = |id: usize| {
        let params = json!({"device": device.id, "limit": 1});
        json!({"op": "request", "id": id, "method": "list_messages", "params": params})
    };
    socket.send(&(0..200).map(read).collect()).await;
    for id in 0..200 {
        let reply = socket.until_op("reply").await;
        assert_eq!(reply["id"], id);
        assert_eq!(reply["ok"]["items"].as_array().map(Vec::len), Some(1));
    }
    socket.close().await;
    house.close().await;
}

async fn typing_goes_up_and_arrives() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    ana.send(&ben.jid, "hola").await;
    house
        .until_entry("oldest", "message.received", |it| it["device"] == ben.id)
        .await;
    let mut listener = house.socket().await;
    listener
        .subscribe(json!({"devices": [ben.id]}), "now")
        .await;
    let mut socket = house.socket().await;
    let data = json!({"presence": "composing"});
    let up = json!({"op": "ephemeral", "device": ana.id, "chat": ben.jid, "type": "chat.presence", "data": data});
    socket.send(&up).await;
    let typing = listener.until_op("ephemeral").await;
    assert_eq!(
        (&typing["type"], &typing["chat"]),
        (&json!("chat.presence"), &json!(ana.jid))
    );
    socket.close().await;
    listener.close().await;
    house.close().await;
}

async fn a_heartbeat_is_acknowledged() {
    let house = House::open().await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), "now").await;
    socket.send(&json!({"op": "heartbeat"})).await;
    socket.until_op("heartbeat_ack").await;
    socket.close().await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_send_is_answered_after_it_is_durable,
    operations_answer_as_rest_does,
    wrong_requests_get_the_codes_of_rest,
    a_request_needs_its_scope,
    many_requests_in_one_message_are_all_answered_and_keep_their_order,
    no_request_overtakes_one_that_has_to_look_something_up,
    reads_are_answered_one_after_the_other_and_all_of_them,
    typing_goes_up_and_arrives,
    a_heartbeat_is_acknowledged,
];
