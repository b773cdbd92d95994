//! Files of a pipeline without `decode`: they hold the envelope, and every reader understands them.

mod support;

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryViewArray, DictionaryArray, Int32Array, Int64Array, MapBuilder, RecordBatch,
    StringViewArray, StringViewBuilder, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Schema};
use sluice_connect::batch;
use sluice_connect::plan::Plan;
use sluice_connect::task::{Class, Range, SinkTask, Slice};
use sluice_store::file::RealDisk;
use support::{FOOTED, Kind, chain, published_names};
use tempfile::TempDir;

/// Three rows with every envelope column and the property `origin`; the last has all nulls that may be.
fn envelope() -> Slice {
    let mut properties = MapBuilder::new(
        Some(arrow::array::MapFieldNames {
            entry: "entries".into(),
            key: "key".into(),
            value: "value".into(),
        }),
        StringViewBuilder::new(),
        StringViewBuilder::new(),
    );
    for row in 0..3 {
        for (key, value) in
            [("origin", "EWR"), ("a long enough name of a property", "x")].iter().take(2 - row)
        {
            properties.keys().append_value(key);
            properties.values().append_value(value);
        }
        properties.append(true).unwrap();
    }
    let topic: DictionaryArray<Int32Type> = ["flights", "flights", "flights"].into_iter().collect();
    let time = |values: Vec<Option<i64>>| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from(values).with_timezone("UTC"))
    };
    let text = |values: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringViewArray::from_iter(values)) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("topic", Arc::new(topic)),
        ("queue_id", Arc::new(Int32Array::from(vec![2, 2, 2]))),
        ("queue_offset", Arc::new(Int64Array::from(vec![0, 1, 2]))),
        ("store_timestamp", time(vec![Some(1), Some(2), None])),
        ("born_timestamp", time(vec![Some(1), Some(2), None])),
        ("message_id", text([Some("7F00000100002A9F0000000000000000"), Some("x"), None])),
        ("keys", text([Some("N14228 N24211"), Some(""), None])),
        ("tags", text([Some("UA"), Some("AA"), None])),
        ("properties", Arc::new(properties.finish())),
        (
            "body",
            Arc::new(BinaryViewArray::from_iter([Some(&b"{\"flight\": 1545}"[..]), Some(b"\xff\0"), None])),
        ),
        ("properties.origin", text([Some("EWR"), Some("EWR"), None])),
    ];
    let fields: Vec<_> = columns.iter().map(|(name, _)| batch::field(name).unwrap()).collect();
    let columns = fields.iter().zip(columns).map(|(field, (_, column))| match field.data_type() {
        map @ DataType::Map(..) => cast(&column, map).unwrap(),
        _ => column,
    });
    let columns: Vec<ArrayRef> = columns.collect();
    let envelope = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let range = Range { start: 0, end: 3 };
    Slice {
        range,
        envelope,
        decoded: None,
        filtered: 0,
        absent: 0,
        deduplicated: Vec::new(),
        rejects: Vec::new(),
        bytes: 0,
        stored_ms: None,
    }
}

fn write(kind: Kind, target: &Path, partition: &[&str]) -> Plan {
    let mut sink = support::sink(kind, target, partition, Arc::new(RealDisk));
    sink.begin(&chain(), 0, "first").unwrap();
    sink.put(&chain(), &envelope()).unwrap();
    let plan = support::plan(&mut sink, 0, 3).unwrap();
    sink.claim(&chain(), &plan).unwrap();
    sink.seal(&chain(), &plan).unwrap();
    sink.publish(&chain(), &plan).unwrap();
    plan
}

/// The values as text, so that views, dictionaries and plain columns compare.
fn texts(batches: &[RecordBatch], column: &str) -> Vec<Option<String>> {
    let columns = batches.iter().map(|batch| batch.column_by_name(column).unwrap());
    let texts = columns.map(|column| cast(column, &DataType::Utf8View).unwrap());
    texts
        .flat_map(|text| {
            let text = text.as_any().downcast_ref::<StringViewArray>().unwrap().clone();
            text.iter().map(|value| value.map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_envelope_column_comes_back() {
    for kind in FOOTED {
        let target = TempDir::new().unwrap();
        let plan = write(kind, target.path(), &[]);
        let batches = support::read(kind, &target.path().join(&plan.files[0].name));
        let names: Vec<_> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names[..10], batch::COLUMNS);
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(texts(&batches, "topic"), vec![some("flights"); 3]);
        assert_eq!(texts(&batches, "keys"), [some("N14228 N24211"), some(""), None]);

        let body = cast(batches[0].column_by_name("body").unwrap(), &DataType::BinaryView).unwrap();
        let body = body.as_any().downcast_ref::<BinaryViewArray>().unwrap();
        assert_eq!(
            body.iter().collect::<Vec<_>>(),
            [Some(&b"{\"flight\": 1545}"[..]), Some(b"\xff\0"), None]
        );
        let properties = batches[0].column_by_name("properties").unwrap();
        let properties = properties.as_any().downcast_ref::<arrow::array::MapArray>().unwrap();
        assert_eq!([0, 1, 2].map(|row| properties.value(row).len()), [2, 1, 0]);
    }
}

#[test]
fn files_hold_no_views_for_older_readers() {
    for kind in FOOTED {
        let target = TempDir::new().unwrap();
        let plan = write(kind, target.path(), &[]);
        let batches = support::read(kind, &target.path().join(&plan.files[0].name));
        let schema = batches[0].schema();
        let types: Vec<_> = schema.fields().iter().map(|field| field.data_type().to_string()).collect();
        assert!(types.iter().all(|name| !name.contains("View")), "{types:?}");
    }
}

#[test]
fn envelope_columns_and_properties_partition_and_leave_the_file() {
    for kind in FOOTED {
        let target = TempDir::new().unwrap();
        let plan = write(kind, target.path(), &["$topic", "origin"]);
        let folders: Vec<_> = plan.files.iter().map(|file| file.name.rsplit_once('/').unwrap().0).collect();
        assert_eq!(folders, ["topic=flights/origin=EWR", "topic=flights/origin=__HIVE_DEFAULT_PARTITION__"]);
        assert_eq!(published_names(target.path()).len(), 2);
        let batches = support::read(kind, &target.path().join(&plan.files[0].name));
        assert_eq!(texts(&batches, "tags"), [Some("UA".to_owned()), Some("AA".to_owned())]);
        for gone in ["topic", "properties.origin"] {
            assert!(batches[0].column_by_name(gone).is_none());
        }
    }
}

#[test]
fn a_decoded_field_is_no_partition_without_decode() {
    let target = TempDir::new().unwrap();
    let mut sink = support::sink(Kind::Parquet, target.path(), &["$.origin"], Arc::new(RealDisk));
    let error = sink.put(&chain(), &envelope()).unwrap_err();
    assert_eq!(error.class, Class::Config);
    assert!(error.message.contains("without decode there are none"), "{}", error.message);
}

#[test]
fn a_time_names_its_folder_in_utc() {
    let target = TempDir::new().unwrap();
    let plan = write(Kind::Parquet, target.path(), &["$store_timestamp"]);
    assert!(plan.files[0].name.starts_with("store_timestamp=1970-01-01T00%3A00%3A00.001Z/"), "{plan:?}");
}
