//! What the actors need from the outside, as traits; implemented in the gateway.

mod clock;
pub mod connector;
pub mod simulation;
mod store;

pub use clock::Clock;
pub use store::{
    Answer, ChatQuery, Claim, Directory, Done, History, Job, KeptAnswer, LogReader, MessageFilter,
    MessagePage, MessageQuery, Order, Outcome, SigningKey, Store, StoreError, StoreHealth,
    SubmitError, Ticket, Urgency, Write, Writer, commit, passed_unless_away,
};
