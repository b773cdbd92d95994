//! Figures of the store.
fn main() {}
