//! `/v1/devices/{device}/chats`: the list, histories, reading, typing.

use std::time::Duration;

use serde_json::{Value, json};

use crate::house::{Case, Device, House, cases, person, phone, text, until, walk};

/// The address that a chat answer gives.
fn address(chat: &Value) -> &str {
    chat["jid"]
        .as_str()
        .unwrap_or_else(|| panic!("a chat without jid: {chat}"))
}

async fn ten_messages(device: &Device) -> Vec<String> {
    let mut ids = Vec::new();
    for index in 0..10 {
        let sent = device.send(&phone(1), &format!("m{index}")).await;
        ids.push(sent["id"].as_str().unwrap().to_owned());
    }
    ids
}

fn ids(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect()
}

async fn the_chat_with_the_last_activity_comes_first() {
    let house = House::open().await;
    let device = house.device("one").await;
    for chat in [1, 2, 3, 1] {
        device.send(&phone(chat), "hola").await;
        // Activity is kept in milliseconds; two sends within one have no order.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let chats = walk(&house, &device.path("/chats")).await;
    let order: Vec<_> = chats.iter().map(address).collect();
    assert_eq!(order, [person(1), person(3), person(2)]);
    let paged = walk(&house, &device.path("/chats?limit=1")).await;
    assert_eq!(paged.iter().map(address).collect::<Vec<_>>(), order);
    house.close().await;
}

async fn a_chat_never_seen_is_404() {
    let house = House::open().await;
    let device = house.device("one").await;
    for rest in [
        format!("/chats/{}", phone(1)),
        format!("/chats/{}/messages", phone(1)),
        "/chats/nonsense".into(),
    ] {
        device.get(&rest).await.problem(404, "not_found");
    }
    device
        .post(&format!("/chats/{}/read", phone(1)), json!({}))
        .await
        .problem(404, "not_found");
    let composing = json!({"presence": "composing"});
    device
        .put(&format!("/chats/{}/presence", phone(1)), composing.clone())
        .await
        .problem(404, "not_found");
    let mut socket = house.socket().await;
    let up = json!({"op": "ephemeral", "device": device.id, "chat": phone(1), "type": "chat.presence", "data": composing});
    let reply = socket.ask(up).await;
    assert_eq!(reply["error"]["code"], "not_found", "{reply}");
    socket.close().await;
    assert!(walk(&house, &device.path("/chats")).await.is_empty());
    house.close().await;
}

async fn a_chat_counts_what_is_unread_and_reading_ends_it() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..3 {
        device.hears(&phone(1), &format!("in {index}")).await;
    }
    house
        .until_entry("oldest", "message.received", |it| {
            it["data"]["content"]["text"] == "in 2"
        })
        .await;
    let path = format!("/chats/{}", person(1));
    let chat = device.get(&path).await.expect(200);
    assert_eq!(address(&chat), person(1));
    assert_eq!(chat["unread_count"], 3, "{chat}");
    let unread = walk(&house, &device.path("/chats?unread=true")).await;
    assert_eq!(unread.len(), 1);
    let head = house.head().await;
    let read = device
        .post(&format!("{path}/read"), json!({}))
        .await
        .expect(200);
    assert_eq!(read["unread_count"], 0, "{read}");
    let entry = house
        .until_entry(&head, "chat.read", |it| it["chat"] == person(1))
        .await;
    assert_eq!(entry["device"], device.id);
    assert!(
        walk(&house, &device.path("/chats?unread=true"))
            .await
            .is_empty()
    );
    house.close().await;
}

async fn reading_up_to_a_message_leaves_the_rest_unread() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..4 {
        device.hears(&phone(1), &format!("in {index}")).await;
    }
    house
        .until_entry("oldest", "message.received", |it| {
            it["data"]["content"]["text"] == "in 3"
        })
        .await;
    let history = device.history(&person(1)).await;
    let path = format!("/chats/{}/read", phone(1));
    let read = device
        .post(&path, json!({"up_to": history[1]["id"]}))
        .await
        .expect(200);
    assert_eq!(read["unread_count"], 2, "{read}");
    let unknown = device
        .post(&path, json!({"up_to": "msg_00000000000000000000000000"}))
        .await;
    assert_eq!(unknown.pointers(), ["/up_to"]);
    house.close().await;
}

async fn reading_tells_the_sender() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    let sent = ana.send(&ben.jid, "hola").await;
    house
        .until_entry("oldest", "message.received", |it| it["device"] == ben.id)
        .await;
    ben.post(&format!("/chats/{}/read", ana.jid), json!({}))
        .await
        .expect(200);
    ana.until_status(sent["id"].as_str().unwrap(), "read").await;
    house.close().await;
}

async fn reading_up_to_a_message_tells_of_those_before_it() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    let mut sent = Vec::new();
    for words in ["one", "two", "three"] {
        let taken = ana.send(&ben.jid, words).await;
        sent.push(taken["id"].as_str().unwrap().to_owned());
    }
    let path = format!("/chats/{}", ana.jid);
    until("all are there", async || {
        ben.get(&path).await.body["unread_count"] == 3
    })
    .await;
    let history = ben.history(&ana.jid).await;
    let read = format!("{path}/read");
    ben.post(&read, json!({"up_to": history[1]["id"]}))
        .await
        .expect(200);
    for id in &sent[..2] {
        ana.until_status(id, "read").await;
    }
    assert_ne!(ana.message(&sent[2]).await["status"], "read");
    ben.post(&read, json!({})).await.expect(200);
    ana.until_status(&sent[2], "read").await;
    house.close().await;
}

async fn a_history_goes_both_ways() {
    let house = House::open().await;
    let device = house.device("one").await;
    let made = ten_messages(&device).await;
    let path = device.path(&format!("/chats/{}/messages", phone(1)));
    let newest = walk(&house, &format!("{path}?limit=3")).await;
    let newest: Vec<_> = newest
        .iter()
        .rev()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(newest, made, "newest first by default");
    let oldest = walk(&house, &format!("{path}?order=asc&limit=4")).await;
    let oldest: Vec<_> = oldest
        .iter()
        .map(|it| it["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(oldest, made);
    house
        .get(&format!("{path}?order=sideways"))
        .await
        .problem(422, "invalid");
    house.close().await;
}

async fn around_a_message_one_can_go_older_and_newer() {
    let house = House::open().await;
    let device = house.device("one").await;
    let made = ten_messages(&device).await;
    let path = device.path(&format!("/chats/{}/messages", phone(1)));
    let page = house
        .get(&format!("{path}?around={}&limit=4", made[5]))
        .await
        .expect(200);
    let mut seen = ids(&page);
    assert!(seen.contains(&made[5]) && seen.len() <= 4, "{seen:?}");
    for member in ["next_cursor", "prev_cursor"] {
        let mut cursor = page[member].as_str().map(str::to_owned);
        assert!(cursor.is_some(), "{member} leads on");
        while let Some(at) = cursor {
            let more = house
                .get(&format!("{path}?limit=4&cursor={at}"))
                .await
                .expect(200);
            seen.extend(ids(&more));
            cursor = more[member].as_str().map(str::to_owned);
            assert!(seen.len() <= made.len(), "{member} repeats: {seen:?}");
        }
    }
    seen.sort();
    assert_eq!(seen, made, "both ways give all, each once");
    let absent = house
        .get(&format!("{path}?around=msg_00000000000000000000000000"))
        .await;
    assert_eq!(absent.pointers(), ["?around"]);
    house.close().await;
}

async fn a_page_begun_goes_on_where_it_was_while_messages_come() {
    let house = House::open().await;
    let device = house.device("one").await;
    let made = ten_messages(&device).await;
    let path = device.path(&format!("/chats/{}/messages", phone(1)));
    let first = house.get(&format!("{path}?limit=5")).await.expect(200);
    device.send(&phone(1), "later").await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = house
        .get(&format!("{path}?limit=5&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(second["event_cursor"], first["event_cursor"]);
    let mut seen = ids(&first);
    seen.extend(ids(&second));
    seen.reverse();
    assert_eq!(seen, made);
    house.close().await;
}

async fn typing_reaches_the_other_device_and_leaves_no_trace() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    ana.send(&ben.jid, "hola").await;
    house
        .until_entry("oldest", "message.received", |it| it["device"] == ben.id)
        .await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({"devices": [ben.id]}), "now").await;
    let path = format!("/chats/{}/presence", ben.jid);
    ana.put(&path, json!({"presence": "composing"}))
        .await
        .success();
    let typing = socket.until_op("ephemeral").await;
    assert_eq!(typing["type"], "chat.presence", "{typing}");
    assert_eq!(
        (&typing["device"], &typing["chat"]),
        (&json!(ben.id), &json!(ana.jid))
    );
    assert_eq!(typing["data"]["presence"], "composing");
    assert!(typing.get("seq").is_none());
    let log = crate::house::read_log(&house, "oldest").await;
    assert!(
        log.iter().all(|it| it["type"] != "chat.presence"),
        "not stored"
    );
    assert_eq!(
        ana.put(&path, json!({"presence": "dancing"}))
            .await
            .pointers(),
        ["/presence"]
    );
    socket.close().await;
    house.close().await;
}

async fn reading_counts_however_many_are_unread() {
    let house = House::open().await;
    let device = house.device("one").await;
    for count in [1_000, 500] {
        let wish = json!({"from": phone(1), "content": text("hola"), "count": count});
        device.post("/simulations/messages", wish).await.expect(202);
    }
    let path = format!("/chats/{}", person(1));
    until("all are there", async || {
        device.get(&path).await.body["unread_count"] == 1_500
    })
    .await;
    let oldest = format!("{path}/messages?order=asc&limit=100");
    let page = ids(&device.get(&oldest).await.expect(200));
    let read = async |body: Value| {
        let answer = device.post(&format!("{path}/read"), body).await;
        answer.expect(200)["unread_count"].clone()
    };
    assert_eq!(read(json!({"up_to": page[99]})).await, 1_400);
    assert_eq!(read(json!({"up_to": page[50]})).await, 1_400);
    assert_eq!(read(json!({})).await, 0);
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    the_chat_with_the_last_activity_comes_first,
    a_chat_never_seen_is_404,
    a_chat_counts_what_is_unread_and_reading_ends_it,
    reading_up_to_a_message_leaves_the_rest_unread,
    reading_tells_the_sender,
    reading_up_to_a_message_tells_of_those_before_it,
    a_history_goes_both_ways,
    around_a_message_one_can_go_older_and_newer,
    a_page_begun_goes_on_where_it_was_while_messages_come,
    typing_reaches_the_other_device_and_leaves_no_trace,
    reading_counts_however_many_are_unread,
];
