//! How keys are written: numbers and ids big-endian, so that the order of bytes is the order of things.
//!
//! The tenant stands in front of everything that belongs to one, and its device behind it; both as the numbers under
//! which the store knows them. A device that is removed takes its number with it, which hides all its rows at once.

use actors::model::{DeviceId, EventId, Jid, JidKind, KeyId, MessageId, TenantId};

/// Whose rows: the numbers of a tenant and of one of its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The tenant's number.
    pub(super) tenant: u32,
    /// The device's number.
    pub(super) device: u32,
}

/// The two rows of a message, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What never changes.
    Body,
    /// How far it got.
    State,
}

const TENANT: u8 = b'T';
const HEAD: u8 = b'H';
const FLOOR: u8 = b'F';
const DEVICE: u8 = b'D';
const ERASURE: u8 = b'E';
const KEY: u8 = b'K';
const KEY_OWNER: u8 = b'k';
const CONSUMER: u8 = b'N';
const SESSION_CHANGE: u8 = b'S';
const VALUE: u8 = b'V';
const COMMIT: u8 = b'C';

fn of(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + parts.iter().map(|it| it.len()).sum::<usize>());
    key.push(tag);
    parts.iter().for_each(|it| key.extend_from_slice(it));
    key
}

/// The row that every commit carries: its key is found again in the journal's raw bytes, so it holds the store's own
/// random id, which no caller can guess.
pub(super) fn commit(store: [u8; 16]) -> Vec<u8> {
    of(COMMIT, &[&store])
}

pub(super) fn tenant(id: TenantId) -> Vec<u8> {
    of(TENANT, &[&id.to_bytes()])
}

pub(super) fn tenants() -> Vec<u8> {
    of(TENANT, &[])
}

pub(super) fn head(tenant: u32) -> Vec<u8> {
    of(HEAD, &[&tenant.to_be_bytes()])
}

pub(super) fn heads() -> Vec<u8> {
    of(HEAD, &[])
}

pub(super) fn floor(tenant: u32) -> Vec<u8> {
    of(FLOOR, &[&tenant.to_be_bytes()])
}

pub(super) fn device(tenant: u32, id: DeviceId) -> Vec<u8> {
    of(DEVICE, &[&tenant.to_be_bytes(), &id.to_bytes()])
}

pub(super) fn devices(tenant: u32) -> Vec<u8> {
    of(DEVICE, &[&tenant.to_be_bytes()])
}

pub(super) fn all_devices() -> Vec<u8> {
    of(DEVICE, &[])
}

/// Says that the rows of a removed device are still to be erased.
pub(super) fn erasure(place: Place) -> Vec<u8> {
    of(ERASURE, &[&scope(place)])
}

pub(super) fn erasures() -> Vec<u8> {
    of(ERASURE, &[])
}

pub(super) fn key(tenant: u32, id: KeyId) -> Vec<u8> {
    of(KEY, &[&tenant.to_be_bytes(), &id.to_bytes()])
}

pub(super) fn keys(tenant: u32) -> Vec<u8> {
    of(KEY, &[&tenant.to_be_bytes()])
}

/// Leads from a key's id to its tenant. The tenant is a part of it, so that one tenant can't remove another's.
pub(super) fn key_owner(id: KeyId, tenant: u32) -> Vec<u8> {
    of(KEY_OWNER, &[&id.to_bytes(), &tenant.to_be_bytes()])
}

pub(super) fn key_owners(id: KeyId) -> Vec<u8> {
    of(KEY_OWNER, &[&id.to_bytes()])
}

pub(super) fn consumer(tenant: u32, name: &str) -> Vec<u8> {
    of(CONSUMER, &[&tenant.to_be_bytes(), name.as_bytes()])
}

pub(super) fn consumers(tenant: u32) -> Vec<u8> {
    of(CONSUMER, &[&tenant.to_be_bytes()])
}

pub(super) fn session_change(place: Place, id: EventId) -> Vec<u8> {
    of(SESSION_CHANGE, &[&scope(place), &id.to_bytes()])
}

pub(super) fn session_changes(place: Place) -> Vec<u8> {
    of(SESSION_CHANGE, &[&scope(place)])
}

/// All keys of all tenants.
pub(super) fn all_keys() -> Vec<u8> {
    of(KEY, &[])
}

/// All named consumers of all tenants.
pub(super) fn all_consumers() -> Vec<u8> {
    of(CONSUMER, &[])
}

/// The changes of all sessions.
pub(super) fn all_session_changes() -> Vec<u8> {
    of(SESSION_CHANGE, &[])
}

/// All values of all tenants.
pub(super) fn all_values() -> Vec<u8> {
    of(VALUE, &[])
}

/// A value in a connector's space; a space's name has no NUL.
pub(super) fn value(tenant: u32, space: &str, key: &[u8]) -> Vec<u8> {
    of(VALUE, &[&tenant.to_be_bytes(), space.as_bytes(), &[0], key])
}

/// What stands in front of every row of a device.
pub(super) fn scope(place: Place) -> [u8; 8] {
    (u64::from(place.tenant) << 32 | u64::from(place.device)).to_be_bytes()
}

fn in_scope(place: Place, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + 32 + parts.iter().map(|it| it.len()).sum::<usize>());
    key.extend_from_slice(&scope(place));
    parts.iter().for_each(|it| key.extend_from_slice(it));
    key
}

/// Everything in a chat.
pub(super) fn messages(place: Place, chat: &Jid) -> Vec<u8> {
    let mut key = in_scope(place, &[]);
    push_jid(&mut key, chat);
    key
}

pub(super) fn message(place: Place, chat: &Jid, id: MessageId, part: Part) -> Vec<u8> {
    let mut key = messages(place, chat);
    key.extend_from_slice(&id.to_bytes());
    key.push(match part {
        Part::Body => 0,
        Part::State => 1,
    });
    key
}

pub(super) fn by_device(place: Place, id: MessageId) -> Vec<u8> {
    in_scope(place, &[&id.to_bytes()])
}

pub(super) fn outbox(place: Place, chat: &Jid, id: MessageId) -> Vec<u8> {
    let mut key = messages(place, chat);
    key.extend_from_slice(&id.to_bytes());
    key
}

pub(super) fn upstream(place: Place, chat: &Jid, from_me: bool, upstream_id: &str) -> Vec<u8> {
    let mut key = messages(place, chat);
    key.push(u8::from(from_me));
    key.extend_from_slice(upstream_id.as_bytes());
    key
}

pub(super) fn chat(place: Place, jid: &Jid) -> Vec<u8> {
    messages(place, jid)
}

/// The answer kept for a client's key; an operation's name has no NUL.
pub(super) fn idempotency(tenant: u32, operation: &str, key: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(5 + operation.len() + key.len());
    out.extend_from_slice(&tenant.to_be_bytes());
    out.extend_from_slice(operation.as_bytes());
    out.push(0);
    out.extend_from_slice(key.as_bytes());
    out
}

pub(super) fn log(tenant: u32, seq: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(12);
    key.extend_from_slice(&tenant.to_be_bytes());
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// Writes an address short: what kind it is, what stands before the `@`, and a NUL, so that no address is the start of
/// another.
pub(crate) fn push_jid(key: &mut Vec<u8>, jid: &Jid) {
    key.push(match jid.kind() {
        JidKind::Person => 1,
        JidKind::Lid => 2,
        JidKind::Group => 3,
        JidKind::Broadcast => 4,
        JidKind::Newsletter => 5,
    });
    key.extend_from_slice(jid.user().as_bytes());
    key.push(0);
}

/// Reads an address back, and what follows it.
pub(crate) fn split_jid(bytes: &[u8]) -> Option<(Jid, &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    let end = rest.iter().position(|it| *it == 0)?;
    let (user, rest) = rest.split_at_checked(end)?;
    let user = std::str::from_utf8(user).ok()?;
    let server = match kind {
        1 => "s.whatsapp.net",
        2 => "lid",
        3 => "g.us",
        4 => "broadcast",
        5 => "newsletter",
        _ => return None,
    };
    Some((format!("{user}@{server}").parse().ok()?, rest.get(1..)?))
}

/// The 16 bytes of an id that `key` has at `at`.
pub(super) fn id_at(key: &[u8], at: usize) -> Option<[u8; 16]> {
    key.get(at..at.checked_add(16)?)?.try_into().ok()
}

/// The number that `key` has at `at`.
pub(super) fn number_at(key: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(
        key.get(at..at.checked_add(4)?)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_address_is_read_as_it_was_written() {
        for form in [
            "51999888777",
            "123@lid",
            "120363041234567890@g.us",
            "51999888777-1600000000@g.us",
            "status@broadcast",
            "12@newsletter",
        ] {
            let jid: Jid = form.parse().unwrap();
            let mut key = Vec::new();
            push_jid(&mut key, &jid);
            key.extend_from_slice(b"rest");
            assert_eq!(split_jid(&key), Some((jid, &b"rest"[..])));
        }
        assert_eq!(split_jid(b"\x09123\0"), None);
        assert_eq!(split_jid(b"\x01123"), None);
    }

    #[test]
    fn no_chat_lies_within_another() {
        let place = Place {
            tenant: 1,
            device: 2,
        };
        let (short, long) = (
            "5199988877".parse().unwrap(),
            "51999888777".parse().unwrap(),
        );
        assert!(!messages(place, &long).starts_with(&messages(place, &short)));
    }
}
