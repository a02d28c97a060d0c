//! A tenant's event log: entries, their order, the ring that feeds the live readers, and its actor.
//!
//! The writer gives entries their place and publishes them in the [`Log`]; a [`Listener`] reads the ring, or the store
//! where the ring no longer reaches back. The actor beside it
//!
//! - **owns** the named consumers (who holds a name, where it stands) and the retention of the log;
//! - is **supervised by** its tenant;
//! - **on a crash** is started again and reads the consumers' places from the store; connections that hold a name are
//!   sent away, and come back to the stored place;
//! - **stops** with its tenant, after writing the places that have moved.

mod actor;
mod entry;
mod filter;
mod handle;
mod listener;
mod message;
mod ring;
mod state;

pub use entry::{Entry, Sequencer};
pub use filter::{FILTER_TERMS_MAX, Facts, Filter, FilterTerms, Sight};
pub use handle::{
    Attached, Attachment, AttachmentEnd, AttachmentWatch, Consumer, ConsumerName,
    ConsumerNameError, LogHandle, LogOptions, Opened,
};
pub use listener::{Heard, Listener, Lost, Reset, Start, judge};
pub use ring::{Ephemeral, Log, Pulse, RING_BYTES_MAX, RING_ENTRIES_MAX, RingBudget, RingRead};
