//! What tests need and no build ships: a disk that loses power, a clock that is set, repeatable chance.
//!
//! A dev-dependency, used from `tests/` only. Knows no subject of the tests.

mod clock;
mod disk;
mod files;
mod random;

pub use clock::ManualClock;
pub use disk::{Call, FaultyDisk, PowerLoss};
pub use files::{copy_dir, scratch};
pub use random::Random;
