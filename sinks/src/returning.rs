//! Rows that come back: messages of a topic that went to Kafka and would be written to the very topic that they came
//! from. Property `rocketmq.origin` says where they were.
//!
//! Names alone do not tell a topic from one of the same name elsewhere, so the message at that place is looked at, once
//! for each topic and broker.

use std::collections::BTreeMap;

use arrow::array::BooleanArray;
use sluice_bridges::kafka::mapping::{Place, ROCKETMQ_ORIGIN};
use sluice_connect::task::TaskError;
use sluice_protocol::message::{UNIQ_KEY, property};
use sluice_protocol::record;

use crate::topic::{Rows, text};

/// What stands at the place that a row says it was at.
pub(crate) enum There {
    /// Stored records, from that queue offset on.
    Records(Vec<u8>),
    /// Nothing any more: it was kept for long enough.
    Gone,
    /// There is no such place.
    Never,
}

/// What is known of where rows came from.
#[derive(Debug, Default)]
pub(crate) struct Returning {
    /// Whether the target's topic (by name) is the one that rows came from.
    known: BTreeMap<(String, String), bool>,
    is_told: bool,
}

impl Returning {
    /// The rows that do not come back to their topic; `None` if that are all. `own` is the sink's topic, `look` shows
    /// what stands at a place of a topic of the target.
    pub(crate) fn kept(
        &mut self,
        rows: &Rows<'_>,
        count: usize,
        own: &str,
        mut look: impl FnMut(&str, &Place<'_>) -> Result<There, TaskError>,
    ) -> Result<Option<BooleanArray>, TaskError> {
        if !rows.have_property(ROCKETMQ_ORIGIN) {
            return Ok(None);
        }
        let mut kept = None;
        for row in 0..count {
            let origin = rows.own_properties(row).find(|(name, _)| *name == ROCKETMQ_ORIGIN);
            let Some(place) = origin.and_then(|(_, origin)| Place::parse(origin)) else { continue };
            let topic = text(rows.route, row).unwrap_or(own);
            let name = place.topic.rsplit_once('@').map_or(place.topic, |(name, _)| name);
            if name != topic {
                continue;
            }
            let key = (topic.to_owned(), place.topic.to_owned());
            let comes_back = match self.known.get(&key) {
                Some(known) => *known,
                None => {
                    let there = look(topic, &place)?;
                    let found = is_it(rows, row, &place, &there);
                    // What is gone tells nothing of the others.
                    if !matches!(there, There::Gone) {
                        self.known.insert(key, found);
                    }
                    found
                }
            };
            if comes_back {
                kept.get_or_insert_with(|| vec![true; count])[row] = false;
                if !std::mem::replace(&mut self.is_told, true) {
                    let origin = place.topic;
                    tracing::info!(
                        topic,
                        origin,
                        "rows that came from this topic are not written to it again"
                    );
                }
            }
        }
        Ok(kept.map(BooleanArray::from))
    }
}

/// Whether a row is the message that stands there.
fn is_it(rows: &Rows<'_>, row: usize, place: &Place<'_>, there: &There) -> bool {
    let records = match there {
        There::Records(records) => records,
        There::Gone => return true,
        There::Never => return false,
    };
    let first = record::records(records).next().and_then(Result::ok);
    let Some(first) = first.filter(|record| record.queue_offset == place.offset) else { return false };
    // A Kafka topic may set times of its own, so an id says more.
    match (rows.message_id(row), property(first.properties, UNIQ_KEY)) {
        (Some(id), Some(other)) => id == other,
        _ => rows.born(row) == Some(first.born_timestamp_ms),
    }
}
