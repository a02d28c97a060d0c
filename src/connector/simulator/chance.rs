//! Chance that repeats: each draw is a hash of the seed, the purpose and what it is about, never a shared stream.

use std::fmt::Write as _;

use actors::model::DeviceId;
use sha2::{Digest as _, Sha256};

use super::digits::Digits;

/// The characters of a pairing text.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// 32 bytes that follow from the seed, the purpose and the parts.
fn draw(seed: u64, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn number(bytes: [u8; 32]) -> u64 {
    bytes
        .iter()
        .take(8)
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

/// A network's name for a message, such as `SIM3F0A…` with 32 hexadecimal digits.
pub(super) fn upstream_id(seed: u64, purpose: &str, parts: &[&[u8]]) -> String {
    let mut name = String::from("SIM");
    for byte in draw(seed, purpose, parts).iter().take(16) {
        // Writing to memory can't fail.
        let _written = write!(name, "{byte:02X}");
    }
    name
}

/// The number that a device without one gets at its `attempt`-th try: a Peruvian mobile.
pub(super) fn made_up_number(seed: u64, device: DeviceId, attempt: u32) -> Option<Digits> {
    let drawn = number(draw(
        seed,
        "number",
        &[&device.to_bytes(), &attempt.to_be_bytes()],
    )) % 100_000_000;
    Digits::parse(&format!("519{drawn:08}"))
}

/// What a QR says, shaped like the real one: reference, two public keys and a secret.
pub(super) fn pairing_text(seed: u64, device: DeviceId, turn: u64, attempt: u32) -> String {
    let part = |purpose: &str| -> String {
        let bytes = draw(
            seed,
            purpose,
            &[
                &device.to_bytes(),
                &turn.to_be_bytes(),
                &attempt.to_be_bytes(),
            ],
        );
        let letter = |byte: u8| {
            ALPHABET
                .get(usize::from(byte & 63))
                .copied()
                .map_or('A', char::from)
        };
        bytes.into_iter().cycle().take(43).map(letter).collect()
    };
    format!(
        "2@{}{},{}=,{}=,{}=",
        part("ref"),
        part("server"),
        part("noise"),
        part("identity"),
        part("secret")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_run() {
        let device = DeviceId::from_u128(7);
        assert_eq!(made_up_number(1, device, 0), made_up_number(1, device, 0));
        assert_ne!(made_up_number(1, device, 0), made_up_number(2, device, 0));
        assert_ne!(made_up_number(1, device, 0), made_up_number(1, device, 1));
        assert_eq!(
            upstream_id(1, "reply", &[b"x"]),
            upstream_id(1, "reply", &[b"x"])
        );
        assert_ne!(
            upstream_id(1, "reply", &[b"xy", b"z"]),
            upstream_id(1, "reply", &[b"x", b"yz"])
        );
    }

    #[test]
    fn a_pairing_text_looks_like_one() {
        let text = pairing_text(1, DeviceId::from_u128(7), 1, 1);
        let parts: Vec<&str> = text.strip_prefix("2@").unwrap().split(',').collect();
        assert_eq!(
            parts.iter().map(|it| it.len()).collect::<Vec<_>>(),
            [86, 44, 44, 44]
        );
        assert_ne!(text, pairing_text(1, DeviceId::from_u128(7), 1, 2));
    }
}
