//! Times that text can not hold.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Date64Type, Time32MillisecondType, Time32SecondType,
    Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow::temporal_conversions::{as_datetime, as_time};
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// What is said of such a value.
pub const WITHOUT_YEAR: &str = "a time that is out of the range of years";

/// The rows that hold a time that has no year to be written with, rising: Arrow's own writers of text put an error in the
/// place of such a value, and JSON is none with it.
pub fn without_year(column: &ArrayRef) -> Vec<usize> {
    fn beyond<T: ArrowPrimitiveType>(column: &ArrayRef) -> Vec<usize>
    where
        i64: From<T::Native>,
    {
        let values = column.as_primitive::<T>();
        let is_beyond = |value: Option<T::Native>| {
            value.is_some_and(|value| {
                let value = value.into();
                as_datetime::<T>(value).is_none() && as_time::<T>(value).is_none()
            })
        };
        values.iter().enumerate().filter(|(_, value)| is_beyond(*value)).map(|(row, _)| row).collect()
    }
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => beyond::<TimestampSecondType>(column),
        DataType::Timestamp(TimeUnit::Millisecond, _) => beyond::<TimestampMillisecondType>(column),
        DataType::Timestamp(TimeUnit::Microsecond, _) => beyond::<TimestampMicrosecondType>(column),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => beyond::<TimestampNanosecondType>(column),
        DataType::Date32 => beyond::<Date32Type>(column),
        DataType::Date64 => beyond::<Date64Type>(column),
        DataType::Time32(TimeUnit::Second) => beyond::<Time32SecondType>(column),
        DataType::Time32(TimeUnit::Millisecond) => beyond::<Time32MillisecondType>(column),
        DataType::Time64(TimeUnit::Microsecond) => beyond::<Time64MicrosecondType>(column),
        DataType::Time64(TimeUnit::Nanosecond) => beyond::<Time64NanosecondType>(column),
        nested if nested.is_nested() && has_time(nested) => {
            let options = FormatOptions::new().with_display_error(false);
            let Ok(shown) = ArrayFormatter::try_new(column.as_ref(), &options) else { return Vec::new() };
            (0..column.len()).filter(|row| shown.value(*row).try_to_string().is_err()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a type is or holds times.
fn has_time(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            has_time(item.data_type())
        }
        DataType::FixedSizeList(item, _) => has_time(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_time(field.data_type())),
        other => other.is_temporal(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, Time32SecondArray, TimestampMillisecondArray};
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn times_that_have_no_year_are_found() {
        let nanoseconds_as_ms = 1_700_000_000_000_000_000;
        let times =
            TimestampMillisecondArray::from(vec![Some(0), None, Some(nanoseconds_as_ms), Some(i64::MIN)]);
        let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
        assert_eq!(without_year(&times), [2, 3]);
        let item = Arc::new(Field::new_list_field(times.data_type().clone(), true));
        let lists = ListArray::new(item, OffsetBuffer::from_lengths([1, 1, 2]), times, None);
        assert_eq!(without_year(&(Arc::new(lists) as ArrayRef)), [2]);
        let clock: ArrayRef = Arc::new(Time32SecondArray::from(vec![86_399, 86_400, -1]));
        assert_eq!(without_year(&clock), [1, 2]);
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX]));
        assert_eq!(without_year(&numbers), [0; 0]);
    }
}
