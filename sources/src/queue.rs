//! Sources of queues whose messages have no offsets: a broker hands each message out, and again if it is not
//! acknowledged.
//!
//! Messages are numbered as they come, from where the target stands, and are acknowledged once the target has them.
//! A run that ends before leaves them to the broker, which hands them out again, to be numbered anew: a message comes
//! at least once. What is handed out and not acknowledged has a limit; when half of it is reached, the target publishes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sluice_bridges::message::Mapped;
use sluice_connect::task::{
    Class, Confirm, Needs, REJECT_BODY_BYTES_MAX, Range, Read, Reject, Slice, SourceQueue, SourceTask,
    TaskError,
};

use crate::columns::{Columns, Row};
use crate::filtered::{batch_bytes, filtered};
use crate::source::BY_A_TOPIC;
use crate::topic::Until;
use crate::unconfirmed::Unconfirmed;

/// Why messages of a broker's queue can not be had exactly once, and the way out.
#[allow(dead_code, reason = "asked by sources that a build may leave out")]
pub(crate) fn comes_once() -> String {
    format!(
        "the broker hands out again what was not acknowledged, with nothing to tell by that it came before, so rows may come \
         twice after a failure: write `delivery: at_least_once`. To have each message once, {BY_A_TOPIC}"
    )
}

/// Rows of one slice.
const SLICE_ROWS_MAX: usize = 16_384;
/// How often a queue is asked for what waits in it, for the lag.
const LAG_INTERVAL: Duration = Duration::from_secs(2);
/// What stands in the place of a topic's incarnation: a queue's messages have nothing to be told apart by.
const INCARNATION: &str = "queue";

/// A message that was handed out.
pub(crate) struct Delivery<T> {
    /// By which it is acknowledged.
    pub(crate) tag: T,
    /// What it becomes, with its born timestamp in ms; or why it can not.
    pub(crate) mapped: Result<(Mapped<'static>, Option<i64>), String>,
    pub(crate) body: Bytes,
}

/// Receives messages of one queue. Those that are dropped come again.
pub(crate) trait Receive: Send + 'static {
    type Tag: Send + 'static;

    /// The next one that is here.
    fn next(&mut self) -> Result<Option<Delivery<Self::Tag>>, TaskError>;
    /// Waits until one is here, `timeout` at most.
    fn wait(&mut self, timeout: Duration);
    /// How many wait at the broker, if it tells.
    fn ready(&mut self) -> Option<u64>;
    /// Whether none is here and none on its way.
    fn is_empty(&mut self) -> Result<bool, TaskError>;
    /// The half that acknowledges.
    fn acknowledge(&self) -> Arc<dyn Acknowledge<Self::Tag>>;
}

/// Acknowledges messages.
pub(crate) trait Acknowledge<T>: Send + Sync {
    /// In the order in which they came.
    fn acknowledge(&self, tags: Vec<T>) -> Result<(), TaskError>;
}

/// What is said of a queue beside its connection.
#[derive(Clone, Debug)]
pub(crate) struct QueueSettings {
    /// Its name, which names the chain.
    pub(crate) name: String,
    pub(crate) until: Until,
    /// Messages that may be handed out and not acknowledged, at least 1.
    pub(crate) unacknowledged_max: usize,
    /// How long a message may wait until the target is asked to publish it, where somebody waits for that.
    pub(crate) publish_within: Option<Duration>,
}

type Connect<C> = Box<dyn FnMut() -> Result<C, TaskError> + Send>;

/// Reads one queue.
pub(crate) struct QueueSource<C: Receive> {
    settings: QueueSettings,
    connect: Connect<C>,
    /// Dropped before the client, whose end may wait for those who wait for these.
    held: Arc<Held<C::Tag>>,
    client: Option<C>,
    needs: Needs,
    /// The number of the next message, once one was asked for.
    next: Option<i64>,
    /// What lies before it was asked to be published.
    asked: i64,
    /// When the first message came that was not asked to be published.
    unasked_since: Option<Instant>,
    /// What waits at the broker, and when it was asked.
    ready: Option<(u64, Instant)>,
}

/// The tags of messages that are not acknowledged, with their numbers, rising.
struct Held<T>(Mutex<VecDeque<(i64, T)>>);

impl<T> Held<T> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(i64, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Receive> QueueSource<C> {
    pub(crate) fn new(
        settings: QueueSettings,
        connect: impl FnMut() -> Result<C, TaskError> + Send + 'static,
    ) -> Self {
        Self {
            settings,
            connect: Box::new(connect),
            held: Arc::new(Held(Mutex::default())),
            client: None,
            needs: Needs::default(),
            next: None,
            asked: 0,
            unasked_since: None,
            ready: None,
        }
    }

    /// Rows after which the target is asked to publish.
    fn hold_max(&self) -> i64 {
        i64::try_from(self.settings.unacknowledged_max / 2).unwrap_or(i64::MAX).max(1)
    }

    /// Asks for all before `start` to be published.
    fn held(&mut self, start: i64) -> Read {
        self.asked = start;
        self.unasked_since = None;
        Read::Held
    }

    /// Whether a message has waited for as long as it may.
    fn is_due(&self) -> bool {
        let since = self.unasked_since.zip(self.settings.publish_within);
        since.is_some_and(|(since, within)| now().saturating_duration_since(since) >= within)
    }

    fn reject(&self, offset: i64, reason: String, body: &[u8]) -> Reject {
        Reject {
            offset,
            reason,
            body: Bytes::copy_from_slice(body.get(..REJECT_BODY_BYTES_MAX).unwrap_or(body)),
            body_bytes: body.len() as u64,
            place: format!("queue {}, message {offset} of this pipeline", self.settings.name),
            properties: Vec::new(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "when a broker or a target is asked decides about no row")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "it numbers messages that have no offsets")]
fn since_1970() -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_micros()).ok()
}

fn closed() -> TaskError {
    TaskError::new(Class::Fatal, "the source is not open")
}

impl<C: Receive> SourceTask for QueueSource<C> {
    fn open(&mut self, needs: &Needs) -> Result<(), TaskError> {
        self.needs = needs.clone();
        self.client = Some((self.connect)()?);
        Ok(())
    }

    fn queues(&mut self) -> Result<Vec<SourceQueue>, TaskError> {
        Ok(vec![SourceQueue {
            topic: self.settings.name.as_str().into(),
            queue: 0,
            incarnation: INCARNATION.to_owned(),
            first: 0,
            origin: 0,
        }])
    }

    fn read(&mut self, topic: &str, queue: i32, range: Range, bytes_max: usize) -> Result<Read, TaskError> {
        if range.end != i64::MAX {
            // What was acknowledged does not come again, and the rest comes under other numbers.
            return Ok(Read::Ended);
        }
        let start = *self.next.get_or_insert_with(|| {
            self.asked = range.start;
            range.start
        });
        if start != range.start {
            let message =
                format!("queue {topic}: asked for {}, and the next message is {start}", range.start);
            return Err(TaskError::new(Class::Fatal, message));
        }
        let hold_max = self.hold_max();
        if start - self.asked >= hold_max || self.is_due() {
            return Ok(self.held(start));
        }
        let needs = self.needs.clone();
        let mut columns = Columns::new(&needs);
        let what = format!("cannot make a batch of queue {topic}");
        let client = self.client.as_mut().ok_or_else(closed)?;
        let (mut next, mut tags) = (start, Vec::new());
        let mut refused = Vec::new();
        while columns.len() + refused.len() < SLICE_ROWS_MAX
            && columns.bytes < bytes_max
            && next - self.asked < hold_max
        {
            let Some(Delivery { tag, mapped, body }) = client.next()? else { break };
            columns.bytes += body.len() + 16;
            match mapped {
                Ok((mapped, born)) => {
                    let row = Row { offset: next, stored: None, born, body: Some(&body[..]), mapped };
                    columns.push(row).map_err(|e| TaskError::new(Class::Fatal, what.clone()).because(e))?;
                }
                Err(reason) => refused.push((next, reason, body)),
            }
            tags.push((next, tag));
            next += 1;
        }
        if next == start {
            let held = self.held.lock().len();
            if held >= self.settings.unacknowledged_max && self.asked < start {
                return Ok(self.held(start));
            }
            let is_over = self.settings.until == Until::CaughtUp && client.is_empty()?;
            return Ok(if is_over { Read::Ended } else { Read::Idle });
        }
        let rejects = refused.into_iter().map(|(offset, reason, body)| self.reject(offset, reason, &body));
        columns.rejects = rejects.collect();
        self.held.lock().extend(tags);
        self.next = Some(next);
        if self.settings.publish_within.is_some() {
            self.unasked_since.get_or_insert_with(now);
        }
        let (envelope, rejects) =
            columns.finish(topic, queue).map_err(|e| TaskError::new(Class::Fatal, what).because(e))?;
        let bytes = batch_bytes(&envelope) + rejects.iter().map(|reject| reject.body.len()).sum::<usize>();
        let range = Range { start, end: next };
        let (decoded, deduplicated, stored_ms) = (None, Vec::new(), None);
        let slice = Slice {
            range,
            envelope,
            decoded,
            filtered: 0,
            absent: 0,
            deduplicated,
            rejects,
            bytes,
            stored_ms,
        };
        Ok(Read::Slice(match &self.needs.filter {
            Some(filter) => filtered(slice, filter)?,
            None => slice,
        }))
    }

    fn wait(&mut self, timeout: Duration) {
        if let Some(client) = &mut self.client {
            client.wait(timeout);
        }
    }

    fn end(&mut self, _topic: &str, _queue: i32) -> Option<i64> {
        let client = self.client.as_mut()?;
        if self.ready.is_none_or(|(_, asked)| asked.elapsed() >= LAG_INTERVAL) {
            self.ready = Some((client.ready()?, now()));
        }
        let (ready, _) = self.ready?;
        Some(self.next.unwrap_or(0).saturating_add(i64::try_from(ready).unwrap_or(i64::MAX)))
    }

    fn confirmer(&self) -> Arc<dyn Confirm> {
        match &self.client {
            Some(client) => {
                Arc::new(Confirmer { held: Arc::clone(&self.held), acknowledge: client.acknowledge() })
            }
            None => Arc::new(Unconfirmed),
        }
    }
}

/// Acknowledges what the target has.
struct Confirmer<T> {
    held: Arc<Held<T>>,
    acknowledge: Arc<dyn Acknowledge<T>>,
}

impl<T: Send + 'static> Confirm for Confirmer<T> {
    fn secure(&self, _topic: &str, _queue: i32, _end: i64) -> Result<(), TaskError> {
        Ok(())
    }

    fn confirm(&self, _topic: &str, _queue: i32, end: i64) -> Result<(), TaskError> {
        let tags: Vec<T> = {
            let mut held = self.held.lock();
            let count = held.partition_point(|(number, _)| *number < end);
            held.drain(..count).map(|(_, tag)| tag).collect()
        };
        if tags.is_empty() { Ok(()) } else { self.acknowledge.acknowledge(tags) }
    }

    fn rereads(&self) -> bool {
        false
    }

    /// Asked for a target without positions, whose numbers would begin anew with each run: those of a later run are greater,
    /// so that a receiver can go by them. Microseconds since 1970.
    fn confirmed(&self, _topic: &str, _queue: i32) -> Result<Option<i64>, TaskError> {
        Ok(since_1970())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A broker with messages of one byte each.
    #[derive(Default)]
    struct Broker {
        waiting: VecDeque<u8>,
        acknowledged: Vec<u8>,
        out: usize,
    }

    struct Client(Arc<Mutex<Broker>>);

    impl Receive for Client {
        type Tag = u8;

        fn next(&mut self) -> Result<Option<Delivery<u8>>, TaskError> {
            let mut broker = self.0.lock().unwrap();
            if broker.out == 6 {
                return Ok(None);
            }
            let Some(byte) = broker.waiting.pop_front() else { return Ok(None) };
            broker.out += 1;
            let mapped = if byte == 3 {
                Err("odd".to_owned())
            } else {
                Ok((Mapped::default(), Some(i64::from(byte))))
            };
            Ok(Some(Delivery { tag: byte, mapped, body: vec![byte].into() }))
        }

        fn wait(&mut self, _: Duration) {}

        fn ready(&mut self) -> Option<u64> {
            Some(self.0.lock().unwrap().waiting.len() as u64)
        }

        fn is_empty(&mut self) -> Result<bool, TaskError> {
            Ok(self.0.lock().unwrap().waiting.is_empty())
        }

        fn acknowledge(&self) -> Arc<dyn Acknowledge<u8>> {
            Arc::new(Client(Arc::clone(&self.0)))
        }
    }

    impl Acknowledge<u8> for Client {
        fn acknowledge(&self, tags: Vec<u8>) -> Result<(), TaskError> {
            let mut broker = self.0.lock().unwrap();
            broker.out -= tags.len();
            broker.acknowledged.extend(tags);
            Ok(())
        }
    }

    fn source(broker: &Arc<Mutex<Broker>>) -> QueueSource<Client> {
        let settings = QueueSettings {
            name: "q".to_owned(),
            until: Until::CaughtUp,
            unacknowledged_max: 6,
            publish_within: None,
        };
        let broker = Arc::clone(broker);
        let mut source = QueueSource::new(settings, move || Ok(Client(Arc::clone(&broker))));
        source.open(&Needs { columns: vec!["body"], ..Needs::default() }).unwrap();
        source
    }

    fn read(source: &mut QueueSource<Client>, start: i64) -> Read {
        source.read("q", 0, Range { start, end: i64::MAX }, 1 << 20).unwrap()
    }

    fn rows(read: Read) -> (Range, usize, usize) {
        let Read::Slice(slice) = read else { panic!("{read:?}") };
        (slice.range, slice.envelope.num_rows(), slice.rejects.len())
    }

    #[test]
    fn a_message_that_somebody_waits_for_is_published_within_a_time() {
        let broker = Arc::new(Mutex::new(Broker { waiting: (0..2).collect(), ..Broker::default() }));
        let mut source = source(&broker);
        source.settings.publish_within = Some(Duration::from_millis(20));
        let before = Instant::now();
        assert_eq!(rows(read(&mut source, 0)), (Range { start: 0, end: 2 }, 2, 0));
        let mut reads = 0;
        while matches!(read(&mut source, 2), Read::Ended) {
            reads += 1;
            std::thread::yield_now();
        }
        assert!(reads > 0 && before.elapsed() >= Duration::from_millis(20));
        assert!(matches!(read(&mut source, 2), Read::Ended), "it is asked for once");
    }

    #[test]
    fn messages_are_numbered_from_where_the_target_stands_and_acknowledged_once_it_has_them() {
        let broker = Arc::new(Mutex::new(Broker { waiting: (0..8).collect(), ..Broker::default() }));
        let mut source = source(&broker);
        let confirmer = source.confirmer();
        assert!(!confirmer.rereads());
        let first = confirmer.confirmed("q", 0).unwrap();
        assert!(first > Some(1_700_000_000_000_000), "later runs have greater numbers: {first:?}");
        assert!(matches!(source.read("q", 0, Range { start: 5, end: 7 }, 9).unwrap(), Read::Ended));
        assert_eq!(rows(read(&mut source, 7)), (Range { start: 7, end: 10 }, 3, 0), "half of six");
        assert_eq!(source.end("q", 0), Some(15));
        assert!(matches!(read(&mut source, 10), Read::Held));
        assert_eq!(rows(read(&mut source, 10)), (Range { start: 10, end: 13 }, 2, 1));
        assert!(matches!(read(&mut source, 13), Read::Held));
        assert!(matches!(read(&mut source, 13), Read::Idle), "six are out, and all are asked for");
        confirmer.confirm("q", 0, 9).unwrap();
        assert_eq!(broker.lock().unwrap().acknowledged, [0, 1]);
        assert_eq!(rows(read(&mut source, 13)), (Range { start: 13, end: 15 }, 2, 0));
        assert!(matches!(read(&mut source, 15), Read::Held), "six are out, and two are not asked for");
        assert!(matches!(read(&mut source, 15), Read::Ended));
        confirmer.confirm("q", 0, 15).unwrap();
        assert_eq!(broker.lock().unwrap().acknowledged, [0, 1, 2, 3, 4, 5, 6, 7]);
        let again = source.read("q", 0, Range { start: 3, end: i64::MAX }, 9).unwrap_err();
        assert!(again.to_string().contains("the next message is 15"));
    }
}
