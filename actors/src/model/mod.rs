//! Nouns of the house: plain data and its rules; no async, no runtime.

mod chat;
mod device;
mod event;
mod fault;
pub mod id;
mod jid;
mod key;
mod message;
mod tenant;
mod time;

pub use chat::{Chat, LastMessage};
pub use device::{
    ConnectorChoice, ConnectorKind, Desired, Device, DeviceRecord, DeviceState, Health,
    HealthState, Qr, Session, SessionChange, SessionState,
};
pub use event::{Cursor, CursorError, EntryDraft, EntryHeader, EventType, TypeSet};
pub use fault::{Fault, Faults};
pub use id::{DeviceId, EventId, IdError, KeyId, MessageId, SimulationId, TenantId};
pub use jid::{Jid, JidError, JidKind, PhoneNumber};
pub use key::{
    ApiKey, KeyKind, KeyRecord, Scope, ScopeError, ScopeSet, Secret, SecretHash, hash_secret,
    key_of_secret,
};
pub use message::{
    ContactCard, Content, ContentKind, DELAY_MAX, Direction, EXPIRES_DEFAULT, Marks, Message,
    MessageBody, MessageError, MessageState, Metadata, Reaction, SCHEDULE_MAX, Status, Step,
    TEXT_CHARS_MAX, check_metadata,
};
pub use tenant::{Removal, Tenant, TenantLimits};
pub use time::{Timestamp, TimestampError};
