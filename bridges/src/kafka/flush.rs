//! Sends what a producer holds back for fuller batches. One of the three places of `unsafe`: the client library has no way
//! to ask for this and go on.

#![expect(unsafe_code, reason = "calls librdkafka")]

use std::time::Duration;

use rdkafka::bindings::rd_kafka_flush;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

/// For so long nothing waits for `linger.ms`; whether brokers answered for all records before. A record that was not
/// stored counts until a poll has told of it.
///
/// The library's thread spins meanwhile if a partition has a request under way and more to send, so this is called for
/// a moment, again and again. `Producer::flush` asks for no time at all, which that thread does not notice.
pub fn flush<C: ProducerContext>(producer: &BaseProducer<C>, lasting: Duration) -> bool {
    let lasting = i32::try_from(lasting.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the pointer is that of the producer, which is borrowed for the call, and librdkafka may be called by
    // several threads at once.
    let result = unsafe { rd_kafka_flush(producer.client().native_ptr(), lasting) };
    result == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
}
