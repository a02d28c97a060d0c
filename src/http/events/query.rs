//! What a reader over HTTP asks for.

use actors::log::{Entry, Facts, Filter, FilterTerms, Sight, Start};
use actors::model::{DeviceId, Direction, Faults, Jid};
use serde::{Deserialize, Deserializer, de};
use utoipa::IntoParams;

use crate::credentials::Caller;
use crate::http::call::Csv;
use crate::problem::{ApiError, Code};

const LIMIT_MAX: u16 = 1_000;
const LIMIT_DEFAULT: u16 = 100;
const WAIT_MAX: u8 = 30;

macro_rules! reader_query {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Deserialize, IntoParams)]
        #[serde(default, deny_unknown_fields)]
        #[derive(Default)]
        #[into_params(parameter_in = Query)]
        pub(super) struct $name {
            /// Where to begin: a cursor, `oldest`, `now` or a time.
            pub(super) after: Option<String>,
            /// Types; `*` stands for any run of characters.
            #[param(value_type = Option<Vec<String>>, example = json!(["message.*"]))]
            types: Csv<String>,
            /// Devices.
            #[param(value_type = Option<Vec<DeviceId>>)]
            devices: Csv<String>,
            /// Chats.
            #[param(value_type = Option<Vec<Jid>>)]
            chats: Csv<String>,
            /// Which way messages went; what has no direction passes.
            #[param(inline)]
            direction: Option<Direction>,
            $($(#[$field_meta])* $field: $type,)*
        }

        impl $name {
            /// The words of its filter.
            pub(super) fn terms(&self) -> FilterTerms {
                FilterTerms {
                    types: self.types.0.clone(),
                    devices: self.devices.0.clone(),
                    chats: self.chats.0.clone(),
                    direction: self.direction,
                    not: None,
                }
            }
        }
    };
}

reader_query! {
    /// What a poll asks for.
    PollQuery {
        /// Entries of an answer, 1 to 1,000.
        #[param(value_type = Option<u16>, minimum = 1, maximum = 1000, default = 100)]
        limit: Option<Limit>,
        /// How long to wait for the first entry, up to 30.
        #[param(value_type = Option<u8>, maximum = 30, default = 0)]
        wait_seconds: Option<Wait>,
    }
}

reader_query! {
    /// What a stream asks for.
    StreamQuery {}
}

impl PollQuery {
    /// How many entries an answer may have.
    pub(super) fn limit(&self) -> usize {
        self.limit.as_ref().map_or(LIMIT_DEFAULT, |it| it.0).into()
    }

    /// How long to wait.
    pub(super) fn wait_seconds(&self) -> u8 {
        self.wait_seconds.as_ref().map_or(0, |it| it.0)
    }
}

#[derive(Debug)]
struct Limit(u16);

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = u16::deserialize(deserializer)
            .ok()
            .filter(|it| (1..=LIMIT_MAX).contains(it));
        wanted
            .map(Self)
            .ok_or_else(|| de::Error::custom("must be a number from 1 to 1000"))
    }
}

#[derive(Debug)]
struct Wait(u8);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wanted = u8::deserialize(deserializer)
            .ok()
            .filter(|it| *it <= WAIT_MAX);
        wanted
            .map(Self)
            .ok_or_else(|| de::Error::custom("must be a number from 0 to 30"))
    }
}

/// A place, a filter, and what the credential allows.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) start: Start,
    pub(super) filter: Filter,
    pub(super) sight: Sight,
}

impl Wanted {
    /// Checks what is asked for.
    pub(super) fn of(
        terms: &FilterTerms,
        after: Option<&str>,
        caller: &Caller,
    ) -> Result<Self, ApiError> {
        let filter =
            Filter::compile(terms).map_err(|faults| ApiError::invalid(in_query(faults)))?;
        let start = after.map_or(Ok(Start::Now), |it| parse_start(it, "?after"))?;
        Ok(Self {
            start,
            filter,
            sight: Sight::new(caller.scopes(), caller.devices()),
        })
    }

    /// Whether an entry is wanted and allowed.
    pub(super) fn passes(&self, entry: &Entry) -> bool {
        let facts = Facts::from(entry);
        self.filter.passes(facts) && self.sight.sees(facts)
    }
}

/// Reads a place to begin.
pub(crate) fn parse_start(text: &str, pointer: &str) -> Result<Start, ApiError> {
    text.parse().map_err(|_| wrong_cursor(pointer))
}

/// The problem of a place that is none.
pub(super) fn wrong_cursor(pointer: &str) -> ApiError {
    let faults = Faults::one(pointer, "is not a cursor, `now`, `oldest` or a time").into_vec();
    ApiError::new(Code::InvalidCursor).with("errors", serde_json::json!(faults))
}

/// A filter's faults, each once, as those of the query: `/devices/3` is `?devices`.
fn in_query(faults: Faults) -> Faults {
    let mut named: Vec<(String, String)> = Vec::new();
    for fault in faults.into_vec() {
        let member = fault.pointer.split('/').nth(1).unwrap_or("types");
        let pointer = format!("?{member}");
        if named.iter().all(|(known, _)| *known != pointer) {
            named.push((pointer, fault.detail));
        }
    }
    let mut faults = Faults::default();
    for (pointer, detail) in named {
        faults.add(pointer, detail);
    }
    faults
}
