//! Tenants on their way out: first nobody is let in any more, then all that they own goes.

use std::sync::Arc;
use std::time::Duration;

use actors::CommandError;
use actors::model::TenantId;
use actors::node::NodeHandle;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::credentials::Credentials;

/// The pause after a removal that got stuck.
const PAUSE: Duration = Duration::from_secs(5);

/// Removes tenants. What a stop interrupts goes on after the next start.
pub(crate) struct Removals {
    node: NodeHandle,
    credentials: Arc<Credentials>,
    /// One task for each tenant that is being removed.
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Removals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Removals").finish_non_exhaustive()
    }
}

impl Removals {
    /// Goes on with what was begun before the start.
    pub(crate) fn resume(node: NodeHandle, credentials: Arc<Credentials>) -> Self {
        let removals = Self {
            node,
            credentials,
            tasks: Mutex::default(),
        };
        let leaving = removals.node.leaving();
        leaving.into_iter().for_each(|it| removals.go_on(it));
        removals
    }

    /// Begins to remove a tenant; answers when none of its keys works any more.
    ///
    /// # Errors
    ///
    /// What keeps it from being stored. Where some keys are ended already, the rest follow.
    pub(crate) async fn begin(&self, tenant: TenantId) -> Result<(), CommandError> {
        self.node.begin_removal(tenant).await?;
        let ended = self.credentials.revoke_all(tenant).await;
        self.go_on(tenant);
        ended
    }

    fn go_on(&self, tenant: TenantId) {
        let (node, credentials) = (self.node.clone(), Arc::clone(&self.credentials));
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            while let Err(error) = remove(&node, &credentials, tenant).await {
                if matches!(error, CommandError::NotFound) {
                    return;
                }
                tracing::warn!(%tenant, %error, "the removal of a tenant is tried again");
                sleep(PAUSE).await;
            }
            tracing::info!(%tenant, "a tenant was removed");
        });
    }

    /// Takes its hands off what is under way.
    pub(crate) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}

async fn remove(
    node: &NodeHandle,
    credentials: &Credentials,
    tenant: TenantId,
) -> Result<(), CommandError> {
    // Once more: a key may have been made while the others were ended.
    credentials.revoke_all(tenant).await?;
    node.finish_removal(tenant).await
}
