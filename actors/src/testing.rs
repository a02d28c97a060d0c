//! Bugs on demand, for tests: an actor that is named here panics at its next start or message. Names are those of one
//! process; ids are unique, so tests do not meet.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// When an actor panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// While it starts.
    Start,
    /// Over a message, before it has done anything about it.
    Message,
}

/// What a panic of these says.
pub const WANTED: &str = "wanted by a test";

/// How often each actor is still to panic.
static ARMED: Mutex<BTreeMap<(Moment, String), u32>> = Mutex::new(BTreeMap::new());
/// So that where no bug is wanted, nothing is looked up.
static ARMED_LEN: AtomicUsize = AtomicUsize::new(0);

/// Has an actor panic at its next `times` starts or messages. Actors are called `chat DEV JID`, `device DEV`,
/// `tenant TEN` and `log TEN`.
pub fn panic_in(actor: impl Into<String>, moment: Moment, times: u32) {
    let mut armed = ARMED.lock();
    armed.insert((moment, actor.into()), times);
    ARMED_LEN.store(armed.len(), Ordering::Release);
}

/// An actor starts.
pub(crate) fn at_start(actor: &'static str, name: &dyn Display) {
    failpoint(Moment::Start, actor, name);
}

/// An actor has a message.
pub(crate) fn at_message(actor: &'static str, name: &dyn Display) {
    failpoint(Moment::Message, actor, name);
}

#[expect(clippy::panic, reason = "that is what it is for")]
fn failpoint(moment: Moment, actor: &'static str, name: &dyn Display) {
    if ARMED_LEN.load(Ordering::Acquire) == 0 {
        return;
    }
    let mut armed = ARMED.lock();
    let key = (moment, format!("{actor} {name}"));
    let Some(left) = armed.get_mut(&key) else {
        return;
    };
    *left = left.saturating_sub(1);
    if *left == 0 {
        armed.remove(&key);
    }
    ARMED_LEN.store(armed.len(), Ordering::Release);
    drop(armed);
    panic!("{WANTED}");
}
