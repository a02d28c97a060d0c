//! What moves stays the same.
