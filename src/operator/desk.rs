//! Where the operator's commands are carried out.

use std::sync::Arc;

use actors::model::{DeviceId, Scope, ScopeSet, Tenant, TenantId, TenantLimits};
use actors::node::NodeHandle;
use actors::ports::Store;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::line::{Command, LimitChanges, Refusal};
use super::removals::Removals;
use super::socket::Desk;
use crate::credentials::{Credentials, NewKey};
use crate::store::transfer::backup::Backups;

/// Characters of a name.
const NAME_MAX: usize = 100;
/// What a key is called that was given no name.
const KEY_NAME: &str = "operator";

/// Carries out commands with the gateway's own handles.
#[derive(Clone)]
pub(crate) struct OperatorDesk {
    /// The tenants.
    pub(crate) node: NodeHandle,
    /// The keys.
    pub(crate) credentials: Arc<Credentials>,
    /// Reads.
    pub(crate) store: Arc<dyn Store>,
    /// Copies of the store.
    pub(crate) backups: Arc<Backups>,
    /// Tenants on their way out.
    pub(crate) removals: Arc<Removals>,
}

impl std::fmt::Debug for OperatorDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorDesk").finish_non_exhaustive()
    }
}

#[async_trait]
impl Desk for OperatorDesk {
    async fn carry(&self, command: Command) -> Result<Value, Refusal> {
        match command {
            Command::Ping {} => Ok(json!({"pong": true})),
            Command::TenantCreate { name } => {
                let made = self
                    .node
                    .create_tenant(checked_name(name)?, TenantLimits::default())
                    .await?;
                Ok(json!({ "tenant": made }))
            }
            Command::TenantList {} => Ok(json!({ "tenants": self.node.tenants() })),
            Command::TenantShow { tenant } => self.show_tenant(tenant).await,
            Command::TenantLimits { tenant, set } => self.limit_tenant(tenant, set).await,
            Command::TenantDelete { tenant } => {
                let gone = self.tenant(tenant)?;
                self.removals.begin(tenant).await?;
                Ok(json!({ "tenant": *gone }))
            }
            Command::KeyCreate {
                tenant,
                scopes,
                name,
                devices,
            } => {
                let name = checked_key_name(name)?;
                self.create_key(tenant, scopes.as_deref(), name, devices)
                    .await
            }
            Command::AdminKeyCreate { name } => {
                let wanted = NewKey {
                    tenant: TenantId::GATEWAY,
                    name: checked_key_name(name)?,
                    scopes: [Scope::AdminTenants].into_iter().collect(),
                    devices: Vec::new(),
                    allowed_ips: Vec::new(),
                    expires_at: None,
                };
                self.make_key(wanted).await
            }
            Command::KeyList { tenant } => {
                let keys = self.store.keys(self.tenant(tenant)?.id).await?;
                let keys: Vec<_> = keys.iter().map(|key| key.to_key()).collect();
                Ok(json!({ "keys": keys }))
            }
            Command::KeyRevoke { key } => {
                let missing = || Refusal::new("not_found", format!("there is no key {key}"));
                let gone = self.store.key(key).await?.ok_or_else(missing)?;
                self.credentials.revoke_key(key).await?;
                Ok(json!({ "key": gone.to_key() }))
            }
            Command::JwtRotate {} => {
                Ok(json!({ "kid": self.credentials.rotate_signing_key().await? }))
            }
            Command::StoreBackup { path } => {
                self.backups.begin(path).await?;
                Ok(json!({ "backup": self.backups.standing() }))
            }
            Command::StoreBackupState {} => Ok(json!({ "backup": self.backups.standing() })),
            Command::Supervision {} => Ok(json!({ "tree": self.node.supervision() })),
        }
    }
}

impl OperatorDesk {
    fn tenant(&self, id: TenantId) -> Result<Arc<Tenant>, Refusal> {
        self.node
            .record(id)
            .ok_or_else(|| Refusal::new("not_found", format!("there is no tenant {id}")))
    }

    async fn show_tenant(&self, id: TenantId) -> Result<Value, Refusal> {
        let tenant = self.tenant(id)?;
        let devices = self.store.devices(id).await?;
        let keys = self.store.keys(id).await?;
        let limits = self.credentials.limited((*tenant).clone()).limits;
        Ok(
            json!({ "tenant": *tenant, "limits": limits, "devices": devices.len(), "keys": keys.len() }),
        )
    }

    async fn limit_tenant(&self, id: TenantId, set: LimitChanges) -> Result<Value, Refusal> {
        let limits = set.over(self.tenant(id)?.limits);
        let changed = self.node.set_limits(id, limits).await?;
        self.credentials.tenant_changed(&changed);
        Ok(json!({ "tenant": changed }))
    }

    async fn create_key(
        &self,
        tenant: TenantId,
        scopes: Option<&str>,
        name: String,
        devices: Vec<DeviceId>,
    ) -> Result<Value, Refusal> {
        let tenant = self.tenant(tenant)?.id;
        let scopes = checked_scopes(scopes)?;
        if !devices.is_empty() {
            let known = self.store.devices(tenant).await?;
            if let Some(foreign) = devices
                .iter()
                .find(|id| !known.iter().any(|device| device.id == **id))
            {
                return Err(Refusal::invalid(format!(
                    "the tenant has no device {foreign}"
                )));
            }
        }
        let wanted = NewKey {
            tenant,
            name,
            scopes,
            devices,
            allowed_ips: Vec::new(),
            expires_at: None,
        };
        self.make_key(wanted).await
    }

    async fn make_key(&self, wanted: NewKey) -> Result<Value, Refusal> {
        let (key, secret) = self.credentials.draw_key(wanted);
        self.credentials.create_key(key.clone(), None).await?;
        Ok(json!({ "key": key.to_key(), "secret": secret.expose() }))
    }
}

fn checked_name(name: String) -> Result<String, Refusal> {
    let length = name.chars().count();
    if !(1..=NAME_MAX).contains(&length) || name.trim() != name || name.contains(char::is_control) {
        let rule = format!(
            "a name has 1 to {NAME_MAX} characters, without spaces around it and control characters in it"
        );
        return Err(Refusal::invalid(rule));
    }
    Ok(name)
}

fn checked_key_name(name: Option<String>) -> Result<String, Refusal> {
    checked_name(name.unwrap_or_else(|| KEY_NAME.to_owned()))
}

fn checked_scopes(scopes: Option<&str>) -> Result<ScopeSet, Refusal> {
    let Some(words) = scopes else {
        return Ok(ScopeSet::tenant());
    };
    let scopes = ScopeSet::parse(words).map_err(|error| Refusal::invalid(error.to_string()))?;
    if scopes.is_empty() {
        return Ok(ScopeSet::tenant());
    }
    if !ScopeSet::tenant().covers(scopes) {
        return Err(Refusal::invalid("a tenant's key can't have admin:tenants"));
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_without_scopes_may_do_all_that_a_tenant_may() {
        assert_eq!(checked_scopes(None), Ok(ScopeSet::tenant()));
        assert_eq!(checked_scopes(Some(" ")), Ok(ScopeSet::tenant()));
        assert_eq!(
            checked_scopes(Some("events:read")).map(|it| it.to_string()),
            Ok("events:read".to_owned())
        );
        assert!(checked_scopes(Some("admin:tenants")).is_err());
        assert!(
            checked_scopes(Some("events:raed"))
                .unwrap_err()
                .detail
                .contains("events:raed")
        );
    }

    #[test]
    fn a_name_can_be_printed() {
        assert!(checked_name("Acme S.A.".to_owned()).is_ok());
        for bad in ["", " ", "a\nb", " a", &"a".repeat(NAME_MAX + 1)] {
            assert!(checked_name(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}
