//! What is wrong with a request, member by member.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One broken rule, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// A JSON pointer (RFC 6901) into the body, `?name` for the query, `@Name` for a header.
    #[schema(example = "/content/text")]
    pub pointer: String,
    /// The rule, for people.
    pub detail: String,
}

/// Everything that is wrong with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

/// No more than this many are told at once.
const FAULTS_MAX: usize = 32;

impl Faults {
    /// A list with one entry.
    #[must_use]
    pub fn one(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let mut faults = Self::default();
        faults.add(pointer, detail);
        faults
    }

    /// Adds an entry; a list that is full stays as it is.
    pub fn add(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        if self.0.len() < FAULTS_MAX {
            self.0.push(Fault {
                pointer: pointer.into(),
                detail: detail.into(),
            });
        }
    }

    /// Adds an entry unless the rule holds.
    pub fn check(&mut self, holds: bool, pointer: &str, detail: &str) {
        if !holds {
            self.add(pointer, detail);
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `Ok` where nothing is wrong.
    ///
    /// # Errors
    ///
    /// The list itself, where something is.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// The same list, seen from outside of the member `prefix`.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        for fault in &mut self.0 {
            fault.pointer.insert_str(0, prefix);
        }
        self
    }

    /// Adds all of another list.
    pub fn extend(&mut self, other: Self) {
        for fault in other.0 {
            self.add(fault.pointer, fault.detail);
        }
    }

    /// The entries.
    #[must_use]
    pub fn into_vec(self) -> Vec<Fault> {
        self.0
    }
}
