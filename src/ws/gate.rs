//! A part of a session that is polled only when it has called: a session wakes for every event of its log, and its
//! other parts hardly ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use parking_lot::Mutex;

/// Remembers that a part has called, and wakes the session.
#[derive(Debug)]
struct Bell {
    has_rung: AtomicBool,
    /// Stays when it is used, so that a part that has not rung costs no more than a look.
    session: Mutex<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.session.lock().wake_by_ref();
    }
}

/// Holds a part and its bell.
#[derive(Debug)]
pub(super) struct Gate<T> {
    part: T,
    bell: Arc<Bell>,
    waker: Waker,
    /// What the bell wakes.
    session: Waker,
}

impl<T> Gate<T> {
    pub(super) fn new(part: T) -> Self {
        let bell = Arc::new(Bell {
            has_rung: AtomicBool::new(true),
            session: Mutex::new(Waker::noop().clone()),
        });
        Self {
            part,
            session: Waker::noop().clone(),
            waker: Arc::clone(&bell).into(),
            bell,
        }
    }

    /// The part, to be changed: it is polled next time, for what was put in has no waker yet.
    pub(super) fn get_mut(&mut self) -> &mut T {
        self.bell.has_rung.store(true, Ordering::Release);
        &mut self.part
    }

    /// Polls the part if it has called since. One that was ready may be so again: it is polled next time too.
    pub(super) fn poll<R>(
        &mut self,
        cx: &Context<'_>,
        poll: impl FnOnce(&mut T, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        // Before the look, so that a call between the two wakes the session.
        if !self.session.will_wake(cx.waker()) {
            self.session.clone_from(cx.waker());
            self.bell.session.lock().clone_from(cx.waker());
        }
        if !self.bell.has_rung.load(Ordering::Acquire)
            || !self.bell.has_rung.swap(false, Ordering::AcqRel)
        {
            return Poll::Pending;
        }
        let found = poll(&mut self.part, &mut Context::from_waker(&self.waker));
        if found.is_ready() {
            self.bell.has_rung.store(true, Ordering::Release);
        }
        found
    }

    /// The part, to be used in a way that does not change what it calls for.
    pub(super) const fn part(&mut self) -> &mut T {
        &mut self.part
    }

    pub(super) fn into_inner(self) -> T {
        self.part
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use futures_util::poll;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_part_is_polled_when_it_called_or_was_changed_and_only_then() {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let (tell, told) = mpsc::channel(4);
        let mut gate = Gate::new(told);
        let look = move |gate: &mut Gate<mpsc::Receiver<u32>>, cx: &mut Context<'_>| {
            gate.poll(cx, |told, cx| {
                counted.fetch_add(1, Ordering::Relaxed);
                told.poll_recv(cx)
            })
        };
        for _ in 0..3 {
            let nothing = poll!(poll_fn(|cx| look(&mut gate, cx)));
            assert_eq!(nothing, Poll::Pending);
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        tell.try_send(1).unwrap();
        tell.try_send(2).unwrap();
        for expected in [1, 2] {
            let found = poll_fn(|cx| look(&mut gate, cx)).await;
            assert_eq!(found, Some(expected));
        }
        assert_eq!(poll!(poll_fn(|cx| look(&mut gate, cx))), Poll::Pending);
        let waits = poll_fn(|cx| look(&mut gate, cx));
        let (told, sent) = tokio::join!(waits, async { tell.try_send(3) });
        sent.unwrap();
        assert_eq!(told, Some(3), "the session is woken");
    }
}
