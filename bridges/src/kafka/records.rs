//! The records of a partition, taken many at a time. One of the three places of `unsafe`: the client library gives one
//! a call, each with a look at the clock and memory of its own, which is a tenth of what a source takes.

#![expect(unsafe_code, reason = "calls librdkafka")]

use std::ffi::{CStr, CString};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::{
    rd_kafka_consume_batch_queue, rd_kafka_header_get_all, rd_kafka_message_destroy,
    rd_kafka_message_headers, rd_kafka_message_s as NativeMessage, rd_kafka_message_timestamp,
    rd_kafka_queue_destroy, rd_kafka_queue_get_partition, rd_kafka_queue_s as NativeQueue,
    rd_kafka_timestamp_type_t as TimestampType,
};
use rdkafka::client::ClientContext;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Timestamp;
use rdkafka::types::RDKafkaRespErr;

use super::client::Context;
use super::mapping::Header;

/// Records that are taken at a time: what the client has read ahead is let go of by so many.
const TAKEN_MAX: usize = 64;

/// Reads what comes for one partition, which takes no other way.
pub struct Records {
    queue: NonNull<NativeQueue>,
    /// Taken and not given yet, the next one last.
    taken: Vec<NonNull<NativeMessage>>,
    /// Keeps the partition's records out of the consumer's own queue.
    partition: PartitionQueue<Context>,
    /// Lives for as long as there are records.
    consumer: Arc<BaseConsumer<Context>>,
}

// SAFETY: librdkafka lets any thread call it, and what the pointers lead to is used through `Records` alone.
unsafe impl Send for Records {}

impl Records {
    /// From now on records of the partition come here. `None` if its name can not be one.
    pub fn new(consumer: &Arc<BaseConsumer<Context>>, topic: &str, partition: i32) -> Option<Self> {
        let own = consumer.split_partition_queue(topic, partition)?;
        let topic = CString::new(topic).ok()?;
        // SAFETY: the pointers are those of a consumer and a text that are borrowed for the call.
        let queue = unsafe {
            rd_kafka_queue_get_partition(consumer.client().native_ptr(), topic.as_ptr(), partition)
        };
        let (taken, consumer) = (Vec::with_capacity(TAKEN_MAX), Arc::clone(consumer));
        Some(Self { queue: NonNull::new(queue)?, taken, partition: own, consumer })
    }

    /// What is called when records have come and none were there before.
    pub fn on_arrival(&mut self, call: impl Fn() + Send + Sync + 'static) {
        self.partition.set_nonempty_callback(call);
    }

    /// The next record, or what the client has to tell of the partition; `None` if nothing comes in time.
    pub fn next(&mut self, timeout: Duration) -> Option<Result<Record<'_>, KafkaError>> {
        if self.taken.is_empty() {
            self.take(Duration::ZERO, TAKEN_MAX);
        }
        if self.taken.is_empty() && !timeout.is_zero() {
            // The library waits until so many are there.
            self.take(timeout, 1);
        }
        let record = Record { message: self.taken.pop()?, records: PhantomData };
        Some(match record.native().err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(record),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => {
                Err(KafkaError::PartitionEOF(record.native().partition))
            }
            code => {
                let reason = String::from_utf8_lossy(record.payload().unwrap_or_default());
                self.consumer.context().error(KafkaError::Global(code.into()), &reason);
                Err(KafkaError::MessageConsumption(code.into()))
            }
        })
    }

    fn take(&mut self, timeout: Duration, most: usize) {
        let mut taken = [ptr::null_mut(); TAKEN_MAX];
        let most = most.min(TAKEN_MAX);
        let timeout = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: the queue is ours until it is dropped, and there is room for as many pointers as are asked for.
        let count =
            unsafe { rd_kafka_consume_batch_queue(self.queue.as_ptr(), timeout, taken.as_mut_ptr(), most) };
        let count = usize::try_from(count).unwrap_or(0).min(TAKEN_MAX);
        self.taken.extend(taken[..count].iter().rev().filter_map(|message| NonNull::new(*message)));
    }

    /// Lets go of what was taken and not given: the consumer was told to go on elsewhere.
    pub fn clear(&mut self) {
        self.taken.drain(..).for_each(|message| drop(Record { message, records: PhantomData }));
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.clear();
        // SAFETY: the queue is ours, and nothing uses it after this.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// A record in the client's memory, which goes back with it.
pub struct Record<'a> {
    message: NonNull<NativeMessage>,
    /// Records go back before the consumer ends.
    records: PhantomData<&'a Records>,
}

impl Record<'_> {
    fn native(&self) -> &NativeMessage {
        // SAFETY: librdkafka gave the message to us, and it stands until it is given back by `drop`.
        unsafe { self.message.as_ref() }
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.native().offset
    }

    /// Its value; `None` of a tombstone.
    pub fn payload(&self) -> Option<&[u8]> {
        let native = self.native();
        // SAFETY: where it is not null so many bytes stand there for as long as the message does.
        unsafe { bytes(native.payload.cast(), native.len) }
    }

    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        let native = self.native();
        // SAFETY: as for the value.
        unsafe { bytes(native.key.cast(), native.key_len) }
    }

    /// Its timestamp, in ms since 1970-01-01 UTC, and who set it.
    pub fn timestamp(&self) -> Timestamp {
        let mut kind = TimestampType::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is ours, and the kind is written for the call alone.
        let ms = unsafe { rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        match kind {
            _ if ms == -1 => Timestamp::NotAvailable,
            TimestampType::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE => Timestamp::NotAvailable,
            TimestampType::RD_KAFKA_TIMESTAMP_CREATE_TIME => Timestamp::CreateTime(ms),
            TimestampType::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Timestamp::LogAppendTime(ms),
        }
    }

    /// Its headers in their order, or why they can not be read.
    pub fn headers(&self) -> Result<Vec<Header<'_>>, String> {
        let mut list = ptr::null_mut();
        // SAFETY: the message is ours, and the list that it gives stands for as long as the message does.
        let code = unsafe { rd_kafka_message_headers(self.message.as_ptr(), &raw mut list) };
        match RDKafkaErrorCode::from(code) {
            RDKafkaErrorCode::NoError => {}
            RDKafkaErrorCode::NoEnt => return Ok(Vec::new()),
            code => return Err(format!("its headers can not be read: {code}")),
        }
        let mut headers = Vec::new();
        loop {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the list is the message's; what is written is used only if all of it was.
            let code = unsafe {
                rd_kafka_header_get_all(list, headers.len(), &raw mut name, &raw mut value, &raw mut size)
            };
            if code != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(headers);
            }
            // SAFETY: a text that ends with 0, which stands for as long as the message does.
            let name = unsafe { CStr::from_ptr(name) }.to_str();
            let name = name.map_err(|_| "the name of a header is no UTF-8".to_owned())?;
            // SAFETY: as for the record's value.
            headers.push(Header { name, value: unsafe { bytes(value.cast(), size) } });
        }
    }
}

impl Drop for Record<'_> {
    fn drop(&mut self) {
        // SAFETY: the message is ours, and nothing uses it after this.
        unsafe { rd_kafka_message_destroy(self.message.as_ptr()) };
    }
}

/// # Safety
/// Where `start` is not null `len` bytes stand there for as long as `'a` lasts.
unsafe fn bytes<'a>(start: *const u8, len: usize) -> Option<&'a [u8]> {
    // SAFETY: that is what the caller says.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, len) })
}
