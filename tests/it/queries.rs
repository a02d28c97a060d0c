//! What no operation knows: a parameter in the query that it does not name.

use serde_json::{Value, json};

use crate::house::{Case, House, cases, person, phone, text, walk};

async fn every_operation_refuses_a_parameter_that_it_does_not_know() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    let created = house
        .until_entry("oldest", "message.created", |_| true)
        .await;
    let mut consumer = house.socket().await;
    let wish = json!({"op": "subscribe", "filter": {}, "after": "now", "ack": "client", "consumer": "crm"});
    consumer.ask(wish).await;
    let named = |name: &str| match name {
        "device" => device.id.clone(),
        "chat" => person(1),
        "message" => sent["id"].as_str().unwrap().to_owned(),
        "event" => created["id"].as_str().unwrap().to_owned(),
        "key" => house.key_id().to_owned(),
        "name" => "crm".to_owned(),
        "number" => phone(1),
        "code" => "not_found".to_owned(),
        other => panic!("a part of a path that is new here: {other}"),
    };
    let document = house.get("/openapi.json").await.expect(200);
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path: String = path
            .split_inclusive('}')
            .map(|piece| match piece.split_once('{') {
                Some((plain, name)) => format!("{plain}{}", named(name.trim_end_matches('}'))),
                None => piece.to_owned(),
            })
            .collect();
        for (method, operation) in item.as_object().unwrap() {
            if !operation["operationId"].is_string() {
                continue;
            }
            let call = house.call(&method.to_uppercase(), &format!("{path}?zzz=1"));
            let pointers = call.send().await.pointers();
            assert_eq!(pointers, ["?zzz"], "{method} {path}");
            seen += 1;
        }
    }
    assert!(40 < seen, "the document has operations: {seen}");
    consumer.close().await;
    house.close().await;
}

async fn a_member_that_slipped_into_the_query_sends_nothing() {
    let house = House::open().await;
    let device = house.device("one").await;
    let body = json!({"to": phone(1), "content": text("not yet")});
    let late = "/messages?send_at=2030-01-01T00:00:00.000Z";
    let answer = device.post(late, body.clone()).await;
    assert_eq!(answer.pointers(), ["?send_at"]);
    let batch = json!({"messages": [body]});
    let answer = device.post("/messages/batch?cursor=x", batch).await;
    assert_eq!(answer.pointers(), ["?cursor"]);
    assert!(walk(&house, &device.path("/messages")).await.is_empty());
    house.close().await;
}

async fn an_unknown_parameter_comes_after_the_path_and_what_cannot_be_read() {
    let house = House::open().await;
    let device = house.device("one").await;
    let path = "/v1/devices/dev_00000000000000000000000000/messages?zzz=1";
    let absent = house.post(path, json!({})).await;
    absent.problem(404, "not_found");
    let unread = |path: &str, body: &'static str| {
        house
            .call("POST", &device.path(path))
            .raw("application/json", body)
            .send()
    };
    unread("/messages?zzz=1", "{")
        .await
        .problem(400, "invalid_json");
    unread("/messages?zzz=%ff", "{}")
        .await
        .problem(400, "invalid_json");
    house.close().await;
}

async fn a_request_without_a_body_refuses_what_it_does_not_know() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    for method in ["disconnect_device", "read_device", "delete_device"] {
        let params = json!({"device": device.id, "foo": 1});
        let reply = socket.request(method, params, None).await;
        assert_eq!(reply["error"]["code"], "invalid", "{method}: {reply}");
        let pointer: &Value = &reply["error"]["errors"][0]["pointer"];
        assert_eq!(pointer, "?foo", "{method}: {reply}");
    }
    assert_eq!(device.state().await, "connected");
    socket.close().await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    every_operation_refuses_a_parameter_that_it_does_not_know,
    a_member_that_slipped_into_the_query_sends_nothing,
    an_unknown_parameter_comes_after_the_path_and_what_cannot_be_read,
    a_request_without_a_body_refuses_what_it_does_not_know,
];
