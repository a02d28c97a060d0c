//! Named consumers: the server keeps the place, the client confirms.

use serde_json::{Value, json};

use crate::house::{
    Case, Client, DISK_FULL, House, Socket, cases, cursor_of, cursor_place, phone, until,
};

fn wish(name: &str, after: &str) -> Value {
    let filter = json!({"types": ["message.created"]});
    json!({"op": "subscribe", "filter": filter, "after": after, "ack": "client", "consumer": name})
}

async fn consumer(client: &Client, name: &str, after: &str) -> Socket {
    let mut socket = client.socket().await;
    let ready = socket.ask(wish(name, after)).await;
    assert_eq!(ready["op"], "ready", "{ready}");
    socket
}

async fn ack(socket: &mut Socket, entry: &Value) {
    socket
        .send(&json!({"op": "ack", "cursor": cursor_of(entry)}))
        .await;
}

/// The place that the server keeps for a name.
async fn kept(client: &Client, name: &str) -> String {
    let page = client.get("/v1/consumers").await.expect(200);
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .find(|it| it["name"] == name)
        .map(Value::to_string)
        .unwrap_or_default()
}

async fn a_consumer_goes_on_after_its_last_ack() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    for index in 0..10 {
        device.send(&phone(index), "hola").await;
    }
    let mut socket = consumer(&house, "crm", "oldest").await;
    let mut entries = Vec::new();
    for _ in 0..10 {
        entries.push(socket.event().await);
    }
    ack(&mut socket, &entries[3]).await;
    socket.close().await;
    until("the place is kept", async || {
        kept(&house, "crm").await.contains(&cursor_of(&entries[3]))
    })
    .await;
    // The stored place wins over what a client says.
    let mut socket = consumer(&house, "crm", "oldest").await;
    assert_eq!(socket.event().await, entries[4]);
    socket.close().await;
    house.restart().await;
    let mut socket = consumer(&house, "crm", "now").await;
    for entry in &entries[4..] {
        assert_eq!(socket.event().await, *entry);
    }
    socket.close().await;
    house.close().await;
}

async fn a_newer_connection_takes_the_name_over() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut older = consumer(&house, "crm", "now").await;
    let mut newer = consumer(&house, "crm", "now").await;
    assert_eq!(older.until_close().await, 4409);
    let sent = device.send(&phone(1), "hola").await;
    assert_eq!(newer.event().await["data"]["id"], sent["id"]);
    newer.close().await;
    house.close().await;
}

async fn the_same_name_in_another_tenant_is_another_consumer() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let device = house.device("one").await;
    let mut own = consumer(&house, "crm", "now").await;
    let theirs = consumer(&neighbour, "crm", "now").await;
    let sent = device.send(&phone(1), "hola").await;
    assert_eq!(own.event().await["data"]["id"], sent["id"]);
    own.close().await;
    theirs.close().await;
    house.close().await;
}

async fn a_consumer_has_a_name_and_confirms() {
    let house = House::open().await;
    for name in ["", "with space", "ñ", &"x".repeat(65)] {
        let mut socket = house.socket().await;
        let reply = socket.ask(wish(name, "now")).await;
        assert_eq!(reply["error"]["code"], "invalid", "{name}: {reply}");
        socket.close().await;
    }
    let mut socket = house.socket().await;
    let mut silent = wish("crm", "now");
    silent["ack"] = json!("none");
    let reply = socket.ask(silent).await;
    assert_eq!(reply["error"]["code"], "invalid", "{reply}");
    socket.close().await;
    consumer(&house, &"x".repeat(64), "now").await.close().await;
    house.close().await;
}

async fn an_ack_beyond_what_was_sent_is_4400_and_one_that_goes_back_is_ignored() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = consumer(&house, "crm", "now").await;
    device.send(&phone(1), "a").await;
    device.send(&phone(1), "b").await;
    let (first, second) = (socket.event().await, socket.event().await);
    ack(&mut socket, &second).await;
    ack(&mut socket, &first).await;
    let sent = device.send(&phone(1), "c").await;
    assert_eq!(
        socket.event().await["data"]["id"],
        sent["id"],
        "an old ack does no harm"
    );
    until("the place is kept", async || {
        kept(&house, "crm").await.contains(&cursor_of(&second))
    })
    .await;
    let (epoch, seq) = cursor_place(&house.head().await);
    socket
        .send(&json!({"op": "ack", "cursor": format!("{epoch}-{}", seq + 1_000)}))
        .await;
    assert_eq!(socket.until_close().await, 4400);
    house.close().await;
}

async fn an_open_window_holds_no_more_than_it_may_and_then_is_closed() {
    // The reader is silent for so long that it would be cut off for that.
    let house = House::open_with("streams.heartbeat_ms = 600_000").await;
    let device = house.device("one").await;
    for batch in 0..3 {
        let messages: Vec<_> = (0..500)
            .map(|index| json!({"to": phone(batch), "content": {"type": "text", "text": format!("{index}")}}))
            .collect();
        device
            .post("/messages/batch", json!({"messages": messages}))
            .await
            .expect(202);
    }
    let mut socket = consumer(&house, "crm", "oldest").await;
    let mut entries = Vec::new();
    // Without an ack no more than a window comes, then the patience of 30 s ends.
    let code = loop {
        match socket.heard().await {
            crate::house::Heard::Closed(code) => break code,
            crate::house::Heard::Frame(frame) if frame["op"] == "event" => {
                entries.push(frame["event"].clone());
            }
            crate::house::Heard::Frame(_) => {}
        }
    };
    assert_eq!((code, entries.len()), (4006, 1_000));
    let mut socket = consumer(&house, "crm", "now").await;
    for entry in &entries {
        assert_eq!(socket.event().await, *entry, "nothing was confirmed");
    }
    ack(&mut socket, &entries[999]).await;
    for _ in 0..500 {
        socket.event().await;
    }
    socket.close().await;
    house.close().await;
}

async fn a_smaller_window_is_kept_too() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    let mut small = wish("crm", "now");
    small["in_flight"] = json!(2);
    socket.ask(small).await;
    for index in 0..6 {
        device.send(&phone(index), "hola").await;
    }
    for _ in 0..3 {
        socket.event().await;
        let second = socket.event().await;
        // Whatever was pushed too early would stand before this reply.
        socket
            .send(&json!({"op": "request", "id": 900, "method": "list_devices", "params": {}}))
            .await;
        loop {
            let frame = socket.frame().await;
            assert_ne!(frame["op"], "event", "a third event within a window of two");
            if frame["id"] == 900 {
                break;
            }
        }
        ack(&mut socket, &second).await;
    }
    socket.close().await;
    house.close().await;
}

async fn a_consumer_that_could_not_be_deleted_is_kept() {
    let mut house = House::open().await;
    let socket = consumer(&house, "crm", "now").await;
    socket.close().await;
    until("the name is free", async || {
        kept(&house, "crm").await.contains("\"connected\":false")
    })
    .await;
    house.restart_with(DISK_FULL).await;
    let before = kept(&house, "crm").await;
    let refused = house.delete("/v1/consumers/crm").await;
    refused.problem(507, "storage_full");
    assert_eq!(kept(&house, "crm").await, before);
    house.restart().await;
    house.delete("/v1/consumers/crm").await.success();
    assert_eq!(kept(&house, "crm").await, "");
    house.restart().await;
    assert_eq!(kept(&house, "crm").await, "");
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_consumer_goes_on_after_its_last_ack,
    a_newer_connection_takes_the_name_over,
    the_same_name_in_another_tenant_is_another_consumer,
    a_consumer_has_a_name_and_confirms,
    an_ack_beyond_what_was_sent_is_4400_and_one_that_goes_back_is_ignored,
    an_open_window_holds_no_more_than_it_may_and_then_is_closed,
    a_smaller_window_is_kept_too,
    a_consumer_that_could_not_be_deleted_is_kept.embedded(),
];
