use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::task::JoinSet;

use super::handle::{ChatHome, ChatTrace, Draft, SentMessage};
use super::message::{ChatMsg, ReadMark, StepRequest};
use super::state::{ChatState, Known, StepDecision};
use crate::CommandError;
use crate::door::{Reply, report};
use crate::model::{Chat, Direction, EntryDraft, Jid, Message, MessageId};
use crate::ports::connector::{IncomingMessage, Taken};
use crate::ports::{
    Answer, Claim, Clock, Job, Outcome, Store, StoreError, Ticket, Urgency, Write,
    passed_unless_away,
};

pub(super) struct ChatActor;

pub(super) struct ChatArgs {
    pub(super) home: ChatHome,
    pub(super) jid: Jid,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) trace: Arc<ChatTrace>,
    /// The predecessor and the last job it submitted.
    pub(super) before: Option<(ActorCell, Ticket)>,
}

pub(super) struct Chatting {
    home: ChatHome,
    jid: Jid,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    trace: Arc<ChatTrace>,
    state: ChatState,
    /// A job was refused: what this chat believes is not what is stored, so it takes nothing more. Set by whoever refuses,
    /// so that nothing more is decided on it, and the store takes nothing that was.
    is_gone: Arc<AtomicBool>,
    /// Steps that wait until their message was read. Bounded by the places of the door.
    waiting: HashMap<MessageId, Vec<(StepRequest, Reply<Taken>)>>,
    reads: JoinSet<()>,
}

impl Actor for ChatActor {
    type Msg = ChatMsg;
    type State = Chatting;
    type Arguments = ChatArgs;

    async fn pre_start(
        &self,
        _myself: ActorRef<ChatMsg>,
        args: ChatArgs,
    ) -> Result<Chatting, ActorProcessingErr> {
        let ChatArgs {
            home,
            jid,
            store,
            clock,
            trace,
            before,
        } = args;
        #[cfg(feature = "testing")]
        crate::testing::at_start("chat", &format_args!("{} {jid}", home.device));
        let mut settled = Ok(());
        if let Some((cell, ticket)) = before {
            // Never two at a time, and never a row that the predecessor is about to change.
            cell.wait(None).await?;
            settled = passed_unless_away(&*store, home.tenant, ticket).await;
        }
        let row = match settled {
            Ok(()) => store.chat(home.tenant, home.device, &jid).await,
            Err(away) => Err(away),
        };
        // A store that is away for a while is no reason to crash: whoever waits hears it, and the next one tries again.
        let (row, is_gone) = match row {
            Ok(row) => (row, false),
            Err(StoreError::Away) => (None, true),
            Err(error) => return Err(error.into()),
        };
        let state = ChatState::new(home.device, jid.clone(), row);
        Ok(Chatting {
            home,
            jid,
            store,
            clock,
            trace,
            state,
            is_gone: Arc::new(AtomicBool::new(is_gone)),
            waiting: HashMap::new(),
            reads: JoinSet::new(),
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<ChatMsg>,
        message: ChatMsg,
        chat: &mut Chatting,
    ) -> Result<(), ActorProcessingErr> {
        #[cfg(feature = "testing")]
        crate::testing::at_message("chat", &format_args!("{} {}", chat.home.device, chat.jid));
        if chat.is_gone.load(Ordering::Acquire) {
            drop(myself.drain());
            // Where the store takes nothing, that is the reason; else the next one finds a successor.
            let why = chat.store.health().refusal();
            message.refuse(why.unwrap_or(CommandError::Busy));
            return Ok(());
        }
        match message {
            ChatMsg::Send {
                draft,
                claim,
                reply,
            } => chat.send(&myself, *draft, claim, reply),
            ChatMsg::Receive { message, reply } => chat.receive(&myself, *message, reply),
            ChatMsg::Step { request, reply } => chat.step(&myself, request, reply),
            ChatMsg::Found { id, found } => chat.found(&myself, id, found),
            ChatMsg::MarkRead { read, claim, reply } => chat.mark_read(&myself, read, claim, reply),
            ChatMsg::Stale => drop(myself.drain()),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _myself: ActorRef<ChatMsg>,
        chat: &mut Chatting,
    ) -> Result<(), ActorProcessingErr> {
        chat.trace.ended.store(true, Ordering::Release);
        Ok(())
    }
}

impl Chatting {
    fn send(
        &mut self,
        myself: &ActorRef<ChatMsg>,
        draft: Draft,
        claim: Option<Claim>,
        reply: Reply<SentMessage>,
    ) {
        let placed = self
            .state
            .place_outbound(draft, self.home.owner.jid(), self.clock.now());
        let Message { body, state, .. } = placed.message;
        let body = Arc::new(body);
        let sent = SentMessage {
            id: body.id,
            chat: self.jid.clone(),
            status: state.status,
            created_at: body.created_at,
            // Known when it is committed.
            cursor: crate::model::Cursor { epoch: 0, seq: 0 },
            replayed: false,
        };
        let answer = Answer::Sent {
            id: sent.id,
            chat: sent.chat.clone(),
            status: sent.status,
            created_at: sent.created_at,
        };
        let outbox = Write::OutboxAdd {
            device: self.home.device,
            chat: self.jid.clone(),
            id: body.id,
        };
        let writes = vec![
            Write::Message {
                body: Arc::clone(&body),
                state,
            },
            outbox,
            Write::Chat(Box::new(placed.row)),
        ];
        let owner = Arc::clone(&self.home.owner);
        let footing = self.footing(myself);
        let done = move |outcome| {
            let answer = match outcome {
                Outcome::Committed { cursor } => {
                    owner.offer(body);
                    Ok(SentMessage { cursor, ..sent })
                }
                Outcome::Replayed(kept) => {
                    footing.is_old();
                    SentMessage::try_from(kept)
                }
                Outcome::Mismatch => {
                    footing.is_old();
                    Err(CommandError::IdempotencyMismatch)
                }
                Outcome::Failed(error) => {
                    footing.is_lost(&error);
                    Err(CommandError::of_commit(&error))
                }
            };
            reply.send(answer);
        };
        self.submit(
            writes,
            vec![placed.entry],
            claim.map(|it| (it, answer)),
            done,
        );
    }

    fn receive(
        &mut self,
        myself: &ActorRef<ChatMsg>,
        message: IncomingMessage,
        reply: Reply<Taken>,
    ) {
        let placed =
            match self
                .state
                .place_inbound(message, self.home.owner.jid(), self.clock.now())
            {
                Ok(placed) => placed,
                Err(known) => {
                    // The first one may still be on its way to the store: the answer waits behind it.
                    let done = repeated(reply, known);
                    return self.submit(Vec::new(), Vec::new(), None, done);
                }
            };
        let Message { body, state, .. } = placed.message;
        let id = body.id;
        let upstream = Write::Upstream {
            device: self.home.device,
            chat: self.jid.clone(),
            from_me: body.direction == Direction::Out,
            upstream_id: body.upstream_id.clone(),
            id,
        };
        let writes = vec![
            Write::Message {
                body: Arc::new(body),
                state,
            },
            upstream,
            Write::Chat(Box::new(placed.row)),
        ];
        let done = told(self.footing(myself), reply, move || Taken::New(id));
        self.submit(writes, vec![placed.entry], None, done);
    }

    fn step(&mut self, myself: &ActorRef<ChatMsg>, request: StepRequest, reply: Reply<Taken>) {
        match self.state.step(request.id, &request.step) {
            StepDecision::Forward { state, entry } => {
                let id = request.id;
                let mut writes = vec![Write::MessageState {
                    device: self.home.device,
                    chat: self.jid.clone(),
                    id,
                    state,
                }];
                writes.extend(self.leaves_outbox(&request));
                let done = told(self.footing(myself), reply, move || Taken::New(id));
                self.submit_soon(writes, vec![entry], done);
            }
            StepDecision::Nothing => {
                // The first one may still be on its way to the store: the answer waits behind it.
                let id = request.id;
                let writes = self.leaves_outbox(&request).into_iter().collect();
                let done = repeated(reply, id);
                self.submit_soon(writes, Vec::new(), done);
            }
            StepDecision::Unknown => self.read_for(myself, request, reply),
        }
    }

    fn leaves_outbox(&self, request: &StepRequest) -> Option<Write> {
        let write = || Write::OutboxRemove {
            device: self.home.device,
            chat: self.jid.clone(),
            id: request.id,
        };
        request.leaves_outbox.then(write)
    }

    /// The step goes on when its message was read; others for the same message queue up behind it.
    fn read_for(&mut self, myself: &ActorRef<ChatMsg>, request: StepRequest, reply: Reply<Taken>) {
        while self.reads.try_join_next().is_some() {}
        let id = request.id;
        let waiting = self.waiting.entry(id).or_default();
        waiting.push((request, reply));
        if 1 < waiting.len() {
            return;
        }
        let (store, home, myself) = (Arc::clone(&self.store), self.home.clone(), myself.clone());
        let ticket = Ticket(self.trace.ticket.load(Ordering::Acquire));
        self.reads.spawn(async move {
            // A step of this message may still be on its way to the store.
            store.passed(home.tenant, ticket).await;
            let found = store
                .message(home.tenant, home.device, id)
                .await
                .map(|it| it.map(Box::new));
            let _heard = report(&myself, ChatMsg::Found { id, found });
        });
    }

    fn found(
        &mut self,
        myself: &ActorRef<ChatMsg>,
        id: MessageId,
        found: Result<Option<Box<Message>>, StoreError>,
    ) {
        let waiting = self.waiting.remove(&id).unwrap_or_default();
        let known = match found {
            Ok(Some(message)) if message.body.chat == self.jid => Known::from(&*message),
            Ok(_) => {
                for (_, reply) in waiting {
                    reply.send(Ok(Taken::Unknown));
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "message of a receipt could not be read");
                for (_, reply) in waiting {
                    reply.send(Err(CommandError::Unavailable));
                }
                return;
            }
        };
        self.state.remember(known);
        for (request, reply) in waiting {
            self.step(myself, request, reply);
        }
    }

    fn mark_read(
        &mut self,
        myself: &ActorRef<ChatMsg>,
        read: ReadMark,
        claim: Option<Claim>,
        reply: Reply<Chat>,
    ) {
        let Some((row, entry)) = self.state.mark_read(read, self.clock.now()) else {
            return reply.send(Err(CommandError::NotFound));
        };
        let answer = Answer::Given {
            status: 200,
            location: None,
            body: super::state::to_json(&row),
        };
        let writes = entry
            .iter()
            .map(|_| Write::Chat(Box::new(row.clone())))
            .collect();
        let footing = self.footing(myself);
        let done = move |outcome| {
            reply.send(match outcome {
                Outcome::Committed { cursor: _ } => Ok(row),
                // Reading twice is reading once: the present row is as good an answer as the first one. But it was not
                // written, so it is not what the store holds.
                Outcome::Replayed(_) => {
                    footing.is_old();
                    Ok(row)
                }
                Outcome::Mismatch => {
                    footing.is_old();
                    Err(CommandError::IdempotencyMismatch)
                }
                Outcome::Failed(error) => {
                    footing.is_lost(&error);
                    Err(CommandError::of_commit(&error))
                }
            });
        };
        self.submit(
            writes,
            entry.into_iter().collect(),
            claim.map(|it| (it, answer)),
            done,
        );
    }

    /// Hands a job to the writer, which tells `done` also where it refuses the job.
    fn submit(
        &mut self,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        claim: Option<(Claim, Answer)>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let job = Job {
            writes,
            entries,
            claim,
            urgency: Urgency::Now,
            is_baseless: Some(Arc::clone(&self.is_gone)),
            done: Box::new(done),
        };
        self.hand_in(job);
    }

    /// As [`Self::submit`], for what no caller waits for.
    fn submit_soon(
        &mut self,
        writes: Vec<Write>,
        entries: Vec<EntryDraft>,
        done: impl FnOnce(Outcome) + Send + 'static,
    ) {
        self.hand_in(Job {
            writes,
            entries,
            claim: None,
            urgency: Urgency::Soon,
            is_baseless: Some(Arc::clone(&self.is_gone)),
            done: Box::new(done),
        });
    }

    fn hand_in(&mut self, job: Job) {
        // One that is refused is told so by `done`.
        if let Ok(ticket) = self.store.submit(self.home.tenant, job) {
            self.trace.ticket.store(ticket.0, Ordering::Release);
        }
    }

    fn footing(&self, myself: &ActorRef<ChatMsg>) -> Footing {
        Footing {
            chat: myself.clone(),
            is_gone: Arc::clone(&self.is_gone),
        }
    }
}

/// What a chat believes of its rows, for those who learn that it is not so.
struct Footing {
    chat: ActorRef<ChatMsg>,
    is_gone: Arc<AtomicBool>,
}

impl Footing {
    /// A job was not taken: nothing that builds on it may be. (Of a device that is no more, nothing ever is.)
    fn is_lost(&self, why: &StoreError) {
        if !matches!(why, StoreError::Gone) {
            self.is_gone.store(true, Ordering::Release);
        }
        self.is_old();
    }

    /// What the chat believes is no longer what is stored: it leaves, and its successor loads.
    fn is_old(&self) {
        let _heard = report(&self.chat, ChatMsg::Stale);
    }
}

/// Nothing builds on the answer to a repeat: where it can't be given, it is asked again.
fn repeated(reply: Reply<Taken>, id: MessageId) -> impl FnOnce(Outcome) + Send + 'static {
    move |outcome| {
        reply.send(match outcome {
            Outcome::Committed { cursor: _ } | Outcome::Replayed(_) | Outcome::Mismatch => {
                Ok(Taken::Repeat(id))
            }
            Outcome::Failed(error) => Err(CommandError::of_commit(&error)),
        });
    }
}

fn told(
    footing: Footing,
    reply: Reply<Taken>,
    taken: impl FnOnce() -> Taken + Send + 'static,
) -> impl FnOnce(Outcome) + Send + 'static {
    move |outcome| {
        reply.send(match outcome {
            Outcome::Committed { cursor: _ } | Outcome::Replayed(_) | Outcome::Mismatch => {
                Ok(taken())
            }
            Outcome::Failed(error) => {
                footing.is_lost(&error);
                Err(CommandError::of_commit(&error))
            }
        });
    }
}
