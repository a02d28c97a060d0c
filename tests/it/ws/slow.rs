//! Slow readers: they cost only themselves, and lose nothing.

use serde_json::{Value, json};
use tokio::time::{Duration, sleep};

use crate::house::{Case, Device, Heard, House, Socket, cases, cursor_of, phone, read_log, text};

const MESSAGES: usize = 10_000;

/// Sends messages of about 1 KiB, in batches.
async fn flood(device: &Device, messages: usize) {
    let words = "x".repeat(900);
    for batch in 0..messages / 500 {
        let item = |index: usize| json!({"to": phone(index % 8), "content": text(&format!("{batch}-{index} {words}"))});
        let body = json!({"messages": (0..500).map(item).collect::<Vec<_>>()});
        device.post("/messages/batch", body).await.expect(202);
    }
}

/// A socket that hears of new messages and whose kernel takes little for it.
async fn small_socket(house: &House) -> Socket {
    let mut socket = house.handshake().receive_buffer(4_096).welcome().await;
    socket
        .subscribe(json!({"types": ["message.created"]}), "now")
        .await;
    socket
}

async fn a_reader_that_fell_behind_is_told_and_fed_from_the_log() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let mut slow = small_socket(&house).await;
    let mut quick = house.socket().await;
    quick
        .subscribe(json!({"types": ["message.created"]}), "now")
        .await;
    let head = house.head().await;
    let listening = async {
        for index in 0..MESSAGES {
            // On a slow store this takes longer than a client may be silent.
            if index % 1_000 == 0 {
                quick.send(&json!({"op": "heartbeat"})).await;
            }
            quick.event().await;
        }
        quick
    };
    let (quick, ()) = tokio::join!(listening, flood(&device, MESSAGES));
    let (heard, modes, end) = read_on(&mut slow, MESSAGES).await;
    let mut heard = heard;
    if let Some(code) = end {
        // It was away for longer than a write may stall, or a client be silent: it resumes from what it has.
        assert!([4003, 4005, 1006].contains(&code), "{code}");
        let after = heard.last().map_or(head.clone(), cursor_of);
        let mut again = house.socket().await;
        again
            .subscribe(json!({"types": ["message.created"]}), &after)
            .await;
        heard.extend(read_on(&mut again, MESSAGES - heard.len()).await.0);
        again.close().await;
    } else {
        assert_eq!(
            modes.first().map(String::as_str),
            Some("on"),
            "it was told of its lag"
        );
        if !modes.iter().any(|it| it == "off") {
            slow.until_frame("the lag's end", |frame| {
                frame["op"] == "lag" && frame["mode"] == "off"
            })
            .await;
        }
    }
    let log = read_log(&house, &head).await;
    let created: Vec<_> = log
        .iter()
        .filter(|it| it["type"] == "message.created")
        .collect();
    assert_eq!(
        heard.iter().collect::<Vec<_>>(),
        created,
        "everything, in order"
    );
    quick.close().await;
    house.close().await;
}

async fn a_write_that_stands_still_ends_the_connection_and_nothing_is_lost() {
    let house = House::open().await;
    let device = house.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let mut stalled = small_socket(&house).await;
    let head = house.head().await;
    flood(&device, MESSAGES).await;
    // The promise is a time: 30 s without progress and 5 s for the peer's goodbye.
    sleep(Duration::from_secs(45)).await;
    let (heard, _, end) = read_on(&mut stalled, MESSAGES).await;
    let code = end.expect("the connection was given up");
    assert!([4005, 1006].contains(&code), "{code}");
    let after = heard.last().map_or(head, cursor_of);
    let mut again = house.socket().await;
    again
        .subscribe(json!({"types": ["message.created"]}), &after)
        .await;
    let (rest, _, _) = read_on(&mut again, MESSAGES - heard.len()).await;
    let mut words: Vec<_> = heard
        .iter()
        .chain(&rest)
        .map(|it| it["data"]["id"].clone())
        .collect();
    words.dedup();
    assert_eq!(words.len(), MESSAGES, "everything once");
    again.close().await;
    house.close().await;
}

/// Entries, lag modes and the close code where one came, until so many entries were read.
async fn read_on(socket: &mut Socket, wanted: usize) -> (Vec<Value>, Vec<String>, Option<u16>) {
    let (mut entries, mut modes) = (Vec::new(), Vec::new());
    while entries.len() < wanted {
        match socket.heard().await {
            Heard::Closed(code) => return (entries, modes, Some(code)),
            Heard::Frame(mut frame) if frame["op"] == "event" => {
                entries.push(frame["event"].take());
            }
            Heard::Frame(frame) if frame["op"] == "lag" => {
                modes.push(frame["mode"].as_str().unwrap().to_owned());
            }
            Heard::Frame(_) => {}
        }
    }
    (entries, modes, None)
}

async fn who_is_too_far_behind_is_sent_away_and_can_resume() {
    // On a slow store the flood takes longer than a client may be silent and a write may stand still.
    let patient = "streams.heartbeat_ms = 600_000\nstreams.write_stall_ms = 600_000\n";
    let house = House::open_with(&format!("{patient}streams.max_lag = 50")).await;
    let device = house.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let head = house.head().await;
    let mut slow = small_socket(&house).await;
    flood(&device, MESSAGES).await;
    let (mut heard, _, end) = read_on(&mut slow, MESSAGES).await;
    assert_eq!(end, Some(4004));
    while heard.len() < MESSAGES {
        let after = heard.last().map_or(head.clone(), cursor_of);
        let mut again = house.socket().await;
        again
            .subscribe(json!({"types": ["message.created"]}), &after)
            .await;
        heard.extend(read_on(&mut again, MESSAGES - heard.len()).await.0);
    }
    let log = read_log(&house, &head).await;
    let created = log.iter().filter(|it| it["type"] == "message.created");
    assert!(heard.iter().eq(created), "everything, in order");
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_reader_that_fell_behind_is_told_and_fed_from_the_log.threaded(),
    a_write_that_stands_still_ends_the_connection_and_nothing_is_lost.threaded(),
    who_is_too_far_behind_is_sent_away_and_can_resume.threaded(),
];
