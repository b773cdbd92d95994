//! Protobuf bodies into columns: what is encoded is what the columns hold, and what no body can do.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimeUnit, TimestampNanosecondType, UInt64Type};
use arrow::json::LineDelimitedWriter;
use proptest::prelude::*;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, FileDescriptorSet, MessageOptions, OneofDescriptorProto,
};
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use serde_json::json;
use sluice_formats::protobuf::{Decoder, Protobuf};
use sluice_formats::{Decoded, Unknown};

fn field(name: &str, number: i32, kind: Type) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        r#type: Some(kind.into()),
        label: Some(Label::Optional.into()),
        ..FieldDescriptorProto::default()
    }
}

fn message(name: &str, number: i32, of: &str) -> FieldDescriptorProto {
    FieldDescriptorProto { type_name: Some(of.to_owned()), ..field(name, number, Type::Message) }
}

fn repeated(field: FieldDescriptorProto) -> FieldDescriptorProto {
    FieldDescriptorProto { label: Some(Label::Repeated.into()), ..field }
}

fn well_known(name: &str) -> DescriptorProto {
    let field = field("value", 1, Type::String);
    DescriptorProto { name: Some(name.to_owned()), field: vec![field], ..DescriptorProto::default() }
}

/// Messages `Other`, `Event` and `Event.Place` with what Protobuf has, in a file of the package `shop`.
fn descriptors() -> FileDescriptorSet {
    let time = DescriptorProto {
        name: Some("Timestamp".to_owned()),
        field: vec![field("seconds", 1, Type::Int64), field("nanos", 2, Type::Int32)],
        ..DescriptorProto::default()
    };
    let known = |name: &str, messages| FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some("google.protobuf".to_owned()),
        syntax: Some("proto3".to_owned()),
        message_type: messages,
        ..FileDescriptorProto::default()
    };
    let entry = DescriptorProto {
        name: Some("CountsEntry".to_owned()),
        field: vec![field("key", 1, Type::Int32), field("value", 2, Type::String)],
        options: Some(MessageOptions { map_entry: Some(true), ..MessageOptions::default() }),
        ..DescriptorProto::default()
    };
    let place = DescriptorProto {
        name: Some("Place".to_owned()),
        field: vec![field("city", 1, Type::String)],
        ..DescriptorProto::default()
    };
    let value = |name: &str, number| EnumValueDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        ..EnumValueDescriptorProto::default()
    };
    let kind = EnumDescriptorProto {
        name: Some("Kind".to_owned()),
        value: vec![value("UNKNOWN", 0), value("CLICK", 1)],
        ..EnumDescriptorProto::default()
    };
    let in_oneof = |field: FieldDescriptorProto| FieldDescriptorProto { oneof_index: Some(0), ..field };
    let event = DescriptorProto {
        name: Some("Event".to_owned()),
        field: vec![
            field("id", 1, Type::Int64),
            field("size", 2, Type::Uint64),
            FieldDescriptorProto {
                type_name: Some(".shop.Event.Kind".to_owned()),
                ..field("kind", 3, Type::Enum)
            },
            message("at", 4, ".google.protobuf.Timestamp"),
            repeated(field("tags", 5, Type::String)),
            repeated(message("counts", 6, ".shop.Event.CountsEntry")),
            message("place", 7, ".shop.Event.Place"),
            in_oneof(field("name", 8, Type::String)),
            in_oneof(field("number", 9, Type::Sint32)),
            message("label", 10, ".google.protobuf.StringValue"),
            // It stands in itself.
            repeated(message("causes", 11, ".shop.Event")),
        ],
        nested_type: vec![place, entry],
        enum_type: vec![kind],
        oneof_decl: vec![OneofDescriptorProto {
            name: Some("who".to_owned()),
            ..OneofDescriptorProto::default()
        }],
        ..DescriptorProto::default()
    };
    let other = DescriptorProto {
        name: Some("Other".to_owned()),
        field: vec![field("x", 1, Type::Int32)],
        ..DescriptorProto::default()
    };
    let imports = ["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"];
    let file = FileDescriptorProto {
        name: Some("event.proto".to_owned()),
        package: Some("shop".to_owned()),
        syntax: Some("proto3".to_owned()),
        dependency: imports.map(str::to_owned).to_vec(),
        message_type: vec![other, event],
        ..FileDescriptorProto::default()
    };
    FileDescriptorSet {
        file: vec![known(imports[0], vec![time]), known(imports[1], vec![well_known("StringValue")]), file],
    }
}

fn protobuf(name: &str, is_prefixed: bool) -> Protobuf {
    Protobuf::new(&descriptors().encode_to_vec(), name, is_prefixed).unwrap()
}

fn decode(protobuf: &Protobuf, unknown: Unknown, bodies: &[Vec<u8>]) -> Decoded {
    let mut decoder = Decoder::new(protobuf.clone(), protobuf.columns(), unknown).unwrap();
    decoder.decode(&mut bodies.iter().map(|body| Some(body.as_slice()))).unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<serde_json::Value> {
    let mut out = Vec::new();
    let mut writer = LineDelimitedWriter::new(&mut out);
    writer.write(batch).unwrap();
    writer.finish().unwrap();
    let lines = out.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn new_message(name: &str) -> DynamicMessage {
    let pool = DescriptorPool::decode(descriptors().encode_to_vec().as_slice()).unwrap();
    DynamicMessage::new(pool.get_message_by_name(name).unwrap())
}

/// A message, and the JSON of its columns; what has its own test is left out.
fn event() -> impl Strategy<Value = (Vec<u8>, serde_json::Value)> {
    let counts = prop::collection::hash_map(any::<i32>(), ".{0,4}", 0..3);
    let parts = (any::<i64>(), 0..3_i32, prop::collection::vec(".{0,4}", 0..3), counts);
    let optional = (prop::option::of(".{0,4}"), 0..3_u8, any::<i32>(), prop::option::of(".{0,4}"));
    (parts, optional).prop_map(|((id, kind, tags, counts), (city, who, number, label))| {
        let mut event = new_message("shop.Event");
        let mut json = json!({"id": id, "size": 0, "tags": tags, "counts": {}, "causes": []});
        json["kind"] = json!(["UNKNOWN", "CLICK", "2"][usize::try_from(kind).unwrap()]);
        event.set_field_by_name("id", Value::I64(id));
        event.set_field_by_name("kind", Value::EnumNumber(kind));
        event.set_field_by_name("tags", Value::List(tags.into_iter().map(Value::String).collect()));
        for (key, value) in &counts {
            json["counts"][key.to_string()] = json!(value);
        }
        let counts: HashMap<MapKey, Value> =
            counts.into_iter().map(|(k, v)| (MapKey::I32(k), Value::String(v))).collect();
        event.set_field_by_name("counts", Value::Map(counts));
        if let Some(city) = city {
            let mut place = new_message("shop.Event.Place");
            json["place"] = json!({"city": city});
            place.set_field_by_name("city", Value::String(city));
            event.set_field_by_name("place", Value::Message(place));
        }
        if who == 1 {
            json["number"] = json!(number);
            event.set_field_by_name("number", Value::I32(number));
        } else if who == 2 {
            json["name"] = json!("");
            event.set_field_by_name("name", Value::String(String::new()));
        }
        if let Some(label) = label {
            let mut wrapper = new_message("google.protobuf.StringValue");
            json["label"] = json!(label);
            wrapper.set_field_by_name("value", Value::String(label));
            event.set_field_by_name("label", Value::Message(wrapper));
        }
        (event.encode_to_vec(), json)
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_what_the_columns_hold(given in prop::collection::vec(event(), 1..12)) {
        let (bodies, expected): (Vec<_>, Vec<_>) = given.into_iter().unzip();
        let decoded = decode(&protobuf("shop.Event", false), Unknown::Refuse, &bodies);
        prop_assert_eq!(&decoded.rejects, &[]);
        prop_assert_eq!(rows(&decoded.batch), expected);
    }

    #[test]
    fn any_bytes_are_a_row_or_a_reject(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
        for is_prefixed in [false, true] {
            let decoded = decode(&protobuf("shop.Event", is_prefixed), Unknown::PassOver, &bodies);
            prop_assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), bodies.len());
        }
    }
}

#[test]
fn times_wide_numbers_and_messages_in_themselves_have_columns() {
    let protobuf = protobuf("shop.Event", false);
    let columns = protobuf.columns();
    let of = |name: &str| columns.field_with_name(name).unwrap().data_type().clone();
    assert_eq!(of("at"), DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())));
    assert_eq!(of("size"), DataType::UInt64);
    let DataType::List(item) = of("causes") else { panic!("a list") };
    assert_eq!(*item.data_type(), DataType::Binary);
    let with_time = |seconds| {
        let mut time = new_message("google.protobuf.Timestamp");
        time.set_field_by_name("seconds", Value::I64(seconds));
        time.set_field_by_name("nanos", Value::I32(7));
        let mut event = new_message("shop.Event");
        event.set_field_by_name("size", Value::U64(u64::MAX));
        event.set_field_by_name("at", Value::Message(time));
        event.set_field_by_name("causes", Value::List(vec![Value::Message(new_message("shop.Event"))]));
        event.encode_to_vec()
    };
    let decoded =
        decode(&protobuf, Unknown::Refuse, &[with_time(1_357_000_000), with_time(i64::MAX), Vec::new()]);
    let column = |name: &str| decoded.batch.column_by_name(name).unwrap();
    assert_eq!(column("at").as_primitive::<TimestampNanosecondType>().value(0), 1_357_000_000_000_000_007);
    assert_eq!(column("size").as_primitive::<UInt64Type>().value(0), u64::MAX);
    assert_eq!(column("causes").as_list::<i32>().value_length(0), 1);
    // An empty body is a message of nothing but defaults.
    assert!(column("at").is_null(1) && column("id").is_valid(1));
    let [(1, reason)] = &decoded.rejects[..] else { panic!("{:?}", decoded.rejects) };
    assert!(reason.starts_with("$.at: ") && reason.contains("1677 to 2262"), "{reason}");
}

#[test]
fn a_confluent_prefix_names_the_message_by_its_indexes() {
    let body = |indexes: &[u8]| [&[0, 0, 0, 0, 1][..], indexes, &[8, 2]].concat();
    // Indexes as zigzag numbers: a count, then each; 0 alone is the first message.
    for (name, fits) in [("shop.Other", 0), ("shop.Event", 1), ("shop.Event.Place", 9)] {
        let bodies = [body(&[0]), body(&[2, 2]), body(&[2, 8]), body(&[4, 2, 0]), vec![8, 2]];
        let decoded = decode(&protobuf(name, true), Unknown::PassOver, &bodies);
        let rejected: Vec<_> = decoded.rejects.iter().map(|(row, _)| *row).collect();
        let expected: Vec<_> = (0..5).filter(|row| *row != fits).collect();
        if fits < 9 {
            assert_eq!(rejected, expected, "{name}: {:?}", decoded.rejects);
        }
        let reasons: Vec<_> = decoded.rejects.iter().map(|(_, reason)| reason.clone()).collect();
        assert!(reasons.iter().any(|r| r.contains("has no such message")), "{reasons:?}");
        assert!(reasons.iter().any(|r| r.contains("begins with byte 8")), "{reasons:?}");
    }
}

#[test]
fn a_field_that_the_descriptor_set_does_not_have_is_told_or_passed_over() {
    // Field 99 of `Other`.
    let body = vec![8, 2, 0x98, 6, 1];
    let refused = decode(&protobuf("shop.Other", false), Unknown::Refuse, std::slice::from_ref(&body));
    assert!(refused.rejects[0].1.contains("field 99 is not in the descriptor set"), "{:?}", refused.rejects);
    assert_eq!(decode(&protobuf("shop.Other", false), Unknown::PassOver, &[body]).batch.num_rows(), 1);
}

#[test]
fn what_is_no_descriptor_set_or_has_no_such_message_is_refused() {
    let error = |bytes: &[u8], name: &str| Protobuf::new(bytes, name, false).unwrap_err().to_string();
    assert!(error(b"syntax = \"proto3\";", "shop.Event").contains("no descriptor set"));
    let bytes = descriptors().encode_to_vec();
    assert!(error(&bytes, "shop.Evnt").contains("did you mean `shop.Event`?"));
}
