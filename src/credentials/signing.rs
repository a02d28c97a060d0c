//! Access tokens: JWTs, signed with Ed25519 by keys of our own.
//!
//! Only what this gateway writes is read: one algorithm, our own `kid`s, our issuer and audience. Keys that a token
//! brings along or points to are never looked at.

use std::fmt;
use std::time::Duration;

use actors::model::id::{parse_suffix, suffix};
use actors::model::{DeviceId, KeyId, ScopeSet, TenantId, Timestamp};
use actors::ports::SigningKey;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

/// The longest life of a token.
pub(crate) const TTL_MAX: Duration = Duration::from_hours(1);
/// How much longer than the longest token a retired key verifies.
const RETIRED_LIFE: Duration = Duration::from_secs(3_660);
/// How far the clock of who signed may be ahead of ours.
const SKEW_MAX_SECONDS: i64 = 60;
/// A longer token is not looked at.
pub(super) const TOKEN_BYTES_MAX: usize = 8_192;
const AUDIENCE: &str = "buho";
/// The head of a PKCS #8 document that holds an Ed25519 seed (RFC 8410): the seed follows.
const PKCS8_HEAD: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Names a token: its `jti`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenId(pub(super) u128);

impl TokenId {
    pub(super) fn draw() -> Self {
        Self(rand::random())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&suffix(self.0)).unwrap_or_default())
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) id: TokenId,
    pub(super) key: KeyId,
    pub(super) tenant: TenantId,
    pub(super) scopes: ScopeSet,
    /// Empty for all that its key sees.
    pub(super) devices: Vec<DeviceId>,
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

/// A token is not ours, not whole or not valid now. Which of these is nobody's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// A token could not be signed, or a key could not be read.
#[derive(Debug, thiserror::Error)]
#[error("signing key is not usable")]
pub(crate) struct SigningError(#[source] jsonwebtoken::errors::Error);

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: Audience,
    sub: KeyId,
    tenant: TenantId,
    scope: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    devices: Vec<DeviceId>,
    jti: String,
    iat: i64,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn names_us(&self) -> bool {
        match self {
            Self::One(it) => it == AUDIENCE,
            Self::Several(list) => list.iter().any(|it| it == AUDIENCE),
        }
    }
}

struct Usable {
    record: SigningKey,
    encoding: EncodingKey,
    decoding: DecodingKey,
    public: Jwk,
}

impl Usable {
    fn of(record: SigningKey) -> Result<Self, SigningError> {
        let encoding =
            EncodingKey::from_ed_der(&[PKCS8_HEAD.as_slice(), record.seed.as_slice()].concat());
        let mut public =
            Jwk::from_encoding_key(&encoding, Algorithm::EdDSA).map_err(SigningError)?;
        public.common.key_id = Some(record.id.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let decoding = DecodingKey::from_jwk(&public).map_err(SigningError)?;
        Ok(Self {
            record,
            encoding,
            decoding,
            public,
        })
    }

    fn verifies_at(&self, now: Timestamp) -> bool {
        self.record
            .retired_at
            .is_none_or(|it| now < it.plus(TTL_MAX).plus(RETIRED_LIFE))
    }
}

/// The keys that sign and verify.
pub(super) struct KeyRing {
    issuer: String,
    keys: Vec<Usable>,
}

impl KeyRing {
    pub(super) fn new(issuer: String, records: Vec<SigningKey>) -> Result<Self, SigningError> {
        let keys = records
            .into_iter()
            .map(Usable::of)
            .collect::<Result<_, _>>()?;
        Ok(Self { issuer, keys })
    }

    /// Draws a key that is not in the ring yet.
    pub(super) fn draw(now: Timestamp) -> SigningKey {
        let id = std::str::from_utf8(&suffix(rand::random()))
            .unwrap_or_default()
            .to_owned();
        SigningKey {
            id,
            seed: rand::random(),
            created_at: now,
            retired_at: None,
        }
    }

    /// The ring with these keys instead.
    pub(super) fn with(&self, records: Vec<SigningKey>) -> Result<Self, SigningError> {
        Self::new(self.issuer.clone(), records)
    }

    /// What the store keeps.
    pub(super) fn records(&self) -> Vec<SigningKey> {
        self.keys.iter().map(|it| it.record.clone()).collect()
    }

    /// Whether there is a key that signs.
    pub(super) fn signs(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<&Usable> {
        self.keys
            .iter()
            .filter(|it| it.record.retired_at.is_none())
            .max_by_key(|it| it.record.created_at)
    }

    /// The public keys that verify now, as RFC 7517 writes them.
    pub(super) fn public(&self, now: Timestamp) -> Vec<Jwk> {
        self.keys
            .iter()
            .filter(|it| it.verifies_at(now))
            .map(|it| it.public.clone())
            .collect()
    }

    /// Splits the keys into those that still verify and those that never will again.
    pub(super) fn sort_out(&self, now: Timestamp) -> (Vec<SigningKey>, Vec<SigningKey>) {
        self.records().into_iter().partition(|record| {
            self.keys
                .iter()
                .any(|it| it.record.id == record.id && it.verifies_at(now))
        })
    }

    /// Signs; `None` where there is no key yet.
    pub(super) fn sign(&self, access: &Access) -> Option<Result<String, SigningError>> {
        let key = self.current()?;
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(key.record.id.clone());
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: Audience::One(AUDIENCE.to_owned()),
            sub: access.key,
            tenant: access.tenant,
            scope: access.scopes.to_string(),
            devices: access.devices.clone(),
            jti: access.id.to_string(),
            iat: seconds(access.issued_at),
            exp: seconds(access.expires_at),
            nbf: None,
        };
        Some(jsonwebtoken::encode(&header, &claims, &key.encoding).map_err(SigningError))
    }

    /// Reads a token that is valid at `now`.
    pub(super) fn read(&self, token: &str, now: Timestamp) -> Result<Access, Refused> {
        if TOKEN_BYTES_MAX < token.len() {
            return Err(Refused);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refused)?;
        check_header(&header)?;
        let kid = header.kid.as_deref().ok_or(Refused)?;
        let key = self
            .keys
            .iter()
            .find(|it| it.record.id == kid && it.verifies_at(now))
            .ok_or(Refused)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &key.decoding, &signature_only())
            .map_err(|_| Refused)?
            .claims;
        self.check_claims(&claims, seconds(now))?;
        Ok(Access {
            id: parse_suffix(&claims.jti).map(TokenId).ok_or(Refused)?,
            key: claims.sub,
            tenant: claims.tenant,
            scopes: ScopeSet::parse(&claims.scope).map_err(|_| Refused)?,
            devices: claims.devices,
            issued_at: Timestamp::from_millis(claims.iat.saturating_mul(1_000)),
            expires_at: Timestamp::from_millis(claims.exp.saturating_mul(1_000)),
        })
    }

    fn check_claims(&self, claims: &Claims, now: i64) -> Result<(), Refused> {
        let ours = claims.iss == self.issuer && claims.aud.names_us();
        let ahead = now.saturating_add(SKEW_MAX_SECONDS);
        let begun = claims.iat <= ahead && claims.nbf.is_none_or(|it| it <= ahead);
        let ends = now < claims.exp && claims.iat <= claims.exp;
        if ours && begun && ends {
            Ok(())
        } else {
            Err(Refused)
        }
    }
}

fn check_header(header: &Header) -> Result<(), Refused> {
    let typed = matches!(header.typ.as_deref(), Some("JWT" | "at+jwt"));
    let brings_keys = header.jwk.is_some()
        || header.jku.is_some()
        || header.x5c.is_some()
        || header.x5u.is_some();
    let encoded = header.enc.is_some() || header.zip.is_some() || header.cty.is_some();
    // No extension is understood, so none can be critical.
    let plain = header.alg == Algorithm::EdDSA && header.crit.is_none();
    if typed && plain && !brings_keys && !encoded {
        Ok(())
    } else {
        Err(Refused)
    }
}

/// Times are checked by our own clock, the rest by [`KeyRing::check_claims`].
fn signature_only() -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation
}

fn seconds(time: Timestamp) -> i64 {
    time.as_millis().div_euclid(1_000)
}

#[cfg(test)]
mod tests;
