//! Avro bodies into columns: what the crate writes is what the columns hold, and what no body can do.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, SchemaRef, TimeUnit, TimestampMicrosecondType,
};
use arrow::json::LineDelimitedWriter;
use proptest::prelude::*;
use serde_json::json;
use sluice_formats::avro::{Avro, AvroSchema, Decoder, LookupError, Registered, Registry, Writers};
use sluice_formats::{Decoded, Error, Unknown, widen};

fn schema(json: &serde_json::Value) -> Arc<AvroSchema> {
    Arc::new(AvroSchema::parse(&json.to_string(), &[]).unwrap())
}

fn one(json: &serde_json::Value) -> Avro {
    Avro::new(Writers::One(schema(json)), None)
}

fn datum(schema: &serde_json::Value, value: &Value) -> Vec<u8> {
    let schema = Schema::parse_str(&schema.to_string()).unwrap();
    GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value.clone()).unwrap()
}

fn decode(avro: &mut Avro, columns: &SchemaRef, unknown: Unknown, bodies: &[Vec<u8>]) -> Decoded {
    let mut decoder = Decoder::new(Arc::clone(columns), unknown).unwrap();
    decoder.decode(avro, &mut bodies.iter().map(|body| Some(body.as_slice()))).unwrap()
}

/// The rows as JSON, nulls left out.
fn rows(batch: &RecordBatch) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    out.split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn everything() -> serde_json::Value {
    json!({"type": "record", "name": "Row", "namespace": "n", "fields": [
        {"name": "id", "type": "long"},
        {"name": "int", "type": "int"},
        {"name": "double", "type": "double"},
        {"name": "bool", "type": "boolean"},
        {"name": "text", "type": ["null", "string"]},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["A", "B"]}},
        {"name": "list", "type": {"type": "array", "items": ["null", "long"]}},
        {"name": "map", "type": {"type": "map", "values": "string"}},
        {"name": "either", "type": ["null", "int", "string"]},
        {"name": "to", "type": {"type": "record", "name": "To", "fields": [{"name": "x", "type": "int"}]}},
        {"name": "more", "type": {"type": "array", "items": "To"}},
        {"name": "nothing", "type": "null"},
    ]})
}

fn nullable(value: Option<Value>) -> Value {
    match value {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(value) => Value::Union(1, Box::new(value)),
    }
}

/// A row as an Avro value, and as the JSON of its columns.
fn row() -> impl Strategy<Value = (Value, serde_json::Value)> {
    let plain =
        (any::<i64>(), any::<i32>(), -1e9..1e9_f64, any::<bool>(), prop::option::of(".{0,8}"), 0..2_u32);
    let nested = (
        prop::collection::vec(prop::option::of(any::<i64>()), 0..4),
        prop::collection::hash_map("[a-z]{1,3}", ".{0,4}", 0..4),
        (0..3_u32, any::<i32>(), "[a-z]{0,3}"),
        any::<i32>(),
        prop::collection::vec(any::<i32>(), 0..3),
    );
    (plain, nested).prop_map(|((id, int, double, bool, text, kind), (list, map, (at, a, b), x, more))| {
        let mut json = json!({
            "id": id, "int": int, "double": double, "bool": bool, "kind": (if kind == 0 { "A" } else { "B" }), "list": list,
            "map": map, "to": {"x": x}, "more": more.iter().map(|x| json!({"x": x})).collect::<Vec<_>>(),
        });
        if let Some(text) = &text {
            json["text"] = json!(text);
        }
        let either = match at {
            0 => Value::Null,
            1 => Value::Int(a),
            _ => Value::String(b.clone()),
        };
        match at {
            0 => {}
            1 => json["either"] = json!({"int": a}),
            _ => json["either"] = json!({"string": b}),
        }
        let to = |x| Value::Record(vec![("x".into(), Value::Int(x))]);
        let value = Value::Record(vec![
            ("id".into(), Value::Long(id)),
            ("int".into(), Value::Int(int)),
            ("double".into(), Value::Double(double)),
            ("bool".into(), Value::Boolean(bool)),
            ("text".into(), nullable(text.map(Value::String))),
            ("kind".into(), Value::Enum(kind, ["A", "B"][kind as usize].into())),
            ("list".into(), Value::Array(list.into_iter().map(|i| nullable(i.map(Value::Long))).collect())),
            ("map".into(), Value::Map(map.into_iter().map(|(k, v)| (k, Value::String(v))).collect())),
            ("either".into(), Value::Union(at, Box::new(either))),
            ("to".into(), to(x)),
            ("more".into(), Value::Array(more.into_iter().map(to).collect())),
            ("nothing".into(), Value::Null),
        ]);
        (value, json)
    })
}

proptest! {
    #[test]
    fn what_the_crate_writes_is_what_the_columns_hold(given in prop::collection::vec(row(), 1..20)) {
        let mut avro = one(&everything());
        let bodies: Vec<_> = given.iter().map(|(value, _)| datum(&everything(), value)).collect();
        let columns = avro.columns().unwrap();
        let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
        prop_assert_eq!(&decoded.rejects, &[]);
        let expected: Vec<_> = given.into_iter().map(|(_, json)| json).collect();
        prop_assert_eq!(rows(&decoded.batch), expected);
    }

    #[test]
    fn a_body_that_is_cut_anywhere_or_goes_on_is_a_reject((value, _) in row()) {
        let mut avro = one(&everything());
        let whole = datum(&everything(), &value);
        let mut bodies: Vec<_> = (0..whole.len()).map(|end| whole[..end].to_vec()).collect();
        bodies.push([&whole[..], b"x"].concat());
        let columns = avro.columns().unwrap();
        let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
        prop_assert_eq!(decoded.rejects.len(), bodies.len());
        prop_assert_eq!(decoded.batch.num_rows(), 0);
    }

    #[test]
    fn any_bytes_are_a_row_or_a_reject(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..20)) {
        let mut avro = one(&everything());
        let columns = avro.columns().unwrap();
        let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
        prop_assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), bodies.len());
    }
}

#[test]
fn logical_types_have_columns_of_their_own() {
    let given = json!({"type": "record", "name": "R", "fields": [
        {"name": "money", "type": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 2}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "wall", "type": {"type": "long", "logicalType": "local-timestamp-millis"}},
        {"name": "time", "type": {"type": "int", "logicalType": "time-millis"}},
        {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "raw", "type": {"type": "fixed", "name": "F", "size": 2}},
    ]});
    let mut avro = one(&given);
    let columns = avro.columns().unwrap();
    let types: Vec<_> = columns.fields().iter().map(|f| f.data_type().clone()).collect();
    let utc = || Some("UTC".into());
    assert_eq!(
        types,
        [
            DataType::Decimal128(38, 2),
            DataType::Date32,
            DataType::Timestamp(TimeUnit::Microsecond, utc()),
            DataType::Timestamp(TimeUnit::Millisecond, None),
            DataType::Time32(TimeUnit::Millisecond),
            DataType::Utf8,
            DataType::Binary,
        ]
    );
    let row = |money: Vec<u8>| {
        let uuid = "00000000-0000-0000-0000-000000000007".parse().unwrap();
        Value::Record(vec![
            ("money".into(), Value::Decimal(money.into())),
            ("day".into(), Value::Date(-1)),
            ("at".into(), Value::TimestampMicros(1_000_001)),
            ("wall".into(), Value::LocalTimestampMillis(5)),
            ("time".into(), Value::TimeMillis(86_399_999)),
            ("key".into(), Value::Uuid(uuid)),
            ("raw".into(), Value::Fixed(2, vec![1, 2])),
        ])
    };
    let too_long = vec![1; 17];
    let bodies: Vec<_> =
        [vec![0xff], vec![0x01, 0x00], too_long].into_iter().map(|m| datum(&given, &row(m))).collect();
    let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
    let batch = &decoded.batch;
    assert_eq!(batch.column(0).as_primitive::<Decimal128Type>().values(), &[-1, 256]);
    assert_eq!(batch.column(1).as_primitive::<Date32Type>().value(0), -1);
    assert_eq!(batch.column(2).as_primitive::<TimestampMicrosecondType>().value(0), 1_000_001);
    assert_eq!(batch.column(5).as_string::<i32>().value(1), "00000000-0000-0000-0000-000000000007");
    assert_eq!(batch.column(6).as_binary::<i32>().value(0), [1, 2]);
    let [(2, reason)] = &decoded.rejects[..] else { panic!("{:?}", decoded.rejects) };
    assert_eq!(reason, "$.money: expected decimal128(38, 2), got a decimal of 17 bytes");
}

fn order(fields: &serde_json::Value) -> serde_json::Value {
    json!({"type": "record", "name": "Order", "fields": fields})
}

fn old() -> serde_json::Value {
    order(&json!([{"name": "id", "type": "int"}]))
}

fn new() -> serde_json::Value {
    order(
        &json!([{"name": "id", "type": "long"}, {"name": "note", "type": ["null", "string"], "default": null}]),
    )
}

fn old_body(id: i32) -> Vec<u8> {
    datum(&old(), &Value::Record(vec![("id".into(), Value::Int(id))]))
}

fn new_body(id: i64, note: Option<&str>) -> Vec<u8> {
    let note = nullable(note.map(|n| Value::String(n.to_owned())));
    datum(&new(), &Value::Record(vec![("id".into(), Value::Long(id)), ("note".into(), note)]))
}

#[test]
fn a_reader_schema_is_what_the_columns_are_whatever_wrote_the_bodies() {
    let by_id: HashMap<u32, serde_json::Value> = [(1, old()), (2, new())].into();
    let lookup = Box::new(move |id| {
        let schema = by_id.get(&id).map(ToString::to_string);
        let schema = schema.ok_or_else(|| LookupError::Unusable { id, why: "is not there".to_owned() })?;
        Ok(Registered { schema, references: Vec::new() })
    });
    let mut avro = Avro::new(Writers::Registry(Registry::new(lookup)), Some(schema(&new())));
    let columns = avro.columns().unwrap();
    let prefixed = |id: u8, body: Vec<u8>| [&[0, 0, 0, 0, id][..], &body].concat();
    let bodies = [
        prefixed(1, old_body(7)),
        prefixed(2, new_body(8, Some("x"))),
        prefixed(9, old_body(9)),
        old_body(9),
        prefixed(2, old_body(10)),
    ];
    let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
    assert_eq!(rows(&decoded.batch), [json!({"id": 7}), json!({"id": 8, "note": "x"})]);
    let reasons: Vec<_> = decoded.rejects.iter().map(|(_, reason)| reason.as_str()).collect();
    assert_eq!(reasons[0], "$: schema 9 is not there");
    assert!(reasons[1].contains("begins with byte 18"), "{reasons:?}");
    assert!(reasons[2].contains("ends before its value does"), "{reasons:?}");
}

#[test]
fn a_registry_is_asked_once_for_an_id_and_what_it_refuses_is_no_reject() {
    let asked = Arc::new(AtomicUsize::new(0));
    let fails: Arc<Mutex<Option<LookupError>>> = Arc::default();
    let (count, failing) = (Arc::clone(&asked), Arc::clone(&fails));
    let lookup = Box::new(move |id| {
        count.fetch_add(1, Ordering::SeqCst);
        match failing.lock().unwrap().take() {
            Some(error) => Err(error),
            None if id == 1 => Ok(Registered { schema: old().to_string(), references: Vec::new() }),
            None => Err(LookupError::Unusable { id, why: "is not there".to_owned() }),
        }
    });
    let mut avro = Avro::new(Writers::Registry(Registry::new(lookup)), None);
    assert!(avro.columns().is_none());
    let body = |id: u8| [&[0, 0, 0, 0, id][..], &old_body(7)].concat();
    let empty: SchemaRef = Arc::new(arrow::datatypes::Schema::empty());
    let columns = avro.widened(&empty, &body(1)).unwrap().unwrap();
    let bodies = [body(1), body(2), body(1), body(2)];
    for _ in 0..3 {
        let decoded = decode(&mut avro, &columns, Unknown::Refuse, &bodies);
        assert_eq!((decoded.batch.num_rows(), decoded.rejects.len()), (2, 2));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    *fails.lock().unwrap() = Some(LookupError::Unavailable("down".to_owned()));
    let third = [body(3)];
    let mut decoder = Decoder::new(columns, Unknown::Refuse).unwrap();
    let failed = decoder.decode(&mut avro, &mut third.iter().map(|b| Some(b.as_slice())));
    assert!(matches!(failed, Err(Error::Lookup(LookupError::Unavailable(_)))));
    let decoded = decoder.decode(&mut avro, &mut third.iter().map(|b| Some(b.as_slice()))).unwrap();
    assert_eq!(decoded.rejects.len(), 1);
}

#[test]
fn fields_and_types_that_the_columns_do_not_have_ask_for_wider_ones() {
    let standing = schema(&old()).columns();
    let bodies = [new_body(1, None), new_body(2, Some("x")), new_body(5_000_000_000, None)];
    for (unknown, fits, wider) in [
        (Unknown::Refuse, vec![], vec![0, 1, 2]),
        // A field that is null shows nothing.
        (Unknown::PassEmpty, vec![1], vec![1, 2]),
        (Unknown::PassOver, vec![1, 2], vec![2]),
    ] {
        let decoded = decode(&mut one(&new()), &standing, unknown, &bodies);
        assert_eq!(decoded.batch.column(0).as_primitive::<Int32Type>().values(), &fits, "{unknown:?}");
        assert_eq!(decoded.wider, wider, "{unknown:?}");
    }
    let wider = one(&new()).widened(&standing, &bodies[0]).unwrap().unwrap();
    let decoded = decode(&mut one(&new()), &wider, Unknown::Refuse, &bodies);
    assert_eq!(decoded.batch.column(0).as_primitive::<Int64Type>().values(), &[1, 2, 5_000_000_000]);
    // Bodies of the old schema fit the wider one as well.
    let decoded = decode(&mut one(&old()), &wider, Unknown::Refuse, &[old_body(9)]);
    assert_eq!(rows(&decoded.batch), [json!({"id": 9})]);
    assert!(widen::covers(&wider, &standing));
}

#[test]
fn names_of_other_schemas_are_resolved() {
    let to =
        json!({"type": "record", "name": "To", "namespace": "a", "fields": [{"name": "x", "type": "int"}]});
    let row = json!({"type": "record", "name": "Row", "namespace": "b", "fields": [
        {"name": "from", "type": "a.To"}, {"name": "to", "type": ["null", "a.To"]},
    ]});
    let parsed = AvroSchema::parse(&row.to_string(), &[to.to_string()]).unwrap();
    let mut avro = Avro::new(Writers::One(Arc::new(parsed)), None);
    let columns = avro.columns().unwrap();
    // x = 1; the second type, x = 2.
    let decoded = decode(&mut avro, &columns, Unknown::Refuse, &[vec![2, 2, 4]]);
    assert_eq!(rows(&decoded.batch), [json!({"from": {"x": 1}, "to": {"x": 2}})]);
}

#[test]
fn schemas_that_no_columns_can_be_are_refused_with_the_reason() {
    let record = |fields: serde_json::Value| order(&fields);
    // Each of these has twice the fields of the one before it.
    let mut bomb = json!({"type": "record", "name": "R0", "fields": [{"name": "a", "type": "int"}]});
    for level in 1..20 {
        let below = format!("R{}", level - 1);
        bomb = json!({"type": "record", "name": format!("R{level}"), "fields": [
            {"name": "a", "type": bomb}, {"name": "b", "type": below},
        ]});
    }
    for (given, expected) in [
        (json!("int"), "it is no record"),
        (json!({"type": "record"}), "no Avro schema"),
        (record(json!([])), "no field"),
        (record(json!([{"name": "next", "type": ["null", "Order"]}])), "`Order` stands in itself"),
        (record(json!([{"name": "a", "type": {"type": "array", "items": "null"}}])), "hold nothing"),
        (
            record(
                json!([{"name": "a", "type": {"type": "fixed", "name": "F", "size": 20, "logicalType": "decimal", "precision": 40}}]),
            ),
            "a decimal of 40 digits",
        ),
        (record(json!([{"name": "a", "type": {"type": "fixed", "name": "F", "size": 0}}])), "no bytes"),
        (
            record(
                json!([{"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["x".repeat(300)]}}]),
            ),
            "a symbol of 300 bytes",
        ),
        (bomb, "more than 4096 fields"),
    ] {
        let error = AvroSchema::parse(&given.to_string(), &[]).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
