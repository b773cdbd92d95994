//! The book in `docs/`: its pages of connectors are made of the types, and what it says is run.
//!
//! `SLUICE_UPDATE_DOCS=1 cargo test --workspace --test docs` writes the pages anew.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test over processes takes the machine's environment and clock"
)]

mod book;
mod expressions;
mod management;
mod pages;
mod pipelines;
#[path = "../served/mod.rs"]
mod served;
mod settings;

use std::path::{Path, PathBuf};

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
