//! CSV bodies into columns: what is inferred, what fits, and what a reject says.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use proptest::prelude::*;
use sluice_formats::csv::{Decoder, Inferer, Layout};
use sluice_formats::json::schema_from_fields;
use sluice_formats::{Decoded, Unknown};

fn layout(names: &[&str]) -> Layout {
    Layout::new(names.iter().map(|&n| n.to_owned()).collect(), ';', vec![String::new(), "NA".to_owned()])
        .unwrap()
}

fn inferred(names: &[&str], bodies: &[&str]) -> (Inferer, Vec<String>) {
    let mut inferer = Inferer::new(layout(names));
    let wrong = bodies.iter().filter_map(|body| inferer.add(body.as_bytes()).err()).collect();
    (inferer, wrong)
}

fn decode(names: &[&str], fields: &[(&str, &str)], unknown: Unknown, bodies: &[&str]) -> Decoded {
    let fields: Vec<_> = fields.iter().map(|&(n, t)| (n.to_owned(), t.to_owned())).collect();
    let mut decoder = Decoder::new(layout(names), schema_from_fields(&fields).unwrap(), unknown).unwrap();
    decoder.decode(&mut bodies.iter().map(|body| Some(body.as_bytes()))).unwrap()
}

#[test]
fn a_column_is_what_all_of_its_values_are() {
    let names = ["whole", "number", "zip", "wide", "mixed", "empty", "both"];
    let (inferer, wrong) =
        inferred(&names, &["1;1.5;007;9007199254740993;1;;9007199254740993", "-2;3;1;1;x;NA;0.5\r\n"]);
    assert!(wrong.is_empty(), "{wrong:?}");
    let types: Vec<_> =
        inferer.schema().unwrap().fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Int64", "Float64", "Utf8", "Int64", "Utf8", "Utf8", "Utf8"]);
    assert!(inferred(&names, &["1;2"]).0.schema().is_none(), "no record, no schema");
}

#[test]
fn a_declared_column_takes_its_text_and_says_what_does_not_fit() {
    let fields = [("id", "int64"), ("zip", "utf8"), ("ok", "bool"), ("at", "timestamp"), ("x", "float64")];
    let names = ["id", "zip", "ok", "at", "x"];
    let decoded = decode(
        &names,
        &fields,
        Unknown::Refuse,
        &[
            "1;12345;true;2013-01-01T10:00:00Z;2",
            ";;;NA;",
            "1.5;a;true;;1",
            "2;a;yes;;1",
            "3;a;true;2013;1",
            "4;a;true;;1;9",
            "4;a;true;;nan",
            "5;\"a;true;;1",
            "6;a\n7;b",
            "8;a;false;;9007199254740993",
        ],
    );
    assert_eq!(decoded.batch.num_rows(), 2);
    assert_eq!(decoded.batch.column(1).as_string::<i32>().value(0), "12345");
    assert_eq!(decoded.batch.column(4).as_primitive::<Float64Type>().value(0), 2.0);
    assert!(decoded.batch.columns().iter().all(|column| column.is_null(1)));
    let reasons: Vec<_> = decoded.rejects.iter().map(|(_, reason)| reason.as_str()).collect();
    for (reason, part) in reasons.iter().zip([
        "$.id: expected int64, got \"1.5\"",
        "$.ok: expected bool, got \"yes\"",
        "$.at: expected timestamp, got \"2013\"",
        "6 fields, but the header has 5",
        "$.x: expected float64, got \"nan\"",
        "a quote is never closed",
        "$: ",
        "$.x: expected float64",
    ]) {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!((reasons.len(), decoded.wider.len()), (8, 0));
}

#[test]
fn fields_without_a_column_are_refused_or_passed_over() {
    let bodies = ["1;x", "2;"];
    for (unknown, ids) in
        [(Unknown::Refuse, vec![]), (Unknown::PassEmpty, vec![2]), (Unknown::PassOver, vec![1, 2])]
    {
        let decoded = decode(&["id", "more"], &[("id", "int64")], unknown, &bodies);
        assert_eq!(decoded.batch.column(0).as_primitive::<Int64Type>().values(), &ids, "{unknown:?}");
    }
}

#[test]
fn a_layout_that_splits_nothing_is_refused() {
    let named = |names: &[&str], delimiter| {
        Layout::new(names.iter().map(|&n| n.to_owned()).collect(), delimiter, Vec::new())
            .map_err(|e| e.to_string())
    };
    assert!(named(&[], ',').unwrap_err().contains("0 columns"));
    assert!(named(&["a", "a"], ',').unwrap_err().contains("`a` stands twice"));
    for bad in ['"', '\n', 'é'] {
        assert!(named(&["a"], bad).unwrap_err().contains("one ASCII character"));
    }
}

proptest! {
    #[test]
    fn quoted_text_comes_back_as_it_was(texts in prop::collection::vec("[a-z;\"\n\ré ]{0,8}", 1..6)) {
        let names: Vec<String> = (0..texts.len()).map(|n| format!("c{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let fields: Vec<_> = names.iter().map(|&n| (n, "utf8")).collect();
        let quoted: Vec<_> = texts.iter().map(|t| format!("\"{}\"", t.replace('"', "\"\""))).collect();
        let decoded = decode(&names, &fields, Unknown::Refuse, &[&quoted.join(";")]);
        prop_assert_eq!(&decoded.rejects, &[]);
        for (column, text) in decoded.batch.columns().iter().zip(&texts) {
            let column = column.as_string::<i32>();
            if text.is_empty() {
                prop_assert!(column.is_null(0));
            } else {
                prop_assert_eq!(column.value(0), text);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_a_reject(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..20)) {
        let fields = [("a".to_owned(), "utf8".to_owned()), ("b".to_owned(), "int64".to_owned())];
        let schema = schema_from_fields(&fields).unwrap();
        let mut decoder = Decoder::new(layout(&["a", "b"]), schema, Unknown::Refuse).unwrap();
        let decoded = decoder.decode(&mut bodies.iter().map(|body| Some(body.as_slice()))).unwrap();
        prop_assert_eq!(decoded.batch.num_rows() + decoded.rejects.len(), bodies.len());
        let mut inferer = Inferer::new(layout(&["a", "b"]));
        bodies.iter().for_each(|body| drop(inferer.add(body)));
    }
}
