//! The life of a connection: pairing, connecting, stopping, and what tells of it.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::house::{Case, Device, House, cases, phone, read_log, until, until_some};

async fn pairing_goes_through_its_states_and_each_is_an_event() {
    let house = House::open().await;
    let device = house.device("one").await;
    let history = device.get("/session/history").await.expect(200);
    let items = history["items"].as_array().unwrap();
    let states: Vec<_> = items
        .iter()
        .map(|it| it["state"].as_str().unwrap())
        .rev()
        .collect();
    assert!(
        is_path(&states, &["connecting", "pairing", "connected"]),
        "{states:?}"
    );
    for pair in items.windows(2) {
        assert_eq!(
            pair[0]["previous"], pair[1]["state"],
            "newest first, without a gap"
        );
    }
    let log = crate::house::read_log(&house, "oldest").await;
    let told: Vec<_> = log
        .iter()
        .filter(|it| it["type"] == "device.state")
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|it| it["data"]["state"].as_str().unwrap())
        .collect();
    assert!(
        is_path(&told, &["connecting", "pairing", "connected"]),
        "{told:?}"
    );
    assert!(
        log.iter().any(|it| it["type"] == "device.qr"),
        "the code was news"
    );
    house.close().await;
}

async fn connect_answers_at_once_and_shows_the_code() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let answer = device
        .post("/connect", json!({"method": "qr"}))
        .await
        .expect(202);
    let state = answer["state"].as_str().unwrap();
    assert!(["connecting", "pairing"].contains(&state), "{answer}");
    device.until_state("pairing").await;
    let shown = qr(&device).await;
    assert!(
        shown["code"].as_str().is_some_and(|code| !code.is_empty()),
        "{shown}"
    );
    assert_eq!(shown["attempt"], 1);
    assert!(shown["expires_at"].is_string());
    house.close().await;
}

async fn a_connector_without_codes_says_so() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let wish = json!({"method": "code", "number": phone(3)});
    let refused = device.post("/connect", wish).await;
    let problem = refused.problem(422, "unsupported_by_connector");
    assert_eq!(problem["errors"][0]["pointer"], "/method", "{problem}");
    house.close().await;
}

async fn the_code_is_shown_as_picture_and_as_json() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    device.post("/connect", json!({})).await.expect(202);
    device.until_state("pairing").await;
    qr(&device).await;
    let path = device.path("/qr");
    let png = house
        .call("GET", &path)
        .header("accept", "image/png")
        .send()
        .await;
    assert_eq!(png.header("content-type"), Some("image/png"));
    assert!(png.bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let svg = house
        .call("GET", &path)
        .header("accept", "image/svg+xml")
        .send()
        .await;
    assert!(
        svg.header("content-type")
            .unwrap()
            .starts_with("image/svg+xml")
    );
    assert!(svg.text().contains("<svg"));
    let other = house
        .call("GET", &path)
        .header("accept", "image/webp")
        .send()
        .await;
    other.problem(406, "not_acceptable");
    house.close().await;
}

async fn where_no_code_is_shown_asking_for_it_is_a_conflict() {
    let house = House::open().await;
    let fresh = house.fresh_device("fresh").await;
    fresh.get("/qr").await.problem(409, "state_conflict");
    let linked = house.device("linked").await;
    linked.get("/qr").await.problem(409, "state_conflict");
    house.close().await;
}

async fn what_is_already_so_is_200_without_a_new_entry() {
    let house = House::open().await;
    let device = house.device("one").await;
    let head = house.head().await;
    let again = device.post("/connect", json!({})).await;
    assert!(again.is_success(), "{}", again.text());
    assert_eq!(again.body["state"], "connected");
    assert_eq!(
        device.post("/simulations/scan", json!({})).await.status,
        200
    );
    assert_eq!(house.head().await, head, "nothing happened");
    device.post("/disconnect", json!({})).await.expect(200);
    device.until_state("disconnected").await;
    let head = house.head().await;
    device.post("/disconnect", json!({})).await.expect(200);
    assert_eq!(house.head().await, head, "nothing happened");
    house.close().await;
}

async fn a_linked_device_connects_again_without_pairing() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.post("/disconnect", json!({})).await.expect(200);
    device.until_state("disconnected").await;
    let head = house.head().await;
    device.post("/connect", json!({})).await.success();
    device.until_state("connected").await;
    let states = states_after(&house, &head).await;
    assert!(!states.contains(&"pairing".to_owned()), "{states:?}");
    assert_eq!(states.last().map(String::as_str), Some("connected"));
    house.close().await;
}

async fn a_restart_stops_and_starts_a_linked_device() {
    let house = House::open().await;
    let device = house.device("one").await;
    let head = house.head().await;
    device.post("/restart", json!({})).await.success();
    house
        .until_entry(&head, "device.state", |it| {
            it["data"]["state"] == "connected"
        })
        .await;
    let states = states_after(&house, &head).await;
    assert!(
        states.len() >= 2 && !states.contains(&"pairing".into()),
        "{states:?}"
    );
    house.close().await;
}

async fn after_a_logout_the_device_pairs_anew() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.post("/logout", json!({})).await.success();
    device.until_state("logged_out").await;
    device.post("/connect", json!({})).await.success();
    device.until_state("pairing").await;
    device.post("/simulations/scan", json!({})).await.success();
    device.until_state("connected").await;
    house.close().await;
}

async fn a_device_that_was_never_linked_can_not_restart_or_log_out() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    device
        .post("/restart", json!({}))
        .await
        .problem(409, "state_conflict");
    device
        .post("/logout", json!({}))
        .await
        .problem(409, "state_conflict");
    house.close().await;
}

async fn a_scan_without_a_code_is_a_conflict() {
    let house = House::open().await;
    let device = house.fresh_device("one").await;
    let answer = device.post("/simulations/scan", json!({})).await;
    assert_eq!(answer.status, 409, "{}", answer.text());
    house.close().await;
}

async fn the_sessions_list_counts_by_state() {
    let house = House::open().await;
    let linked = house.device("linked").await;
    let fresh = house.fresh_device("fresh").await;
    let page = house.get("/v1/sessions").await.expect(200);
    assert_eq!(page["counts"]["connected"], 1);
    assert_eq!(page["counts"]["created"], 1);
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let text = page["items"].to_string();
    assert!(text.contains(&linked.id) && text.contains(&fresh.id));
    assert!(page["event_cursor"].is_string());
    house.close().await;
}

async fn a_session_tells_when_something_last_came_in_and_was_acknowledged() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    device.hears(&phone(1), "hola").await;
    let sent = device.send(&phone(1), "hola").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    until("the session knows both times", async || {
        let session = device.get("/session").await.expect(200);
        session["last_inbound_at"].is_string() && session["last_ack_at"].is_string()
    })
    .await;
    let times = async || {
        let session = device.get("/session").await.expect(200);
        (
            session["last_inbound_at"].clone(),
            session["last_ack_at"].clone(),
        )
    };
    device.post("/disconnect", json!({})).await.expect(200);
    let before = times().await;
    house.restart().await;
    assert_eq!(times().await, before);
    house.close().await;
}

async fn wishes_survive_a_restart_of_the_gateway() {
    let mut house = House::open().await;
    let (wanted, stopped) = (house.device("wanted").await, house.device("stopped").await);
    stopped.post("/disconnect", json!({})).await.expect(200);
    stopped.until_state("disconnected").await;
    house.restart().await;
    wanted.until_state("connected").await;
    assert_eq!(stopped.state().await, "disconnected");
    let sent = stopped.send(&wanted.jid, "later").await;
    stopped.post("/connect", json!({})).await.success();
    stopped
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house.close().await;
}

async fn a_deleted_devices_session_is_absent() {
    let house = House::open().await;
    let device = house.device("one").await;
    house.delete(&device.path("")).await.expect(204);
    for rest in ["/session", "/session/history", "/qr"] {
        device.get(rest).await.problem(404, "not_found");
    }
    device
        .post("/connect", json!({}))
        .await
        .problem(404, "not_found");
    house.close().await;
}

async fn qr(device: &Device) -> Value {
    until_some("a code is shown", async || {
        let path = device.path("/qr");
        let shown = device
            .client
            .call("GET", &path)
            .header("accept", "application/json")
            .send()
            .await;
        (shown.status == 200).then_some(shown.body)
    })
    .await
}

async fn states_after(house: &House, head: &str) -> Vec<String> {
    let log = crate::house::read_log(house, head).await;
    let told = log.iter().filter(|it| it["type"] == "device.state");
    told.map(|it| it["data"]["state"].as_str().unwrap().to_owned())
        .collect()
}

/// Whether `states` passes through `stops` in this order.
fn is_path(states: &[&str], stops: &[&str]) -> bool {
    let mut rest = states.iter();
    stops.iter().all(|stop| rest.any(|state| state == stop))
}

async fn codes_change_until_nobody_wants_them_any_more() {
    let settings = "simulator.qr_first_ms = 150\nsimulator.qr_next_ms = 50";
    let house = House::open_with(settings).await;
    let device = house.fresh_device("one").await;
    let head = house.head().await;
    device.post("/connect", json!({})).await.success();
    device.until_state("disconnected").await;
    let log = read_log(&house, &head).await;
    let codes: Vec<&str> = log
        .iter()
        .filter(|it| it["type"] == "device.qr")
        .filter_map(|it| it["data"]["code"].as_str())
        .collect();
    let unlike: HashSet<&str> = codes.iter().copied().collect();
    assert!(1 < codes.len() && unlike.len() == codes.len(), "{codes:?}");
    let session = device.get("/session").await.expect(200);
    assert_eq!(session["reason"], "pairing_timeout", "{session}");
    device.get("/qr").await.problem(409, "state_conflict");
    // The next pairing is over as soon as this one was: that there was one stands in the log.
    let head = house.head().await;
    device.post("/connect", json!({})).await.success();
    let pairs = |it: &Value| it["data"]["state"] == "pairing";
    house.until_entry(&head, "device.state", pairs).await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    pairing_goes_through_its_states_and_each_is_an_event,
    connect_answers_at_once_and_shows_the_code,
    a_connector_without_codes_says_so,
    the_code_is_shown_as_picture_and_as_json,
    where_no_code_is_shown_asking_for_it_is_a_conflict,
    what_is_already_so_is_200_without_a_new_entry,
    a_linked_device_connects_again_without_pairing,
    a_restart_stops_and_starts_a_linked_device,
    after_a_logout_the_device_pairs_anew,
    a_device_that_was_never_linked_can_not_restart_or_log_out,
    a_scan_without_a_code_is_a_conflict,
    the_sessions_list_counts_by_state,
    a_session_tells_when_something_last_came_in_and_was_acknowledged,
    wishes_survive_a_restart_of_the_gateway,
    a_deleted_devices_session_is_absent,
    codes_change_until_nobody_wants_them_any_more,
];
