//! What a reader wants to hear, and what its credential lets it hear: two filters that look at headers only.

use std::sync::Arc;

use super::{Entry, Ephemeral};
use crate::model::{DeviceId, Direction, EventType, Faults, Jid, ScopeSet, TypeSet};

/// The most terms of a filter, those under `not` included.
pub const FILTER_TERMS_MAX: usize = 64;
/// How deep `not` may stand in `not`.
const NOT_DEPTH_MAX: usize = 4;
const GLOB_LEN_MAX: usize = 64;

/// What filters look at.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// What happened.
    pub kind: EventType,
    /// To which device.
    pub device: Option<DeviceId>,
    /// In which chat.
    pub chat: Option<&'a Jid>,
    /// Which way, for messages.
    pub direction: Option<Direction>,
}

impl<'a> From<&'a Entry> for Facts<'a> {
    fn from(entry: &'a Entry) -> Self {
        let header = entry.header();
        Self {
            kind: header.kind,
            device: header.device,
            chat: header.chat.as_ref(),
            direction: header.direction,
        }
    }
}

impl<'a> From<&'a Ephemeral> for Facts<'a> {
    fn from(event: &'a Ephemeral) -> Self {
        Self {
            kind: event.kind,
            device: Some(event.device),
            chat: event.chat.as_ref(),
            direction: None,
        }
    }
}

/// The words of a filter, before they are checked. An empty list asks for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterTerms {
    /// Globs of types.
    pub types: Vec<String>,
    /// Ids of devices.
    pub devices: Vec<String>,
    /// Addresses of chats.
    pub chats: Vec<String>,
    /// Which way, for messages.
    pub direction: Option<Direction>,
    /// What is left out.
    pub not: Option<Box<Self>>,
}

impl FilterTerms {
    fn count(&self) -> usize {
        let own = self.types.len()
            + self.devices.len()
            + self.chats.len()
            + usize::from(self.direction.is_some());
        own + self.not.as_ref().map_or(0, |it| it.count())
    }

    fn depth(&self) -> usize {
        1 + self.not.as_ref().map_or(0, |it| it.depth())
    }
}

/// A filter that was checked and is quick to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    types: TypeSet,
    devices: Box<[DeviceId]>,
    chats: Box<[Jid]>,
    direction: Option<Direction>,
    not: Option<Box<Self>>,
}

impl Default for Filter {
    /// Lets everything pass.
    fn default() -> Self {
        Self {
            types: TypeSet::ALL,
            devices: Box::default(),
            chats: Box::default(),
            direction: None,
            not: None,
        }
    }
}

impl Filter {
    /// Checks and compiles a filter.
    ///
    /// # Errors
    ///
    /// Every rule that is broken, with pointers such as `/types/0` and `/not/devices/2`.
    pub fn compile(terms: &FilterTerms) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        faults.check(
            terms.count() <= FILTER_TERMS_MAX,
            "",
            "a filter has at most 64 terms",
        );
        faults.check(terms.depth() <= NOT_DEPTH_MAX, "/not", "stands too deep");
        faults.into_result()?;
        Self::compile_terms(terms)
    }

    fn compile_terms(terms: &FilterTerms) -> Result<Self, Faults> {
        let mut faults = Faults::default();
        let mut types = if terms.types.is_empty() {
            TypeSet::ALL
        } else {
            TypeSet::NONE
        };
        for (place, glob) in terms.types.iter().enumerate() {
            faults.check(
                is_glob(glob),
                &format!("/types/{place}"),
                "is not the name of an event type, in which `*` stands for any run",
            );
            types = types.or(TypeSet::matching(glob));
        }
        let devices = parse_all(&terms.devices, "/devices", &mut faults);
        let chats = parse_all(&terms.chats, "/chats", &mut faults);
        let not = match terms.not.as_ref().map(|it| Self::compile_terms(it)) {
            Some(Ok(not)) => Some(Box::new(not)),
            Some(Err(inner)) => {
                faults.extend(inner.under("/not"));
                None
            }
            None => None,
        };
        faults.into_result()?;
        Ok(Self {
            types,
            devices,
            chats,
            direction: terms.direction,
            not,
        })
    }

    /// Whether a reader with this filter wants to hear it.
    #[must_use]
    pub fn passes(&self, facts: Facts<'_>) -> bool {
        // A message that goes the other way is not wanted; what has no direction is.
        let direction = self.direction.is_none()
            || facts.direction.is_none()
            || self.direction == facts.direction;
        direction && self.names(facts) && !self.not.as_ref().is_some_and(|it| it.hits(facts))
    }

    /// Whether it is what a `not` names. Here an entry without a direction is not meant by `direction`.
    fn hits(&self, facts: Facts<'_>) -> bool {
        let direction = self.direction.is_none() || self.direction == facts.direction;
        direction && self.names(facts) && !self.not.as_ref().is_some_and(|it| it.hits(facts))
    }

    fn names(&self, facts: Facts<'_>) -> bool {
        self.types.has(facts.kind)
            && (self.devices.is_empty()
                || facts.device.is_some_and(|it| self.devices.contains(&it)))
            && (self.chats.is_empty() || facts.chat.is_some_and(|it| self.chats.contains(it)))
    }
}

fn parse_all<T: std::str::FromStr<Err: std::fmt::Display>>(
    texts: &[String],
    pointer: &str,
    faults: &mut Faults,
) -> Box<[T]> {
    let mut parsed = Vec::with_capacity(texts.len());
    for (place, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(value) => parsed.push(value),
            Err(error) => faults.add(format!("{pointer}/{place}"), format!("is {error}")),
        }
    }
    parsed.into()
}

fn is_glob(text: &str) -> bool {
    let known = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'*')
    };
    !text.is_empty() && text.len() <= GLOB_LEN_MAX && text.bytes().all(known)
}

/// What a credential lets its bearer hear: the second filter, which no wish can widen.
#[derive(Clone, Debug)]
pub struct Sight {
    types: TypeSet,
    devices: Arc<[DeviceId]>,
}

impl Sight {
    /// The sight of a credential with these rights, bound to these devices (none: to all).
    #[must_use]
    pub fn new(scopes: ScopeSet, devices: &[DeviceId]) -> Self {
        Self {
            types: TypeSet::allowed(scopes),
            devices: devices.into(),
        }
    }

    /// Whether it may be shown.
    #[must_use]
    pub fn sees(&self, facts: Facts<'_>) -> bool {
        self.types.has(facts.kind) && (self.devices.is_empty() || self.owns(facts))
    }

    fn owns(&self, facts: Facts<'_>) -> bool {
        match facts.device {
            Some(device) => self.devices.contains(&device),
            None => facts.kind.as_str().starts_with("tenant."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Scope;

    fn facts(kind: EventType, direction: Option<Direction>) -> Facts<'static> {
        Facts {
            kind,
            device: None,
            chat: None,
            direction,
        }
    }

    fn types(globs: &[&str]) -> FilterTerms {
        FilterTerms {
            types: globs.iter().map(|it| (*it).to_owned()).collect(),
            ..FilterTerms::default()
        }
    }

    #[test]
    fn all_named_members_must_fit() {
        let device = DeviceId::generate();
        let chat: Jid = "51999888777".parse().unwrap();
        let mut terms = types(&["message.*"]);
        terms.devices = vec![device.to_string()];
        terms.chats = vec!["+51 999 888 777".into()];
        let filter = Filter::compile(&terms).unwrap();
        let fits = Facts {
            kind: EventType::MessageCreated,
            device: Some(device),
            chat: Some(&chat),
            direction: None,
        };
        assert!(filter.passes(fits));
        assert!(!filter.passes(Facts {
            kind: EventType::ChatRead,
            ..fits
        }));
        assert!(!filter.passes(Facts {
            device: Some(DeviceId::generate()),
            ..fits
        }));
        assert!(!filter.passes(Facts {
            device: None,
            ..fits
        }));
        assert!(!filter.passes(Facts { chat: None, ..fits }));
        assert!(Filter::default().passes(fits));
    }

    #[test]
    fn what_has_no_direction_passes_and_is_never_left_out_for_it() {
        let wanted = Filter::compile(&FilterTerms {
            direction: Some(Direction::In),
            ..FilterTerms::default()
        })
        .unwrap();
        assert!(wanted.passes(facts(EventType::MessageReceived, Some(Direction::In))));
        assert!(!wanted.passes(facts(EventType::MessageCreated, Some(Direction::Out))));
        assert!(wanted.passes(facts(EventType::DeviceState, None)));
        let not = Some(Box::new(FilterTerms {
            direction: Some(Direction::Out),
            ..FilterTerms::default()
        }));
        let unwanted = Filter::compile(&FilterTerms {
            not,
            ..FilterTerms::default()
        })
        .unwrap();
        assert!(!unwanted.passes(facts(EventType::MessageCreated, Some(Direction::Out))));
        assert!(unwanted.passes(facts(EventType::DeviceState, None)));
    }

    #[test]
    fn faults_name_their_place() {
        let mut terms = types(&["message.*", "no spaces"]);
        terms.not = Some(Box::new(FilterTerms {
            devices: vec!["nonsense".into()],
            ..FilterTerms::default()
        }));
        let faults = Filter::compile(&terms).unwrap_err().into_vec();
        let pointers: Vec<_> = faults.iter().map(|it| it.pointer.as_str()).collect();
        assert_eq!(pointers, ["/types/1", "/not/devices/0"]);
        let many: Vec<&str> = vec!["message.*"; 65];
        assert!(Filter::compile(&types(&many)).is_err());
        assert!(Filter::compile(&types(&many[..64])).is_ok());
        assert!(
            Filter::compile(&types(&["group.*"])).is_ok(),
            "types that are still to come may be asked for"
        );
    }

    #[test]
    fn a_bound_credential_sees_its_devices_only() {
        let device = DeviceId::generate();
        let scopes: ScopeSet = [Scope::EventsRead, Scope::MessagesRead]
            .into_iter()
            .collect();
        let sight = Sight::new(scopes, &[device]);
        let own = Facts {
            device: Some(device),
            ..facts(EventType::MessageCreated, None)
        };
        assert!(sight.sees(own));
        assert!(!sight.sees(Facts {
            device: Some(DeviceId::generate()),
            ..own
        }));
        assert!(!sight.sees(Facts {
            device: None,
            ..own
        }));
        assert!(
            !sight.sees(Facts {
                kind: EventType::DeviceState,
                ..own
            }),
            "its family is not allowed"
        );
        assert!(Sight::new(scopes, &[]).sees(Facts {
            device: None,
            ..own
        }));
        let blind: ScopeSet = [Scope::MessagesRead].into_iter().collect();
        assert!(!Sight::new(blind, &[]).sees(own));
    }
}
