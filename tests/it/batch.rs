//! `POST …/messages/batch`: many at once, one answer each.

use serde_json::{Value, json};

use crate::house::{Case, DISK_FULL, House, cases, person, phone, read_log, text, walk};

fn item(chat: usize, words: &str) -> Value {
    json!({"to": phone(chat), "content": text(words)})
}

async fn a_batch_is_answered_item_by_item_in_order() {
    let house = House::open().await;
    let device = house.device("one").await;
    let messages: Vec<_> = (0..100)
        .map(|index| item(index % 4, &format!("m{index}")))
        .collect();
    let answer = device
        .post("/messages/batch", json!({"messages": messages}))
        .await
        .expect(202);
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items.len(), 100);
    let log = read_log(&house, "oldest").await;
    for (index, item) in items.iter().enumerate() {
        let ok = &item["ok"];
        assert_eq!(ok["chat"], person(index % 4));
        assert_eq!(ok["status"], "queued");
        let created = log
            .iter()
            .find(|it| it["data"]["id"] == ok["id"])
            .expect("its entry");
        assert_eq!(created["data"]["content"]["text"], format!("m{index}"));
        assert_eq!(ok["event_cursor"], crate::house::cursor_of(created));
    }
    for chat in 0..4 {
        let history = device.history(&person(chat)).await;
        let words: Vec<_> = history
            .iter()
            .map(|it| it["content"]["text"].as_str().unwrap())
            .collect();
        let expected: Vec<_> = (0..25)
            .map(|index| format!("m{}", index * 4 + chat))
            .collect();
        assert_eq!(words, expected);
    }
    house.close().await;
}

async fn a_bad_item_is_a_problem_of_its_own() {
    let house = House::open().await;
    let device = house.device("one").await;
    let messages = json!([
        item(1, "good"),
        {"to": "nonsense", "content": text("x")},
        {"to": phone(1), "content": text("x"), "colour": "red"},
        item(1, "good too"),
    ]);
    let answer = device
        .post("/messages/batch", json!({"messages": messages}))
        .await
        .expect(202);
    let items = answer["items"].as_array().unwrap();
    assert!(
        items[0]["ok"].is_object() && items[3]["ok"].is_object(),
        "{answer}"
    );
    for bad in [1, 2] {
        let problem = &items[bad]["error"];
        assert_eq!(problem["code"], "invalid", "{answer}");
        assert_eq!(problem["status"], 422);
    }
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 2);
    house.close().await;
}

async fn an_empty_and_a_too_long_batch_are_refused_whole() {
    let house = House::open().await;
    let device = house.device("one").await;
    let many =
        |count: usize| -> Vec<Value> { (0..count).map(|index| item(index % 9, "x")).collect() };
    for count in [0, 1_001] {
        let answer = device
            .post("/messages/batch", json!({"messages": many(count)}))
            .await;
        assert_eq!(answer.pointers(), ["/messages"], "{count}");
    }
    assert!(walk(&house, &device.path("/messages")).await.is_empty());
    let answer = device
        .post("/messages/batch", json!({"messages": many(1_000)}))
        .await
        .expect(202);
    let items = answer["items"].as_array().unwrap();
    assert!(items.len() == 1_000 && items.iter().all(|it| it["ok"].is_object()));
    assert_eq!(
        walk(&house, &device.path("/messages?limit=200"))
            .await
            .len(),
        1_000
    );
    house.close().await;
}

async fn the_header_replays_the_whole_and_implies_the_items_keys() {
    let house = House::open().await;
    let device = house.device("one").await;
    let body = json!({"messages": [item(1, "a"), item(2, "b")]});
    let path = device.path("/messages/batch");
    let first = house.call("POST", &path).once("K").json(&body).send().await;
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = house.call("POST", &path).once("K").json(&body).send().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let (first, again) = (first.expect(202), again.expect(202));
    assert_eq!(first, again);
    let single = device.send_once("K#1", &item(2, "b")).await;
    assert_eq!(single.header("idempotency-replayed"), Some("true"));
    assert_eq!(single.expect(202)["id"], first["items"][1]["ok"]["id"]);
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 2);
    house.close().await;
}

async fn one_key_twice_in_a_batch_is_one_message() {
    let house = House::open().await;
    let device = house.device("one").await;
    let keyed =
        |words: &str| json!({"to": phone(1), "content": text(words), "idempotency_key": "same"});
    let body = json!({"messages": [keyed("a"), keyed("a"), keyed("b")]});
    let answer = device.post("/messages/batch", body).await.expect(202);
    let items = answer["items"].as_array().unwrap();
    assert_eq!(items[0]["ok"]["id"], items[1]["ok"]["id"], "{answer}");
    assert_eq!(items[1]["replayed"], true, "{answer}");
    assert_eq!(
        items[2]["error"]["code"], "idempotency_mismatch",
        "{answer}"
    );
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 1);
    house.close().await;
}

async fn a_member_that_a_batch_does_not_know_is_refused() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let answer = device
        .post(
            "/messages/batch",
            json!({"messages": [item(1, "a")], "atomic": true}),
        )
        .await;
    assert_eq!(answer.pointers(), ["/atomic"]);
    device
        .post("/messages/batch", json!({"messages": "x"}))
        .await
        .problem(422, "invalid");
    house.close().await;
}

async fn a_batch_that_may_fare_better_later_is_not_kept() {
    let mut house = House::open().await;
    let device = house.fresh_device("one").await;
    let body = json!({"messages": [item(1, "a"), item(2, "b")]});
    let path = device.path("/messages/batch");
    let client = house.client().clone();
    let send = async || {
        client
            .call("POST", &path)
            .once("K")
            .json(&body)
            .send()
            .await
    };
    house.restart_with(DISK_FULL).await;
    let answer = send().await.expect(202);
    for item in answer["items"].as_array().unwrap() {
        assert_eq!(item["error"]["code"], "storage_full", "{answer}");
    }
    house.restart().await;
    let first = send().await;
    assert_eq!(first.header("idempotency-replayed"), None);
    let first = first.expect(202);
    assert!(first["items"][1]["ok"]["id"].is_string(), "{first}");
    let again = send().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.expect(202)["items"], first["items"]);
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 2);
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_batch_is_answered_item_by_item_in_order,
    a_bad_item_is_a_problem_of_its_own,
    an_empty_and_a_too_long_batch_are_refused_whole,
    the_header_replays_the_whole_and_implies_the_items_keys,
    one_key_twice_in_a_batch_is_one_message,
    a_member_that_a_batch_does_not_know_is_refused,
    a_batch_that_may_fare_better_later_is_not_kept.embedded(),
];
