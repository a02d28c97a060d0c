//! Pages of lists: cursors that know which walk they belong to.

use actors::model::{Cursor, TenantId};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};

use super::ApiState;
use super::call::Limit;
use crate::problem::{ApiError, Code};

/// Items of a page when nothing is said.
pub(crate) const LIMIT_DEFAULT: u16 = 50;

/// Which page of a list without filters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Items of a page, 1 to 200.
    #[param(inline)]
    pub(crate) limit: Option<Limit>,
    /// Where the last page ended.
    pub(crate) cursor: Option<String>,
}

impl PageQuery {
    /// How many items a page may have.
    pub(crate) fn limit(&self) -> usize {
        self.limit.map_or(LIMIT_DEFAULT, |it| it.0).into()
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) items: Vec<T>,
    /// Ask for the next page with this; `null` at the end.
    pub(crate) next_cursor: Option<String>,
    /// The position in the event log that the list stands for: events after it are news to who has read the list.
    pub(crate) event_cursor: Cursor,
}

/// A walk over a list: the same on all of its pages.
#[derive(Debug)]
pub(crate) struct Walk {
    identity: [u8; 8],
    /// The position in the event log, taken before the first page was read.
    pub(crate) event_cursor: Cursor,
}

/// What a cursor carries.
#[derive(Serialize, Deserialize)]
struct Token<P> {
    identity: [u8; 8],
    epoch: u32,
    seq: u64,
    position: P,
}

impl Walk {
    /// Starts or goes on with a walk over `list` with these filters, all that its query may name. Gives where to go on.
    ///
    /// # Errors
    ///
    /// `invalid_cursor` for a cursor of another list, of other filters or of another tenant.
    pub(crate) fn start<P: DeserializeOwned>(
        api: &ApiState,
        tenant: TenantId,
        list: &str,
        filters: &impl Serialize,
        cursor: Option<&str>,
    ) -> Result<(Self, Option<P>), ApiError> {
        let filters = serde_json::to_vec(filters).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(tenant.to_bytes());
        hash.update(list.as_bytes());
        hash.update([0]);
        hash.update(&filters);
        let mut identity = [0; 8];
        identity
            .iter_mut()
            .zip(hash.finalize())
            .for_each(|(place, byte)| *place = byte);
        let Some(cursor) = cursor else {
            let log = api
                .store
                .log(tenant)
                .ok_or_else(|| ApiError::new(Code::Unavailable))?;
            return Ok((
                Self {
                    identity,
                    event_cursor: log.head(),
                },
                None,
            ));
        };
        let refused = || {
            ApiError::new(Code::InvalidCursor)
                .detail("the cursor does not belong to this list and its filters")
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
        let token: Token<P> = rmp_serde::from_slice(&bytes).map_err(|_| refused())?;
        if token.identity != identity {
            return Err(refused());
        }
        let event_cursor = Cursor {
            epoch: token.epoch,
            seq: token.seq,
        };
        Ok((
            Self {
                identity,
                event_cursor,
            },
            Some(token.position),
        ))
    }

    /// The cursor that goes on at `position`.
    pub(crate) fn cursor(&self, position: impl Serialize) -> String {
        let token = Token {
            identity: self.identity,
            epoch: self.event_cursor.epoch,
            seq: self.event_cursor.seq,
            position,
        };
        URL_SAFE_NO_PAD.encode(rmp_serde::to_vec(&token).unwrap_or_default())
    }

    /// A page of this walk.
    pub(crate) fn page<T>(&self, items: Vec<T>, next: Option<impl Serialize>) -> Page<T> {
        Page {
            items,
            next_cursor: next.map(|it| self.cursor(it)),
            event_cursor: self.event_cursor,
        }
    }
}

/// Cuts what lies beyond a page of one list that is wholly in memory, and says where to go on.
pub(crate) fn cut<T, P>(
    mut items: Vec<T>,
    limit: usize,
    position: impl Fn(&T) -> P,
) -> (Vec<T>, Option<P>) {
    let more = limit < items.len();
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(position);
    (items, next)
}
