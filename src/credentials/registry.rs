//! The credentials that were proved: a bounded cache by the hash of their text, and a list of all that somebody
//! still holds, so that a revocation reaches each of them at once.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use actors::model::{KeyId, SecretHash, Timestamp};
use dashmap::DashMap;
use tokio::sync::watch;

use super::caller::{Caller, Credential, Ended, Grant};
use super::signing::TokenId;

/// Entries of the cache. When it is full, an eighth of it makes room.
const CACHED_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Registry {
    cached: DashMap<SecretHash, Caller>,
    /// As many as the cache, the tickets and the open connections hold: each has its own bound.
    held: DashMap<u64, Weak<Credential>>,
    serial: AtomicU64,
    changes: AtomicU64,
}

impl Registry {
    /// The proved credential with this hash, unless it is over.
    pub(super) fn cached(&self, hash: &SecretHash, now: Timestamp) -> Option<Caller> {
        let caller = self.cached.get(hash).map(|it| it.clone())?;
        if caller.is_over(now) {
            self.cached.remove(hash);
            return None;
        }
        Some(caller)
    }

    /// Keeps a proved credential for its next use.
    pub(super) fn keep(&self, hash: SecretHash, caller: Caller) {
        if CACHED_MAX <= self.cached.len() {
            let mut place = 0_u64;
            self.cached.retain(|_, _| {
                place = place.wrapping_add(1);
                !place.is_multiple_of(8)
            });
        }
        self.cached.insert(hash, caller);
    }

    pub(super) fn forget(&self, hash: &SecretHash) {
        self.cached.remove(hash);
    }

    /// Enters a credential, so that [`Self::end`] will find it for as long as somebody holds it.
    pub(super) fn enter(self: &Arc<Self>, grant: Grant) -> Caller {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let (ended, _) = watch::channel(Ended::No);
        let credential = Arc::new(Credential {
            serial,
            registry: Arc::downgrade(self),
            grant,
            ended,
            used: AtomicI64::new(0),
        });
        self.held.insert(serial, Arc::downgrade(&credential));
        Caller(credential)
    }

    pub(super) fn gone(&self, serial: u64) {
        self.held.remove(&serial);
    }

    /// Counts revocations and changes: who reads the store between two equal counts has read the present.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Ends what came from a key; call it when the store no longer has the key as it was. [`Ended::No`] only makes
    /// everybody prove it anew at the next call.
    pub(super) fn end(&self, key: KeyId, how: Ended) {
        self.end_where(how, |it| it.key.id == key);
    }

    /// Ends what came from a key's secrets other than the present one and the one before, and that one at its time; its
    /// tokens stay.
    pub(super) fn end_secrets(
        &self,
        key: KeyId,
        present: SecretHash,
        before: Option<(SecretHash, Timestamp)>,
    ) {
        let last = before.map(|it| it.0);
        self.end_where(Ended::Revoked, |it| {
            let gone = |it| it != present && last.is_none_or(|last| it != last);
            it.key.id == key && it.secret.is_some_and(gone)
        });
        if let Some((hash, end)) = before {
            self.end_where(Ended::At(end), |it| {
                it.key.id == key && it.secret == Some(hash)
            });
        }
    }

    /// Ends one access token.
    pub(super) fn end_token(&self, token: TokenId) {
        self.end_where(Ended::Revoked, |it| it.token == Some(token));
    }

    fn end_where(&self, how: Ended, fits: impl Fn(&Grant) -> bool) {
        self.changes.fetch_add(1, Ordering::SeqCst);
        // Collected first: a credential whose last holder goes now removes itself from the map that is walked here.
        let held: Vec<Arc<Credential>> = self.held.iter().filter_map(|it| it.upgrade()).collect();
        self.cached.retain(|_, caller| !fits(&caller.0.grant));
        if how != Ended::No {
            for credential in held.iter().filter(|it| fits(&it.grant)) {
                credential.ended.send_if_modified(|it| {
                    let counts = !it.is_over();
                    if counts {
                        *it = how;
                    }
                    counts
                });
            }
        }
    }
}
