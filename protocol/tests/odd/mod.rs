//! Inputs of any kind, made of some that are right; the number of them is `SLUICE_FUZZ_INPUTS`.
#![allow(clippy::disallowed_methods, reason = "the number of inputs comes from the environment")]

use proptest::prelude::*;

/// How many inputs each test gets: few in every test run.
pub(crate) fn inputs() -> ProptestConfig {
    let cases = std::env::var("SLUICE_FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(128);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Something right with a few bytes changed, cut out or put in; sometimes nothing right at all.
pub(crate) fn odd(seeds: &'static [Vec<u8>]) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4u8);
    let token = prop::sample::select(br#"{}[]:,"'\-0123456789aeuntrl+. "#.to_vec());
    let seeded = (any::<prop::sample::Index>(), prop::collection::vec(change, 0..6), token.clone()).prop_map(
        move |(seed, changes, token)| {
            let mut bytes = seed.get(seeds).clone();
            for (at, byte, kind) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, token),
                    2 => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            bytes
        },
    );
    prop_oneof![
        8 => seeded,
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => prop::collection::vec(token, 0..60),
    ]
}
