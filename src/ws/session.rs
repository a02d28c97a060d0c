//! One connection: its socket, its reader, the calls under way, and the clocks over them. A plain task, not an actor.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actors::log::{AttachmentEnd, Heard, Sight};
use actors::model::{Cursor, KeyKind, Scope, Timestamp};
use actors::ports::StoreError;
use axum::extract::ws::{Message, WebSocket};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::Sockets;
use super::connections::{Open, Place};
use super::frame::{Close, Codec, Ends, FRAME_BYTES_MAX, HelloLimits, Name, Refusal, ServerFrame};
use super::open::{Done, Opening, Wanted, open, prove, renew};
use super::reader::Reader;
use super::request::{Asker, call};
use super::socket::{Gone, Io, Socket};
use super::state::{Clocks, Due, Rate, Times};
use super::typing::type_up;
use super::wish::{Frame, Op, SubscribeWish, Wrong};
use crate::credentials::{Caller, Ended};
use crate::http::ApiState;
use crate::problem::{ApiError, Code};

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
    /// A proof or a subscription is under way: what follows waits for it.
    is_busy: bool,
    reader: Option<Box<Reader>>,
    /// Maps of one message that wait for their turn; bounded by the size of a message.
    inbox: VecDeque<Map<String, Value>>,
    /// Answers that wait for the socket; bounded by the requests under way.
    outbox: VecDeque<Message>,
    in_flight: usize,
    work: FuturesUnordered<BoxFuture<'static, Done>>,
    told: FuturesUnordered<BoxFuture<'static, Told>>,
    /// Apart from `told`, because a new credential takes its place.
    credential: FuturesUnordered<BoxFuture<'static, Told>>,
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
            socket: Socket::new(socket),
            number: parts.sockets.connections.number(),
            clocks: Clocks::new(times, now),
            rate: Rate::new(streams.rate, streams.burst, now),
            caller: None,
            place: None,
            is_busy: false,
            reader: None,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            in_flight: 0,
            work: FuturesUnordered::new(),
            told,
            credential: FuturesUnordered::new(),
            parts,
        }
    }

    /// Holds the conversation to its end.
    pub(super) async fn run(mut self, known: Option<Caller>) {
        self.say_hello();
        let end = match known.map_or(Ok(()), |caller| self.enter(caller)) {
            Ok(()) => self.talk().await,
            Err(end) => end,
        };
        let Self {
            socket,
            reader,
            place,
            parts,
            mut work,
            number,
            ..
        } = self;
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
        let alarm = tokio::time::sleep(LOOK_EVERY);
        let mut alarm = std::pin::pin!(alarm);
        loop {
            let again = match self.step().await {
                Ok(again) => again,
                Err(end) => return end,
            };
            let next = self.next_look();
            if next < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(next);
            }
            let woke = self.wait(alarm.as_mut(), again).await;
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
        self.write().await
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
        self.is_busy || self.clocks.is_leaving() || self.in_flight_max() <= waiting
    }

    fn in_flight_max(&self) -> usize {
        usize::try_from(self.parts.api.config.streams.in_flight)
            .unwrap_or(usize::MAX)
            .max(1)
    }

    async fn wait(&mut self, alarm: Pin<&mut tokio::time::Sleep>, again: bool) -> Woke {
        let reads = self.inbox.is_empty() && !self.is_held();
        self.clocks.listens(reads, Instant::now());
        let hungry = self
            .reader
            .as_mut()
            .filter(|it| it.is_hungry() && self.socket.has_room() && self.outbox.is_empty());
        let socket = &mut self.socket;
        tokio::select! {
            io = poll_fn(|cx| socket.poll(cx, reads)) => Woke::Io(io),
            Some(done) = self.work.next(), if !self.work.is_empty() => Woke::Done(done),
            Some(told) = self.credential.next(), if !self.credential.is_empty() => Woke::Told(told),
            Some(told) = self.told.next(), if !self.told.is_empty() => Woke::Told(told),
            heard = listen(hungry) => Woke::Heard(heard),
            () = alarm => Woke::Time,
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
            Told::Credential(Ended::No) => {}
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

    async fn take(&mut self, frame: Frame) -> Result<(), End> {
        let Frame { id, op } = frame;
        if let Err(wait) = self.rate.count(Instant::now()) {
            let mut refusal = Refusal::from(ApiError::new(Code::RateLimited));
            refusal.retry_after_ms =
                Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
            return match op {
                Op::Request { .. } => Ok(self.refuse(id.as_ref(), &refusal)),
                Op::Auth { .. }
                | Op::Subscribe(_)
                | Op::Filter(_)
                | Op::Ack(_)
                | Op::Heartbeat(_)
                | Op::Reauth { .. }
                | Op::Ephemeral { .. }
                | Op::Unknown
                | Op::Wrong(_) => Err(Close::Rate.into()),
            };
        }
        let Some(caller) = self.caller.clone() else {
            return self.take_first(id, op);
        };
        match op {
            Op::Auth { .. } => self.refuse(
                id.as_ref(),
                &Refusal::conflict("the connection has its credential: use `reauth`"),
            ),
            Op::Subscribe(wish) => self.subscribe(&caller, id, *wish),
            Op::Filter(filter) => match self.reader.as_mut() {
                Some(reader) => {
                    reader.set_filter(filter);
                    self.agree(id.as_ref(), b"{}");
                }
                None => self.refuse(id.as_ref(), &Refusal::conflict("there is no subscription")),
            },
            Op::Ack(cursor) => self.ack(cursor)?,
            Op::Heartbeat(cursor) => {
                self.say(&ServerFrame::HeartbeatAck {});
                if let Some(cursor) = cursor {
                    self.ack(cursor)?;
                }
                if let Some(reader) = self.reader.as_mut() {
                    let position = reader.position();
                    self.outbox.push_back(position);
                }
            }
            Op::Reauth { token } => {
                self.is_busy = true;
                self.work.push(boxed(renew(
                    self.parts.api.clone(),
                    self.parts.client,
                    token,
                    id,
                )));
            }
            Op::Request {
                method,
                params,
                key,
            } => self.request(caller, id, &method, params, key).await,
            Op::Ephemeral {
                device,
                chat,
                kind,
                data,
            } => {
                self.in_flight += 1;
                let typed = type_up(self.parts.api.clone(), caller, [device, chat, kind], data);
                self.work.push(boxed(async move {
                    Done::Typed {
                        id,
                        result: typed.await,
                    }
                }));
            }
            Op::Unknown => {
                if id.is_some() {
                    self.refuse(id.as_ref(), &Refusal::unknown_op());
                }
            }
            Op::Wrong(wrong) => self.wrong(id.as_ref(), wrong)?,
        }
        Ok(())
    }

    /// Before there is a credential, only `auth` counts.
    fn take_first(&mut self, id: Option<Value>, op: Op) -> Result<(), End> {
        let Op::Auth { token, wish } = op else {
            return Err(Close::Unauthenticated.into());
        };
        self.is_busy = true;
        let (api, client) = (self.parts.api.clone(), self.parts.client);
        self.work.push(boxed(async move {
            Done::Proved {
                id,
                result: prove(&api, client, &token).await,
                wish,
            }
        }));
        Ok(())
    }

    /// Answers a wrong wish; a cursor of the wrong form also ends the connection.
    fn wrong(&mut self, id: Option<&Value>, wrong: Wrong) -> Result<(), End> {
        match wrong {
            Wrong::Member(refusal) => {
                self.refuse(id, &refusal);
                Ok(())
            }
            Wrong::Cursor(refusal) => Err(self.end_with(id, &refusal, Close::BadCursor)),
        }
    }

    /// Says a last word, which goes out with the goodbye.
    fn end_with(&mut self, id: Option<&Value>, refusal: &Refusal, close: Close) -> End {
        let message = self.parts.codec.refusal(id, refusal);
        while let Some(earlier) = self.outbox.pop_front() {
            if self.socket.feed(earlier).is_err() {
                return End::Gone;
            }
        }
        self.socket
            .feed(message)
            .map_or(End::Gone, |()| End::Close(close))
    }

    fn ack(&mut self, cursor: Cursor) -> Result<(), End> {
        let Some(reader) = self.reader.as_mut() else {
            return Ok(());
        };
        reader
            .ack(cursor, Instant::now())
            .map_err(|_beyond| Close::BadFrame.into())
    }

    fn subscribe(&mut self, caller: &Caller, id: Option<Value>, wish: SubscribeWish) {
        if self.reader.is_some() {
            return self.refuse(
                id.as_ref(),
                &Refusal::conflict("the connection has a subscription: use `filter`"),
            );
        }
        if !caller.may(Scope::EventsRead) {
            return self.refuse(
                id.as_ref(),
                &Refusal::scope_missing(Scope::EventsRead.as_str()),
            );
        }
        self.is_busy = true;
        let wanted = Wanted {
            wish,
            sight: Sight::new(caller.scopes(), caller.devices()),
        };
        let (api, tenant) = (self.parts.api.clone(), caller.tenant());
        self.work.push(boxed(async move {
            Done::Opened {
                id,
                result: open(&api, tenant, wanted).await,
            }
        }));
    }

    async fn request(
        &mut self,
        caller: Caller,
        id: Option<Value>,
        method: &str,
        params: Map<String, Value>,
        key: Option<String>,
    ) {
        let sockets = Arc::clone(&self.parts.sockets);
        let built = sockets.operations.find(method).and_then(|it| {
            it.count();
            it.request(params, key.as_deref())
        });
        let request = match built {
            Ok(request) => request,
            Err(refusal) => return self.refuse(id.as_ref(), &refusal),
        };
        let trace = format!("{}:{}", Name('c', self.number), method);
        let asker = Asker {
            caller,
            client: self.parts.client,
            codec: self.parts.codec,
            trace,
        };
        let mut calling = Box::pin(call(sockets.routes(&self.parts.api), request, id, asker));
        // At once, and before the next frame is looked at: so calls enter their actors in the order they were read.
        match poll_fn(|cx| Poll::Ready(calling.as_mut().poll(cx))).await {
            Poll::Ready(reply) => self.outbox.push_back(reply),
            Poll::Pending => {
                self.in_flight += 1;
                self.work
                    .push(boxed(async move { Done::Replied(calling.await) }));
            }
        }
    }

    fn done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Replied(reply) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.outbox.push_back(reply);
            }
            Done::Typed { id, result } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                match (id, result) {
                    (Some(id), Ok(())) => self.agree(Some(&id), b"{}"),
                    (Some(id), Err(refusal)) => self.refuse(Some(&id), &refusal),
                    // What is ephemeral and not asked about may be lost.
                    (None, _) => {}
                }
            }
            Done::Proved { id, result, wish } => {
                self.is_busy = false;
                let caller = match result {
                    Ok(caller) => caller,
                    Err(error) => {
                        let close = Close::for_code(error.code());
                        return Err(self.end_with(id.as_ref(), &error.into(), close));
                    }
                };
                self.enter(caller.clone())?;
                match wish {
                    Ok(Some(wish)) => self.subscribe(&caller, id, *wish),
                    Ok(None) => self.ready(&caller, id.as_ref(), None),
                    Err(wrong) => self.wrong(id.as_ref(), wrong)?,
                }
            }
            Done::Renewed { id, result } => self.renewed(id.as_ref(), result)?,
            Done::Opened { id, result } => self.opened(id.as_ref(), result),
        }
        Ok(())
    }

    /// A credential was proved: its tenant counts the connection.
    fn enter(&mut self, caller: Caller) -> Result<(), End> {
        if caller.kind() == KeyKind::Admin {
            return Err(Close::Forbidden.into());
        }
        let connections = &self.parts.sockets.connections;
        self.place = Some(
            connections
                .place(caller.tenant(), caller.limits().connections)
                .ok_or(Close::TooMany)?,
        );
        self.watch(caller);
        Ok(())
    }

    fn watch(&mut self, caller: Caller) {
        let expires = caller
            .expires_at()
            .map(|at| Instant::now() + at.since(self.now()));
        self.clocks.known(expires);
        self.credential.clear();
        let mut ended = caller.ended();
        self.credential.push(boxed(async move {
            let told = ended.wait_for(|it| *it != Ended::No).await.map(|it| *it);
            Told::Credential(told.unwrap_or(Ended::Revoked))
        }));
        self.caller = Some(caller);
    }

    fn now(&self) -> Timestamp {
        self.parts.api.clock.now()
    }

    fn renewed(&mut self, id: Option<&Value>, result: Result<Caller, ApiError>) -> Result<(), End> {
        self.is_busy = false;
        match result {
            Ok(new)
                if self
                    .caller
                    .as_ref()
                    .is_some_and(|it| it.tenant() == new.tenant())
                    && new.kind() != KeyKind::Admin =>
            {
                if let Some(reader) = self.reader.as_mut() {
                    reader.set_sight(Sight::new(new.scopes(), new.devices()));
                }
                let body =
                    serde_json::json!({"scopes": new.scopes(), "expires_at": new.expires_at()});
                self.watch(new);
                self.agree(id, body.to_string().as_bytes());
            }
            Ok(_) => {
                let error =
                    ApiError::new(Code::Forbidden).detail("The credential is of another tenant.");
                self.refuse(id, &error.into());
            }
            Err(error) => {
                let close = Close::for_code(error.code());
                return Err(self.end_with(id, &error.into(), close));
            }
        }
        Ok(())
    }

    fn opened(&mut self, id: Option<&Value>, result: Result<Box<Opening>, Refusal>) {
        self.is_busy = false;
        let opening = match result {
            Ok(opening) => *opening,
            Err(refusal) => return self.refuse(id, &refusal),
        };
        let Some(caller) = self.caller.clone() else {
            return;
        };
        self.ready(&caller, id, Some(&opening));
        if let Some(watch) = opening.watch {
            self.told
                .push(boxed(async move { Told::Consumer(watch.ended().await) }));
        }
        let max_lag = self.parts.api.config.streams.max_lag;
        let mut reader = Reader::new(
            self.parts.codec,
            opening.listener,
            opening.delivery,
            opening.attachment,
            max_lag,
        );
        if let Some(reset) = &opening.reset {
            reader.tell_reset(reset);
        }
        // The credential may have been renewed meanwhile.
        reader.set_sight(Sight::new(caller.scopes(), caller.devices()));
        self.reader = Some(Box::new(reader));
    }

    fn ready(&mut self, caller: &Caller, id: Option<&Value>, opening: Option<&Opening>) {
        let nowhere = Cursor { epoch: 0, seq: 0 };
        let ends = self
            .parts
            .api
            .store
            .log(caller.tenant())
            .map_or((nowhere, nowhere), |log| (log.oldest(), log.head()));
        self.say(&ServerFrame::Ready {
            id,
            session: Name('s', self.number),
            tenant: caller.tenant(),
            scopes: caller.scopes(),
            expires_at: caller.expires_at(),
            cursor: Ends {
                oldest: ends.0,
                head: ends.1,
            },
            resumed: opening.is_some_and(|it| it.is_resumed),
            reason: opening
                .and_then(|it| it.reset.as_ref())
                .map(|it| it.reason.as_str()),
        });
    }

    fn say_hello(&mut self) {
        let streams = &self.parts.api.config.streams;
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        let limits = HelloLimits {
            frame_bytes: FRAME_BYTES_MAX,
            rate: streams.rate,
            burst: streams.burst,
            in_flight: streams.in_flight,
        };
        let hello = ServerFrame::Hello {
            version: 1,
            connection: Name('c', self.number),
            heartbeat_ms: millis(streams.heartbeat()),
            auth_ms: millis(streams.auth()),
            limits,
            node: "node_1",
        };
        self.outbox.push_back(self.parts.codec.write(&hello));
    }

    fn say(&mut self, frame: &ServerFrame<'_>) {
        self.outbox.push_back(self.parts.codec.write(frame));
    }

    fn refuse(&mut self, id: Option<&Value>, refusal: &Refusal) {
        self.outbox.push_back(self.parts.codec.refusal(id, refusal));
    }

    /// Answers with a body that is ours.
    fn agree(&mut self, id: Option<&Value>, body: &[u8]) {
        if let Ok(message) = self.parts.codec.reply(id, body, false) {
            self.outbox.push_back(message);
        }
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
