//! Reads run on a few threads of their own: they may touch the disk, which a runtime's thread must not wait for.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use actors::ports::StoreError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{Engine, Held, View};
use super::measures;

/// Reads that may wait for a thread; one more is [`StoreError::Away`].
const WAITING_MAX: usize = 4_096;

type Read = Box<dyn FnOnce(Option<&Engine>) + Send>;

#[derive(Default)]
struct Inner {
    reads: VecDeque<Read>,
    stopped: bool,
}

/// The reads that wait, and the threads that serve them.
#[derive(Default)]
pub(super) struct Readers {
    inner: Mutex<Inner>,
    work: Condvar,
}

impl Readers {
    /// Starts the threads.
    pub(super) fn start(
        self: &Arc<Self>,
        held: &Held,
        threads: usize,
    ) -> std::io::Result<Vec<JoinHandle<()>>> {
        let start = |_| {
            let (readers, held) = (Arc::clone(self), Arc::clone(held));
            std::thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || readers.serve(&held))
        };
        (0..threads.max(1)).map(start).collect()
    }

    fn serve(&self, held: &Held) {
        while let Some(read) = self.next() {
            // For this one read: nobody may hold an engine that is to be closed.
            let engine = held.read().clone();
            if catch_unwind(AssertUnwindSafe(|| read(engine.as_deref()))).is_err() {
                tracing::error!("a read of the store has panicked");
            }
        }
    }

    fn next(&self) -> Option<Read> {
        let mut inner = self.inner.lock();
        loop {
            if let Some(read) = inner.reads.pop_front() {
                return Some(read);
            }
            if inner.stopped {
                return None;
            }
            self.work.wait(&mut inner);
        }
    }

    /// Takes no more reads; those that wait are served.
    pub(super) fn stop(&self) {
        self.inner.lock().stopped = true;
        self.work.notify_all();
    }

    /// Runs a read and waits for it.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&View<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let (tell, told) = oneshot::channel();
        let read: Read = Box::new(move |engine| {
            // Whoever has stopped waiting need not be read for.
            if !tell.is_closed() {
                let found = engine.ok_or(StoreError::Away);
                drop(tell.send(found.and_then(|it| read(&it.view()))));
            }
        });
        {
            let mut inner = self.inner.lock();
            if inner.stopped || WAITING_MAX <= inner.reads.len() {
                return Err(StoreError::Away);
            }
            inner.reads.push_back(read);
        }
        self.work.notify_one();
        let outcome = told.await.unwrap_or(Err(StoreError::Away));
        measures::read(operation, started.elapsed());
        outcome
    }
}
