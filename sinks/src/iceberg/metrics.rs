//! A data file as manifests have it: what its footer says of each column by its id, for readers that skip files, and
//! its partition.

use std::collections::HashMap;

use ::parquet::basic::Type as Physical;
use ::parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, PrimitiveType, Schema,
    Struct, TableMetadata, Transform, Type,
};

/// What a file says of one column.
#[derive(Default)]
struct Column {
    bytes: u64,
    values: u64,
    /// `None` as soon as a row group does not tell.
    nulls: Option<u64>,
    bounds: Option<(Datum, Datum)>,
}

/// The entry of a file. `partition` are the values of the partition columns by their names; an error says what of the
/// file does not fit the table.
pub(super) fn data_file(
    table: &TableMetadata,
    path: String,
    bytes: u64,
    footer: &ParquetMetaData,
    partition: &[(String, Option<String>)],
) -> Result<DataFile, String> {
    let columns = columns(footer, table.current_schema());
    let partition = partition_values(table, &columns, partition)?;
    let by_id = |of: &dyn Fn(&Column) -> Option<u64>| -> HashMap<i32, u64> {
        columns.iter().filter_map(|(id, column)| Some((*id, of(column)?))).collect()
    };
    let bounds = columns.iter().filter_map(|(id, column)| Some((*id, column.bounds.as_ref()?)));
    let starts = footer.row_groups().iter().filter_map(|group| {
        let (start, _) = group.columns().first()?.byte_range();
        i64::try_from(start).ok()
    });
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(path)
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter(partition))
        .partition_spec_id(table.default_partition_spec_id())
        .record_count(u64::try_from(footer.file_metadata().num_rows()).unwrap_or(0))
        .file_size_in_bytes(bytes)
        .column_sizes(by_id(&|column| Some(column.bytes)))
        .value_counts(by_id(&|column| Some(column.values)))
        .null_value_counts(by_id(&|column| column.nulls))
        .lower_bounds(bounds.clone().map(|(id, (low, _))| (id, low.clone())).collect())
        .upper_bounds(bounds.map(|(id, (_, high))| (id, high.clone())).collect())
        .split_offsets(Some(starts.collect()))
        .build()
        .map_err(|e| e.to_string())
}

/// The file's columns by their ids. Of what is inside of lists and maps nothing is told.
fn columns(footer: &ParquetMetaData, table: &Schema) -> HashMap<i32, Column> {
    let descriptor = footer.file_metadata().schema_descr();
    let mut found = HashMap::new();
    for at in 0..descriptor.num_columns() {
        let column = descriptor.column(at);
        let info = column.self_type().get_basic_info();
        if !info.has_id() || column.max_rep_level() > 0 {
            continue;
        }
        let kind =
            table.field_by_id(info.id()).and_then(|field| field.field_type.as_primitive_type().cloned());
        let mut told = Column { nulls: Some(0), ..Column::default() };
        let chunks: Vec<_> = footer.row_groups().iter().map(|group| group.column(at)).collect();
        for chunk in &chunks {
            told.bytes += u64::try_from(chunk.compressed_size()).unwrap_or(0);
            told.values += u64::try_from(chunk.num_values()).unwrap_or(0);
            let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
            told.nulls = told.nulls.zip(nulls).map(|(sum, more)| sum + more);
        }
        told.bounds = kind.and_then(|kind| bounds(&chunks, &kind));
        found.insert(info.id(), told);
    }
    found
}

/// The least and the greatest value of all row groups; `None` if one that has values does not tell.
fn bounds(chunks: &[&ColumnChunkMetaData], kind: &PrimitiveType) -> Option<(Datum, Datum)> {
    let mut found: Option<(Datum, Datum)> = None;
    for chunk in chunks {
        let statistics = chunk.statistics()?;
        if statistics.null_count_opt().is_some_and(|nulls| i64::try_from(nulls) == Ok(chunk.num_values())) {
            continue;
        }
        let value = |bytes: Option<&[u8]>| datum(bytes?, chunk.column_type(), kind);
        let (low, high) = (value(statistics.min_bytes_opt())?, value(statistics.max_bytes_opt())?);
        found = Some(match found {
            None => (low, high),
            Some((l, h)) => (if low < l { low } else { l }, if high > h { high } else { h }),
        });
    }
    found
}

/// A plain value of Parquet, which is Iceberg's single value but for decimals in integers: these are big-endian.
fn datum(bytes: &[u8], physical: Physical, kind: &PrimitiveType) -> Option<Datum> {
    let is_integer = matches!(physical, Physical::INT32 | Physical::INT64);
    if is_integer && matches!(kind, PrimitiveType::Decimal { .. }) {
        let bytes: Vec<u8> = bytes.iter().rev().copied().collect();
        return Datum::try_from_bytes(&bytes, kind.clone()).ok();
    }
    Datum::try_from_bytes(bytes, kind.clone()).ok()
}

/// The values of the table's partition fields, which are columns as they are.
fn partition_values(
    table: &TableMetadata,
    columns: &HashMap<i32, Column>,
    partition: &[(String, Option<String>)],
) -> Result<Vec<Option<Literal>>, String> {
    let spec = table.default_partition_spec();
    let value = |field: &iceberg::spec::PartitionField| {
        let name = table.current_schema().name_by_field_id(field.source_id).unwrap_or_default();
        if field.transform != Transform::Identity {
            return Err(format!("it is partitioned by {} of `{name}`", field.transform));
        }
        let text = partition.iter().find(|(column, _)| column == name).map(|(_, text)| text);
        let text = text.ok_or_else(|| format!("it is partitioned by `{name}`, and the files are not"))?;
        let Some(text) = text else { return Ok(None) };
        let kind = table.current_schema().field_by_id(field.source_id).map(|field| field.field_type.as_ref());
        match kind {
            // A text is told whole, and its bounds may be cut.
            Some(Type::Primitive(PrimitiveType::String)) => Ok(Some(Literal::string(text))),
            _ => match columns.get(&field.source_id).and_then(|column| column.bounds.as_ref()) {
                Some((low, high)) if low == high => Ok(Some(Literal::Primitive(low.literal().clone()))),
                _ => Err(format!("a file of partition `{name}={text}` does not hold this one value alone")),
            },
        }
    };
    spec.fields().iter().map(value).collect()
}
