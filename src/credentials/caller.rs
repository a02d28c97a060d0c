//! Who is calling: a credential that was proved, and what it may do.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Weak};
use std::{fmt, mem};

use actors::model::{
    DeviceId, KeyId, KeyKind, KeyRecord, Scope, ScopeSet, SecretHash, Tenant, TenantId,
    TenantLimits, Timestamp,
};
use actors::ports::Clock;
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::registry::Registry;
use super::signing::TokenId;

/// Whether a credential still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It does.
    No,
    /// It does until then: its key has a new secret.
    At(Timestamp),
    /// It was revoked.
    Revoked,
    /// Its key may do less than before: it has to be proved anew.
    Narrowed,
}

impl Ended {
    /// Whether it does not count at any time from now on.
    pub(crate) const fn is_over(self) -> bool {
        match self {
            Self::No | Self::At(_) => false,
            Self::Revoked | Self::Narrowed => true,
        }
    }
}

/// A credential that was proved. There is no other way from a request to a [`TenantId`].
#[derive(Clone)]
pub(crate) struct Caller(pub(super) Arc<Credential>);

/// What is known of a proved credential.
pub(super) struct Credential {
    pub(super) serial: u64,
    pub(super) registry: Weak<Registry>,
    pub(super) grant: Grant,
    pub(super) ended: watch::Sender<Ended>,
    /// When it was last used, in milliseconds.
    pub(super) used: AtomicI64,
}

/// What a credential gives.
pub(super) struct Grant {
    pub(super) tenant: Arc<TenantState>,
    pub(super) key: Arc<KeyRecord>,
    pub(super) scopes: ScopeSet,
    pub(super) devices: Vec<DeviceId>,
    pub(super) expires_at: Option<Timestamp>,
    /// The hash of the key's secret; `None` for a token.
    pub(super) secret: Option<SecretHash>,
    /// The access token; `None` for the key itself.
    pub(super) token: Option<TokenId>,
}

impl Drop for Credential {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.gone(self.serial);
        }
    }
}

impl Caller {
    /// Whose things it may reach.
    pub(crate) fn tenant(&self) -> TenantId {
        self.0.grant.tenant.id
    }

    /// The tenant's name, for people.
    pub(crate) fn tenant_name(&self) -> Arc<str> {
        self.0.grant.tenant.name()
    }

    /// The API key, or the one behind the token.
    pub(crate) fn key(&self) -> KeyId {
        self.0.grant.key.id
    }

    /// The key's name, for people.
    pub(crate) fn key_name(&self) -> &str {
        &self.0.grant.key.name
    }

    /// The key's kind.
    pub(crate) fn kind(&self) -> KeyKind {
        self.0.grant.key.kind
    }

    /// Whether it is an access token and not the key itself.
    pub(crate) fn is_token(&self) -> bool {
        self.0.grant.token.is_some()
    }

    /// What it may do.
    pub(crate) fn scopes(&self) -> ScopeSet {
        self.0.grant.scopes
    }

    /// Whether it may do this.
    pub(crate) fn may(&self, scope: Scope) -> bool {
        self.scopes().has(scope)
    }

    /// The devices it is bound to; empty for all of the tenant's.
    pub(crate) fn devices(&self) -> &[DeviceId] {
        &self.0.grant.devices
    }

    /// Whether it may know of this device.
    pub(crate) fn sees(&self, device: DeviceId) -> bool {
        self.devices().is_empty() || self.devices().contains(&device)
    }

    /// When it ends by itself.
    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        let told = match *self.0.ended.borrow() {
            Ended::At(end) => Some(end),
            Ended::No | Ended::Revoked | Ended::Narrowed => None,
        };
        self.0.grant.expires_at.into_iter().chain(told).min()
    }

    /// What the tenant may use, as of now.
    pub(crate) fn limits(&self) -> TenantLimits {
        self.0.grant.tenant.limits()
    }

    /// Tells when that changes, and when it no longer counts.
    pub(crate) fn ended(&self) -> watch::Receiver<Ended> {
        self.0.ended.subscribe()
    }

    /// Whether it no longer counts at `now`.
    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        let told = *self.0.ended.borrow();
        told.is_over() || self.expires_at().is_some_and(|it| it <= now)
    }

    /// Waits until it no longer counts.
    pub(crate) async fn over(&self, clock: &dyn Clock) {
        let mut ended = self.ended();
        loop {
            let now = clock.now();
            if self.is_over(now) {
                return;
            }
            let expired = async {
                match self.expires_at() {
                    Some(end) => tokio::time::sleep(end.since(now)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender is the caller's own.
                _ = ended.changed() => {}
                () = expired => {}
            }
        }
    }

    /// Whether its key may be used from there.
    pub(crate) fn may_come_from(&self, address: IpAddr) -> bool {
        let allowed = &self.0.grant.key.allowed_ips;
        allowed.is_empty() || allowed.iter().any(|it| it.contains(&address))
    }

    /// Counts one call against the tenant's rate; `None` where it has none.
    pub(crate) fn count_call(&self) -> Option<RateNow> {
        self.0.grant.tenant.count_call()
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("tenant", &self.tenant())
            .field("key", &self.key())
            .finish_non_exhaustive()
    }
}

/// How a tenant stands against its rate after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateNow {
    /// Whether the call passes.
    pub(crate) passes: bool,
    /// Calls a second.
    pub(crate) limit: u32,
    /// Calls that may follow at once.
    pub(crate) remaining: u32,
    /// Seconds until there is more, rounded up.
    pub(crate) reset: u64,
}

type Rate = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// What callers share with all others of their tenant.
pub(super) struct TenantState {
    id: TenantId,
    changing: RwLock<Changing>,
}

struct Changing {
    name: Arc<str>,
    limits: TenantLimits,
    rate: Option<Arc<Rate>>,
}

impl TenantState {
    pub(super) fn new(tenant: &Tenant) -> Self {
        let changing = Changing {
            name: tenant.name.as_str().into(),
            limits: tenant.limits,
            rate: rate(tenant.limits.requests_per_second),
        };
        Self {
            id: tenant.id,
            changing: RwLock::new(changing),
        }
    }

    pub(super) fn change(&self, tenant: &Tenant) {
        let mut changing = self.changing.write();
        changing.name = tenant.name.as_str().into();
        let before = mem::replace(&mut changing.limits, tenant.limits);
        if before.requests_per_second != tenant.limits.requests_per_second {
            changing.rate = rate(tenant.limits.requests_per_second);
        }
    }

    fn name(&self) -> Arc<str> {
        Arc::clone(&self.changing.read().name)
    }

    fn limits(&self) -> TenantLimits {
        self.changing.read().limits
    }

    fn count_call(&self) -> Option<RateNow> {
        let rate = self.changing.read().rate.clone()?;
        let now = match rate.check() {
            Ok(state) => {
                let (limit, remaining) = (
                    state.quota().burst_size().get(),
                    state.remaining_burst_capacity(),
                );
                RateNow {
                    passes: true,
                    limit,
                    remaining,
                    reset: u64::from(remaining < limit),
                }
            }
            Err(refused) => {
                let wait = refused.wait_time_from(DefaultClock::default().now());
                let reset = wait
                    .as_secs()
                    .saturating_add(u64::from(0 < wait.subsec_nanos()))
                    .max(1);
                RateNow {
                    passes: false,
                    limit: refused.quota().burst_size().get(),
                    remaining: 0,
                    reset,
                }
            }
        };
        Some(now)
    }
}

fn rate(per_second: u32) -> Option<Arc<Rate>> {
    let quota = Quota::per_second(NonZeroU32::new(per_second)?);
    Some(Arc::new(
        RateLimiter::direct(quota).with_middleware::<StateInformationMiddleware>(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_rate_follows_its_limits() {
        let mut tenant = Tenant {
            id: TenantId::generate(),
            name: "one".to_owned(),
            limits: TenantLimits {
                requests_per_second: 2,
                ..TenantLimits::default()
            },
            created_at: Timestamp::from_millis(0),
            removal: actors::model::Removal::None,
        };
        let state = TenantState::new(&tenant);
        let first = state.count_call().unwrap();
        assert_eq!((first.passes, first.limit, first.remaining), (true, 2, 1));
        assert!(state.count_call().unwrap().passes);
        let third = state.count_call().unwrap();
        assert_eq!((third.passes, third.remaining, third.reset), (false, 0, 1));
        tenant.limits.requests_per_second = 0;
        state.change(&tenant);
        assert_eq!(state.count_call(), None);
    }
}
