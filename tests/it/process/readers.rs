//! Readers of every kind, cut off over and over while the gateway is killed: each goes on by its cursor and misses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::tempdir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};

use super::auditor::{Auditor, Sender};
use super::binary::Binary;
use super::kill::until_settled;
use crate::house::{Case, Client, Dice, Heard, Pauses, Sse, cases, cursor_of, read_log, say, seed};

const KILLS: usize = 10;
const RESUMES: usize = 200;
const SENDERS: usize = 4;
/// So often the time until a cut doubles while cuts leave nothing.
const FRUITLESS_MAX: u32 = 6;
/// Without a resume for this long a run has stalled.
const STALL_MAX: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Door {
    Socket,
    Stream,
    Poll,
}

struct Reader {
    door: Door,
    client: Client,
    dice: Dice,
    cursor: String,
    /// Each once, from the first one on.
    entries: Vec<Value>,
    resumes: Arc<AtomicUsize>,
    /// How many it has to have before it may stop.
    goal: watch::Receiver<usize>,
}

impl Reader {
    async fn run(mut self) -> Vec<Value> {
        let (mut fruitless, mut pauses) = (0, Pauses::default());
        while self.entries.len() < *self.goal.borrow() {
            let before = self.entries.len();
            // Longer after one that got nothing: a machine may need more than this to connect.
            let patience = u64::try_from(20 + self.dice.below(200)).unwrap() << fruitless;
            // Dropped in the middle of whatever it does: that is the cut.
            let cut = timeout(Duration::from_millis(patience), self.connection()).await;
            if before < self.entries.len() {
                self.resumes.fetch_add(1, Ordering::Relaxed);
                (fruitless, pauses) = (0, Pauses::default());
            } else if cut.is_err() {
                fruitless = FRUITLESS_MAX.min(fruitless + 1);
            }
            if cut.is_ok() {
                pauses.next().await;
            }
        }
        self.entries
    }

    /// Reads on until the connection ends.
    async fn connection(&mut self) -> Option<()> {
        match self.door {
            Door::Socket => {
                let mut socket = self.client.handshake().attempt().await?;
                let wish = json!({"op": "subscribe", "id": 1, "filter": {}, "after": self.cursor});
                socket.offer(&wish).await.then_some(())?;
                while let Heard::Frame(mut frame) = socket.heard().await {
                    assert_ne!(frame["op"], "reset", "{frame}");
                    if frame["op"] == "event" {
                        self.take(frame["event"].take());
                    }
                }
            }
            Door::Stream => {
                let path = format!("/v1/events/stream?after={}", self.cursor);
                let mut stream = Sse::attempt(self.client.call("GET", &path)).await?;
                while let Some(event) = stream.next().await {
                    assert_ne!(event.name.as_deref(), Some("reset"), "{event:?}");
                    if event.name.is_none() {
                        self.take(event.data);
                    }
                }
            }
            Door::Poll => loop {
                let path = format!("/v1/events?after={}&limit=100&wait_seconds=1", self.cursor);
                let page = self.client.call("GET", &path).attempt().await.ok()?;
                if page.status != 200 {
                    assert_eq!(page.status, 503, "{}", page.text());
                    return None;
                }
                for entry in page.body["items"].as_array().unwrap() {
                    self.take(entry.clone());
                }
            },
        }
        Some(())
    }

    fn take(&mut self, entry: Value) {
        let place = usize::try_from(entry["seq"].as_u64().unwrap()).unwrap();
        if let Some(known) = self.entries.get(place - 1) {
            assert_eq!(known["id"], entry["id"], "another entry in its place");
            return;
        }
        assert_eq!(place, self.entries.len() + 1, "an entry is missed");
        self.cursor = cursor_of(&entry);
        self.entries.push(entry);
    }
}

async fn readers_of_every_kind_miss_nothing_over_kills_and_cuts() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    let mut dice = Dice::new(seed(
        "readers_of_every_kind_miss_nothing_over_kills_and_cuts",
    ));
    let mut gateway = Binary::serve(&data).await;
    let client = gateway.tenant().await;
    let devices = vec![client.device("one").await, client.device("two").await];
    let auditor = Arc::new(Auditor::default());
    let mut senders = JoinSet::new();
    for index in 0..SENDERS {
        let sender = Sender {
            name: format!("s{index}"),
            devices: devices.clone(),
            auditor: Arc::clone(&auditor),
            dice: Dice::new(dice.bits()),
            batch_max: 4,
            bytes_max: 200,
            // All that they send is read three times and more.
            pause: Duration::from_millis(20),
        };
        senders.spawn(sender.run());
    }
    let resumes = Arc::new(AtomicUsize::new(0));
    let (goal, head) = watch::channel(usize::MAX);
    let mut readers = JoinSet::new();
    for door in [Door::Socket, Door::Stream, Door::Poll] {
        let reader = Reader {
            door,
            client: client.clone(),
            dice: Dice::new(dice.bits()),
            cursor: "oldest".to_owned(),
            entries: Vec::new(),
            resumes: Arc::clone(&resumes),
            goal: head.clone(),
        };
        readers.spawn(reader.run());
    }
    for round in 1..=KILLS {
        until_resumed(&resumes, round * RESUMES / KILLS).await;
        gateway.kill().await;
        gateway = Binary::serve(&data).await;
        gateway.lead(&client);
    }
    auditor.end();
    senders.join_all().await;
    until_settled(&client, &devices).await;
    let log = read_log(&client, "oldest").await;
    goal.send_replace(log.len());
    // A reader that missed something has panicked: that fails the test here.
    for entries in readers.join_all().await {
        assert_eq!(entries[..log.len()], log[..], "what a reader has seen");
    }
    say(&format!(
        "{KILLS} kills and {} resumes over {} entries",
        resumes.load(Ordering::Relaxed),
        log.len()
    ));
    assert!(gateway.terminate().await.success());
}

/// Waits for resumes, as long as they keep coming.
async fn until_resumed(resumes: &AtomicUsize, goal: usize) {
    let (mut last, mut since) = (0, Instant::now());
    while last < goal {
        let now = resumes.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < STALL_MAX, "stalled at {last} of {goal}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) const CASES: &[Case] =
    cases![readers_of_every_kind_miss_nothing_over_kills_and_cuts.threaded()];
