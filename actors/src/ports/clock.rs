//! The time, as something a test can hold.

use crate::model::Timestamp;

/// Tells the wall time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}
