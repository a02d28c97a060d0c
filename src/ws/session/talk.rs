//! The conversation: what each frame of the client leads to, and what the slow steps come back with.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use actors::log::Sight;
use actors::model::{Cursor, KeyKind, Scope, Timestamp};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{End, Session, Told, boxed};
use crate::credentials::{Caller, Ended};
use crate::http::call::Entrance;
use crate::problem::{ApiError, Code};
use crate::ws::close::Close;
use crate::ws::frame::{Ends, FRAME_BYTES_MAX, HelloLimits, Name, Refusal, ServerFrame};
use crate::ws::open::{Done, Opening, Wanted, open, prove, renew};
use crate::ws::reader::Reader;
use crate::ws::request::{Asker, Calling, call, enter};
use crate::ws::typing::type_up;
use crate::ws::wish::{Frame, Op, SubscribeWish, Wrong};

impl Session {
    pub(super) async fn take(&mut self, frame: Frame) -> Result<(), End> {
        let Frame { id, op } = frame;
        if let Err(wait) = self.rate.count(Instant::now()) {
            let mut refusal = Refusal::from(ApiError::new(Code::RateLimited));
            refusal.retry_after_ms =
                Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
            return match op {
                Op::Request { .. } => {
                    self.refuse(id.as_ref(), &refusal);
                    Ok(())
                }
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
                    reader.say_position();
                }
            }
            Op::Reauth { token } => {
                self.is_busy = true;
                self.aside.get_mut().work.push(boxed(renew(
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
                self.aside.get_mut().work.push(boxed(async move {
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
        self.aside.get_mut().work.push(boxed(async move {
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
        self.aside.get_mut().work.push(boxed(async move {
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
            Ok((it.is_read(), it.request(params, key.as_deref())?))
        });
        let (is_read, request) = match built {
            Ok(built) => built,
            Err(refusal) => return self.refuse(id.as_ref(), &refusal),
        };
        let trace = format!("{}:{}", Name('c', self.number), method);
        let asker = Asker {
            caller,
            client: self.parts.client,
            codec: self.parts.codec,
            trace,
        };
        let (entrance, routes) = (Entrance::default(), sockets.routes(&self.parts.api));
        let mut calling: Calling = boxed(call(routes, request, id, asker, entrance.clone()));
        if is_read {
            self.in_flight += 1;
            self.reads.push_back(calling);
            return;
        }
        // At once, and before the next frame is looked at: so calls enter their actors in the order they were read.
        match poll_fn(|cx| Poll::Ready(calling.as_mut().poll(cx))).await {
            Poll::Ready(reply) => self.outbox.push_back(reply),
            Poll::Pending => {
                self.in_flight += 1;
                if entrance.is_passed() {
                    return self.goes_on(calling);
                }
                // It has yet to look something up: a later call might enter before it.
                self.is_busy = true;
                let entering = enter(calling, entrance);
                let work = &mut self.aside.get_mut().work;
                work.push(boxed(async move { Done::Entered(entering.await) }));
            }
        }
    }

    /// A call can no longer be overtaken.
    fn goes_on(&mut self, calling: Calling) {
        let work = &mut self.aside.get_mut().work;
        work.push(boxed(async move { Done::Replied(calling.await) }));
    }

    pub(super) fn done(&mut self, done: Done) -> Result<(), End> {
        match done {
            Done::Replied(reply) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.outbox.push_back(reply);
            }
            Done::Entered(calling) => {
                self.is_busy = false;
                self.goes_on(calling);
            }
            Done::Read(reply) => {
                self.is_reading = false;
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
    pub(super) fn enter(&mut self, caller: Caller) -> Result<(), End> {
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
        self.aside.get_mut().credential.clear();
        let mut ended = caller.ended();
        self.aside.get_mut().credential.push(boxed(async move {
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
            self.aside
                .get_mut()
                .told
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

    pub(super) fn say_hello(&mut self) {
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

    pub(super) fn say(&mut self, frame: &ServerFrame<'_>) {
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
