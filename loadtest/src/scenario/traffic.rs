//! Mixed traffic: sends of several sizes, inbound messages, pages, marks; with subscribers that keep the books.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::listener::{Heard, Listener, Wanted};
use super::open_loop::{Call, Calls, Expects, Schedule};
use super::pace::Pace;
use super::subscribers::Subscribers;
use crate::audit::reconcile;
use crate::client::calls::Api;
use crate::client::http::request;
use crate::client::payload::Codec;
use crate::client::sends::{body, number, path, text};
use crate::client::ws::Dialect;
use crate::error::LoadError;
use crate::latency::{Latencies, Timeline};
use crate::progress;
use crate::report::{ErrorCounts, Report, Series, float};
use crate::target::Gateway;

/// Calls before they repeat.
const CALLS: u64 = 2_000;
/// Chats of the traffic.
const CHATS: u64 = 200;
const SEND: &str = "send";
const INBOUND: &str = "inbound";
const PAGE: &str = "page of a chat";
const LIST: &str = "list of chats";
const WIDE: &str = "page of the device";
const READ: &str = "mark as read";

/// How much traffic there is.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    /// When calls are due.
    pub(crate) pace: Pace,
    /// What is due before this is not part of the latencies.
    pub(crate) warm_up: Duration,
    /// Connections that share the calls.
    pub(crate) connections: u64,
    /// Subscribers that read and audit along; half of them speak MessagePack.
    pub(crate) subscribers: u64,
    /// Whether short-lived sockets come and go meanwhile.
    pub(crate) churn: Churn,
}

/// Sockets that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Churn {
    /// None.
    No,
    /// So many open together, and close again, over and over.
    Sockets(u64),
}

impl Traffic {
    /// Runs the traffic, and puts what came of it into a report.
    pub(crate) async fn run(
        &self,
        gateway: &Gateway,
        label: &str,
        report: &mut Report,
    ) -> Result<(), LoadError> {
        open_chats(gateway).await?;
        let half = usize::try_from(self.subscribers / 2).unwrap_or_default();
        let rest = usize::try_from(self.subscribers).unwrap_or_default() - half;
        let open = async |codec: Codec, count: usize| {
            let (endpoint, dialect) = (&gateway.endpoint, Dialect::Gateway(codec));
            Subscribers::open(endpoint, dialect, count, Instant::now()).await
        };
        let watchers = [
            open(Codec::Json, rest).await?,
            open(Codec::Msgpack, half).await?,
        ];
        // One start for the calls and for whoever hears of them: delays are between the two.
        let start = Instant::now();
        let listener = Listener::open(&gateway.endpoint, Codec::Json, Wanted::All, start).await?;
        let schedule = Schedule {
            address: gateway.endpoint.address,
            calls: calls(gateway),
            connections: usize::try_from(self.connections).unwrap_or(1),
            pace: Arc::new(self.pace.clone()),
            start,
            warm_up: self.warm_up,
        };
        let end = start + self.pace.length();
        let mut churning = JoinSet::new();
        if let Churn::Sockets(count) = self.churn {
            let endpoint = gateway.endpoint.clone();
            churning.spawn(async move {
                let mut errors = ErrorCounts::default();
                let count = usize::try_from(count).unwrap_or(1);
                while Instant::now() < end {
                    errors.merge(come_and_go(&endpoint, count).await);
                }
                errors
            });
        }
        let ((calls, timeline), ()) = tokio::join!(schedule.run(), progress::wait(end, label));
        while let Some(joined) = churning.join_next().await {
            report.errors(joined.unwrap_or_default());
        }
        let inbound = calls.kind(INBOUND).map_or(0, |kind| kind.succeeded);
        let heard = listener.finish(calls.acknowledged.len(), inbound).await?;
        let seqs: Vec<u64> = calls
            .acknowledged
            .iter()
            .filter_map(|sent| sent.seq)
            .collect();
        for watcher in watchers {
            audit(watcher, &seqs, calls.unknown, report).await?;
        }
        self.tell(calls, &timeline, heard, report);
        Ok(())
    }

    fn tell(&self, calls: Calls, timeline: &Timeline, heard: Heard, report: &mut Report) {
        let findings = reconcile(&calls.acknowledged, &heard.arrivals, self.warm_up);
        let mut delays = Latencies::new();
        findings
            .delays
            .iter()
            .for_each(|(_, delay)| delays.record(*delay));
        report.latency("send: due → event", &delays);
        for kind in &calls.kinds {
            report.latency(format!("{}: due → answer", kind.name), &kind.latencies);
            report.figure(
                format!("{}: answered", kind.name),
                float(kind.succeeded),
                "calls",
            );
            report.figure(
                format!("{}: refused or failed", kind.name),
                float(kind.failed),
                "calls",
            );
        }
        let of = |name: &str| heard.types.get(name).copied().unwrap_or_default();
        for (kind, count) in &heard.types {
            report.figure(format!("{kind} heard"), float(*count), "events");
        }
        // A call without an answer may have had its effect.
        let (played, open) = calls
            .kind(INBOUND)
            .map_or((0, 0), |kind| (kind.succeeded, kind.failed));
        let received = of("message.received");
        let counts = [
            ("lost", findings.lost),
            ("doubled", findings.doubled(calls.unknown)),
            ("disordered", heard.order.disordered),
            ("not where the acknowledgement said", findings.misplaced),
        ];
        report.must_be_zero("sends", "messages", &counts);
        let counts = [
            ("lost", played.saturating_sub(received)),
            ("doubled", received.saturating_sub(played + open)),
        ];
        report.must_be_zero("inbound", "messages", &counts);
        report.must_be_zero("log", "entries", &[("holes in seq", heard.order.missing)]);
        if calls.acknowledged.is_empty() {
            report.fault("nothing was acknowledged");
        }
        if let Some(error) = heard.ended {
            report.fault(format!("the subscriber ended: {error}"));
        }
        for (name, quantile) in [("half", 0.5), ("99 of 100", 0.99)] {
            report.series(Series {
                plot: "due → answer of all calls, ms".to_owned(),
                name: name.to_owned(),
                axis: "s".into(),
                points: timeline.quantile(quantile),
            });
        }
        report.errors(calls.errors);
        report.errors(heard.errors);
    }
}

/// One message to each chat, so that it can be read.
async fn open_chats(gateway: &Gateway) -> Result<(), LoadError> {
    let api = Api::new(gateway.endpoint.clone());
    for chat in 0..CHATS {
        let message = body(&number(chat), &text(128));
        api.send(&gateway.device, &message).await?;
    }
    Ok(())
}

async fn audit(
    watcher: Subscribers,
    seqs: &[u64],
    unknown: u64,
    report: &mut Report,
) -> Result<(), LoadError> {
    let (mut lost, mut doubled, mut disordered, mut ended) = (0, 0, 0, 0);
    report.errors(watcher.refused.clone());
    let count = u64::try_from(seqs.len()).unwrap_or(u64::MAX);
    watcher
        .wait_for(count.saturating_mul(watcher.count()))
        .await;
    for seen in watcher.close().await? {
        lost += seen.audit.lost(seqs);
        doubled += seen.audit.doubled + seen.audit.unexpected(seqs).saturating_sub(unknown);
        disordered += seen.audit.disordered + seen.audit.outside;
        ended += u64::from(!seen.stayed);
        report.errors(seen.errors);
    }
    for (what, count) in [
        ("lost", lost),
        ("doubled", doubled),
        ("disordered", disordered),
    ] {
        report.fault_if(count, &format!("deliveries {what} (subscribers)"));
    }
    report.fault_if(ended, "subscribers ended early");
    Ok(())
}

async fn come_and_go(endpoint: &crate::client::Endpoint, count: usize) -> ErrorCounts {
    let dialect = Dialect::Gateway(Codec::Json);
    match Subscribers::open(endpoint, dialect, count, Instant::now()).await {
        Ok(sockets) => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // How they ended is not asked: they came to go.
            drop(sockets.close().await);
            ErrorCounts::default()
        }
        Err(error) => {
            let mut errors = ErrorCounts::default();
            errors.count(format!("coming and going: {}", error.tally_name()));
            errors
        }
    }
}

/// The calls, in a fixed mix: of a hundred, fifty are sends, twenty inbound messages, thirty reads and marks.
fn calls(gateway: &Gateway) -> Arc<[Call]> {
    let device = &gateway.device;
    let call = |kind, method: &str, path: &str, body: Option<Value>, expects| {
        let body = body.map(|body| body.to_string());
        let body = body.as_deref().map(str::as_bytes);
        Call {
            kind,
            request: request(&gateway.endpoint, method, path, body),
            expects,
        }
    };
    let chat_path = |chat: u64| format!("/v1/devices/{device}/chats/{}", number(chat));
    let inbound_path = format!("/v1/devices/{device}/simulations/messages");
    (0..CALLS)
        .map(|index| {
            // Steps that walk through all chats, with the kinds well mixed.
            let chat = (index * 7) % CHATS;
            let bytes = match index % 50 {
                7 => 8_192,
                1 | 11 | 21 | 31 => 1_024,
                _ => 128,
            };
            let text = text(bytes);
            let get = |kind, path: &str| call(kind, "GET", path, None, Expects::Success);
            match (index * 37) % 100 {
                0..50 => {
                    let body = Some(body(&number(chat), &text));
                    call(SEND, "POST", &path(device), body, Expects::Sent)
                }
                50..70 => {
                    let content = json!({"type": "text", "text": text});
                    let body = Some(json!({"from": number(chat), "content": content}));
                    call(INBOUND, "POST", &inbound_path, body, Expects::Success)
                }
                70..82 => get(PAGE, &format!("{}/messages?limit=50", chat_path(chat))),
                82..88 => get(LIST, &format!("/v1/devices/{device}/chats?limit=50")),
                88..94 => get(WIDE, &format!("/v1/devices/{device}/messages?limit=50")),
                _ => {
                    let path = format!("{}/read", chat_path(chat));
                    call(READ, "POST", &path, Some(json!({})), Expects::Success)
                }
            }
        })
        .collect()
}
