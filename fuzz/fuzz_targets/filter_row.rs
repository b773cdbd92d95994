//! An expression up to the first NUL, and encoded properties of messages, each up to another NUL: by row and by
//! column there is one answer.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../filters/tests/agree/mod.rs"]
mod agree;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.split(|byte| *byte == 0);
    let Some(Ok(text)) = parts.next().map(str::from_utf8) else { return };
    let messages: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    agree::check(text, &messages);
});
