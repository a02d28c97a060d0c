//! `GET /v1/events/stream`: the log as server-sent events.

use serde_json::json;

use crate::house::{Case, House, Sse, cases, cursor_of, cursor_place, phone, read_log};

async fn a_stream_gives_the_log_with_its_cursors() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let log = read_log(&house, "oldest").await;
    let mut stream = Sse::open(house.call("GET", "/v1/events/stream?after=oldest")).await;
    for entry in &log {
        let event = stream.entry().await;
        assert_eq!(event.data, *entry);
        assert_eq!(event.id, Some(cursor_of(entry)));
    }
    let sent = device.send(&phone(2), "live").await;
    loop {
        let event = stream.entry().await;
        if event.data["type"] == "message.created" {
            assert_eq!(event.data["data"]["id"], sent["id"]);
            break;
        }
    }
    drop(stream);
    house.close().await;
}

async fn a_stream_goes_on_after_the_last_id_it_gave() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..20 {
        device.send(&phone(index), "hola").await;
    }
    let mut seen = Vec::new();
    let mut last = "oldest".to_owned();
    let log = read_log(&house, "oldest").await;
    while seen.len() < log.len() {
        let call = house
            .call("GET", "/v1/events/stream")
            .header("last-event-id", &last);
        let mut stream = Sse::open(call).await;
        for _ in 0..(log.len() - seen.len()).min(7) {
            let event = stream.entry().await;
            last = event.id.expect("an entry has an id");
            seen.push(event.data);
        }
    }
    assert_eq!(seen, log, "each once, in order, none missing");
    house.close().await;
}

async fn a_stream_filters_and_checks_as_a_poll_does() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    let path = format!(
        "/v1/events/stream?after=oldest&types=message.created&devices={}",
        device.id
    );
    let mut stream = Sse::open(house.call("GET", &path)).await;
    assert_eq!(stream.entry().await.data["data"]["id"], sent["id"]);
    drop(stream);
    house
        .get("/v1/events/stream?after=x")
        .await
        .problem(422, "invalid_cursor");
    house
        .get("/v1/events/stream?nonsense=1")
        .await
        .problem(422, "invalid");
    house
        .anonymous()
        .get("/v1/events/stream")
        .await
        .problem(401, "unauthenticated");
    house
        .key("messages:read")
        .await
        .get("/v1/events/stream")
        .await
        .problem(403, "scope_missing");
    house.close().await;
}

async fn lost_continuity_is_told_and_the_stream_goes_live() {
    let house = House::open().await;
    let device = house.device("one").await;
    let (epoch, seq) = cursor_place(&house.head().await);
    let path = format!("/v1/events/stream?after={epoch}-{}", seq + 1_000_000);
    let mut stream = Sse::open(house.call("GET", &path)).await;
    let reset = stream.named("reset").await.data;
    assert_eq!(reset["reason"], "diverged", "{reset}");
    assert!(reset["oldest"].is_string() && reset["head"].is_string());
    let sent = device.send(&phone(1), "after the reset").await;
    loop {
        let event = stream.entry().await;
        if event.data["type"] == "message.created" {
            assert_eq!(event.data["data"]["id"], sent["id"]);
            break;
        }
    }
    drop(stream);
    house.close().await;
}

async fn the_end_of_the_gateway_comes_after_a_whole_event() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let mut stream = Sse::open(house.call("GET", "/v1/events/stream?after=oldest")).await;
    stream.entry().await;
    device.send(&phone(1), "last words").await;
    house.restart().await;
    while stream.next().await.is_some() {}
    assert!(!stream.is_torn(), "the stream ended within an event");
    house.close().await;
}

async fn a_revoked_key_ends_its_stream() {
    let house = House::open().await;
    let device = house.device("one").await;
    let reader = house.key("events:read messages:read").await;
    let mut stream = Sse::open(reader.call("GET", "/v1/events/stream?after=now")).await;
    house.operator().revoke(reader.key_id()).await;
    while stream.next().await.is_some() {}
    device.send(&phone(1), "not for you").await;
    reader.get("/v1/me").await.problem(401, "unauthenticated");
    house.close().await;
}

async fn all_transports_give_the_same_entries() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "same everywhere").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    let polled = read_log(&house, "oldest").await;
    let mut stream = Sse::open(house.call("GET", "/v1/events/stream?after=oldest")).await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), "oldest").await;
    for entry in &polled {
        assert_eq!(stream.entry().await.data, *entry);
        assert_eq!(socket.event().await, *entry);
    }
    socket.close().await;
    drop(stream);
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_stream_gives_the_log_with_its_cursors,
    a_stream_goes_on_after_the_last_id_it_gave,
    a_stream_filters_and_checks_as_a_poll_does,
    lost_continuity_is_told_and_the_stream_goes_live,
    the_end_of_the_gateway_comes_after_a_whole_event,
    a_revoked_key_ends_its_stream,
    all_transports_give_the_same_entries,
];
