//! API keys: what they may do, how their secret is built.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::id::SUFFIX_LEN;
use super::{DeviceId, KeyId, TenantId, Timestamp};

/// The SHA-256 of a secret: all that is kept of it.
pub type SecretHash = [u8; 32];

macro_rules! scopes {
    ($($(#[$meta:meta])* $name:ident = $text:literal,)*) => {
        /// One right.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Scope {
            $($(#[$meta])* #[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Scope {
            /// Every right there is.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its word on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

scopes! {
    DevicesRead = "devices:read",
    DevicesWrite = "devices:write",
    MessagesRead = "messages:read",
    MessagesWrite = "messages:write",
    ChatsRead = "chats:read",
    ChatsWrite = "chats:write",
    ContactsRead = "contacts:read",
    ContactsWrite = "contacts:write",
    GroupsRead = "groups:read",
    GroupsWrite = "groups:write",
    LabelsRead = "labels:read",
    LabelsWrite = "labels:write",
    PresenceWrite = "presence:write",
    StatusesRead = "statuses:read",
    StatusesWrite = "statuses:write",
    CampaignsRead = "campaigns:read",
    CampaignsWrite = "campaigns:write",
    WebhooksRead = "webhooks:read",
    WebhooksWrite = "webhooks:write",
    EventsRead = "events:read",
    SimulationsWrite = "simulations:write",
    SettingsRead = "settings:read",
    SettingsWrite = "settings:write",
    AuditRead = "audit:read",
    KeysWrite = "keys:write",
    /// All that an admin key has; no tenant key has it.
    AdminTenants = "admin:tenants",
}

impl Scope {
    const fn bit(self) -> u64 {
        1 << (self as u32)
    }
}

/// Why a text is not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no scope `{0}`")]
pub struct ScopeError(pub String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        Self::ALL
            .iter()
            .copied()
            .find(|it| it.as_str() == text)
            .ok_or_else(|| ScopeError(text.chars().take(64).collect()))
    }
}

/// A set of rights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScopeSet(u64);

impl ScopeSet {
    /// Every right of a tenant.
    #[must_use]
    pub fn tenant() -> Self {
        Scope::ALL
            .iter()
            .copied()
            .filter(|it| *it != Scope::AdminTenants)
            .collect()
    }

    /// Whether the right is in it.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// Whether every right of `other` is in it.
    #[must_use]
    pub const fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The rights, in the order of the documentation.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |it| self.has(*it))
    }

    /// Reads words that stand between spaces or commas.
    ///
    /// # Errors
    ///
    /// Names the first word that is no scope.
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        text.split([' ', ','])
            .filter(|it| !it.is_empty())
            .map(Scope::from_str)
            .collect()
    }
}

impl FromIterator<Scope> for ScopeSet {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | scope.bit()))
    }
}

impl fmt::Display for ScopeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, scope) in self.iter().enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(f, "{space}{}", scope.as_str())?;
        }
        Ok(())
    }
}

impl Serialize for ScopeSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(Scope::as_str))
    }
}

impl<'de> Deserialize<'de> for ScopeSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let words = Vec::<String>::deserialize(deserializer)?;
        words
            .iter()
            .map(|it| it.parse::<Scope>())
            .collect::<Result<_, _>>()
            .map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for ScopeSet {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
        let words = Scope::ALL.iter().map(|it| it.as_str());
        let item = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(words));
        ArrayBuilder::new().items(item).into()
    }
}

impl ToSchema for ScopeSet {}

/// What sort of key it is; the second word of its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// For a whole tenant.
    #[serde(rename = "key")]
    Tenant,
    /// Bound to devices.
    #[serde(rename = "dev")]
    Device,
    /// For the admin API.
    #[serde(rename = "adm")]
    Admin,
}

impl KeyKind {
    /// The word in the secret.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "key",
            Self::Device => "dev",
            Self::Admin => "adm",
        }
    }
}

/// A key as the store keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// Whose it is; [`TenantId::GATEWAY`] for an admin key.
    pub tenant: TenantId,
    /// What sort it is.
    pub kind: KeyKind,
    /// Its name, for people.
    pub name: String,
    /// What it may do.
    pub scopes: ScopeSet,
    /// The devices it is bound to; empty for all.
    pub devices: Vec<DeviceId>,
    /// Where it may be used from; empty for everywhere.
    pub allowed_ips: Vec<IpNet>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A key as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its name, for people.
    pub name: String,
    /// What sort it is.
    pub kind: KeyKind,
    /// What it may do.
    pub scopes: ScopeSet,
    /// The devices it is bound to; empty for all.
    pub devices: Vec<DeviceId>,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl KeyRecord {
    /// The key without its hash.
    #[must_use]
    pub fn to_key(&self) -> ApiKey {
        ApiKey {
            id: self.id,
            name: self.name.clone(),
            kind: self.kind,
            scopes: self.scopes,
            devices: self.devices.clone(),
            expires_at: self.expires_at,
            created_at: self.created_at,
        }
    }
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 27 characters of 62 carry 160 random bits.
const RANDOM_LEN: usize = 27;
const CHECK_LEN: usize = 6;

/// The secret of a key, in the one moment when it is known. Prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Draws a secret: `buho_<kind>_<id>_<27 random>_<6 of CRC-32>`.
    #[must_use]
    pub fn draw(kind: KeyKind, id: KeyId) -> Self {
        let id = id.to_string();
        let suffix = id.split_once('_').map_or("", |(_, suffix)| suffix);
        let mut text = format!("buho_{}_{suffix}_", kind.as_str());
        text.extend((0..RANDOM_LEN).map(|_| base62(rand::random_range(0..62))));
        let check = checksum(&text);
        text.push('_');
        text.push_str(&check);
        Self(text)
    }

    /// The text itself: for the one answer that shows it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which key a secret claims to be; `None` for what no gateway has drawn, so that garbage costs no look-up.
#[must_use]
pub fn key_of_secret(secret: &str) -> Option<KeyId> {
    let (text, check) = secret.rsplit_once('_')?;
    let mut words = text.split('_');
    let shaped =
        words.next() == Some("buho") && matches!(words.next(), Some("key" | "dev" | "adm"));
    let id = words.next().filter(|it| it.len() == SUFFIX_LEN)?;
    let long_enough =
        words.next().is_some_and(|it| RANDOM_LEN <= it.len()) && words.next().is_none();
    if !shaped || !long_enough || checksum(text) != check {
        return None;
    }
    super::id::parse_suffix(id).map(KeyId::from_u128)
}

/// The hash of a secret.
#[must_use]
pub fn hash_secret(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

fn base62(digit: usize) -> char {
    BASE62.get(digit).map_or('0', |it| char::from(*it))
}

fn checksum(text: &str) -> String {
    let mut rest = usize::try_from(crc32fast::hash(text.as_bytes())).unwrap_or_default();
    let mut out = ['0'; CHECK_LEN];
    for place in out.iter_mut().rev() {
        *place = base62(rest % 62);
        rest /= 62;
    }
    out.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_names_its_key_and_detects_a_typing_error() {
        let id = KeyId::generate();
        let secret = Secret::draw(KeyKind::Tenant, id);
        assert_eq!(key_of_secret(secret.expose()), Some(id));
        let swapped = secret.expose().replacen("_key_", "_dev_", 1);
        assert_eq!(key_of_secret(&swapped), None);
        assert_eq!(
            key_of_secret(&secret.expose()[..secret.expose().len() - 1]),
            None
        );
        assert_eq!(format!("{secret:?}"), "***");
    }

    #[test]
    fn scopes_are_words_between_spaces_or_commas() {
        let set = ScopeSet::parse("messages:write, devices:read").unwrap();
        assert_eq!(set.to_string(), "devices:read messages:write");
        assert!(ScopeSet::tenant().covers(set) && !set.covers(ScopeSet::tenant()));
        assert!(!ScopeSet::tenant().has(Scope::AdminTenants));
        assert!(ScopeSet::parse("messages:all").is_err());
    }
}
