//! `Idempotency-Key`: a client may retry for ever, through any door.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant};

use crate::house::{Answer, Case, Device, House, cases, phone, text, until, walk};

fn body(words: &str) -> Value {
    json!({"to": phone(1), "content": text(words)})
}

async fn the_same_key_says_it_once() {
    let house = House::open().await;
    let device = house.device("one").await;
    let first = device.send_once("k-1", &body("hola")).await;
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = device.send_once("k-1", &body("hola")).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_ne!(first.header("x-request-id"), again.header("x-request-id"));
    assert_eq!(first.clone().expect(202), again.expect(202));
    let spelled = r#"{ "content": {"text":"h\u006fla","type":"text"}, "to": "NUMBER" }"#
        .replace("NUMBER", &phone(1));
    let path = device.path("/messages");
    let spelled = house
        .call("POST", &path)
        .once("k-1")
        .raw("application/json", spelled)
        .send()
        .await;
    assert_eq!(spelled.expect(202), first.body, "compared as JSON values");
    assert_eq!(walk(&house, &path).await.len(), 1);
    house.close().await;
}

async fn another_body_operation_or_path_under_the_key_is_a_mismatch() {
    let house = House::open().await;
    let (one, two) = (house.device("one").await, house.device("two").await);
    one.send_once("k", &body("hola")).await.expect(202);
    one.send_once("k", &body("other"))
        .await
        .problem(409, "idempotency_mismatch");
    two.send_once("k", &body("hola"))
        .await
        .problem(409, "idempotency_mismatch");
    // Another operation has a key space of its own.
    let made = house
        .call("POST", "/v1/devices")
        .once("k")
        .json(&json!({"name": "three"}))
        .send()
        .await;
    made.expect(201);
    assert_eq!(walk(&house, &one.path("/messages")).await.len(), 1);
    assert_eq!(walk(&house, &two.path("/messages")).await.len(), 0);
    house.close().await;
}

async fn a_key_belongs_to_its_tenant() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let (own, theirs) = (house.device("own").await, neighbour.device("theirs").await);
    let first = own.send_once("k", &body("hola")).await.expect(202);
    let second = theirs.send_once("k", &body("hola")).await;
    assert_eq!(second.header("idempotency-replayed"), None);
    assert_ne!(second.expect(202)["id"], first["id"]);
    house.close().await;
}

async fn a_key_has_a_form() {
    let house = House::open().await;
    let device = house.device("one").await;
    for bad in ["", " ", &"x".repeat(256)] {
        let pointers = device.send_once(bad, &body("hola")).await.pointers();
        assert_eq!(pointers, ["@Idempotency-Key"], "{bad:?}");
    }
    device
        .send_once(&"x".repeat(255), &body("hola"))
        .await
        .expect(202);
    let long = json!({"messages": [{"to": phone(1), "content": text("x"), "idempotency_key": "x".repeat(256)}]});
    let answer = device.post("/messages/batch", long).await;
    let told = answer.text();
    assert!(
        answer.status == 422 || answer.body["items"][0]["error"]["status"] == 422,
        "{told}"
    );
    house.close().await;
}

async fn only_a_success_is_kept() {
    let house = House::open().await;
    let device = house.device("one").await;
    let wrong = json!({"to": phone(1), "content": {"type": "text"}});
    device.send_once("k", &wrong).await.problem(422, "invalid");
    let good = device.send_once("k", &body("hola")).await;
    assert_eq!(good.header("idempotency-replayed"), None);
    good.expect(202);
    house.close().await;
}

async fn a_device_is_made_once() {
    let house = House::open().await;
    let wish = json!({"name": "one"});
    let first = house
        .call("POST", "/v1/devices")
        .once("d")
        .json(&wish)
        .send()
        .await;
    let again = house
        .call("POST", "/v1/devices")
        .once("d")
        .json(&wish)
        .send()
        .await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.expect(201), again.expect(201));
    assert_eq!(walk(&house, "/v1/devices").await.len(), 1);
    house.close().await;
}

async fn an_inbound_simulation_is_played_once() {
    let house = House::open().await;
    let device = house.device("one").await;
    let path = device.path("/simulations/messages");
    let wish = json!({"from": phone(1), "content": text("hola")});
    let first = house
        .call("POST", &path)
        .once("s")
        .json(&wish)
        .send()
        .await
        .expect(202);
    let again = house
        .call("POST", &path)
        .once("s")
        .json(&wish)
        .send()
        .await
        .expect(202);
    assert_eq!(first, again);
    house
        .until_entry("oldest", "message.received", |_| true)
        .await;
    // A second one would stand before this later message.
    device.hears(&phone(1), "last").await;
    house
        .until_entry("oldest", "message.received", |it| {
            it["data"]["content"]["text"] == "last"
        })
        .await;
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 2);
    house.close().await;
}

async fn fifty_at_once_and_again_after_a_restart_are_one_message() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let first = fifty(&device).await;
    house.restart().await;
    let second = fifty(&device).await;
    let answer = &first[0].body;
    for again in first.iter().chain(&second) {
        assert_eq!(&again.body, answer, "the same answer each time");
    }
    let replays = first
        .iter()
        .filter(|it| it.header("idempotency-replayed") == Some("true"));
    assert_eq!(replays.count(), 49);
    assert!(
        second
            .iter()
            .all(|it| it.header("idempotency-replayed") == Some("true"))
    );
    device
        .send_once("fifty", &body("other"))
        .await
        .problem(409, "idempotency_mismatch");
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 1);
    let log = crate::house::read_log(&house, "oldest").await;
    assert_eq!(
        log.iter()
            .filter(|it| it["type"] == "message.created")
            .count(),
        1
    );
    house.close().await;
}

async fn the_key_is_the_same_through_every_door() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let first = device.send_once("door", &body("hola")).await.expect(202);
    let mut item = body("hola");
    item["idempotency_key"] = json!("door");
    let batch = device
        .post("/messages/batch", json!({"messages": [item]}))
        .await
        .expect(202);
    assert_eq!(batch["items"][0]["ok"]["id"], first["id"]);
    assert_eq!(batch["items"][0]["replayed"], true);
    over_socket(&house, &device, &first).await;
    house.restart().await;
    over_socket(&house, &device, &first).await;
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 1);
    house.close().await;
}

async fn a_key_first_used_on_a_socket_holds_on_rest() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    let mut params = body("hola");
    params["device"] = json!(device.id);
    let reply = socket
        .request("send_message", params, Some("ws-first"))
        .await;
    let rest = device.send_once("ws-first", &body("hola")).await;
    assert_eq!(rest.header("idempotency-replayed"), Some("true"));
    assert_eq!(rest.expect(202)["id"], reply["ok"]["id"]);
    socket.close().await;
    house.close().await;
}

async fn over_socket(house: &House, device: &Device, first: &Value) {
    let mut socket = house.socket().await;
    let mut params = body("hola");
    params["device"] = json!(device.id);
    let reply = socket
        .request("send_message", params.clone(), Some("door"))
        .await;
    assert_eq!(reply["ok"]["id"], first["id"], "{reply}");
    assert_eq!(reply["replayed"], true, "{reply}");
    params["content"] = text("other");
    let reply = socket.request("send_message", params, Some("door")).await;
    assert_eq!(reply["error"]["code"], "idempotency_mismatch", "{reply}");
    socket.close().await;
}

async fn fifty(device: &Device) -> Vec<Answer> {
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let device = device.clone();
        calls.spawn(async move { device.send_once("fifty", &body("hola")).await });
    }
    let answers = calls.join_all().await;
    for answer in &answers {
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
    answers
}

/// A time a few seconds ahead, in the gateway's own words: the end of a token that is made now.
async fn soon(house: &House) -> Value {
    let wish = json!({"ttl_seconds": 12});
    let made = house.post("/v1/auth/tokens", wish).await.expect(201);
    made["expires_at"].clone()
}

async fn a_retry_is_answered_though_its_time_has_passed() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut wish = body("later");
    wish["send_at"] = soon(&house).await;
    let first = device.send_once("late", &wish).await.expect(202);
    assert_eq!(first["status"], "scheduled");
    let id = first["id"].as_str().unwrap();
    device.until_status(id, "delivered").await;
    let again = device.send_once("late", &wish).await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.expect(202), first);
    let mut item = wish.clone();
    item["idempotency_key"] = json!("late");
    let batch = device
        .post("/messages/batch", json!({"messages": [item, wish]}))
        .await
        .expect(202);
    assert_eq!(batch["items"][0]["ok"], first);
    assert_eq!(batch["items"][0]["replayed"], true);
    let fault = &batch["items"][1]["error"]["errors"][0];
    assert_eq!(fault["pointer"], "/messages/1/send_at", "{batch}");
    let mut socket = house.socket().await;
    let mut params = wish.clone();
    params["device"] = json!(device.id);
    let reply = socket.request("send_message", params, Some("late")).await;
    assert_eq!((&reply["ok"], &reply["replayed"]), (&first, &json!(true)));
    socket.close().await;
    // What was never taken is still wrong, also under a key that another call has used.
    for key in ["fresh", "late"] {
        let mut other = wish.clone();
        other["content"] = text(key);
        let pointers = device.send_once(key, &other).await.pointers();
        assert_eq!(pointers, ["/send_at"], "{key}");
    }
    assert_eq!(walk(&house, &device.path("/messages")).await.len(), 1);
    house.close().await;
}

async fn a_key_that_has_ended_was_made_once() {
    let house = House::open().await;
    let wish =
        json!({"name": "short", "scopes": ["devices:read"], "expires_at": soon(&house).await});
    let make = async || {
        let call = house.call("POST", "/v1/keys").once("short");
        call.json(&wish).send().await
    };
    let first = make().await.expect(201);
    let key = house.with(first["secret"].as_str().unwrap());
    until("the key has ended", async || {
        key.get("/v1/me").await.status == 401
    })
    .await;
    let again = make().await;
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let again = again.expect(201);
    assert_eq!(
        (&again["key"], &again["secret"]),
        (&first["key"], &Value::Null)
    );
    house.close().await;
}

async fn twins_make_one_device_though_its_number_is_taken_by_it() {
    let house = House::open().await;
    let wish = json!({"name": "one", "number": phone(7)});
    let twin = async || loop {
        let begun = Instant::now();
        let call = house.call("POST", "/v1/devices").once("twins");
        let answer = call.json(&wish).send().await;
        if answer.body["code"] != "idempotency_in_progress" {
            break answer;
        }
        // Each waits for those before it for five seconds.
        assert!(Duration::from_secs(4) < begun.elapsed(), "{answer:?}");
    };
    let answers = join_all((0..20).map(|_| twin())).await;
    let first = answers[0].body.clone();
    let is_replay = |it: &&Answer| it.header("idempotency-replayed") == Some("true");
    assert_eq!(answers.iter().filter(is_replay).count(), 19);
    for answer in answers {
        assert_eq!(answer.expect(201), first);
    }
    assert_eq!(walk(&house, "/v1/devices").await.len(), 1);
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    the_same_key_says_it_once,
    another_body_operation_or_path_under_the_key_is_a_mismatch,
    a_key_belongs_to_its_tenant,
    a_key_has_a_form,
    only_a_success_is_kept,
    a_device_is_made_once,
    an_inbound_simulation_is_played_once,
    fifty_at_once_and_again_after_a_restart_are_one_message,
    the_key_is_the_same_through_every_door,
    a_key_first_used_on_a_socket_holds_on_rest,
    a_retry_is_answered_though_its_time_has_passed,
    a_key_that_has_ended_was_made_once,
    twins_make_one_device_though_its_number_is_taken_by_it,
];
