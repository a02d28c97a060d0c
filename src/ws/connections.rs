//! Counts the connected readers of each tenant (WebSockets and event streams), and all open WebSockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actors::model::TenantId;
use dashmap::DashMap;
use tokio::sync::watch;

/// How many readers are connected.
#[derive(Debug)]
pub(crate) struct Connections {
    /// As many as there are tenants with a connection.
    of_tenants: DashMap<TenantId, u32>,
    all: watch::Sender<usize>,
    numbers: AtomicU64,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            of_tenants: DashMap::new(),
            all: watch::Sender::new(0),
            numbers: AtomicU64::new(0),
        }
    }
}

/// One open WebSocket; uncounted when dropped.
#[derive(Debug)]
pub(crate) struct Open {
    connections: Arc<Connections>,
}

/// A connection's place among those of its tenant; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    tenant: TenantId,
}

impl Connections {
    /// Counts a WebSocket.
    pub(crate) fn open(self: &Arc<Self>) -> Open {
        self.all.send_modify(|all| *all += 1);
        metrics::gauge!("buho_ws_connections").increment(1.0);
        Open {
            connections: Arc::clone(self),
        }
    }

    /// A number for a connection.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes a place for a tenant that may have so many, 0 for any number; `None` where there is none left.
    pub(crate) fn place(self: &Arc<Self>, tenant: TenantId, places_max: u32) -> Option<Place> {
        let mut taken = self.of_tenants.entry(tenant).or_insert(0);
        if 0 < places_max && places_max <= *taken {
            return None;
        }
        *taken += 1;
        drop(taken);
        Some(Place {
            connections: Arc::clone(self),
            tenant,
        })
    }

    /// Whether a tenant that may have so many connections, 0 for any number, has them all.
    pub(crate) fn is_full(&self, tenant: TenantId, places_max: u32) -> bool {
        0 < places_max
            && self
                .of_tenants
                .get(&tenant)
                .is_some_and(|taken| places_max <= *taken)
    }

    /// Waits until no WebSocket is open.
    pub(crate) async fn settled(&self) {
        // The sender is ours: it does not go away while it is waited for.
        drop(self.all.subscribe().wait_for(|all| *all == 0).await);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::gauge!("buho_ws_connections").decrement(1.0);
        self.connections
            .all
            .send_modify(|all| *all = all.saturating_sub(1));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let taken = &self.connections.of_tenants;
        if let Some(mut it) = taken.get_mut(&self.tenant) {
            *it = it.saturating_sub(1);
        }
        taken.remove_if(&self.tenant, |_, it| *it == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tenant_has_so_many_places_and_gets_them_back() {
        let connections = Arc::<Connections>::default();
        let (one, other) = (TenantId::generate(), TenantId::generate());
        let first = connections.place(one, 1).unwrap();
        assert!(connections.place(one, 1).is_none());
        let second = connections.place(one, 0).unwrap();
        assert!(connections.place(other, 1).is_some());
        drop((first, second));
        assert!(connections.of_tenants.is_empty());
        let open = connections.open();
        drop(open);
        connections.settled().await;
    }
}
