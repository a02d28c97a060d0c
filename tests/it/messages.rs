//! `/v1/devices/{device}/messages`: sending one, reading, receipts.

use serde_json::{Value, json};

use crate::house::{
    Case, Device, House, cases, cursor_of, ladder, person, phone, read_log, text, walk,
};

async fn an_accepted_message_is_queued_and_readable_at_once() {
    let house = House::open().await;
    let device = house.device("one").await;
    let body = json!({"to": phone(1), "content": text("hola ñ 🦉"), "metadata": {"order": "17"}});
    let answer = device.post("/messages", body).await;
    let sent = answer.expect(202);
    assert_eq!(sent["status"], "queued");
    assert_eq!(sent["chat"], person(1));
    assert!(sent["id"].as_str().unwrap().starts_with("msg_") && sent["created_at"].is_string());
    let message = device.message(sent["id"].as_str().unwrap()).await;
    for (name, value) in [
        ("id", sent["id"].clone()),
        ("device", json!(device.id)),
        ("chat", json!(person(1))),
        ("direction", json!("out")),
        ("from", json!(device.jid)),
        ("to", json!(person(1))),
        ("type", json!("text")),
        ("metadata", json!({"order": "17"})),
        ("created_at", sent["created_at"].clone()),
        ("starred", json!(false)),
        ("pinned", json!(false)),
        ("reactions", json!([])),
    ] {
        assert_eq!(message[name], value, "{name}: {message}");
    }
    assert_eq!(message["content"]["text"], "hola ñ 🦉");
    assert!(message["expires_at"].is_string(), "waits a day by default");
    house.close().await;
}

async fn the_event_cursor_is_the_place_of_the_created_entry() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..5 {
        let sent = device.send(&phone(index), "hola").await;
        let log = read_log(&house, "oldest").await;
        let created: Vec<_> = log
            .iter()
            .filter(|it| it["type"] == "message.created")
            .collect();
        let own: Vec<_> = created
            .iter()
            .filter(|it| it["data"]["id"] == sent["id"])
            .collect();
        assert_eq!(own.len(), 1);
        assert_eq!(sent["event_cursor"], cursor_of(own[0]));
        assert_eq!(own[0]["chat"], sent["chat"]);
        assert_eq!(own[0]["data"]["status"], "queued");
    }
    house.close().await;
}

async fn a_message_climbs_its_ladder_and_each_step_is_told_once() {
    let house = House::open().await;
    let device = house.device("one").await;
    let quick = json!({"auto_receipts": {"deliver_ms": 1, "read_ms": 1}});
    device.phone_behaves(&phone(1), quick).await;
    let sent = device.send(&phone(1), "hola").await;
    let id = sent["id"].as_str().unwrap();
    device.until_status(id, "read").await;
    let message = device.message(id).await;
    for time in ["sent_at", "delivered_at", "read_at"] {
        assert!(message[time].is_string(), "{time}: {message}");
    }
    assert!(message["upstream_id"].is_string());
    let steps = steps(&house, id).await;
    let statuses: Vec<_> = steps
        .iter()
        .map(|it| it["status"].as_str().unwrap())
        .collect();
    assert!(
        statuses
            .windows(2)
            .all(|pair| ladder(pair[0]) < ladder(pair[1])),
        "{statuses:?}"
    );
    assert_eq!(statuses.last(), Some(&"read"));
    for step in &steps {
        assert_eq!(step["direction"], "out");
        assert!(
            step["at"].is_string() && step.get("content").is_none(),
            "small: {step}"
        );
    }
    house.close().await;
}

async fn two_devices_of_a_tenant_have_two_copies_with_one_upstream_id() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    let sent = ana.send(&ben.jid, "hola ben").await;
    let fits = |it: &Value| it["device"] == ben.id && it["data"]["content"]["text"] == "hola ben";
    let received = house.until_entry("oldest", "message.received", fits).await;
    let own = ana.message(sent["id"].as_str().unwrap()).await;
    let theirs = &received["data"];
    assert_ne!(own["id"], theirs["id"]);
    assert_eq!(theirs["direction"], "in");
    assert_eq!(theirs["from"], ana.jid);
    assert_eq!(theirs["chat"], ana.jid);
    ana.until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    let own = ana.message(own["id"].as_str().unwrap()).await;
    assert_eq!(own["upstream_id"], theirs["upstream_id"]);
    assert_eq!(
        ben.message(theirs["id"].as_str().unwrap()).await["content"]["text"],
        "hola ben"
    );
    house.close().await;
}

async fn a_message_stays_within_its_tenant() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let (own, theirs) = (house.device("own").await, neighbour.device("theirs").await);
    let sent = own.send(&theirs.jid, "only a virtual phone there").await;
    own.until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    assert!(walk(&neighbour, &theirs.path("/messages")).await.is_empty());
    let log = read_log(&neighbour, "oldest").await;
    assert!(log.iter().all(|it| it["type"] != "message.received"));
    house.close().await;
}

async fn a_location_and_contacts_come_back_as_sent() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    let place = json!({"type": "location", "latitude": -12.0464, "longitude": -77.0428, "name": "Lima", "address": "Plaza"});
    let card = json!({"name": "Eva", "phones": [phone(1)], "organization": "Buho", "emails": ["eva@example.com"]});
    let cards = json!({"type": "contacts", "contacts": [card]});
    for content in [place, cards] {
        let sent = ana
            .post("/messages", json!({"to": ben.jid, "content": content}))
            .await
            .expect(202);
        let own = ana.message(sent["id"].as_str().unwrap()).await;
        assert_eq!(own["type"], content["type"]);
        holds(&own["content"], &content);
        let fits = |it: &Value| it["device"] == ben.id && it["data"]["type"] == content["type"];
        let received = house.until_entry("oldest", "message.received", fits).await;
        holds(&received["data"]["content"], &content);
    }
    house.close().await;
}

async fn content_out_of_its_bounds_is_refused_and_stores_nothing() {
    let house = House::open().await;
    let device = house.device("one").await;
    let location =
        |latitude: f64| json!({"type": "location", "latitude": latitude, "longitude": 0});
    for (content, pointer) in [
        (text(&"x".repeat(65_537)), "/content/text"),
        (text(""), "/content/text"),
        (location(90.1), "/content/latitude"),
        (
            json!({"type": "location", "latitude": 1}),
            "/content/longitude",
        ),
        (
            json!({"type": "contacts", "contacts": []}),
            "/content/contacts",
        ),
    ] {
        let body = json!({"to": phone(1), "content": content});
        let pointers = device.post("/messages", body).await.pointers();
        assert!(
            pointers.iter().any(|it| it == pointer),
            "{pointer}: {pointers:?}"
        );
    }
    let longest = text(&"ñ".repeat(65_536));
    let sent = device
        .post("/messages", json!({"to": phone(1), "content": longest}))
        .await
        .expect(202);
    let stored = walk(&house, &device.path("/messages")).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["id"], sent["id"]);
    house.close().await;
}

async fn a_reply_names_a_message_that_is_there() {
    let house = House::open().await;
    let device = house.device("one").await;
    let first = device.send(&phone(1), "first").await;
    let body = json!({"to": phone(2), "content": text("second"), "reply_to": first["id"]});
    let second = device.post("/messages", body).await.expect(202);
    let message = device.message(second["id"].as_str().unwrap()).await;
    assert!(
        message["reply_to"]
            .to_string()
            .contains(first["id"].as_str().unwrap())
    );
    for absent in ["msg_00000000000000000000000000", "msg_x", "x"] {
        let body = json!({"to": phone(1), "content": text("x"), "reply_to": absent});
        assert_eq!(
            device.post("/messages", body).await.pointers(),
            ["/reply_to"],
            "{absent}"
        );
    }
    house.close().await;
}

async fn metadata_has_bounds_and_is_echoed_unchanged() {
    let house = House::open().await;
    let device = house.device("one").await;
    let full: serde_json::Map<_, _> = (0..50)
        .map(|index| (format!("k{index:02}"), json!("v")))
        .collect();
    let body = json!({"to": phone(1), "content": text("x"), "metadata": full});
    let sent = device.post("/messages", body).await.expect(202);
    assert_eq!(
        device.message(sent["id"].as_str().unwrap()).await["metadata"],
        json!(full)
    );
    let mut over = full;
    over.insert("one more".into(), json!("v"));
    let body = json!({"to": phone(1), "content": text("x"), "metadata": over});
    assert_eq!(
        device.post("/messages", body).await.pointers(),
        ["/metadata"]
    );
    house.close().await;
}

async fn a_message_for_a_device_that_is_away_waits_in_order() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.post("/disconnect", json!({})).await.expect(200);
    device.until_state("disconnected").await;
    let mut ids = Vec::new();
    for index in 0..20 {
        ids.push(device.send(&phone(1), &format!("m{index}")).await["id"].clone());
    }
    for id in &ids {
        assert_eq!(
            device.message(id.as_str().unwrap()).await["status"],
            "queued"
        );
    }
    device.post("/connect", json!({})).await.success();
    device
        .until_status(ids[19].as_str().unwrap(), "delivered")
        .await;
    let log = read_log(&house, "oldest").await;
    let sent = log
        .iter()
        .filter(|it| it["type"] == "message.status" && it["data"]["status"] == "sent");
    let sent: Vec<_> = sent.map(|it| it["data"]["id"].clone()).collect();
    assert_eq!(sent, ids, "handed to the network in order");
    house.close().await;
}

async fn a_message_to_a_fresh_device_waits_too() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let sent = device.send(&phone(1), "early").await;
    device.post("/connect", json!({})).await.success();
    device.post("/simulations/scan", json!({})).await.success();
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house.close().await;
}

async fn a_number_that_is_not_on_the_network_fails_later() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves(&phone(9), json!({"exists": false}))
        .await;
    let sent = device.send(&phone(9), "hola").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "failed")
        .await;
    let message = device.message(sent["id"].as_str().unwrap()).await;
    assert_eq!(message["error"]["code"], "not_on_network");
    let steps = steps(&house, sent["id"].as_str().unwrap()).await;
    assert_eq!(steps.last().unwrap()["error"]["code"], "not_on_network");
    house.close().await;
}

async fn history_log_and_ids_agree_on_one_order() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let device = device.clone();
        senders.spawn(async move {
            for index in 0..15 {
                device
                    .send(&phone(sender % 2), &format!("{sender}-{index}"))
                    .await;
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    let log = read_log(&house, "oldest").await;
    for chat in [person(0), person(1)] {
        let told = log
            .iter()
            .filter(|it| it["type"] == "message.created" && it["chat"] == chat);
        let told: Vec<_> = told.map(|it| it["data"]["id"].as_str().unwrap()).collect();
        let history = device.history(&chat).await;
        let history: Vec<_> = history
            .iter()
            .map(|it| it["id"].as_str().unwrap())
            .collect();
        assert_eq!(told.len(), 60);
        assert_eq!(told, history);
        assert!(history.is_sorted());
    }
    house.close().await;
}

async fn the_list_over_all_chats_is_newest_first_and_filters() {
    let house = House::open().await;
    let device = house.device("one").await;
    let first = device.send(&phone(1), "buenos dias").await;
    let second = device.send(&phone(2), "buenas noches").await;
    let place = json!({"type": "location", "latitude": 1, "longitude": 2});
    let third = device
        .post("/messages", json!({"to": phone(1), "content": place}))
        .await
        .expect(202);
    device.hears(&phone(3), "hola").await;
    let received = house
        .until_entry("oldest", "message.received", |_| true)
        .await["data"]["id"]
        .clone();
    let (first, second, third) = (&first["id"], &second["id"], &third["id"]);
    for (query, expected) in [
        ("limit=50", vec![&received, third, second, first]),
        ("direction=in", vec![&received]),
        ("direction=out", vec![third, second, first]),
        ("type=location", vec![third]),
        ("q=noches", vec![second]),
        (&format!("chat={}", phone(1)), vec![third, first]),
        (&format!("chat={}&type=text", person(1)), vec![first]),
        ("limit=2", vec![&received, third, second, first]),
    ] {
        let items = walk(&house, &device.path(&format!("/messages?{query}"))).await;
        let ids: Vec<_> = items.iter().map(|it| &it["id"]).collect();
        assert_eq!(ids, expected, "{query}");
    }
    device
        .get("/messages?direction=up")
        .await
        .problem(422, "invalid");
    house.close().await;
}

async fn an_absent_message_is_404_also_through_another_device() {
    let house = House::open().await;
    let (one, two) = (house.device("one").await, house.device("two").await);
    let sent = one.send(&phone(1), "mine").await;
    let path = format!("/messages/{}", sent["id"].as_str().unwrap());
    two.get(&path).await.problem(404, "not_found");
    two.get(&format!("{path}/receipts"))
        .await
        .problem(404, "not_found");
    one.get("/messages/msg_00000000000000000000000000")
        .await
        .problem(404, "not_found");
    house.close().await;
}

async fn receipts_name_who_got_and_read_it() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves(
            "*",
            json!({"auto_receipts": {"deliver_ms": 1, "read_ms": 1}}),
        )
        .await;
    let sent = device.send(&phone(1), "hola").await;
    let id = sent["id"].as_str().unwrap();
    device.until_status(id, "read").await;
    let page = device
        .get(&format!("/messages/{id}/receipts"))
        .await
        .expect(200);
    let items = page["items"].as_array().unwrap();
    assert!(
        !items.is_empty() && items.iter().all(|it| it.to_string().contains(&phone(1))),
        "{page}"
    );
    assert!(page["next_cursor"].is_null() && page["event_cursor"].is_string());
    house.close().await;
}

async fn an_expired_message_is_not_sent() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let past =
        json!({"to": phone(1), "content": text("x"), "expires_at": "2020-01-01T00:00:00.000Z"});
    assert_eq!(
        device.post("/messages", past).await.pointers(),
        ["/expires_at"]
    );
    let wrong = json!({"to": phone(1), "content": text("x"), "expires_at": "tomorrow"});
    assert_eq!(
        device.post("/messages", wrong).await.pointers(),
        ["/expires_at"]
    );
    house.close().await;
}

async fn messages_are_the_same_after_a_restart_and_go_on() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let mut ids = Vec::new();
    for index in 0..30 {
        ids.push(device.send(&phone(index % 3), &format!("m{index}")).await["id"].clone());
    }
    house.restart().await;
    let items = walk(&house, &device.path("/messages")).await;
    let stored: Vec<_> = items.iter().rev().map(|it| it["id"].clone()).collect();
    assert_eq!(stored, ids);
    for id in &ids {
        device.until_status(id.as_str().unwrap(), "delivered").await;
    }
    let next = device.send(&phone(0), "after").await;
    assert!(
        next["id"].as_str() > ids[29].as_str(),
        "ids rise over a restart"
    );
    told_once(&house, &device).await;
    house.close().await;
}

/// Every step of every message is told once, and in the order of the ladder.
async fn told_once(house: &House, device: &Device) {
    for message in walk(house, &device.path("/messages")).await {
        let id = message["id"].as_str().unwrap();
        let steps = steps(house, id).await;
        let steps: Vec<_> = steps
            .iter()
            .map(|it| ladder(it["status"].as_str().unwrap()))
            .collect();
        assert!(
            steps.windows(2).all(|pair| pair[0] < pair[1]),
            "{id}: {steps:?}"
        );
    }
}

/// The `data` of a message's `message.status` entries.
async fn steps(house: &House, id: &str) -> Vec<Value> {
    let log = read_log(house, "oldest").await;
    let own = log
        .iter()
        .filter(|it| it["type"] == "message.status" && it["data"]["id"] == id);
    own.map(|it| it["data"].clone()).collect()
}

/// Whether all that was sent is there; the gateway may add members.
#[track_caller]
fn holds(stored: &Value, sent: &Value) {
    if let Some(members) = sent.as_object() {
        for (name, value) in members {
            holds(&stored[name], value);
        }
    } else if let Some(items) = sent.as_array() {
        let count = stored.as_array().map(Vec::len);
        assert_eq!(count, Some(items.len()), "{stored}");
        for (place, item) in items.iter().enumerate() {
            holds(&stored[place], item);
        }
    } else {
        assert_eq!(stored, sent);
    }
}

pub(crate) const CASES: &[Case] = cases![
    an_accepted_message_is_queued_and_readable_at_once,
    the_event_cursor_is_the_place_of_the_created_entry,
    a_message_climbs_its_ladder_and_each_step_is_told_once,
    two_devices_of_a_tenant_have_two_copies_with_one_upstream_id,
    a_message_stays_within_its_tenant,
    a_location_and_contacts_come_back_as_sent,
    content_out_of_its_bounds_is_refused_and_stores_nothing,
    a_reply_names_a_message_that_is_there,
    metadata_has_bounds_and_is_echoed_unchanged,
    a_message_for_a_device_that_is_away_waits_in_order,
    a_message_to_a_fresh_device_waits_too,
    a_number_that_is_not_on_the_network_fails_later,
    history_log_and_ids_agree_on_one_order,
    the_list_over_all_chats_is_newest_first_and_filters,
    an_absent_message_is_404_also_through_another_device,
    receipts_name_who_got_and_read_it,
    an_expired_message_is_not_sent,
    messages_are_the_same_after_a_restart_and_go_on,
];
