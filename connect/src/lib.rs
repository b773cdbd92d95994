//! The connect runtime: tasks exchange Arrow record batches, and every source offset gets one fate.
//!
//! Knows no connector, no socket and no file: those come in through [`task`].

pub mod assignment;
pub mod batch;
mod breaker;
pub mod channel;
pub mod config;
mod dead_letter;
pub mod decode;
pub mod histogram;
pub mod memory;
pub mod pipeline;
pub mod plan;
pub mod progress;
mod recall;
pub mod steps;
pub mod target;
pub mod task;
pub mod worker;
