//! The log over HTTP: long poll, one entry, named consumers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::house::{
    Case, Device, House, cases, cursor_of, cursor_place, person, phone, read_log, until,
};

async fn the_log_has_no_holes_and_every_entry_its_form() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    let log = read_log(&house, "oldest").await;
    for (index, entry) in log.iter().enumerate() {
        assert_eq!(entry["seq"], index + 1);
        assert_eq!(entry["epoch"], log[0]["epoch"]);
        assert_eq!(entry["tenant"], house.tenant_id());
        assert!(entry["id"].as_str().unwrap().starts_with("evt_"));
        assert!(
            entry["type"].is_string() && entry["time"].is_string() && entry["data"].is_object()
        );
    }
    let ids: Vec<_> = log.iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted());
    let created = log
        .iter()
        .find(|it| it["type"] == "message.created")
        .unwrap();
    assert_eq!(
        (&created["device"], &created["chat"]),
        (&json!(device.id), &json!(person(1)))
    );
    house.close().await;
}

async fn one_entry_is_read_by_its_id() {
    let house = House::open().await;
    house.device("one").await;
    for entry in read_log(&house, "oldest").await {
        let id = entry["id"].as_str().unwrap();
        assert_eq!(
            house.get(&format!("/v1/events/{id}")).await.expect(200),
            entry
        );
    }
    house
        .get("/v1/events/evt_00000000000000000000000000")
        .await
        .problem(404, "not_found");
    house.close().await;
}

async fn a_poll_goes_on_from_its_cursor() {
    let house = House::open().await;
    let device = house.device("one").await;
    for index in 0..10 {
        device.send(&phone(index), "hola").await;
    }
    let log = read_log(&house, "oldest").await;
    let mut seen = Vec::new();
    let mut after = "oldest".to_owned();
    while seen.len() < log.len() {
        let page = house
            .get(&format!("/v1/events?after={after}&limit=3"))
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(!items.is_empty() && items.len() <= 3);
        assert_eq!(page["next_cursor"], cursor_of(items.last().unwrap()));
        seen.extend(items.iter().cloned());
        after = page["next_cursor"].as_str().unwrap().into();
    }
    assert_eq!(seen[..log.len()], log[..]);
    house.close().await;
}

async fn the_cursor_moves_over_filtered_entries() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let page = house
        .get("/v1/events?after=oldest&types=label.*")
        .await
        .expect(200);
    assert_eq!(page["items"], json!([]));
    let (_, place) = cursor_place(page["next_cursor"].as_str().unwrap());
    let (_, head) = cursor_place(page["head"].as_str().unwrap());
    assert!(place > 0 && place <= head);
    assert!(page["oldest"].is_string());
    house.close().await;
}

async fn filters_take_globs_commas_and_repeats() {
    let house = House::open().await;
    let (one, two) = (house.device("one").await, house.device("two").await);
    one.send(&phone(1), "a").await;
    two.send(&phone(2), "b").await;
    for (query, fits) in [
        (
            "types=device.*".to_owned(),
            only(|it| it["type"].as_str().unwrap().starts_with("device.")),
        ),
        (
            "types=*.created".into(),
            only(|it| it["type"].as_str().unwrap().ends_with(".created")),
        ),
        (
            "types=message.created,device.qr".into(),
            only(|it| ["message.created", "device.qr"].contains(&kind(it))),
        ),
        (
            "types=message.created&types=device.qr".into(),
            only(|it| ["message.created", "device.qr"].contains(&kind(it))),
        ),
        (format!("devices={}", one.id), only_device(&one)),
        (
            format!("chats={}", person(2)),
            only(|it| it["chat"] == person(2)),
        ),
    ] {
        let path = format!("/v1/events?after=oldest&limit=1000&{query}");
        let items = house.get(&path).await.expect(200)["items"]
            .as_array()
            .unwrap()
            .clone();
        assert!(
            !items.is_empty() && items.iter().all(&fits),
            "{query}: {items:?}"
        );
    }
    let both = format!(
        "/v1/events?after=oldest&devices={},{}&types=message.created",
        one.id, two.id
    );
    assert_eq!(
        house.get(&both).await.expect(200)["items"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    house.close().await;
}

async fn what_is_out_of_bounds_is_refused() {
    let house = House::open().await;
    for (query, pointer) in [
        ("limit=0", "?limit"),
        ("limit=1001", "?limit"),
        ("wait_seconds=31", "?wait_seconds"),
        ("wait_seconds=-1", "?wait_seconds"),
        ("kinds=x", "?kinds"),
        ("devices=nonsense", "?devices"),
    ] {
        assert_eq!(
            house.get(&format!("/v1/events?{query}")).await.pointers(),
            [pointer],
            "{query}"
        );
    }
    for cursor in [
        "x",
        "1",
        "-1",
        "1-",
        "1-x",
        "%201-1",
        "1-1-1",
        "99999999999999999999-1",
    ] {
        house
            .get(&format!("/v1/events?after={cursor}"))
            .await
            .problem(422, "invalid_cursor");
    }
    house.close().await;
}

async fn now_is_the_default_and_a_time_is_taken_too() {
    let house = House::open().await;
    let device = house.device("one").await;
    for path in ["/v1/events", "/v1/events?after=now"] {
        let page = house.get(path).await.expect(200);
        assert_eq!(page["items"], json!([]));
        assert_eq!(page["next_cursor"], page["head"]);
    }
    device.send(&phone(1), "hola").await;
    let log = read_log(&house, "oldest").await;
    let from = log[log.len() / 2]["time"].as_str().unwrap();
    let page = house
        .get(&format!("/v1/events?after={from}&limit=1000"))
        .await
        .expect(200);
    let items = page["items"].as_array().unwrap();
    assert!(
        items.iter().all(|it| it["time"].as_str().unwrap() >= from),
        "{page}"
    );
    assert!(
        items
            .iter()
            .any(|it| it["seq"] == log.last().unwrap()["seq"])
    );
    let all = house
        .get("/v1/events?after=2000-01-01T00:00:00.000Z&limit=1000")
        .await
        .expect(200);
    assert_eq!(all["items"][0]["seq"], 1);
    house.close().await;
}

async fn a_waiting_poll_is_answered_by_the_next_entry() {
    let house = House::open().await;
    let device = house.device("one").await;
    let head = house.head().await;
    let mut polls = JoinSet::new();
    for _ in 0..3 {
        let (client, path) = (
            house.client().clone(),
            format!("/v1/events?after={head}&wait_seconds=30&types=message.created"),
        );
        polls.spawn(async move { client.get(&path).await.expect(200) });
    }
    let sent = device.send(&phone(1), "wake up").await;
    for page in polls.join_all().await {
        assert_eq!(page["items"][0]["data"]["id"], sent["id"], "{page}");
    }
    house.close().await;
}

async fn a_poll_without_news_ends_empty() {
    let house = House::open().await;
    house.device("one").await;
    let head = house.head().await;
    let page = house
        .get(&format!("/v1/events?after={head}&wait_seconds=1"))
        .await
        .expect(200);
    assert_eq!(page["items"], json!([]));
    assert_eq!(page["next_cursor"], head);
    house.close().await;
}

async fn cursors_stay_good_over_a_restart() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "before").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    let before = read_log(&house, "oldest").await;
    let middle = cursor_of(&before[before.len() / 2]);
    house.restart().await;
    let rest = read_log(&house, &middle).await;
    let expected = &before[before.len() / 2 + 1..];
    assert_eq!(rest[..expected.len()], expected[..]);
    assert!(rest.iter().all(|it| it["epoch"] == before[0]["epoch"]));
    house.close().await;
}

async fn a_cursor_from_the_future_is_gone_and_says_where_to_go() {
    let house = House::open().await;
    house.device("one").await;
    let head = house.head().await;
    let (epoch, seq) = cursor_place(&head);
    for future in [
        format!("{epoch}-{}", seq + 1_000_000),
        format!("{}-{seq}", epoch + 5),
    ] {
        let problem = house
            .get(&format!("/v1/events?after={future}"))
            .await
            .problem(410, "cursor_gone");
        assert!(
            ["epoch", "diverged"].contains(&problem["reason"].as_str().unwrap()),
            "{problem}"
        );
        assert!(problem["oldest"].is_string() && problem["head"].is_string());
        read_log(&house, problem["oldest"].as_str().unwrap()).await;
    }
    house.close().await;
}

async fn oldest_is_itself_a_cursor() {
    let house = House::open().await;
    house.device("one").await;
    let page = house
        .get("/v1/events?after=oldest&limit=1000")
        .await
        .expect(200);
    let again = house
        .get(&format!(
            "/v1/events?after={}&limit=1000",
            page["oldest"].as_str().unwrap()
        ))
        .await;
    assert_eq!(again.expect(200)["items"][0], page["items"][0]);
    house.close().await;
}

async fn an_entry_needs_events_read_and_its_family() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let cases = [
        ("events:read messages:read", "message."),
        ("events:read devices:read", "device."),
    ];
    for (scopes, family) in cases {
        let page = house
            .key(scopes)
            .await
            .get("/v1/events?after=oldest&limit=1000")
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        assert!(
            !items.is_empty() && items.iter().all(|it| kind(it).starts_with(family)),
            "{scopes}: {items:?}"
        );
        assert!(page["next_cursor"].is_string());
    }
    let bare = house.key("events:read").await;
    let hidden = bare
        .get("/v1/events?after=oldest&limit=1000")
        .await
        .expect(200);
    assert!(hidden["items"].as_array().unwrap().is_empty(), "{hidden}");
    let created = house
        .until_entry("oldest", "message.created", |_| true)
        .await;
    let path = format!("/v1/events/{}", created["id"].as_str().unwrap());
    bare.get(&path).await.problem(404, "not_found");
    house
        .key("messages:read")
        .await
        .get("/v1/events")
        .await
        .problem(403, "scope_missing");
    house.close().await;
}

async fn a_consumer_is_listed_with_its_place() {
    let house = House::open().await;
    let device = house.device("one").await;
    assert_eq!(
        house.get("/v1/consumers").await.expect(200)["items"],
        json!([])
    );
    let mut socket = house.socket().await;
    let wish = json!({"op": "subscribe", "filter": {}, "after": "oldest", "ack": "client", "consumer": "crm"});
    socket.ask(wish).await;
    device.send(&phone(1), "hola").await;
    let entry = socket.until_event("message.created").await;
    socket
        .send(&json!({"op": "ack", "cursor": cursor_of(&entry)}))
        .await;
    socket.close().await;
    crate::house::until("the place is kept", async || {
        let page = house.get("/v1/consumers").await.expect(200);
        let items = page["items"].as_array().unwrap();
        items.len() == 1
            && items[0]["name"] == "crm"
            && items[0].to_string().contains(&cursor_of(&entry))
    })
    .await;
    assert_eq!(
        house.tenant().await.get("/v1/consumers").await.expect(200)["items"],
        json!([])
    );
    house.close().await;
}

fn kind(entry: &Value) -> &str {
    entry["type"].as_str().unwrap()
}

fn only(fits: impl Fn(&Value) -> bool + 'static) -> Box<dyn Fn(&Value) -> bool> {
    Box::new(fits)
}

fn only_device(device: &Device) -> Box<dyn Fn(&Value) -> bool> {
    let id = device.id.clone();
    Box::new(move |it| it["device"] == id)
}

async fn what_is_older_than_its_retention_is_gone_and_readers_are_told() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let old = house.get("/v1/events?after=oldest").await.expect(200)["oldest"].take();
    let old = old.as_str().unwrap();
    device.send(&phone(1), "early").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    house.restart_with("streams.retention_seconds = 1").await;
    let path = format!("/v1/events?after={old}");
    until("the old events are gone", async || {
        house.get(&path).await.status == 410
    })
    .await;
    let problem = house.get(&path).await.problem(410, "cursor_gone");
    assert_eq!(problem["reason"], "trimmed", "{problem}");
    let late = device.send(&phone(1), "late").await;
    let kept = read_log(&house, problem["oldest"].as_str().unwrap()).await;
    assert!(kept.iter().any(|it| it["data"]["id"] == late["id"]));
    assert!(
        kept.iter()
            .all(|it| it["data"]["content"]["text"] != "early")
    );
    let mut socket = house.socket().await;
    let wish = json!({"op": "subscribe", "id": 1, "filter": {}, "after": old});
    socket.send(&wish).await;
    assert_eq!(socket.until_op("reset").await["reason"], "trimmed");
    socket.close().await;
    let history = device.history(&person(1)).await;
    assert_eq!(history.len(), 2, "messages stay");
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    the_log_has_no_holes_and_every_entry_its_form,
    one_entry_is_read_by_its_id,
    a_poll_goes_on_from_its_cursor,
    the_cursor_moves_over_filtered_entries,
    filters_take_globs_commas_and_repeats,
    what_is_out_of_bounds_is_refused,
    now_is_the_default_and_a_time_is_taken_too,
    a_waiting_poll_is_answered_by_the_next_entry,
    a_poll_without_news_ends_empty,
    cursors_stay_good_over_a_restart,
    a_cursor_from_the_future_is_gone_and_says_where_to_go,
    oldest_is_itself_a_cursor,
    an_entry_needs_events_read_and_its_family,
    a_consumer_is_listed_with_its_place,
    what_is_older_than_its_retention_is_gone_and_readers_are_told,
];
