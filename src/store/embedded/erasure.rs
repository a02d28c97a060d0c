//! Rows that nobody sees any more go away a bounded piece at a time, in between the commits.

use std::collections::VecDeque;

use actors::ports::StoreError;

use super::engine::{Space, View};
use super::keys::{self, Place};

/// Rows that go in one commit.
pub(super) const CHUNK: usize = 256;

const TABLES: [Space; 6] = [
    Space::Messages,
    Space::ByDevice,
    Space::Outbox,
    Space::Upstream,
    Space::Chats,
    Space::Directory,
];

/// Something to be erased.
#[derive(Debug)]
pub(super) enum Task {
    /// The rows of a removed device, from a place in one of the tables on.
    Device {
        /// Where they lie.
        place: Place,
        /// Which of the tables.
        table: usize,
        /// Everything up to here is erased.
        beyond: Option<Vec<u8>>,
    },
    /// The entries behind a tenant's floor.
    Log {
        /// Whose.
        tenant: u32,
    },
}

impl Task {
    /// A device whose erasure begins.
    pub(super) fn device(place: Place) -> Self {
        Self::Device {
            place,
            table: 0,
            beyond: None,
        }
    }
}

/// What goes now, and what is left of the task: `None` when the device is wholly gone.
pub(super) struct Piece {
    /// The rows.
    pub(super) rows: Vec<(Space, Vec<u8>)>,
    /// What is left.
    pub(super) rest: Option<Task>,
}

/// The next rows of a device.
pub(super) fn next_piece(
    view: &View<'_>,
    place: Place,
    table: usize,
    beyond: Option<Vec<u8>>,
) -> Result<Piece, StoreError> {
    let Some(space) = TABLES.get(table).copied() else {
        return Ok(Piece {
            rows: Vec::new(),
            rest: None,
        });
    };
    let prefix = match space {
        Space::Directory => keys::session_changes(place),
        Space::Messages
        | Space::ByDevice
        | Space::Log
        | Space::Outbox
        | Space::Idempotency
        | Space::Upstream
        | Space::Chats => keys::scope(place).to_vec(),
    };
    let from = beyond.unwrap_or_else(|| prefix.clone());
    let mut rows = Vec::with_capacity(CHUNK);
    for row in view.after(space, &prefix, from).take(CHUNK) {
        rows.push((space, row?.0.to_vec()));
    }
    let rest = match rows.last() {
        Some((_, last)) if rows.len() == CHUNK => Task::Device {
            place,
            table,
            beyond: Some(last.clone()),
        },
        Some(_) | None => Task::Device {
            place,
            table: table.saturating_add(1),
            beyond: None,
        },
    };
    Ok(Piece {
        rows,
        rest: Some(rest),
    })
}

/// What is to be erased, in turn.
pub(super) type Erasures = VecDeque<Task>;
