//! The only way to an actor: a counted, timed door.
//!
//! A ractor mailbox has no limit of its own, so the door counts: every message holds one permit until the actor lets go
//! of it, answered or not.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ractor::{ActorRef, MessagingErr};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::CommandError;

/// How much an actor may be asked for at once, and how long a caller waits.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Messages that wait or are under way at the same time.
    pub calls_max: usize,
    /// The longest wait for an answer; beyond it the outcome is unknown.
    pub answer_max: Duration,
}

/// A cheap, cloneable way to one actor.
pub struct Door<M> {
    actor: ActorRef<M>,
    permits: Arc<Semaphore>,
    limits: DoorLimits,
}

/// A place in the queue of an actor, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: Option<OwnedSemaphorePermit>,
    _call: Option<Arc<OwnedSemaphorePermit>>,
}

impl Place {
    /// Keeps what the call needs for as long as the place is taken.
    #[must_use]
    pub fn holding(self, call: Option<Arc<OwnedSemaphorePermit>>) -> Self {
        Self {
            _call: call,
            ..self
        }
    }
}

/// Where an actor puts its answer. Travels inside the message, with its place.
#[derive(Debug)]
pub struct Reply<T> {
    port: oneshot::Sender<Result<T, CommandError>>,
    _place: Place,
}

impl<T> Reply<T> {
    /// A way back for an answer that somebody waits for elsewhere.
    #[must_use]
    pub const fn new(port: oneshot::Sender<Result<T, CommandError>>, place: Place) -> Self {
        Self {
            port,
            _place: place,
        }
    }

    /// Answers. The caller may have left: the work is done either way.
    pub fn send(self, answer: Result<T, CommandError>) {
        drop(self.port.send(answer));
    }
}

impl<M: Send + 'static> Door<M> {
    /// Puts a door before an actor.
    #[must_use]
    pub fn new(actor: ActorRef<M>, limits: DoorLimits) -> Self {
        Self {
            actor,
            permits: Arc::new(Semaphore::new(limits.calls_max)),
            limits,
        }
    }

    /// The actor's cell, for supervision.
    #[must_use]
    pub const fn actor(&self) -> &ActorRef<M> {
        &self.actor
    }

    /// Takes a place in the queue.
    ///
    /// # Errors
    ///
    /// [`CommandError::Busy`] when there is none.
    pub fn place(&self) -> Result<Place, CommandError> {
        let permit = Arc::clone(&self.permits)
            .try_acquire_owned()
            .map_err(|_| CommandError::Busy)?;
        Ok(Place {
            _permit: Some(permit),
            _call: None,
        })
    }

    /// Waits for a place in the queue: for work of our own that must not be lost and whose source can be slowed.
    pub async fn place_when_free(&self) -> Place {
        Place {
            _permit: Arc::clone(&self.permits).acquire_owned().await.ok(),
            _call: None,
        }
    }

    /// Puts a message into the queue. A message that comes back found the actor gone.
    ///
    /// # Errors
    ///
    /// The message itself.
    pub fn push(&self, message: M) -> Result<(), M> {
        match self.actor.send_message(message) {
            Ok(()) => Ok(()),
            Err(MessagingErr::SendErr(message)) => Err(message),
            // Of our own type to our own actor: there is nothing else that can go wrong.
            Err(MessagingErr::InvalidActorType | MessagingErr::ChannelClosed) => Ok(()),
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    ///
    /// `Busy` when the queue is full, `Unavailable` when the actor is gone, `OutcomeUnknown` when no answer came, else
    /// the actor's own error.
    pub async fn ask<T, F>(&self, message: F) -> Result<T, CommandError>
    where
        T: Send + 'static,
        F: FnOnce(Reply<T>) -> M + Send,
    {
        let (port, answer) = oneshot::channel();
        let reply = Reply::new(port, self.place()?);
        self.push(message(reply))
            .map_err(|_gone| CommandError::Unavailable)?;
        answer_of(answer, self.limits.answer_max).await
    }

    /// How many messages wait or are under way.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.limits
            .calls_max
            .saturating_sub(self.permits.available_permits())
    }
}

/// Tells an actor what its own work has come to: a task that it owns, a timer, the writer it has asked. Bounded by the
/// work that the actor has given out. Says whether the actor will hear it; one that is gone has no use for it.
pub(crate) fn report<M: Send + 'static>(actor: &ActorRef<M>, message: M) -> bool {
    actor.send_message(message).is_ok()
}

/// Waits for an answer. A reply that was dropped belongs to an actor that failed over it: what it did is unknown.
///
/// # Errors
///
/// `OutcomeUnknown` when none came, else the answer's own error.
pub async fn answer_of<T>(
    answer: oneshot::Receiver<Result<T, CommandError>>,
    answer_max: Duration,
) -> Result<T, CommandError> {
    match tokio::time::timeout(answer_max, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => Err(CommandError::OutcomeUnknown),
    }
}

impl<M> Clone for Door<M> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            permits: Arc::clone(&self.permits),
            limits: self.limits,
        }
    }
}

impl<M> fmt::Debug for Door<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("free", &self.permits.available_permits())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};

    use super::*;

    /// Never answers.
    struct Mute;

    #[expect(dead_code, reason = "held so that it is never answered")]
    struct Ask(Reply<()>);

    impl Actor for Mute {
        type Msg = Ask;
        type State = Vec<Ask>;
        type Arguments = ();

        async fn pre_start(
            &self,
            _: ActorRef<Ask>,
            (): (),
        ) -> Result<Vec<Ask>, ActorProcessingErr> {
            Ok(Vec::new())
        }

        async fn handle(
            &self,
            _: ActorRef<Ask>,
            ask: Ask,
            kept: &mut Vec<Ask>,
        ) -> Result<(), ActorProcessingErr> {
            kept.push(ask);
            Ok(())
        }
    }

    async fn mute(calls_max: usize) -> Door<Ask> {
        let (actor, _) = Actor::spawn(None, Mute, ()).await.unwrap();
        Door::new(
            actor,
            DoorLimits {
                calls_max,
                answer_max: Duration::from_secs(3600),
            },
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_mute_actor_makes_the_outcome_unknown_and_counts_until_it_lets_go() {
        let door = mute(1).await;
        let answer = door.ask(Ask).await;
        assert!(
            matches!(answer, Err(CommandError::OutcomeUnknown)),
            "{answer:?}"
        );
        let refused = door.ask(Ask).await;
        assert!(matches!(refused, Err(CommandError::Busy)), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_door_says_so_at_once() {
        let door = mute(1).await;
        let (first, second) = tokio::join!(door.ask(Ask), door.ask(Ask));
        assert!(
            matches!(first, Err(CommandError::OutcomeUnknown)),
            "{first:?}"
        );
        assert!(matches!(second, Err(CommandError::Busy)), "{second:?}");
    }

    #[tokio::test]
    async fn a_dead_actor_is_away() {
        let door = mute(1).await;
        door.actor.stop_and_wait(None, None).await.unwrap();
        let answer = door.ask(Ask).await;
        assert!(
            matches!(answer, Err(CommandError::Unavailable)),
            "{answer:?}"
        );
    }
}
