//! A session without its socket: what may be said when, what is sent and what is passed over, when it must end.
//! Time comes in; nothing here waits.

use std::collections::VecDeque;
use std::time::Duration;

use actors::log::{Facts, Filter, Sight};
use actors::model::Cursor;
use tokio::time::Instant;

use super::close::Close;

/// Bytes that may be open without an ack; one larger entry always passes.
const WINDOW_BYTES_MAX: usize = 4 << 20;
/// How long a client may take to confirm.
const ACK_TIME_MAX: Duration = Duration::from_secs(30);
/// After so many entries that were passed over, a client is told its place.
const FILTERED_MAX: u32 = 1_000;
/// What a client may be late with its heartbeat.
const SILENCE_GRACE: Duration = Duration::from_secs(10);
/// How long before its end a client is told to bring a new credential.
const EXPIRY_NOTICE: Duration = Duration::from_secs(60);
/// How long replies are waited for when the gateway stops.
const LEAVE_TIME_MAX: Duration = Duration::from_secs(2);

/// What to do with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Send it.
    Send,
    /// Pass over it.
    Skip,
    /// Wait for an ack first.
    Hold,
}

/// Where a subscription stands: all that is known without the entries themselves.
#[derive(Debug)]
pub(crate) struct Delivery {
    filter: Filter,
    sight: Sight,
    /// All up to here was sent or passed over.
    considered: Cursor,
    /// The highest place that the client was told.
    told: u64,
    /// Entries passed over since then.
    filtered: u32,
    /// Event frames sent on this connection.
    events: u64,
    /// Where the replay ends; `None` once it has.
    replay_end: Option<u64>,
    is_lagging: bool,
    window: Option<Window>,
}

/// The events that were sent and not confirmed yet.
#[derive(Debug)]
struct Window {
    open: VecDeque<(u64, usize)>,
    bytes: usize,
    events_max: usize,
    progress: Instant,
}

/// An ack beyond what was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beyond;

impl Delivery {
    /// A subscription that begins behind `start` and replays up to `head`.
    pub(crate) fn new(filter: Filter, sight: Sight, start: Cursor, head: u64) -> Self {
        Self {
            filter,
            sight,
            considered: start,
            told: start.seq,
            filtered: 0,
            events: 0,
            replay_end: Some(head),
            is_lagging: false,
            window: None,
        }
    }

    /// The same, where the client confirms: at most so many events are open.
    pub(super) fn with_window(mut self, events_max: u32, now: Instant) -> Self {
        let events_max = usize::try_from(events_max).unwrap_or(usize::MAX);
        self.window = Some(Window {
            open: VecDeque::new(),
            bytes: 0,
            events_max,
            progress: now,
        });
        self
    }

    /// Judges the entry that follows. `Send` and `Skip` put it behind us.
    pub(crate) fn offer(
        &mut self,
        seq: u64,
        facts: Facts<'_>,
        bytes: usize,
        now: Instant,
    ) -> Verdict {
        if seq <= self.considered.seq {
            return Verdict::Skip;
        }
        if !self.passes(facts) {
            self.considered.seq = seq;
            self.filtered = self.filtered.saturating_add(1);
            return Verdict::Skip;
        }
        if let Some(window) = &mut self.window {
            if window.is_full(bytes) {
                return Verdict::Hold;
            }
            window.add(seq, bytes, now);
        }
        self.considered.seq = seq;
        self.told = seq;
        self.filtered = 0;
        self.events += 1;
        Verdict::Send
    }

    /// Whether it may be heard: by its reader's wish and by its credential.
    pub(crate) fn passes(&self, facts: Facts<'_>) -> bool {
        self.filter.passes(facts) && self.sight.sees(facts)
    }

    /// Whether the client is to be told its place now: at the end of the replay, or after much that was passed over.
    pub(crate) fn position_is_due(&self) -> bool {
        FILTERED_MAX <= self.filtered
            || self
                .replay_end
                .is_some_and(|end| end <= self.considered.seq)
    }

    /// The client is told its place: where it stands, and how many events it got.
    pub(crate) fn tell_position(&mut self) -> (Cursor, u64) {
        self.told = self.considered.seq;
        self.filtered = 0;
        if self
            .replay_end
            .is_some_and(|end| end <= self.considered.seq)
        {
            self.replay_end = None;
        }
        (self.considered, self.events)
    }

    /// Whether the replay is over.
    pub(crate) const fn is_live(&self) -> bool {
        self.replay_end.is_none()
    }

    /// Whether the client was told that it lags.
    pub(crate) const fn is_lagging(&self) -> bool {
        self.is_lagging
    }

    /// Notes where entries come from now; `Some` where that is news for the client: whether it lags.
    pub(crate) const fn fed_from(&mut self, from_store: bool) -> Option<bool> {
        if !self.is_live() || self.is_lagging == from_store {
            return None;
        }
        self.is_lagging = from_store;
        Some(from_store)
    }

    /// Continuity is lost: goes on behind `head`.
    pub(crate) fn jump(&mut self, head: Cursor) {
        self.considered = head;
        self.told = head.seq;
        self.filtered = 0;
        self.replay_end = Some(head.seq);
        if let Some(window) = &mut self.window {
            window.open.clear();
            window.bytes = 0;
        }
    }

    /// Another filter, from here on.
    pub(super) fn set_filter(&mut self, filter: Filter) {
        self.filter = filter;
    }

    /// Another credential, from here on.
    pub(super) fn set_sight(&mut self, sight: Sight) {
        self.sight = sight;
    }

    /// Takes an ack. `Some` is the place that is now confirmed, `None` where nothing new is.
    pub(super) fn ack(&mut self, cursor: Cursor, now: Instant) -> Result<Option<u64>, Beyond> {
        let epoch = self.considered.epoch;
        if epoch < cursor.epoch || (epoch == cursor.epoch && self.told < cursor.seq) {
            return Err(Beyond);
        }
        let Some(window) = self.window.as_mut().filter(|_| epoch == cursor.epoch) else {
            return Ok(None);
        };
        window.close_up_to(cursor.seq, now);
        Ok(Some(cursor.seq))
    }

    fn ack_deadline(&self) -> Option<Instant> {
        let window = self.window.as_ref().filter(|it| !it.open.is_empty())?;
        Some(window.progress + ACK_TIME_MAX)
    }
}

impl Window {
    fn is_full(&self, bytes: usize) -> bool {
        self.events_max <= self.open.len()
            || (!self.open.is_empty() && WINDOW_BYTES_MAX < self.bytes + bytes)
    }

    fn add(&mut self, seq: u64, bytes: usize, now: Instant) {
        if self.open.is_empty() {
            self.progress = now;
        }
        self.open.push_back((seq, bytes));
        self.bytes += bytes;
    }

    fn close_up_to(&mut self, seq: u64, now: Instant) {
        while let Some((_, bytes)) = self.open.front().copied().filter(|(open, _)| *open <= seq) {
            self.open.pop_front();
            self.bytes -= bytes;
            self.progress = now;
        }
        if self.open.is_empty() {
            self.open.shrink_to(0);
        }
    }
}

/// Times of a session, and their bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How often a client shall let itself be heard.
    pub(super) heartbeat: Duration,
    /// How long it may stay without a credential.
    pub(super) auth: Duration,
    /// How long a write may make no progress.
    pub(super) write_stall: Duration,
}

/// What a session does when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing yet.
    Nothing,
    /// Tell the client that its credential ends soon.
    ExpiryNotice,
    /// End.
    Close(Close),
}

/// The clocks of a session.
#[derive(Debug)]
pub(super) struct Clocks {
    times: Times,
    opened: Instant,
    heard: Instant,
    /// Set while nothing is read: then silence is ours.
    is_deaf: bool,
    is_known: bool,
    expires: Option<Instant>,
    is_noticed: bool,
    leaves: Option<Instant>,
}

impl Clocks {
    pub(super) const fn new(times: Times, now: Instant) -> Self {
        Self {
            times,
            opened: now,
            heard: now,
            is_deaf: false,
            is_known: false,
            expires: None,
            is_noticed: false,
            leaves: None,
        }
    }

    /// Something came from the client.
    pub(super) const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Whether the client is listened to: while it is not, it can't be silent.
    pub(super) const fn listens(&mut self, listens: bool, now: Instant) {
        if self.is_deaf && listens {
            self.heard = now;
        }
        self.is_deaf = !listens;
    }

    /// A credential was proved; it ends then, if it does.
    pub(super) const fn known(&mut self, expires: Option<Instant>) {
        self.is_known = true;
        self.expires = expires;
        self.is_noticed = false;
    }

    /// The gateway stops: the session ends when its replies are out, or soon.
    pub(super) fn leave(&mut self, now: Instant) {
        self.leaves.get_or_insert(now + LEAVE_TIME_MAX);
    }

    /// Whether the session is about to end because the gateway stops.
    pub(super) const fn is_leaving(&self) -> bool {
        self.leaves.is_some()
    }

    /// The times at which something is due, with what it is.
    fn dues(
        &self,
        blocked: Option<Instant>,
        delivery: Option<&Delivery>,
    ) -> impl Iterator<Item = (Instant, Due)> {
        let auth = (!self.is_known).then(|| {
            (
                self.opened + self.times.auth,
                Due::Close(Close::AuthTimeout),
            )
        });
        let silent = (!self.is_deaf).then(|| {
            (
                self.heard + self.times.heartbeat + SILENCE_GRACE,
                Due::Close(Close::Silent),
            )
        });
        let stalled =
            blocked.map(|since| (since + self.times.write_stall, Due::Close(Close::Stalled)));
        let unconfirmed = delivery
            .and_then(Delivery::ack_deadline)
            .map(|at| (at, Due::Close(Close::AckTimeout)));
        let notice = self.expires.filter(|_| !self.is_noticed);
        let notice = notice.map(|at| {
            (
                at.checked_sub(EXPIRY_NOTICE).unwrap_or(self.opened),
                Due::ExpiryNotice,
            )
        });
        let expired = self.expires.map(|at| (at, Due::Close(Close::Expired)));
        let leaves = self.leaves.map(|at| (at, Due::Close(Close::Stopping)));
        [leaves, expired, auth, stalled, silent, unconfirmed, notice]
            .into_iter()
            .flatten()
    }

    /// When to look again.
    pub(super) fn next(
        &self,
        blocked: Option<Instant>,
        delivery: Option<&Delivery>,
    ) -> Option<Instant> {
        self.dues(blocked, delivery).map(|(at, _)| at).min()
    }

    /// What is due now; ends go before notices.
    pub(super) fn due(
        &mut self,
        now: Instant,
        blocked: Option<Instant>,
        delivery: Option<&Delivery>,
    ) -> Due {
        let due = self
            .dues(blocked, delivery)
            .find(|(at, _)| *at <= now)
            .map_or(Due::Nothing, |(_, due)| due);
        if due == Due::ExpiryNotice {
            self.is_noticed = true;
        }
        due
    }
}

/// Bounds how many frames a second a client may send.
#[derive(Debug)]
pub(super) struct Rate {
    /// The time that one frame takes; `None` for no bound.
    each: Option<Duration>,
    /// How far ahead of its time a client may be.
    ahead_max: Duration,
    busy_until: Instant,
}

impl Rate {
    /// So many a second, and so many at once on top; 0 a second means no bound.
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let each = (0 < per_second).then(|| Duration::from_secs(1) / per_second);
        let ahead_max = each.map_or(Duration::ZERO, |it| {
            it.saturating_mul(per_second.saturating_add(burst))
        });
        Self {
            each,
            ahead_max,
            busy_until: now,
        }
    }

    /// Counts a frame.
    ///
    /// # Errors
    ///
    /// How long to wait, where it is one too many.
    pub(super) fn count(&mut self, now: Instant) -> Result<(), Duration> {
        let Some(each) = self.each else { return Ok(()) };
        let until = self.busy_until.max(now) + each;
        match until.duration_since(now).checked_sub(self.ahead_max) {
            Some(wait) if !wait.is_zero() => Err(wait),
            Some(_) | None => {
                self.busy_until = until;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
