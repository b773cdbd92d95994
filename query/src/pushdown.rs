//! What a topic's table does with the filters of a query before it makes a row: queues, queue offsets and
//! store times become ranges, conditions on properties a filter of ours.
//!
//! Each of them may let too much pass, as `DataFusion` filters again; none may take a row away that passes.

use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use sluice_connect::task::Range;
use sluice_filters::{Dialect, Filter, Name};
use sluice_protocol::id::{QueueId, QueueOffset, TopicName};
use sluice_protocol::record::records;
use sluice_store::Store;

use crate::Failure;

/// Bounds, both inclusive.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: i64,
    high: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { low: i64::MIN, high: i64::MAX }
    }
}

impl Bounds {
    fn narrow(&mut self, op: Operator, value: i64) -> bool {
        let (low, high) = match op {
            Operator::Eq => (value, value),
            Operator::Gt => (value.saturating_add(1), i64::MAX),
            Operator::GtEq => (value, i64::MAX),
            Operator::Lt => (i64::MIN, value.saturating_sub(1)),
            Operator::LtEq => (i64::MIN, value),
            _ => return false,
        };
        (self.low, self.high) = (self.low.max(low), self.high.min(high));
        true
    }
}

/// The filters that were understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushdown {
    queue_ids: Bounds,
    offsets: Bounds,
    store_times: Bounds,
    /// Conditions of dialect `sluice`, all of which must hold.
    properties: Vec<String>,
}

impl Pushdown {
    /// Adds a filter; whether any of it was understood.
    pub(crate) fn add(&mut self, filter: &Expr) -> bool {
        match filter {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                let left = self.add(left);
                self.add(right) || left
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (column(left), &**right) {
                (Some(name), Expr::Literal(value, _)) => self.bound(name, *op, value),
                _ => match (&**left, column(right), op.swap()) {
                    (Expr::Literal(value, _), Some(name), Some(op)) => self.bound(name, op, value),
                    _ => self.property(filter),
                },
            },
            other => self.property(other),
        }
    }

    fn bound(&mut self, name: &str, op: Operator, value: &ScalarValue) -> bool {
        match (name, value) {
            ("_queue_id", ScalarValue::Int32(Some(id))) => self.queue_ids.narrow(op, i64::from(*id)),
            ("_queue_offset", ScalarValue::Int64(Some(offset))) => self.offsets.narrow(op, *offset),
            ("_store_timestamp", ScalarValue::TimestampMillisecond(Some(ms), _)) => {
                self.store_times.narrow(op, *ms)
            }
            _ => false,
        }
    }

    fn property(&mut self, filter: &Expr) -> bool {
        let condition = condition(filter);
        let understood = condition.is_some();
        self.properties.extend(condition);
        understood
    }

    /// The conditions on properties.
    pub(crate) fn filter(&self) -> Option<Filter> {
        if self.properties.is_empty() {
            return None;
        }
        Filter::parse(&self.properties.join(" AND "), Dialect::Sluice).ok()
    }

    /// The part of a queue's range in which rows may pass. Times rise with offsets.
    pub(crate) fn range(
        &self,
        store: &Store,
        topic: &TopicName,
        queue: QueueId,
        range: Range,
    ) -> Result<Range, Failure> {
        let id = i64::from(queue.get());
        if id < self.queue_ids.low || id > self.queue_ids.high {
            return Ok(Range { start: range.end, end: range.end });
        }
        let mut start = range.start.max(self.offsets.low);
        let mut end = range.end.min(self.offsets.high.saturating_add(1));
        if self.store_times.low > i64::MIN {
            start = first_stored(store, topic, queue, start..end, self.store_times.low)?;
        }
        if self.store_times.high < i64::MAX {
            end = first_stored(store, topic, queue, start..end, self.store_times.high + 1)?;
        }
        Ok(Range { start: start.min(end), end })
    }
}

/// The first offset in a range whose record was stored at `ms` or later; the range's end if none was.
fn first_stored(
    store: &Store,
    topic: &TopicName,
    queue: QueueId,
    range: std::ops::Range<i64>,
    ms: i64,
) -> Result<i64, Failure> {
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        let read = store.read(topic, queue, QueueOffset::new(middle), 1)?;
        let record = read.runs.first().and_then(|run| records(&run.bytes).next()).transpose()?;
        // Where no record stands, the next one tells.
        if record.is_none_or(|record| record.store_timestamp_ms >= ms) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

fn column(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(Column { name, .. }) => Some(name),
        _ => None,
    }
}

/// A condition on properties in dialect `sluice`, if that has the same meaning: text against text.
fn condition(expr: &Expr) -> Option<String> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            Some(format!("({} {op} {})", condition(left)?, condition(right)?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let sign = match op {
                Operator::Eq => "=",
                Operator::NotEq => "<>",
                Operator::Lt => "<",
                Operator::LtEq => "<=",
                Operator::Gt => ">",
                Operator::GtEq => ">=",
                _ => return None,
            };
            Some(format!("{} {sign} {}", property(left)?, text(right)?))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let list = list.iter().map(text).collect::<Option<Vec<_>>>()?;
            let not = if *negated { "NOT " } else { "" };
            Some(format!("{} {not}IN ({})", property(expr)?, list.join(", ")))
        }
        Expr::IsNull(expr) => Some(format!("{} IS NULL", property(expr)?)),
        Expr::IsNotNull(expr) => Some(format!("{} IS NOT NULL", property(expr)?)),
        _ => None,
    }
}

/// `_properties['name']` as a name of ours.
fn property(expr: &Expr) -> Option<String> {
    let Expr::ScalarFunction(ScalarFunction { func, args }) = expr else { return None };
    let [map, Expr::Literal(key, _)] = args.as_slice() else { return None };
    if func.name() != "get_field" || column(map)? != "_properties" {
        return None;
    }
    let name = key.try_as_str()??;
    // Reserved ones are no entries of the map.
    (!name.is_empty() && !sluice_protocol::message::is_reserved(name))
        .then(|| Name::Property(name.to_owned()).to_string())
}

fn text(expr: &Expr) -> Option<String> {
    let Expr::Literal(value, _) = expr else { return None };
    Some(format!("'{}'", value.try_as_str()??.replace('\'', "''")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
    use async_trait::async_trait;
    use datafusion::catalog::{Session, TableProvider};
    use datafusion::common::not_impl_err;
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    use datafusion::error::Result;
    use datafusion::logical_expr::{LogicalPlan, TableProviderFilterPushDown, TableType};
    use datafusion::physical_plan::ExecutionPlan;
    use datafusion::prelude::SessionContext;

    use super::*;

    /// A table that is planned over and never read.
    #[derive(Debug)]
    struct Planned(SchemaRef);

    #[async_trait]
    impl TableProvider for Planned {
        fn schema(&self) -> SchemaRef {
            Arc::clone(&self.0)
        }

        fn table_type(&self) -> TableType {
            TableType::Base
        }

        fn supports_filters_pushdown(&self, all: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
            Ok(vec![TableProviderFilterPushDown::Inexact; all.len()])
        }

        async fn scan(
            &self,
            _: &dyn Session,
            _: Option<&Vec<usize>>,
            _: &[Expr],
            _: Option<usize>,
        ) -> Result<Arc<dyn ExecutionPlan>> {
            not_impl_err!("a table that is only planned over")
        }
    }

    /// What is understood of a filter as the planner hands it over.
    fn pushdown(filter: &str) -> Pushdown {
        let mut fields = vec![Field::new("id", DataType::Int64, true)];
        fields.extend(crate::topic_table::envelope_fields().map(|(_, field)| field));
        let context = SessionContext::new();
        context.register_table("t", Arc::new(Planned(Arc::new(Schema::new(fields))))).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
        let plan = runtime.block_on(async {
            let frame = context.sql(&format!("select id from t where {filter}")).await.unwrap();
            frame.into_optimized_plan().unwrap()
        });
        let mut found = Pushdown::default();
        plan.apply(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                scan.filters.iter().for_each(|filter| {
                    found.add(filter);
                });
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
        found
    }

    #[test]
    fn bounds_are_taken_from_both_sides() {
        let found = pushdown("_queue_offset between 3 and 7 and 5 > _queue_offset and _queue_id = 1");
        assert_eq!((found.offsets.low, found.offsets.high), (3, 4));
        assert_eq!((found.queue_ids.low, found.queue_ids.high), (1, 1));
        let found =
            pushdown("_store_timestamp >= '2023-11-14T22:13:23Z' and _store_timestamp < '2024-01-01'");
        assert_eq!((found.store_times.low, found.store_times.high), (1_700_000_003_000, 1_704_067_199_999));
    }

    #[test]
    fn conditions_on_properties_become_a_filter_and_others_are_left() {
        for (filter, expected) in [
            ("_properties['a'] = 'x'", Some("a = 'x'")),
            ("_properties['a-b'] <> 'it''s' and id > 5", Some("\"a-b\" <> 'it''s'")),
            ("_properties['a'] = 'x' or _properties['b'] > 'y'", Some("(a = 'x' OR b > 'y')")),
            ("_properties['a'] is null", Some("a IS NULL")),
            ("_properties['a'] = 'x' or id = 1", None),
            ("_properties['TAGS'] = 'x'", None),
            ("id = 1", None),
        ] {
            let found = pushdown(filter).filter();
            assert_eq!(found.as_ref().map(Filter::text), expected, "{filter}");
        }
    }
}
