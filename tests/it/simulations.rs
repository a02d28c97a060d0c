//! `…/simulations`: playing the network, for devices with the simulator.

use serde_json::{Value, json};

use crate::house::{Case, DISK_FULL, House, Sse, cases, person, phone, read_log, text, walk};

async fn an_inbound_message_takes_the_normal_path() {
    let house = House::open().await;
    let device = house.device("one").await;
    let played = device.hears(&phone(1), "hola").await;
    assert!(
        played["id"].as_str().unwrap().starts_with("sim_"),
        "{played}"
    );
    let entry = house
        .until_entry("oldest", "message.received", |it| it["device"] == device.id)
        .await;
    let message = &entry["data"];
    assert_eq!(message["direction"], "in");
    assert_eq!(message["from"], person(1));
    assert_eq!(message["chat"], person(1));
    assert_eq!(message["content"]["text"], "hola");
    assert_eq!(
        device.message(message["id"].as_str().unwrap()).await["content"],
        message["content"]
    );
    house.close().await;
}

async fn a_count_plays_that_many() {
    let house = House::open().await;
    let device = house.device("one").await;
    let wish = json!({"from": phone(1), "content": text("again"), "count": 250});
    device.post("/simulations/messages", wish).await.expect(202);
    crate::house::until("all are there", async || {
        device.history(&person(1)).await.len() == 250
    })
    .await;
    let log = read_log(&house, "oldest").await;
    assert_eq!(
        log.iter()
            .filter(|it| it["type"] == "message.received")
            .count(),
        250
    );
    for wrong in [0, 1_001] {
        let wish = json!({"from": phone(1), "content": text("x"), "count": wrong});
        assert_eq!(
            device.post("/simulations/messages", wish).await.pointers(),
            ["/count"]
        );
    }
    house.close().await;
}

async fn what_comes_while_the_device_is_away_is_kept_for_it() {
    let house = House::open().await;
    let (ana, ben) = (house.device("ana").await, house.device("ben").await);
    ben.post("/disconnect", json!({})).await.expect(200);
    ben.until_state("disconnected").await;
    let sent = ana.send(&ben.jid, "from a device").await;
    ben.hears(&phone(1), "from a phone").await;
    ana.until_status(sent["id"].as_str().unwrap(), "sent").await;
    assert!(walk(&house, &ben.path("/messages")).await.is_empty());
    ben.post("/connect", json!({})).await.success();
    crate::house::until("both have come", async || {
        walk(&house, &ben.path("/messages")).await.len() == 2
    })
    .await;
    ana.until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house.close().await;
}

async fn receipts_come_when_they_are_played() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let sent = device.send(&phone(1), "hola").await;
    let id = sent["id"].as_str().unwrap();
    device.until_status(id, "sent").await;
    for status in ["delivered", "read"] {
        let wish = json!({"message": id, "status": status});
        device.post("/simulations/receipts", wish).await.expect(202);
        device.until_status(id, status).await;
    }
    // An earlier receipt after a later one changes nothing; a marker behind it shows that it was seen.
    let head = house.head().await;
    device
        .post(
            "/simulations/receipts",
            json!({"message": id, "status": "delivered"}),
        )
        .await
        .success();
    device.hears(&phone(2), "marker").await;
    house.until_entry(&head, "message.received", |_| true).await;
    let later = read_log(&house, &head).await;
    assert!(
        later.iter().all(|it| it["type"] != "message.status"),
        "{later:?}"
    );
    assert_eq!(device.message(id).await["status"], "read");
    house.close().await;
}

async fn a_later_receipt_implies_the_earlier_ones() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let sent = device.send(&phone(1), "hola").await;
    let id = sent["id"].as_str().unwrap();
    device.until_status(id, "sent").await;
    device
        .post(
            "/simulations/receipts",
            json!({"message": id, "status": "read"}),
        )
        .await
        .expect(202);
    device.until_status(id, "read").await;
    assert!(device.message(id).await["delivered_at"].is_string());
    house.close().await;
}

async fn a_receipt_names_a_message_and_a_status() {
    let house = House::open().await;
    let device = house.device("one").await;
    let sent = device.send(&phone(1), "hola").await;
    let absent = json!({"message": "msg_00000000000000000000000000", "status": "read"});
    assert_eq!(
        device
            .post("/simulations/receipts", absent)
            .await
            .pointers(),
        ["/message"]
    );
    let wrong = json!({"message": sent["id"], "status": "burnt"});
    assert_eq!(
        device.post("/simulations/receipts", wrong).await.pointers(),
        ["/status"]
    );
    house.close().await;
}

async fn a_phone_behaves_as_told_also_after_a_restart() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves(
            &phone(1),
            json!({"auto_receipts": {"deliver_ms": 1, "read_ms": 1}}),
        )
        .await;
    device
        .phone_behaves(&phone(2), json!({"exists": false}))
        .await;
    for _ in 0..2 {
        let (read, failed) = (
            device.send(&phone(1), "a").await,
            device.send(&phone(2), "b").await,
        );
        device
            .until_status(read["id"].as_str().unwrap(), "read")
            .await;
        device
            .until_status(failed["id"].as_str().unwrap(), "failed")
            .await;
        house.restart().await;
        device.until_state("connected").await;
    }
    house.close().await;
}

async fn a_lever_on_a_full_disk_says_so() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    house.restart_with(DISK_FULL).await;
    let path = format!("/simulations/phones/{}", phone(1));
    let set = device.put(&path, json!({"online": false})).await;
    set.problem(507, "storage_full");
    house.restart().await;
    device.until_state("connected").await;
    let sent = device.send(&phone(1), "it is online as before").await;
    let id = sent["id"].as_str().unwrap();
    device.until_status(id, "delivered").await;
    house.close().await;
}

async fn the_star_sets_the_default_of_all_phones() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves(
            "*",
            json!({"auto_receipts": {"deliver_ms": 1, "read_ms": 1}}),
        )
        .await;
    for index in 0..5 {
        let sent = device.send(&phone(index), "hola").await;
        device
            .until_status(sent["id"].as_str().unwrap(), "read")
            .await;
    }
    let wrong = device
        .put("/simulations/phones/*", json!({"mood": "good"}))
        .await;
    assert_eq!(wrong.pointers(), ["/mood"]);
    house.close().await;
}

async fn a_dropped_connection_comes_back_by_itself() {
    let house = House::open().await;
    let device = house.device("one").await;
    let head = house.head().await;
    device
        .post("/simulations/connection", json!({"event": "drop"}))
        .await
        .expect(202);
    let fits = |state: &'static str| move |it: &Value| it["data"]["state"] == state;
    let gone = house
        .until_entry(&head, "device.state", fits("disconnected"))
        .await;
    assert!(gone["data"]["reason"].is_string());
    house
        .until_entry(
            &crate::house::cursor_of(&gone),
            "device.state",
            fits("connected"),
        )
        .await;
    let sent = device.send(&phone(1), "hola").await;
    device
        .until_status(sent["id"].as_str().unwrap(), "delivered")
        .await;
    house.close().await;
}

async fn a_ban_fails_the_device_and_says_why() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .post("/simulations/connection", json!({"event": "ban"}))
        .await
        .expect(202);
    device.until_state("failed").await;
    let session = device.get("/session").await.expect(200);
    assert!(session["reason"].is_string(), "{session}");
    let queued = device.send(&phone(1), "waits").await;
    assert_eq!(
        device.message(queued["id"].as_str().unwrap()).await["status"],
        "queued"
    );
    house.close().await;
}

async fn a_logout_from_the_phone_unlinks() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .post("/simulations/connection", json!({"event": "logout"}))
        .await
        .expect(202);
    device.until_state("logged_out").await;
    house.close().await;
}

async fn a_restriction_shows_as_health() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .post("/simulations/connection", json!({"event": "restrict"}))
        .await
        .expect(202);
    crate::house::until("the health is restricted", async || {
        device.get("").await.expect(200)["health"]["state"] == "restricted"
    })
    .await;
    assert_eq!(device.state().await, "connected");
    let wrong = device
        .post("/simulations/connection", json!({"event": "explode"}))
        .await;
    assert_eq!(wrong.pointers(), ["/event"]);
    house.close().await;
}

async fn typing_of_a_phone_is_ephemeral() {
    let house = House::open().await;
    let device = house.device("one").await;
    let mut socket = house.socket().await;
    socket
        .subscribe(json!({"types": ["chat.presence", "presence.*"]}), "now")
        .await;
    let mut stream =
        Sse::open(house.call("GET", "/v1/events/stream?after=now&types=message.*")).await;
    let wish = json!({"from": phone(1), "presence": "composing", "chat": phone(1)});
    device.post("/simulations/presence", wish).await.expect(202);
    let typing = socket.until_op("ephemeral").await;
    assert_eq!(typing["type"], "chat.presence");
    assert_eq!(
        (&typing["device"], &typing["chat"]),
        (&json!(device.id), &json!(person(1)))
    );
    device.send(&phone(1), "marker").await;
    assert_eq!(stream.entry().await.data["type"], "message.created");
    let log = read_log(&house, "oldest").await;
    assert!(
        log.iter()
            .all(|it| !it["type"].as_str().unwrap().contains("presence"))
    );
    drop(stream);
    socket.close().await;
    house.close().await;
}

async fn a_simulation_breaks_no_rule_unnoticed() {
    let house = House::open().await;
    let device = house.device("one").await;
    for (body, pointer) in [
        (json!({"content": text("x")}), "/from"),
        (json!({"from": "x", "content": text("x")}), "/from"),
        (
            json!({"from": phone(1), "content": {"type": "text"}}),
            "/content/text",
        ),
        (
            json!({"from": phone(1), "content": text("x"), "loud": true}),
            "/loud",
        ),
    ] {
        let pointers = device
            .post("/simulations/messages", body.clone())
            .await
            .pointers();
        assert!(
            pointers.iter().any(|it| it == pointer),
            "{body}: {pointers:?}"
        );
    }
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    an_inbound_message_takes_the_normal_path,
    a_count_plays_that_many,
    what_comes_while_the_device_is_away_is_kept_for_it,
    receipts_come_when_they_are_played,
    a_later_receipt_implies_the_earlier_ones,
    a_receipt_names_a_message_and_a_status,
    a_phone_behaves_as_told_also_after_a_restart,
    a_lever_on_a_full_disk_says_so.embedded(),
    the_star_sets_the_default_of_all_phones,
    a_dropped_connection_comes_back_by_itself,
    a_ban_fails_the_device_and_says_why,
    a_logout_from_the_phone_unlinks,
    a_restriction_shows_as_health,
    typing_of_a_phone_is_ephemeral,
    a_simulation_breaks_no_rule_unnoticed,
];
