//! Good tokens, and a corpus of bad ones.

use jsonwebtoken::crypto::sign;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://buho.example";

fn now() -> Timestamp {
    Timestamp::from_millis(NOW * 1_000)
}

fn ring() -> KeyRing {
    KeyRing::new(ISSUER.to_owned(), vec![KeyRing::draw(now())]).unwrap()
}

fn access() -> Access {
    Access {
        id: TokenId::draw(),
        key: KeyId::generate(),
        tenant: TenantId::generate(),
        scopes: ScopeSet::parse("messages:write devices:read").unwrap(),
        devices: vec![DeviceId::generate()],
        issued_at: now(),
        expires_at: now().plus(Duration::from_mins(15)),
    }
}

/// Base 64 as JWTs have it.
fn b64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk
            .iter()
            .fold(0_u32, |word, byte| (word << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let digit = (word >> (18 - 6 * place)) & 63;
            out.push(char::from(DIGITS[usize::try_from(digit).unwrap()]));
        }
    }
    out
}

/// Signs any texts with the ring's own key: all that is wrong with the result is what it says.
fn signed(ring: &KeyRing, header: &str, claims: &str) -> String {
    let message = format!("{}.{}", b64(header.as_bytes()), b64(claims.as_bytes()));
    let signature = sign(
        message.as_bytes(),
        &ring.current().unwrap().encoding,
        Algorithm::EdDSA,
    )
    .unwrap();
    format!("{message}.{signature}")
}

fn header(ring: &KeyRing) -> Value {
    json!({"typ": "JWT", "alg": "EdDSA", "kid": ring.current().unwrap().record.id})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "buho", "sub": KeyId::generate(), "tenant": TenantId::generate(),
        "scope": "messages:write", "jti": TokenId::draw().to_string(), "iat": NOW, "exp": NOW + 900,
    })
}

fn with(base: Value, member: &str, value: Value) -> String {
    let mut changed = base;
    changed[member] = value;
    changed.to_string()
}

fn without(base: Value, member: &str) -> String {
    let mut changed = base;
    changed.as_object_mut().unwrap().remove(member);
    changed.to_string()
}

#[test]
fn what_is_signed_is_read() {
    let (ring, access) = (ring(), access());
    let token = ring.sign(&access).unwrap().unwrap();
    assert_eq!(ring.read(&token, now()), Ok(access));
}

#[test]
fn a_hand_made_token_is_read_so_that_the_corpus_fails_for_its_own_reasons() {
    let ring = ring();
    for header in [
        header(&ring).to_string(),
        with(header(&ring), "typ", json!("at+jwt")),
    ] {
        assert!(
            ring.read(&signed(&ring, &header, &claims().to_string()), now())
                .is_ok(),
            "{header}"
        );
    }
    for claims in [
        with(claims(), "aud", json!(["other", "buho"])),
        with(claims(), "iat", json!(NOW + 60)),
        with(claims(), "nbf", json!(NOW + 60)),
        with(claims(), "exp", json!(NOW + 1)),
        with(claims(), "more", json!({"a": 1})),
    ] {
        assert!(
            ring.read(&signed(&ring, &header(&ring).to_string(), &claims), now())
                .is_ok(),
            "{claims}"
        );
    }
}

#[test]
fn bad_headers_are_refused() {
    let ring = ring();
    let own = header(&ring);
    let public = ring.public(now()).remove(0);
    let kid = own["kid"].as_str().unwrap().to_owned();
    let mut bad = vec![
        without(own.clone(), "typ"),
        without(own.clone(), "alg"),
        without(own.clone(), "kid"),
    ];
    for typ in ["jwt", "JWE", "dpop+jwt", "secevent+jwt", ""] {
        bad.push(with(own.clone(), "typ", json!(typ)));
    }
    for alg in [
        "none", "None", "nOnE", "", "HS256", "HS512", "RS256", "PS256", "ES256", "Ed25519", "eddsa",
    ] {
        bad.push(with(own.clone(), "alg", json!(alg)));
    }
    let long = "k".repeat(5_000);
    let kids = [
        "../../dev/null",
        "' OR '1'='1",
        "https://evil.example/key",
        "",
        "unknown",
        long.as_str(),
    ];
    for other in kids.into_iter().map(str::to_owned).chain([
        format!("{kid}\0"),
        kid.to_uppercase(),
        format!(" {kid}"),
    ]) {
        bad.push(with(own.clone(), "kid", json!(other)));
    }
    bad.push(with(own.clone(), "kid", json!(7)));
    bad.push(with(own.clone(), "kid", json!([kid])));
    bad.push(with(own.clone(), "jwk", json!(public)));
    bad.push(with(
        own.clone(),
        "jku",
        json!("https://evil.example/jwks.json"),
    ));
    bad.push(with(own.clone(), "x5u", json!("https://evil.example/cert")));
    bad.push(with(own.clone(), "x5c", json!(["AAAA"])));
    bad.push(with(own.clone(), "crit", json!(["exp"])));
    bad.push(with(own.clone(), "crit", json!(["b64"])));
    bad.push(with(own.clone(), "crit", json!([])));
    bad.push(with(own.clone(), "crit", json!("exp")));
    bad.push(with(own.clone(), "zip", json!("DEF")));
    bad.push(with(own.clone(), "enc", json!("A128GCM")));
    bad.push(with(own, "cty", json!("JWT")));
    bad.push("[]".to_owned());
    bad.push("null".to_owned());
    bad.push(String::new());
    bad.push(format!(
        "{{\"alg\":\"EdDSA\",\"alg\":\"EdDSA\",\"typ\":\"JWT\",\"kid\":\"{kid}\"}}"
    ));
    for header in bad {
        let token = signed(&ring, &header, &claims().to_string());
        assert_eq!(ring.read(&token, now()), Err(Refused), "{header}");
    }
}

#[test]
fn bad_claims_are_refused() {
    let ring = ring();
    let mut bad: Vec<String> = ["iss", "aud", "sub", "tenant", "scope", "jti", "iat", "exp"]
        .into_iter()
        .map(|member| without(claims(), member))
        .collect();
    let cases = [
        ("iss", json!("https://evil.example")),
        ("iss", json!("https://buho.example/")),
        ("iss", json!([ISSUER])),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", json!("BUHO")),
        ("aud", json!(null)),
        ("sub", json!("admin")),
        ("sub", json!(DeviceId::generate())),
        ("tenant", json!("ten_x")),
        ("scope", json!("messages:everything")),
        ("scope", json!(["messages:write"])),
        ("devices", json!(["dev_x"])),
        ("devices", json!("all")),
        ("jti", json!("x")),
        ("iat", json!(NOW + 61)),
        ("iat", json!("now")),
        ("nbf", json!(NOW + 61)),
        ("nbf", json!("now")),
        ("exp", json!(NOW)),
        ("exp", json!(NOW - 1)),
        ("exp", json!(-1)),
        ("exp", json!(0)),
        ("exp", json!((NOW + 900).to_string())),
        ("exp", json!(1e300)),
        ("exp", json!(null)),
    ];
    bad.extend(
        cases
            .into_iter()
            .map(|(member, value)| with(claims(), member, value)),
    );
    let twice = format!(
        "{},\"exp\":{}}}",
        claims().to_string().trim_end_matches('}'),
        NOW + 900
    );
    bad.extend([
        twice,
        "[]".to_owned(),
        "null".to_owned(),
        "{".to_owned(),
        String::new(),
    ]);
    for claims in bad {
        let token = signed(&ring, &header(&ring).to_string(), &claims);
        assert_eq!(ring.read(&token, now()), Err(Refused), "{claims}");
    }
}

#[test]
fn bad_forms_and_signatures_are_refused() {
    let ring = ring();
    let good = ring.sign(&access()).unwrap().unwrap();
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (head, body) = message.split_once('.').unwrap();
    let other_body = b64(claims().to_string().as_bytes());
    let public = ring.public(now()).remove(0);
    let public_text = serde_json::to_string(&public).unwrap();
    let secret = EncodingKey::from_secret(public_text.as_bytes());
    let confused = b64(with(header(&ring), "alg", json!("HS256")).as_bytes());
    let confused = format!("{confused}.{other_body}");
    let hmac = sign(confused.as_bytes(), &secret, Algorithm::HS256).unwrap();
    let none = b64(with(header(&ring), "alg", json!("none")).as_bytes());
    let stranger = KeyRing::new(ISSUER.to_owned(), vec![KeyRing::draw(now())]).unwrap();
    let forged = sign(
        message.as_bytes(),
        &stranger.current().unwrap().encoding,
        Algorithm::EdDSA,
    )
    .unwrap();
    let bad = [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "a.b.c".to_owned(),
        message.to_owned(),
        format!("{message}."),
        format!("{message}.{}", &signature[..signature.len() - 2]),
        format!("{message}.{signature}="),
        format!("{message}.{}", b64(&[0; 64])),
        format!("{message}.{forged}"),
        format!("{good}.{signature}"),
        format!("{good} "),
        format!(" {good}"),
        format!("{head}.{other_body}.{signature}"),
        format!("{none}.{body}."),
        format!("{none}.{body}.{signature}"),
        format!("{confused}.{hmac}"),
        good.replace('.', "·"),
        format!("{head}..{signature}"),
        signed(
            &ring,
            &header(&ring).to_string(),
            &with(claims(), "pad", json!("x".repeat(8_192))),
        ),
    ];
    for token in bad {
        assert_eq!(ring.read(&token, now()), Err(Refused), "{token}");
    }
}

#[test]
fn a_retired_key_verifies_for_a_while_and_no_longer_signs() {
    let ring = ring();
    let access = access();
    let token = ring.sign(&access).unwrap().unwrap();
    let mut records = ring.records();
    records[0].retired_at = Some(now());
    records.push(KeyRing::draw(now().plus(Duration::from_secs(1))));
    let rotated = ring.with(records).unwrap();
    assert_eq!(rotated.read(&token, now()), Ok(access.clone()));
    let fresh = rotated.sign(&access).unwrap().unwrap();
    assert_eq!(
        ring.read(&fresh, now()),
        Err(Refused),
        "signed with the new key"
    );
    assert_eq!(rotated.public(now()).len(), 2);
    let late = now().plus(TTL_MAX).plus(RETIRED_LIFE);
    assert_eq!(rotated.public(late).len(), 1);
    let (kept, gone) = rotated.sort_out(late);
    assert_eq!((kept.len(), gone.len()), (1, 1));
}

#[test]
fn a_public_key_says_only_what_is_public() {
    let ring = ring();
    let public = serde_json::to_value(ring.public(now()).remove(0)).unwrap();
    assert_eq!(
        (&public["kty"], &public["crv"]),
        (&json!("OKP"), &json!("Ed25519"))
    );
    assert_eq!(
        (&public["alg"], &public["use"]),
        (&json!("EdDSA"), &json!("sig"))
    );
    assert!(public.get("d").is_none() && public["x"].is_string() && public["kid"].is_string());
}
