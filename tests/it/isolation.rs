//! Nobody sees more than the credential allows: tenants, scopes, keys bound to devices.

use serde_json::{Value, json};

use crate::house::{Case, House, cases, phone, text};

/// An id of the right form that nobody has.
const NOBODY: &str = "00000000000000000000000000";

async fn another_tenants_things_are_exactly_like_absent_ones() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "secret-canary").await;
    let message = sent["id"].as_str().unwrap();
    let created = house
        .until_entry("oldest", "message.created", |it| {
            it["data"]["id"] == message
        })
        .await;
    let event = created["id"].as_str().unwrap();
    let (own, none) = (device.id.as_str(), format!("dev_{NOBODY}"));
    for rest in [
        "",
        "/session",
        "/session/history",
        "/qr",
        "/messages",
        "/chats",
        &format!("/messages/{message}"),
    ] {
        let theirs = neighbour
            .get(&format!("/v1/devices/{own}{rest}"))
            .await
            .problem(404, "not_found");
        let absent = neighbour
            .get(&format!("/v1/devices/{none}{rest}"))
            .await
            .problem(404, "not_found");
        assert_eq!(
            without_ids(theirs, own),
            without_ids(absent, &none),
            "{rest}"
        );
    }
    let body = json!({"to": phone(1), "content": text("x")});
    for (rest, body) in [
        ("/messages", body),
        ("/connect", json!({})),
        ("/logout", json!({})),
    ] {
        neighbour
            .post(&format!("/v1/devices/{own}{rest}"), body)
            .await
            .problem(404, "not_found");
    }
    neighbour
        .delete(&device.path(""))
        .await
        .problem(404, "not_found");
    neighbour
        .patch(&device.path(""), json!({"name": "mine"}))
        .await
        .problem(404, "not_found");
    neighbour
        .get(&format!("/v1/events/{event}"))
        .await
        .problem(404, "not_found");
    let own_device = neighbour.device("theirs").await;
    let foreign = own_device
        .post(
            "/messages",
            json!({"to": phone(1), "content": text("x"), "reply_to": message}),
        )
        .await;
    let unknown =
        json!({"to": phone(1), "content": text("x"), "reply_to": format!("msg_{NOBODY}")});
    let unknown = own_device.post("/messages", unknown).await;
    assert_eq!(foreign.clone().pointers(), ["/reply_to"]);
    assert_eq!(foreign.body["errors"], unknown.body["errors"]);
    for path in [
        "/v1/devices",
        "/v1/sessions",
        "/v1/events?after=oldest&limit=1000",
        "/v1/consumers",
        "/v1/me",
    ] {
        let answer = neighbour.get(path).await;
        let told = answer.text();
        answer.expect(200);
        assert!(
            !told.contains("secret-canary") && !told.contains(own),
            "{path}: {told}"
        );
    }
    house.close().await;
}

async fn a_missing_scope_is_403_and_write_does_not_imply_read() {
    let house = House::open().await;
    let device = house.device("one").await;
    let writer = house.key("messages:write").await;
    let path = device.path("/messages");
    let body = json!({"to": phone(1), "content": text("x")});
    writer.post(&path, body.clone()).await.expect(202);
    for path in [
        path.clone(),
        "/v1/devices".into(),
        device.path("/chats"),
        "/v1/events".into(),
        "/v1/sessions".into(),
    ] {
        writer.get(&path).await.problem(403, "scope_missing");
    }
    let reader = house
        .key("devices:read messages:read chats:read events:read")
        .await;
    reader.get(&path).await.expect(200);
    reader.post(&path, body).await.problem(403, "scope_missing");
    reader
        .post("/v1/devices", json!({"name": "x"}))
        .await
        .problem(403, "scope_missing");
    let scan = reader
        .post(&device.path("/simulations/scan"), json!({}))
        .await;
    scan.problem(403, "scope_missing");
    house.close().await;
}

async fn a_key_bound_to_devices_sees_no_others() {
    let house = House::open().await;
    let (mine, other) = (house.device("mine").await, house.device("other").await);
    let bound = house.device_key(&[&mine]).await;
    bound.get(&mine.path("")).await.expect(200);
    bound.get(&other.path("")).await.problem(404, "not_found");
    let body = json!({"to": phone(1), "content": text("x")});
    bound
        .post(&other.path("/messages"), body)
        .await
        .problem(404, "not_found");
    for list in ["/v1/devices", "/v1/sessions"] {
        let page = bound.get(list).await;
        assert!(
            page.text().contains(&mine.id) && !page.text().contains(&other.id),
            "{list}"
        );
    }
    other.send(&phone(1), "hidden").await;
    let shown = mine.send(&phone(1), "shown").await;
    let page = bound
        .get("/v1/events?after=oldest&limit=1000")
        .await
        .expect(200);
    let entries = page["items"].as_array().unwrap();
    assert!(
        entries.iter().all(|it| it["device"] == mine.id),
        "{entries:?}"
    );
    assert!(entries.iter().any(|it| it["data"]["id"] == shown["id"]));
    house.close().await;
}

/// A problem without what differs from call to call.
fn without_ids(problem: Value, device: &str) -> String {
    let mut problem = problem;
    problem["request_id"] = Value::Null;
    problem.to_string().replace(device, "")
}

pub(crate) const CASES: &[Case] = cases![
    another_tenants_things_are_exactly_like_absent_ones,
    a_missing_scope_is_403_and_write_does_not_imply_read,
    a_key_bound_to_devices_sees_no_others,
];
