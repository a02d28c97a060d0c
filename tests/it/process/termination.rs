//! SIGTERM: a graceful end that loses nothing.

use rustix::process::Signal;
use serde_json::json;
use tempfile::tempdir;
use tokio::task::JoinSet;

use super::binary::Binary;
use crate::house::{Case, Device, RawSocket, Sse, cases, phone, read_log, text, walk};

async fn a_graceful_end_under_load_loses_nothing() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let mut socket = client.socket().await;
    socket.subscribe(json!({}), "now").await;
    let mut stream = Sse::open(client.call("GET", "/v1/events/stream?after=now")).await;
    let head = client.head().await;
    let mut poll = JoinSet::new();
    let (waiting, path) = (
        client.clone(),
        format!("/v1/events?after={head}&types=label.*&wait_seconds=30"),
    );
    poll.spawn(async move { waiting.get(&path).await });
    let mut senders = JoinSet::new();
    for sender in 0..4 {
        senders.spawn(send_until_refused(device.clone(), sender));
    }
    crate::house::until("load is on", async || {
        walk(&client, &device.path("/chats")).await.len() == 4
    })
    .await;
    let (status, code) = tokio::join!(gateway.terminate(), socket.until_close());
    assert!(status.success(), "{status:?}");
    assert_eq!(code, 4001);
    // It has fifteen seconds, and says so where they were not enough.
    let said = gateway.log();
    assert!(!said.contains("the stop took too long"), "{said}");
    while stream.next().await.is_some() {}
    assert!(!stream.is_torn(), "the stream ended within an event");
    let answer = poll.join_next().await.unwrap().unwrap();
    assert_eq!((answer.status, &answer.body["items"]), (200, &json!([])));
    let acknowledged: Vec<String> = senders.join_all().await.concat();
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&client);
    let stored = walk(&client, &device.path("/messages?limit=200")).await;
    for id in &acknowledged {
        assert!(stored.iter().any(|it| it["id"] == *id), "{id} is lost");
    }
    let log = read_log(&client, "oldest").await;
    assert!(
        log.iter()
            .enumerate()
            .all(|(index, it)| it["seq"] == index + 1)
    );
    gateway.kill().await;
}

async fn an_interrupt_is_a_graceful_end_too() {
    let folder = tempdir().unwrap();
    let mut gateway = Binary::serve(&folder.path().join("data")).await;
    gateway.signal(Signal::INT);
    assert!(gateway.ended().await.success());
}

async fn a_second_signal_waits_for_nobody() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    // A peer that never answers a Close keeps a graceful end waiting.
    let mut peer = RawSocket::open(&client).await;
    gateway.signal(Signal::TERM);
    gateway.signal(Signal::TERM);
    gateway.ended().await;
    peer.until_close().await;
    let mut gateway = Binary::serve(&data).await;
    gateway.lead(&client);
    client.get("/v1/me").await.expect(200);
    gateway.kill().await;
}

async fn send_until_refused(device: Device, sender: usize) -> Vec<String> {
    let path = device.path("/messages");
    let mut ids = Vec::new();
    for index in 0.. {
        let body = json!({"to": phone(sender), "content": text(&format!("{sender}-{index}"))});
        let key = format!("{sender}-{index}");
        match device
            .client
            .call("POST", &path)
            .once(&key)
            .json(&body)
            .attempt()
            .await
        {
            Ok(answer) if answer.status == 202 => {
                ids.push(answer.body["id"].as_str().unwrap().to_owned());
            }
            Ok(answer) => {
                answer.problem(503, "unavailable");
                return ids;
            }
            Err(_) => return ids,
        }
    }
    ids
}

pub(crate) const CASES: &[Case] = cases![
    a_graceful_end_under_load_loses_nothing.threaded(),
    an_interrupt_is_a_graceful_end_too,
    a_second_signal_waits_for_nobody,
];
