use super::handle::{Attached, Consumer, ConsumerName};
use crate::door::{Place, Reply};
use crate::model::Cursor;

/// What a log's actor can be asked.
pub(super) enum LogMsg {
    /// A connection takes a name.
    Attach {
        name: ConsumerName,
        fresh: Cursor,
        reply: Reply<Attached>,
    },
    /// A connection lets go of a name.
    Detach {
        name: ConsumerName,
        attachment: u64,
        _place: Place,
    },
    /// Tell all named consumers.
    List { reply: Reply<Vec<Consumer>> },
    /// Move a consumer.
    Seek {
        name: ConsumerName,
        to: Cursor,
        reply: Reply<Consumer>,
    },
    /// A consumer was moved, durably.
    Moved { name: ConsumerName, to: Cursor },
    /// Forget a consumer.
    Delete {
        name: ConsumerName,
        reply: Reply<()>,
    },
    /// A consumer was forgotten, durably.
    Deleted { name: ConsumerName },
    /// A consumer could not be forgotten.
    Kept { name: ConsumerName },
    /// Time has passed.
    Tick,
}
