//! One connection: its socket, its reader, the calls under way, and the clocks over them. A plain task, not an actor.

mod outbox;
mod talk;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actors::log::{AttachmentEnd, Heard};
use actors::ports::StoreError;
use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value};
use tokio::time::{Instant, Sleep, sleep};

use self::outbox::Outbox;
use super::Sockets;
use super::close::Close;
use super::connections::{Open, Place};
use super::frame::{Codec, ServerFrame};
use super::gate::Gate;
use super::open::Done;
use super::reader::Reader;
use super::request::Calling;
use super::socket::{Gone, Io, Socket};
use super::state::{Clocks, Due, Rate, Times};
use super::wish::Frame;
use crate::credentials::{Caller, Ended};
use crate::http::{ApiState, Written};

/// Batches that are written before others get their turn.
const BATCHES_MAX: usize = 16;
/// How long calls under way may go on after their socket.
const REST_TIME_MAX: Duration = Duration::from_secs(15);
/// The longest time between two looks at the clocks.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Why a connection ends.
enum End {
    /// We end it.
    Close(Close),
    /// The client said goodbye.
    Farewell,
    /// It is gone.
    Gone,
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<Close> for End {
    fn from(close: Close) -> Self {
        Self::Close(close)
    }
}

/// What a session is told from outside.
enum Told {
    Stopping,
    Credential(Ended),
    Consumer(AttachmentEnd),
}

/// What woke the session.
enum Woke {
    Io(Io),
    Done(Done),
    Told(Told),
    Heard(Result<Heard, StoreError>),
    Time,
    Again,
}

/// What a session is made of.
pub(super) struct Parts {
    pub(super) api: ApiState,
    pub(super) sockets: Arc<Sockets>,
    pub(super) codec: Codec,
    pub(super) client: IpAddr,
    pub(super) written: Written,
    pub(super) open: Open,
}

pub(super) struct Session {
    parts: Parts,
    socket: Socket,
    number: u64,
    clocks: Clocks,
    rate: Rate,
    caller: Option<Caller>,
    place: Option<Place>,
    /// A proof, a subscription, or a call that might be overtaken is under way: what follows waits for it.
    is_busy: bool,
    reader: Option<Box<Reader>>,
    /// Maps of one message that wait for their turn; bounded by the size of a message.
    inbox: VecDeque<Map<String, Value>>,
    /// Answers that wait for the socket; bounded by the requests under way and by their bytes.
    outbox: Outbox,
    /// Reads that wait for their turn: what one answers may be large, so there is one at a time, and none while
    /// something waits for the socket.
    reads: VecDeque<Calling>,
    is_reading: bool,
    in_flight: usize,
    aside: Gate<Aside>,
}

/// What goes on beside the events.
struct Aside {
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    told: FuturesUnordered<BoxFuture<'static, Told>>,
    /// Apart from `told`, because a new credential takes its place.
    credential: FuturesUnordered<BoxFuture<'static, Told>>,
    /// Whether the work rests because what it came to does not leave.
    is_paused: bool,
}

impl Aside {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Woke> {
        for told in [&mut self.credential, &mut self.told] {
            if let Poll::Ready(Some(told)) = told.poll_next_unpin(cx) {
                return Poll::Ready(Woke::Told(told));
            }
        }
        if self.is_paused {
            return Poll::Pending;
        }
        match self.work.poll_next_unpin(cx) {
            Poll::Ready(Some(done)) => Poll::Ready(Woke::Done(done)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Session {
    pub(super) fn new(parts: Parts, socket: WebSocket) -> Self {
        let streams = &parts.api.config.streams;
        let times = Times {
            heartbeat: streams.heartbeat(),
            auth: streams.auth(),
            write_stall: streams.write_stall(),
        };
        let now = Instant::now();
        let told = FuturesUnordered::new();
        let mut stopping = parts.api.stopping.clone();
        told.push(boxed(async move {
            // Where the sender is gone, so is the gateway.
            drop(stopping.wait_for(|it| *it).await);
            Told::Stopping
        }));
        Self {
            socket: Socket::new(socket, parts.written.clone()),
            number: parts.sockets.connections.number(),
            clocks: Clocks::new(times, now),
            rate: Rate::new(streams.rate, streams.burst, now),
            caller: None,
            place: None,
            is_busy: false,
            reader: None,
            inbox: VecDeque::new(),
            outbox: Outbox::default(),
            reads: VecDeque::new(),
            is_reading: false,
            in_flight: 0,
            aside: Gate::new(Aside {
                work: FuturesUnordered::new(),
                told,
                credential: FuturesUnordered::new(),
                is_paused: false,
            }),
            parts,
        }
    }

    /// Holds the conversation to its end. In a box, as is what comes at the end: a future has room for everything that it
    /// ever moves, and there are many thousands of these.
    pub(super) async fn run(mut self: Box<Self>, known: Option<Caller>) {
        self.say_hello();
        let end = match known.map_or(Ok(()), |caller| self.enter(caller)) {
            Ok(()) => self.talk().await,
            Err(end) => end,
        };
        Box::pin(self.part(end)).await;
    }

    /// Says goodbye, and lets what is under way come to its end.
    async fn part(self: Box<Self>, end: End) {
        let Self {
            socket,
            reader,
            place,
            parts,
            aside,
            number,
            ..
        } = *self;
        let Aside { mut work, .. } = aside.into_inner();
        // A name is free, and so is a place, before the goodbyes.
        drop((reader, place));
        match end {
            End::Close(close) => {
                parts.sockets.counters.closed(close);
                socket.close(close).await;
            }
            End::Farewell => socket.farewell().await,
            End::Gone => {}
        }
        // A call that was begun is ended, also when its client has gone: else the answer of its key would not be kept.
        let rest = async { while work.next().await.is_some() {} };
        if tokio::time::timeout(REST_TIME_MAX, rest).await.is_err() {
            tracing::warn!(
                connection = number,
                "calls of a closed socket did not end in time"
            );
        }
        drop(parts.open);
    }

    async fn talk(&mut self) -> End {
        let mut alarm = Gate::new(Box::pin(sleep(LOOK_EVERY)));
        loop {
            let again = match self.step().await {
                Ok(again) => again,
                Err(end) => return end,
            };
            let next = self.next_look();
            if next < alarm.part().deadline() || alarm.part().is_elapsed() {
                alarm.get_mut().as_mut().reset(next);
            }
            let woke = self.wait(&mut alarm, again).await;
            if let Err(end) = self.woken(woke) {
                return end;
            }
        }
    }

    /// Does what can be done now; whether there is more to do at once.
    async fn step(&mut self) -> Result<bool, End> {
        while !self.is_held() {
            let Some(map) = self.inbox.pop_front() else {
                break;
            };
            self.take(Frame::read(map)).await?;
        }
        if self.clocks.is_leaving() && self.in_flight == 0 && self.outbox.is_empty() {
            return Err(Close::Stopping.into());
        }
        let again = self.write().await?;
        self.read_on();
        Ok(again)
    }

    /// Begins the next read.
    fn read_on(&mut self) {
        if self.is_reading || !self.outbox.is_empty() || !self.socket.has_room() {
            return;
        }
        if let Some(reading) = self.reads.pop_front() {
            self.is_reading = true;
            let work = &mut self.aside.get_mut().work;
            work.push(boxed(async move { Done::Read(reading.await) }));
        }
    }

    fn next_look(&self) -> Instant {
        let latest = Instant::now() + LOOK_EVERY;
        let delivery = self.reader.as_ref().map(|it| it.delivery());
        self.clocks
            .next(self.socket.blocked(), delivery)
            .map_or(latest, |it| it.min(latest))
    }

    /// Whether no further frame is taken for now.
    fn is_held(&self) -> bool {
        let waiting = self.in_flight.saturating_add(self.outbox.len());
        self.is_busy
            || self.clocks.is_leaving()
            || self.outbox.is_full()
            || self.in_flight_max() <= waiting
    }

    fn in_flight_max(&self) -> usize {
        usize::try_from(self.parts.api.config.streams.in_flight)
            .unwrap_or(usize::MAX)
            .max(1)
    }

    async fn wait(&mut self, alarm: &mut Gate<Pin<Box<Sleep>>>, again: bool) -> Woke {
        let reads = self.inbox.is_empty() && !self.is_held();
        self.clocks.listens(reads, Instant::now());
        let hungry = self
            .reader
            .as_mut()
            .filter(|it| it.is_hungry() && self.socket.has_room() && self.outbox.is_empty());
        let (socket, aside) = (&mut self.socket, &mut self.aside);
        if aside.part().is_paused != self.outbox.is_full() {
            aside.get_mut().is_paused = self.outbox.is_full();
        }
        tokio::select! {
            io = poll_fn(|cx| socket.poll(cx, reads)) => Woke::Io(io),
            woke = poll_fn(|cx| aside.poll(cx, Aside::poll)) => woke,
            heard = listen(hungry) => Woke::Heard(heard),
            () = poll_fn(|cx| alarm.poll(cx, |it, cx| it.as_mut().poll(cx))) => Woke::Time,
            () = tokio::task::yield_now(), if again => Woke::Again,
        }
    }

    fn woken(&mut self, woke: Woke) -> Result<(), End> {
        match woke {
            Woke::Io(io) => self.came(io),
            Woke::Done(done) => self.done(done),
            Woke::Told(told) => self.told(&told),
            Woke::Heard(Ok(heard)) => self.heard(heard),
            Woke::Heard(Err(error)) => {
                tracing::warn!(connection = self.number, %error, "a reader's events could not be read");
                Err(Close::Unknown.into())
            }
            Woke::Time => self.look(),
            Woke::Again => Ok(()),
        }
    }

    /// Puts what waits into the write buffer and writes it, batch by batch.
    async fn write(&mut self) -> Result<bool, End> {
        poll_fn(|cx| {
            for _ in 0..BATCHES_MAX {
                let fed = match self.feed() {
                    Ok(fed) => fed,
                    Err(gone) => return Poll::Ready(Err(gone.into())),
                };
                match self.socket.poll_flush(cx) {
                    Poll::Ready(Ok(())) if fed => {}
                    Poll::Ready(Ok(())) | Poll::Pending => return Poll::Ready(Ok(false)),
                    Poll::Ready(Err(gone)) => return Poll::Ready(Err(gone.into())),
                }
            }
            Poll::Ready(Ok(true))
        })
        .await
    }

    /// Fills the write buffer; whether anything was put in.
    fn feed(&mut self) -> Result<bool, Gone> {
        let (now, mut frames) = (Instant::now(), 0);
        while self.socket.has_room() {
            let message = self
                .outbox
                .pop_front()
                .or_else(|| self.reader.as_mut()?.next_message(now));
            let Some(message) = message else { break };
            self.socket.feed(message)?;
            frames += 1;
        }
        if 0 < frames {
            self.parts.sockets.counters.sent(frames);
        }
        Ok(0 < frames)
    }

    fn came(&mut self, io: Io) -> Result<(), End> {
        match io {
            Io::Flushed => return Ok(()),
            Io::Broken(close) => return Err(close.into()),
            Io::Gone => return Err(End::Gone),
            Io::Message(Message::Close(_)) => return Err(End::Farewell),
            Io::Message(Message::Ping(_) | Message::Pong(_)) => {}
            Io::Message(message @ (Message::Text(_) | Message::Binary(_))) => {
                let maps = self.parts.codec.read(&message).ok_or(Close::BadFrame)?;
                self.parts.sockets.counters.received();
                self.inbox = maps.into();
            }
        }
        self.clocks.heard(Instant::now());
        Ok(())
    }

    fn heard(&mut self, heard: Heard) -> Result<(), End> {
        let Some(reader) = self.reader.as_mut() else {
            return Ok(());
        };
        match reader.heard(heard) {
            // The log closes when the gateway stops: replies may still be under way.
            Err(Close::Stopping) => {
                self.reader = None;
                self.leave();
                Ok(())
            }
            other => other.map_err(End::from),
        }
    }

    fn told(&mut self, told: &Told) -> Result<(), End> {
        match told {
            Told::Stopping => self.leave(),
            Told::Credential(Ended::No | Ended::At(_)) => {
                if let Some(caller) = self.caller.take() {
                    self.watch(caller);
                }
            }
            Told::Credential(Ended::Revoked) => return Err(Close::Unauthenticated.into()),
            Told::Credential(Ended::Narrowed) => return Err(Close::ScopesChanged.into()),
            Told::Consumer(AttachmentEnd::Replaced | AttachmentEnd::Deleted) => {
                return Err(Close::Replaced.into());
            }
            Told::Consumer(AttachmentEnd::Moved) => return Err(Close::Moved.into()),
            Told::Consumer(AttachmentEnd::Forgotten) => return Err(Close::Unknown.into()),
        }
        Ok(())
    }

    /// The gateway stops: nothing more is taken, replies are waited for.
    fn leave(&mut self) {
        if !self.clocks.is_leaving() {
            self.clocks.leave(Instant::now());
            self.inbox.clear();
            self.reader = None;
            self.say(&ServerFrame::Notice {
                code: "move",
                detail: "the node is stopping",
                after_ms: 0,
            });
        }
    }

    fn look(&mut self) -> Result<(), End> {
        let delivery = self.reader.as_ref().map(|it| it.delivery());
        match self
            .clocks
            .due(Instant::now(), self.socket.blocked(), delivery)
        {
            Due::Nothing => {}
            Due::Close(close) => return Err(close.into()),
            Due::ExpiryNotice => {
                self.say(&ServerFrame::Notice {
                    code: "token_expires",
                    detail: "send `reauth` with a new credential",
                    after_ms: 60_000,
                });
            }
        }
        Ok(())
    }
}

async fn listen(reader: Option<&mut Box<Reader>>) -> Result<Heard, StoreError> {
    match reader {
        Some(reader) => reader.listen().await,
        None => std::future::pending().await,
    }
}

fn boxed<T>(future: impl Future<Output = T> + Send + 'static) -> BoxFuture<'static, T> {
    Box::pin(future)
}
