//! Limits of what rows on their way hold in memory: one for each pipeline, one for all of a process.
//!
//! Counts what it is told; whoever holds rows lets go of them when it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Encoding row groups and the allocator take about as much again as the rows that are counted: a limit allows one
/// of so many bytes to be counted.
const HELD_OF_COUNTED: usize = 2;

/// What all pipelines of a process hold.
#[derive(Debug)]
pub struct Memory {
    bytes_max: usize,
    bytes: AtomicUsize,
}

impl Memory {
    /// `bytes_max` is the limit of all pipelines together.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max: bytes_max / HELD_OF_COUNTED, bytes: AtomicUsize::new(0) })
    }

    /// Whether all together hold more than they may: who would read more waits.
    pub fn is_over(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > self.bytes_max
    }
}

/// One pipeline's part, given back when dropped.
#[derive(Debug)]
pub struct Share {
    process: Arc<Memory>,
    bytes_max: usize,
    bytes: AtomicUsize,
}

impl Share {
    /// `bytes_max` is the pipeline's own limit.
    pub fn new(process: Arc<Memory>, bytes_max: usize) -> Self {
        Self { process, bytes_max: bytes_max / HELD_OF_COUNTED, bytes: AtomicUsize::new(0) }
    }

    /// What all pipelines hold.
    pub fn process(&self) -> &Memory {
        &self.process
    }

    /// Says what the pipeline holds now, in bytes, and hears what it must let go of.
    pub fn hold(&self, bytes: usize) -> usize {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // Wrapping, the sum of all parts stays right whatever order they come in.
        let all = &self.process.bytes;
        let total = all.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
        let total = total.wrapping_add(bytes).wrapping_sub(before);
        let of_process = total.saturating_sub(self.process.bytes_max).min(bytes);
        bytes.saturating_sub(self.bytes_max).max(of_process)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.hold(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_says_what_is_over_it() {
        let process = Memory::new(200);
        let (a, b) = (Share::new(process.clone(), 120), Share::new(process.clone(), 160));
        assert_eq!(a.hold(60), 0);
        assert_eq!(a.hold(70), 10, "its own");
        assert_eq!(b.hold(30), 0);
        assert_eq!(b.hold(50), 20, "the process's");
        assert!(process.is_over());
        assert_eq!(a.hold(5), 0);
        assert!(!process.is_over());
        drop((a, b));
        assert_eq!(process.bytes.load(Ordering::Relaxed), 0);
    }
}
