//! The runtime as it ships, over real sources and sinks: on disks that lose power or are full, beside other
//! workers, with a clock that is set. `sinks/tests` has the same faults for the sinks alone.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod limits;
mod plans;
mod power;
mod schema;
mod steps;
mod support;
