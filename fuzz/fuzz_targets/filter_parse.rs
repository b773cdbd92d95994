//! Any text: an expression, or an error with its place, in either dialect.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_filters::Dialect;

#[expect(dead_code, reason = "the other target has the rest")]
#[path = "../../filters/tests/agree/mod.rs"]
mod agree;

fuzz_target!(|text: &str| {
    for dialect in [Dialect::Sluice, Dialect::RocketMq] {
        agree::parse(text, dialect);
    }
});
