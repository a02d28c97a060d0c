//! Memory of chats that were used once and sleep.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::mebibytes;
use crate::client::calls::Api;
use crate::client::http::{Connection, request};
use crate::client::sends::{batch_body, body, number, path, read_batch, text};
use crate::error::LoadError;
use crate::metrics::Metrics;
use crate::progress;
use crate::report::{Aim, Ratio, Report, float};
use crate::server::{quiet, settled_rss, usage};
use crate::target::Gateway;

/// How often it is measured: what the store keeps in memory goes up and down with what it has written.
const ROUNDS: u64 = 5;
/// Messages of a call.
const BATCH: usize = 500;
/// The chat that gets as many messages as the others together, and the first of the others: no other scenario's.
const ONE: u64 = 5_000_000;
const FIRST: u64 = ONE + 1;
/// How long chats may take to sleep: some minutes are their default.
const ASLEEP: Duration = Duration::from_mins(5);
/// Tasks that come and go with the store's and our own work.
const TASKS: f64 = 8.0;
/// A sleeping chat shall keep nothing; in KiB this is as near to it as memory can be read.
const NOTHING: f64 = 0.5;

/// Where a message goes.
#[derive(Debug, Clone, Copy)]
enum To {
    /// All to one chat.
    One,
    /// Each to a chat of its own, from this one on.
    Each(u64),
}

/// Wakes chats and lets them sleep, and puts what they keep into a report.
pub(crate) async fn measure(
    gateway: &Gateway,
    count: u64,
    report: &mut Report,
) -> Result<(), LoadError> {
    let Some(pid) = gateway.pid else {
        return Ok(());
    };
    let api = Api::new(gateway.endpoint.clone());
    let Ok(awake) = Metrics::read(&api).await else {
        report.note("sleeping chats: left out, for the gateway has no metrics");
        return Ok(());
    };
    api.silence_phones(&gateway.device).await?;
    let wave = async |to: To| -> Result<f64, LoadError> {
        send(gateway, count, to).await?;
        asleep(pid, &api, &awake).await?;
        let now = Metrics::read(&api).await?;
        // The allocator's own count, where the gateway tells it: pages come and go by more than chats take.
        let mut memory = now.value("buho_memory_allocated_bytes");
        if memory == 0.0 {
            memory = float(settled_rss(pid).await?);
        }
        // A row that waits in memory to be flushed, or was read, is not a chat that is kept.
        Ok(memory - now.value("buho_store_buffer_bytes") - now.value("buho_store_cache_bytes"))
    };
    // What is filled once: caches, and what the allocator keeps of so many chats awake together.
    wave(To::Each(FIRST + ROUNDS * count)).await?;
    let mut last = wave(To::One).await?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        wave(To::Each(FIRST + round * count)).await?;
        // Read where it was read before: behind a wave to one chat, in which the store flushes what the chats have written.
        let now = wave(To::One).await?;
        rounds.push((now - last) / 1_024.0 / float(count));
        last = now;
    }
    let each = rounds.iter().sum::<f64>() / float(ROUNDS);
    let spread = rounds.iter().map(|it| (it - each).powi(2)).sum::<f64>();
    let error = (spread / float(ROUNDS * (ROUNDS - 1))).sqrt();
    report.figure("chats that sleep", float(count * ROUNDS), "chats");
    report.figure("memory of a sleeping chat: standard error", error, "KiB");
    report.figure(
        "memory with all of them asleep",
        mebibytes(usage(pid)?.rss),
        "MiB",
    );
    // Nothing comparable stands beside it: the aim does.
    report.ratio(Ratio::new(
        "memory of a sleeping chat",
        "KiB",
        each,
        NOTHING,
        Aim::FigureAtMost(NOTHING),
    ));
    Ok(())
}

async fn send(gateway: &Gateway, count: u64, to: To) -> Result<(), LoadError> {
    let mut connection = Connection::new(gateway.endpoint.address);
    let (path, text) = (format!("{}/batch", path(&gateway.device)), text(128));
    let bar = progress::bar(count, "waking chats");
    for begin in (0..count).step_by(BATCH) {
        let messages: Vec<_> = (begin..count)
            .take(BATCH)
            .map(|index| match to {
                To::One => body(&number(ONE), &text),
                To::Each(first) => body(&number(first + index), &text),
            })
            .collect();
        let body = batch_body(&messages).to_string();
        let request = request(&gateway.endpoint, "POST", &path, Some(body.as_bytes()));
        let outcome = read_batch(&connection.exchange(&request).await?)?;
        if outcome.errors.total() > 0 {
            let text = format!("a batch was refused in part: {:?}", outcome.errors);
            return Err(LoadError::Protocol(text));
        }
        bar.inc(outcome.accepted);
    }
    bar.finish_and_clear();
    Ok(())
}

/// Waits until the gateway has no more chats and tasks than it had.
async fn asleep(pid: u32, api: &Api, before: &Metrics) -> Result<(), LoadError> {
    let until = Instant::now() + ASLEEP;
    quiet(pid, ASLEEP).await?;
    loop {
        let now = Metrics::read(api).await?;
        let (chats, tasks) = (
            now.since(before, "buho_actors"),
            now.since(before, "buho_tasks"),
        );
        if chats <= 0.0 && tasks <= TASKS {
            return Ok(());
        }
        if until < Instant::now() {
            return Err(LoadError::Protocol(format!(
                "{chats} chats were still awake after {ASLEEP:?}"
            )));
        }
        sleep(Duration::from_millis(100)).await;
    }
}
