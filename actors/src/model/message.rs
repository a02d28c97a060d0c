//! Messages: what they carry, how far they got.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{DeviceId, Faults, Jid, MessageId, Timestamp};

/// The longest text, in characters.
pub const TEXT_CHARS_MAX: usize = 65_536;
/// How long a message waits for its device when nothing else is said.
pub const EXPIRES_DEFAULT: std::time::Duration = std::time::Duration::from_hours(24);
/// The longest `delay_ms`.
pub const DELAY_MAX: std::time::Duration = std::time::Duration::from_mins(1);
/// How far ahead `send_at` may lie.
pub const SCHEDULE_MAX: std::time::Duration = std::time::Duration::from_hours(24 * 365);

/// The integrator's own pairs, echoed unchanged.
pub type Metadata = BTreeMap<String, String>;

/// What a message carries: one object with a `type`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// Plain text.
    Text {
        /// The text, 1 to 65,536 characters.
        text: String,
        /// Whether the network may show a preview of a link.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        preview_url: Option<bool>,
    },
    /// A point on the map.
    Location {
        /// Degrees north, −90 to 90.
        latitude: f64,
        /// Degrees east, −180 to 180.
        longitude: f64,
        /// The name of the place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Its address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Business cards: either `contacts` or `vcard`.
    Contacts {
        /// The cards, 1 to 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        contacts: Option<Vec<ContactCard>>,
        /// The cards as a vCard text instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vcard: Option<String>,
    },
}

/// One business card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContactCard {
    /// The name to show.
    pub name: String,
    /// Phone numbers, at least one.
    pub phones: Vec<String>,
    /// Where the person works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Mail addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emails: Option<Vec<String>>,
    /// Web addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

/// The `type` of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContentKind {
    /// Plain text.
    Text,
    /// A point on the map.
    Location,
    /// Business cards.
    Contacts,
}

const CARDS_MAX: usize = 100;
const FIELD_CHARS_MAX: usize = 1_024;

impl Content {
    /// Its `type`.
    #[must_use]
    pub const fn kind(&self) -> ContentKind {
        match self {
            Self::Text { .. } => ContentKind::Text,
            Self::Location { .. } => ContentKind::Location,
            Self::Contacts { .. } => ContentKind::Contacts,
        }
    }

    /// Checks the rules that hold on every network; pointers start at the content.
    ///
    /// # Errors
    ///
    /// Every rule that is broken.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        match self {
            Self::Text {
                text,
                preview_url: _,
            } => {
                let chars = text.chars().take(TEXT_CHARS_MAX + 1).count();
                faults.check(!text.is_empty(), "/text", "must not be empty");
                faults.check(
                    chars <= TEXT_CHARS_MAX,
                    "/text",
                    "must have at most 65,536 characters",
                );
            }
            Self::Location {
                latitude,
                longitude,
                name,
                address,
            } => {
                faults.check(
                    latitude.abs() <= 90.0,
                    "/latitude",
                    "must be within -90 and 90",
                );
                faults.check(
                    longitude.abs() <= 180.0,
                    "/longitude",
                    "must be within -180 and 180",
                );
                check_field(&mut faults, "/name", name.as_deref());
                check_field(&mut faults, "/address", address.as_deref());
            }
            Self::Contacts {
                contacts: Some(cards),
                vcard: None,
            } => {
                faults.check(
                    (1..=CARDS_MAX).contains(&cards.len()),
                    "/contacts",
                    "must have 1 to 100 entries",
                );
                for (place, card) in cards.iter().enumerate().take(CARDS_MAX) {
                    card.check(&mut faults, place);
                }
            }
            Self::Contacts {
                contacts: None,
                vcard: Some(vcard),
            } => {
                let framed = vcard.trim_start().starts_with("BEGIN:VCARD")
                    && vcard.trim_end().ends_with("END:VCARD");
                faults.check(framed, "/vcard", "must be a vCard: BEGIN:VCARD … END:VCARD");
                faults.check(
                    vcard.len() <= TEXT_CHARS_MAX,
                    "/vcard",
                    "must have at most 65,536 bytes",
                );
            }
            Self::Contacts {
                contacts: _,
                vcard: _,
            } => faults.add("/contacts", "give either contacts or vcard"),
        }
        faults.into_result()
    }
}

impl ContactCard {
    fn check(&self, faults: &mut Faults, place: usize) {
        let at = |member: &str| format!("/contacts/{place}/{member}");
        faults.check(
            !self.name.trim().is_empty(),
            &at("name"),
            "must not be empty",
        );
        check_field(faults, &at("name"), Some(&self.name));
        check_field(faults, &at("organization"), self.organization.as_deref());
        faults.check(
            (1..=20).contains(&self.phones.len()),
            &at("phones"),
            "must have 1 to 20 entries",
        );
        let lists = [
            ("phones", Some(&self.phones)),
            ("emails", self.emails.as_ref()),
            ("urls", self.urls.as_ref()),
        ];
        for (member, list) in lists {
            let short = list.is_none_or(|it| {
                it.len() <= 20
                    && it
                        .iter()
                        .all(|text| !text.is_empty() && text.chars().count() <= FIELD_CHARS_MAX)
            });
            faults.check(
                short,
                &at(member),
                "must have at most 20 texts of 1 to 1,024 characters",
            );
        }
    }
}

fn check_field(faults: &mut Faults, pointer: &str, text: Option<&str>) {
    let fits = text.is_none_or(|it| it.chars().count() <= FIELD_CHARS_MAX);
    faults.check(fits, pointer, "must have at most 1,024 characters");
}

/// Checks the bounds of [`Metadata`]; pointers start at the metadata.
///
/// # Errors
///
/// Every rule that is broken.
pub fn check_metadata(metadata: &Metadata) -> Result<(), Faults> {
    let mut faults = Faults::default();
    faults.check(metadata.len() <= 50, "", "must have at most 50 pairs");
    for (key, value) in metadata.iter().take(50) {
        let at = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
        faults.check(
            (1..=64).contains(&key.chars().count()),
            &at,
            "a key must have 1 to 64 characters",
        );
        faults.check(
            value.chars().count() <= 500,
            &at,
            "must have at most 500 characters",
        );
    }
    faults.into_result()
}

/// Which way a message went, seen from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// To the device.
    In,
    /// From the device.
    Out,
}

/// How far a message got. The order of the first six is the ladder; it never goes back.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its `send_at`.
    Scheduled,
    /// Stored, and waits for the network.
    Queued,
    /// The network has it.
    Sent,
    /// The receiver's phone has it. An inbound message starts here.
    Delivered,
    /// It was read.
    Read,
    /// It was listened to or watched.
    Played,
    /// It will not arrive; `error` says why.
    Failed,
    /// It waited for too long.
    Expired,
    /// It was taken back.
    Revoked,
}

impl Status {
    /// Whether nothing can follow.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Expired | Self::Revoked)
    }

    /// Whether `next` is a step forward from here.
    #[must_use]
    pub fn allows(self, next: Self) -> bool {
        match next {
            Self::Failed | Self::Expired => self <= Self::Queued,
            Self::Revoked => !self.is_final(),
            Self::Scheduled
            | Self::Queued
            | Self::Sent
            | Self::Delivered
            | Self::Read
            | Self::Played => !self.is_final() && self < next,
        }
    }
}

/// Why a message failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageError {
    /// A stable word, such as `not_on_network`.
    pub code: String,
    /// The same for people.
    pub detail: String,
}

/// What of a message never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MessageBody {
    /// Its name.
    pub id: MessageId,
    /// The device that has it.
    pub device: DeviceId,
    /// The chat it belongs to.
    pub chat: Jid,
    /// Which way it went.
    pub direction: Direction,
    /// Who wrote it; absent as long as the device has no number.
    pub from: Option<Jid>,
    /// Whom it was written to.
    pub to: Option<Jid>,
    /// Who wrote it within a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<Jid>,
    /// The type of its content.
    #[serde(rename = "type")]
    pub kind: ContentKind,
    /// What it carries.
    pub content: Content,
    /// The message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<MessageId>,
    /// Who is named in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mentions: Option<Vec<Jid>>,
    /// Whether it names everyone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mention_all: bool,
    /// The integrator's own pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The network's name for it.
    pub upstream_id: String,
    /// When the gateway took it.
    pub created_at: Timestamp,
    /// When it is to be handed to the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_at: Option<Timestamp>,
    /// How long it is held back, together with those behind it in its chat, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u32>,
    /// When it stops waiting for its device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What of a message changes: a small row of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MessageState {
    /// How far it got.
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<MessageError>,
    /// When the network took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<Timestamp>,
    /// When it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
    /// When it was played.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub played_at: Option<Timestamp>,
}

impl MessageState {
    /// The state of a message that was just stored.
    #[must_use]
    pub const fn new(status: Status) -> Self {
        Self {
            status,
            error: None,
            sent_at: None,
            delivered_at: None,
            read_at: None,
            played_at: None,
        }
    }

    /// The state after a step, or `None` where it is not a step forward. A later receipt implies the earlier ones: where
    /// they did not come, they happened no later than this one.
    #[must_use]
    pub fn advanced(&self, step: &Step) -> Option<Self> {
        if !self.status.allows(step.status) {
            return None;
        }
        let mut next = self.clone();
        next.status = step.status;
        next.error.clone_from(&step.error);
        let rungs = [
            (Status::Sent, &mut next.sent_at),
            (Status::Delivered, &mut next.delivered_at),
            (Status::Read, &mut next.read_at),
            (Status::Played, &mut next.played_at),
        ];
        for (rung, at) in rungs {
            if !step.status.is_final() && rung <= step.status && at.is_none() {
                *at = Some(step.at);
            }
        }
        Some(next)
    }
}

/// One step of a message: what `message.status` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The status after it.
    pub status: Status,
    /// When it happened, by the network's clock where it is the network's.
    pub at: Timestamp,
    /// Why it failed.
    pub error: Option<MessageError>,
    /// Whose receipt it was.
    pub participant: Option<Jid>,
}

impl Step {
    /// A step forward.
    #[must_use]
    pub const fn to(status: Status, at: Timestamp) -> Self {
        Self {
            status,
            at,
            error: None,
            participant: None,
        }
    }

    /// The end of a message that can't arrive.
    #[must_use]
    pub fn failed(at: Timestamp, code: &str, detail: &str) -> Self {
        let error = MessageError {
            code: code.to_owned(),
            detail: detail.to_owned(),
        };
        Self {
            status: Status::Failed,
            at,
            error: Some(error),
            participant: None,
        }
    }
}

/// A message as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Message {
    /// What never changes.
    #[serde(flatten)]
    pub body: MessageBody,
    /// How far it got.
    #[serde(flatten)]
    pub state: MessageState,
    /// What people put on it.
    #[serde(flatten)]
    pub marks: Marks,
}

impl Message {
    /// A message with nothing put on it.
    #[must_use]
    pub fn new(body: MessageBody, state: MessageState) -> Self {
        Self {
            body,
            state,
            marks: Marks::default(),
        }
    }
}

/// What people put on a message. No operation puts anything on one yet: a reader can rely on the members all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Marks {
    /// Reactions, one a person.
    pub reactions: Vec<Reaction>,
    /// Whether the account has starred it.
    pub starred: bool,
    /// Whether it is pinned in its chat.
    pub pinned: bool,
}

/// A reaction to a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reaction {
    /// One emoji.
    pub emoji: String,
    /// Whose.
    pub from: Jid,
    /// Since when.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [Status; 9] = [
        Status::Scheduled,
        Status::Queued,
        Status::Sent,
        Status::Delivered,
        Status::Read,
        Status::Played,
        Status::Failed,
        Status::Expired,
        Status::Revoked,
    ];

    proptest! {
        #[test]
        fn the_ladder_never_goes_back_and_no_step_comes_twice(steps in prop::collection::vec(0..ALL.len(), 0..40)) {
            let mut state = MessageState::new(Status::Queued);
            for step in steps {
                let step = Step::to(ALL[step], Timestamp::from_millis(1));
                if let Some(next) = state.advanced(&step) {
                    prop_assert!(state.status < next.status);
                    prop_assert!(!state.status.is_final());
                    state = next;
                }
            }
        }
    }

    #[test]
    fn what_was_sent_can_no_longer_fail_or_expire() {
        let sent = MessageState::new(Status::Sent);
        assert_eq!(
            sent.advanced(&Step::failed(Timestamp::default(), "x", "y")),
            None
        );
        assert_eq!(
            sent.advanced(&Step::to(Status::Expired, Timestamp::default())),
            None
        );
    }

    #[test]
    fn faults_name_their_member() {
        let content = Content::Location {
            latitude: 91.0,
            longitude: f64::NAN,
            name: None,
            address: None,
        };
        let pointers: Vec<String> = content
            .check()
            .unwrap_err()
            .into_vec()
            .into_iter()
            .map(|it| it.pointer)
            .collect();
        assert_eq!(pointers, ["/latitude", "/longitude"]);
    }

    #[test]
    fn a_text_may_have_65536_characters_and_no_more() {
        let text = |chars: usize| Content::Text {
            text: "ñ".repeat(chars),
            preview_url: None,
        };
        assert!(text(TEXT_CHARS_MAX).check().is_ok());
        assert!(text(TEXT_CHARS_MAX + 1).check().is_err());
        assert!(text(0).check().is_err());
    }
}
