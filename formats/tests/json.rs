//! Bodies into columns: what is inferred, what fits, and what a reject says.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
#![allow(clippy::similar_names, reason = "a decoder decodes")]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sluice_formats::Error;
use sluice_formats::json::{ANY, DEPTH_MAX, Decoded, Decoder, FIELDS_MAX, Inferer, schema_from_fields};

fn inferred(bodies: &[&str]) -> SchemaRef {
    let mut inferer = Inferer::new();
    for body in bodies {
        inferer.add(body.as_bytes()).unwrap();
    }
    assert_eq!(inferer.rows(), bodies.len());
    inferer.schema()
}

fn declared(fields: &[(&str, &str)]) -> Result<SchemaRef, Error> {
    schema_from_fields(&fields.iter().map(|&(n, t)| (n.to_owned(), t.to_owned())).collect::<Vec<_>>())
}

fn decode(schema: &SchemaRef, bodies: &[&[u8]]) -> Decoded {
    let mut decoder = Decoder::new(Arc::clone(schema)).unwrap();
    decoder.decode(&mut bodies.iter().map(|body| Some(*body))).unwrap()
}

/// A type as `schema_from_fields` reads it, with `any` for text that holds every value.
fn written(field: &Field) -> String {
    let of = |field: &Field| format!("{}: {}", field.name(), written(field));
    match field.data_type() {
        DataType::Boolean => "bool".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Utf8 if field.metadata().get(ANY.0).is_some_and(|v| v == ANY.1) => "any".to_owned(),
        DataType::Utf8 => "utf8".to_owned(),
        DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) if &**zone == "UTC" => "timestamp".to_owned(),
        DataType::List(item) => format!("list<{}>", written(item)),
        DataType::Struct(fields) => {
            format!("struct<{}>", fields.iter().map(|f| of(f)).collect::<Vec<_>>().join(", "))
        }
        other => panic!("{other} is not one of ours"),
    }
}

/// A cell as JSON again.
fn cell(field: &Field, array: &ArrayRef, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    match field.data_type() {
        DataType::Boolean => json!(array.as_boolean().value(row)),
        DataType::Int64 => json!(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => json!(array.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => json!(array.as_string::<i32>().value(row)),
        DataType::Timestamp(..) => json!(array.as_primitive::<TimestampMillisecondType>().value(row)),
        DataType::List(item) => {
            let items = array.as_list::<i32>().value(row);
            (0..items.len()).map(|at| cell(item, &items, at)).collect()
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns();
            let cells = fields.iter().zip(columns).map(|(f, c)| (f.name().clone(), cell(f, c, row)));
            Value::Object(cells.collect())
        }
        other => panic!("{other} is not one of ours"),
    }
}

fn rows(decoded: &Decoded) -> Vec<Value> {
    let schema = decoded.batch.schema();
    let row = |row| {
        let cells = schema.fields().iter().zip(decoded.batch.columns());
        Value::Object(cells.map(|(f, c)| (f.name().clone(), cell(f, c, row))).collect())
    };
    (0..decoded.batch.num_rows()).map(row).collect()
}

#[test]
fn the_schema_is_what_all_bodies_have_in_common() {
    let cases: &[(&[&str], &str)] = &[
        (&[r#"{"a":1,"b":true,"c":"x","d":0.5}"#], "a: int64, b: bool, c: utf8, d: float64"),
        (&[r#"{"a":1}"#, r#"{"b":1}"#, r#"{"c":1,"a":2}"#], "a: int64, b: int64, c: int64"),
        (&[r#"{"a":1}"#, r#"{"a":1.5}"#], "a: float64"),
        (&[r#"{"a":1.5}"#, r#"{"a":1}"#], "a: float64"),
        (&[r#"{"a":null}"#], "a: utf8"),
        (&[r#"{"a":null}"#, r#"{"a":true}"#, r#"{"a":null}"#], "a: bool"),
        (&[r#"{"a":"x"}"#, r#"{"a":1}"#], "a: any"),
        (&[r#"{"a":true}"#, r#"{"a":1}"#, r#"{"a":1}"#], "a: any"),
        (&[r#"{"a":{"b":1}}"#, r#"{"a":"x"}"#], "a: any"),
        (&[r#"{"a":{"b":1}}"#, r#"{"a":[1]}"#], "a: any"),
        (&[r#"{"a":[1,2.5,null]}"#], "a: list<float64>"),
        (&[r#"{"a":[]}"#], "a: list<utf8>"),
        (&[r#"{"a":[]}"#, r#"{"a":[[1]]}"#], "a: list<list<int64>>"),
        (&[r#"{"a":[1,"x"]}"#], "a: list<any>"),
        (&[r#"{"a":[{"b":1},{"c":"x"}]}"#], "a: list<struct<b: int64, c: utf8>>"),
        (&[r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{"b":{"d":true}}}"#], "a: struct<b: struct<c: int64, d: bool>>"),
        (&[r#"{"a":{}}"#], "a: any"),
        (&[r#"{"a":{}}"#, r#"{"a":{"b":1}}"#], "a: struct<b: int64>"),
        (&[r#"{"a":9223372036854775807}"#], "a: int64"),
        (&[r#"{"a":18446744073709551615}"#], "a: any"),
        (&[r#"{"a":9223372036854775807}"#, r#"{"a":0.5}"#], "a: any"),
        (&[r"{}"], ""),
    ];
    for (bodies, expected) in cases {
        let schema = inferred(bodies);
        let found: Vec<_> = schema.fields().iter().map(|f| format!("{}: {}", f.name(), written(f))).collect();
        assert_eq!(found.join(", "), *expected, "{bodies:?}");
    }
}

#[test]
fn a_body_that_is_no_row_leaves_the_schema_as_it_was() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    let wide =
        format!("{{{}}}", (0..=FIELDS_MAX).map(|n| format!("\"f{n}\":1")).collect::<Vec<_>>().join(","));
    let cases: &[(&[u8], &str)] = &[
        (b"[1]", "$: expected an object"),
        (b"7", "$: expected an object"),
        (br#"{"b":1,"b":2}"#, "$.b: the key stands twice"),
        (br#"{"b":{"c":[{"d":1,"d":1}]}}"#, "$.b.c[0].d: the key stands twice"),
        (br#"{"b":1} x"#, "trailing characters"),
        (br#"{"b":"#, "EOF"),
        (b"{\"b\":\"\xff\"}", "$: not UTF-8 at byte 6"),
        (deep.as_bytes(), "more than 64 levels deep"),
        (wide.as_bytes(), "more than 4096 fields"),
    ];
    let mut inferer = Inferer::new();
    inferer.add(br#"{"a":1}"#).unwrap();
    for (body, expected) in cases {
        let reason = inferer.add(body).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    }
    assert_eq!((inferer.rows(), inferer.schema()), (1, inferred(&[r#"{"a":1}"#])));
}

#[test]
fn fields_of_many_bodies_together_stay_below_the_limit() {
    let mut inferer = Inferer::new();
    let body = |first: usize| {
        let fields: Vec<_> = (first..first + FIELDS_MAX / 2).map(|n| format!("\"f{n}\":1")).collect();
        format!("{{{}}}", fields.join(","))
    };
    inferer.add(body(0).as_bytes()).unwrap();
    inferer.add(body(FIELDS_MAX / 2).as_bytes()).unwrap();
    inferer.add(body(7).as_bytes()).unwrap();
    assert!(inferer.add(br#"{"one":"more"}"#).unwrap_err().contains("more than 4096 fields"));
    assert_eq!(inferer.schema().fields().len(), FIELDS_MAX);
    Decoder::new(inferer.schema()).unwrap();
}

#[test]
fn rows_that_fit_become_cells_and_a_missing_field_is_null() {
    let schema = declared(&[
        ("b", "bool"),
        ("i", "int64"),
        ("f", "float64"),
        ("s", "utf8"),
        ("t", "timestamp"),
        ("l", "list<int64>"),
        ("o", "struct<x: int64, y: list<utf8>>"),
    ])
    .unwrap();
    let cases = [
        (
            r#"{"b":true,"i":-3,"f":0.1,"s":"é\n\"","t":"1970-01-01T00:00:01.5Z","l":[1,null],"o":{"x":1,"y":["a"]}}"#,
            json!({"b":true,"i":-3,"f":0.1,"s":"é\n\"","t":1500,"l":[1,null],"o":{"x":1,"y":["a"]}}),
        ),
        ("{}", json!({"b":null,"i":null,"f":null,"s":null,"t":null,"l":null,"o":null})),
        (
            r#" {"o":{"y":[]},"l":[],"f":7,"i":1.0,"s":""} "#,
            json!({"b":null,"i":1,"f":7.0,"s":"","t":null,"l":[],"o":{"x":null,"y":[]}}),
        ),
        (
            r#"{"b":null,"i":1e3,"f":-0.0,"s":null,"t":null,"l":null,"o":null}"#,
            json!({"b":null,"i":1000,"f":-0.0,"s":null,"t":null,"l":null,"o":null}),
        ),
        (
            r#"{"\u0069":9223372036854775807,"f":9007199254740992,"o":{}}"#,
            json!({"b":null,"i":i64::MAX,"f":9_007_199_254_740_992.0,"s":null,"t":null,"l":null,"o":{"x":null,"y":null}}),
        ),
    ];
    let bodies: Vec<&[u8]> = cases.iter().map(|(body, _)| body.as_bytes()).collect();
    let decoded = decode(&schema, &bodies);
    assert_eq!(decoded.rejects, []);
    assert_eq!(rows(&decoded), cases.map(|(_, row)| row));
    assert_eq!(decoded.batch.schema(), schema);
}

#[test]
fn a_row_that_does_not_fit_is_a_reject_with_its_path_and_leaves_no_cell_behind() {
    let schema = declared(&[
        ("i", "int64"),
        ("f", "float64"),
        ("s", "utf8"),
        ("t", "timestamp"),
        ("l", "list<struct<x: int64>>"),
        ("o", "struct<x: bool, y: struct<z: utf8>>"),
        ("odd key", "utf8"),
    ])
    .unwrap();
    let long = format!(r#"{{"i":"{}"}}"#, "é".repeat(100));
    let clipped = format!("$.i: expected int64, got \"{}…\"", "é".repeat(64));
    let cases: &[(&[u8], &str)] = &[
        (br#"{"i":"x"}"#, r#"$.i: expected int64, got "x""#),
        (br#"{"i":1.5}"#, "$.i: expected int64, which can't hold 1.5 exactly"),
        (
            br#"{"i":9223372036854775808}"#,
            "$.i: expected int64, which can't hold 9223372036854775808 exactly",
        ),
        (br#"{"i":9007199254740994.0}"#, "$.i: expected int64, which can't hold 9007199254740994 exactly"),
        (br#"{"i":true}"#, "$.i: expected int64, got true"),
        (br#"{"i":[1]}"#, "$.i: expected int64, got a list"),
        (br#"{"i":{"a":1}}"#, "$.i: expected int64, got an object"),
        (br#"{"f":9007199254740993}"#, "$.f: expected float64, which can't hold 9007199254740993 exactly"),
        (br#"{"f":"0.5"}"#, r#"$.f: expected float64, got "0.5""#),
        (br#"{"s":1}"#, "$.s: expected utf8, got 1"),
        (br#"{"t":"2013-01-01"}"#, r#"(RFC 3339, no finer than a millisecond), got "2013-01-01""#),
        (br#"{"t":1}"#, "$.t: expected timestamp, got 1"),
        (br#"{"l":[{"x":1},{"x":2},{"x":"y"}]}"#, r#"$.l[2].x: expected int64, got "y""#),
        (br#"{"l":{"x":1}}"#, "$.l: expected a list, got an object"),
        (br#"{"o":{"x":true,"y":{"z":"a","w":1}}}"#, "$.o.y.w: the schema has no such field"),
        (br#"{"o":{"x":true,"x":true}}"#, "$.o.x: the key stands twice"),
        (br#"{"o":{"y":{"z":5}}}"#, "$.o.y.z: expected utf8, got 5"),
        (br#"{"odd key":5}"#, r#"$["odd key"]: expected utf8, got 5"#),
        (br#"{"i":1,"new":5}"#, "$.new: the schema has no such field"),
        (br#"{"i":1,"i":2}"#, "$.i: the key stands twice"),
        (br#"{"i":null,"i":2}"#, "$.i: the key stands twice"),
        (br#"{"i":1}{}"#, "$: trailing characters"),
        (br#"{"i":1"#, "$: EOF"),
        (br#"{"i":01}"#, "$.i: invalid number"),
        (br#"{"f":1e999}"#, "$.f: number out of range"),
        (b"", "$: EOF"),
        (b"[]", "$: expected an object, got a list"),
        (b"null", "$: expected an object, got null"),
        (b"\"a\"", "$: expected an object, got \"a\""),
        (b"12", "$: expected an object, got 12"),
        (b"{\"s\":\"\xc3\"}", "$: not UTF-8 at byte 6"),
        (br#"{"s":"\ud800"}"#, "$.s: "),
        (long.as_bytes(), &clipped),
    ];
    let good: &[u8] = br#"{"i":1,"l":[{"x":1}],"o":{"x":false,"y":{"z":"a"}},"s":"b"}"#;
    let alone = decode(&schema, &[good, good]);
    for (body, expected) in cases {
        let decoded = decode(&schema, &[good, body, good]);
        let [(1, reason)] = &decoded.rejects[..] else { panic!("{expected}: {:?}", decoded.rejects) };
        assert!(reason.contains(expected), "{reason}\nwas not\n{expected}");
        assert_eq!(decoded.batch, alone.batch, "{expected}");
    }
    // One after the other in one batch, and in a decoder that goes on.
    let mut decoder = Decoder::new(Arc::clone(&schema)).unwrap();
    for _ in 0..2 {
        let bodies = cases.iter().flat_map(|(body, _)| [Some(*body), Some(good)]);
        let decoded = decoder.decode(&mut bodies.into_iter()).unwrap();
        assert_eq!(decoded.rejects.len(), cases.len());
        assert_eq!(rows(&decoded), vec![rows(&alone)[0].clone(); cases.len()]);
    }
}

#[test]
fn integers_beyond_64_bits_are_never_rounded() {
    let (wide, exact) = ("12345678901234567890123", "1180591620717411303424");
    let schema = inferred(&[&format!(
        r#"{{"wide": {wide}, "exact": {exact}, "float": 1e300, "in": {{"list": [1, -{wide}]}}}}"#
    )]);
    let types: Vec<String> = schema.fields().iter().map(|f| written(f)).collect();
    assert_eq!(types, ["any", "float64", "float64", "struct<list: list<any>>"]);
    let body = format!(r#"{{"wide": {wide}, "exact": {exact}, "in": {{"list": [-{wide}]}}}}"#);
    let decoded = decode(&schema, &[body.as_bytes()]);
    assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
    assert_eq!(decoded.batch.column(0).as_string::<i32>().value(0), wide);
    assert_eq!(cell(schema.field(1), decoded.batch.column(1), 0), json!(2f64.powi(70)));

    let schema = declared(&[("a", "float64"), ("b", "list<float64>"), ("c", "int64")]).unwrap();
    let decoded = decode(
        &schema,
        &[
            format!(r#"{{"a": {wide}}}"#).as_bytes(),
            format!(r#"{{"a": 1e300, "b": [1.5, {exact}, null]}}"#).as_bytes(),
            format!(r#"{{"b": [1e300, {wide}]}}"#).as_bytes(),
            br#"{"a": 1e300, "c": "x"}"#,
            br#"{"a": 2.5}"#,
        ],
    );
    let expected = [
        (0, format!("$.a: expected float64, which can't hold {wide} exactly")),
        (2, format!("$.b[1]: expected float64, which can't hold {wide} exactly")),
        (3, "$.c: expected int64, got \"x\"".to_owned()),
    ];
    assert_eq!(decoded.rejects, expected);
    assert_eq!(decoded.batch.num_rows(), 2);
}

#[test]
fn no_body_is_a_reject() {
    let mut decoder = Decoder::new(declared(&[("a", "int64")]).unwrap()).unwrap();
    let decoded = decoder.decode(&mut [None, Some(br#"{"a":1}"#.as_slice()), None].into_iter()).unwrap();
    assert_eq!(decoded.rejects, [(0, "no body".to_owned()), (2, "no body".to_owned())]);
    assert_eq!(rows(&decoded), [json!({"a":1})]);
}

#[test]
fn text_that_holds_every_value_keeps_strings_as_they_are_and_the_rest_as_json() {
    let schema = inferred(&[r#"{"a":1,"l":[1,"x"]}"#, r#"{"a":"x"}"#]);
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(DEPTH_MAX), "]".repeat(DEPTH_MAX));
    let cases = [
        (r#"{"a":007}"#, Err("$.a: ")),
        (r#"{"a":"007"}"#, Ok(json!({"a":"007","l":null}))),
        (
            r#"{"a":1.50,"l":[1,"\u0031",null,{"b": 1}]}"#,
            Ok(json!({"a":"1.50","l":["1","1",null,r#"{"b": 1}"#]})),
        ),
        (r#"{"a":true}"#, Ok(json!({"a":"true","l":null}))),
        (r#"{"a":{"b":["]"]}}"#, Ok(json!({"a":r#"{"b":["]"]}"#,"l":null}))),
        (r#"{"a":null}"#, Ok(json!({"a":null,"l":null}))),
        (&deep, Err("$.a: nested more than 64 levels deep")),
    ];
    for (body, expected) in cases {
        let decoded = decode(&schema, &[body.as_bytes()]);
        match expected {
            Ok(row) => assert_eq!(rows(&decoded), [row], "{:?}", decoded.rejects),
            Err(reason) => assert!(decoded.rejects[0].1.starts_with(reason), "{:?}", decoded.rejects),
        }
    }
}

#[test]
fn a_schema_without_columns_still_counts_its_rows() {
    let decoded = decode(&inferred(&["{}"]), &[b"{}", b"{}", b"{\"a\":1}"]);
    assert_eq!((decoded.batch.num_rows(), decoded.batch.num_columns(), decoded.rejects.len()), (2, 0, 1));
}

#[test]
fn declared_types_are_read_and_others_are_refused_with_the_nearest_one() {
    let schema =
        declared(&[("a", " list < struct< x : int64 , y y:list<utf8>> > "), ("b", "timestamp")]).unwrap();
    assert_eq!(written(schema.field(0)), "list<struct<x: int64, y y: list<utf8>>>");
    assert_eq!(written(schema.field(1)), "timestamp");
    assert!(schema.fields().iter().all(|f| f.is_nullable()));

    let deep = format!("{}int64{}", "list<".repeat(DEPTH_MAX), ">".repeat(DEPTH_MAX));
    let cases = [
        ("string", "type `string` is not known; did you mean `utf8`?"),
        ("Integer", "did you mean `int64`?"),
        ("in64", "did you mean `int64`?"),
        ("flaot64", "did you mean `float64`?"),
        ("timestmp", "did you mean `timestamp`?"),
        ("array<int64>", "did you mean `list<…>`?"),
        ("list<double>", "type `list<double>` is not known; did you mean `float64`?"),
        ("struct<a: list<long>>", "did you mean `int64`?"),
        ("geography", "the types are bool, int64, float64, utf8, timestamp, list<…>, struct<name: …>"),
        ("", "the types are"),
        ("list", "write `list<int64>`"),
        ("list<int64", "write `list<int64>`"),
        ("struct<a>", "write `struct<a: int64, b: utf8>`"),
        ("struct<>", "write `struct<a: int64, b: utf8>`"),
        ("struct<a: int64,>", "write `struct<a: int64, b: utf8>`"),
        ("struct<a: int64, a: utf8>", "`a` stands twice in it"),
        ("int64 utf8", "`utf8` follows the type"),
        ("list<int64>>", "`>` follows the type"),
        (&deep, "levels deep"),
    ];
    for (written, expected) in cases {
        let error = declared(&[("f", written)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{written}: {error}");
    }
    let doubled = declared(&[("a", "int64"), ("a", "utf8")]).unwrap_err();
    assert!(matches!(&doubled, Error::DoubledField { field } if field == "a"), "{doubled}");
}

#[test]
fn schemas_that_json_is_not_decoded_into_are_refused() {
    let list = |item| DataType::List(Arc::new(Field::new("item", item, true)));
    let cases = [
        (Field::new("a", DataType::Int32, true), "column `a`: bodies are not decoded into Int32"),
        (Field::new("a", DataType::Utf8View, true), "Utf8View"),
        (Field::new("a", DataType::Timestamp(TimeUnit::Nanosecond, None), true), "Timestamp"),
        (Field::new("a", DataType::Int64, false), "that may not be null"),
        (Field::new("a", list(DataType::Date32), true), "column `a[]`"),
    ];
    for (field, expected) in cases {
        let error = Decoder::new(Arc::new(Schema::new(vec![field]))).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let many: Vec<_> = (0..=FIELDS_MAX).map(|n| Field::new(format!("f{n}"), DataType::Utf8, true)).collect();
    let error = Decoder::new(Arc::new(Schema::new(many))).err().unwrap();
    assert!(matches!(error, Error::SchemaTooLarge { fields: 4097, .. }), "{error}");
}

/// Values as they come: any JSON, with few names so that they meet.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-100_i64..100).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no NaN", |f| f.is_finite()).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-c]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Whether `cell` holds all of `given`: what is absent may be null, numbers may change their kind, and
/// text stands for what did not agree.
fn holds(field: &Field, cell: &Value, given: &Value) -> bool {
    match (field.data_type(), given) {
        (_, Value::Null) => cell.is_null(),
        (DataType::Utf8, Value::String(_)) => cell == given,
        (DataType::Utf8, _) => {
            let text = cell.as_str().unwrap();
            written(field) == "any" && serde_json::from_str::<Value>(text).unwrap() == *given
        }
        (DataType::Float64, Value::Number(number)) => {
            let float = cell.as_f64().unwrap();
            // An integer must be the same number and not only the nearest float.
            number.as_i64().map_or(Some(float) == number.as_f64(), |i| format!("{float:.0}") == i.to_string())
        }
        (DataType::List(item), Value::Array(values)) => {
            let cells = cell.as_array().unwrap();
            cells.len() == values.len() && cells.iter().zip(values).all(|(c, v)| holds(item, c, v))
        }
        (DataType::Struct(fields), Value::Object(values)) => {
            let known = |name: &str| fields.iter().any(|f| f.name() == name);
            values.keys().all(|name| known(name))
                && fields
                    .iter()
                    .all(|f| holds(f, &cell[f.name()], values.get(f.name()).unwrap_or(&Value::Null)))
        }
        _ => cell == given,
    }
}

proptest! {
    #[test]
    fn rows_that_a_schema_was_inferred_from_lose_nothing(
        given in prop::collection::vec(prop::collection::btree_map("[a-e]", value(), 0..5), 1..8),
    ) {
        let given: Vec<Value> = given.into_iter().map(|m| Value::Object(m.into_iter().collect())).collect();
        let bodies: Vec<String> = given.iter().map(Value::to_string).collect();
        let schema = inferred(&bodies.iter().map(String::as_str).collect::<Vec<_>>());
        let decoded = decode(&schema, &bodies.iter().map(String::as_bytes).collect::<Vec<_>>());
        prop_assert_eq!(&decoded.rejects, &[]);
        let root = Field::new("$", DataType::Struct(schema.fields().clone()), true);
        for (row, given) in rows(&decoded).iter().zip(&given) {
            prop_assert!(holds(&root, row, given), "{row} lost some of {given} under {root}");
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_a_reject(
        bodies in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "[\\[\\]{}:,\"a-c0-9.eE\\\\u -]{0,40}".prop_map(String::into_bytes),
                (value(), 0_usize..60).prop_map(|(value, len)| {
                    let mut text = format!("{{\"a\":{value}}}").into_bytes();
                    text.truncate(len);
                    text
                }),
            ],
            0..12,
        ),
    ) {
        let mut inferer = Inferer::new();
        let taken = bodies.iter().filter(|body| inferer.add(body).is_ok()).count();
        prop_assert_eq!(inferer.rows(), taken);
        for schema in [inferer.schema(), declared(&[("a", "list<int64>"), ("b", "utf8")]).unwrap()] {
            let decoded = decode(&schema, &bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), bodies.len());
        }
    }
}

#[test]
fn a_projecting_decoder_passes_over_fields_that_it_does_not_have() {
    let schema = Arc::new(Schema::new(vec![Field::new("b", DataType::Int64, true)]));
    let bodies: [&[u8]; 4] =
        [br#"{"a":{"b":7},"b":1}"#, br#"{"a":[1]}"#, br#"{"b":2,"c":"x"}"#, br#"{"b":"no"}"#];
    let mut decoder = Decoder::projecting(schema).unwrap();
    let decoded = decoder.decode(&mut bodies.iter().map(|body| Some(*body))).unwrap();
    let expected = Int64Array::from(vec![Some(1), None, Some(2)]);
    assert_eq!(decoded.batch.column(0).as_primitive::<Int64Type>(), &expected);
    assert_eq!(decoded.rejects.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [3]);
}
