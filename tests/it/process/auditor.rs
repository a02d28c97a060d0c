//! The auditor keeps what was sent and what was acknowledged, and afterwards reads everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::house::{
    Answer, Client, Device, Dice, Pauses, cursor_of, ladder, phone, read_log, text, walk,
};

/// Without any progress for this long a run has stalled.
const STALL_MAX: Duration = Duration::from_secs(60);

/// What the gateway promised for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Acknowledged {
    id: String,
    chat: String,
    cursor: String,
}

/// The books of one run.
#[derive(Debug, Default)]
pub(crate) struct Auditor {
    sent: Mutex<BTreeSet<String>>,
    acknowledged: Mutex<BTreeMap<String, Acknowledged>>,
    count: AtomicUsize,
    refused: AtomicUsize,
    full: AtomicUsize,
    unknown: AtomicUsize,
    /// Keys of calls that were told that nothing was stored, and that nobody repeats.
    dropped: Mutex<BTreeSet<String>>,
    /// Who was turned away since the last [`Auditor::forget_told`].
    told: Mutex<BTreeSet<String>>,
    unanswered: AtomicUsize,
    pace: Mutex<Pace>,
    is_over: AtomicBool,
}

/// How fast answers came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// The longest that a call waited for its answer.
    pub(crate) longest_call: Duration,
    /// The longest time between two acknowledgements.
    pub(crate) longest_gap: Duration,
    last: Option<Instant>,
}

impl Auditor {
    /// How fast answers came since this was asked before.
    pub(crate) fn pace(&self) -> Pace {
        let mut pace = self.pace.lock().unwrap();
        let gap = pace.last.map_or(Duration::ZERO, |it| it.elapsed());
        pace.longest_gap = pace.longest_gap.max(gap);
        let last = pace.last;
        std::mem::replace(
            &mut *pace,
            Pace {
                last,
                ..Pace::default()
            },
        )
    }

    /// Calls whose connection broke, or that waited longer than anybody does.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// How many senders were turned away since they were forgotten.
    pub(crate) fn told(&self) -> usize {
        self.told.lock().unwrap().len()
    }

    pub(crate) fn forget_told(&self) {
        self.told.lock().unwrap().clear();
    }

    /// Enters how long a call took that was answered, or that it was not.
    fn attempted<T, E>(&self, begun: Instant, answer: &Result<T, E>) {
        let mut pace = self.pace.lock().unwrap();
        pace.longest_call = pace.longest_call.max(begun.elapsed());
        self.unanswered
            .fetch_add(usize::from(answer.is_err()), Ordering::Relaxed);
    }

    /// Acknowledgements so far.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Calls that were told that nothing was stored.
    pub(crate) fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Calls that were told that there is no room; they count as told that nothing was stored.
    pub(crate) fn full(&self) -> usize {
        self.full.load(Ordering::Relaxed)
    }

    /// Calls that were told that nobody knows.
    pub(crate) fn unknown(&self) -> usize {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Enters an answer that is no acknowledgement: it must be one after which the sender may come again.
    fn turned_away(&self, sender: &str, answer: &Answer) {
        self.told.lock().unwrap().insert(sender.to_owned());
        let errors = answer.body["items"].as_array();
        let errors = errors.map_or_else(
            || vec![&answer.body],
            |items| items.iter().map(|it| &it["error"]).collect(),
        );
        let (mut refused, mut full, mut unknown) = (false, false, false);
        for error in errors.into_iter().filter(|it| it.is_object()) {
            match error["status"].as_u64() {
                Some(503) => refused = true,
                Some(507) if error["code"] == "storage_full" => (refused, full) = (true, true),
                Some(504) if error["code"] == "outcome_unknown" => unknown = true,
                _ => panic!("{}: {}", answer.what, answer.text()),
            }
        }
        assert!(refused || unknown, "{}: {}", answer.what, answer.text());
        let is_wait = answer.status == 503;
        assert!(!is_wait || answer.header("retry-after").is_some());
        self.refused
            .fetch_add(usize::from(refused), Ordering::Relaxed);
        self.full.fetch_add(usize::from(full), Ordering::Relaxed);
        self.unknown
            .fetch_add(usize::from(unknown), Ordering::Relaxed);
    }

    /// Tells the senders to finish what they hold.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Ids by their keys.
    pub(crate) fn ids(&self) -> BTreeMap<String, String> {
        let acknowledged = self.acknowledged.lock().unwrap();
        acknowledged
            .iter()
            .map(|(key, it)| (key.clone(), it.id.clone()))
            .collect()
    }

    /// Calls that were told that nothing was stored, and were not repeated.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.lock().unwrap().len()
    }

    /// Waits for acknowledgements, as long as they keep coming.
    pub(crate) async fn until_count(&self, goal: usize) {
        let (mut last, mut since) = (self.count(), Instant::now());
        while self.count() < goal {
            if self.count() != last {
                (last, since) = (self.count(), Instant::now());
            }
            assert!(since.elapsed() < STALL_MAX, "stalled at {last} of {goal}");
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The body for a key.
    pub(crate) fn body(&self, key: &str, to: &str, bytes: usize) -> Value {
        self.sent.lock().unwrap().insert(key.into());
        let words = format!("{key} {}", "x".repeat(bytes));
        json!({"to": to, "content": text(words.trim_end()), "metadata": {"key": key}})
    }

    /// Enters an acknowledgement; a repeated one must say the same.
    pub(crate) fn acknowledge(&self, key: &str, ok: &Value) {
        let member = |name: &str| {
            ok[name]
                .as_str()
                .unwrap_or_else(|| panic!("no {name}: {ok}"))
                .to_owned()
        };
        let fresh = Acknowledged {
            id: member("id"),
            chat: member("chat"),
            cursor: member("event_cursor"),
        };
        match self
            .acknowledged
            .lock()
            .unwrap()
            .insert(key.into(), fresh.clone())
        {
            Some(before) => assert_eq!(before, fresh, "{key} was answered in two ways"),
            None => {
                self.count.fetch_add(1, Ordering::Relaxed);
                let mut pace = self.pace.lock().unwrap();
                let gap = pace.last.replace(Instant::now());
                let gap = gap.map_or(Duration::ZERO, |it| it.elapsed());
                pace.longest_gap = pace.longest_gap.max(gap);
            }
        }
    }

    /// Reads everything back: nothing lost, nothing doubled, nothing invented, one order.
    pub(crate) async fn audit(&self, client: &Client, devices: &[Device]) {
        let mut stored = BTreeMap::new();
        for device in devices {
            for message in walk(client, &device.path("/messages?direction=out&limit=200")).await {
                let key = message["metadata"]["key"]
                    .as_str()
                    .expect("only what was sent is there")
                    .to_owned();
                assert!(
                    self.sent.lock().unwrap().contains(&key),
                    "{key} was never sent"
                );
                let doubled = stored.insert(key, message);
                assert!(doubled.is_none(), "one key, two messages: {doubled:?}");
            }
        }
        let log = read_log(client, "oldest").await;
        let created = self.check_log(&log);
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for (key, promise) in &acknowledged {
            let message = stored
                .get(key)
                .unwrap_or_else(|| panic!("{key} was acknowledged and is lost"));
            assert_eq!(
                (&message["id"], &message["chat"]),
                (&json!(promise.id), &json!(promise.chat))
            );
            let entry = created
                .get(&promise.id)
                .unwrap_or_else(|| panic!("{key} has no entry"));
            assert_eq!(cursor_of(entry), promise.cursor, "the place of {key}");
        }
        assert_eq!(created.len(), stored.len(), "one message.created a message");
        for key in &*self.dropped.lock().unwrap() {
            assert!(!stored.contains_key(key), "{key} was refused and is there");
        }
        for (place, promise) in acknowledged
            .values()
            .enumerate()
            .filter(|(place, _)| place % 50 == 0)
        {
            let device = &created[&promise.id]["device"];
            let path = format!(
                "/v1/devices/{}/messages/{}",
                device.as_str().unwrap(),
                promise.id
            );
            assert_eq!(client.read(&path).await["id"], promise.id, "{place}");
        }
        self.check_order(client, devices, &log).await;
        for sender in devices {
            for receiver in devices.iter().filter(|it| it.id != sender.id) {
                check_received(&log, sender, receiver);
            }
        }
    }

    /// The log has no hole, no message is created twice, no status goes back. Gives the created entries.
    fn check_log<'a>(&self, log: &'a [Value]) -> BTreeMap<String, &'a Value> {
        let mut created = BTreeMap::new();
        let mut steps: BTreeMap<&str, u8> = BTreeMap::new();
        for (index, entry) in log.iter().enumerate() {
            assert_eq!(entry["seq"], index + 1, "a hole in the log");
            assert_eq!(entry["epoch"], log[0]["epoch"]);
            let id = entry["data"]["id"].as_str().unwrap_or_default();
            if entry["type"] == "message.created" {
                assert!(
                    created.insert(id.to_owned(), entry).is_none(),
                    "{id} was created twice"
                );
            }
            if entry["type"] == "message.status" {
                let step = ladder(entry["data"]["status"].as_str().unwrap());
                let before = steps.insert(id, step);
                assert!(
                    before.is_none_or(|before| before < step),
                    "{id} went from {before:?} to {step}"
                );
            }
        }
        created
    }

    /// Within a chat the log, the ids and the history agree.
    async fn check_order(&self, client: &Client, devices: &[Device], log: &[Value]) {
        for device in devices {
            let mut told: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            let made = ["message.created", "message.received"];
            for entry in log.iter().filter(|it| {
                made.contains(&it["type"].as_str().unwrap()) && it["device"] == device.id
            }) {
                let chat = entry["chat"].as_str().unwrap();
                told.entry(chat)
                    .or_default()
                    .push(entry["data"]["id"].as_str().unwrap());
            }
            for (chat, ids) in told {
                assert!(ids.is_sorted(), "ids of {chat} in the log");
                let path = device.path(&format!("/chats/{chat}/messages?order=asc&limit=200"));
                let history = walk(client, &path).await;
                let history: Vec<_> = history
                    .iter()
                    .map(|it| it["id"].as_str().unwrap())
                    .collect();
                assert_eq!(history, ids, "history of {chat}");
            }
        }
    }
}

/// What one device has sent to another one came in there: each message once, in the order in which it was sent.
fn check_received(log: &[Value], sender: &Device, receiver: &Device) {
    let names = |kind: &str, owner: &Device, chat: &Device| -> Vec<&Value> {
        let of = log
            .iter()
            .filter(|it| it["type"] == kind && it["device"] == owner.id && it["chat"] == chat.jid);
        of.map(|it| &it["data"]["upstream_id"]).collect()
    };
    let failed: BTreeSet<&str> = log
        .iter()
        .filter(|it| it["type"] == "message.status" && it["device"] == sender.id)
        .filter(|it| ladder(it["data"]["status"].as_str().unwrap()) == ladder("failed"))
        .map(|it| it["data"]["upstream_id"].as_str().unwrap())
        .collect();
    let mut sent = names("message.created", sender, receiver);
    sent.retain(|it| !failed.contains(it.as_str().unwrap()));
    let received = names("message.received", receiver, sender);
    assert_eq!(received, sent, "from {} to {}", sender.jid, receiver.jid);
}

/// Sends over and over: one message or many, each under its key until it is answered.
pub(crate) struct Sender {
    pub(crate) name: String,
    pub(crate) devices: Vec<Device>,
    pub(crate) auditor: Arc<Auditor>,
    pub(crate) dice: Dice,
    /// Messages in a batch.
    pub(crate) batch_max: usize,
    /// Bytes of padding that some messages carry.
    pub(crate) bytes_max: usize,
    /// The pause between two calls.
    pub(crate) pause: Duration,
}

impl Sender {
    /// Goes on until the auditor ends the run; what was begun is finished.
    pub(crate) async fn run(mut self) {
        for round in 0.. {
            if self.auditor.is_over() {
                return;
            }
            if self.dice.below(3) == 0 {
                self.batch(round).await;
            } else {
                self.single(round).await;
            }
            sleep(self.pause).await;
        }
    }

    async fn single(&mut self, round: usize) {
        let device = self.devices[self.dice.below(self.devices.len())].clone();
        let key = format!("{}-{round}", self.name);
        let body = self.body(&key);
        let mut pauses = Pauses::default();
        loop {
            let call = device
                .client
                .call("POST", &device.path("/messages"))
                .once(&key)
                .json(&body);
            let begun = Instant::now();
            let answer = call.attempt().await;
            self.auditor.attempted(begun, &answer);
            if let Ok(answer) = answer {
                if answer.status == 202 {
                    return self.auditor.acknowledge(&key, &answer.body);
                }
                self.auditor.turned_away(&self.name, &answer);
            }
            pauses.next().await;
        }
    }

    async fn batch(&mut self, round: usize) {
        let device = self.devices[self.dice.below(self.devices.len())].clone();
        let size = 1 + self.dice.below(self.batch_max);
        let keys: Vec<_> = (0..size)
            .map(|index| format!("{}-{round}-{index}", self.name))
            .collect();
        let mut messages = Vec::new();
        for key in &keys {
            let mut body = self.body(key);
            body["idempotency_key"] = json!(key);
            messages.push(body);
        }
        let body = json!({"messages": messages});
        let (mut was_refused, mut pauses) = (false, Pauses::default());
        loop {
            let call = device
                .client
                .call("POST", &device.path("/messages/batch"))
                .json(&body);
            let begun = Instant::now();
            let answer = call.attempt().await;
            self.auditor.attempted(begun, &answer);
            if let Ok(answer) = answer {
                let items = answer.body["items"].as_array().cloned().unwrap_or_default();
                let is_whole = answer.status == 202 && items.iter().all(|it| it["ok"].is_object());
                if is_whole {
                    if !was_refused {
                        check_prefix(&items);
                    }
                    return keys
                        .iter()
                        .zip(&items)
                        .for_each(|(key, it)| self.auditor.acknowledge(key, &it["ok"]));
                }
                self.auditor.turned_away(&self.name, &answer);
                was_refused = true;
            }
            pauses.next().await;
        }
    }

    fn body(&mut self, key: &str) -> Value {
        let to = self.dice.below(6);
        // The last place is another device of the tenant, the others are virtual phones.
        let to = if to == 5 {
            self.devices[self.dice.below(self.devices.len())]
                .jid
                .clone()
        } else {
            phone(to)
        };
        let bytes = if self.dice.below(2) == 0 {
            0
        } else {
            self.dice.below(self.bytes_max + 1)
        };
        self.auditor.body(key, &to, bytes)
    }
}

/// Sends messages one after the other and takes each answer as the last one: what was refused is never asked again. No
/// idempotency key makes one of two.
pub(crate) struct Passerby {
    pub(crate) name: String,
    pub(crate) device: Device,
    pub(crate) auditor: Arc<Auditor>,
}

impl Passerby {
    /// Goes on until the auditor ends the run.
    pub(crate) async fn run(self) {
        let Self {
            name,
            device,
            auditor,
        } = self;
        for round in 0.. {
            if auditor.is_over() {
                return;
            }
            let key = format!("{name}-{round}");
            let body = auditor.body(&key, &phone(round % 5), 0);
            let call = device.client.call("POST", &device.path("/messages"));
            let begun = Instant::now();
            let answer = call.json(&body).attempt().await;
            auditor.attempted(begun, &answer);
            if let Ok(answer) = answer {
                if answer.status == 202 {
                    auditor.acknowledge(&key, &answer.body);
                } else {
                    auditor.turned_away(&name, &answer);
                }
                if answer.status == 503 {
                    auditor.dropped.lock().unwrap().insert(key);
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// What a crash left of a batch is a prefix in each chat.
fn check_prefix(items: &[Value]) {
    let mut ended = BTreeSet::new();
    for item in items {
        let chat = item["ok"]["chat"].as_str().unwrap();
        if item["replayed"] == true {
            assert!(
                !ended.contains(chat),
                "a batch was stored with a hole in {chat}"
            );
        } else {
            ended.insert(chat);
        }
    }
}
