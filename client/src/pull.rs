//! One pull: the request, and what its response says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::code::{RequestCode, ResponseCode};
use sluice_protocol::header::Header;
use sluice_protocol::heartbeat::SubscriptionData;
use sluice_protocol::message::tag_hash;
use sluice_protocol::request::{self, pull_flag};
use sluice_protocol::response;

use crate::client::Client;
use crate::connection::Request;
use crate::error::Error;
use crate::record::{Record, inflate, records};
use crate::route::Queue;

/// How much longer than the broker may hold a pull its response is waited for.
const GRACE: Duration = Duration::from_secs(10);

/// Inflated bodies of one pull, in bytes; one body may be longer. What is beyond is pulled again.
pub(crate) const INFLATED_BYTES_MAX: usize = 16 << 20;

/// Which messages of a topic are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// All.
    #[default]
    All,
    /// Those with one of these tags, `a || b`.
    Tags(String),
    /// Those for which this SQL92 expression over their properties is true.
    Sql(String),
}

impl Filter {
    /// The filter of a tag expression; `*` and none are all.
    pub fn tags(expression: &str) -> Self {
        match expression.trim() {
            "" | "*" => Self::All,
            tags => Self::Tags(tags.to_owned()),
        }
    }

    /// Its text on the wire.
    pub fn expression(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Tags(text) | Self::Sql(text) => text,
        }
    }

    /// Its kind on the wire.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::All | Self::Tags(_) => "TAG",
            Self::Sql(_) => "SQL92",
        }
    }

    /// The tags, of a filter by tags.
    pub(crate) fn tag_set(&self) -> Option<HashSet<String>> {
        match self {
            Self::Tags(text) => {
                let tags = text.split("||").map(str::trim).filter(|tag| !tag.is_empty());
                Some(tags.map(str::to_owned).collect())
            }
            _ => None,
        }
    }

    /// As a heartbeat says it.
    pub(crate) fn subscription(&self, topic: &str, version: i64) -> SubscriptionData {
        let mut tags: Vec<String> = self.tag_set().into_iter().flatten().collect();
        tags.sort_unstable();
        SubscriptionData {
            topic: topic.to_owned(),
            sub_string: self.expression().to_owned(),
            expression_type: self.kind().to_owned(),
            sub_version: version,
            code_set: tags.iter().map(|tag| tag_hash(tag)).collect(),
            tags_set: tags,
            ..SubscriptionData::default()
        }
    }
}

/// What is wanted of a queue.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) group: String,
    pub(crate) queue: Queue,
    pub(crate) filter: Filter,
    /// The tags of the filter: brokers compare hashes, which more than one tag may have.
    pub(crate) tags: Option<HashSet<String>>,
    /// Version of the subscription in the heartbeat; without one every pull says what it wants.
    pub(crate) version: Option<i64>,
    pub(crate) messages_max: i32,
    pub(crate) bytes_max: i32,
    /// How long the broker may hold the request.
    pub(crate) hold: Duration,
}

/// What a pull found.
#[derive(Debug)]
pub(crate) struct Pulled {
    pub(crate) records: Vec<Record>,
    /// Bytes of the response's body, and of the bodies that were inflated.
    pub(crate) bytes: usize,
    /// Where the next pull starts.
    pub(crate) next_offset: i64,
    pub(crate) max_offset: i64,
    /// Whom to ask next, by broker id.
    pub(crate) broker_id: i64,
    /// The asked offset was not in the queue.
    pub(crate) moved: bool,
}

/// What a pull brought, its records as they are stored.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Encoded records one after the other, see [`sluice_protocol::record`]; empty if there is none.
    pub bytes: Bytes,
    /// Where the next pull starts.
    pub next_offset: i64,
    /// The first offset that is kept.
    pub min_offset: i64,
    /// The offset after the last message.
    pub max_offset: i64,
    /// The asked offset was not in the queue; `next_offset` is the nearest one that is.
    pub moved: bool,
    /// Whom to ask next, by broker id.
    pub(crate) broker_id: i64,
}

/// Pulls once.
pub(crate) async fn fetch(
    client: &Client,
    address: &Arc<str>,
    wanted: &Wanted,
    offset: i64,
) -> Result<Fetched, Error> {
    let code = RequestCode::PULL_MESSAGE;
    let queue = &wanted.queue;
    let says = wanted.version.is_none();
    let suspend = if wanted.hold.is_zero() { 0 } else { pull_flag::SUSPEND };
    let header = request::PullMessage {
        consumer_group: &wanted.group,
        topic: queue.topic.as_str(),
        queue_id: queue.id.get(),
        queue_offset: offset,
        max_msg_nums: wanted.messages_max,
        sys_flag: suspend | if says { pull_flag::SUBSCRIPTION } else { 0 },
        commit_offset: 0,
        suspend_timeout_millis: i64::try_from(wanted.hold.as_millis()).unwrap_or(i64::MAX),
        subscription: says.then(|| wanted.filter.expression()),
        sub_version: wanted.version.unwrap_or(0),
        expression_type: Some(wanted.filter.kind()),
        max_msg_bytes: Some(wanted.bytes_max),
        broker_name: Some(&queue.broker),
    };
    let request = Request::new(code, header.fields(), &[]);
    let response = client.call(address, request, wanted.hold + GRACE).await?;
    let header = response.header().map_err(|error| Error::unreadable(address, code, "header", error))?;
    let found = matches!(header.response_code(), ResponseCode::SUCCESS);
    if !found && !is_empty(&header) {
        let (subject, remark) = (queue.to_string(), header.remark.as_deref());
        return Err(Error::refused(address, code, &subject, header.response_code(), remark));
    }
    let fields = response::PullMessage::parse(&header.fields)
        .map_err(|error| Error::unreadable(address, code, "header field", error))?;
    Ok(Fetched {
        next_offset: fields.next_begin_offset,
        min_offset: fields.min_offset,
        max_offset: fields.max_offset,
        broker_id: fields.suggest_which_broker_id,
        moved: header.response_code() == ResponseCode::PULL_OFFSET_MOVED,
        bytes: if found { response.body.clone() } else { Bytes::new() },
    })
}

/// Pulls once, and reads the records.
pub(crate) async fn pull(
    client: &Client,
    address: &Arc<str>,
    wanted: &Wanted,
    offset: i64,
) -> Result<Pulled, Error> {
    let fetched = fetch(client, address, wanted, offset).await?;
    let mut found = records(address, RequestCode::PULL_MESSAGE, Some(&wanted.queue.topic), &fetched.bytes)?;
    if let Some(tags) = &wanted.tags {
        found.retain(|record| record.tag().is_some_and(|tag| tags.contains(tag)));
    }
    let (inflated_bytes, done) = inflate(&mut found, INFLATED_BYTES_MAX);
    let next_offset = found.get(done).map_or(fetched.next_offset, |record| record.queue_offset);
    found.truncate(done);
    Ok(Pulled {
        records: found,
        bytes: fetched.bytes.len() + inflated_bytes,
        next_offset,
        max_offset: fetched.max_offset,
        broker_id: fetched.broker_id,
        moved: fetched.moved,
    })
}

/// Nothing there, nothing wanted there, or another offset to go on at.
fn is_empty(header: &Header<'_>) -> bool {
    matches!(
        header.response_code(),
        ResponseCode::PULL_NOT_FOUND | ResponseCode::PULL_RETRY_IMMEDIATELY | ResponseCode::PULL_OFFSET_MOVED
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_expression_is_read_as_in_java() {
        assert_eq!([Filter::tags(""), Filter::tags(" * ")], [Filter::All, Filter::All]);
        let filter = Filter::tags("a || b||  ||a");
        let subscription = filter.subscription("t", 7);
        assert_eq!(subscription.tags_set, ["a", "b"]);
        assert_eq!(subscription.code_set, [97, 98]);
        assert_eq!((filter.kind(), Filter::Sql("a = 1".into()).kind()), ("TAG", "SQL92"));
    }
}
