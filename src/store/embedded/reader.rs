//! Reads run on a few threads of their own: they may touch the disk, which a runtime's thread must not wait for.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use actors::ports::StoreError;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::engine::{Engine, View};
use super::measures;

/// Reads that may wait for a thread; one more is [`StoreError::Away`].
const WAITING_MAX: usize = 4_096;

type Read = Box<dyn FnOnce(&Engine) + Send>;

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
        engine: &Arc<Engine>,
        threads: usize,
    ) -> std::io::Result<Vec<JoinHandle<()>>> {
        let start = |_| {
            let (readers, engine) = (Arc::clone(self), Arc::clone(engine));
            std::thread::Builder::new()
                .name("store-reader".to_owned())
                .spawn(move || readers.serve(&engine))
        };
        (0..threads.max(1)).map(start).collect()
    }

    fn serve(&self, engine: &Engine) {
        while let Some(read) = self.next() {
            if catch_unwind(AssertUnwindSafe(|| read(engine))).is_err() {
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
                drop(tell.send(read(&engine.view())));
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
