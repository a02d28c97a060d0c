//! Resuming: whatever cuts a connection, a client that keeps its cursor loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

use crate::house::{
    Case, Client, Device, Dice, Heard, House, cases, cursor_of, phone, read_log, seed, text, until,
};

const RESUMES: usize = 200;
/// After these many resumes the gateway is stopped and started.
const RESTARTS: [usize; 3] = [50, 100, 150];
/// Entries that may wait unread before the senders hold.
const AHEAD_MAX: usize = 1_500;

/// What senders and reader know of each other.
#[derive(Debug, Default)]
struct Pace {
    /// Messages that were accepted.
    sent: AtomicUsize,
    /// Different `message.created` entries that were read.
    read: AtomicUsize,
    is_over: AtomicBool,
}

async fn two_hundred_cuts_lose_nothing_and_keep_the_order() {
    let mut house = House::open().await;
    let device = house.device("one").await;
    let mut dice = Dice::new(seed("two_hundred_cuts_lose_nothing_and_keep_the_order"));
    let pace = Arc::new(Pace::default());
    let mut senders = JoinSet::new();
    for sender in 0..3 {
        senders.spawn(keep_sending(device.clone(), sender, Arc::clone(&pace)));
    }
    let mut reader = Reader::new(house.client(), &pace);
    for resume in 0..RESUMES {
        if RESTARTS.contains(&resume) {
            house.restart().await;
        }
        reader.resume(&mut dice).await;
    }
    pace.is_over.store(true, Ordering::Relaxed);
    senders.join_all().await;
    until("all is delivered", async || {
        all_delivered(&house, &device).await
    })
    .await;
    let log = read_log(&house, "oldest").await;
    reader.read_to(&log.last().unwrap()["seq"]).await;
    assert_eq!(reader.entries.len(), log.len(), "entries");
    for (heard, entry) in reader.entries.iter().zip(&log) {
        assert_eq!(heard, entry, "in order, none missing");
    }
    let created = log
        .iter()
        .filter(|it| it["type"] == "message.created")
        .count();
    assert!(
        created >= pace.sent.load(Ordering::Relaxed),
        "what was accepted is there"
    );
    house.close().await;
}

/// A client that keeps its cursor, and nothing else, over its connections.
struct Reader {
    client: Client,
    pace: Arc<Pace>,
    cursor: String,
    seen: BTreeSet<String>,
    entries: Vec<Value>,
}

impl Reader {
    fn new(client: &Client, pace: &Arc<Pace>) -> Self {
        Self {
            client: client.clone(),
            pace: Arc::clone(pace),
            cursor: "oldest".into(),
            seen: BTreeSet::new(),
            entries: Vec::new(),
        }
    }

    /// Connects, reads a random number of entries, and dies without a word.
    async fn resume(&mut self, dice: &mut Dice) {
        let mut socket = self.client.socket().await;
        socket.subscribe(json!({}), &self.cursor.clone()).await;
        let (wanted, mut read) = (dice.below(120), 0);
        while read < wanted {
            let Heard::Frame(frame) = socket.heard().await else {
                break;
            };
            read += usize::from(frame["op"] == "event");
            self.take(&frame);
        }
        socket.cut();
    }

    async fn read_to(&mut self, seq: &Value) {
        let mut socket = self.client.socket().await;
        socket.subscribe(json!({}), &self.cursor.clone()).await;
        while self.entries.last().is_none_or(|it| it["seq"] != *seq) {
            let frame = socket.frame().await;
            self.take(&frame);
        }
        socket.close().await;
    }

    fn take(&mut self, frame: &Value) {
        assert_ne!(frame["op"], "reset", "a hole: {frame}");
        if frame["op"] == "position" {
            self.cursor = frame["cursor"].as_str().unwrap().into();
        }
        if frame["op"] == "event" {
            let entry = &frame["event"];
            self.cursor = cursor_of(entry);
            if self.seen.insert(entry["id"].as_str().unwrap().into()) {
                let is_message = entry["type"] == "message.created";
                self.pace
                    .read
                    .fetch_add(usize::from(is_message), Ordering::Relaxed);
                self.entries.push(entry.clone());
            }
        }
    }
}

/// Sends small batches, each under its key until it is answered, never too far ahead of the reader.
async fn keep_sending(device: Device, sender: usize, pace: Arc<Pace>) {
    let path = device.path("/messages/batch");
    for round in 0.. {
        while pace.sent.load(Ordering::Relaxed) > pace.read.load(Ordering::Relaxed) + AHEAD_MAX / 3
        {
            if pace.is_over.load(Ordering::Relaxed) {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
        if pace.is_over.load(Ordering::Relaxed) {
            return;
        }
        let item = |index: usize| json!({"to": phone(index % 5), "content": text(&format!("{sender}-{round}-{index}"))});
        let body = json!({"messages": (0..20).map(item).collect::<Vec<_>>()});
        let key = format!("s{sender}-{round}");
        loop {
            let answer = device
                .client
                .call("POST", &path)
                .once(&key)
                .json(&body)
                .attempt()
                .await;
            match answer {
                Ok(answer) if answer.status == 202 => break,
                Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
                Err(_) => {}
            }
            sleep(Duration::from_millis(20)).await;
        }
        pace.sent.fetch_add(20, Ordering::Relaxed);
    }
}

async fn all_delivered(client: &Client, device: &Device) -> bool {
    let waiting = client
        .get(&device.path("/messages?status=queued&limit=1"))
        .await
        .expect(200);
    let sent = client
        .get(&device.path("/messages?status=sent&limit=1"))
        .await
        .expect(200);
    waiting["items"] == json!([]) && sent["items"] == json!([])
}

async fn a_lost_place_is_told_before_any_position() {
    let house = House::open().await;
    let device = house.device("one").await;
    device.send(&phone(1), "hola").await;
    let mut socket = house.socket().await;
    let subscribe = json!({"op": "subscribe", "id": 1, "filter": {}, "after": "999999-1"});
    socket.send(&json!([subscribe, {"op": "heartbeat"}])).await;
    let mut ops = Vec::new();
    while ops.last().is_none_or(|it| it != "position") {
        ops.push(socket.frame().await["op"].as_str().unwrap().to_owned());
    }
    ops.retain(|it| it != "heartbeat_ack");
    assert_eq!(ops, ["ready", "reset", "position"]);
    socket.close().await;
    house.close().await;
}

pub(crate) const CASES: &[Case] = cases![
    two_hundred_cuts_lose_nothing_and_keep_the_order.threaded(),
    a_lost_place_is_told_before_any_position,
];
