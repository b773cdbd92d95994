//! Hand-over between two threads, bounded by bytes: the back-pressure from sink to source.
//!
//! Knows nothing of what it carries.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct State<T> {
    queue: VecDeque<(usize, T)>,
    bytes: usize,
    closed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    bytes_max: usize,
}

impl<T> Shared<T> {
    /// A thread that panicked while it held the lock left the queue whole: nothing here is half done.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end; dropping it closes the channel.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end; dropping it makes every `send` fail.
pub struct Receiver<T>(Arc<Shared<T>>);

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// One item.
    Item(T),
    /// None came in time.
    Timeout,
    /// The sender is gone and all was received.
    Closed,
}

/// A channel that holds items of `bytes_max` bytes in sum; one larger item passes alone.
pub fn bounded<T>(bytes_max: usize) -> (Sender<T>, Receiver<T>) {
    let state = Mutex::new(State { queue: VecDeque::new(), bytes: 0, closed: false });
    let shared = Arc::new(Shared { state, changed: Condvar::new(), bytes_max });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Waits for room. `Err` gives the item back: the receiver is gone.
    pub fn send(&self, bytes: usize, item: T) -> Result<(), T> {
        let mut state = self.0.lock();
        while !state.closed && !state.queue.is_empty() && state.bytes + bytes > self.0.bytes_max {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(item);
        }
        state.bytes += bytes;
        state.queue.push_back((bytes, item));
        self.0.changed.notify_all();
        Ok(())
    }

    /// Whether the receiver is gone: a sender that has nothing to send would not hear of it.
    pub fn is_closed(&self) -> bool {
        self.0.lock().closed
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item, `timeout` at most.
    #[expect(clippy::disallowed_methods, reason = "a wait needs the machine's own clock")]
    pub fn receive(&self, timeout: Duration) -> Received<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.lock();
        loop {
            if let Some((bytes, item)) = state.queue.pop_front() {
                state.bytes -= bytes;
                self.0.changed.notify_all();
                return Received::Item(item);
            }
            if state.closed {
                return Received::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Timeout;
            }
            (state, _) = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Receiver<T> {
    /// What waits in the channel, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.queue.clear();
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_holds_the_sender_until_there_is_room() {
        let (sender, receiver) = bounded(10);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for item in 0..100 {
                    sender.send(4, item).unwrap();
                }
            });
            for expected in 0..100 {
                assert!(receiver.0.lock().bytes <= 10);
                assert_eq!(receiver.receive(Duration::from_mins(1)), Received::Item(expected));
            }
            assert_eq!(receiver.receive(Duration::from_mins(1)), Received::Closed);
        });
    }

    #[test]
    fn a_larger_item_passes_alone_and_a_lost_receiver_is_told() {
        let (sender, receiver) = bounded(10);
        sender.send(1000, 'a').unwrap();
        assert_eq!(receiver.receive(Duration::ZERO), Received::Item('a'));
        assert_eq!(receiver.receive(Duration::ZERO), Received::Timeout);
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(1, 'b'), Err('b'));
    }
}
