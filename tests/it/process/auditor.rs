//! The auditor keeps what was sent and what was acknowledged, and afterwards reads everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::house::{Answer, Client, Device, Dice, cursor_of, ladder, phone, read_log, text, walk};

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
    is_over: AtomicBool,
}

impl Auditor {
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
    fn turned_away(&self, answer: &Answer) {
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
            None => _ = self.count.fetch_add(1, Ordering::Relaxed),
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
            assert_eq!(
                client.get(&path).await.expect(200)["id"],
                promise.id,
                "{place}"
            );
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
        }
    }

    async fn single(&mut self, round: usize) {
        let device = self.devices[self.dice.below(self.devices.len())].clone();
        let key = format!("{}-{round}", self.name);
        let body = self.body(&key);
        loop {
            let call = device
                .client
                .call("POST", &device.path("/messages"))
                .once(&key)
                .json(&body);
            if let Ok(answer) = call.attempt().await {
                if answer.status == 202 {
                    return self.auditor.acknowledge(&key, &answer.body);
                }
                self.auditor.turned_away(&answer);
            }
            sleep(Duration::from_millis(5)).await;
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
        let mut was_refused = false;
        loop {
            let call = device
                .client
                .call("POST", &device.path("/messages/batch"))
                .json(&body);
            if let Ok(answer) = call.attempt().await {
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
                self.auditor.turned_away(&answer);
                was_refused = true;
            }
            sleep(Duration::from_millis(5)).await;
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
