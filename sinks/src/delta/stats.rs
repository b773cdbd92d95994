//! What readers skip files by: rows, nulls, and the least and greatest value of each column, from a file's footer.

use ::parquet::basic::{ConvertedType, LogicalType, TimeUnit};
use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::statistics::Statistics;
use ::parquet::schema::types::ColumnDescriptor;
use arrow::temporal_conversions::{date32_to_datetime, timestamp_ms_to_datetime};
use serde_json::{Map, Value, json};

/// Columns of which so many at the front have their values told, as is usual (`delta.dataSkippingNumIndexedCols`).
const COLUMNS_MAX: usize = 32;

/// The statistics of a file as the log has them. Columns inside of others are left out.
pub(super) fn of(metadata: &ParquetMetaData) -> Value {
    let (mut least, mut greatest, mut nulls) = (Map::new(), Map::new(), Map::new());
    let schema = metadata.file_metadata().schema_descr();
    let plain = (0..schema.num_columns()).filter(|at| schema.column(*at).path().parts().len() == 1);
    for at in plain.take(COLUMNS_MAX) {
        let column = schema.column(at);
        let name = column.name();
        let all: Option<Vec<&Statistics>> =
            metadata.row_groups().iter().map(|group| group.column(at).statistics()).collect();
        let Some(all) = all else { continue };
        let null_counts: Option<Vec<u64>> =
            all.iter().map(|statistics| statistics.null_count_opt()).collect();
        if let Some(counts) = null_counts {
            nulls.insert(name.to_owned(), json!(counts.iter().sum::<u64>()));
        }
        if let Some((low, high)) = bounds(&column, &all) {
            least.insert(name.to_owned(), low);
            if let Some(high) = high {
                greatest.insert(name.to_owned(), high);
            }
        }
    }
    let rows = metadata.file_metadata().num_rows();
    json!({"numRecords": rows, "minValues": least, "maxValues": greatest, "nullCount": nulls})
}

/// The least and the greatest of all row groups' values. `None` if some group has none that are known. Numbers with
/// fractions have no greatest: Parquet leaves out NaN, which engines take for greater than all others.
fn bounds(column: &ColumnDescriptor, all: &[&Statistics]) -> Option<(Value, Option<Value>)> {
    let first = all.first()?;
    match first {
        Statistics::Int32(_) => {
            let (low, high) = extremes(all, |s| match s {
                Statistics::Int32(s) => Some((*s.min_opt()?, *s.max_opt()?)),
                _ => None,
            })?;
            match column.logical_type_ref() {
                Some(LogicalType::Date) => Some((date(low)?, Some(date(high)?))),
                Some(LogicalType::Integer(_)) | None if column.converted_type() != ConvertedType::DECIMAL => {
                    Some((json!(low), Some(json!(high))))
                }
                _ => None,
            }
        }
        Statistics::Int64(_) => {
            let (low, high) = extremes(all, |s| match s {
                Statistics::Int64(s) => Some((*s.min_opt()?, *s.max_opt()?)),
                _ => None,
            })?;
            match column.logical_type_ref() {
                Some(LogicalType::Timestamp(kind)) if kind.unit == TimeUnit::MICROS => {
                    // The log's are milliseconds: bounds go outwards.
                    let zone = if kind.is_adjusted_to_u_t_c { "Z" } else { "" };
                    let low = timestamp(low.div_euclid(1000), zone)?;
                    Some((low, Some(timestamp(high.div_euclid(1000).checked_add(1)?, zone)?)))
                }
                Some(LogicalType::Integer(_)) | None if column.converted_type() != ConvertedType::DECIMAL => {
                    Some((json!(low), Some(json!(high))))
                }
                _ => None,
            }
        }
        Statistics::Float(_) => {
            let (low, _) = extremes(all, |s| match s {
                Statistics::Float(s) => Some((*s.min_opt()?, *s.max_opt()?)),
                _ => None,
            })?;
            low.is_finite().then(|| (json!(low), None))
        }
        Statistics::Double(_) => {
            let (low, _) = extremes(all, |s| match s {
                Statistics::Double(s) => Some((*s.min_opt()?, *s.max_opt()?)),
                _ => None,
            })?;
            low.is_finite().then(|| (json!(low), None))
        }
        Statistics::ByteArray(_) if matches!(column.logical_type_ref(), Some(LogicalType::String)) => {
            let (low, high) = extremes(all, |s| match s {
                Statistics::ByteArray(s) => {
                    Some((s.min_opt()?.as_utf8().ok()?, s.max_opt()?.as_utf8().ok()?))
                }
                _ => None,
            })?;
            Some((json!(low), Some(json!(high))))
        }
        _ => None,
    }
}

fn extremes<'a, T: PartialOrd>(
    all: &[&'a Statistics],
    of: impl Fn(&'a Statistics) -> Option<(T, T)>,
) -> Option<(T, T)> {
    let mut found: Option<(T, T)> = None;
    for statistics in all {
        let (low, high) = of(statistics)?;
        found = Some(match found {
            None => (low, high),
            Some((l, h)) => (if low < l { low } else { l }, if high > h { high } else { h }),
        });
    }
    found
}

fn date(days: i32) -> Option<Value> {
    date32_to_datetime(days).map(|date| json!(date.format("%Y-%m-%d").to_string()))
}

fn timestamp(ms: i64, zone: &str) -> Option<Value> {
    timestamp_ms_to_datetime(ms).map(|time| json!(format!("{}{zone}", time.format("%Y-%m-%dT%H:%M:%S%.3f"))))
}
