//! What a socket hears: filters, scopes, places to begin.

use serde_json::{Value, json};

use crate::house::{Case, House, cases, cursor_of, cursor_place, person, phone, read_log};

async fn a_replay_is_whole_and_goes_over_into_live() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..30 {
        device.send(&phone(index % 3), "before").await;
    }
    let mut socket = house.socket().await;
    let ready = socket.subscribe(json!({}), "oldest").await;
    for index in 0..30 {
        device.send(&phone(index % 3), "after").await;
    }
    let log = read_log(&house, "oldest").await;
    for entry in &log {
        assert_eq!(socket.event().await, *entry);
    }
    let position = socket.until_op("position").await;
    assert!(position["events"].is_u64(), "{position}");
    assert!(cursor_place(ready["cursor"]["oldest"].as_str().unwrap()).1 <= 1);
    socket.close().await;
    house.close().await;
}

async fn position_comes_after_an_empty_replay_too() {
    let house = House::open().await;
    house.device("one").await;
    let head = house.head().await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({}), &head).await;
    let position = socket.until_op("position").await;
    assert_eq!(
        (&position["cursor"], &position["events"]),
        (&json!(head), &json!(0))
    );
    socket.close().await;
    house.close().await;
}

async fn a_filtered_replay_is_counted_and_its_place_is_told() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..5 {
        device.send(&phone(index), "hola").await;
    }
    let head = house.head().await;
    let mut socket = house.socket().await;
    socket
        .subscribe(json!({"types": ["message.created"]}), "oldest")
        .await;
    let position = socket.until_op("position").await;
    assert_eq!(position["events"], 5);
    assert!(cursor_place(position["cursor"].as_str().unwrap()) >= cursor_place(&head));
    for _ in 0..5 {
        assert_eq!(socket.event().await["type"], "message.created");
    }
    socket.close().await;
    house.close().await;
}

async fn filters_say_what_is_heard_and_what_not() {
    let house = House::open().await;
    let (one, two) = (house.device("one").await, house.device("two").await);
    one.send(&phone(1), "a").await;
    two.send(&phone(2), "b").await;
    one.hears(&phone(3), "c").await;
    house
        .until_entry("oldest", "message.received", |_| true)
        .await;
    one.send(&phone(9), "the last").await;
    let cases: [(Value, Fits<'_>); 7] = [
        (json!({"types": ["message.*"]}), &|it| {
            kind(it).starts_with("message.")
        }),
        (json!({"devices": [two.id]}), &|it| it["device"] == two.id),
        (json!({"chats": [person(1)]}), &|it| it["chat"] == person(1)),
        (json!({"chats": [phone(1)]}), &|it| it["chat"] == person(1)),
        (json!({"types": ["message.*"], "direction": "in"}), &|it| {
            it["data"]["direction"] == "in"
        }),
        (json!({"not": {"types": ["message.*"]}}), &|it| {
            !kind(it).starts_with("message.")
        }),
        (
            json!({"types": ["*.created"], "not": {"devices": [one.id]}}),
            &|it| kind(it).ends_with(".created") && it["device"] != one.id,
        ),
    ];
    let log = read_log(&house, "oldest").await;
    let last = log.last().unwrap();
    for (filter, fits) in cases {
        let expected: Vec<_> = log.iter().filter(|it| fits(it)).collect();
        assert!(!expected.is_empty(), "{filter}");
        let mut socket = house.socket().await;
        socket.subscribe(filter.clone(), "oldest").await;
        let mut heard = Vec::new();
        while heard.len() < expected.len() {
            heard.push(socket.event().await);
        }
        assert_eq!(heard.iter().collect::<Vec<_>>(), expected, "{filter}");
        let position = socket.until_op("position").await;
        let place = cursor_place(position["cursor"].as_str().unwrap());
        assert!(
            place >= cursor_place(&cursor_of(last)),
            "{filter}: {position}"
        );
        socket.close().await;
    }
    house.close().await;
}

async fn a_filter_is_changed_in_place() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    socket.subscribe(json!({"types": ["label.*"]}), "now").await;
    device.send(&phone(1), "not heard").await;
    let reply = socket
        .ask(json!({"op": "filter", "filter": {"types": ["message.created"]}}))
        .await;
    assert!(reply.get("error").is_none(), "{reply}");
    let sent = device.send(&phone(2), "heard").await;
    assert_eq!(socket.event().await["data"]["id"], sent["id"]);
    socket.close().await;
    house.close().await;
}

async fn a_filter_beyond_its_bounds_or_of_unknown_members_is_refused() {
    let house = House::open().await;
    let many: Vec<_> = (0..65).map(|index| format!("type.{index}")).collect();
    for filter in [
        json!({"types": many}),
        json!({"kinds": ["message.*"]}),
        json!({"types": "message.*"}),
        json!({"direction": "up"}),
        json!([]),
    ] {
        let mut socket = house.socket().await;
        let reply = socket
            .ask(json!({"op": "subscribe", "filter": filter, "after": "now"}))
            .await;
        assert_eq!(reply["error"]["code"], "invalid", "{filter}: {reply}");
        socket.close().await;
    }
    house.close().await;
}

async fn scopes_are_a_filter_that_no_wish_can_widen() {
    let house = House::open().await;
    let device = house.device("one").await;
    let key = house.key("events:read devices:read").await;
    let mut socket = key.socket().await;
    socket.subscribe(json!({"types": ["*"]}), "oldest").await;
    device.send(&phone(1), "hidden").await;
    house
        .patch(&device.path(""), json!({"name": "renamed"}))
        .await
        .expect(200);
    loop {
        let entry = socket.event().await;
        assert!(kind(&entry).starts_with("device."), "{entry}");
        if entry["type"] == "device.updated" {
            break;
        }
    }
    socket.close().await;
    house.close().await;
}

async fn without_events_read_one_may_ask_but_not_listen() {
    let house = House::open().await;
    let device = house.device("one").await;
    let key = house.key("messages:write").await;
    let mut socket = key.socket().await;
    let reply = socket
        .ask(json!({"op": "subscribe", "filter": {}, "after": "now"}))
        .await;
    assert_eq!(reply["error"]["code"], "scope_missing", "{reply}");
    let params =
        json!({"device": device.id, "to": phone(1), "content": {"type": "text", "text": "hola"}});
    let reply = socket.request("send_message", params, None).await;
    assert_eq!(reply["ok"]["status"], "queued", "{reply}");
    socket.close().await;
    house.close().await;
}

async fn no_subscription_means_commands_only() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.anonymous().socket().await;
    let ready = socket.auth(house.secret(), json!({})).await;
    assert_eq!(ready["op"], "ready", "{ready}");
    device.send(&phone(1), "not heard").await;
    // The reply stands behind whatever would have been pushed before it.
    socket
        .send(&json!({"op": "request", "id": 99, "method": "list_devices", "params": {}}))
        .await;
    loop {
        let frame = socket.frame().await;
        assert_ne!(frame["op"], "event", "{frame}");
        if frame["id"] == 99 {
            break;
        }
    }
    socket.close().await;
    house.close().await;
}

async fn a_neighbour_hears_nothing() {
    let house = House::open().await;
    let neighbour = house.tenant().await;
    let (device, theirs) = (house.device("one").await, neighbour.device("theirs").await);
    let mut socket = neighbour.socket().await;
    socket.subscribe(json!({}), "oldest").await;
    for index in 0..20 {
        device.send(&phone(index), "canary").await;
    }
    let last = theirs.send(&phone(1), "own").await;
    loop {
        let entry = socket.event().await;
        assert_eq!(entry["tenant"], neighbour.tenant_id());
        if entry["data"]["id"] == last["id"] {
            break;
        }
    }
    socket.close().await;
    house.close().await;
}

async fn lost_continuity_is_a_reset_and_the_socket_goes_live() {
    let house = House::open().await;
    let device = house.device("one").await;
    let (epoch, seq) = cursor_place(&house.head().await);
    for (future, reason) in [
        (format!("{epoch}-{}", seq + 1_000_000), "diverged"),
        (format!("{}-{seq}", epoch + 5), "epoch"),
    ] {
        let mut socket = house.socket().await;
        socket
            .send(&json!({"op": "subscribe", "id": 1, "filter": {}, "after": future}))
            .await;
        let reset = socket.until_op("reset").await;
        assert!(
            [reason, "epoch", "diverged"].contains(&reset["reason"].as_str().unwrap()),
            "{reset}"
        );
        assert!(reset["oldest"].is_string() && reset["head"].is_string());
        let sent = device.send(&phone(1), "live").await;
        assert_eq!(
            socket.until_event("message.created").await["data"]["id"],
            sent["id"]
        );
        socket.close().await;
    }
    house.close().await;
}

async fn a_malformed_cursor_is_answered_and_closes_with_4300() {
    let house = House::open().await;
    for cursor in ["x", "1", "1-x", "", "-"] {
        let mut socket = house.socket().await;
        let reply = socket
            .ask(json!({"op": "subscribe", "filter": {}, "after": cursor}))
            .await;
        assert_eq!(
            reply["error"]["code"], "invalid_cursor",
            "{cursor}: {reply}"
        );
        assert_eq!(socket.until_close().await, 4300, "{cursor}");
    }
    house.close().await;
}

async fn a_time_is_a_place_to_begin() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    let mut socket = house.socket().await;
    socket
        .subscribe(
            json!({"types": ["message.created"]}),
            "2000-01-01T00:00:00.000Z",
        )
        .await;
    assert_eq!(socket.event().await["data"]["id"], sent["id"]);
    socket.close().await;
    house.close().await;
}

async fn a_hundred_listeners_hear_the_same() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut sockets = Vec::new();
    for _ in 0..100 {
        let mut socket = house.socket().await;
        socket
            .subscribe(json!({"types": ["message.created"]}), "now")
            .await;
        sockets.push(socket);
    }
    let mut ids = Vec::new();
    for index in 0..20 {
        ids.push(device.send(&phone(index % 4), "hola").await["id"].clone());
    }
    for mut socket in sockets {
        for id in &ids {
            assert_eq!(socket.event().await["data"]["id"], *id);
        }
        socket.close().await;
    }
    house.close().await;
}

/// Whether an entry passes a filter.
type Fits<'a> = &'a dyn Fn(&Value) -> bool;

fn kind(entry: &Value) -> &str {
    entry["type"].as_str().unwrap()
}

pub(crate) const CASES: &[Case] = cases![
    a_replay_is_whole_and_goes_over_into_live,
    position_comes_after_an_empty_replay_too,
    a_filtered_replay_is_counted_and_its_place_is_told,
    filters_say_what_is_heard_and_what_not,
    a_filter_is_changed_in_place,
    a_filter_beyond_its_bounds_or_of_unknown_members_is_refused,
    scopes_are_a_filter_that_no_wish_can_widen,
    without_events_read_one_may_ask_but_not_listen,
    no_subscription_means_commands_only,
    a_neighbour_hears_nothing,
    lost_continuity_is_a_reset_and_the_socket_goes_live,
    a_malformed_cursor_is_answered_and_closes_with_4300,
    a_time_is_a_place_to_begin,
    a_hundred_listeners_hear_the_same,
];
