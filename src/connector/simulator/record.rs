//! What the network keeps in the store: its keys, its values, and how they are written.
//!
//! `link/<device>` the account of a device · `phone/<number or *>` how a virtual phone behaves · `mail/<number>/<order>`
//! what waits for an account that is away · `mark/<device>` from which message on receipts may be owed.
//! A value is a format version and then MessagePack.

use actors::model::{Content, DeviceId, Direction, Jid, MessageId, PhoneNumber, Status, Timestamp};
use actors::ports::StoreError;
use actors::ports::connector::{Incoming, IncomingMessage};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::digits::Digits;

/// The space of the connector's values.
pub(super) const SPACE: &str = "simulator";
/// What stands before the keys of links.
pub(super) const LINKS: &[u8] = b"link/";
/// What stands before the keys of phones.
pub(super) const PHONES: &[u8] = b"phone/";
/// What stands before the keys of marks.
pub(super) const MARKS: &[u8] = b"mark/";
/// What stands before the keys of kept mail.
pub(super) const MAIL: &[u8] = b"mail/";

const VERSION: u8 = 1;

/// The account of a device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Link {
    /// Its number.
    pub(super) number: PhoneNumber,
    /// Whether the network has shut it out.
    pub(super) banned: bool,
    /// How it is limited.
    pub(super) restricted: Option<Restriction>,
}

/// How the network limits an account.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Restriction {
    /// Why.
    pub(super) reason: String,
    /// Until when.
    pub(super) until: Timestamp,
}

/// What is for a device: the same as [`Incoming`], but it can be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Kept {
    /// A message.
    Message {
        /// The chat, seen from the receiver.
        chat: Jid,
        /// Who wrote it.
        from: Jid,
        /// Who wrote it within a group.
        participant: Option<Jid>,
        /// The network's name for it.
        upstream_id: String,
        /// What it carries.
        content: Content,
        /// When it was written.
        at: Timestamp,
        /// The sender's name for it, where the sender is a simulated device that waits for receipts.
        id: Option<MessageId>,
    },
    /// A receipt.
    Receipt {
        /// The chat, seen from who gets the receipt.
        chat: Jid,
        /// The name of the message.
        id: Option<MessageId>,
        /// The network's name of the message.
        upstream_id: String,
        /// What it says.
        status: Status,
        /// When.
        at: Timestamp,
    },
}

impl From<Kept> for Incoming {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Message {
                chat,
                from,
                participant,
                upstream_id,
                content,
                at,
                id: _,
            } => {
                let message = IncomingMessage {
                    chat,
                    from,
                    participant,
                    direction: Direction::In,
                    upstream_id,
                    content,
                    at,
                };
                Self::Message(Box::new(message))
            }
            Kept::Receipt {
                chat,
                id,
                upstream_id,
                status,
                at,
            } => Self::Receipt {
                chat,
                id,
                upstream_id,
                status,
                at,
                participant: None,
            },
        }
    }
}

/// Writes a value.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Bytes, StoreError> {
    let mut out = vec![VERSION];
    rmp_serde::encode::write_named(&mut out, value).map_err(|source| StoreError::Engine {
        operation: "encode a value of the simulated network",
        source: Box::new(source),
    })?;
    Ok(out.into())
}

/// Reads a value; `None` where it is not one that this version wrote.
pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Option<T> {
    let (version, rest) = value.split_first()?;
    if *version != VERSION {
        return None;
    }
    rmp_serde::from_slice(rest).ok()
}

/// The key of a device's link.
pub(super) fn link_key(device: DeviceId) -> Vec<u8> {
    format!("link/{device}").into_bytes()
}

/// The key of a device's mark.
pub(super) fn mark_key(device: DeviceId) -> Vec<u8> {
    format!("mark/{device}").into_bytes()
}

/// The device that a link or a mark is of.
pub(super) fn device_of(key: &[u8], prefix: &[u8]) -> Option<DeviceId> {
    std::str::from_utf8(key.strip_prefix(prefix)?)
        .ok()?
        .parse()
        .ok()
}

/// The key of a phone's settings; of all phones without their own where `None`.
pub(super) fn phone_key(number: Option<Digits>) -> Vec<u8> {
    number
        .map_or_else(|| "phone/*".to_owned(), |number| format!("phone/{number}"))
        .into_bytes()
}

/// Which phone settings are of: `Some(None)` is the default of all.
pub(super) fn phone_of(key: &[u8]) -> Option<Option<Digits>> {
    match std::str::from_utf8(key.strip_prefix(PHONES)?).ok()? {
        "*" => Some(None),
        text => Digits::parse(text).map(Some),
    }
}

/// What stands before the keys of an account's mail.
pub(super) fn mail_prefix(number: Digits) -> Vec<u8> {
    format!("mail/{number}/").into_bytes()
}

/// The key of one piece of mail.
pub(super) fn mail_key(number: Digits, order: u64) -> Vec<u8> {
    format!("mail/{number}/{order:016x}").into_bytes()
}

/// Whose mail it is, and its place.
pub(super) fn mail_of(key: &[u8]) -> Option<(Digits, u64)> {
    let (number, order) = std::str::from_utf8(key.strip_prefix(MAIL)?)
        .ok()?
        .split_once('/')?;
    Some((Digits::parse(number)?, u64::from_str_radix(order, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_whole() {
        let contents = [
            Content::Text {
                text: "ñ ✓".to_owned(),
                preview_url: None,
            },
            Content::Location {
                latitude: -12.046_374,
                longitude: 0.1 + 0.2,
                name: None,
                address: Some("x".to_owned()),
            },
            Content::Contacts {
                contacts: None,
                vcard: Some("BEGIN:VCARD\nEND:VCARD".to_owned()),
            },
        ];
        for content in contents {
            let kept = Kept::Message {
                chat: "51999888777".parse().unwrap(),
                from: "51999888777".parse().unwrap(),
                participant: None,
                upstream_id: "X".to_owned(),
                content: content.clone(),
                at: Timestamp::from_millis(5),
                id: Some(MessageId::from_u128(9)),
            };
            let back: Kept = decode(&encode(&kept).unwrap()).unwrap();
            let Kept::Message {
                content: back,
                at,
                id,
                ..
            } = back
            else {
                panic!("a message stays one")
            };
            assert_eq!(
                (back, at, id),
                (
                    content,
                    Timestamp::from_millis(5),
                    Some(MessageId::from_u128(9))
                )
            );
        }
        assert!(decode::<Kept>(b"\x02\x80").is_none());
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let (device, number) = (DeviceId::generate(), Digits::parse("0051999").unwrap());
        assert_eq!(device_of(&link_key(device), LINKS), Some(device));
        assert_eq!(device_of(&mark_key(device), MARKS), Some(device));
        assert_eq!(phone_of(&phone_key(None)), Some(None));
        assert_eq!(phone_of(&phone_key(Some(number))), Some(Some(number)));
        assert_eq!(mail_of(&mail_key(number, 77)), Some((number, 77)));
        assert!(mail_key(number, 255) < mail_key(number, 256));
    }
}
