//! What the actors need from the outside, as traits; implemented in the gateway.

mod clock;
pub mod connector;
mod history;
pub mod simulation;
mod store;

pub use clock::Clock;
pub use history::{ChatQuery, History, MessageFilter, MessagePage, MessageQuery, Order};
pub use store::{
    Answer, Claim, Directory, Done, Job, KeptAnswer, LogReader, Outcome, SigningKey, Store,
    StoreError, StoreHealth, SubmitError, Ticket, Urgency, Write, Writer, commit,
    passed_unless_away,
};
