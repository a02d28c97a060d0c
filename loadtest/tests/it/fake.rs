//! A gateway that is made up: enough of the wire for the scenarios, with faults on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Json, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Router, serve::ListenerExt as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast::{Receiver, Sender};
use tokio::task::JoinSet;

pub(crate) const KEY: &str = "buho_key_of_the_fake";

/// What goes wrong: with every so-manieth message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    Lose(u32),
    Double(u32),
    Swap(u32),
    Refuse(u32),
    /// Stores a message twice, and acknowledges it once.
    Twice(u32),
}

impl Fault {
    fn strikes(self, count: u32) -> bool {
        let every = match self {
            Self::None => return false,
            Self::Lose(n) | Self::Double(n) | Self::Swap(n) | Self::Refuse(n) | Self::Twice(n) => n,
        };
        count.is_multiple_of(every)
    }
}

#[derive(Debug, Default)]
struct Book {
    asked: u32,
    seq: u32,
    held: Option<(u32, String)>,
    /// What a reader of the log gets: with the faults.
    log: Vec<(u32, String)>,
    silenced: bool,
    devices: HashMap<String, &'static str>,
    made: u32,
}

#[derive(Debug, Clone)]
struct Shared {
    book: Arc<Mutex<Book>>,
    ring: Sender<String>,
    fault: Fault,
}

/// The running fake.
#[derive(Debug)]
pub(crate) struct Fake {
    address: SocketAddr,
    shared: Shared,
    _server: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn open(fault: Fault) -> Self {
        let shared = Shared {
            book: Arc::default(),
            ring: Sender::new(65_536),
            fault,
        };
        let device = "/v1/devices/{device}";
        let router = Router::new()
            .route("/v1/devices", get(devices).post(create))
            .route(device, get(device_state).delete(remove))
            .route(&format!("{device}/connect"), post(connect))
            .route(&format!("{device}/simulations/scan"), post(scan))
            .route(
                &format!("{device}/simulations/phones/{{number}}"),
                put(phone),
            )
            .route(&format!("{device}/messages"), post(send))
            .route(&format!("{device}/messages/batch"), post(batch))
            .route("/v1/events", get(events))
            .route("/v1/ws", get(upgrade))
            .with_state(shared.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let listener = listener.tap_io(|stream| stream.set_nodelay(true).unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _server: server,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn stored(&self) -> u32 {
        self.shared.book.lock().unwrap().seq
    }

    pub(crate) fn silenced(&self) -> bool {
        self.shared.book.lock().unwrap().silenced
    }

    pub(crate) fn devices_made(&self) -> u32 {
        self.shared.book.lock().unwrap().made
    }

    pub(crate) fn devices_left(&self) -> usize {
        self.shared.book.lock().unwrap().devices.len()
    }
}

impl Shared {
    /// Stores a message and rings its event; with the fault that is due.
    fn accept(&self, message: &Value) -> Result<Value, Value> {
        let mut book = self.book.lock().unwrap();
        book.asked += 1;
        let struck = self.fault.strikes(book.asked);
        if struck && matches!(self.fault, Fault::Refuse(_)) {
            return Err(
                json!({"code": "busy", "title": "Busy", "status": 503, "detail": "made up"}),
            );
        }
        let store = |book: &mut Book| {
            book.seq += 1;
            let (id, seq) = (format!("msg_{}", book.seq), book.seq);
            let data = json!({"id": id, "content": message["content"], "status": "queued"});
            let entry = json!({"id": "evt_1", "epoch": 3, "seq": seq, "type": "message.created", "data": data});
            (id, seq, json!({"op": "event", "event": entry}).to_string())
        };
        let (id, seq, event) = store(&mut book);
        let held = book.held.take();
        let mut told = Vec::new();
        let mut tell = |event| told.push((seq, event));
        match self.fault {
            Fault::Lose(_) if struck => {}
            Fault::Double(_) if struck => {
                tell(event.clone());
                tell(event);
            }
            Fault::Swap(_) if struck => book.held = Some((seq, event)),
            Fault::None
            | Fault::Lose(_)
            | Fault::Double(_)
            | Fault::Swap(_)
            | Fault::Refuse(_)
            | Fault::Twice(_) => tell(event),
        }
        if struck && matches!(self.fault, Fault::Twice(_)) {
            let (_, seq, event) = store(&mut book);
            told.push((seq, event));
        }
        told.extend(held);
        for (seq, event) in told {
            // Without a subscriber there is nobody to miss it.
            drop(self.ring.send(event.clone()));
            book.log.push((seq, event));
        }
        Ok(
            json!({"id": id, "chat": message["to"], "status": "queued", "event_cursor": format!("3-{seq}")}),
        )
    }
}

fn refused(headers: &HeaderMap) -> bool {
    let wanted = format!("Bearer {KEY}");
    headers
        .get("authorization")
        .is_none_or(|value| *value != wanted)
}

async fn send(State(fake): State<Shared>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    if refused(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match fake.accept(&body) {
        Ok(sent) => (StatusCode::ACCEPTED, Json(sent)).into_response(),
        Err(problem) => (StatusCode::SERVICE_UNAVAILABLE, Json(problem)).into_response(),
    }
}

async fn batch(State(fake): State<Shared>, Json(body): Json<Value>) -> Response {
    let messages = body["messages"].as_array().unwrap();
    let items: Vec<_> = messages
        .iter()
        .map(|message| match fake.accept(message) {
            Ok(sent) => json!({"ok": sent}),
            Err(problem) => json!({"error": problem}),
        })
        .collect();
    (StatusCode::ACCEPTED, Json(json!({"items": items}))).into_response()
}

/// Cursors are places in the log here, and opaque to readers anyway.
async fn events(
    State(fake): State<Shared>,
    Query(query): Query<HashMap<String, String>>,
) -> Json<Value> {
    let book = fake.book.lock().unwrap();
    let end = book.log.len();
    let from = match query["after"].as_str() {
        "now" => end,
        cursor => cursor.strip_prefix("9-").unwrap().parse().unwrap(),
    };
    let items: Vec<_> = book.log[from..]
        .iter()
        .take(1_000)
        .map(|(seq, _)| json!({"seq": seq}))
        .collect();
    let next = format!("9-{}", from + items.len());
    Json(json!({"items": items, "next_cursor": next}))
}

async fn phone(State(fake): State<Shared>, Json(body): Json<Value>) -> Json<Value> {
    assert_eq!(body, json!({"auto_receipts": null}));
    fake.book.lock().unwrap().silenced = true;
    Json(body)
}

async fn devices() -> Json<Value> {
    Json(json!({"items": [{"id": "dev_0", "state": "connected"}], "next_cursor": null}))
}

async fn create(State(fake): State<Shared>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    assert_eq!(body["connector"], "simulator");
    let mut book = fake.book.lock().unwrap();
    book.made += 1;
    let id = format!("dev_{}", book.made);
    book.devices.insert(id.clone(), "created");
    (
        StatusCode::CREATED,
        Json(json!({"id": id, "state": "created"})),
    )
}

async fn connect(State(fake): State<Shared>, Path(device): Path<String>) -> StatusCode {
    fake.book
        .lock()
        .unwrap()
        .devices
        .insert(device, "connecting");
    StatusCode::ACCEPTED
}

/// The first scan comes too early, as it may.
async fn scan(State(fake): State<Shared>, Path(device): Path<String>) -> StatusCode {
    let mut book = fake.book.lock().unwrap();
    let early = book.devices[&device] == "connecting";
    book.devices
        .insert(device, if early { "pairing" } else { "connected" });
    if early {
        StatusCode::CONFLICT
    } else {
        StatusCode::ACCEPTED
    }
}

async fn device_state(State(fake): State<Shared>, Path(device): Path<String>) -> Json<Value> {
    let state = fake.book.lock().unwrap().devices[&device];
    Json(json!({"id": device, "state": state}))
}

async fn remove(State(fake): State<Shared>, Path(device): Path<String>) -> StatusCode {
    fake.book.lock().unwrap().devices.remove(&device).unwrap();
    StatusCode::NO_CONTENT
}

async fn upgrade(
    State(fake): State<Shared>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Response {
    if refused(&headers) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    upgrade
        .protocols(["buho.v1.json"])
        .on_upgrade(move |socket| session(fake, socket))
}

async fn session(fake: Shared, mut socket: WebSocket) {
    let hello =
        json!({"op": "hello", "version": 1, "heartbeat_ms": 25_000, "limits": {"in_flight": 8}});
    if socket.send(text(&hello)).await.is_err() {
        return;
    }
    let mut events: Option<Receiver<String>> = None;
    loop {
        let next = async {
            match &mut events {
                Some(events) => events.recv().await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            event = next => Some(Message::text(event.unwrap())),
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => answer(&fake, &text, &mut events),
                Some(Ok(_)) => None,
                Some(Err(_)) | None => return,
            },
        };
        if let Some(answer) = answer
            && socket.send(answer).await.is_err()
        {
            return;
        }
    }
}

fn answer(fake: &Shared, frame: &str, events: &mut Option<Receiver<String>>) -> Option<Message> {
    let frame: Value = serde_json::from_str(frame).unwrap();
    match frame["op"].as_str().unwrap() {
        "subscribe" => {
            // Under the lock nothing is told: no gap, no repeat.
            let book = fake.book.lock().unwrap();
            *events = Some(fake.ring.subscribe());
            let replay: Vec<Value> = match frame["after"].as_str().unwrap() {
                "now" => Vec::new(),
                after => behind(&book.log, after)
                    .map(|event| serde_json::from_str(event).unwrap())
                    .collect(),
            };
            let cursor = json!({"head": "3-0", "oldest": "3-0"});
            let ready =
                json!({"op": "ready", "id": frame["id"], "session": "s_1", "cursor": cursor});
            // As the server may: an array.
            let mut frames = vec![
                json!({"op": "position", "cursor": "3-0", "events": 0}),
                ready,
            ];
            frames.extend(replay);
            Some(text(&Value::Array(frames)))
        }
        "request" => {
            assert_eq!(frame["method"], "send_message");
            assert!(frame["params"]["device"].is_string());
            Some(text(&match fake.accept(&frame["params"]) {
                Ok(sent) => json!({"op": "reply", "id": frame["id"], "ok": sent}),
                Err(problem) => json!({"op": "reply", "id": frame["id"], "error": problem}),
            }))
        }
        _ => None,
    }
}

/// The events behind a cursor: that of an event names its number, that of a page a place in the log.
fn behind<'a>(log: &'a [(u32, String)], cursor: &str) -> impl Iterator<Item = &'a str> {
    let (kind, number) = cursor.split_once('-').unwrap();
    let number: u32 = number.parse().unwrap();
    let is_page = kind == "9";
    let fits = move |(place, (seq, _)): &(usize, &(u32, String))| {
        if is_page {
            number <= u32::try_from(*place).unwrap()
        } else {
            number < *seq
        }
    };
    let found = log.iter().enumerate().filter(fits);
    found.map(|(_, (_, event))| &**event)
}

fn text(value: &Value) -> Message {
    Message::text(value.to_string())
}
