//! What clients tell of the life of messages, if they are asked to: bodies of messages in [`TOPIC`], whose keys are the
//! ids of the messages that they tell of. As of `RocketMQ` 5.3.3, and of 4.x, which leave out fields at the end.
//!
//! A body is records that each end with 0x02; a record is fields with 0x01 between, the first of which is its kind.

/// The topic that clients write to, unless their settings name another one.
pub const TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";

/// One thing that happened to a message; times in ms since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "what its name does not say of a field stands above it")]
pub enum Trace<'a> {
    /// A producer sent it.
    Sent {
        time_ms: i64,
        /// Of the producer.
        group: &'a str,
        topic: &'a str,
        /// The message's unique id.
        id: &'a str,
        tags: &'a str,
        keys: &'a str,
        /// Where it is stored, as `address:port`.
        store_host: &'a str,
        body_bytes: i64,
        cost_ms: i64,
        /// Empty where an old client does not say.
        offset_id: &'a str,
        success: bool,
    },
    /// A consumer got it.
    Got {
        time_ms: i64,
        group: &'a str,
        /// Tells which [`Trace::Consumed`] belongs to it.
        request: &'a str,
        id: &'a str,
        /// How often it came before.
        times: i32,
    },
    /// A consumer is done with it.
    Consumed {
        request: &'a str,
        id: &'a str,
        cost_ms: i64,
        success: bool,
        /// 0 success, 1 time-out, 2 exception, 3 null, 4 failed.
        outcome: Option<i32>,
    },
    /// A producer told how its transaction ended.
    Ended {
        time_ms: i64,
        group: &'a str,
        topic: &'a str,
        id: &'a str,
        /// `COMMIT_MESSAGE`, `ROLLBACK_MESSAGE` or `UNKNOW`.
        state: &'a str,
        /// Whether it was asked for that.
        asked: bool,
    },
    /// A producer took it back before its time.
    Recalled { time_ms: i64, group: &'a str, topic: &'a str, id: &'a str, success: bool },
}

impl<'a> Trace<'a> {
    /// The unique id of the message.
    pub fn id(&self) -> &'a str {
        match *self {
            Self::Sent { id, .. }
            | Self::Got { id, .. }
            | Self::Consumed { id, .. }
            | Self::Ended { id, .. }
            | Self::Recalled { id, .. } => id,
        }
    }

    fn parse(record: &'a str) -> Option<Self> {
        let fields: Vec<&str> = record.split('\u{1}').collect();
        let text = |at: usize| fields.get(at).copied();
        let number = |at: usize| text(at)?.parse::<i64>().ok();
        let truth = |at: usize| text(at).is_some_and(|text| text.eq_ignore_ascii_case("true"));
        Some(match text(0)? {
            "Pub" => {
                // With 13 fields there is no offset id.
                let short = fields.len() <= 13;
                Self::Sent {
                    time_ms: number(1)?,
                    group: text(3)?,
                    topic: text(4)?,
                    id: text(5)?,
                    tags: text(6)?,
                    keys: text(7)?,
                    store_host: text(8)?,
                    body_bytes: number(9).unwrap_or(0),
                    cost_ms: number(10).unwrap_or(0),
                    offset_id: if short { "" } else { text(12)? },
                    success: truth(if short { 12 } else { 13 }),
                }
            }
            "SubBefore" => Self::Got {
                time_ms: number(1)?,
                group: text(3)?,
                request: text(4)?,
                id: text(5)?,
                times: number(6).and_then(|times| i32::try_from(times).ok()).unwrap_or(0),
            },
            "SubAfter" => Self::Consumed {
                request: text(1)?,
                id: text(2)?,
                cost_ms: number(3).unwrap_or(0),
                success: truth(4),
                outcome: number(6).and_then(|outcome| i32::try_from(outcome).ok()),
            },
            "EndTransaction" => Self::Ended {
                time_ms: number(1)?,
                group: text(3)?,
                topic: text(4)?,
                id: text(5)?,
                state: text(11)?,
                asked: truth(12),
            },
            "Recall" => Self::Recalled {
                time_ms: number(1)?,
                group: text(3)?,
                topic: text(4)?,
                id: text(5)?,
                success: truth(6),
            },
            _ => return None,
        })
    }
}

/// What a body tells, in its order; what can not be read is left out.
pub fn traces(body: &str) -> impl Iterator<Item = Trace<'_>> {
    body.split('\u{2}').filter_map(Trace::parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_java_client_writes_is_read() {
        let body = "Pub\x011700000000000\x01DefaultRegion\x01PG\x01TopicTest\x017F00\x01TagA\x01key1 key2\x01192.168.1.20:10911\x014\x0112\x010\x01C0A8\x01true\x02\
            SubBefore\x011700000000000\x01DefaultRegion\x01CG\x01REQ1\x017F00\x010\x01key1 key2\x02\
            SubAfter\x01REQ1\x017F00\x015\x01true\x01key1 key2\x010\x011700000000005\x01CG\x02\
            EndTransaction\x011700000000000\x01DefaultRegion\x01PG\x01TopicTest\x017F00\x01TagA\x01key1\x01192.168.1.20:10911\x012\x01TX1\x01COMMIT_MESSAGE\x01false\x02";
        let all: Vec<Trace<'_>> = traces(body).collect();
        let expected = [
            Trace::Sent {
                time_ms: 1_700_000_000_000,
                group: "PG",
                topic: "TopicTest",
                id: "7F00",
                tags: "TagA",
                keys: "key1 key2",
                store_host: "192.168.1.20:10911",
                body_bytes: 4,
                cost_ms: 12,
                offset_id: "C0A8",
                success: true,
            },
            Trace::Got { time_ms: 1_700_000_000_000, group: "CG", request: "REQ1", id: "7F00", times: 0 },
            Trace::Consumed { request: "REQ1", id: "7F00", cost_ms: 5, success: true, outcome: Some(0) },
            Trace::Ended {
                time_ms: 1_700_000_000_000,
                group: "PG",
                topic: "TopicTest",
                id: "7F00",
                state: "COMMIT_MESSAGE",
                asked: false,
            },
        ];
        assert_eq!(all, expected);
        assert!(all.iter().all(|trace| trace.id() == "7F00"));
    }

    #[test]
    fn old_and_broken_records_do_not_hide_others() {
        let old = "Pub\x011\x01r\x01g\x01t\x01I\x01\x01\x01h:1\x014\x0112\x010\x01true\x02";
        let body = format!("\x02Pub\x01x\x02Later\x011\x02{old}SubAfter\x01R\x01I\x015\x01false\x01k\x02");
        let all: Vec<Trace<'_>> = traces(&body).collect();
        assert!(matches!(all[0], Trace::Sent { offset_id: "", success: true, .. }), "{all:?}");
        assert!(matches!(all[1], Trace::Consumed { success: false, outcome: None, .. }), "{all:?}");
        assert_eq!(all.len(), 2);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_without_a_fault(body in "[PubSfterBo\u{1}\u{2}0-9-]{0,200}") {
            let _ = traces(&body).count();
        }
    }
}
