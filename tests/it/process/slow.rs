//! Readers that never read: what they cost the process, and what they cost the others.

use serde_json::json;
use tempfile::tempdir;
use tokio::time::{Duration, Instant};

use super::binary::Binary;
use super::measures::measured;
use crate::house::{Case, Client, Device, Socket, Store, cases, phone, say, text, until};

const STALLED: usize = 64;
/// What one stalled reader may cost.
const READER_MAX: usize = 3 * 1_024 * 1_024 / 2;
/// Those who ask and never read: a page is read for each of them.
const ASKING: usize = 20;
/// How often who reads lets itself be heard.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// What two runs of the same work may differ by themselves, where few readers share it.
const NOISE: usize = 12 * 1_024 * 1_024;

async fn a_reader_that_never_reads_costs_little_and_only_itself() {
    let (without, alone) = growth(0).await;
    let (with, beside) = growth(STALLED).await;
    say(&format!(
        "memory grew by {without} without and {with} bytes with {STALLED} stalled readers; a quick one took {:.2} times as long",
        beside.as_secs_f64() / alone.as_secs_f64()
    ));
    let bound = STALLED * READER_MAX;
    assert!(with <= without + bound, "{with} > {without} + {bound}");
}

/// More of them than any reader may hold back.
fn messages() -> usize {
    match Store::current() {
        Store::Embedded => 20_000,
        // That is slow where many share two processors, and the readers are the same.
        Store::Cql => 5_000,
    }
}

/// By how much the process grew while some readers stood still, and how long a quick one took for all that came.
async fn growth(stalled: usize) -> (usize, Duration) {
    let folder = tempdir().unwrap();
    let mut gateway = Binary::serve(&folder.path().join("data")).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    device
        .phone_behaves("*", json!({"auto_receipts": null}))
        .await;
    let mut sockets = Vec::new();
    for _ in 0..stalled {
        sockets.push(listener(&client, 4_096).await);
    }
    // Both runs warm up with the same work, so that the store's own buffers are in the first figure.
    let mut quick = listener(&client, 1 << 20).await;
    flood(&device, &mut quick, messages() / 10).await;
    let (before, begun) = (gateway.memory(), Instant::now());
    flood(&device, &mut quick, messages()).await;
    let (after, took) = (gateway.memory(), begun.elapsed());
    quick.close().await;
    sockets.into_iter().for_each(Socket::cut);
    gateway.kill().await;
    (after.saturating_sub(before), took)
}

async fn listener(client: &Client, receive_buffer: u32) -> Socket {
    let mut socket = client
        .handshake()
        .receive_buffer(receive_buffer)
        .welcome()
        .await;
    socket
        .subscribe(json!({"types": ["message.created"]}), "now")
        .await;
    socket
}

/// Sends messages of about 1 KiB while a quick reader takes them all.
async fn flood(device: &Device, quick: &mut Socket, messages: usize) {
    let sending = async {
        let words = "x".repeat(900);
        for batch in 0..messages / 500 {
            let item = |index: usize| json!({"to": phone(index % 8), "content": text(&format!("{batch}-{index} {words}"))});
            let body = json!({"messages": (0..500).map(item).collect::<Vec<_>>()});
            device.takes("/messages/batch", body).await;
        }
    };
    let reading = async {
        let mut beaten = Instant::now();
        for _ in 0..messages {
            // On a slow store this takes longer than a client may be silent.
            if HEARTBEAT < beaten.elapsed() {
                quick.send(&json!({"op": "heartbeat"})).await;
                beaten = Instant::now();
            }
            quick.event().await;
        }
    };
    tokio::join!(sending, reading);
}

/// Requests that a client has under way at most.
const ASKED: usize = 64;

async fn who_asks_much_and_never_reads_costs_little() {
    let folder = tempdir().unwrap();
    let mut gateway = Binary::serve(&folder.path().join("data")).await;
    let client = gateway.tenant().await;
    let device = client.device("one").await;
    let words = "x".repeat(9_000);
    let item = |index: usize| json!({"to": phone(index % 8), "content": text(&words)});
    let body = json!({"messages": (0..100).map(item).collect::<Vec<_>>()});
    device.takes("/messages/batch", body).await;
    let ask = |id: usize| {
        let params = json!({"device": device.id, "limit": 100});
        json!({"op": "request", "id": id, "method": "list_messages", "params": params})
    };
    let mut quick = client.socket().await;
    let mut read = async || {
        for id in 0..ASKED {
            quick.send(&ask(id)).await;
            let reply = quick.until_op("reply").await;
            assert_eq!(reply["ok"]["items"].as_array().map(Vec::len), Some(100));
        }
    };
    read().await;
    let before = gateway.memory();
    let mut stalled = Vec::new();
    for _ in 0..ASKING {
        let mut socket = client.handshake().receive_buffer(4_096).welcome().await;
        socket.send(&(0..ASKED).map(ask).collect()).await;
        stalled.push(socket);
    }
    let asked = "buho_ws_requests_total{method=\"list_messages\"}";
    let all = f64::from(u32::try_from((ASKING + 1) * ASKED).unwrap());
    until("everything was asked", async || {
        all <= measured(&client, asked).await
    })
    .await;
    // Whatever is read for those who stand still is read before this; what it took for a moment is given back when the
    // allocator has more to do.
    let bound = ASKING * READER_MAX + NOISE;
    until("no more memory is taken than may be kept", async || {
        read().await;
        let after = gateway.memory();
        say(&format!("memory grew from {before} to {after} bytes"));
        after <= before + bound
    })
    .await;
    stalled.into_iter().for_each(Socket::cut);
    quick.close().await;
    gateway.kill().await;
}

pub(crate) const CASES: &[Case] = cases![
    a_reader_that_never_reads_costs_little_and_only_itself.threaded(),
    who_asks_much_and_never_reads_costs_little.threaded(),
];
