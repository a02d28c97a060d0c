//! Slow work for single lines: bringing mail, and finding receipts that were missed. A line waits at most once for each.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::Node;
use super::line::Line;
use super::timers::What;

/// How many chores are done at once.
const CHORES_MAX: usize = 32;

#[derive(Debug)]
enum Chore {
    Drain(Arc<Line>),
    Search(Arc<Line>),
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Chores {
    queue: Mutex<VecDeque<Chore>>,
    wake: Notify,
}

impl Chores {
    /// A line is to get its mail.
    pub(super) fn drain(&self, line: &Arc<Line>) {
        if !line.drain_waits.swap(true, Ordering::AcqRel) {
            self.push(Chore::Drain(Arc::clone(line)));
        }
    }

    /// The same, for a line that has waited for its timer.
    pub(super) fn drain_again(&self, line: &Arc<Line>) {
        self.push(Chore::Drain(Arc::clone(line)));
    }

    /// The receipts that a line has missed are to be found.
    pub(super) fn search(&self, line: &Arc<Line>) {
        if !line.search_waits.swap(true, Ordering::AcqRel) {
            self.push(Chore::Search(Arc::clone(line)));
        }
    }

    /// The same, for a line that has waited for its timer.
    pub(super) fn search_again(&self, line: &Arc<Line>) {
        self.push(Chore::Search(Arc::clone(line)));
    }

    fn push(&self, chore: Chore) {
        self.queue.lock().push_back(chore);
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<Chore> {
        self.queue.lock().pop_front()
    }
}

type Flight = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Does chores until the network closes.
pub(super) async fn run(node: Arc<Node>, mut closing: watch::Receiver<bool>) {
    let mut flights: FuturesUnordered<Flight> = FuturesUnordered::new();
    loop {
        while flights.len() < CHORES_MAX
            && let Some(chore) = node.chores.pop()
        {
            let node = Arc::clone(&node);
            flights.push(match chore {
                Chore::Drain(line) => Box::pin(async move {
                    line.drain_waits.store(false, Ordering::Release);
                    node.drain(&line).await;
                }),
                Chore::Search(line) => Box::pin(async move {
                    line.search_waits.store(false, Ordering::Release);
                    node.search(&line).await;
                }),
            });
        }
        tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            Some(()) = flights.next(), if !flights.is_empty() => {}
            () = node.chores.wake.notified() => {}
        }
    }
}

impl Node {
    /// A line gets its mail after a pause.
    pub(super) fn drain_later(&self, line: &Arc<Line>) {
        if !line.drain_waits.swap(true, Ordering::AcqRel) {
            self.timers.set([(
                Instant::now() + line.back_off(),
                What::Drain(Arc::clone(line)),
            )]);
        }
    }

    /// Missed receipts are looked for after a pause.
    pub(super) fn search_later(&self, line: &Arc<Line>) {
        if !line.search_waits.swap(true, Ordering::AcqRel) {
            self.timers.set([(
                Instant::now() + line.back_off(),
                What::Search(Arc::clone(line)),
            )]);
        }
    }
}
